package runner

import (
	"slices"
	"testing"
	"time"
)

func dues(c scenarioConfig) []time.Duration {
	return slices.Collect((&scenario{config: c}).schedule)
}

func TestEachIterationIsDueWhenTheRateSays(t *testing.T) {
	ms := func(list ...int) (out []time.Duration) {
		for _, n := range list {
			out = append(out, time.Duration(n)*time.Millisecond)
		}
		return out
	}
	for _, c := range []struct {
		name string
		c    scenarioConfig
		want []time.Duration
	}{
		{"a constant rate begins at once, and not at its end", scenarioConfig{executor: constantArrivalRate, rate: 4, timeUnit: time.Second, duration: time.Second}, ms(0, 250, 500, 750)},
		{"a rate in another unit is the same", scenarioConfig{executor: constantArrivalRate, rate: 240, timeUnit: time.Minute, duration: time.Second}, ms(0, 250, 500, 750)},
		{"part of a period is an iteration", scenarioConfig{executor: constantArrivalRate, rate: 1, timeUnit: time.Hour, duration: time.Second}, ms(0)},
		{"a ramp that stays is constant", scenarioConfig{executor: rampingArrivalRate, rate: 4, timeUnit: time.Second, stages: []stage{{time.Second, 4}}}, ms(0, 250, 500, 750)},
		// N(t) = t²: iteration n at √n.
		{"a ramp from 0 starts iteration n when n are due", scenarioConfig{executor: rampingArrivalRate, timeUnit: time.Second, stages: []stage{{3 * time.Second, 6}}},
			[]time.Duration{0, 1000 * time.Millisecond, 1414213562, 1732050807, 2 * time.Second, 2236067977, 2449489742, 2645751311, 2828427124}},
		// N(t) = 4t − t²: iteration n at 2 − √(4−n).
		{"a ramp to 0 ends", scenarioConfig{executor: rampingArrivalRate, rate: 4, timeUnit: time.Second, stages: []stage{{2 * time.Second, 0}}},
			[]time.Duration{0, 267949192, 585786437, 1000 * time.Millisecond}},
		{"a step is at once", scenarioConfig{executor: rampingArrivalRate, rate: 2, timeUnit: time.Second, stages: []stage{{time.Second, 2}, {0, 4}, {time.Second, 4}, {0, 0}, {time.Second, 0}}},
			ms(0, 500, 1000, 1250, 1500, 1750)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := dues(c.c)
			if len(got) != len(c.want) {
				t.Fatalf("%d are due at %v, want %d at %v", len(got), got, len(c.want), c.want)
			}
			for i := range got {
				if d := got[i] - c.want[i]; d < -time.Microsecond || d > time.Microsecond {
					t.Errorf("iteration %d is due at %v, want %v", i, got[i], c.want[i])
				}
			}
		})
	}
}

func TestNoErrorOfARateAddsUp(t *testing.T) {
	const rate, seconds = 7, 200_000
	for _, c := range []scenarioConfig{
		{executor: constantArrivalRate, rate: rate, timeUnit: time.Second, duration: seconds * time.Second},
		{executor: rampingArrivalRate, rate: rate, timeUnit: time.Second, stages: []stage{{seconds / 2 * time.Second, rate}, {seconds / 2 * time.Second, rate}}},
	} {
		all := dues(c)
		if len(all) != rate*seconds {
			t.Errorf("%s: %d are due, want %d", c.executor, len(all), rate*seconds)
		}
		last := time.Duration(rate*seconds-1) * time.Second / rate
		if d := all[len(all)-1] - last; d < -time.Microsecond || d > time.Microsecond {
			t.Errorf("%s: the last is due %v beside its time", c.executor, d)
		}
	}
}
