package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/voicecore-ai/sluice/cli/stack"
)

// defect is something wrong outside of sluiced, by which suites show that they can fail. Either it is in what is
// configured, or it stands between the suite and Envoy.
type defect struct {
	name  string
	says  string
	about []string // suites that must be red, also where answers are so late that bounds are wide
	only  string   // the one suite whose path has what is broken; "" for all
	set   func(o *stack.Options) error
	shim  func(p *path, next http.Handler) http.Handler
}

var defects = []defect{
	{
		name: "off", says: "the limiter is switched off", set: off,
		about: []string{"smoke", "over", "burst", "isolation", "refill", "headers", "retries", "failure", "overhead", "scale-out", "soak", "grpc"},
	},
	{
		name: "doubled", says: "limits are twice as high", set: func(o *stack.Options) error { return errors.Join(double(o.Catalog), double(o.RLS)) },
		about: []string{"smoke", "over", "burst", "isolation", "refill", "headers", "retries", "failure", "scale-out", "soak", "grpc"},
	},
	{
		name: "one-tenant", says: "limits ignore the tenant", shim: oneTenant,
		about: []string{"smoke", "under", "over", "isolation", "headers", "failure", "scale-out", "soak", "grpc"},
	},
	{name: "lying", says: "headers lie", shim: lying, about: []string{"headers", "refill"}},
	{name: "late", says: "a refill comes late", shim: late, about: []string{"refill"}},
	{
		name: "retried", says: "the sidecar retries refusals", set: replaceInConfig("retriable_status_codes: [503]", "retriable_status_codes: [503, 429]"),
		about: []string{"retries"}, only: "retries",
	},
	{
		name: "open", says: "the filter admits when nobody answers", set: replaceInConfig("failure_mode_allow: false", "failure_mode_allow: true"),
		about: []string{"failure"},
	},
	{name: "apart", says: "each replica counts for itself", set: apart, about: []string{"scale-out"}, only: "scale-out"},
	{name: "leaking", says: "requests leave connections open at sluiced", shim: leaking, about: []string{"soak"}, only: "soak"},
	{name: "slow", says: "the question takes four tenths of a second", shim: slow, about: []string{"overhead"}},
}

// concerns reports whether the suite must be red.
func (d *defect) concerns(suite string) bool { return slices.Contains(d.about, suite) }

// configure changes what is started.
func (d *defect) configure(o *stack.Options) error {
	if d == nil || d.set == nil {
		return nil
	}
	if err := d.set(o); err != nil {
		return fmt.Errorf("defect %s: %w", d.name, err)
	}
	return nil
}

// start starts what stands before Envoy; nil if nothing does.
func (d *defect) start(p *path) (*httptest.Server, error) {
	if d == nil || d.shim == nil {
		return nil, nil
	}
	target, err := url.Parse(p.url)
	if err != nil {
		return nil, err
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = asItCame{http1: &http.Transport{MaxIdleConnsPerHost: 256}, http2: &http.Transport{Protocols: protocols(false, true)}}
	shim := httptest.NewUnstartedServer(d.shim(p, proxy))
	shim.Config.Protocols = protocols(true, true)
	shim.Start()
	return shim, nil
}

func protocols(http1, http2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetUnencryptedHTTP2(http2)
	return p
}

// asItCame sends what came over HTTP/2, as gRPC does, over HTTP/2.
type asItCame struct{ http1, http2 *http.Transport }

// RoundTrip implements http.RoundTripper.
func (a asItCame) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Content-Type") == "application/grpc" {
		return a.http2.RoundTrip(r)
	}
	return a.http1.RoundTrip(r)
}

var asking = regexp.MustCompile(` +- name: envoy\.filters\.http\.(?:ext_authz|ext_proc|ratelimit)\n`)

