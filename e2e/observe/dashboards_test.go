package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/deploy/dashboards"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// notInTheDemo are the metrics that a demo on its embedded store, outside a mesh, has no source for.
var notInTheDemo = map[string]string{
	"sluice_store_round_trip_seconds":                  "Redis",
	"sluice_store_commands_total":                      "Redis",
	"sluice_store_denied_hits_total":                   "Redis",
	"sluice_store_failures_total":                      "Redis",
	"sluice_store_resent_total":                        "Redis",
	"sluice_store_degraded_total":                      "Redis",
	"sluice_store_breaker_open":                        "Redis",
	"sluice_store_journal_operations":                  "Redis",
	"sluice_store_journal_dropped_total":               "Redis",
	"sluice_store_unfit":                               "Redis",
	"sluice_replicas":                                  "Redis",
	"sluice_rls_limit_configured":                      "descriptor files",
	"sluice_rls_limit_window_seconds":                  "descriptor files",
	"sluice_files_refused":                             "files",
	"sluice_tls_certificate_expiry_timestamp_seconds":  "certificates",
	"sluice_jwks_fetched_timestamp_seconds":            "an issuer",
	"istio_agent_cert_expiry_seconds":                  "Istio",
	"citadel_server_root_cert_expiry_seconds":          "Istio",
	"istio_requests_total":                             "Istio",
	"pilot_total_xds_rejects":                          "Istio",
	"envoy_listener_ssl_connection_error":              "a listener with TLS",
	"envoy_listener_ssl_fail_verify_error":             "a listener with TLS",
	"envoy_cluster_outlier_detection_ejections_active": "a cluster with outlier detection",
	"envoy_cluster_ext_authz_error":                    "a call that failed; Envoy begins the series with the first",
}

// family is what a query names, without what a histogram adds.
var (
	family = regexp.MustCompile(`\b(?:sluice|envoy|istio|citadel|pilot|process)_\w+`)
	parts  = regexp.MustCompile(`_(bucket|count|sum)$`)
)

func families(query string) (all []string) {
	labels := regexp.MustCompile(`\{[^}]*\}|by \([^)]*\)`)
	for _, name := range family.FindAllString(labels.ReplaceAllString(query, ""), -1) {
		all = append(all, parts.ReplaceAllString(name, ""))
	}
	return all
}

// panelQuery is one query of a dashboard.
type panelQuery struct{ where, expr string }

// queries are those of all dashboards, with values in the place of their variables.
func queries(t *testing.T) (all []panelQuery) {
	t.Helper()
	files, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(files) != 7 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	values := strings.NewReplacer("$job", "sluice", "$tenant", "acme", "$__rate_interval", "10s")
	for _, name := range files {
		text, err := dashboards.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &d); err != nil || len(d.Panels) < 6 {
			t.Fatalf("%s: %d panels, %v", name, len(d.Panels), err)
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				expr := values.Replace(target.Expr)
				if strings.Contains(expr, "$") {
					t.Errorf("%s, %s: a variable without a value in %s", name, p.Title, expr)
				}
				all = append(all, panelQuery{name + ", " + p.Title, expr})
			}
		}
	}
	return all
}

// prometheus is the base URL of one that runs.
type prometheus string

// get reads the data of one answer.
func (p prometheus) get(path string, query url.Values, data any) error {
	response, err := (&http.Client{Timeout: patience}).Get(string(p) + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, response.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}

// numbers is how many series with a number the answer to a query has now.
func (p prometheus) numbers(expr string) (n int, err error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	err = p.get("/api/v1/query", url.Values{"query": {expr}}, &data)
	for _, series := range data.Result {
		if series.Value[1] != "NaN" {
			n++
		}
	}
	return n, err
}

// exemplars are the traces that the series of a query have named in the last hour.
func (p prometheus) exemplars(query string) (traces []string, err error) {
	var data []struct {
		Exemplars []struct {
			Labels map[string]string
		}
	}
	now := time.Now()
	err = p.get("/api/v1/query_exemplars", url.Values{
		"query": {query}, "start": {fmt.Sprint(now.Add(-time.Hour).Unix())}, "end": {fmt.Sprint(now.Add(time.Minute).Unix())},
	}, &data)
	for _, series := range data {
		for _, e := range series.Exemplars {
			if len(e.Labels) != 1 || len(e.Labels["trace_id"]) != 32 {
				return nil, fmt.Errorf("an exemplar with the labels %v, want a trace_id and no more", e.Labels)
			}
			traces = append(traces, e.Labels["trace_id"])
		}
	}
	return traces, err
}

// fill waits until each query has had data.
func (p prometheus) fill(t *testing.T, empty []panelQuery) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); len(empty) > 0; <-ticker.C {
		empty = slices.DeleteFunc(empty, func(q panelQuery) bool {
			n, err := p.numbers(q.expr)
			if err != nil {
				t.Fatalf("%s: %v", q.where, err)
			}
			return n > 0
		})
		if time.Now().After(deadline) {
			for _, q := range empty {
				t.Errorf("%s: no data for %s", q.where, q.expr)
			}
			return
		}
	}
}

