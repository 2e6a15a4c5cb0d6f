package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/tenant"
)

func TestT01ParentAndLink(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	c := startCollector(t)
	w := alone(t, stack.Options{Args: []string{"--otlp-endpoint", c.address, "--audit-anonymous-rate", "1000"}})
	for _, at := range []struct{ name, metadata, http, parent, link string }{
		{"T-01 Envoy's context in the metadata alone is the parent", sampledTrace, "", sampledTrace, ""},
		{"T-01 a request's own header alone starts nothing", "", clientTrace, "", ""},
		{"T-01 both the same are the parent, without a link", sampledTrace, sampledTrace, sampledTrace, ""},
		{"T-01 of two that differ Envoy's is the parent, and the other a link", sampledTrace, clientTrace, sampledTrace, clientTrace},
	} {
		t.Run(at.name, func(t *testing.T) {
			ctx, headers, before := t.Context(), []string(nil), len(c.got())
			if at.metadata != "" {
				ctx = traceparent(ctx, at.metadata, sampledParent, "01")
			}
			if at.http != "" {
				headers = []string{"traceparent", "00-" + at.http + "-" + sampledParent + "-01"}
			}
			record := denied(t, w, ctx, headers...)
			// Without Envoy's it is one that nobody else knows.
			if at.parent != "" && record.Trace != at.parent || record.Trace == clientTrace {
				t.Errorf("the record has trace %q, want %q", record.Trace, at.parent)
			}
			if at.parent == "" {
				denied(t, w, traceparent(t.Context(), unsampledTrace, sampledParent, "01")) // exported after what must not be
			}
			await.That(t, "a span is exported", func() bool { return len(c.got()) > before })
			span := c.got()[before]
			if at.parent == "" {
				if hex.EncodeToString(span.GetTraceId()) != unsampledTrace {
					t.Errorf("a span of trace %x", span.GetTraceId())
				}
				return
			}
			if hex.EncodeToString(span.GetTraceId()) != at.parent || len(span.GetLinks()) != len(at.link)/32 {
				t.Errorf("a span of trace %x with %d links", span.GetTraceId(), len(span.GetLinks()))
			}
			for _, l := range span.GetLinks() {
				if hex.EncodeToString(l.GetTraceId()) != at.link {
					t.Errorf("a link to %x", l.GetTraceId())
				}
			}
		})
	}
}

// denied asks for nobody and returns the one record of it.
func denied(t *testing.T, w *world, ctx context.Context, headers ...string) audit.Record { //nolint:revive // t is first
	t.Helper()
	before := len(w.decisions(t))
	if r, err := check(ctx, w.conn, "slk_00000000_none", headers...); err != nil || r.GetDeniedResponse() == nil {
		t.Fatalf("%v, %v", r, err)
	}
	await.That(t, "the record", func() bool { return len(w.decisions(t)) > before })
	records := w.decisions(t)
	if len(records) != before+1 || records[before].Reason != unauthenticated {
		t.Errorf("%d records, the first %+v", len(records)-before, records[before])
	}
	return records[before]
}

