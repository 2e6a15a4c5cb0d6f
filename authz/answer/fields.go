package answer

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// Format is how an answer tells the caller what is left.
type Format uint8

// The formats. The zero value is the newest.
const (
	Draft10 Format = iota // RateLimit, RateLimit-Policy: draft-ietf-httpapi-ratelimit-headers-10
	Draft06               // RateLimit-Limit, -Remaining, -Reset, -Policy: the same draft, revision 06
	Legacy                // X-RateLimit-Limit, -Remaining, -Reset; reset in seconds from now, as Envoy has it
	Off
)

var formatNames = [...]string{Draft10: "draft-10", Draft06: "draft-06", Legacy: "legacy", Off: "off"}

// String is the format's name in a configuration.
func (f Format) String() string {
	if int(f) < len(formatNames) {
		return formatNames[f]
	}
	return "unknown"
}

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	for f, name := range formatNames {
		if s == name {
			return Format(f), nil
		}
	}
	return Off, fmt.Errorf("rate-limit header format %q: want one of %s", s, strings.Join(formatNames[:], ", "))
}

// appendFields adds the rate-limit fields: every limit as a policy, and how
// much is left of the one that will refuse first. Those in shadow never refuse and
// unlimited ones have no quota, so they are not told. A degraded answer says so, whatever the format.
func (w *Writer) appendFields(a *Answer, d *gate.Decision) {
	if d.Degraded() {
		a.add(tenant.DegradedHeader, "true")
	}
	charges, outcomes := d.Limits()
	if w.format == Off || len(charges) == 0 {
		return
	}
	i := tightest(charges, outcomes)
	if i < 0 {
		return
	}
	limit, left := charges[i].Limit, min(max(outcomes[i].Remaining, 0), maxInteger)
	reset, finite := ceilSeconds(outcomes[i].ResetAfter)
	switch w.format {
	case Draft10:
		p := w.fields.of(w.format, d, charges)
		a.add("ratelimit-policy", p.field)
		b := append(a.buf, p.names[i]...)
		b = strconv.AppendInt(append(b, ";r="...), left, 10)
		if finite {
			b = strconv.AppendInt(append(b, ";t="...), reset, 10)
		}
		a.header("ratelimit", b)
	case Draft06:
		a.add("ratelimit-policy", w.fields.of(w.format, d, charges).field)
		a.header("ratelimit-limit", strconv.AppendInt(a.buf, limit.Hits, 10))
		a.header("ratelimit-remaining", strconv.AppendInt(a.buf, left, 10))
		if finite {
			a.header("ratelimit-reset", strconv.AppendInt(a.buf, reset, 10))
		}
	case Legacy:
		a.header("x-ratelimit-limit", strconv.AppendInt(a.buf, limit.Hits, 10))
		a.header("x-ratelimit-remaining", strconv.AppendInt(a.buf, left, 10))
		if finite {
			a.header("x-ratelimit-reset", strconv.AppendInt(a.buf, reset, 10))
		}
	}
}

// tightest is the limit that will refuse first: over before not over, then the
// fewest hits left, then the longest wait. -1 if none is to be told, or of none is known what is left.
func tightest(charges []ratelimit.Charge, outcomes []ratelimit.Outcome) int {
	best := -1
	for i := range charges {
		if !told(&charges[i]) || outcomes[i].Remaining < 0 {
			continue
		}
		if best < 0 || tighter(&outcomes[i], &outcomes[best]) {
			best = i
		}
	}
	return best
}

func tighter(a, b *ratelimit.Outcome) bool {
	switch {
	case a.Over != b.Over:
		return a.Over
	case a.Over && a.RetryAfter != b.RetryAfter:
		return a.RetryAfter > b.RetryAfter
	case a.Remaining != b.Remaining:
		return a.Remaining < b.Remaining
	default:
		return a.ResetAfter > b.ResetAfter
	}
}

func told(c *ratelimit.Charge) bool { return c.Limit != nil && !c.Shadowed() && c.Limit.Hits >= 0 }

func refused(c *ratelimit.Charge, o *ratelimit.Outcome) bool { return o.Over && told(c) }

// maxSeconds is a century: what is later is never, and no structured field overflows.
const maxSeconds = int64(100 * 366 * 24 * 3600)

// maxInteger is the largest of a structured field (RFC 9651, 3.3.1).
const maxInteger = int64(999_999_999_999_999)

// ceilSeconds rounds microseconds up. It is false for what will not come.
func ceilSeconds(us int64) (seconds int64, finite bool) {
	const second = int64(time.Second / time.Microsecond)
	switch {
	case us <= 0:
		return 0, true
	case us > maxSeconds*second:
		return 0, false
	default:
		return (us-1)/second + 1, true
	}
}

// policy is the part of the fields that depends on the limits alone.
type policy struct {
	limits []*ratelimit.Limit
	field  string   // RateLimit-Policy
	names  []string // each limit's name as a structured-field string
}

// fieldCache keeps one policy for each tenant of the newest revision. A
// request of an older one, in flight while a catalogue is swapped, builds its own.
type fieldCache struct{ newest atomic.Pointer[generation] }

type generation struct {
	revision uint64
	tenants  sync.Map // tenant.ID → *policy
}

func (c *fieldCache) of(f Format, d *gate.Decision, charges []ratelimit.Charge) *policy {
	g := c.newest.Load()
	for g == nil || g.revision < d.Revision {
		next := &generation{revision: d.Revision}
		if c.newest.CompareAndSwap(g, next) {
			g = next
			break
		}
		g = c.newest.Load()
	}
	if g.revision != d.Revision {
		return newPolicy(f, charges)
	}
	if p, ok := g.tenants.Load(d.Tenant); ok && p.(*policy).covers(charges) { //nolint:errcheck // the map holds nothing else
		return p.(*policy) //nolint:errcheck // as above
	}
	p := newPolicy(f, charges)
	g.tenants.Store(d.Tenant, p)
	return p
}

// covers makes a stale or shared entry harmless: limits are immutable, so the
// same pointers are the same text.
func (p *policy) covers(charges []ratelimit.Charge) bool {
	if len(p.limits) != len(charges) {
		return false
	}
	for i := range charges {
		if p.limits[i] != charges[i].Limit {
			return false
		}
	}
	return true
}

func newPolicy(f Format, charges []ratelimit.Charge) *policy {
	p := &policy{limits: make([]*ratelimit.Limit, len(charges)), names: make([]string, len(charges))}
	var list httpsfv.List
	for i := range charges {
		limit := charges[i].Limit
		p.limits[i] = limit
		if !told(&charges[i]) {
			continue
		}
		window := int64((limit.Window + time.Second - 1) / time.Second)
		item := httpsfv.NewItem(printable(limit.Name))
		p.names[i], _ = httpsfv.Marshal(item) //nolint:errcheck // a printable string is always one
		if f == Draft06 {
			item = httpsfv.NewItem(limit.Hits)
		} else {
			item.Params.Add("q", limit.Hits)
		}
		item.Params.Add("w", window)
		list = append(list, item)
	}
	p.field, _ = httpsfv.Marshal(list) //nolint:errcheck // strings are printable, integers below 10^15
	return p
}

// printable is s as a structured-field string may have it (RFC 9651, 3.3.3).
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// subject names whose quota it is.
func subject(id tenant.ID) string { return "tenant:" + string(id) }
