package redisstore

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// Of the operations with ids of their own that Redis was asked about, so much is kept that no
// denial is believed for one of them: it may have been admitted before, and only Redis knows. It is a
// Bloom filter for each of two periods, 2 MB together: of ids that were not asked about it takes one in
// a hundred for one at 50,000 a second, which costs a command and nothing else.
const (
	askedBits   = 1 << 23
	askedPeriod = 10 * time.Second // Redis knows an id for ten to twenty seconds, here it is as long
)

type asked struct {
	mu      sync.Mutex                // held while periods change
	filters [2]atomic.Pointer[filter] // of even and odd periods
}

type filter struct {
	period int64
	words  [askedBits / 64]atomic.Uint64
}

func places(id [16]byte) [2]uint64 {
	const mix = 0x9e3779b97f4a7c15
	return [2]uint64{binary.BigEndian.Uint64(id[:8]) * mix % askedBits, binary.BigEndian.Uint64(id[8:]) * mix >> 3 % askedBits}
}

func periodOf(now time.Time) int64 { return now.UnixNano() / int64(askedPeriod) }

// add keeps id, which Redis is asked about now.
func (a *asked) add(id [16]byte, now time.Time) {
	period := periodOf(now)
	f := a.filters[period&1].Load()
	if f == nil || f.period != period {
		f = a.turn(period)
	}
	for _, n := range places(id) {
		if w := &f.words[n/64]; w.Load()>>(n%64)&1 == 0 {
			w.Or(1 << (n % 64))
		}
	}
}

// turn begins a period.
func (a *asked) turn(period int64) *filter {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.filters[period&1].Load()
	if f == nil || f.period < period {
		f = &filter{period: period}
		a.filters[period&1].Store(f)
	}
	return f
}

// has reports whether Redis may have been asked about id, in this period or the one before.
func (a *asked) has(id [16]byte, now time.Time) bool {
	period, p := periodOf(now), places(id)
	for i := range a.filters {
		f := a.filters[i].Load()
		if f != nil && f.period >= period-1 && f.words[p[0]/64].Load()>>(p[0]%64)&1 == 1 && f.words[p[1]/64].Load()>>(p[1]%64)&1 == 1 {
			return true
		}
	}
	return false
}
