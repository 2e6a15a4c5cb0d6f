package app

import (
	"cmp"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/voicecore-ai/sluice/await"
)

// catalogue has a caller, a rule that lets it do everything, one that would not, and two issuers whose keys
// nobody publishes.
const catalogue = `
plans:
  - {name: gold, limits: [{name: per-second, limit: 50, window: 1s}]}
tenants:
  - {id: acme, plan: gold, principals: [spiffe://demo/ns/acme/sa/app]}
rules:
  - {name: tenants-may, effect: allow}
  - {name: nobody-may, effect: deny, enforcement: shadow}
issuers:
  - {name: down, issuer: "https://id.example.com/", audiences: [api], jwks_uri: "https://127.0.0.1:1/keys", tenant: acme, allow_private: true}
  - {name: realms, issuer: "https://id.example.com/realms/{tenant}", audiences: [api], jwks_uri: "https://127.0.0.1:1/{tenant}/keys", allow_private: true}
`

func folder(t *testing.T, name, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// metric is one of ours on /metrics or in the documentation.
type metric struct {
	kind   string
	unit   string
	labels string // sorted, with commas between
	series int    // there are, or at most may be
}

var (
	typeLine      = regexp.MustCompile(`(?m)^# TYPE (sluice_\w+) (\w+)$`)
	seriesLine    = regexp.MustCompile(`(?m)^(sluice_\w+)(?:\{(.*)\})? \S+$`)
	histogramPart = regexp.MustCompile(`_(bucket|sum|count)$`)
	labelPair     = regexp.MustCompile(`(\w+)="[^"]*"`)
	tableRow      = regexp.MustCompile("(?m)^\\| `(sluice_\\w+)` \\| ((?:`\\w+`(?:, )?)*) ?\\| (\\w+) \\| ([\\w ]+) \\| ([\\d,]+) \\|")
	mention       = regexp.MustCompile(`\bsluice_\w+(?:\{\w+="[^"{}]*"\})?`)
)

// shownOn reads a page of Prometheus' text format.
func shownOn(page string) map[string]metric {
	all := map[string]metric{}
	for _, m := range typeLine.FindAllStringSubmatch(page, -1) {
		all[m[1]] = metric{kind: m[2], unit: unit(m[1], m[2])}
	}
	for _, m := range seriesLine.FindAllStringSubmatch(page, -1) {
		name := m[1]
		if family := histogramPart.ReplaceAllString(name, ""); all[family].kind == "histogram" {
			name = family
		}
		var labels []string
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if pair[1] != "le" {
				labels = append(labels, pair[1])
			}
		}
		slices.Sort(labels)
		is := all[name]
		is.labels = strings.Join(labels, ",")
		is.series++
		all[name] = is
	}
	return all
}

// unit is what the name of a metric says, as Prometheus has it.
func unit(name, kind string) string {
	for _, u := range []struct{ suffix, unit string }{
		{"_timestamp_seconds", "Unix seconds"}, {"_seconds", "seconds"}, {"_bytes_total", "bytes"}, {"_ratio", "0 to 1"}, {"_total", "count"},
	} {
		if strings.HasSuffix(name, u.suffix) {
			return u.unit
		}
	}
	if kind == "gauge" {
		return "count"
	}
	return "no unit that its name says"
}

// everything is a server with all that has metrics of its own.
func everything(t *testing.T) *server {
	t.Helper()
	return run(t, append(newServerFiles(t).args(), "--catalog", folder(t, "a.yaml", catalogue), "--rls-config", folder(t, "b.yaml", banned),
		"--otlp-endpoint", "127.0.0.1:1", "--audit-otlp")...)
}

// mostSeries is the most that a family may have, whatever the catalogue holds and callers send.
const mostSeries = 2000

