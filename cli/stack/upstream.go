package stack

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/voicecore-ai/sluice/tenant"
)

// Upstream is the service behind Envoy: it answers 200, counts, and remembers the
// headers of the newest request, so that a test sees what an upstream would.
type Upstream struct {
	port   string
	server *http.Server

	mu      sync.Mutex
	headers http.Header
	served  int
}

func startUpstream() (*Upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &Upstream{}
	_, u.port, _ = net.SplitHostPort(l.Addr().String())
	// Longer than the hour for which Envoy keeps a connection: who ends one that Envoy is about to use costs a request.
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: 2 * time.Hour}
	go u.server.Serve(l) //nolint:errcheck // ends by Close
	return u, nil
}

// ServeHTTP answers "hello <tenant>".
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.headers = r.Header.Clone()
	u.served++
	u.mu.Unlock()
	w.Header().Set("content-type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("hello " + r.Header.Get(tenant.Header) + "\n")) //nolint:gosec // plain text
}

// Headers are those of the newest request.
func (u *Upstream) Headers() http.Header {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.headers.Clone()
}

// Served is how many requests have come.
func (u *Upstream) Served() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.served
}
