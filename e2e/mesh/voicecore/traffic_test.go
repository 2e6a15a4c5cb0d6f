package voicecore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

// limits: at the gateway and service to service, one user request is one hit.
func (m *mesh) limits(t *testing.T, gateway *lab.Pod) {
	const limit = 20
	key := m.tenant(t, "umbrella", limit)
	if status, _ := m.enter(t, "/", ""); status != http.StatusUnauthorized {
		t.Errorf("a stranger gets %d, want 401", status)
	}
	if status, answer := m.enter(t, "/healthz", "", "X-Tenant-Id", "acme"); status != http.StatusOK || answer.Header.Get("X-Tenant-Id") != "" {
		t.Errorf("an excluded path: status %d, and the service reads tenant %q from a stranger", status, answer.Header.Get("X-Tenant-Id"))
	}
	token := m.token(t, key) // one hit
	for range 5 {
		if status, _ := between(t, gateway, "http://call-service:8080/", token); status != http.StatusOK {
			t.Fatalf("the tenant's call between services: %d", status)
		}
	}
	if got := m.used(t, "umbrella"); got != 1 {
		t.Errorf("one request with five calls behind it counts %d hits, want 1", got)
	}
	seen := map[int]int{}
	for range limit + 9 {
		status, _ := m.enter(t, "/", key)
		seen[status]++
	}
	if want := map[int]int{http.StatusOK: limit - 1, http.StatusTooManyRequests: 10}; !maps.Equal(seen, want) {
		t.Errorf("answers %v, want %v", seen, want)
	}
	if status, _ := between(t, gateway, "http://call-service:8080/", "forged"); status != http.StatusUnauthorized {
		t.Errorf("a forged token gets %d, want 401", status)
	}
}

func (m *mesh) egress(t *testing.T, gateway *lab.Pod) {
	get := func(from *lab.Pod, url string) (int, string) {
		response, err := from.Client().Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	egress := m.Pods(t, "istio-system", "istio=egressgateway", 2)
	address := regexp.MustCompile(`\|\|partner\.example\.net;?::[0-9.]+:80::`)
	for _, p := range egress {
		lab.Until(t, patience, func() error { // each looks for the name by itself, and if it was not there yet, again after a minute
			if clusters := p.Admin(t, "/clusters"); !address.MatchString(clusters) {
				return fmt.Errorf("%s has no address of the listed host", p.Name)
			}
			return nil
		})
	}
	lab.Until(t, patience, func() error {
		if status, body := get(gateway, "http://partner.example.net/"); status != http.StatusOK {
			return fmt.Errorf("the listed host: %d %s", status, body)
		}
		return nil
	})
	_, from := get(gateway, "http://partner.example.net/")
	through := slices.ContainsFunc(egress, func(p *lab.Pod) bool { return p.IP == from })
	if !through {
		t.Errorf("the host was asked from %s, which is no egress gateway", from)
	}
	if status, body := get(gateway, "http://elsewhere.example.net/"); status != http.StatusBadGateway {
		t.Errorf("a host that is not listed: %d %s, want 502", status, body)
	}
	billing := m.Pod(t, apps, "app=billing-service")
	if status, body := get(billing, "http://partner.example.net/"); status != http.StatusForbidden {
		t.Errorf("a service that the host does not list: %d %s, want 403", status, body)
	}
}

// counter sums the counters of a pod's Envoy whose names match.
func counter(t *testing.T, p *lab.Pod, pattern string) (sum int) {
	t.Helper()
	for line := range strings.Lines(p.Admin(t, "/stats?filter="+url.QueryEscape(pattern))) {
		var n int
		if _, value, ok := strings.Cut(line, ": "); ok {
			if _, err := fmt.Sscan(value, &n); err == nil {
				sum += n
			}
		}
	}
	return sum
}

// tries is how many requests for a target a service's programs have seen.
func tries(t *testing.T, target string, pods ...*lab.Pod) (n int) {
	t.Helper()
	for _, p := range pods {
		for line := range strings.Lines(p.Logs(t, "app")) {
			if strings.HasSuffix(strings.TrimSpace(line), " "+target) {
				n++
			}
		}
	}
	return n
}

func send(t *testing.T, from *lab.Pod, method, url, token string) (int, time.Duration) {
	t.Helper()
	request, err := http.NewRequest(method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Sluice-Tenant-Token", token)
	began := time.Now()
	response, err := from.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode, time.Since(began)
}

// retries asks a service that has ten seconds for a try: one that a busy machine cuts might not have reached the service, and would not be counted.
func (m *mesh) retries(t *testing.T, gateway *lab.Pod, key string) {
	token := m.token(t, key)
	analytics := m.Pod(t, apps, "app=analytics-service")
	reaches(t, gateway, "http://analytics-service:8080/", token)
	for method, want := range map[string]int{http.MethodGet: 4, http.MethodPost: 1} {
		target := "/" + method + "?status=503"
		if status, _ := send(t, gateway, method, "http://analytics-service:8080"+target, token); status != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d, want 503", method, status)
		}
		if got := tries(t, target, analytics); got != want {
			t.Errorf("a %s that fails reaches the service %d times, want %d", method, got, want)
		}
	}
}

func (m *mesh) timeouts(t *testing.T, gateway *lab.Pod, key string) {
	token := m.token(t, key)
	billing := m.Pod(t, apps, "app=billing-service")
	for method, repeated := range map[string]bool{http.MethodGet: true, http.MethodPost: false} {
		target := "/late-" + method + "?delay=25s"
		status, took := send(t, gateway, method, "http://billing-service:8080"+target, token)
		if status != http.StatusGatewayTimeout || took >= 25*time.Second {
			t.Errorf("a late %s: status %d after %s, want 504 before the answer came", method, status, took)
		}
		if got := tries(t, target, billing); got > 1 != repeated || got == 0 {
			t.Errorf("a late %s reaches the service %d times", method, got)
		}
	}
}

// answered counts which pods answer n requests.
func answered(t *testing.T, from *lab.Pod, url, token string, n int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		status, answer := between(t, from, url, token)
		if status != http.StatusOK || answer == nil {
			t.Fatalf("%s: status %d", url, status)
		}
		out[answer.Pod]++
	}
	return out
}

