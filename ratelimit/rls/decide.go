package rls

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/authz/rawpb"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// call is the scratch space of one call; it is pooled.
type call struct {
	raw      rawpb.Raw
	req      request
	key      []byte
	met      []met // by descriptor
	charges  []ratelimit.Charge
	outcomes []ratelimit.Outcome
	spare    []ratelimit.Charge // of what is charged although refused
	spareOut []ratelimit.Outcome
	out      []byte
}

// met is what one descriptor met.
type met struct {
	rule   *rule // nil: no limit
	cell   ratelimit.Cell
	charge int // index; -1: none
	over   bool
}

// keep is the most scratch space of a kind, in bytes, that the pool keeps.
const keep = 64 << 10

func (c *call) recycle(pool *sync.Pool) {
	if cap(c.raw.Bytes) <= keep && cap(c.key) <= keep && cap(c.out) <= keep {
		pool.Put(c)
	}
}

func (c *call) refuse() { c.out = appendOverall(c.out[:0], true) }

// decide answers the request in c.raw at now into c.out.
func (d *Door) decide(c *call, now int64) Result {
	c.out = c.out[:0]
	if !c.req.parse(c.raw.Bytes) || !c.req.valid() {
		c.refuse()
		return Malformed
	}
	dom := d.config.Load().domains[string(c.req.domain)]
	if dom == nil {
		d.warnDomain(&c.req)
		c.same(d.o.UnknownDomain == Deny)
		return UnknownDomain
	}
	if !d.match(c, dom) {
		c.refuse()
		return Malformed
	}
	c.replace()
	c.fill(d.o.Soft)
	over, err := d.charge(c, now)
	if err != nil {
		d.warn(StoreFailed, "the store can't count", "error", err)
		c.failed(d.o.OnError == Deny)
		return StoreFailed
	}
	if d.o.OnLimit != nil {
		d.observe(c)
	}
	c.encode(over, d.o.Headers, now)
	switch {
	case over:
		return OverLimit
	case d.o.Soft && c.overlooked():
		return Shadowed
	default:
		return OK
	}
}

// overlooked reports whether a limit would have refused that the soft stage keeps from it.
func (c *call) overlooked() bool {
	for i := range c.met {
		if m := &c.met[i]; m.over && !m.rule.limit.Shadow {
			return true
		}
	}
	return false
}

func (d *Door) warnDomain(r *request) {
	if d.o.Now() >= d.nextLog[UnknownDomain].Load() { // the string is made only to be logged
		d.warn(UnknownDomain, "no file describes the domain of a request", "domain", string(r.domain))
	}
}

// match finds rule and cell of every descriptor. It reports false for an
// override that is no limit.
func (d *Door) match(c *call, dom *domain) bool {
	c.met = c.met[:0]
	c.key = appendSized(c.key[:0], c.req.domain)
	prefix := len(c.key)
	for i := range c.req.descriptors {
		desc := &c.req.descriptors[i]
		entries := c.req.entries[desc.from:desc.to]
		m := met{charge: -1}
		first := 0
		c.key = c.key[:prefix]
		if desc.overrides {
			if m.rule = d.overrides.rule(desc.override); m.rule == nil {
				return false
			}
			for j := range entries {
				c.key = appendEntry(c.key, tagValue, entries[j].key, entries[j].value)
				if j == 0 {
					first = len(c.key)
				}
			}
		} else {
			m.rule, c.key, first = dom.match(entries, c.key)
		}
		if m.rule != nil && m.rule.limit != nil {
			if d.o.OneShard {
				first = prefix
			}
			m.cell, c.key = d.hash.cell(c.key, first, m.rule.limit)
		}
		c.met = append(c.met, m)
	}
	return true
}

// replace drops the limits that another one of the request replaces by name.
func (c *call) replace() {
	for i := range c.met {
		r := c.met[i].rule
		if r == nil {
			continue
		}
		for _, id := range r.replaces {
			for j := range c.met {
				if other := c.met[j].rule; other != nil && other.id == id && other.limit != nil {
					// Nil now, but its own replaces count: the loop may not have met it yet.
					c.met[j].charge = replaced
				}
			}
		}
	}
	for i := range c.met {
		if c.met[i].charge == replaced {
			c.met[i].rule, c.met[i].charge = nil, -1
		}
	}
}

// replaced marks a limit, as met.charge.
const replaced = -2

// fill lists the charges.
func (c *call) fill(shadow bool) {
	c.charges = c.charges[:0]
	for i := range c.met {
		m := &c.met[i]
		if m.rule == nil || m.rule.limit == nil {
			continue
		}
		m.charge = len(c.charges)
		c.charges = append(c.charges, ratelimit.Charge{
			Limit: m.rule.limit, Cell: m.cell, Hits: c.req.hits(&c.req.descriptors[i]), Shadow: shadow,
		})
	}
	for len(c.outcomes) < len(c.charges) {
		c.outcomes = append(c.outcomes, ratelimit.Outcome{})
	}
}

// charge charges all or none and marks what is over.
func (d *Door) charge(c *call, now int64) (over bool, err error) {
	n := len(c.charges)
	if n == 0 {
		return false, nil
	}
	if looks := c.looks(); looks > 0 {
		if over, err = d.look(c, now); err != nil || over || looks == n {
			return over, err
		}
	}
	admitted, err := d.o.Gate.Charge(ratelimit.Operation{Now: now}, c.charges, c.outcomes[:n])
	if err != nil {
		return false, err
	}
	for i := range c.met {
		m := &c.met[i]
		if m.charge >= 0 && c.outcomes[m.charge].Over {
			m.over = true
		}
	}
	if admitted {
		return false, nil
	}
	d.chargeRefused(c, now)
	return true, nil
}

