package traffic

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// mostLimits bounds the limits of a table that have series of their own, one for each outcome.
const mostLimits = 600

// Outcomes of one limit, as indexes of striped.
const (
	covered = iota
	refused
	shadowed
)

var limitOutcomes = [...]string{"allowed", "refused", "shadowed"}

// limitKey names a limit: one of a plan's, or one of descriptor files, which has no plan.
type limitKey struct{ plan, limit string }

// table counts what limits said. Those that come first have their own counts, the others share one. The zero value is empty.
type table struct {
	all   atomic.Pointer[map[limitKey]*striped] // never changed, only replaced; nil is empty
	crowd striped
	mu    sync.Mutex // of who replaces it
}

func (t *table) now() map[limitKey]*striped {
	if all := t.all.Load(); all != nil {
		return *all
	}
	return nil
}

// at is where the decisions of a limit are counted.
func (t *table) at(k limitKey) *striped {
	all := t.now()
	if s := all[k]; s != nil {
		return s
	}
	if len(all) >= mostLimits {
		return &t.crowd
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if all = t.now(); len(all) >= mostLimits && all[k] == nil {
		return &t.crowd
	}
	if s := all[k]; s != nil {
		return s
	}
	next := make(map[limitKey]*striped, len(all)+1)
	maps.Copy(next, all)
	s := new(striped)
	next[limitKey{strings.Clone(k.plan), strings.Clone(k.limit)}] = s
	t.all.Store(&next)
	return s
}

// collect hands all counts to add.
func (t *table) collect(add func(limitKey, *striped)) {
	add(limitKey{others, others}, &t.crowd)
	for k, s := range t.now() {
		add(k, s)
	}
}

// configured is a limit as it is declared.
type configured struct {
	limitKey
	hits, window float64
}

// declared are the limits that come first in the alphabet, as many as have series. Of two with one name the first is shown.
func declared(limits iter.Seq2[string, *ratelimit.Limit]) (all []configured) {
	seen := map[limitKey]bool{}
	for plan, l := range limits {
		if k := (limitKey{plan, l.Name}); !seen[k] {
			seen[k] = true
			all = append(all, configured{k, float64(l.Hits), l.Window.Seconds()})
		}
	}
	slices.SortFunc(all, func(a, b configured) int {
		return cmp.Or(strings.Compare(a.plan, b.plan), strings.Compare(a.limit, b.limit))
	})
	return all[:min(len(all), mostLimits)]
}

// sendOutcomes sends the counts of one limit, with these labels and the outcome's.
func sendOutcomes(c chan<- prometheus.Metric, d *prometheus.Desc, s *striped, labels ...string) {
	for i, outcome := range limitOutcomes {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(s.sum(i)), append(labels[:len(labels):len(labels)], outcome)...)
	}
}
