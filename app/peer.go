package app

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// peerName names who calls a door, as the transport proved it: the SPIFFE id of
// the client's certificate (which the handshake held against the list), "unix"
// for the socket that only peers can open, "loopback" for plain text on this
// machine. Anything else is nobody, of whom only the address is known.
func peerName(ctx context.Context) (string, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		if tls.SPIFFEID == nil {
			host, _, _ := net.SplitHostPort(p.Addr.String()) //nolint:errcheck // "" then
			return host, false
		}
		return tls.SPIFFEID.String(), true
	}
	switch a := p.Addr.(type) {
	case *net.UnixAddr:
		return "unix", true
	case *net.TCPAddr:
		if !a.IP.IsLoopback() {
			return a.IP.String(), false
		}
		return "loopback", true
	default:
		return "", false
	}
}
