package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	descriptorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/tenant"
)

const (
	mostSeries = 2000        // of a family, as docs/reference/metrics.md says
	mark       = "zq7caller" // in everything that a caller makes up
	ownSeries  = 100         // tenants that may have them, at most
	crowdPlans = 700         // with a limit each: more than have series
	scrapes    = 20
)

// crowd is a server whose catalogue has so many tenants, each with a workload. The first hundred have as many limits as
// a tenant can have.
func crowd(t *testing.T, tenants int) *world {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	if _, err := app.Init(data); err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(catalog.Options{DB: filepath.Join(data, "catalog.db")}) // the quota API would take one at a time
	if err != nil {
		t.Fatal(err)
	}
	durable := false // else a stop writes down a counter of each tenant
	err = c.Update(func(e *catalog.Edit) error {
		e.Rules.Put(authz.Rule{Name: everything, Effect: "allow"})
		full := quota.Plan{Name: "full"}
		for i := range quota.MaxLimitsPerTenant {
			full.Limits = append(full.Limits, quota.Limit{Name: fmt.Sprintf("l%d", i), Algorithm: fixed, Limit: 100, Window: time.Hour, Durable: &durable})
		}
		e.Plans.Put(full)
		for i := range crowdPlans {
			e.Plans.Put(quota.Plan{Name: fmt.Sprintf("p%d", i), Limits: []quota.Limit{{Name: "hour", Algorithm: fixed, Limit: 100, Window: time.Hour, Durable: &durable}}})
		}
		for i := range tenants {
			plan := full.Name
			if i >= ownSeries {
				plan = fmt.Sprintf("p%d", i%crowdPlans)
			}
			e.Tenants.Put(quota.Tenant{ID: tenant.ID(fmt.Sprintf("t%d", i)), Plan: plan, Principals: []string{workload(i)}})
		}
		return nil
	}, false)
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	descriptors := t.TempDir()
	const file = "domain: crowd\ndescriptors:\n  - {key: tenant, rate_limit: {unit: hour, requests_per_unit: 100, durable: false}}\n"
	if err := os.WriteFile(filepath.Join(descriptors, "crowd.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	return alone(t, stack.Options{Data: data, RLS: descriptors, Args: []string{"--metrics-tenants", fmt.Sprint(ownSeries), "--otlp-endpoint", nobody.Addr().String()}})
}

func workload(i int) string { return fmt.Sprintf("spiffe://mesh/ns/t%d/sa/app", i) }

// made is text that nobody sent before, as a caller may make it up.
func made(i int, what string) string { return fmt.Sprintf("%s-%s-%d", mark, what, i) }

// question is what Envoy asks about a request of the tenant's workload, whose headers, path and trace the caller made up.
func question(i int) *authv3.CheckRequest {
	var headers []*corev3.HeaderValue
	for _, h := range [][2]string{
		{":method", "GET"}, {":path", "/" + made(i, "path")}, {":authority", made(i, "host") + ".example.com"}, {"user-agent", made(i, "agent")},
		{"x-request-id", made(i, "id")}, {"x-tenant-id", made(i, "tenant")}, {"x-" + made(i, "name"), made(i, "value")}, {"baggage", "tenant.id=" + made(i, "baggage")},
		{"traceparent", fmt.Sprintf("00-%032x-%016x-01", i+1, i+1)},
	} {
		headers = append(headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: workload(i)},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: strconv.Itoa(i), Method: "GET", Path: "/" + made(i, "path"), Host: made(i, "host") + ".example.com", HeaderMap: &corev3.HeaderMap{Headers: headers},
		}},
	}}
}

// each calls ask for all of n, some at once, until one fails.
func each(t *testing.T, n int, ask func(ctx context.Context, i int) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := ask(ctx, i); err != nil {
					cancel(fmt.Errorf("%d of %d: %w", i, n, err))
				}
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
}