// oddContexts are what a client may send as its trace.
func oddContexts() map[string][]string {
	const good = sampledTrace + "-" + sampledParent
	parent := func(v string) []string { return []string{"traceparent: " + v} }
	return map[string][]string{
		"no context at all":                  nil,
		"an empty one":                       parent(""),
		"one that is text":                   parent("hello"),
		"a trace id of zeros":                parent("00-" + strings.Repeat("0", 32) + "-" + sampledParent + "-01"),
		"a parent id of zeros":               parent("00-" + sampledTrace + "-" + strings.Repeat("0", 16) + "-01"),
		"version ff":                         parent("ff-" + good + "-01"),
		"a later version with more to it":    parent("cc-" + good + "-01-what-the-future-will-be-like"),
		"upper case":                         parent("00-" + strings.ToUpper(good) + "-01"),
		"one that is cut":                    parent("00-" + good),
		"flags that are no hex":              parent("00-" + good + "-zz"),
		"two of them":                        {"traceparent: 00-" + good + "-01", "traceparent: 00-" + clientTrace + "-" + sampledParent + "-01"},
		"bytes that are no UTF-8":            parent("00-\xff\xfe" + good[2:] + "-01"),
		"a tracestate of 10 KB":              {"traceparent: 00-" + good + "-01", "tracestate: a=" + strings.Repeat("x", 10<<10)},
		"a tracestate of 200 members":        {"traceparent: 00-" + good + "-01", "tracestate: " + members(200)},
		"200 members of baggage":             {"baggage: " + members(200)},
		"baggage that names another tenant":  {"baggage: tenant.id=umbrella,tenant=umbrella,x-tenant-id=umbrella"},
		"the old headers of other tracers":   {"b3: " + sampledTrace + "-" + sampledParent + "-1", "x-b3-traceid: " + sampledTrace, "x-b3-flags: 1", "x-client-trace-id: a", "x-envoy-force-trace: true"},
		"a grpc-trace-bin and a cloud trace": {"grpc-trace-bin: AAAA", "x-cloud-trace-context: 105445aa7843bc8bf206b12000100000/1;o=1"},
	}
}

func members(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("k%d=v%d", i, i)
	}
	return strings.Join(all, ",")
}

func TestT02OddTraceContexts(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	c := startCollector(t)
	s := stage(t, traced(c.address), stack.Options{Args: []string{"--otlp-endpoint", c.address}})
	s.rule(t, everything, &quotav1.Rule{})
	key := s.tenant(t, "acme")
	s.tenant(t, "umbrella")
	s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/v1/calls", "x-api-key: "+key)) })
	before := series(s.metrics(t))
	for name, lines := range oddContexts() {
		t.Run("T-02 "+name+" changes neither the decision nor the tenant", func(t *testing.T) {
			_, record, seen := s.judged(t, passes, func() reply { return s.raw(t, http1("GET", "/v1/calls", append(lines, "x-api-key: "+key)...)) })
			if v := seen.values(tenant.Header); record.Tenant != "acme" || len(v) != 1 || v[0] != "acme" {
				t.Errorf("tenant %q, and the upstream got %q", record.Tenant, v)
			}
			if len(record.Trace) != 32 || record.Trace == sampledTrace || record.Trace == clientTrace {
				t.Errorf("the record has trace %q, want one that the edge began", record.Trace)
			}
			s.judge(t, isNobody, func() reply { return s.raw(t, http1("GET", "/v1/calls", lines...)) })
		})
	}
	t.Run("T-02 no metric has a new series", func(t *testing.T) {
		if after := series(s.metrics(t)); !slices.Equal(after, before) {
			t.Errorf("%d series, were %d", len(after), len(before))
		}
		if strings.Contains(s.log(t), "panicked") {
			t.Error("something panicked")
		}
	})
	t.Run("T-02 the same contexts at the door itself", func(t *testing.T) {
		for name, lines := range oddContexts() {
			ctx := t.Context()
			var headers []string
			for _, line := range lines {
				header, value, _ := strings.Cut(line, ": ")
				headers = append(headers, header, value)
				if !strings.Contains(value, "\xff") { // which no gRPC client can send
					ctx = metadata.AppendToOutgoingContext(ctx, header, value)
				}
			}
			if r, err := check(ctx, s.conn, key, headers...); err != nil || r.GetOkResponse() == nil {
				t.Errorf("%s: %v, %v", name, r, err)
			}
		}
	})
}

