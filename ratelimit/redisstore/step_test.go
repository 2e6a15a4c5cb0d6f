package redisstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// replay runs one random history through the function and through the Go step
// and compares outcomes and states, so everything that can follow, too.
type replay struct {
	s      *Store
	rng    *rand.Rand
	now    int64
	limits []*ratelimit.Limit
	cells  []ratelimit.Cell
	states map[cellName]*ratelimit.State
}

var replays uint64 // no two share a cell

func newReplay(s *Store, seed uint64) *replay {
	replays++
	r := &replay{s: s, rng: rand.New(rand.NewPCG(seed, 1)), states: map[cellName]*ratelimit.State{}}
	r.now = []int64{1, 1_700_000_000_000_000, 1_700_000_000_000_000 + r.rng.Int64N(1e15), 1<<51 + r.rng.Int64N(1<<50)}[r.rng.IntN(4)]
	for range 1 + r.rng.IntN(3) {
		var c ratelimit.Cell
		binary.BigEndian.PutUint64(c.Key[:], replays)
		c.Key[15] = byte(len(r.cells))
		r.cells = append(r.cells, c)
	}
	for range 1 + r.rng.IntN(4) {
		l := r.limit()
		if len(r.limits) > 0 && r.rng.IntN(3) > 0 { // the first one, changed
			hits := l.Hits
			*l = *r.limits[0]
			switch r.rng.IntN(3) {
			case 0:
				l.Hits = hits
			case 1:
				l.Hits = min(max(l.Hits*(1+r.rng.Int64N(9))/4, -1), ratelimit.MaxHits)
			case 2:
				l.Window = min(max(l.Window*time.Duration(1+r.rng.Int64N(9))/4, ratelimit.MinWindow), ratelimit.MaxWindow).Truncate(time.Microsecond)
			}
		}
		r.limits = append(r.limits, l)
	}
	return r
}

// skewed is mostly small, sometimes as large as it gets.
func (r *replay) skewed(most int64) int64 {
	switch r.rng.IntN(8) {
	case 0:
		return most - r.rng.Int64N(min(most, 1000))
	case 1:
		return 1 + r.rng.Int64N(most)
	case 2:
		return 1 + r.rng.Int64N(min(most, 100_000))
	}
	return 1 + r.rng.Int64N(min(most, 300))
}

func (r *replay) limit() *ratelimit.Limit {
	l := &ratelimit.Limit{
		Algorithm: []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed}[r.rng.IntN(3)],
		Hits:      r.skewed(ratelimit.MaxHits), Burst: r.skewed(ratelimit.MaxHits),
	}
	switch r.rng.IntN(6) {
	case 0:
		l.Window = time.Duration(r.skewed(ratelimit.MaxWindow.Microseconds())) * time.Microsecond
	case 1:
		l.Window = time.Duration(r.skewed(ratelimit.MaxWindow.Milliseconds())) * time.Millisecond
	default:
		l.Window = []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 365 * 24 * time.Hour}[r.rng.IntN(5)] * time.Duration(1+r.rng.IntN(3))
	}
	l.Window = min(max(l.Window, ratelimit.MinWindow), ratelimit.MaxWindow)
	switch r.rng.IntN(20) {
	case 0:
		l.Hits = 0
	case 1:
		l.Hits = ratelimit.Unlimited
	}
	l.Shadow = r.rng.IntN(10) == 0
	return l
}

func (r *replay) charges() []ratelimit.Charge {
	charges := make([]ratelimit.Charge, 1+r.rng.IntN(3))
	for i := range charges {
		c := &charges[i]
		c.Limit, c.Cell = r.limits[r.rng.IntN(len(r.limits))], r.cells[r.rng.IntN(len(r.cells))]
		c.Shadow = r.rng.IntN(3) == 0
		switch r.rng.IntN(12) {
		case 0:
		case 1:
			c.Hits = -r.skewed(ratelimit.MaxHits * 2)
		case 2:
			c.Hits = r.skewed(1 << 62)
		case 3:
			c.Hits = max(c.Limit.Hits, 1)
		case 4:
			c.Hits = max(c.Limit.Burst/2, 1)
		default:
			c.Hits = r.skewed(min(max(c.Limit.Hits/3, 2), ratelimit.MaxHits))
		}
	}
	return charges
}

