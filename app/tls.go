package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
)

// certificatePoll is how often the files of certificates are looked at.
const certificatePoll = time.Second

// transport is mTLS with peers on a list, checked once a connection, in the handshake. Whoever
// serves with it runs watch beside it.
func transport(c Config, log *slog.Logger) (credentials.TransportCredentials, *certificates, error) {
	f := &certificates{c: c, log: log}
	f.seen = f.stamp() // before they are read: what changes meanwhile is read again
	first, err := f.load()
	if err != nil {
		return nil, nil, err
	}
	f.current.Store(first)
	creds := credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current.Load(), nil },
	})
	perSecond := func() *rate.Limiter { return rate.NewLimiter(rate.Every(time.Second), 10) }
	return handshakes{creds, log, perSecond(), perSecond()}, f, nil
}

// certificates are the files of mTLS, loaded again when they change: a mesh
// renews them every hour or so. What can't be loaded changes nothing. A handshake takes
// what is current and touches no file: a disk that hangs holds up the renewal alone.
type certificates struct {
	c       Config
	log     *slog.Logger
	current atomic.Pointer[tls.Config]
	refused atomic.Bool // what the files hold now

	// Of watch alone.
	seen    string // what the files looked like when they were last loaded
	problem string // that was logged, and holds
}

// watch loads the files again when they change, until ctx ends.
func (f *certificates) watch(ctx context.Context) {
	every(ctx, certificatePoll, func(time.Time) { f.renew() })
}

func (f *certificates) renew() {
	stamp := f.stamp()
	if stamp == f.seen {
		f.refused.Store(false) // what could not be loaded was taken back
		f.problem = ""
		return
	}
	renewed, err := f.load()
	f.refused.Store(err != nil)
	if err != nil {
		if err.Error() != f.problem {
			f.log.Error("the certificates can't be loaded; those before stay in use", "error", err, "expires", f.expires())
		}
		f.problem = err.Error()
		return
	}
	f.current.Store(renewed)
	f.seen, f.problem = stamp, ""
	f.log.Info("certificates loaded", "expires", f.expires())
}

// expires is when the certificate that is in use does.
func (f *certificates) expires() time.Time { return f.current.Load().Certificates[0].Leaf.NotAfter }

// stamp changes when a file does. Links are followed, so a swapped link counts.
func (f *certificates) stamp() (s string) {
	for _, path := range []string{f.c.TLSCert, f.c.TLSKey, f.c.TLSClientCA} {
		if info, err := os.Stat(path); err != nil {
			s += err.Error()
		} else {
			s += fmt.Sprint(info.Size(), info.ModTime().UnixNano(), " ")
		}
	}
	return s
}

func (f *certificates) load() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(f.c.TLSCert, f.c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls-cert, tls-key: %w; want PEM, the certificate chain in %s and its key in %s", err, f.c.TLSCert, f.c.TLSKey)
	}
	roots, err := authorities("tls-client-ca", f.c.TLSClientCA, "a client's")
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:       tls.VersionTLS12,
		Certificates:     []tls.Certificate{certificate},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        roots,
		VerifyConnection: func(s tls.ConnectionState) error { return checkPeer(s, f.c.Peers) },
	}, nil
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
	log *slog.Logger
	// Who has a certificate of ours and is not listed has lines of its own: anybody can
	// connect and say nothing, and must not hide whose name is worth knowing.
	unlisted, others *rate.Limiter
}

func (h handshakes) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ServerHandshake(conn)
	probe := errors.Is(err, io.EOF) // it only looked whether the port is open
	limit := h.others
	if errors.Is(err, errPeer) {
		limit = h.unlisted
	}
	if err != nil && !probe && limit.Allow() {
		h.log.Warn("a TLS handshake failed, and nobody was let in", "from", conn.RemoteAddr(), "error", err)
	}
	return c, info, err
}

func (h handshakes) Clone() credentials.TransportCredentials {
	h.TransportCredentials = h.TransportCredentials.Clone()
	return h
}

// authorities are the certificates of a PEM file, to which whose have to chain.
func authorities(setting, path, whose string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err != nil {
		return nil, fmt.Errorf("%s: %w; name a file that this user can read", setting, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s holds no PEM certificate; want those that %s must chain to", setting, path, whose)
	}
	return pool, nil
}
