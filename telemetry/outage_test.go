package telemetry

import (
	"context"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/outage"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// silent is a shared store that never answers.
type silent struct{}

func (silent) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	return false, redisstore.ErrNoAnswer
}
func (silent) Reapply(context.Context, []redisstore.Applied) (int, error) {
	return 0, redisstore.ErrNoAnswer
}

func TestAnOutageIsShownByWhatItIsAnsweredWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no time passes between the failures, by which the breaker opens too
		s := outage.New(outage.Options{Shared: silent{}})
		defer s.Close()
		for on, times := range map[ratelimit.Outage]int{ratelimit.OutageDeny: 3, ratelimit.OutageLocal: 2, ratelimit.OutageAllow: 4} {
			l := &ratelimit.Limit{Algorithm: ratelimit.Fixed, Hits: 100, Window: time.Minute, OnOutage: on}
			for range times {
				_, _ = s.Charge(ratelimit.Operation{}, []ratelimit.Charge{{Limit: l, Hits: 1}}, make([]ratelimit.Outcome, 1)) //nolint:errcheck // an outage is what it is about
			}
		}
		want := map[string]float64{
			"sluice_store_breaker_open": 1, "sluice_store_breaker_opened_total": 1,
			"sluice_store_failures_total silent": 5, "sluice_store_failures_total refused": 0, "sluice_store_failures_total crowded": 0,
			"sluice_store_degraded_total deny": 3, "sluice_store_degraded_total local": 2, "sluice_store_degraded_total allow": 4,
			"sluice_store_journal_operations": 6, "sluice_store_journal_reapplied_total": 0, "sluice_store_journal_dropped_total owed": 0, "sluice_store_journal_dropped_total acknowledged": 0,
		}
		if got := series(t, Outage(s)); !maps.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}
