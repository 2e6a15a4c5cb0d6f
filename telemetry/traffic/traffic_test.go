package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/telemetry/traffic"
	"github.com/voicecore-ai/sluice/tenant"
)

// anyone takes a key for the id of a tenant on the plan of the one that Principal names: a catalogue of a
// million would be what the test measures.
type anyone struct{ account quota.Account }

func (a *anyone) Identify(_ context.Context, _ int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error) {
	if len(c.APIKeys) == 0 {
		return authz.Principal{}, nil, errors.New("no key")
	}
	like, id, _ := strings.Cut(c.APIKeys[0], ":")
	a.account = *s.Account(tenant.ID(like))
	a.account.Tenant = tenant.ID(id)
	return authz.Principal{Name: "key", Scheme: authz.APIKey}, &a.account, nil
}

func (*anyone) Workload(*quota.Snapshot, *authz.Credentials) (*quota.Account, error) { return nil, nil }

// world is a gate whose decisions are counted.
type world struct {
	*traffic.Traffic
	gate *gate.Gate
	now  int64 // Unix µs
	d    gate.Decision
	r    gate.Request

	asked int
}

func newWorld(t testing.TB, tenants int, more ...quota.Plan) *world {
	t.Helper()
	s, err := quota.Compile(1, quota.Catalogue{
		Plans: append(more, quota.Plan{Name: "wide", Limits: []quota.Limit{{Name: "second", Algorithm: "gcra", Limit: 1 << 30, Window: time.Second}}},
			quota.Plan{Name: "three", Limits: []quota.Limit{
				{Name: "hour", Algorithm: "fixed", Limit: 3, Window: time.Hour},
				{Name: "tried", Algorithm: "fixed", Limit: 1, Window: time.Hour, Enforcement: "shadow"},
				{Name: "second", Algorithm: "gcra", Limit: 200, Window: time.Second},
			}}),
		Tenants: []quota.Tenant{{ID: "wide", Plan: "wide"}, {ID: "three", Plan: "three"}},
		Rules:   []authz.Rule{{Name: "tenants-may", Effect: "allow"}},
	}, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{now: 1_800_000_000_000_000}
	w.Traffic = traffic.New(traffic.Options{
		Tenants: tenants, Limits: s.PlanLimits, Revision: func() uint64 { return s.Revision }, Now: func() time.Time { return time.UnixMicro(w.now) },
	})
	w.gate = gate.New(gate.Options{
		Snapshot: func() *quota.Snapshot { return s }, Authenticator: new(anyone), Store: memstore.New(memstore.Options{MaxCells: 1000}), Observe: w.Observe,
	})
	return w
}

// admit asks with keys, and a path that nobody asked for before.
func (w *world) admit(keys ...string) gate.Reason {
	w.asked++
	w.r = gate.Request{Credentials: authz.Credentials{APIKeys: keys}, Peer: "loopback", Action: authz.Action{
		Method: "GET", Host: "api.example.com", Path: "/v1/calls/" + strconv.Itoa(w.asked),
	}}
	w.gate.Admit(context.Background(), w.now, &w.r, &w.d)
	return w.d.Reason
}

// series is what a scrape shows, by family and by the series' labels.
func (w *world) series(t testing.TB) map[string]map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(w)
	families, err := r.Gather() // an error where two series are the same
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]float64{}
	for _, f := range families {
		all[f.GetName()] = map[string]float64{}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			all[f.GetName()][strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return all
}

const (
	requests  = "sluice_tenant_requests_total" // its labels, by the alphabet: outcome, tenant
	remaining = "sluice_tenant_limit_remaining_ratio"
	decisions = "sluice_limit_decisions_total"
)

func wants(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for series, n := range want {
		if v, ok := got[series]; !ok || math.Abs(v-n) > 1e-9 {
			t.Errorf("%s is %v (shown: %t), want %v", series, v, ok, n)
		}
	}
}

func TestWhatWasRefusedAndWhatWasAllowedIsShown(t *testing.T) {
	w := newWorld(t, 5)
	t.Run("a configured limit is there before anybody asks, and its counts are 0", func(t *testing.T) {
		all := w.series(t)
		wants(t, all["sluice_limit_configured"], map[string]float64{"hour three": 3, "tried three": 1, "second three": 200, "second wide": 1 << 30})
		wants(t, all["sluice_limit_window_seconds"], map[string]float64{"hour three": 3600, "second wide": 1})
		wants(t, all[decisions], map[string]float64{"hour allowed three": 0, "hour refused three": 0, "hour shadowed three": 0})
	})
	for i := range 5 {
		if got := w.admit("three:acme"); (got == gate.ReasonAdmitted) != (i < 3) {
			t.Fatalf("request %d: %v", i, got)
		}
	}
	w.admit("wide:umbrella")
	w.admit()
	all := w.series(t)
	wants(t, all[requests], map[string]float64{
		"allowed acme": 3, "over_limit acme": 2, "denied acme": 0, "allowed umbrella": 1, "denied _none": 1, "allowed _others": 0,
	})
	wants(t, all[decisions], map[string]float64{
		"hour allowed three": 3, "hour refused three": 2, "tried allowed three": 1, "tried shadowed three": 2, "tried refused three": 0, "second allowed three": 3,
	})
	wants(t, all[remaining], map[string]float64{"hour acme": 0, "second umbrella": .99})
	t.Run("a limit is whole again when its window is over, though nobody asks", func(t *testing.T) {
		w.now += 2 * 3600 * 1_000_000
		wants(t, w.series(t)[remaining], map[string]float64{"hour acme": 1, "second umbrella": 1})
	})
}

func TestTenantsThatAskMostHaveTheSeries(t *testing.T) {
	w := newWorld(t, 3)
	for i := range 100 { // whoever comes first has them first
		w.admit(fmt.Sprintf("wide:early-%d", i))
	}
	shown := func() (names string) {
		for _, id := range []string{"early-0", "early-1", "early-2", "big-1", "big-2", "big-3"} {
			if _, ok := w.series(t)[requests]["allowed "+id]; ok {
				names += id + " "
			}
		}
		return names
	}
	if got := shown(); got != "early-0 early-1 early-2 " {
		t.Fatalf("%s", got)
	}
	load := func() {
		for i := range 20_000 {
			w.admit(fmt.Sprintf("wide:small-%d", i)) // each once
			if i%20 == 0 {
				w.admit("wide:big-1")
				w.admit("wide:big-2")
				w.admit("wide:big-3")
			}
		}
	}
	load()
	w.series(t)
	if got := shown(); got != "big-1 big-2 big-3 " {
		t.Errorf("after a scrape: %s", got)
	}
	before := w.series(t)[requests]
	load()
	after := w.series(t)[requests]
	for _, id := range []string{"big-1", "big-2", "big-3"} {
		if rise := after["allowed "+id] - before["allowed "+id]; rise != 1000 {
			t.Errorf("%s rose by %v, want exactly 1000", id, rise)
		}
	}
	if rise := after["allowed _others"] - before["allowed _others"]; rise != 20_000 {
		t.Errorf("the others rose by %v, want exactly 20000", rise)
	}
	t.Run("who stops asking gives the place up, and two that ask alike do not take turns", func(t *testing.T) {
		for range 30 {
			for range 100 {
				w.admit("wide:early-1")
				w.admit("wide:big-1")
				w.admit("wide:big-2")
				w.admit("wide:other")
			}
			w.series(t)
		}
		if got := shown(); !strings.Contains(got, "big-1 big-2 ") || strings.Contains(got, "big-3") {
			t.Errorf("%s", got)
		}
	})
}

// most is the bound of issue and documentation.
const most = 2000

func TestAMillionTenantsHaveABoundedNumberOfSeries(t *testing.T) {
	var plans []quota.Plan
	for i := range 5000 {
		plans = append(plans, quota.Plan{Name: fmt.Sprintf("plan-%04d", i), Limits: []quota.Limit{{Name: "day", Algorithm: "fixed", Limit: 5, Window: 24 * time.Hour}}})
	}
	w := newWorld(t, traffic.MaxTenants, plans...)
	for i := range 1_000_000 {
		w.admit(fmt.Sprintf("three:tenant-%d", i))
		if i%100_000 == 0 {
			w.series(t)
		}
	}
	all := w.series(t)
	if len(all) != 5 {
		t.Errorf("%d families", len(all))
	}
	for name, series := range all {
		if len(series) > most || len(series) < traffic.MaxTenants {
			t.Errorf("%s has %d series", name, len(series))
		}
		t.Logf("%s: %d series", name, len(series))
	}
	t.Run("strangers who ask once each push nobody out", func(t *testing.T) {
		if _, ok := all[requests]["allowed tenant-0"]; !ok {
			t.Error("the first has lost its series to another that asked as little")
		}
	})
	var sum float64
	for _, n := range all[requests] {
		sum += n
	}
	if sum != 1_000_000 {
		t.Errorf("%v requests are counted of a million", sum)
	}
}

func TestObservingAllocatesNothing(t *testing.T) {
	w := newWorld(t, 1)
	for _, key := range []string{"wide:first", "wide:second", "three:second"} { // with series of its own, without, and refused
		keys := []string{key}
		for range 10 {
			w.admit(keys...)
		}
		if n := testing.AllocsPerRun(1000, func() { w.Observe(w.now, &w.d) }); n != 0 {
			t.Errorf("%s: %v allocations", key, n)
		}
	}
}

// BenchmarkScrape is what a scrape costs when a million tenants have asked and all series are there.
func BenchmarkScrape(b *testing.B) {
	var plans []quota.Plan
	for i := range 5000 {
		plans = append(plans, quota.Plan{Name: fmt.Sprintf("plan-%04d", i), Limits: []quota.Limit{{Name: "day", Algorithm: "fixed", Limit: 5, Window: 24 * time.Hour}}})
	}
	w := newWorld(b, traffic.MaxTenants, plans...)
	for i := range 1_000_000 {
		w.admit(fmt.Sprintf("three:tenant-%d", i))
	}
	for b.Loop() {
		w.series(b)
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, c := range []struct{ name, key string }{{"a tenant with series of its own", "wide:first"}, {"another", "wide:second"}, {"one with three limits", "three:third"}} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, 1)
			w.admit("wide:first")
			w.admit(c.key)
			b.ReportAllocs()
			for b.Loop() {
				w.Observe(w.now, &w.d)
			}
		})
	}
}
