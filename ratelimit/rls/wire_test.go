package rls

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"
)

// unmarshal is the other way to read a request: the generated types.
func unmarshal(b []byte) (*request, bool) {
	var m ratelimitv3.RateLimitRequest
	if proto.Unmarshal(b, &m) != nil || len(m.Descriptors) > maxDescriptors {
		return nil, false
	}
	r := &request{domain: []byte(m.Domain), addend: m.HitsAddend}
	for _, d := range m.Descriptors {
		if len(d.Entries) > maxEntries {
			return nil, false
		}
		one := descriptor{from: len(r.entries), negative: d.IsNegativeHits}
		if d.HitsAddend != nil {
			one.hasAddend, one.addend = true, d.HitsAddend.Value
		}
		if d.Limit != nil {
			one.overrides = true
			one.override = override{perUnit: d.Limit.RequestsPerUnit, unit: int32(d.Limit.Unit)}
			if d.Limit.UnitMultiplier != nil {
				one.override.hasMultiplier, one.override.multiplier = true, d.Limit.UnitMultiplier.Value
			}
		}
		for _, e := range d.Entries {
			r.entries = append(r.entries, entry{[]byte(e.Key), []byte(e.Value)})
		}
		one.to = len(r.entries)
		r.descriptors = append(r.descriptors, one)
	}
	return r, true
}

// sameAsProto reads b both ways. The walker's scratch space is used, as in a pool.
func sameAsProto(t interface{ Fatalf(string, ...any) }, got *request, b []byte) {
	ok := got.parse(b)
	want, wantOK := unmarshal(b)
	if ok != wantOK {
		t.Fatalf("walker %v, proto %v\n%s", ok, wantOK, hex.Dump(b))
	}
	if !ok {
		return
	}
	same := bytes.Equal(got.domain, want.domain) && got.addend == want.addend &&
		len(got.descriptors) == len(want.descriptors) && len(got.entries) == len(want.entries)
	for i := 0; same && i < len(got.descriptors); i++ {
		same = got.descriptors[i] == want.descriptors[i]
	}
	for i := 0; same && i < len(got.entries); i++ {
		same = bytes.Equal(got.entries[i].key, want.entries[i].key) && bytes.Equal(got.entries[i].value, want.entries[i].value)
	}
	if !same || got.valid() != want.valid() {
		t.Fatalf("walker %+v\nproto  %+v\n%s", got, want, hex.Dump(b))
	}
}

// recorded are requests as Envoy 1.40 sends them, and requests at the edges.
func recorded() []*ratelimitv3.RateLimitRequest {
	return []*ratelimitv3.RateLimitRequest{
		ask("messaging", []string{"kind", "marketing"}),
		ask("messaging", []string{"kind", "nested", "to", "2061234567"}, []string{"user", "u-1"}),
		{Domain: "messaging", HitsAddend: math.MaxUint32, Descriptors: []*commonv3.RateLimitDescriptor{{
			Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "é", Value: "\u2028"}, {Key: "k"}},
			Limit: &commonv3.RateLimitDescriptor_RateLimitOverride{
				RequestsPerUnit: 7, Unit: typev3.RateLimitUnit_YEAR, UnitMultiplier: wrapperspb.UInt32(3),
			},
			HitsAddend: wrapperspb.UInt64(math.MaxUint64), IsNegativeHits: true,
		}}},
		{Domain: "messaging", Descriptors: []*commonv3.RateLimitDescriptor{{
			Entries:    []*commonv3.RateLimitDescriptor_Entry{{Key: "k", Value: "v"}},
			Limit:      &commonv3.RateLimitDescriptor_RateLimitOverride{},
			HitsAddend: wrapperspb.UInt64(0),
		}, {}}},
		{},
	}
}