// watched is the demo's stack, with a Prometheus and a Jaeger that watch it, and traffic until the test ends.
func watched(t *testing.T) *stack.Stack {
	t.Helper()
	s, err := stack.Start(t.Context(), stack.Options{
		Sluiced: binary, Envoy: os.Getenv("SLUICE_ENVOY"), Config: patiently(deploy.Demo), Dir: t.TempDir(), Prometheus: tool("prometheus"), Jaeger: tool("jaeger"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	key := acme(t, s, conn, &quotav1.Limit{Name: "second", Algorithm: "fixed", Limit: 5, Window: durationpb.New(time.Second)})
	traffic(t, s.URL, key)
	return s
}

// traffic asks fifty times a second until the test ends, one time of five with a key that nobody gave out.
func traffic(t *testing.T, base, key string) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/calls", nil)
			if err != nil {
				return
			}
			request.Header.Set("x-api-key", key)
			if i%5 == 0 {
				request.Header.Set("x-api-key", "slk_00000000_none")
			}
			if response, err := http.DefaultClient.Do(request); err == nil {
				_ = response.Body.Close()
			}
			<-ticker.C
		}
	}()
}

func TestEachDashboardShowsDataOfTheDemo(t *testing.T) {
	s := watched(t)
	p := prometheus(s.Prometheus)
	catalogue := read(t, "../../docs/reference/metrics.md")
	needless := map[string]bool{}
	for name := range notInTheDemo {
		needless[name] = true
	}
	var empty []panelQuery // so far
	for _, q := range queries(t) {
		missing := slices.DeleteFunc(families(q.expr), func(name string) bool { return notInTheDemo[name] == "" })
		if len(missing) == 0 {
			empty = append(empty, q)
			continue
		}
		if n, err := p.numbers(q.expr); err != nil || n > 0 {
			t.Errorf("%s: %d series and %v, for what is said not to be in the demo (%s): %s", q.where, n, err, missing[0], q.expr)
		}
		for _, name := range missing {
			needless[name] = false
			if strings.HasPrefix(name, "sluice_") && !strings.Contains(catalogue, "| `"+name+"` |") {
				t.Errorf("%s: %s is not in docs/reference/metrics.md", q.where, name)
			}
		}
	}
	if len(empty) < 60 {
		t.Errorf("only %d queries are about what is in the demo", len(empty))
	}
	t.Logf("%d queries of the demo", len(empty))
	p.fill(t, empty)
	for name, yes := range needless {
		if yes {
			t.Errorf("%s: no dashboard asks for it; take it from the list", name)
		}
	}
	t.Run("rules are evaluated, and what they record is there", func(t *testing.T) {
		await.Within(t, patience, "recorded series", func() bool {
			n, err := p.numbers(`{__name__=~"sluice:.*"}`)
			return err == nil && n >= 5
		})
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		written := read(t, rules+"/alerts.yaml") + read(t, rules+"/recording.yaml")
		all := strings.Count(written, "- alert: ") + strings.Count(written, "- record: ")
		await.Within(t, patience, "all rules to be healthy", func() bool {
			if err := p.get("/api/v1/rules", nil, &data); err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, g := range data.Groups {
				for _, r := range g.Rules {
					if r.Health == "ok" {
						n++
					}
				}
			}
			return n == all && all >= 24
		})
	})
	t.Run("an exemplar in Prometheus names a trace that Jaeger has", func(t *testing.T) {
		for _, decision := range []string{"allow", "deny"} {
			await.Within(t, patience, "the trace of an exemplar of "+decision, func() bool {
				ids, err := p.exemplars(`sluice_decision_seconds_bucket{job="sluice", door="ext_authz", decision="` + decision + `"}`)
				if err != nil {
					t.Fatal(err)
				}
				return slices.ContainsFunc(ids, func(id string) bool {
					spans, err := (&jaeger{api: s.Jaeger}).trace(id)
					ours := of(spans, "sluiced", doors[0].method)
					return err == nil && ours != nil && ours.tags()["authz.allowed"] == fmt.Sprint(decision == "allow") &&
						slices.ContainsFunc(spans, func(parent *span) bool { return parent.service == "envoy" && parent.ID == ours.parent() })
				})
			})
		}
	})
	t.Run("Jaeger has traces of Envoy and of sluiced", func(t *testing.T) {
		await.Within(t, patience, "both", func() bool {
			names, err := (&jaeger{api: s.Jaeger}).services()
			return err == nil && slices.Contains(names, "envoy") && slices.Contains(names, "sluiced")
		})
	})
}
