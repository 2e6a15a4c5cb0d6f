package rls

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Bounds of a request. What is beyond them is answered OVER_LIMIT.
const (
	maxDescriptors = 64
	maxEntries     = 32
	maxText        = 8 << 10 // bytes of a domain, a key or a value
)

// request is a RateLimitRequest. Its slices point into the encoded message.
type request struct {
	domain      []byte
	addend      uint32
	descriptors []descriptor
	entries     []entry // of all descriptors, in order
}

type descriptor struct {
	from, to  int // its entries
	addend    uint64
	hasAddend bool
	negative  bool
	override  override
	overrides bool
}

type entry struct{ key, value []byte }

// override is a limit that came with the request.
type override struct {
	perUnit       uint32
	unit          int32
	multiplier    uint32
	hasMultiplier bool
}

// field is one field of a message: number is used with the payload that its
// wire type has, bytes or bits; other types are skipped.
type field struct {
	number protowire.Number
	typ    protowire.Type
	bits   uint64
	bytes  []byte
}

// next reads the field at the start of b. It accepts what proto.Unmarshal does.
func (f *field) next(b []byte) (rest []byte, ok bool) {
	// Nearly every field has a tag and a length of one byte.
	if len(b) >= 2 && b[0] < 0x80 && b[0] >= 8 && b[0]&7 == byte(protowire.BytesType) && b[1] < 0x80 {
		if end := 2 + int(b[1]); end <= len(b) {
			f.number, f.typ, f.bytes = protowire.Number(b[0]>>3), protowire.BytesType, b[2:end]
			return b[end:], true
		}
	}
	tag, n := protowire.ConsumeVarint(b)
	if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
		return nil, false
	}
	b = b[n:]
	f.number, f.typ = protowire.Number(tag>>3), protowire.Type(tag&7)
	switch f.typ {
	case protowire.VarintType:
		f.bits, n = protowire.ConsumeVarint(b)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	default:
		n = protowire.ConsumeFieldValue(f.number, f.typ, b)
	}
	if n < 0 {
		return nil, false
	}
	return b[n:], true
}

// is reports whether f is a known field with the type that it should have. A
// known number with another type is skipped, as an unknown one is.
func (f *field) is(number protowire.Number, typ protowire.Type) bool {
	return f.number == number && f.typ == typ
}

// parse reads an encoded RateLimitRequest and reports whether it is one:
// garbage, text that is not UTF-8, or more descriptors or entries than the bounds
// allow are not. Merging and truncation are proto.Unmarshal's.
func (r *request) parse(b []byte) bool {
	r.domain, r.addend = nil, 0
	r.descriptors, r.entries = r.descriptors[:0], r.entries[:0]
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = f.next(b); !ok {
			return false
		}
		switch {
		case f.is(1, protowire.BytesType):
			r.domain, ok = f.bytes, utf8.Valid(f.bytes)
		case f.is(2, protowire.BytesType):
			ok = len(r.descriptors) < maxDescriptors && r.parseDescriptor(f.bytes)
		case f.is(3, protowire.VarintType):
			r.addend = uint32(f.bits)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r *request) parseDescriptor(b []byte) bool {
	r.descriptors = append(r.descriptors, descriptor{from: len(r.entries)})
	d := &r.descriptors[len(r.descriptors)-1]
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = f.next(b); !ok {
			return false
		}
		switch {
		case f.is(1, protowire.BytesType):
			ok = len(r.entries)-d.from < maxEntries && r.parseEntry(f.bytes)
		case f.is(2, protowire.BytesType):
			d.overrides = true
			ok = d.override.parse(f.bytes)
		case f.is(3, protowire.BytesType):
			d.hasAddend = true
			ok = parseWrapper(f.bytes, &d.addend)
		case f.is(4, protowire.VarintType):
			d.negative = protowire.DecodeBool(f.bits)
		}
		if !ok {
			return false
		}
	}
	d.to = len(r.entries)
	return true
}

func (r *request) parseEntry(b []byte) bool {
	r.entries = append(r.entries, entry{})
	e := &r.entries[len(r.entries)-1]
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = f.next(b); !ok {
			return false
		}
		switch {
		case f.is(1, protowire.BytesType):
			e.key, ok = f.bytes, utf8.Valid(f.bytes)
		case f.is(2, protowire.BytesType):
			e.value, ok = f.bytes, utf8.Valid(f.bytes)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (o *override) parse(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = f.next(b); !ok {
			return false
		}
		switch {
		case f.is(1, protowire.VarintType):
			o.perUnit = uint32(f.bits)
		case f.is(2, protowire.VarintType):
			o.unit = int32(f.bits)
		case f.is(3, protowire.BytesType):
			o.hasMultiplier = true
			v := uint64(o.multiplier)
			ok = parseWrapper(f.bytes, &v)
			o.multiplier = uint32(v)
		}
		if !ok {
			return false
		}
	}
	return true
}

// parseWrapper reads a google.protobuf.UInt64Value or UInt32Value.
func parseWrapper(b []byte, v *uint64) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = f.next(b); !ok {
			return false
		}
		if f.is(1, protowire.VarintType) {
			*v = f.bits
		}
	}
	return true
}

// valid reports whether a parsed request can be counted: what it names must
// be there, and nothing may be too long or too much.
func (r *request) valid() bool {
	if len(r.domain) == 0 || len(r.domain) > maxText || len(r.descriptors) == 0 {
		return false
	}
	for i := range r.descriptors {
		d := &r.descriptors[i]
		if d.from == d.to || d.addend > uint64(ratelimit.MaxHits) {
			return false
		}
	}
	for i := range r.entries {
		e := &r.entries[i]
		if len(e.key) == 0 || len(e.key) > maxText || len(e.value) > maxText {
			return false
		}
	}
	return true
}

// hits is what descriptor d adds.
func (r *request) hits(d *descriptor) int64 {
	hits := max(int64(r.addend), 1)
	if d.hasAddend {
		hits = int64(d.addend)
	}
	if d.negative {
		return -hits
	}
	return hits
}