// crafted are bytes that no marshaller writes.
func crafted() map[string][]byte {
	field := func(n protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
	}
	varint := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	group := func(n protowire.Number, b []byte) []byte {
		return protowire.AppendTag(append(protowire.AppendTag(nil, n, protowire.StartGroupType), b...), n, protowire.EndGroupType)
	}
	deep := []byte{}
	for range 20_000 {
		deep = protowire.AppendTag(deep, 9, protowire.StartGroupType)
	}
	limit := func(b ...[]byte) []byte { return field(2, field(2, join(b...))) }
	return map[string][]byte{
		"domain twice, the last counts":    join(field(1, []byte("a")), field(1, []byte("b"))),
		"domain not UTF-8, then good":      join(field(1, []byte("\xff")), field(1, []byte("b"))),
		"value not UTF-8":                  field(2, field(1, join(field(1, []byte("k")), field(2, []byte("\xc0\x80"))))),
		"key not UTF-8":                    field(2, field(1, field(1, []byte("\xed\xa0\x80")))),
		"limit twice, merged":              field(2, join(field(2, varint(1, 5)), field(2, varint(2, 3)))),
		"multiplier twice, merged":         limit(field(3, varint(1, 5)), field(3, nil)),
		"addend twice, merged":             field(2, join(field(3, varint(1, 5)), field(3, nil))),
		"addend of more than 32 bits":      varint(3, 1<<40|7),
		"negative enum":                    limit(varint(2, math.MaxUint64)),
		"bool of many bits":                field(2, varint(4, 1<<63)),
		"wrong type for domain":            varint(1, 5),
		"wrong type for addend":            field(3, []byte("abc")),
		"wrong type for descriptors":       protowire.AppendFixed32(protowire.AppendTag(nil, 2, protowire.Fixed32Type), 1),
		"unknown fields of every type":     join(varint(99, 1), field(100, []byte("x")), group(101, group(3, varint(1, 1))), protowire.AppendFixed64(protowire.AppendTag(nil, 102, protowire.Fixed64Type), 1)),
		"group for a known field":          group(1, varint(1, 1)),
		"group not closed":                 protowire.AppendTag(nil, 7, protowire.StartGroupType),
		"group closed with another number": protowire.AppendTag(protowire.AppendTag(nil, 7, protowire.StartGroupType), 8, protowire.EndGroupType),
		"end of no group":                  protowire.AppendTag(nil, 7, protowire.EndGroupType),
		"end of no group in a descriptor":  field(2, protowire.AppendTag(nil, 7, protowire.EndGroupType)),
		"groups too deep":                  deep,
		"number 0":                         {0x02, 0x00},
		"largest number":                   varint(protowire.MaxValidNumber, 1),
		"number too large":                 protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3), 1),
		"number of 35 bits":                protowire.AppendVarint(protowire.AppendVarint(nil, 1<<35|1<<3), 1),
		"tag longer than needed":           {0x98, 0x80, 0x00, 0x07},
		"varint of 11 bytes":               append([]byte{0x18}, bytes.Repeat([]byte{0x80}, 11)...),
		"wire type 6":                      {0x0e, 0x00},
		"wire type 7":                      {0x0f, 0x00},
		"length beyond the end":            {0x0a, 0x05, 'a'},
		"length of 2^63":                   {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 'a'},
		"32 entries":                       field(2, bytes.Repeat(field(1, field(1, []byte("k"))), 32)),
		"33 entries":                       field(2, bytes.Repeat(field(1, field(1, []byte("k"))), 33)),
		"64 descriptors":                   bytes.Repeat(field(2, field(1, field(1, []byte("k")))), 64),
		"65 descriptors":                   bytes.Repeat(field(2, field(1, field(1, []byte("k")))), 65),
	}
}

func TestTheWalkerReadsWhatProtoReads(t *testing.T) {
	var r request
	for name, b := range crafted() {
		t.Run(name, func(t *testing.T) { sameAsProto(t, &r, b) })
	}
	for i, m := range recorded() {
		t.Run(fmt.Sprint("recorded ", i), func(t *testing.T) { sameAsProto(t, &r, marshal(t, m)) })
	}
}

