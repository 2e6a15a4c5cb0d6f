package app

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/await"
)

// described asks the rate limit service about descriptors of one entry each, key and value in turn; with perHour, by a limit that comes along.
func described(t *testing.T, conn *grpc.ClientConn, perHour uint32, entries ...string) {
	t.Helper()
	r := &ratelimitv3.RateLimitRequest{Domain: "edge"}
	for i := 0; i+1 < len(entries); i += 2 {
		d := &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: entries[i], Value: entries[i+1]}}}
		if perHour > 0 {
			d.Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: perHour, Unit: typev3.RateLimitUnit_HOUR}
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	if _, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

const threeLimits = `domain: edge
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 3}}
  - {key: user, value: vip, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 100}}
  - {key: tried, shadow_mode: true, rate_limit: {unit: second, unit_multiplier: 600, requests_per_unit: 0}}
  - {key: free, rate_limit: {unlimited: true}}
`

func TestWhatLimitsOfDescriptorFilesAllowIsShown(t *testing.T) {
	s := run(t, "--rls-config", folder(t, "a.yaml", threeLimits))
	conn := dial(t, s)
	said := func(limit, outcome string) string {
		return fmt.Sprintf(`sluice_rls_limit_decisions_total{limit=%q,outcome=%q}`, limit, outcome)
	}
	t.Run("as configured, and at zero before anybody asks", func(t *testing.T) {
		s.counts(t, map[string]string{
			`sluice_rls_limit_configured{limit="edge.user"}`: "3", `sluice_rls_limit_window_seconds{limit="edge.user"}`: "3.1536e+07",
			`sluice_rls_limit_configured{limit="edge.user_vip"}`: "100", `sluice_rls_limit_window_seconds{limit="edge.tried"}`: "600",
			`sluice_rls_limit_configured{limit="edge.free"}`: "", said("edge.user", "allowed"): "0", said("edge.user", "refused"): "0", said("edge.free", "allowed"): "",
		})
	})
	for range 5 {
		described(t, conn, 0, "user", "ann", "tried", "x", "free", "y")
	}
	described(t, conn, 0, "user", "bob")
	described(t, conn, 0, "user", "vip")
	described(t, conn, 7, "user", "ann")
	t.Run("what was allowed beside what was refused, and no value of a request", func(t *testing.T) {
		s.counts(t, map[string]string{
			said("edge.user", "allowed"): "4", said("edge.user", "refused"): "2", said("edge.user_vip", "allowed"): "1",
			said("edge.tried", "shadowed"): "3", said("edge.tried", "refused"): "0", said("override", "allowed"): "1", said("_others", "allowed"): "0",
		})
		if page := s.page(t); strings.Contains(page, "ann") || strings.Contains(page, "bob") {
			t.Error("a value of a request is on the page")
		}
	})
	t.Run("an edit is shown, and what was counted stays", func(t *testing.T) {
		put(t, filepath.Join(s.config.RLSConfig, "a.yaml"), []byte(strings.Replace(threeLimits, "requests_per_unit: 3}", "requests_per_unit: 4}", 1)))
		await.That(t, "it is in force", func() bool { return value(s.page(t), `sluice_rls_limit_configured{limit="edge.user"}`) == "4" })
		s.counts(t, map[string]string{said("edge.user", "allowed"): "4"})
	})
}

func TestLimitsOfDescriptorFilesHaveABoundedNumberOfSeries(t *testing.T) {
	const files = 3000
	var b strings.Builder
	b.WriteString("domain: edge\ndescriptors:\n")
	for i := range files {
		fmt.Fprintf(&b, "  - {key: user, value: u%04d, rate_limit: {unit: hour, requests_per_unit: 100}}\n", i)
	}
	s := run(t, "--rls-config", folder(t, "a.yaml", b.String()))
	conn := dial(t, s)
	for i := range files {
		if i%10 == 0 || i == files-1 {
			described(t, conn, 0, "user", fmt.Sprintf("u%04d", i))
		}
	}
	count := map[string]int{}
	for name, m := range shownOn(s.page(t)) {
		count[name] = m.series
	}
	for name, want := range map[string]int{"sluice_rls_limit_decisions_total": 1803, "sluice_rls_limit_configured": 600, "sluice_rls_limit_window_seconds": 600} {
		if count[name] != want {
			t.Errorf("%s has %d series, want %d", name, count[name], want)
		}
	}
	page := s.page(t)
	if got := value(page, `sluice_rls_limit_decisions_total{limit="_others",outcome="allowed"}`); got != "241" {
		t.Errorf("the others allowed %s, want 241", got)
	}
	if got := value(page, `sluice_rls_limit_decisions_total{limit="edge.user_u0010",outcome="allowed"}`); got != "1" {
		t.Errorf("one that has a series allowed %s, want 1", got)
	}
}
