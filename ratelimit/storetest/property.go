package storetest

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/ratelimit"
)

type event struct{ at, hits int64 }

// testProperties drives random limits with random charges and judges every
// answer by a log of all that was admitted.
func testProperties(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, p := range []struct {
		name  string
		alg   ratelimit.Algorithm
		judge func(l *ratelimit.Limit, log []event, now, hits int64, admitted bool) error
	}{
		{"gcra", ratelimit.GCRA, judgeGCRA},
		{"hard", ratelimit.Hard, judgeHard},
		{"fixed", ratelimit.Fixed, judgeFixed},
	} {
		s := open(t)
		now := base // one clock for all runs: a store's never goes back
		t.Run(p.name, rapid.MakeCheck(func(t *rapid.T) {
			l := newLimit(p.alg, rapid.OneOf(rapid.Int64Range(1, 50), rapid.Int64Range(1, 1000)).Draw(t, "limit"), time.Duration(rapid.Int64Range(1, 5).Draw(t, "seconds"))*time.Second)
			l.Burst = rapid.Int64Range(1, 20).Draw(t, "burst")
			c := ratelimit.Charge{Limit: l, Cell: newCell(1)}
			var log []event
			for range rapid.IntRange(1, 60).Draw(t, "charges") {
				now += rapid.OneOf(rapid.Int64Range(0, 50_000), rapid.Int64Range(0, 2*second)).Draw(t, "pause")
				c.Hits = rapid.Int64Range(1, max(5, l.Hits/20)).Draw(t, "hits")
				ok, o := charge(t, s, now, c)
				if err := p.judge(l, log, now, c.Hits, ok); err != nil {
					t.Fatalf("%v; outcome %+v, log %v", err, o[0], log)
				}
				if ok {
					log = append(log, event{now, c.Hits})
				} else if o[0].RetryAfter != ratelimit.Never && rapid.Bool().Draw(t, "waits") {
					if o[0].RetryAfter > 1 {
						if ok, o := charge(t, s, now+o[0].RetryAfter-1, c); ok {
							t.Fatalf("admitted before RetryAfter: %+v", o[0])
						}
					}
					now += o[0].RetryAfter
					if ok, o := charge(t, s, now, c); !ok {
						t.Fatalf("refused after RetryAfter: %+v", o[0])
					}
					log = append(log, event{now, c.Hits})
				}
			}
			now += 1000 * second
		}))
	}
}

// since sums the log from that time on.
func since(log []event, from int64) (sum int64) {
	for i := len(log) - 1; i >= 0 && log[i].at >= from; i-- {
		sum += log[i].hits
	}
	return sum
}

// judgeGCRA: no interval holds more than burst + rate·τ, and nothing is
// refused that would have kept that by a thousandth of a hit.
func judgeGCRA(l *ratelimit.Limit, log []event, now, hits int64, admitted bool) error {
	window := l.Window.Microseconds()
	sum := hits
	fits, nearly := sum <= l.Burst, sum <= l.Burst
	for i := len(log) - 1; i >= 0; i-- {
		sum += log[i].hits
		over := (sum-l.Burst)*window - l.Hits*(now-log[i].at) // hits × window
		fits = fits && over <= 0
		nearly = nearly && over <= -window/1000
	}
	if admitted && !fits {
		return fmt.Errorf("%d hits at %d break burst %d + %d per %v", hits, now, l.Burst, l.Hits, l.Window)
	}
	if !admitted && nearly {
		return fmt.Errorf("%d hits at %d were refused and fit", hits, now)
	}
	return nil
}

// judgeHard: no trailing window holds more than the limit, and nothing is
// refused that fits into a window and a 60,000th, less a 120th of the limit.
func judgeHard(l *ratelimit.Limit, log []event, now, hits int64, admitted bool) error {
	window := l.Window.Microseconds()
	tick, lost := (window+59_999)/60_000, (l.Hits+119)/120-1
	if admitted && since(log, now-window+1)+hits > l.Hits {
		return fmt.Errorf("%d hits at %d break %d per %v", hits, now, l.Hits, l.Window)
	}
	if !admitted && since(log, now-window-tick+2)+lost+hits <= l.Hits {
		return fmt.Errorf("%d hits at %d were refused and fit", hits, now)
	}
	return nil
}

// judgeFixed: the aligned window holds exactly up to the limit.
func judgeFixed(l *ratelimit.Limit, log []event, now, hits int64, admitted bool) error {
	start := now - now%l.Window.Microseconds()
	if fits := since(log, start)+hits <= l.Hits; fits != admitted {
		return fmt.Errorf("%d hits at %d: admitted %v with %d of %d used", hits, now, admitted, since(log, start), l.Hits)
	}
	return nil
}
