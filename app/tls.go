package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
)

// transport is mTLS with peers on a list, checked once a connection, in the handshake.
func transport(c Config, log *slog.Logger) (credentials.TransportCredentials, error) {
	certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls-cert, tls-key: %w", err)
	}
	pem, err := os.ReadFile(c.TLSClientCA)
	if err != nil {
		return nil, fmt.Errorf("tls-client-ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls-client-ca: %s holds no PEM certificate", c.TLSClientCA)
	}
	creds := credentials.NewTLS(&tls.Config{
		MinVersion:       tls.VersionTLS12,
		Certificates:     []tls.Certificate{certificate},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        roots,
		VerifyConnection: func(s tls.ConnectionState) error { return checkPeer(s, c.Peers) },
	})
	return handshakes{creds, log, rate.NewLimiter(rate.Every(time.Second), 10)}, nil
}

var errPeer = errors.New("the client's certificate names no SPIFFE id on the list of peers, or several")

// checkPeer wants exactly one SPIFFE id, and that one listed (SPIFFE X.509-SVID §5.2).
func checkPeer(s tls.ConnectionState, peers []string) error {
	if len(s.PeerCertificates) == 0 {
		return errPeer
	}
	uris := s.PeerCertificates[0].URIs
	if len(uris) != 1 || !slices.Contains(peers, uris[0].String()) {
		return fmt.Errorf("%w: %.500s", errPeer, fmt.Sprint(uris))
	}
	return nil
}

// handshakes logs those that fail, a line a second at most: a proxy that is not
// on the list sees only a closed connection, and Envoy's statistics say no more.
type handshakes struct {
	credentials.TransportCredentials
	log   *slog.Logger
	limit *rate.Limiter
}

func (h handshakes) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ServerHandshake(conn)
	probe := errors.Is(err, io.EOF) // it only looked whether the port is open
	if err != nil && !probe && h.limit.Allow() {
		h.log.Warn("a TLS handshake failed, and nobody was let in", "from", conn.RemoteAddr(), "error", err)
	}
	return c, info, err
}

func (h handshakes) Clone() credentials.TransportCredentials {
	h.TransportCredentials = h.TransportCredentials.Clone()
	return h
}