// looks counts the descriptors with hits_addend 0.
func (c *call) looks() (n int) {
	for i := range c.charges {
		if c.charges[i].Hits == 0 {
			n++
		}
	}
	return n
}

// look evaluates every limit without charging, and refuses if one that is only
// looked at is full. The store can't say that: 0 hits always fit.
func (d *Door) look(c *call, now int64) (over bool, err error) {
	c.spare = append(c.spare[:0], c.charges...)
	for i := range c.spare {
		c.spare[i].Hits = 0
	}
	if _, err = d.o.Gate.Charge(ratelimit.Operation{Now: now}, c.spare, c.outcomes[:len(c.spare)]); err != nil {
		return false, err
	}
	for i := range c.met {
		m := &c.met[i]
		if m.charge < 0 || c.charges[m.charge].Hits != 0 || c.req.descriptors[i].negative {
			continue
		}
		if m.rule.limit.Hits != ratelimit.Unlimited && c.outcomes[m.charge].Remaining == 0 {
			m.over = true
			over = over || !c.charges[m.charge].Shadowed()
		}
	}
	return over, nil
}

// chargeRefused counts refused hits for the limits that want it, up to the
// brim: they are told what was used already, and asking again costs nothing.
// If the store fails now, the hits are lost and the answer stays a refusal.
func (d *Door) chargeRefused(c *call, now int64) {
	c.spare = c.spare[:0]
	for i := range c.met {
		m := &c.met[i]
		if m.charge >= 0 && m.rule.brim != nil && c.charges[m.charge].Hits > 0 {
			charge := c.charges[m.charge]
			charge.Limit = m.rule.brim
			c.spare = append(c.spare, charge)
		}
	}
	n := len(c.spare)
	if n == 0 {
		return
	}
	for len(c.spareOut) < n {
		c.spareOut = append(c.spareOut, ratelimit.Outcome{})
	}
	if _, err := d.o.Gate.Charge(ratelimit.Operation{Now: now}, c.spare, c.spareOut[:n]); err != nil {
		d.warn(StoreFailed, "the store can't count refused hits", "error", err)
		return
	}
	n = 0
	for i := range c.met {
		m := &c.met[i]
		if m.charge >= 0 && m.rule.brim != nil && c.charges[m.charge].Hits > 0 {
			o := &c.outcomes[m.charge]
			o.Remaining, o.ResetAfter = c.spareOut[n].Remaining, c.spareOut[n].ResetAfter
			n++
		}
	}
}

func (d *Door) observe(c *call) {
	for i := range c.met {
		m := &c.met[i]
		if m.rule != nil {
			desc := &c.req.descriptors[i]
			d.o.OnLimit(m.rule.metricOf(c.req.entries[desc.from:desc.to]), c.req.hits(desc), m.over)
		}
	}
}

// encode writes the answer.
func (c *call) encode(over, headers bool, now int64) {
	c.out = appendOverall(c.out, over)
	var least status
	var perUnit uint32
	degraded := false
	for i := range c.met {
		m := &c.met[i]
		var s status
		switch {
		case m.rule == nil:
		case m.charge < 0:
			s.remaining = math.MaxUint32 // unlimited
		default:
			o := &c.outcomes[m.charge]
			s = status{
				over:      m.over && !c.charges[m.charge].Shadowed(),
				limit:     m.rule.encoded,
				remaining: clampRemaining(o.Remaining),
				reset:     resetSeconds(m.rule.limit, o, now),
			}
			degraded = degraded || o.Degraded
			if o.Remaining >= 0 && (least.limit == nil || s.remaining < least.remaining) {
				least, perUnit = s, m.rule.perUnit
			}
		}
		c.out = appendStatus(c.out, &s)
	}
	if headers && least.limit != nil {
		c.out = appendHeaders(c.out, &least, perUnit)
	}
	if degraded {
		c.out = appendDegraded(c.out)
	}
}

// same answers every descriptor alike.
func (c *call) same(over bool) {
	c.out = appendOverall(c.out, over)
	for range c.req.descriptors {
		c.out = appendStatus(c.out, &status{over: over})
	}
}

// failed answers when the store could not say anything about the limits.
func (c *call) failed(over bool) {
	c.out = appendOverall(c.out, over)
	for i := range c.met {
		c.out = appendStatus(c.out, &status{over: over && c.met[i].charge >= 0})
	}
}

// overrideCache keeps the rules of limits that come with requests. They come
// from Envoy's configuration, so they are few; beyond maxOverrides each call makes its own.
type overrideCache struct {
	rules atomic.Pointer[map[override]*rule]
	mu    sync.Mutex
}

const maxOverrides = 1024

// rule is the rule of o; nil if o is no limit.
func (c *overrideCache) rule(o override) *rule {
	if rules := c.rules.Load(); rules != nil {
		if r := (*rules)[o]; r != nil {
			return r
		}
	}
	multiplier := o.multiplier
	if !o.hasMultiplier {
		multiplier = 1
	}
	window, ok := windowOf(o.unit, multiplier)
	if !ok {
		return nil
	}
	limit := &ratelimit.Limit{
		Name: "override", Algorithm: ratelimit.Fixed, Hits: int64(o.perUnit), Window: window, Durable: window >= time.Minute,
	}
	limit.OnOutage.Say("", limit.Durable)
	r := &rule{
		limit:   limit,
		encoded: encodeLimit(o.perUnit, o.unit, multiplier, ""),
		perUnit: o.perUnit,
		metric:  "override",
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	rules := map[override]*rule{}
	if old := c.rules.Load(); old != nil {
		if len(*old) >= maxOverrides {
			return r
		}
		for k, v := range *old {
			rules[k] = v
		}
	}
	rules[o] = r
	c.rules.Store(&rules)
	return r
}