// off disables the filter that asks.
func off(o *stack.Options) error {
	filters := asking.FindAllString(o.Config, -1)
	if len(filters) != 1 {
		return fmt.Errorf("configuration of Envoy: has filters %q, want one that asks", filters)
	}
	return replaceInConfig(filters[0], filters[0]+"                    disabled: true\n")(o)
}

func replaceInConfig(old, replacement string) func(*stack.Options) error {
	return func(o *stack.Options) (err error) {
		o.Config, err = change(o.Config, old, replacement)
		return err
	}
}

const apartScript = `#!/bin/sh
real=%q
[ "$1" = serve ] || exec "$real" "$@"
for word; do
	[ "$before" != --redis-url ] || url=$word
	before=$word
done
"$real" migrate --redis-url "$url" --redis-prefix "apart-$$:" && exec "$real" "$@" --redis-prefix "apart-$$:"
`

// apart gives each replica names of its own in Redis.
func apart(o *stack.Options) error {
	real, err := filepath.Abs(o.Sluiced)
	if err != nil {
		return err
	}
	o.Sluiced = filepath.Join(o.Dir, "sluiced-apart")
	script := fmt.Sprintf(apartScript, real)
	return os.WriteFile(o.Sluiced, []byte(script), 0o700) //nolint:gosec // a program
}

const keyHeader, userHeader = "X-Api-Key", "X-User"

// oneTenant makes every known caller the same.
func oneTenant(p *path, next http.Handler) http.Handler {
	known := map[string]bool{}
	for _, tenant := range p.expected.Tenants {
		known[tenant.Key] = true
	}
	one := p.expected.Tenants["smooth-1"].Key
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if known[r.Header.Get(keyHeader)] {
			r.Header.Set(keyHeader, one)
		}
		if p.expected.Tenants[r.Header.Get(userHeader)] != nil {
			r.Header.Set(userHeader, "smooth-1")
		}
		next.ServeHTTP(w, r)
	})
}

// answer is a response that has not been sent.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

func record(next http.Handler, r *http.Request) *answer {
	a := &answer{status: http.StatusOK, header: http.Header{}}
	next.ServeHTTP(a, r)
	return a
}

func (a *answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = io.Copy(w, bytes.NewReader(a.body.Bytes()))
}

var left = regexp.MustCompile(`;r=\d+`)

// lying says that as much is left as ever, and that it is never long.
func lying(_ *path, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := record(next, r)
		a.header.Set("Ratelimit", left.ReplaceAllString(a.header.Get("Ratelimit"), ";r=7"))
		if a.status == http.StatusTooManyRequests {
			a.header.Set("Retry-After", "1")
		}
		a.send(w)
	})
}

// behind is how much later than it says a refill comes.
const behind = 1500 * time.Millisecond

// late repeats a refusal until some time after the caller was told to come back.
func late(_ *path, next http.Handler) http.Handler {
	type refusal struct {
		*answer
		until time.Time
	}
	var mu sync.Mutex
	last := map[string]refusal{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(keyHeader)
		mu.Lock()
		held := last[key]
		mu.Unlock()
		if time.Now().Before(held.until) {
			held.send(w)
			return
		}
		a := record(next, r)
		if a.status == http.StatusTooManyRequests {
			seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
			mu.Lock()
			last[key] = refusal{a, time.Now().Add(time.Duration(seconds)*time.Second + behind)}
			mu.Unlock()
		}
		a.send(w)
	})
}

// slow waits where the filter would ask.
func slow(_ *path, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/bare") {
			select {
			case <-time.After(400 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		next.ServeHTTP(w, r)
	})
}

// leaking lets one request in ten open a connection to sluiced, which lasts as long as the path.
func leaking(p *path, next http.Handler) http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%10 == 0 {
			p.leak()
		}
		next.ServeHTTP(w, r)
	})
}

// leak opens a connection with a call on it that has no end.
func (p *path) leak() {
	conn, err := grpc.NewClient(p.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return // the suite will not be red
	}
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
		for err == nil {
			_, err = watch.Recv()
		}
		_ = conn.Close()
	}()
}
