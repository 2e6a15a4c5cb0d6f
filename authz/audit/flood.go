package audit

import (
	"net/netip"

	"github.com/voicecore-ai/sluice/authz"
)

// flood limits what strangers can make the log write. Each source has a rate for single
// records; what is beyond it is counted, and each second one summary for each source
// says how many. All of it has one budget of bytes: what that has no room for is counted
// in one summary for everybody. Guarded by Log.mu.
type flood struct {
	sources map[netip.Prefix]source
	others  source // of those for whom there was no room
	ready   batch
	budget  int   // bytes that may be written
	filled  int64 // when budget was last added to, Unix µs
}

type source struct {
	tat     int64  // theoretical arrival time of GCRA, Unix µs
	missing uint64 // entries counted, not written
	reason  string // of the last of them
}

// summaryBytes is what is kept back for the summary for everybody.
const summaryBytes = 512

// recordAnonymous writes an entry about somebody who proved nothing: singly up to
// Options.SourceRate for its source (Entry.Source as it is recorded), else as part of a count.
// It has a queue and a budget of its own, never blocks, and whatever e.Class is, it is best effort.
func (l *Log) recordAnonymous(e *Entry) {
	at := network(e.Source, l.o.WholeSource)
	l.mu.Lock()
	single := !l.closed && l.flood.admit(e.Time, at, e.Reason, &l.o)
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
	if l.closed || !l.flood.take(e.Time, len(body), &l.o) {
		l.flood.count(at, e.Reason)
		l.stats.suppressed.Add(1)
		return
	}
	l.flood.ready.add(body)
	nudge(l.wake)
}

// admit reports whether the source may have a record of its own.
func (f *flood) admit(now int64, at netip.Prefix, reason string, o *Options) bool {
	s, known := f.sources[at]
	if !known && len(f.sources) >= o.Sources {
		s = f.others
	}
	step := 1_000_000 / int64(o.SourceRate)
	tat := max(s.tat, now)
	single := tat-now <= step*int64(o.SourceBurst-1)
	if single {
		s.tat = tat + step
	} else {
		s.missing++
		s.reason = reason
	}
	if !known && len(f.sources) >= o.Sources {
		f.others = s
	} else {
		f.sources[at] = s
	}
	return single
}

func (f *flood) count(at netip.Prefix, reason string) {
	s, known := f.sources[at]
	if !known {
		f.others.missing++
		f.others.reason = reason
		return
	}
	s.missing++
	s.reason = reason
	f.sources[at] = s
}

// take spends a line with a body of n bytes. The budget fills at SourceBytes a second, up to one second's.
func (f *flood) take(now int64, n int, o *Options) bool {
	n += hashSuffix + len(seqStart) + 20
	if passed := min(now-f.filled, 1_000_000); passed > 0 {
		f.budget = min(f.budget+int(passed*int64(o.SourceBytes)/1_000_000), o.SourceBytes)
		f.filled = now
	} else if passed < -1_000_000 {
		f.filled = now // the clock went back
	}
	if f.budget-n < summaryBytes || len(f.ready.data)+n > 2*o.SourceBytes { // the disk may hang
		return false
	}
	f.budget -= n
	return true
}

// summarize queues what was counted, and forgets sources that are idle.
func (f *flood) summarize(now int64, enc *encoder, o *Options) {
	var space [512]byte
	for at, s := range f.sources {
		if s.missing > 0 {
			body := enc.append(space[:0], summary(now, s, sourceText(at)))
			if f.take(now, len(body), o) {
				f.ready.add(body)
			} else {
				f.others.missing += s.missing
				f.others.reason = s.reason
			}
			s.missing = 0
			f.sources[at] = s
		}
		if s.tat <= now {
			delete(f.sources, at)
		}
	}
	if f.others.missing > 0 {
		f.ready.add(enc.append(space[:0], summary(now, f.others, "")))
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

func summary(now int64, s source, from string) *Entry {
	e := &Entry{Time: now, Kind: kindSummary, Class: authz.BestEffort, Source: from, Reason: s.reason, count: s.missing}
	if from == "" {
		e.Detail = "several sources"
	}
	return e
}