func TestTheDocumentedMetricsAreThoseOfARunningServer(t *testing.T) {
	asked := run(t, "--catalog", folder(t, "a.yaml", catalogue))
	if got := check(t, asked, "spiffe://demo/ns/acme/sa/app", "accept", "text/html"); got != 0 {
		t.Fatalf("a tenant's request got %d", got)
	}
	shown, page := map[string]metric{}, ""
	for _, s := range []*server{everything(t), onRedis(t, newRedis(t)), asked} {
		text := s.page(t)
		page += text
		for name, m := range shownOn(text) {
			m.series = max(m.series, shown[name].series)
			shown[name] = m
		}
	}
	if len(shown) < 30 {
		t.Fatalf("only %d metrics of ours on the page", len(shown))
	}
	text, err := os.ReadFile("../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]metric{}
	for _, m := range tableRow.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Split(strings.ReplaceAll(m[2], "`", ""), ", ")
		slices.Sort(labels)
		if _, twice := documented[m[1]]; twice {
			t.Errorf("%s is in the table twice", m[1])
		}
		bound, err := strconv.Atoi(strings.ReplaceAll(m[5], ",", ""))
		if err != nil || bound > mostSeries {
			t.Errorf("%s: %s series at most, want a number up to %d", m[1], m[5], mostSeries)
		}
		documented[m[1]] = metric{m[3], strings.Replace(m[4], "0 or 1", "count", 1), strings.Join(labels, ","), bound}
	}
	for _, name := range slices.Sorted(maps.Keys(shown)) {
		if d, ok := documented[name]; !ok {
			t.Errorf("%s is shown and not in docs/reference/metrics.md", name)
		} else if is := shown[name]; d.kind != is.kind || d.unit != is.unit || d.labels != is.labels || d.series < is.series {
			t.Errorf("%s is documented as %+v, and is %+v", name, d, is)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if _, ok := shown[name]; !ok {
			t.Errorf("%s is documented and not shown", name)
		}
	}
	t.Run("no other page names a metric, or a value of a label, that is not shown", func(t *testing.T) {
		pages, err := filepath.Glob("../docs/*/*.md")
		if err != nil || len(pages) < 8 {
			t.Fatalf("%d pages, %v", len(pages), err)
		}
		for _, path := range append(pages, "../README.md", "../SECURITY.md", "../CHANGELOG.md") {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range mention.FindAllString(string(text), -1) {
				name, value, labelled := strings.Cut(found, "{")
				if _, ok := shown[name]; !ok && !detail[name] || labelled && !strings.Contains(page, name+"{"+strings.TrimSuffix(value, "}")) { // others may follow
					t.Errorf("%s: %s is not shown", path, found)
				}
			}
		}
	})
}

// detail are words that begin like a metric and are response_code_details of Envoy's, or keys of its metadata.
var detail = map[string]bool{"sluice_suspended": true, "sluice_unauthenticated": true, "sluice_degraded": true}

// value is what a series shows; "" if there is none.
func value(page, series string) string {
	for line := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// counts fails the test where the metrics are not as wanted, by series; "" is one that is not there.
func (s *server) counts(t *testing.T, want map[string]string) {
	t.Helper()
	page := s.page(t)
	for _, series := range slices.Sorted(maps.Keys(want)) {
		if got := value(page, series); got != want[series] {
			t.Errorf("%s is %s, want %s", series, cmp.Or(got, "not there"), cmp.Or(want[series], "not there"))
		}
	}
}

func dial(t *testing.T, s *server) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(s.Addr("grpc-listen").String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// check asks about a request with one header, and gives the code of the answer.
func check(t *testing.T, s *server, principal, header, value string) int32 {
	t.Helper()
	r, err := authv3.NewAuthorizationClient(dial(t, s)).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: principal},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: "GET", Path: "/v1/calls", Host: "api.example.com", HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: ":method", RawValue: []byte("GET")}, {Key: ":path", RawValue: []byte("/v1/calls")},
				{Key: ":authority", RawValue: []byte("api.example.com")}, {Key: header, RawValue: []byte(value)},
			}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetStatus().GetCode()
}