// rush makes every tenant ask once, and strangers at each door: one of twenty with an API key, RLS with as many values as there
// are tenants, and the access log with one of twenty.
func (w *world) rush(t *testing.T, tenants int) {
	t.Helper()
	authorization, limits := authv3.NewAuthorizationClient(w.conn), rlsv3.NewRateLimitServiceClient(w.conn)
	each(t, tenants, func(ctx context.Context, i int) error {
		if i%10 == 0 {
			ctx = traceparent(ctx, fmt.Sprintf("%032x", i+1), sampledParent, "01")
		}
		answer, err := authorization.Check(ctx, question(i))
		if err == nil && answer.GetOkResponse() == nil {
			err = fmt.Errorf("%v", answer)
		}
		return err
	})
	each(t, tenants/20, func(ctx context.Context, i int) error {
		answer, err := check(ctx, w.conn, "slk_"+made(i, "key"), "x-"+made(i, "name"), made(i, "value"))
		if err == nil && answer.GetDeniedResponse() == nil {
			err = fmt.Errorf("%v", answer)
		}
		return err
	})
	const descriptors = 50
	each(t, tenants/descriptors, func(ctx context.Context, i int) error {
		request := &rlsv3.RateLimitRequest{Domain: "crowd"}
		if i%10 == 0 {
			request.Domain = made(i, "domain")
		}
		for j := range descriptors {
			request.Descriptors = append(request.Descriptors, &descriptorv3.RateLimitDescriptor{Entries: []*descriptorv3.RateLimitDescriptor_Entry{
				{Key: "tenant", Value: made(i*descriptors+j, "value")},
			}})
		}
		answer, err := limits.ShouldRateLimit(ctx, request)
		if err == nil && answer.GetOverallCode() != rlsv3.RateLimitResponse_OK {
			err = fmt.Errorf("%v", answer)
		}
		return err
	})
	log, err := accesslogv3.NewAccessLogServiceClient(w.conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range tenants / 1000 {
		var entries []*alsdatav3.HTTPAccessLogEntry
		for j := range 50 {
			at := i*50 + j
			entries = append(entries, &alsdatav3.HTTPAccessLogEntry{
				CommonProperties: &alsdatav3.AccessLogCommon{UpstreamCluster: made(at, "cluster"), RouteName: made(at, "route")},
				Request:          &alsdatav3.HTTPRequestProperties{Path: "/" + made(at, "path"), UserAgent: made(at, "agent")},
			})
		}
		if err := log.Send(&accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.CloseAndRecv(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

var (
	familyType = regexp.MustCompile(`(?m)^# TYPE (\w+) (\w+)$`)
	partOfIt   = regexp.MustCompile(`_(?:bucket|sum|count|total|created|info)$`)
)

// scrape is the page as Prometheus asks for it, and how many series each family has there; a bucket is one.
func (w *world) scrape(t *testing.T) (page string, count map[string]int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.HTTP+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("accept", "application/openmetrics-text;version=1.0.0")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	page = string(text)
	types := map[string]bool{}
	for _, m := range familyType.FindAllStringSubmatch(page, -1) {
		types[m[1]] = true
	}
	count = map[string]int{}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name := line[:strings.IndexAny(line, "{ ")]
		if !types[name] {
			if name = partOfIt.ReplaceAllString(name, ""); !types[name] {
				t.Fatalf("a series of no family: %s", line)
			}
		}
		count[name]++
	}
	return page, count
}

// ran is what all threads of a process have run.
func ran(t *testing.T, pid int) (total time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d has no schedstat in /proc: %v", pid, err)
	}
	for _, path := range threads {
		var ns int64
		if text, err := os.ReadFile(path); err == nil { // else the thread has ended
			_, _ = fmt.Sscan(string(text), &ns)
		}
		total += time.Duration(ns)
	}
	return total
}

// SLUICE_TENANTS says how many: 'make bench-series' takes a million.
func TestT04SeriesAreBoundedWhateverTenantsAndHeadersCome(t *testing.T) {
	tenants := 20_000
	if text := os.Getenv("SLUICE_TENANTS"); text != "" {
		var err error
		if tenants, err = strconv.Atoi(text); err != nil || tenants < 2000 {
			t.Fatalf("SLUICE_TENANTS=%s: a number, at least 2000", text)
		}
	}
	w := crowd(t, tenants)
	_, before := w.scrape(t)
	w.rush(t, tenants)
	page, count := w.scrape(t)
	t.Run("T-04 no family has more than 2,000 series", func(t *testing.T) {
		families := make([]string, 0, len(count))
		for family, n := range count {
			if families = append(families, family); n > mostSeries {
				t.Errorf("%s has %d series", family, n)
			}
		}
		slices.SortFunc(families, func(a, b string) int { return count[b] - count[a] })
		for _, family := range families[:10] {
			t.Logf("%5d series of %s, %d before", count[family], family, before[family])
		}
		// Else the tenants did not reach what is bounded.
		if n := count["sluice_tenant_limit_remaining_ratio"]; n < ownSeries {
			t.Errorf("what tenants have left are %d series", n)
		}
	})
	t.Run("T-04 nothing that a caller made up is in a label", func(t *testing.T) {
		if at := strings.Index(page, mark); at >= 0 {
			t.Errorf("…%s…", page[max(0, at-200):min(len(page), at+100)])
		}
	})
	t.Run("T-04 each request is counted all the same", func(t *testing.T) {
		sum := 0
		for _, m := range regexp.MustCompile(`(?m)^sluice_tenant_requests_total\{.*outcome="(?:allowed|denied)".*\} (\S+)$`).FindAllStringSubmatch(page, -1) {
			n, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += int(n)
		}
		if want := tenants + tenants/20; sum != want {
			t.Errorf("%d are counted, want %d", sum, want)
		}
	})
	took := make([]time.Duration, scrapes)
	for i := range took {
		began := ran(t, w.Sluiced().Pid)
		w.scrape(t)
		took[i] = ran(t, w.Sluiced().Pid) - began
	}
	slices.Sort(took)
	t.Logf("%d tenants: CPU of a scrape (%d KiB): %v, the worst of %d %v", tenants, len(page)>>10, took[scrapes/2], scrapes, took[scrapes-1])
}