// series are the names of what /metrics of ours shows, labels included, sorted.
func series(page string) (names []string) {
	for line := range strings.Lines(page) {
		if name, _, ok := strings.Cut(line, " "); ok && strings.HasPrefix(name, "sluice_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestT03TheFlagsOfAClientDoNotSampleForUs(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	for _, at := range []struct {
		name    string
		percent string
		flags   string
		want    bool
	}{
		{"T-03 -00 does not hide from an edge that samples all", "100", "00", true},
		{"T-03 -01 does not make an edge sample that samples nothing", "0", "01", false},
	} {
		t.Run(at.name, func(t *testing.T) {
			c := startCollector(t)
			config := strings.Replace(traced(c.address), "random_sampling: {value: 100}", "random_sampling: {value: "+at.percent+"}", 1)
			s := stage(t, config, stack.Options{Args: []string{"--otlp-endpoint", c.address}})
			s.rule(t, everything, &quotav1.Rule{})
			key := s.tenant(t, "acme")
			for range 5 {
				_, record, _ := s.judged(t, passes, func() reply {
					return s.raw(t, http1("GET", "/v1/calls", "x-api-key: "+key, "traceparent: 00-"+clientTrace+"-"+sampledParent+"-"+at.flags))
				})
				if record.Trace == clientTrace {
					t.Error("the record has the client's trace")
				}
			}
			if at.want {
				await.That(t, "the spans are exported", func() bool { return len(c.got()) >= 5 })
			} else { // a context of Envoy's own is exported after what must not be
				if _, err := check(traceparent(t.Context(), sampledTrace, sampledParent, "01"), s.conn, key); err != nil {
					t.Fatal(err)
				}
				await.That(t, "a span is exported", func() bool { return len(c.got()) > 0 })
			}
			for _, span := range c.got() {
				id := hex.EncodeToString(span.GetTraceId())
				if id == clientTrace || !at.want && id != sampledTrace {
					t.Errorf("span %q of trace %s", span.GetName(), id)
				}
			}
		})
	}
}

func TestT04ManyTenantsAddNoSeriesBeyondABound(t *testing.T) {
	const own, outcomes = 5, 4 // tenants with series of their own; beside them are _others and _none
	w := start(t, stack.Options{Args: []string{"--metrics-tenants", fmt.Sprint(own)}})
	key := w.tenant(t, "acme", limit("many", gcra, plenty, time.Second))
	if s := w.get(t.Context(), key); s.status != http.StatusOK {
		t.Fatalf("%d, %v", s.status, s.err)
	}
	// What tenants and the limits of plans have is counted by name; all else may not change.
	split := func() (others []string, count map[string]int) {
		count = map[string]int{}
		for _, name := range series(w.metrics(t)) {
			family, _, _ := strings.Cut(name, "{")
			if strings.HasPrefix(family, "sluice_tenant_") || strings.HasPrefix(family, "sluice_limit_") {
				count[family]++
			} else {
				others = append(others, name)
			}
			if strings.Contains(name, "/v1/") || strings.Contains(name, "api-key") {
				t.Errorf("a path or a principal is in %s", name)
			}
		}
		return others, count
	}
	before, _ := split()
	t.Run("T-04 only so many tenants have series, and principals and paths none", func(t *testing.T) {
		const tenants = 40
		for i := range tenants {
			key := w.tenant(t, fmt.Sprintf("t%d", i), limit("many", gcra, plenty, time.Second))
			if s := w.get(t.Context(), key, func(r *http.Request) { r.URL.Path = fmt.Sprintf("/v1/calls/%d", i) }); s.status != http.StatusOK {
				t.Fatalf("%d, %v", s.status, s.err)
			}
			w.metrics(t) // which ranks the tenants
		}
		after, count := split()
		if !slices.Equal(after, before) {
			t.Errorf("%d series of other things, were %d", len(after), len(before))
		}
		if n := count["sluice_tenant_requests_total"]; n != (own+2)*outcomes {
			t.Errorf("%d series of requests by tenant, want %d", n, (own+2)*outcomes)
		}
		if n := count["sluice_tenant_limit_remaining_ratio"]; n > own {
			t.Errorf("%d series of what tenants have left, want %d at most", n, own)
		}
	})
}
