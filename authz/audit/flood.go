package audit

import (
	"net/netip"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// flood limits what refused callers can make the log write: strangers by the network
// they come from, proven callers by their tenant. Each source has a rate for single
// records; what is beyond it is counted, and each second one summary for each source
// says how many. All of them have one budget of bytes: what that has no room for is counted
// in one summary for everybody. Guarded by Log.mu.
type flood[K comparable] struct {
	o       floodOptions
	name    func(*Entry, K) // writes into a summary whom it is about
	sources map[K]source
	others  source // of those for whom there was no room
	ready   batch
	budget  int   // bytes that may be written
	filled  int64 // when budget was last added to, Unix µs
}

// floodOptions bound one kind of source.
type floodOptions struct{ rate, burst, sources, bytes int }

func newFlood[K comparable](o floodOptions, name func(*Entry, K)) flood[K] {
	return flood[K]{o: o, name: name, sources: map[K]source{}, budget: o.bytes}
}

func newStrangers(o *Options) flood[netip.Prefix] {
	return newFlood(floodOptions{o.SourceRate, o.SourceBurst, o.Sources, o.SourceBytes},
		func(e *Entry, at netip.Prefix) { e.Source = sourceText(at) })
}

func newRefused(o *Options) flood[tenant.ID] {
	return newFlood(floodOptions{o.TenantRate, o.TenantBurst, o.Sources, o.TenantBytes},
		func(e *Entry, id tenant.ID) { e.Tenant = id })
}

type source struct {
	tat     int64  // theoretical arrival time of GCRA, Unix µs
	missing uint64 // entries counted, not written
	last    ending // of the last of them
}

// ending is what became of a request.
type ending struct {
	allowed              bool
	reason, shadowReason string
}

func endingOf(e *Entry) ending { return ending{e.Allowed, e.Reason, e.ShadowReason} }

// summaryBytes is what is kept back for the summary for everybody.
const summaryBytes = 512

// recordRefused writes an entry about a refusal: singly up to the rate of its source,
// else as part of a count. It has a queue and a budget of its own, never blocks, and
// whatever e.Class is, it is best effort.
func recordRefused[K comparable](l *Log, f *flood[K], at K, e *Entry) {
	l.mu.Lock()
	single := !l.closed && f.admit(e.Time, at, endingOf(e))
	l.mu.Unlock()
	if !single {
		l.stats.suppressed.Add(1)
		return
	}
	var space [2048]byte
	plain := *e
	plain.Class = authz.BestEffort
	body := l.enc.append(space[:0], &plain)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !f.take(e.Time, len(body)) {
		f.count(at, endingOf(e))
		l.stats.suppressed.Add(1)
		return
	}
	f.ready.add(body)
	nudge(l.wake)
}

// admit reports whether the source may have a record of its own.
func (f *flood[K]) admit(now int64, at K, last ending) bool {
	s, known := f.sources[at]
	if !known && len(f.sources) >= f.o.sources {
		s = f.others
	}
	step := 1_000_000 / int64(f.o.rate)
	tat := max(s.tat, now)
	single := tat-now <= step*int64(f.o.burst-1)
	if single {
		s.tat = tat + step
	} else {
		s.missing++
		s.last = last
	}
	if !known && len(f.sources) >= f.o.sources {
		f.others = s
	} else {
		f.sources[at] = s
	}
	return single
}

func (f *flood[K]) count(at K, last ending) {
	s, known := f.sources[at]
	if !known {
		f.others.missing++
		f.others.last = last
		return
	}
	s.missing++
	s.last = last
	f.sources[at] = s
}

// take spends a line with a body of n bytes. The budget fills by so many bytes a second, up to one second's.
func (f *flood[K]) take(now int64, n int) bool {
	n += hashSuffix + len(seqStart) + 20
	if passed := min(now-f.filled, 1_000_000); passed > 0 {
		f.budget = min(f.budget+int(passed*int64(f.o.bytes)/1_000_000), f.o.bytes)
		f.filled = now
	} else if passed < -1_000_000 {
		f.filled = now // the clock went back
	}
	if f.budget-n < summaryBytes || len(f.ready.data)+n > 2*f.o.bytes { // the disk may hang
		return false
	}
	f.budget -= n
	return true
}

// summarize queues what was counted, and forgets sources that are idle.
func (f *flood[K]) summarize(now int64, enc *encoder) {
	var space [512]byte
	for at, s := range f.sources {
		if s.missing > 0 {
			e := summary(now, s)
			f.name(e, at)
			body := enc.append(space[:0], e)
			if f.take(now, len(body)) {
				f.ready.add(body)
			} else {
				f.others.missing += s.missing
				f.others.last = s.last
			}
			s.missing = 0
			f.sources[at] = s
		}
		if s.tat <= now {
			delete(f.sources, at)
		}
	}
	if f.others.missing > 0 {
		e := summary(now, f.others)
		e.Detail = "several sources"
		f.ready.add(enc.append(space[:0], e))
		f.budget = max(f.budget-summaryBytes, 0)
		f.others.missing = 0
	}
}

func sourceText(at netip.Prefix) string {
	if !at.IsValid() {
		return "unknown"
	}
	return at.Addr().String()
}

func summary(now int64, s source) *Entry {
	return &Entry{
		Time: now, Kind: kindSummary, Class: authz.BestEffort, Allowed: s.last.allowed, Reason: s.last.reason, ShadowReason: s.last.shadowReason, count: s.missing,
	}
}
