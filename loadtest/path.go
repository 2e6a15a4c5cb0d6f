package loadtest

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// path is what one suite drives.
type path struct {
	*stack.Stack
	dir      string
	expected *expectation
	url      string // where the suite sends
	calls    *calls // a gRPC service behind Envoy; nil for none
	sidecar  string // port of the client's Envoy; "" for none
	probes   int    // requests of ours
	answered int    // of them
	control  *httptest.Server
	shim     *httptest.Server // a defect between the suite and Envoy
}

// patient finds the second that the configurations give sluiced for an answer. A busy machine can take longer to
// wake three processes, and the 503 that follows says nothing of limits.
var patient = regexp.MustCompile(`(?m)^( +(?:message_)?timeout: )1s$`)

// healthTimeout is as patient with a replica's health check: where it is the only one that runs, each request meanwhile would get a 503 at
// once because it stood still for half a second. One that was killed or has ended is known by its closed port.
const healthTimeout = 5 * time.Second

// start starts everything for a job. Logs and results go to dir.
func start(ctx context.Context, o *Options, j job, dir string) (p *path, err error) {
	reference := filepath.Join(o.Root, "loadtest", "catalogue")
	p = &path{dir: dir}
	begun := p // p is nil where an error is returned
	defer func() {
		if err != nil {
			err = errors.Join(err, begun.stop())
		}
	}()
	if p.expected, err = expect(reference); err != nil {
		return nil, err
	}
	p.expected.Wiring, p.expected.Store, p.expected.Replicas = j.wiring, j.store, 1
	so := stack.Options{HealthTimeout: healthTimeout, Sluiced: o.Sluiced, Envoy: o.Envoy, Dir: dir, Data: filepath.Join(dir, "data"), Catalog: filepath.Join(dir, "catalogue"), Workers: 1}
	if err := os.CopyFS(so.Catalog, os.DirFS(reference)); err != nil {
		return nil, err
	}
	if err := p.expected.makeKeys(so.Data, so.Catalog); err != nil {
		return nil, err
	}
	switch j.wiring {
	case "ext_authz":
		so.Config = deploy.Demo
	case "ext_proc":
		so.Config = deploy.ExtProc
	case "rls":
		so.Config = deploy.RLS
		so.RLS = filepath.Join(dir, "descriptors")
		if err := os.MkdirAll(so.RLS, 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(so.RLS, "demo.yaml"), []byte(p.expected.descriptors()), 0o600); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("no wiring %q; one of %v", j.wiring, Wirings)
	}
	so.Config = patient.ReplaceAllString(so.Config, "${1}5s")
	if so.Config, err = withBare(so.Config, j.wiring); err != nil {
		return nil, err
	}
	if j.suite.calls {
		if p.calls, err = startCalls(ctx, o.protos()); err != nil {
			return nil, err
		}
		if so.Config, err = withCalls(so.Config, j.wiring, p.calls.port); err != nil {
			return nil, err
		}
	}
	if j.suite.sidecar {
		if so.Config, p.sidecar, err = withSidecar(so.Config); err != nil {
			return nil, err
		}
	}
	if j.store == "redis" {
		so.RedisServer = o.Redis
		so.Args = append(so.Args, "--redis-timeout", "4s")
		if j.wiring == "ext_authz" || !j.suite.hides {
			so.Replicas, p.expected.Replicas = j.suite.replicas, j.suite.replicas
		}
	}
	if err := j.defect.configure(&so); err != nil {
		return nil, err
	}
	if p.Stack, err = stack.Start(ctx, so); err != nil {
		return nil, err
	}
	if p.url = p.URL; p.sidecar != "" {
		p.url = "http://127.0.0.1:" + p.sidecar
	}
	if p.shim, err = j.defect.start(p); err != nil {
		return nil, err
	}
	if p.shim != nil {
		p.url = p.shim.URL
	}
	p.control = httptest.NewServer(p.controls(ctx))
	return p, p.expected.write(p.limits())
}

func (p *path) limits() string { return filepath.Join(p.dir, "limits.json") }

// stop stops everything.
func (p *path) stop() error {
	for _, s := range []*httptest.Server{p.control, p.shim} {
		if s != nil {
			s.Close()
		}
	}
	if p.calls != nil {
		p.calls.server.Stop()
	}
	if p.Stack == nil {
		return nil
	}
	return p.Stop()
}

// until asks until it is so, or ctx ends.
func until(ctx context.Context, so func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := so()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
