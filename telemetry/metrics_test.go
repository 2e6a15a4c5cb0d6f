package telemetry

import (
	"fmt"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/accesslog"
	"github.com/voicecore-ai/sluice/authz/authn"
)

// broken is a part that has panicked, which the real ones can't be told to do.
type broken uint64

func (b broken) Panics() uint64 { return uint64(b) }

// series are the values that c shows, by the name and the values of its labels.
func series(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return all
}

func TestPanicsAreShownByWhere(t *testing.T) {
	got := series(t, Panics(map[string]Counter{"gate": broken(0), "ext_proc": broken(3)}))
	if want := map[string]float64{"sluice_panics_total gate": 0, "sluice_panics_total ext_proc": 3}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestIssuersHaveABoundedNumberOfSeries(t *testing.T) {
	var all []authn.KeySetStatus
	for i := range 5000 {
		all = append(all, authn.KeySetStatus{Issuer: fmt.Sprintf("issuer-%04d", i), Fetched: int64(1000 + i)})
	}
	all[0] = authn.KeySetStatus{Issuer: "issuer-0000", Realms: true} // nobody needs it
	all[4000].Fetched = 7
	got := oldest(all)
	if len(got) != mostIssuers+1 || got["issuer-0100"] != 1100 || got[otherIssuers] != 7 {
		t.Errorf("%d series, %d of the 100th, %d of all the others", len(got), got["issuer-0100"], got[otherIssuers])
	}
	if _, shown := got["issuer-0000"]; shown {
		t.Error("an issuer whose keys nobody needs is shown as one without keys")
	}
	if one := oldest(all[:2]); len(one) != 1 || one["issuer-0001"] != 1001 {
		t.Errorf("%v", one)
	}
}

func TestRequestsAreCountedOnceByTheClassOfTheirEnd(t *testing.T) {
	r := NewRequests()
	want := series(t, r)
	for _, e := range []accesslog.Labels{
		{Final: true, Class: "2xx"}, {Final: true, Class: "4xx"}, {Final: true, Class: "4xx"}, {Class: "2xx"},
		{Final: true, GRPC: true, Class: "server"}, {GRPC: true, Class: "ok"},
	} {
		r.Count(e, nil)
	}
	// No new series: a first error would be no rise.
	want["sluice_requests_total 2xx http"], want["sluice_requests_total 4xx http"], want["sluice_requests_total server grpc"] = 1, 2, 1
	if got := series(t, r); !maps.Equal(got, want) || len(want) != 9 {
		t.Errorf("got %v, want %v", got, want)
	}
}
