package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// What a client may do to the server: grpc-go's own defaults are 16 MiB of
// headers, unlimited streams and connections that live for ever.
const (
	maxHeaderList = 64 << 10
	maxMessage    = 1 << 20
	maxStreams    = 10_000
)

// streamWorkers is how many goroutines wait for calls with a stack that has
// grown already. A call that finds none gets a new goroutine, and growing its
// stack was a quarter of the server's CPU with one worker a core.
const streamWorkers = 64

func grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: 5 * time.Minute,
			Time:                  30 * time.Second,
			Timeout:               10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
	}
}

// transport is mTLS with peers on a list, checked once a connection, in the handshake.
func transport(c Config) (credentials.TransportCredentials, error) {
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
	return credentials.NewTLS(&tls.Config{
		MinVersion:       tls.VersionTLS12,
		Certificates:     []tls.Certificate{certificate},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        roots,
		VerifyConnection: func(s tls.ConnectionState) error { return checkPeer(s, c.Peers) },
	}), nil
}

var errPeer = errors.New("the client's certificate names no SPIFFE id on the list of peers")

// checkPeer wants exactly one SPIFFE id, and that one listed (SPIFFE X.509-SVID §5.2).
func checkPeer(s tls.ConnectionState, peers []string) error {
	if len(s.PeerCertificates) == 0 || len(s.PeerCertificates[0].URIs) != 1 {
		return errPeer
	}
	if !slices.Contains(peers, s.PeerCertificates[0].URIs[0].String()) {
		return errPeer
	}
	return nil
}
