package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// counts is what the path counted itself, but for what we sent.
type counts struct {
	Gateway  int   `json:"gateway"`  // requests that the gateway's listener got
	Upstream int   `json:"upstream"` // requests that came through
	Decided  []int `json:"decided"`  // admitted or limited, by each replica since it started; 0 for one that does not run
	All      int   `json:"all"`      // of Decided
	Used     used  `json:"used"`
}

// used is what all sluiceds have at the moment.
type used struct {
	ResidentMiB int `json:"resident"`
	Goroutines  int `json:"goroutines"`
	Descriptors int `json:"descriptors"`
}

// controls is what a suite may do to the path while it runs. It is spoken to over HTTP, for a script has no other hands.
func (p *path) controls(ctx context.Context) http.Handler {
	var mu sync.Mutex
	mux := http.NewServeMux()
	handle := func(what string, do func(r *http.Request) (any, error)) {
		mux.HandleFunc("POST /"+what, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			said, err := do(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("content-type", "application/json")
			_ = json.NewEncoder(w).Encode(said)
		})
	}
	handle("kill", func(*http.Request) (any, error) { return "killed", p.Kill() })
	handle("start", func(*http.Request) (any, error) { return "started", p.StartSluiced(ctx) })
	handle("scale", func(r *http.Request) (any, error) {
		n, err := strconv.Atoi(r.FormValue("replicas"))
		if err != nil || n < 1 || n > len(p.Replicas) {
			return nil, fmt.Errorf("replicas=%q: want 1 to %d", r.FormValue("replicas"), len(p.Replicas))
		}
		return n, p.scale(ctx, n)
	})
	handle("counts", func(*http.Request) (any, error) { return p.counts(ctx) })
	return mux
}

// scale lets the first n replicas run and no other, and returns when Envoy knows and answers at once. For a second
// after a replica ended (the update_merge_window of its cluster) Envoy still tries it, and where it may not ask another the answer is 503.
func (p *path) scale(ctx context.Context, n int) error {
	for i, r := range p.Replicas {
		switch {
		case i < n && !r.Running():
			if err := r.Start(ctx); err != nil {
				return err
			}
		case i >= n && r.Running():
			ended, err := r.Terminate()
			if err != nil {
				return err
			}
			if err := <-ended; err != nil {
				return fmt.Errorf("replica %d did not end cleanly: %w", i, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	prompt := 0
	return until(ctx, func() (bool, error) {
		began := time.Now()
		answered, err := p.probe(ctx)
		if err != nil {
			return false, err
		}
		if prompt++; !answered || time.Since(began) > 200*time.Millisecond {
			prompt = 0
		}
		healthy, err := sum(ctx, p.EnvoyAdmin+"/stats?filter=^cluster.sluice.membership_healthy$", "cluster.sluice.membership_healthy: ")
		return healthy == n && prompt > 3*n, err
	})
}

// probe sends a request of nobody that there is a limit for, and tells whether somebody decided it.
func (p *path) probe(ctx context.Context) (answered bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return false, err
	}
	request.Header.Set("X-User", "probe")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	p.probes++
	if answered = response.StatusCode != http.StatusServiceUnavailable; answered {
		p.answered++
	}
	return answered, response.Body.Close()
}

// decisions are the series that count what was decided for a tenant.
var decisions = map[string][]string{
	"ext_authz": {`sluice_decisions_total{reason="admitted"} `, `sluice_decisions_total{reason="over_limit"} `},
	"ext_proc":  {`sluice_decisions_total{reason="admitted"} `, `sluice_decisions_total{reason="over_limit"} `},
	"rls":       {`sluice_rls_calls_total{result="ok"} `, `sluice_rls_calls_total{result="over_limit"} `},
}

func (p *path) counts(ctx context.Context) (c counts, err error) {
	if c.Gateway, err = sum(ctx, p.EnvoyAdmin+"/stats?filter=^http.gateway.downstream_rq_total$", "http.gateway.downstream_rq_total: "); err != nil {
		return c, err
	}
	if c.Upstream = p.Upstream.Served(); p.calls != nil {
		c.Upstream += int(p.calls.served.Load())
	}
	resident := 0
	for _, r := range p.Replicas {
		decided := 0
		if r.Running() {
			totals, err := sums(ctx, r.HTTP+"/metrics", append([]string{"process_resident_memory_bytes ", "go_goroutines ", "process_open_fds "}, decisions[p.expected.Wiring]...)...)
			if err != nil {
				return c, err
			}
			resident += totals[0]
			c.Used.Goroutines += totals[1]
			c.Used.Descriptors += totals[2]
			decided = totals[3] + totals[4]
		}
		c.Decided = append(c.Decided, decided)
		c.All += decided
	}
	c.Used.ResidentMiB = resident >> 20
	c.Gateway -= p.probes
	if p.expected.Wiring == "rls" { // which knows no strangers
		c.Upstream -= p.answered
		c.All -= p.answered
	}
	return c, nil
}

// sum adds the last fields of all lines that begin so.
func sum(ctx context.Context, url, prefix string) (int, error) {
	totals, err := sums(ctx, url, prefix)
	return totals[0], err
}

// sums adds the last fields of all lines that begin so, by prefix.
func sums(ctx context.Context, url string, prefixes ...string) ([]int, error) {
	totals := make([]int, len(prefixes))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return totals, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return totals, err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(io.LimitReader(response.Body, 16<<20))
	for lines.Scan() {
		for i, prefix := range prefixes {
			if !strings.HasPrefix(lines.Text(), prefix) {
				continue
			}
			fields := strings.Fields(lines.Text())
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return totals, fmt.Errorf("%s: %w", url, err)
			}
			totals[i] += int(n)
		}
	}
	return totals, lines.Err()
}
