package redisstore

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// What frame.lua calls modes, flags and statuses.
const (
	fresh   = 0 // an id that nobody else has asked with
	careful = 1
	look    = 2
	force   = 3

	shadow = 1
	back   = 2
	summed = 4

	admitted = 'A'
	denied   = 'D'
	repeated = 'R'
	failed   = 'E'
)

const (
	maxTime = int64(1) << 52   // doubles multiply below that exactly
	forever = int64(1)<<56 - 8 // expires of what never does
	hardLen = 33               // of a Hard cell
)

// cellName is what a cell is called in Redis, behind the tag.
type cellName uint64

// nameOf folds 128 keyed bits to 64; the tag tells two tenants apart by 16 more.
func nameOf(c *ratelimit.Cell, a ratelimit.Algorithm) cellName {
	const mix = 0x9e3779b97f4a7c15
	high, low := binary.BigEndian.Uint64(c.Key[:8]), binary.BigEndian.Uint64(c.Key[8:])
	return cellName(bits.RotateLeft64(high*mix, 32) ^ low ^ bits.ReverseBytes64(uint64(a)*mix))
}

const tagLen = 4

// appendTag appends what decides the slot: two bytes of the shard, never a brace.
func appendTag(b []byte, shard uint64) []byte {
	const letters = 254
	h := shard * 0xd6e8feb86659fd93 >> 32
	b = append(b, '{')
	for range 2 {
		c := byte(h % letters)
		h /= letters
		if c >= '{' {
			c++ // '{' is skipped
		}
		if c >= '}' {
			c++
		}
		b = append(b, c)
	}
	return append(b, '}')
}

// request is one Charge on its way.
type request struct {
	cells  []cellName // each once
	where  [MaxCharges]uint8
	asks   [MaxCharges]bool // the charge has a cell
	shard  uint64
	shards int
	barred bool // a limit of 0 refuses
	idle   bool // nothing changes
	frees  bool // hits are given back
	forced bool
	after  bool // states are those after the charge

	states []ratelimit.State // of cells
	few    [4]cellName
	fewS   [4]ratelimit.State
}

// room makes room for the states of the cells.
func (r *request) room() {
	r.states = r.fewS[:0]
	if len(r.cells) > len(r.fewS) {
		r.states = make([]ratelimit.State, 0, len(r.cells))
	}
	r.states = r.states[:len(r.cells)]
}

// collect finds the cells that charges need.
func (r *request) collect(charges []ratelimit.Charge) {
	*r = request{idle: true}
	r.cells = r.few[:0]
	for i := range charges {
		c := &charges[i]
		if c.Limit.Hits <= 0 {
			r.barred = r.barred || c.Limit.Hits != ratelimit.Unlimited && c.Hits > 0 && !c.Shadowed()
			continue
		}
		switch c.Limit.Algorithm {
		case ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed:
		default: // as Evaluate does
			r.barred = r.barred || c.Hits > 0 && !c.Shadowed()
			continue
		}
		if r.shards == 0 || r.shards == 1 && r.shard != c.Cell.Shard {
			r.shard = c.Cell.Shard
			r.shards++
		}
		name := nameOf(&c.Cell, c.Limit.Algorithm)
		k := 0
		for k < len(r.cells) && r.cells[k] != name {
			k++
		}
		if k == len(r.cells) {
			r.cells = append(r.cells, name)
		}
		r.where[i], r.asks[i] = uint8(k), true
		r.idle = r.idle && hitsOf(c) == 0
		r.frees = r.frees || hitsOf(c) < 0
	}
	r.idle = r.idle || r.barred
}

// hitsOf is the hits of c as far as they matter.
func hitsOf(c *ratelimit.Charge) int64 {
	if c.Hits >= 0 {
		return min(c.Hits, ratelimit.MaxHits+1)
	}
	if c.Limit.Algorithm == ratelimit.Fixed {
		return max(c.Hits, -ratelimit.MaxHits)
	}
	return 0
}