func (m *mesh) balancing(t *testing.T, gateway *lab.Pod, key string) {
	token := m.token(t, key)
	m.Pods(t, apps, "app=ai-service", 2)
	turns := answered(t, gateway, "http://ai-service:8080/", token, 40)
	if counts := slices.Collect(maps.Values(turns)); len(counts) != 2 || counts[0] < 18 || counts[0] > 22 {
		t.Errorf("ROUND_ROBIN: %v, want 20 and 20", turns)
	}
	// One pod of the call-service is kept busy: the other gets more of the rest.
	pods := m.Pods(t, apps, "app=call-service", 2)
	lab.Until(t, patience, func() error {
		got, throughout := besideBusy(t, gateway, pods[0], token)
		if !throughout {
			return errors.New("the pod was no longer busy when the last was asked")
		}
		if got[pods[1].Name] <= got[pods[0].Name] {
			t.Errorf("LEAST_REQUEST: %d to the busy pod, %d to the idle one", got[pods[0].Name], got[pods[1].Name])
		}
		return nil
	})
}

// besideBusy counts which pods of the call-service answer while one is kept busy, and says whether it was so throughout.
func besideBusy(t *testing.T, gateway, pod *lab.Pod, token string) (got map[string]int, throughout bool) {
	t.Helper()
	// Two pods are drawn for each request, the same one twice in half of the draws: the busy one gets 30 of 120 requests, and 60 once in a billion runs.
	const holds, n = 25 * time.Second, 120
	target := fmt.Sprintf("/stream/busy?delay=%s&pod=%s", holds, pod.Name) // of streams nobody bounds the time
	began, seen := time.Now(), tries(t, target, pod)
	ctx, free := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	lab.Until(t, patience, func() error {
		held := tries(t, target, pod) - seen
		if held >= 3 {
			return nil
		}
		busy.Go(func() { // if the other one is asked, it answers at once
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://call-service:8080"+target, http.NoBody)
			if err != nil {
				return
			}
			request.Header.Set("X-Sluice-Tenant-Token", token)
			if response, err := gateway.Client().Do(request); err == nil {
				_ = response.Body.Close()
			}
		})
		return fmt.Errorf("%d requests hold it", held)
	})
	got = answered(t, gateway, "http://call-service:8080/?pod=nobody", token, n)
	throughout = time.Since(began) < holds
	free()
	busy.Wait()
	return got, throughout
}

func (m *mesh) canary(t *testing.T, gateway *lab.Pod, key string) {
	const n = 300
	got := answered(t, gateway, "http://crm-service:8080/", m.token(t, key), n)
	canary := 0
	for pod, count := range got {
		if strings.Contains(pod, "-v2-") {
			canary += count
		}
	}
	// Binomial: mean 30, deviation 5.2. Five deviations miss once in a million runs.
	if canary < 4 || canary > 56 {
		t.Errorf("the canary took %d of %d, want about %d", canary, n, n/10)
	}
}

func (m *mesh) breaks(t *testing.T, gateway *lab.Pod, key string) {
	token := m.token(t, key)
	var mu sync.Mutex
	seen := map[int]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			status, _, err := lab.Ask(gateway.Client(), "http://integration-service:8080/?delay=2s", http.Header{"X-Sluice-Tenant-Token": {token}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				seen[status]++
			}
		})
	}
	all.Wait()
	opened := counter(t, gateway, `^cluster\.outbound\|8080\|\|integration-service\..*\.upstream_rq_pending_overflow$`)
	if seen[http.StatusServiceUnavailable] == 0 || seen[http.StatusOK] == 0 || opened == 0 {
		t.Errorf("eight requests at once against a circuit of one: %v, and the counter of refusals is %d", seen, opened)
	}

	pods := m.Pods(t, apps, "app=call-service", 2)
	lab.Until(t, patience, func() error {
		for range 10 {
			send(t, gateway, http.MethodPost, "http://call-service:8080/?status=503&pod="+pods[0].Name, token)
		}
		if n := counter(t, gateway, `^cluster\.outbound\|8080\|\|call-service\..*\.outlier_detection\.ejections_active$`); n != 1 {
			return fmt.Errorf("%d endpoints are taken out", n)
		}
		return nil
	})
	if got := answered(t, gateway, "http://call-service:8080/", token, 20); got[pods[0].Name] != 0 {
		t.Errorf("an endpoint that is taken out gets %d of 20 requests", got[pods[0].Name])
	}
}

func (m *mesh) local(t *testing.T, gateway *lab.Pod, key string) {
	token := m.token(t, key)
	const pods, tokens = 2, 5
	m.Pods(t, apps, "app=tenant-service", pods)
	seen := map[int]int{}
	for range 4 * pods * tokens {
		status, _ := send(t, gateway, http.MethodPost, "http://tenant-service:8080/", token)
		seen[status]++
	}
	if seen[http.StatusOK] != pods*tokens || seen[http.StatusTooManyRequests] != 3*pods*tokens {
		t.Errorf("answers %v, want %d times 200 and %d times 429", seen, pods*tokens, 3*pods*tokens)
	}
}