func TestMutatedRequestsAreReadAsProtoReadsThem(t *testing.T) {
	var r request
	rapid.Check(t, func(t *rapid.T) {
		b := []byte{}
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			b = append(b, drawField(t, 0)...)
		}
		for range rapid.IntRange(0, 3).Draw(t, "mutations") {
			if len(b) == 0 {
				break
			}
			i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				b[i] = rapid.Byte().Draw(t, "byte")
			case 1:
				b = b[:i]
			default:
				b = append(b[:i:i], b[min(i+1, len(b)):]...)
			}
		}
		sameAsProto(t, &r, b)
	})
}

// drawField is a field with a small number, so that it often is a known one,
// of a likely type, with messages inside it.
func drawField(t *rapid.T, depth int) []byte {
	number := protowire.Number(rapid.IntRange(1, 5).Draw(t, "number"))
	switch rapid.IntRange(0, 6).Draw(t, "type") {
	case 0, 1:
		return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), rapid.Uint64().Draw(t, "v"))
	case 2:
		return protowire.AppendFixed32(protowire.AppendTag(nil, number, protowire.Fixed32Type), 7)
	case 3:
		text := rapid.SampledFrom([]string{"", "a", "key", "\xff", "é"}).Draw(t, "text")
		return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), text)
	}
	inner := []byte{}
	if depth < 4 {
		for range rapid.IntRange(0, 3).Draw(t, "inner") {
			inner = append(inner, drawField(t, depth+1)...)
		}
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), inner)
}

func FuzzWalker(f *testing.F) {
	for _, b := range crafted() {
		if len(b) < 1000 {
			f.Add(b)
		}
	}
	for _, m := range recorded() {
		f.Add(marshal(f, m))
	}
	var r request
	f.Fuzz(func(t *testing.T, b []byte) { sameAsProto(t, &r, b) })
}

// RLS_MUTATIONS=10000000 is the long run: descriptor bytes with random bytes in them.
func TestRandomBytesInRequestsAreReadAsProtoReadsThem(t *testing.T) {
	n := 200_000
	if s := os.Getenv("RLS_MUTATIONS"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
	}
	var seeds [][]byte
	for _, m := range recorded()[:4] {
		seeds = append(seeds, marshal(t, m))
	}
	var r request
	random := uint64(0x9e3779b97f4a7c15)
	next := func(n int) int {
		random ^= random << 13
		random ^= random >> 7
		random ^= random << 17
		return int(random % uint64(n))
	}
	refused := 0
	for range n {
		b := bytes.Clone(seeds[next(len(seeds))])
		for range 1 + next(3) {
			switch i := next(len(b)); next(4) {
			case 0:
				b[i] ^= 1 << next(8)
			case 1:
				b[i] = byte(next(256))
			case 2:
				b = append(b[:i+1], b[i:]...)
			default:
				b = append(b[:i:i], b[i+1:]...)
			}
			if len(b) == 0 {
				break
			}
		}
		sameAsProto(t, &r, b)
		if !r.parse(b) {
			refused++
		}
	}
	if refused == 0 || refused == n {
		t.Errorf("%d of %d refused: the mutations test nothing", refused, n)
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	b := marshal(t, recorded()[1])
	var r request
	if n := testing.AllocsPerRun(1000, func() { r.parse(b) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// ask is a request with descriptors of key, value, key, value ...
func ask(domain string, descriptors ...[]string) *ratelimitv3.RateLimitRequest {
	m := &ratelimitv3.RateLimitRequest{Domain: domain}
	for _, texts := range descriptors {
		d := &commonv3.RateLimitDescriptor{}
		for i := 0; i+1 < len(texts); i += 2 {
			d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: texts[i], Value: texts[i+1]})
		}
		m.Descriptors = append(m.Descriptors, d)
	}
	return m
}

// marshal writes text that is not UTF-8 too, as C++ does.
func marshal(t testing.TB, m *ratelimitv3.RateLimitRequest) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func BenchmarkParse(b *testing.B) {
	message := marshal(b, recorded()[1])
	b.Run("walker", func(b *testing.B) {
		var r request
		b.ReportAllocs()
		for b.Loop() {
			r.parse(message)
		}
	})
	b.Run("proto", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m ratelimitv3.RateLimitRequest
			if err := proto.Unmarshal(message, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