// encode makes the call of a request.
func (s *Store) encode(r *request, op ratelimit.Operation, charges []ratelimit.Charge) *call {
	c, first := s.newCall(), false
	c.id, first = s.id(op)
	c.mode, c.frees = careful, r.frees
	switch {
	case r.forced:
		c.mode, c.at = force, min(max(op.Now, 0), maxTime)
	case r.idle:
		c.mode = look
	case first && !s.cluster: // whose client sends again by itself after a lost answer
		c.mode = fresh
	}
	if s.o.CallerTime {
		c.now = op.Now
	}
	size := len(s.o.Counters) + tagLen + 8
	text := c.text
	for k, name := range r.cells {
		text = appendTag(append(text, s.o.Counters...), r.shardOf(k, charges))
		text = binary.BigEndian.AppendUint64(text, uint64(name))
	}
	for i := range charges {
		if r.asks[i] {
			text = r.appendCharge(text, charges, i)
		}
	}
	c.text = text
	all := string(text)
	for range r.cells {
		c.keys, all = append(c.keys, all[:size]), all[size:]
	}
	c.charges = all
	return c
}

// shardOf is that of the first charge with cell k.
func (r *request) shardOf(k int, charges []ratelimit.Charge) uint64 {
	if r.shards > 1 {
		for i := range charges {
			if r.asks[i] && int(r.where[i]) == k {
				return charges[i].Cell.Shard
			}
		}
	}
	return r.shard
}

func (r *request) appendCharge(b []byte, charges []ratelimit.Charge, i int) []byte {
	c := &charges[i]
	l, hits := c.Limit, hitsOf(c)
	flags := byte(0)
	if c.Shadowed() {
		flags |= shadow
	}
	ask := r.ask(charges, i)
	switch {
	case hits < 0:
		flags |= back
		hits = -hits
	case ask != hits:
		flags |= summed
	}
	b = append(b, byte(l.Algorithm), flags, r.where[i]+1)
	b = appendUint(b, hits, 5)
	window := max(l.Window.Microseconds(), 1)
	switch l.Algorithm {
	case ratelimit.GCRA:
		num, den := min(l.Hits, ratelimit.MaxHits), window
		for _, unit := range []int64{1000, 1000} {
			if den%unit == 0 {
				den /= unit
			} else {
				num *= unit
			}
		}
		b = appendUint(appendUint(b, num, 7), den, 6)
		b = appendUint(b, min(max(l.Burst, 0), ratelimit.MaxHits), 5)
	case ratelimit.Hard:
		b = appendUint(appendUint(b, min(l.Hits, math.MaxUint32), 7), window, 6)
		b = appendUint(b, (window+59_999)/60_000, 5)
	case ratelimit.Fixed:
		b = appendUint(appendUint(b, min(l.Hits, ratelimit.MaxHits), 7), window, 6)
		b = appendUint(b, windowCode(window), 5)
	}
	if flags&summed != 0 {
		b = appendUint(b, ask, 6)
	}
	return b
}

// ask is what charge i has to find room for: its hits, and those of earlier charges of its cell.
func (r *request) ask(charges []ratelimit.Charge, i int) int64 {
	ask := hitsOf(&charges[i])
	if ask <= 0 {
		return ask
	}
	for j := range i {
		if r.asks[j] && r.where[j] == r.where[i] {
			ask += max(hitsOf(&charges[j]), 0)
		}
	}
	return ask
}

var units = [...]int64{time.Second.Microseconds(), time.Minute.Microseconds(), time.Hour.Microseconds(), 24 * time.Hour.Microseconds()}

// windowCode is what fixed.lua writes instead of a window; 0 for one that it can't.
func windowCode(window int64) int64 {
	const most = 511
	for unit, us := range units {
		if n := window / us; n*us == window && n <= most {
			return int64(unit)*(most+1) + n
		}
	}
	return 0
}

func appendUint(b []byte, v int64, size int) []byte {
	for size--; size >= 0; size-- {
		b = append(b, byte(v>>(8*size)))
	}
	return b
}

// reply is what the function answers to a request.
type reply struct {
	status byte
	now    int64
	cells  string
}

var errReply = errors.New("redisstore: a cell or an answer that is none of ours; does another program use these keys?")