func TestWhatIsCountedIsShown(t *testing.T) {
	s := run(t, "--catalog", folder(t, "a.yaml", catalogue))
	conn := dial(t, s)
	const (
		badKey     = `sluice_credentials_refused_total{reason="api_key"}`
		badToken   = `sluice_credentials_refused_total{reason="token_form"}`
		shadowed   = `sluice_decisions_shadowed_total`
		outOfOrder = `sluice_streams_out_of_order_total`
		observed   = `sluice_streams_observed_total`
	)
	t.Run("everything is there at zero before anything happens", func(t *testing.T) {
		s.counts(t, map[string]string{
			badKey: "0", badToken: "0", shadowed: "0", outOfOrder: "0", observed: "0", `sluice_panics_total{part="gate"}`: "0",
			`sluice_panics_total{part="ext_authz"}`: "0", `sluice_panics_total{part="ext_proc"}`: "0",
			`sluice_requests_total{class="5xx",protocol="http"}`: "0", `sluice_requests_total{class="server",protocol="grpc"}`: "0",
			`sluice_jwks_fetches_total{result="ok"}`: "0", `sluice_files_refused{setting="catalog"}`: "0", "sluice_catalog_revision": "1",
		})
	})
	t.Run("refused credentials by why, and what shadowed rules would have done", func(t *testing.T) {
		for _, c := range []struct {
			principal, header, value string
			want                     int32
		}{
			{"", "x-api-key", "slk_00000000_none", 16}, {"", "x-api-key", "slk_00000000_none", 16},
			{"", "authorization", "Bearer ey.b.c", 16}, {"spiffe://demo/ns/acme/sa/app", "accept", "text/html", 0},
		} {
			if got := check(t, s, c.principal, c.header, c.value); got != c.want {
				t.Fatalf("%+v: %d", c, got)
			}
		}
		s.counts(t, map[string]string{
			badKey: "2", badToken: "1", shadowed: "1", `sluice_decisions_total{reason="admitted"}`: "1",
			`sluice_tenant_requests_total{outcome="allowed",tenant="acme"}`: "1", `sluice_tenant_requests_total{outcome="denied",tenant="_none"}`: "3",
			`sluice_limit_configured{limit="per-second",plan="gold"}`: "50", `sluice_limit_decisions_total{limit="per-second",outcome="allowed",plan="gold"}`: "1",
		})
	})
	t.Run("streams of ext_proc that are of no use", func(t *testing.T) {
		for _, first := range []*extprocv3.ProcessingRequest{
			{ObservabilityMode: true},
			{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{}}},
		} {
			stream, err := extprocv3.NewExternalProcessorClient(conn).Process(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(first); err != nil {
				t.Fatal(err)
			}
			if r, err := stream.Recv(); err == nil {
				t.Fatalf("answered with %v", r)
			}
		}
		s.counts(t, map[string]string{outOfOrder: "1", observed: "1"})
	})
	t.Run("an issuer without keys is seen, and realms that nobody needs are not", func(t *testing.T) {
		s.counts(t, map[string]string{`sluice_jwks_fetched_timestamp_seconds{issuer="down"}`: "0", `sluice_jwks_fetched_timestamp_seconds{issuer="realms"}`: ""})
		await.That(t, "the fetch has failed", func() bool { return value(s.page(t), `sluice_jwks_fetches_total{result="failed"}`) != "0" })
	})
	t.Run("an edit that is not in force", func(t *testing.T) {
		path := filepath.Join(s.config.Catalog, "b.yaml")
		put(t, path, []byte("tenants: [{id: b, plan: none}]\n"))
		await.That(t, "it is shown", func() bool { return value(s.page(t), `sluice_files_refused{setting="catalog"}`) == "1" })
		s.counts(t, map[string]string{"sluice_catalog_revision": "1"})
		put(t, path, []byte("tenants: [{id: b, plan: gold}]\n"))
		await.That(t, "its end is too", func() bool { return value(s.page(t), `sluice_files_refused{setting="catalog"}`) == "0" })
		s.counts(t, map[string]string{"sluice_catalog_revision": "2"})
	})
}

// stuck is a reader of a page who takes nothing of it until told to.
type stuck struct {
	http.ResponseWriter
	began chan<- struct{}
	until <-chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	select {
	case s.began <- struct{}{}:
	case <-s.until:
	}
	<-s.until
	return s.ResponseWriter.Write(b)
}

func TestReadersOfMetricsWhoTakeTheirTimeAreBounded(t *testing.T) {
	s := run(t)
	began, until := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	for range maxScrapes {
		group.Go(func() {
			s.status.Handler.ServeHTTP(&stuck{httptest.NewRecorder(), began, until}, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		})
	}
	for range maxScrapes {
		<-began
	}
	if code, _ := get(t, s.url+"/metrics"); code != http.StatusServiceUnavailable {
		t.Errorf("one more got %d", code)
	}
	if code, _ := get(t, s.url+"/readyz"); code != http.StatusOK {
		t.Errorf("readiness is %d meanwhile", code)
	}
	close(until)
	group.Wait()
	if code, body := get(t, s.url+"/metrics"); code != http.StatusOK || !strings.Contains(body, "sluice_stage") {
		t.Errorf("afterwards: %d", code)
	}
}
