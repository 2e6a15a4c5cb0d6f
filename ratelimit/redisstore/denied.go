package redisstore

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Of a request that was refused, the states of its cells are remembered. While
// they alone say that a limit refuses, at the time that it is now and by the limit
// as it is now, it does: charges of others only add, and time is counted in. What
// takes away, hits given back, is published by the function; a store that does not
// hear it remembers nothing. So a refusal is never older than a message needs, or,
// if the connection died without a sign, than two beats.
//
// What is given up: of the other limits of such a request, what other replicas charged
// since is not seen. And an operation that another replica admitted, and that is asked again of one
// that has refused for its cell since, is refused there; it is not charged twice. One that this
// replica may have asked for is asked for again (see asked.go).

const (
	beat    = 500 * time.Millisecond // silence after which the channel is asked for a sign of life
	stripes = 64
	// A minute of refusals costs two commands: who removes keys by hand waits as long.
	longest = 30 * time.Second
	// mostDenied cells are remembered per stripe: 32,768 in all, at most 13 MB.
	mostDenied = 512
)

// denials remembers cells of requests that were refused.
type denials struct {
	open   atomic.Bool // what is given back is heard
	size   atomic.Int64
	stripe [stripes]stripe
}

type stripe struct {
	mu    sync.Mutex
	cells map[cellName]memory
	heard uint64 // messages about its cells; what was sent before one is not remembered after it
}

// memory is a cell as Redis found it.
type memory struct {
	state ratelimit.State
	now   int64     // by Redis
	sent  time.Time // when it was asked
}

func (d *denials) of(name cellName) *stripe { return &d.stripe[name%stripes] }

// fill sets the states of r from memory and returns what time that makes it, at
// the latest; false if a cell is not remembered.
func (d *denials) fill(r *request, now time.Time) (at int64, ok bool) {
	if len(r.cells) == 0 || d.size.Load() == 0 || !d.open.Load() {
		return 0, false
	}
	r.room()
	for k, name := range r.cells {
		st := d.of(name)
		st.mu.Lock()
		m, known := st.cells[name]
		if known && now.Sub(m.sent) > longest {
			delete(st.cells, name)
			d.size.Add(-1)
			known = false
		}
		st.mu.Unlock()
		if !known {
			return 0, false
		}
		r.states[k] = m.state
		at = max(at, m.now+now.Sub(m.sent).Microseconds())
	}
	return at, true
}

// heard is how often something was given back around the cells of r.
func (d *denials) heard(r *request) (n uint64) {
	for _, name := range r.cells {
		st := d.of(name)
		st.mu.Lock()
		n += st.heard
		st.mu.Unlock()
	}
	return n
}

// remember keeps the states of r, which was refused. Before it was sent, heard was that.
func (d *denials) remember(r *request, now int64, sent time.Time, heard uint64) {
	if !d.open.Load() || d.heard(r) != heard {
		return
	}
	for k, name := range r.cells {
		st := d.of(name)
		st.mu.Lock()
		if _, known := st.cells[name]; !known {
			for other := range st.cells {
				if len(st.cells) < mostDenied {
					break
				}
				delete(st.cells, other)
				d.size.Add(-1)
			}
			d.size.Add(1)
		}
		if st.cells == nil {
			st.cells = make(map[cellName]memory)
		}
		st.cells[name] = memory{r.states[k], now, sent}
		st.mu.Unlock()
	}
	if d.heard(r) != heard { // a message came between
		for _, name := range r.cells {
			d.forget(name)
		}
	}
}

// update makes what is remembered of the cells of r, which was charged, true again.
func (d *denials) update(r *request, charges []ratelimit.Charge, now int64, sent time.Time) {
	if d.size.Load() == 0 {
		return
	}
	for k, name := range r.cells {
		st := d.of(name)
		st.mu.Lock()
		if m, known := st.cells[name]; known && m.sent.Before(sent) {
			r.apply(charges, now)
			st.cells[name] = memory{r.states[k], now, sent}
		}
		st.mu.Unlock()
	}
}

// forget is for a cell that something was given back to.
func (d *denials) forget(name cellName) {
	st := d.of(name)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.heard++
	if _, known := st.cells[name]; known {
		delete(st.cells, name)
		d.size.Add(-1)
	}
}

// listens begins, or ends, the time in which everything is heard.
func (d *denials) listens(yes bool) {
	d.open.Store(false)
	for i := range d.stripe {
		st := &d.stripe[i]
		st.mu.Lock()
		st.heard++
		d.size.Add(-int64(len(st.cells)))
		clear(st.cells)
		st.mu.Unlock()
	}
	d.open.Store(yes)
}

// refused answers from memory, if that says that r is refused.
func (s *Store) refused(r *request, op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome, now time.Time) bool {
	at, ok := s.denied.fill(r, now)
	if !ok || op.ID != ([16]byte{}) && !op.First && s.asked.has(op.ID, now) {
		return false
	}
	if s.o.CallerTime {
		at = op.Now
	}
	if !r.refuses(charges, at) {
		return false
	}
	s.stats.deniedHits.Add(1)
	r.judge(charges, outcomes, reply{status: denied, now: at})
	return true
}

// refuses reports whether the states of r refuse it, for as long as time does not change them.
func (r *request) refuses(charges []ratelimit.Charge, at int64) bool {
	for i := range charges {
		if !r.asks[i] || charges[i].Hits <= 0 || charges[i].Shadowed() {
			continue
		}
		o := ratelimit.Evaluate(&r.states[r.where[i]], charges[i].Limit, r.ask(charges, i), at)
		if o.Over && o.RetryAfter < ratelimit.Never {
			return true
		}
	}
	return false
}

// channel is where the function says which cell hits were given back to.
func (s *Store) channel() string { return s.o.Prefix + "freed" }

// listen hears what is given back until ctx ends.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s.hear(ctx)
		s.denied.listens(false)
		select {
		case <-ctx.Done():
		case <-time.After(s.o.beat / 5):
		}
	}
}

// hear returns when the connection broke, or gave no sign of life for two beats.
func (s *Store) hear(ctx context.Context) {
	sub := s.o.Client.Subscribe(ctx, s.channel())
	end := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		end()
		_ = sub.Close()
	}()
	asked := false
	for {
		msg, err := sub.ReceiveTimeout(ctx, s.o.beat)
		switch msg := msg.(type) {
		case *redis.Subscription:
			s.denied.listens(true)
		case *redis.Message:
			if n := len(msg.Payload); n >= 8 {
				s.denied.forget(cellName(binary.BigEndian.Uint64([]byte(msg.Payload[n-8:]))))
			}
		}
		if err == nil {
			asked = false
			continue
		}
		if !isTimeout(err) || asked || sub.Ping(ctx) != nil {
			return
		}
		asked = true
	}
}
