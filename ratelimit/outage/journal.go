package outage

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// chunk is how many operations are forgotten, or counted again, together: few enough that requests do not wait behind them.
const chunk = 64

// journal keeps admissions, in the order in which the shared store counted them, or would have: at most so many, and those older
// than a horizon only as long as they share a chunk with younger ones.
type journal struct {
	most int
	lost atomic.Uint64 // operations that there was no room for

	mu     sync.Mutex
	chunks []*page
	spare  *page
	held   int
}

// page is up to a chunk of operations.
type page struct {
	records []record
	charges []ratelimit.Charge // of all records, one after the other
	placed  time.Time          // when the last record came
	horizon time.Time          // what is older is counted again if it can be, and nobody misses it if not
	look    uint64             // see Store.behind
}

type record struct {
	op   ratelimit.Operation
	from int       // in charges
	at   time.Time // when it was admitted
	seen sight
	sent time.Time // when the shared store may first have seen it; zero: never
}

// sight is what the shared store knows of an operation.
type sight uint8

const (
	unseen       sight = iota
	sent               // it may have charged it
	acknowledged       // it has, and may have lost it since
)

// add keeps an admission, and forgets what was admitted before horizon. What is full forgets its oldest.
func (j *journal) add(op ratelimit.Operation, charges []ratelimit.Charge, seen sight, horizon time.Time) {
	r := record{op: op, at: time.Now(), seen: seen}
	if seen != unseen {
		r.sent = r.at
	}
	j.keep(r, charges, r.at, horizon)
}

// keep keeps r, which comes now.
func (j *journal) keep(r record, charges []ratelimit.Charge, now, horizon time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	last := len(j.chunks) - 1
	if last < 0 || len(j.chunks[last].records) >= chunk {
		j.forget(horizon)
		j.chunks = append(j.chunks, j.blank())
		last = len(j.chunks) - 1
	}
	j.chunks[last].push(r, charges, changing)
	j.chunks[last].placed = now
	j.held++
}

// forget drops the pages that are older than horizon, and those for which there is no room.
func (j *journal) forget(horizon time.Time) {
	n := 0
	for ; n < len(j.chunks); n++ {
		p := j.chunks[n]
		full := j.held+chunk > j.most
		if !full && !p.placed.Before(horizon) {
			break
		}
		j.lost.Add(uint64(len(p.records)))
		j.held -= len(p.records)
		j.spare = p
	}
	j.chunks = append(j.chunks[:0], j.chunks[n:]...)
}

func (j *journal) blank() *page {
	p := j.spare
	if j.spare = nil; p == nil {
		return &page{records: make([]record, 0, chunk)}
	}
	clear(p.charges) // the limits of a catalogue that is gone
	*p = page{records: p.records[:0], charges: p.charges[:0]}
	return p
}

// take empties j.
func (j *journal) take() []*page {
	j.mu.Lock()
	defer j.mu.Unlock()
	taken := j.chunks
	j.chunks, j.held = nil, 0
	return taken
}

// giveBack puts pages before what came since. What is full forgets its oldest.
func (j *journal) giveBack(pages []*page) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.chunks = append(pages, j.chunks...)
	for _, p := range pages {
		j.held += len(p.records)
	}
	n := 0
	for ; j.held > j.most; n++ {
		j.lost.Add(uint64(len(j.chunks[n].records)))
		j.held -= len(j.chunks[n].records)
	}
	j.chunks = j.chunks[n:]
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.held
}

// What of a record's charges is pushed.
// changing reports whether c changes a counter: a look does not, and limits of 0 and unlimited ones have none.
func changing(c *ratelimit.Charge) bool { return c.Hits != 0 && c.Limit.Hits > 0 }
func every(*ratelimit.Charge) bool      { return true }

// push adds those of charges that are wanted, and r if there is one.
func (p *page) push(r record, charges []ratelimit.Charge, wanted func(*ratelimit.Charge) bool) {
	r.from = len(p.charges)
	for i := range charges {
		if wanted(&charges[i]) {
			p.charges = append(p.charges, charges[i])
		}
	}
	if len(p.charges) > r.from {
		p.records = append(p.records, r)
	}
}

// of is the charges of record i.
func (p *page) of(i int) []ratelimit.Charge {
	to := len(p.charges)
	if i+1 < len(p.records) {
		to = p.records[i+1].from
	}
	return p.charges[p.records[i].from:to]
}

// trouble is a time in which the shared store gave cause to doubt what it holds.
type trouble struct {
	on    atomic.Bool
	mu    sync.Mutex
	since time.Time
	lossy bool // it may have lost what it acknowledged
}

func (t *trouble) begun() bool { return t.on.Load() }

func (t *trouble) begin(now time.Time, lossy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		t.since = now
		t.on.Store(true)
	}
	t.lossy = t.lossy || lossy
}

// end is when it began, and whether it was lossy.
func (t *trouble) end() (since time.Time, lossy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since, lossy = t.since, t.lossy
	t.since, t.lossy = time.Time{}, false
	t.on.Store(false)
	return since, lossy
}

// horizon is age before now, or before the trouble began.
func (t *trouble) horizon(age time.Duration) time.Time {
	if !t.on.Load() {
		return time.Now().Add(-age)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return time.Now().Add(-age)
	}
	return t.since.Add(-age)
}
