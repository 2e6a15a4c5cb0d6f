package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// counts is what the path counted itself.
type counts struct {
	Gateway     int     `json:"gateway"`     // requests that the gateway's listener got
	Upstream    int     `json:"upstream"`    // requests that came through
	Decided     []int   `json:"decided"`     // by each replica since it started; 0 for one that does not run
	ResidentMiB float64 `json:"residentMiB"` // of the first replica
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
// after a replica ended, requests that Envoy tries there first take most of that second.
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
		if _, err := sum(ctx, p.URL, ""); err != nil { // refused, for it says not who asks
			return false, err
		}
		if prompt++; time.Since(began) > 200*time.Millisecond {
			prompt = 0
		}
		healthy, err := sum(ctx, p.EnvoyAdmin+"/stats?filter=^cluster.sluice.membership_healthy$", "cluster.sluice.membership_healthy: ")
		return healthy == n && prompt > 3*n, err
	})
}

func (p *path) counts(ctx context.Context) (c counts, err error) {
	if c.Gateway, err = sum(ctx, p.EnvoyAdmin+"/stats?filter=^http.gateway.downstream_rq_total$", "http.gateway.downstream_rq_total: "); err != nil {
		return c, err
	}
	c.Upstream = p.Upstream.Served()
	for _, r := range p.Replicas {
		decided := 0
		if r.Running() {
			if decided, err = sum(ctx, r.HTTP+"/metrics", "sluice_decisions_total{"); err != nil {
				return c, err
			}
		}
		c.Decided = append(c.Decided, decided)
	}
	if first := p.Replicas[0]; first.Running() {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", first.Process().Pid))
		if err != nil {
			return c, err
		}
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			pages, _ := strconv.Atoi(fields[1])
			c.ResidentMiB = float64(pages) * float64(os.Getpagesize()) / (1 << 20)
		}
	}
	return c, nil
}

// sum adds the last fields of all lines that begin so.
func sum(ctx context.Context, url, prefix string) (total int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(io.LimitReader(response.Body, 16<<20))
	for lines.Scan() {
		if prefix != "" && strings.HasPrefix(lines.Text(), prefix) {
			fields := strings.Fields(lines.Text())
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", url, err)
			}
			total += int(n)
		}
	}
	return total, lines.Err()
}
