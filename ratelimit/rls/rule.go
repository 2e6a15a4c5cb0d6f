package rls

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/dchest/siphash"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Units as RateLimitResponse.RateLimit.Unit numbers them. A month is 30 days
// and a year 365, as in envoyproxy/ratelimit.
const (
	unitSecond = iota + 1
	unitMinute
	unitHour
	unitDay
	unitMonth
	unitYear
	unitWeek
)

var (
	unitNumbers = map[string]int32{
		"second": unitSecond, "minute": unitMinute, "hour": unitHour, "day": unitDay,
		"week": unitWeek, "month": unitMonth, "year": unitYear,
	}
	unitWindows = [...]time.Duration{
		unitSecond: time.Second, unitMinute: time.Minute, unitHour: time.Hour, unitDay: 24 * time.Hour,
		unitWeek: 7 * 24 * time.Hour, unitMonth: 30 * 24 * time.Hour, unitYear: 365 * 24 * time.Hour,
	}
)

// windowOf is the length of multiplier units, and whether a limit may have it.
func windowOf(unit int32, multiplier uint32) (time.Duration, bool) {
	if unit < 1 || int(unit) >= len(unitWindows) || multiplier == 0 {
		return 0, false
	}
	w := unitWindows[unit]
	return w * time.Duration(multiplier), int64(multiplier) <= int64(ratelimit.MaxWindow/w)
}

// rule is what one descriptor of the configuration says. It is immutable.
type rule struct {
	limit    *ratelimit.Limit // nil: unlimited
	brim     *ratelimit.Limit // count_refused only: fills the limit with what it refused
	encoded  []byte           // current_limit, as a field of DescriptorStatus
	perUnit  uint32
	id       int   // of the name, in its domain; 0 without
	replaces []int // ids
	metric   string
	parts    []part // of a metric that holds values of the request; else nil
}

// name is the place where the file has it.
func (r *rule) name() string {
	if r.limit != nil {
		return r.limit.Name
	}
	return r.metric
}

// part is one level of a metric's name.
type part struct {
	key, value string
	live       bool // value is the request's
}

// node is one level of the trie of a domain.
type node struct {
	keys    map[string]*branch
	rule    *rule  // nil: only a place on the way, or an exception without a limit
	pattern string // share_threshold: stands in the counter's key for the value
}

// branch is what one key leads to. Most specific first: a value, then the
// wildcards in the order of the file, then any value.
type branch struct {
	values    map[string]*node
	wildcards []wildcard
	rest      *node
}

type wildcard struct {
	prefix []byte
	node   *node
}

type domain struct {
	root node
	ids  map[string]int
}

func (n *node) next(e *entry) *node {
	b := n.keys[string(e.key)]
	if b == nil {
		return nil
	}
	if v := b.values[string(e.value)]; v != nil {
		return v
	}
	for i := range b.wildcards {
		if bytes.HasPrefix(e.value, b.wildcards[i].prefix) {
			return b.wildcards[i].node
		}
	}
	return b.rest
}

// match finds the limit of a descriptor: every entry must lead one level
// deeper, and the last one to a limit. It appends the entries to key as they
// are counted.
func (d *domain) match(entries []entry, key []byte) (r *rule, out []byte, first int) {
	n := &d.root
	for i := range entries {
		if n = n.next(&entries[i]); n == nil {
			return nil, key, 0
		}
		if n.pattern != "" {
			key = appendEntry(key, tagPattern, entries[i].key, n.pattern)
		} else {
			key = appendEntry(key, tagValue, entries[i].key, entries[i].value)
		}
		if i == 0 {
			first = len(key)
		}
	}
	return n.rule, key, first
}

// Tags keep a shared pattern apart from a value that looks like it.
const (
	tagValue byte = iota + 1
	tagPattern
)

func appendEntry[V string | []byte](b []byte, tag byte, key []byte, value V) []byte {
	return appendSized(appendSized(append(b, tag), key), value)
}

// appendSized writes length and bytes, so that no value can look like two.
func appendSized[V string | []byte](b []byte, v V) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// hasher makes cells out of encoded descriptors. Nobody without the key can
// choose a cell or a shard.
type hasher struct{ k0, k1 uint64 }

func newHasher(key [16]byte) hasher {
	return hasher{binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])}
}

// cell names the counter of key = domain and entries under a limit; the shard
// comes from the first bytes of key: domain and, where a request may span shards, first entry. The window is
// part of the name, so another unit is another counter.
func (h hasher) cell(key []byte, first int, l *ratelimit.Limit) (c ratelimit.Cell, out []byte) {
	c.Shard = siphash.Hash(h.k0, h.k1, key[:first])
	key = binary.LittleEndian.AppendUint64(append(key, byte(l.Algorithm)), uint64(l.Window))
	hi, lo := siphash.Hash128(h.k0, h.k1, key)
	binary.LittleEndian.PutUint64(c.Key[:8], hi)
	binary.LittleEndian.PutUint64(c.Key[8:], lo)
	return c, key
}

// encodeLimit is RateLimitResponse.RateLimit as field 2 of DescriptorStatus.
func encodeLimit(perUnit uint32, unit int32, multiplier uint32, name string) []byte {
	var m []byte
	if perUnit > 0 {
		m = protowire.AppendVarint(protowire.AppendTag(m, 1, protowire.VarintType), uint64(perUnit))
	}
	m = protowire.AppendVarint(protowire.AppendTag(m, 2, protowire.VarintType), uint64(unit))
	if name != "" {
		m = protowire.AppendString(protowire.AppendTag(m, 3, protowire.BytesType), name)
	}
	if multiplier != 1 {
		w := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(multiplier))
		m = protowire.AppendBytes(protowire.AppendTag(m, 4, protowire.BytesType), w)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), m)
}

// metricOf is the name of what an entry list matched, with the request's values in it.
func (r *rule) metricOf(entries []entry) string {
	if r.parts == nil {
		return r.metric
	}
	name := []byte(r.metric)
	for i := range r.parts {
		p := &r.parts[i]
		name = append(append(name, '.'), p.key...)
		switch {
		case p.live && len(entries[i].value) > 0:
			name = append(append(name, '_'), entries[i].value...)
		case p.value != "":
			name = append(append(name, '_'), p.value...)
		}
	}
	return string(name)
}