// decode reads the states that the cells were in.
func (r *request) decode(rep reply) error {
	switch rep.status {
	case admitted, denied, repeated:
	default: // what nobody knows admits nobody
		return errReply
	}
	text := rep.cells
	r.room()
	for k := range r.states {
		r.states[k] = ratelimit.State{}
		if len(text) < 2 {
			return errReply
		}
		n := int(text[0])<<8 | int(text[1])
		if len(text) < 2+n || !decodeState(&r.states[k], text[2:2+n]) {
			return errReply
		}
		text = text[2+n:]
	}
	return nil
}

// decodeState reads a cell. Lengths tell the algorithms apart.
func decodeState(s *ratelimit.State, v string) bool {
	switch n := len(v); {
	case n == 0:
		return true
	case n == 12: // Fixed
		y := readUint(v[6:])
		s.Level = y & (1<<33 - 1)
		code := y >> 33 & (1<<11 - 1)
		s.At = readUint(v[:6])<<4 | y>>44
		window := units[code>>9] * (code & 511)
		if window == 0 {
			return false
		}
		s.Expires = s.At - s.At%window + window
	case n == 19: // Fixed, with an odd window
		s.Expires, s.At, s.Level = readUint(v[:7]), readUint(v[7:14]), readUint(v[14:])
	case n == 21: // GCRA
		if s.Expires, s.At, s.Level = readUint(v[:7]), readUint(v[7:14]), readUint(v[14:]); s.Expires == forever {
			s.Expires = math.MaxInt64
		}
	case n >= hardLen && (n-hardLen)%2 == 0 && (n-hardLen)/2 <= 120:
		decodeHard(s, v)
	default:
		return false
	}
	return true
}

func decodeHard(s *ratelimit.State, v string) {
	r := new(ratelimit.Ring)
	s.Ring, s.Expires, s.At = r, readUint(v[:7]), readUint(v[7:14])
	r.Tick, r.Last = readUint(v[14:18]), readUint(v[18:25])
	r.Size, r.Fill = uint32(readUint(v[25:29])), uint32(readUint(v[29:33]))
	for v = v[hardLen:]; len(v) > 0; v = v[2:] {
		r.Stamp[r.Len] = uint16(v[0])<<8 | uint16(v[1])
		r.Len++
	}
	if r.Len > 0 {
		s.Level = int64(r.Size)*(int64(r.Len)-1) + int64(r.Fill)
	}
}

func readUint(s string) (v int64) {
	for i := range len(s) {
		v = v<<8 | int64(s[i])
	}
	return v
}

// judge says what each limit says, and whether all are charged, as Redis did.
func (r *request) judge(charges []ratelimit.Charge, outcomes []ratelimit.Outcome, rep reply) bool {
	ok := rep.status != denied && !r.barred
	var none ratelimit.State
	refill := false
	for i := range charges {
		c := &charges[i]
		if !r.asks[i] {
			outcomes[i] = ratelimit.Evaluate(&none, c.Limit, c.Hits, rep.now)
			continue
		}
		ask := r.ask(charges, i)
		if rep.status == repeated {
			ask = 0
		}
		s := &r.states[r.where[i]]
		o := ratelimit.Evaluate(s, c.Limit, ask, rep.now)
		switch {
		case o.Over && ok: // a shadow's: it shows what it is after the charge
			refill = true
		case !o.Over && !ok:
			o = ratelimit.Evaluate(s, c.Limit, 0, rep.now)
		}
		outcomes[i] = o
	}
	if !refill {
		return ok
	}
	r.apply(charges, rep.now)
	for i := range charges {
		if r.asks[i] && outcomes[i].Over {
			retry := outcomes[i].RetryAfter
			outcomes[i] = ratelimit.Evaluate(&r.states[r.where[i]], charges[i].Limit, 0, rep.now)
			outcomes[i].Over, outcomes[i].RetryAfter = true, retry
		}
	}
	return ok
}

// apply does to the states what the function did to the cells.
func (r *request) apply(charges []ratelimit.Charge, now int64) {
	if r.after {
		return
	}
	r.after = true
	for i := range charges {
		if r.asks[i] {
			s := &r.states[r.where[i]]
			if charges[i].Limit.Algorithm == ratelimit.Hard && s.Ring == nil {
				s.Ring = new(ratelimit.Ring)
			}
			ratelimit.Apply(s, charges[i].Limit, hitsOf(&charges[i]), now)
		}
	}
}