// pass lets time go by: mostly a little, sometimes to the edge of something, sometimes back.
func (r *replay) pass(charges []ratelimit.Charge, outcomes []ratelimit.Outcome) {
	l := r.limits[r.rng.IntN(len(r.limits))]
	d := int64(0)
	switch i := r.rng.IntN(len(outcomes)); r.rng.IntN(8) {
	case 0:
		d = r.rng.Int64N(3)
	case 1:
		d = r.rng.Int64N(l.Window.Microseconds())
	case 2:
		d = outcomes[i].RetryAfter - r.rng.Int64N(3)
	case 3:
		d = outcomes[i].ResetAfter - r.rng.Int64N(3)
	case 4:
		d = -r.rng.Int64N(l.Window.Microseconds() / 2)
	case 5:
		d = l.Window.Microseconds()/60 + r.rng.Int64N(1000)
	}
	if next := r.now + d; next > 0 && next < maxTime-2*ratelimit.MaxWindow.Microseconds() && d < 2*ratelimit.MaxWindow.Microseconds() {
		r.now = next
	}
}

func (r *replay) state(c *ratelimit.Charge) *ratelimit.State {
	name := nameOf(&c.Cell, c.Limit.Algorithm)
	if r.states[name] == nil {
		r.states[name] = &ratelimit.State{Ring: new(ratelimit.Ring)}
	}
	return r.states[name]
}

// want is what the Go step makes of charges.
func (r *replay) want(charges []ratelimit.Charge) (ok bool, outcomes []ratelimit.Outcome) {
	ok, outcomes = true, make([]ratelimit.Outcome, len(charges))
	for i := range charges {
		c := &charges[i]
		ask := min(c.Hits, 1<<40)
		for j := range i {
			if ask > 0 && r.state(&charges[j]) == r.state(c) && charges[j].Hits > 0 && charges[j].Limit.Hits > 0 {
				ask += min(charges[j].Hits, 1<<40)
			}
		}
		outcomes[i] = ratelimit.Evaluate(r.state(c), c.Limit, ask, r.now)
		ok = ok && (!outcomes[i].Over || c.Shadowed())
	}
	for i := range charges {
		if ok {
			ratelimit.Apply(r.state(&charges[i]), charges[i].Limit, charges[i].Hits, r.now)
		}
	}
	for i := range charges {
		if o := &outcomes[i]; o.Over == ok {
			over, retry := o.Over, o.RetryAfter
			*o = ratelimit.Evaluate(r.state(&charges[i]), charges[i].Limit, 0, r.now)
			o.Over, o.RetryAfter = over, retry
		}
	}
	return ok, outcomes
}

// step charges both, one request or several in one call of the function, and compares.
func (r *replay) step() error {
	requests := [][]ratelimit.Charge{r.charges()}
	for !r.s.cluster && r.rng.IntN(3) == 0 && len(requests) < maxTogether {
		requests = append(requests, r.charges())
	}
	n := len(requests)
	oks, wants, gots := make([]bool, n), make([][]ratelimit.Outcome, n), make([][]ratelimit.Outcome, n)
	for i, charges := range requests {
		oks[i], wants[i] = r.want(charges)
		gots[i] = make([]ratelimit.Outcome, len(charges))
	}
	gotOKs := make([]bool, 1)
	var err error
	if n == 1 {
		gotOKs[0], err = r.s.Charge(ratelimit.Operation{Now: r.now}, requests[0], gots[0])
	} else {
		gotOKs, err = chargeTogether(r.s, r.now, requests, gots)
	}
	if err != nil {
		return err
	}
	for k, charges := range requests {
		describe := func() (text string) {
			for i, c := range charges {
				text += fmt.Sprintf("\n  %d of %+v, shadow %v: got %+v, want %+v", c.Hits, *c.Limit, c.Shadow, gots[k][i], wants[k][i])
			}
			return fmt.Sprintf("request %d of %d, at %d: admitted %v, want %v", k+1, n, r.now, gotOKs[k], oks[k]) + text
		}
		if gotOKs[k] != oks[k] || !slices.Equal(gots[k], wants[k]) {
			return errors.New(describe())
		}
		for i := range charges {
			if err := r.compare(&charges[i]); err != nil {
				return fmt.Errorf("%w\n%s", err, describe())
			}
		}
	}
	r.pass(requests[n-1], gots[n-1])
	return nil
}

// chargeTogether is Charge for several requests in one call of the function.
func chargeTogether(s *Store, now int64, requests [][]ratelimit.Charge, outcomes [][]ratelimit.Outcome) ([]bool, error) {
	asked, batch := make([]request, len(requests)), make([]*call, 0, len(requests))
	for i, charges := range requests {
		if asked[i].collect(charges); len(asked[i].cells) > 0 {
			batch = append(batch, s.encode(&asked[i], ratelimit.Operation{Now: now}, charges))
		}
	}
	var answers answers
	if len(batch) > 0 {
		cmd := redis.NewStringCmd(context.Background(), s.arguments(batch)...)
		_ = s.o.Client.Process(context.Background(), cmd)
		answers = s.answers(cmd)
	}
	oks := make([]bool, len(requests))
	for i, charges := range requests {
		r, rep := &asked[i], reply{now: now, status: admitted}
		if len(r.cells) > 0 {
			var err error
			if rep, err = answers.next(batch[0]); err != nil {
				return nil, err
			}
			if err := r.decode(rep); err != nil {
				return nil, err
			}
			batch = batch[1:]
		}
		oks[i] = r.judge(charges, outcomes[i], rep)
		for _, name := range r.cells {
			s.denied.forget(name) // as Charge does if hits are given back: here they may be
		}
	}
	return oks, nil
}

// compare compares the cell in Redis with the state in Go.
func (r *replay) compare(c *ratelimit.Charge) error {
	if c.Limit.Hits <= 0 {
		return nil
	}
	key := binary.BigEndian.AppendUint64(appendTag([]byte(r.s.o.Counters), c.Cell.Shard), uint64(nameOf(&c.Cell, c.Limit.Algorithm)))
	v, err := r.s.o.Client.Get(context.Background(), string(key)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	var got ratelimit.State
	if !decodeState(&got, v) {
		return fmt.Errorf("the cell is %q", v)
	}
	want := *r.state(c)
	if got.Expires != want.Expires || got.At != want.At || got.Level != want.Level {
		return fmt.Errorf("the cell is %+v, want %+v", got, want)
	}
	if got.Ring == nil || want.Ring.Len == 0 && got.Ring.Len == 0 {
		return nil
	}
	g, w := got.Ring, *want.Ring
	if g.Tick != w.Tick || g.Last != w.Last || g.Size != w.Size || g.Fill != w.Fill || g.Len != w.Len {
		return fmt.Errorf("the ring is %+v, want %+v", *g, w)
	}
	for i := range int(w.Len) {
		if g.Stamp[i] != w.Stamp[(int(w.First)+i)%len(w.Stamp)] {
			return fmt.Errorf("stamp %d of the ring %+v is not that of %+v", i, *g, w)
		}
	}
	return nil
}

// TestMulDiv compares the product that doubles can't hold with one of 128 bits.
func TestMulDiv(t *testing.T) {
	const mulDivs = `redis.register_function('muldiv', function(keys, args)
		globals()
		local out = {}
		for i = 1, #args, 3 do
			local q, r = mulDiv(tonumber(args[i]), tonumber(args[i+1]), tonumber(args[i+2]))
			out[#out+1] = string.format('%.0f %.0f', q, r)
		end
		return out
	end)`
	ctx, client := context.Background(), connect(t, redistest.Start(t).Addr)
	if err := client.FunctionLoad(ctx, "#!lua name=test\n"+arithmeticLua+mulDivs).Err(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	wide := func(bits int) int64 { return 1 + rng.Int64N(1<<(1+rng.IntN(bits))) }
	for range 200 {
		var args []any
		var want []string
		for range 100 {
			a, b, c := wide(51), wide(51), wide(45)
			if rng.IntN(3) == 0 { // close to a whole quotient
				a = min(max(1, c/(1+rng.Int64N(9))*wide(20)), maxTime-1)
			}
			hi, lo := bits.Mul64(uint64(a), uint64(b))
			text := fmt.Sprintf("%d 0", maxTime)
			if hi < uint64(c) {
				if q, r := bits.Div64(hi, lo, uint64(c)); q < uint64(maxTime) {
					text = fmt.Sprint(q, r)
				}
			}
			args, want = append(args, a, b, c), append(want, text)
		}
		got, err := client.FCall(ctx, "muldiv", nil, args...).StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%d × %d / %d is %s, want %s", args[3*i], args[3*i+1], args[3*i+2], got[i], want[i])
			}
		}
	}
}

func FuzzStep(f *testing.F) {
	const most = 5 * time.Second // of a history, which takes a fiftieth: Go says of ten that they hang
	// A machine that stands still is no finding, so an answer has more than the five seconds of the client's own.
	client := redis.NewClient(&redis.Options{
		Addr: redistest.Start(f).Addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DialTimeout: patient, ReadTimeout: patient, WriteTimeout: patient,
	})
	f.Cleanup(func() { _ = client.Close() })
	stores := make([]*Store, 4)
	for i := range stores {
		stores[i] = openTest(f, Options{Client: client, CallerTime: true})
	}
	stores[3].cluster = true // it calls the function that a cluster's does, one request at a time
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := newReplay(stores[seed%uint64(len(stores))], seed)
		for i, began := 0, time.Now(); i < 60 && time.Since(began) < most; i++ {
			if err := r.step(); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, i, err)
			}
		}
	})
}
