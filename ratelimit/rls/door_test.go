package rls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

// start is 10 s into a minute, and so into no longer window's end.
const start = int64(1_767_225_610_000_000)

// fixture is a door with a clock that the test turns.
type fixture struct {
	*Door
	t   testing.TB
	now int64
}

func open(t testing.TB, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, now: start}
	o := Options{
		Gate: memstore.New(memstore.Options{}), Config: load(t), HashKey: [16]byte{1, 2, 3}, Now: func() int64 { return f.now },
	}
	if change != nil {
		change(&o)
	}
	f.Door = New(o)
	return f
}

// send asks with encoded bytes.
func (f *fixture) send(b []byte) *ratelimitv3.RateLimitResponse {
	f.t.Helper()
	c := &call{}
	c.raw.Bytes = b
	var m ratelimitv3.RateLimitResponse
	if err := proto.Unmarshal(f.serve(context.Background(), c).Bytes, &m); err != nil {
		f.t.Fatal(err)
	}
	return &m
}

func (f *fixture) ask(m *ratelimitv3.RateLimitRequest) *ratelimitv3.RateLimitResponse {
	f.t.Helper()
	return f.send(marshal(f.t, m))
}

// codes asks and returns the answer in short: overall, then each descriptor.
func (f *fixture) codes(m *ratelimitv3.RateLimitRequest) string {
	f.t.Helper()
	r := f.ask(m)
	short := map[ratelimitv3.RateLimitResponse_Code]string{1: "ok", 2: "over"}
	s := short[r.OverallCode]
	for _, d := range r.Statuses {
		s += " " + short[d.Code]
		if d.CurrentLimit != nil {
			s += fmt.Sprint(":", d.LimitRemaining)
		}
	}
	return s
}

// want is one step of a story.
func (f *fixture) want(codes string, m *ratelimitv3.RateLimitRequest) {
	f.t.Helper()
	if got := f.codes(m); got != codes {
		f.t.Errorf("got %q, want %q for %v", got, codes, m)
	}
}

func hits(m *ratelimitv3.RateLimitRequest, n uint32) *ratelimitv3.RateLimitRequest {
	m.HitsAddend = n
	return m
}

// addends sets the descriptors' own addends.
func addends(m *ratelimitv3.RateLimitRequest, n ...int64) *ratelimitv3.RateLimitRequest {
	for i, v := range n {
		m.Descriptors[i].HitsAddend = wrapperspb.UInt64(uint64(max(v, -v)))
		m.Descriptors[i].IsNegativeHits = v < 0
	}
	return m
}

func TestMalformedRequestsAreOverLimitAndNeverAnError(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	deep := make([]string, 2*(maxEntries+1))
	for i := range deep {
		deep[i] = "k"
	}
	tests := map[string][]byte{
		"garbage":             []byte("\x0a\xffgarbage"),
		"nothing":             nil,
		"empty domain":        marshal(t, ask("", []string{"kind", "a"})),
		"no descriptors":      marshal(t, ask("messaging")),
		"no entries":          marshal(t, ask("messaging", []string{})),
		"an empty key":        marshal(t, ask("messaging", []string{"", "a"})),
		"65 descriptors":      marshal(t, ask("messaging", slices.Repeat([][]string{{"kind", "a"}}, 65)...)),
		"33 entries":          marshal(t, ask("messaging", deep)),
		"a long value":        marshal(t, ask("messaging", []string{"kind", long})),
		"a long key":          marshal(t, ask("messaging", []string{long, "a"})),
		"a long domain":       marshal(t, ask(long, []string{"kind", "a"})),
		"addend 2^32+1":       marshal(t, addends(ask("messaging", []string{"kind", "a"}), 1<<32+1)),
		"override, no unit":   marshal(t, overriding(1, 0, nil)),
		"override, bad unit":  marshal(t, overriding(1, 99, nil)),
		"override, neg. unit": marshal(t, overriding(1, -1, nil)),
		"override of 0 units": marshal(t, overriding(1, typev3.RateLimitUnit_HOUR, wrapperspb.UInt32(0))),
		"override, 99 years":  marshal(t, overriding(1, typev3.RateLimitUnit_YEAR, wrapperspb.UInt32(99))),
		"override, 2^32-1":    marshal(t, overriding(1, typev3.RateLimitUnit_YEAR, wrapperspb.UInt32(math.MaxUint32))),
	}
	m := ask("messaging", []string{"kind", "a"})
	m.Descriptors[0].HitsAddend = wrapperspb.UInt64(math.MaxUint64)
	tests["addend 2^64-1"] = marshal(t, m)
	bad := marshal(t, ask("messaging", []string{"kind", "markeXing"}))
	tests["not UTF-8"] = bytes.Replace(bad, []byte("X"), []byte("\xff"), 1)
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			f := open(t, nil)
			if r := f.send(b); r.OverallCode != ratelimitv3.RateLimitResponse_OVER_LIMIT || f.Count(Malformed) != 1 {
				t.Errorf("got %v, counted %d", r, f.Count(Malformed))
			}
		})
	}
}

func overriding(perUnit uint32, unit typev3.RateLimitUnit, multiplier *wrapperspb.UInt32Value) *ratelimitv3.RateLimitRequest {
	m := ask("messaging", []string{"kind", "marketing"})
	m.Descriptors[0].Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{
		RequestsPerUnit: perUnit, Unit: unit, UnitMultiplier: multiplier,
	}
	return m
}

type failing struct{ err error }

func (f failing) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	if f.err == nil {
		panic("impossible")
	}
	return true, f.err
}

func TestFailuresAreAnsweredByPolicy(t *testing.T) {
	request := ask("messaging", []string{"kind", "x"}, []string{"nothing", "x"})
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string
		result Result
	}{
		{"the store fails", func(o *Options) { o.Gate = failing{errors.New("down")} }, "over over ok", StoreFailed},
		{"the store fails and the policy allows", func(o *Options) { o.Gate, o.OnError = failing{errors.New("down")}, Allow }, "ok ok ok", StoreFailed},
		{"the store panics", func(o *Options) { o.Gate = failing{} }, "over", Panicked},
		{"the store panics and the policy allows", func(o *Options) { o.Gate, o.OnError = failing{}, Allow }, "over", Panicked},
		{"the caller is no peer", func(o *Options) { o.Peer = func(context.Context) (string, bool) { return "", false } }, "over", Stranger},
		{"the peer check panics", func(o *Options) { o.Peer = func(context.Context) (string, bool) { panic("x") } }, "over", Panicked},
		{"no domain is known", func(o *Options) { o.Config = nil }, "ok ok ok", UnknownDomain},
		{"no domain is known and the policy denies", func(o *Options) { o.Config, o.UnknownDomain = nil, Deny }, "over over over", UnknownDomain},
	} {
		for name, soft := range map[string]bool{test.name: false, "in the soft stage, " + test.name: true} {
			t.Run(name, func(t *testing.T) {
				f := open(t, func(o *Options) { test.change(o); o.Soft = soft })
				f.want(test.want, request)
				if f.Count(test.result) != 1 {
					t.Errorf("%v is not counted", test.result)
				}
			})
		}
	}
}

func TestInTheSoftStageNoLimitRefuses(t *testing.T) {
	f := open(t, func(o *Options) { o.Soft = true })
	for _, step := range []struct {
		want   string
		ask    *ratelimitv3.RateLimitRequest
		result Result
	}{
		{"ok ok:1", ask("messaging", []string{"kind", "marketing"}), OK},
		{"ok ok:0", ask("messaging", []string{"kind", "marketing"}), OK},
		{"ok ok:0", ask("messaging", []string{"kind", "marketing"}), Shadowed},
		{"ok ok:0 ok:4", ask("messaging", []string{"kind", "marketing"}, []string{"kind", "other"}), Shadowed},
		{"ok ok:3", ask("messaging", []string{"kind", "other"}), OK}, // it was charged beside one that is over
		{"ok ok:0", ask("messaging", []string{"banned", "x"}), Shadowed},
		{"ok ok:0", addends(ask("messaging", []string{"kind", "marketing"}), 0), Shadowed}, // a look
		{"ok ok:0", ask("messaging", []string{"watched", "x"}), OK},
		{"ok ok:0", ask("messaging", []string{"watched", "x"}), OK}, // the catalogue's own shadow
		{"over", ask("messaging"), Malformed},
	} {
		before := f.Count(step.result)
		f.want(step.want, step.ask)
		if f.Count(step.result) != before+1 {
			t.Errorf("%v is not counted for %v", step.result, step.ask)
		}
	}
	if n := f.Count(OverLimit); n != 0 {
		t.Errorf("%d refused", n)
	}
}

func TestALineOfAKindIsLoggedOnceAMinute(t *testing.T) {
	var log bytes.Buffer
	f := open(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 1000 {
		f.ask(ask("no such domain", []string{"a", "b"}))
		f.now += 100_000
	}
	if n := strings.Count(log.String(), "no such domain"); n != 2 {
		t.Errorf("%d lines in 100 s", n)
	}
}

// What envoyproxy/ratelimit documents, in its words: README.md, examples 1 to 9.
func TestDescriptorsMeetTheLimitsThatTheReferenceDocuments(t *testing.T) {
	hour := int64(3600 * 1_000_000)
	for _, test := range []struct {
		name string
		run  func(*fixture)
	}{
		{"a value goes before any value", func(f *fixture) {
			f.want("ok ok:1", ask("messaging", []string{"kind", "marketing"}))
			f.want("ok ok:4", ask("messaging", []string{"kind", "other"}))
		}},
		{"each value has its own counter", func(f *fixture) {
			f.want("ok ok:4", ask("messaging", []string{"kind", "a"}))
			f.want("ok ok:4", ask("messaging", []string{"kind", "b"}))
			f.want("ok ok:3", ask("messaging", []string{"kind", "a"}))
		}},
		{"a value without a limit is an exception", func(f *fixture) { f.want("ok ok", ask("messaging", []string{"kind", "internal"})) }},
		{"a key that no file has is not limited", func(f *fixture) { f.want("ok ok", ask("messaging", []string{"other", "x"})) }},
		{"a limit is met at its own depth only", func(f *fixture) {
			f.want("ok ok", ask("messaging", []string{"kind", "nested"}))
			f.want("ok ok:2", ask("messaging", []string{"kind", "nested", "to", "x"}))
			f.want("ok ok", ask("messaging", []string{"kind", "nested", "to", "x", "more", "y"}))
			f.want("ok ok", ask("messaging", []string{"kind", "marketing", "to", "x"}))
			f.want("ok ok", ask("messaging", []string{"to", "x"}))
		}},
		{"a limit of 0 refuses all", func(f *fixture) { f.want("over over:0", ask("messaging", []string{"banned", "x"})) }},
		{"the request over the limit is refused until the window ends", func(f *fixture) {
			marketing := ask("messaging", []string{"kind", "marketing"})
			f.want("ok ok:1", marketing)
			f.want("ok ok:0", marketing)
			f.want("over over:0", marketing)
			f.now += 1_000_000
			f.want("ok ok:1", marketing)
		}},
		{"windows are unix % window", func(f *fixture) {
			f.now = start - start%hour + hour - 1
			f.want("ok ok:0", ask("messaging", []string{"user", "u"}))
			f.want("over over:0", ask("messaging", []string{"user", "u"}))
			f.now++
			f.want("ok ok:0", ask("messaging", []string{"user", "u"}))
		}},
		{"a shadow limit counts and never refuses", func(f *fixture) {
			f.want("ok ok:0", ask("messaging", []string{"watched", "x"}))
			f.want("ok ok:0", ask("messaging", []string{"watched", "x"}))
		}},
		{"the first wildcard that fits is met, with a counter for each value", func(f *fixture) {
			f.want("ok ok:1", ask("messaging", []string{"path", "/api/a"}))
			f.want("ok ok:1", ask("messaging", []string{"path", "/api/b"}))
			f.want("ok ok:8", ask("messaging", []string{"path", "/web"}))
			f.want("ok ok", ask("messaging", []string{"path", "elsewhere"}))
		}},
		{"share_threshold is one counter for the wildcard", func(f *fixture) {
			f.want("ok ok:1", ask("messaging", []string{"file", "doc1"}))
			f.want("ok ok:0", ask("messaging", []string{"file", "doc2"}))
			f.want("over over:0", ask("messaging", []string{"file", "doc3"}))
		}},
		{"a limit that another one replaces is not counted", func(f *fixture) {
			both := ask("messaging", []string{"user", "u"}, []string{"vip", "u"})
			f.want("ok ok ok:2", both)
			f.want("ok ok ok:1", both)
			f.want("ok ok:0", ask("messaging", []string{"user", "u"}))
			f.want("ok ok ok:0", both)
		}},
		{"hits_addend 0 is 1 hit, others count as they are", func(f *fixture) {
			f.want("ok ok:4", hits(ask("messaging", []string{"kind", "a"}), 0))
			f.want("ok ok:1", hits(ask("messaging", []string{"kind", "a"}), 3))
			f.want("over over:1", hits(ask("messaging", []string{"kind", "a"}), math.MaxUint32))
			f.want("ok ok:0", hits(ask("messaging", []string{"kind", "a"}), 1))
		}},
		{"a descriptor's addend goes before the request's", func(f *fixture) {
			f.want("ok ok:1 ok:4", addends(hits(ask("messaging", []string{"kind", "a"}, []string{"kind", "b"}), 1), 4))
		}},
		{"negative hits give back, never more than was charged", func(f *fixture) {
			f.want("ok ok:1", hits(ask("messaging", []string{"kind", "a"}), 4))
			f.want("ok ok:3", addends(ask("messaging", []string{"kind", "a"}), -2))
			f.want("ok ok:5", addends(ask("messaging", []string{"kind", "a"}), -1<<32))
			f.want("ok ok:4", ask("messaging", []string{"kind", "a"}))
		}},
		{"an override limits a descriptor that the file limits otherwise", func(f *fixture) {
			f.want("ok ok:0", overriding(1, typev3.RateLimitUnit_DAY, nil))
			f.want("over over:0", overriding(1, typev3.RateLimitUnit_DAY, nil))
			f.want("ok ok:1", ask("messaging", []string{"kind", "marketing"}))
			f.now += 23 * hour
			f.want("over over:0", overriding(1, typev3.RateLimitUnit_DAY, nil))
			f.want("ok ok:0", overriding(1, typev3.RateLimitUnit_HOUR, wrapperspb.UInt32(12)))
		}},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(open(t, nil)) })
	}
}

func TestExtensionsDoWhatTheySay(t *testing.T) {
	second := int64(1_000_000)
	for _, test := range []struct {
		name string
		run  func(*fixture)
	}{
		{"gcra admits its burst, then its rate", func(f *fixture) {
			smooth := ask("extensions", []string{"smooth", "x"})
			f.want("ok ok:0", hits(ask("extensions", []string{"smooth", "x"}), 3))
			f.want("over over:0", smooth)
			f.now += second / 10
			f.want("ok ok:0", smooth)
		}},
		{"hard has no edge to wait for", func(f *fixture) {
			f.now = start - start%(60*second) + 59*second
			f.want("ok ok:0", hits(ask("extensions", []string{"strict", "x"}), 3))
			f.now += 2 * second
			f.want("over over:0", ask("extensions", []string{"strict", "x"}))
		}},
		{"a window has unit_multiplier units", func(f *fixture) {
			f.now = start - start%(1800*second)
			f.want("ok ok:0", hits(ask("extensions", []string{"half_hour", "x"}), 4))
			f.now += 1799 * second
			f.want("over over:0", ask("extensions", []string{"half_hour", "x"}))
			f.now += second
			f.want("ok ok:3", ask("extensions", []string{"half_hour", "x"}))
		}},
		{"a look charges nothing and is refused when nothing is left", func(f *fixture) {
			look := addends(ask("messaging", []string{"kind", "a"}), 0)
			f.want("ok ok:5", look)
			f.want("ok ok:0", hits(ask("messaging", []string{"kind", "a"}), 5))
			f.want("over over:0", look)
			f.want("ok ok:0", ask("messaging", []string{"watched", "x"}))
			f.want("ok ok:0", addends(ask("messaging", []string{"watched", "x"}), 0)) // a shadow limit
		}},
		{"a look that is refused costs the others nothing", func(f *fixture) {
			f.want("ok ok:0", hits(ask("messaging", []string{"kind", "a"}), 5))
			both := addends(ask("messaging", []string{"kind", "a"}, []string{"kind", "b"}), 0, 2)
			f.want("over over:0 ok:5", both)
			f.now += second
			f.want("ok ok:5 ok:3", both)
		}},
		{"refused hits are lost", func(f *fixture) {
			f.want("over over:5", hits(ask("messaging", []string{"kind", "a"}), 6))
			f.want("ok ok:4", ask("messaging", []string{"kind", "a"}))
		}},
		{"count_refused fills the limit with refused hits", func(f *fixture) {
			f.want("ok ok:10", hits(ask("extensions", []string{"tokens", "x"}), 90))
			f.want("over over:0", hits(ask("extensions", []string{"tokens", "x"}), 11))
			f.want("over over:0", addends(ask("extensions", []string{"tokens", "x"}), 0))
		}},
		{"count_refused fills only the limits that have it", func(f *fixture) {
			both := hits(ask("extensions", []string{"tokens", "x"}, []string{"half_hour", "x"}), 5)
			f.want("over ok:95 over:4", both)
			f.want("ok ok:3", ask("extensions", []string{"half_hour", "x"}))
		}},
		{"keys that one separator would join are apart", func(f *fixture) {
			f.want("ok ok:0 ok:0", ask("separators", []string{"a", "b_c"}, []string{"a_b", "c"}))
		}},
		{"merge keys are read", func(f *fixture) {
			f.want("ok ok:2 ok:2 ok:2", ask("anchors", []string{"a", "x"}, []string{"a", "b"}, []string{"c", "x"}))
		}},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(open(t, nil)) })
	}
}

func TestAResponseSaysWhatTheLimitIs(t *testing.T) {
	f := open(t, func(o *Options) { o.Headers = true })
	f.now = start - start%3_600_000_000 + 500_000 // half a second into the hour
	r := f.ask(ask("messaging", []string{"user", "u"}, []string{"free", "x"}, []string{"month", "x"}, []string{"none", "x"}))
	if len(r.Statuses) != 4 {
		t.Fatalf("got %v", r)
	}
	user, free, month, none := r.Statuses[0], r.Statuses[1], r.Statuses[2], r.Statuses[3]
	if l := user.CurrentLimit; l.RequestsPerUnit != 1 || l.Unit != ratelimitv3.RateLimitResponse_RateLimit_HOUR || l.Name != "per_user" {
		t.Errorf("got %v", l)
	}
	if got := user.DurationUntilReset; got.Seconds != 3600 || got.Nanos != 0 {
		t.Errorf("half a second is not rounded up: %v", got)
	}
	if free.CurrentLimit != nil || free.LimitRemaining != math.MaxUint32 || free.DurationUntilReset != nil {
		t.Errorf("unlimited: %v", free)
	}
	if month.CurrentLimit.Unit != ratelimitv3.RateLimitResponse_RateLimit_MONTH || month.LimitRemaining != 6 || month.DurationUntilReset.Seconds > 30*86400 {
		t.Errorf("month: %v", month)
	}
	if none.CurrentLimit != nil || none.LimitRemaining != 0 || none.Code != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("no limit: %v", none)
	}
	var headers []string
	for _, h := range r.ResponseHeadersToAdd {
		headers = append(headers, h.Key+": "+h.Value)
	}
	if want := []string{"RateLimit-Limit: 1", "RateLimit-Remaining: 0", "RateLimit-Reset: 3600"}; !slices.Equal(headers, want) {
		t.Errorf("got %q, want %q", headers, want)
	}
	if r := f.ask(ask("messaging", []string{"banned", "x"})); r.Statuses[0].DurationUntilReset.Seconds != 1 {
		t.Errorf("a limit of 0 has no window: %v", r)
	}
	if r := f.ask(ask("extensions", []string{"half_hour", "x"})); r.Statuses[0].CurrentLimit.UnitMultiplier.GetValue() != 30 {
		t.Errorf("got %v", r)
	}
}

func TestLimitsAreReportedByTheNamesThatTheReferenceGivesThem(t *testing.T) {
	var got []string
	f := open(t, func(o *Options) {
		o.OnLimit = func(limit string, hits int64, over bool) { got = append(got, fmt.Sprint(limit, " ", hits, " ", over)) }
	})
	f.ask(hits(ask("messaging", []string{"kind", "marketing"}, []string{"path", "/api/x"}, []string{"file", "doc1"}, []string{"free", "x"}), 2))
	f.ask(ask("extensions", []string{"detailed", "v"}, []string{"tenant", "acme", "route", "/r"}))
	f.ask(hits(ask("messaging", []string{"watched", "x"}), 5))
	f.ask(overriding(1, typev3.RateLimitUnit_DAY, nil))
	want := []string{
		"messaging.kind_marketing 2 false", "messaging.path_/api/* 2 false", "messaging.file_doc* 2 false", "messaging.free 2 false",
		"extensions.detailed_v 1 false", "extensions.tenant_acme.route 1 false", "messaging.watched 5 true", "override 1 false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAConfigurationIsSwappedAndCountersStay(t *testing.T) {
	f := open(t, nil)
	f.want("ok ok:0", ask("messaging", []string{"user", "u"}))
	f.SetConfig(nil)
	f.want("ok ok", ask("messaging", []string{"user", "u"}))
	f.SetConfig(load(t))
	f.want("over over:0", ask("messaging", []string{"user", "u"}))
}

// Whoever is refused pays nothing, whatever else was in the request.
func TestConcurrentCallsAreChargedAllOrNone(t *testing.T) {
	f := open(t, nil)
	year := ask("messaging", []string{"year", "shared"}) // 8 fit
	message := marshal(t, hits(ask("messaging", []string{"year", "shared"}, []string{"month", "shared"}, []string{"week", "shared"}), 1))
	var admitted atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				c := f.calls.Get().(*call) //nolint:errcheck // the pool holds nothing else
				c.raw.Bytes = append(c.raw.Bytes[:0], message...)
				var m ratelimitv3.RateLimitResponse
				if err := proto.Unmarshal(f.serve(context.Background(), c).Bytes, &m); err != nil {
					t.Error(err)
				}
				if m.OverallCode == ratelimitv3.RateLimitResponse_OK {
					admitted.Add(1)
				}
			}
		})
		group.Go(func() {
			for range 20 {
				f.SetConfig(f.config.Load())
				f.overrides.rule(override{perUnit: 1, unit: unitDay})
			}
		})
	}
	group.Wait()
	if admitted.Load() != 7 { // the month's
		t.Errorf("%d admitted", admitted.Load())
	}
	f.want("ok ok:0", year)
	f.want("over over:0", ask("messaging", []string{"month", "shared"}))
	f.want("ok ok:1", ask("messaging", []string{"week", "shared"}))
}

// Requests at the bounds are answered in time, and keep no memory.
func TestTheLargestRequestIsAnsweredWithoutMoreMemory(t *testing.T) {
	entries := make([]string, 2*maxEntries)
	for i := range entries {
		entries[i] = strings.Repeat("k", 200)
	}
	for name, m := range map[string]*ratelimitv3.RateLimitRequest{
		"64 descriptors of 32 long entries": ask("messaging", slices.Repeat([][]string{entries}, maxDescriptors)...),
		"1000 descriptors":                  ask("messaging", slices.Repeat([][]string{{"kind", "x"}}, 1000)...),
		"100 entries":                       ask("messaging", slices.Repeat([]string{"kind", "nested"}, 100)),
		"64 KiB values":                     ask("messaging", []string{"kind", strings.Repeat("v", 64<<10)}),
		"64 values of 8 KiB":                ask("messaging", slices.Repeat([][]string{{"kind", strings.Repeat("v", maxText)}}, maxDescriptors)...),
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, nil)
			b := marshal(t, m)
			c := &call{}
			c.raw.Bytes = b
			if n := testing.AllocsPerRun(10, func() { f.answer(context.Background(), c) }); n > 1 {
				t.Errorf("%v allocations for %d bytes", n, len(b))
			}
		})
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	said := 0
	f := open(t, func(o *Options) {
		o.Headers = true
		o.Observe = func(_ context.Context, _ time.Time, a Answer) {
			a.Each(func(_ string, over, _ bool) {
				if over {
					said++
				}
			})
		}
	})
	for name, m := range map[string]*ratelimitv3.RateLimitRequest{
		"admitted":  addends(ask("messaging", []string{"kind", "nested", "to", "x"}, []string{"user", "u"}), -1, -1),
		"refused":   ask("messaging", []string{"banned", "x"}, []string{"kind", "a"}),
		"look":      addends(ask("messaging", []string{"kind", "a"}), 0),
		"override":  overriding(5, typev3.RateLimitUnit_DAY, nil),
		"unknown":   ask("unknown", []string{"a", "b"}),
		"malformed": ask("", []string{"a", "b"}),
		"brim":      hits(ask("extensions", []string{"tokens", "x"}), 1000),
	} {
		t.Run(name, func(t *testing.T) {
			c := &call{}
			c.raw.Bytes = marshal(t, m)
			if n := testing.AllocsPerRun(1000, func() { f.answer(context.Background(), c) }); n > 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
	if said == 0 {
		t.Error("nobody was told of a limit that was over")
	}
}

func BenchmarkDoorCharge(b *testing.B) {
	for name, m := range map[string]*ratelimitv3.RateLimitRequest{
		"admitted": addends(ask("messaging", []string{"kind", "nested", "to", "x"}, []string{"kind", "u"}), -1, -1),
		"refused":  ask("messaging", []string{"banned", "x"}, []string{"kind", "a"}),
	} {
		b.Run(name, func(b *testing.B) {
			f := open(b, nil)
			c := &call{}
			c.raw.Bytes = marshal(b, m)
			b.ReportAllocs()
			for b.Loop() {
				f.answer(context.Background(), c)
			}
		})
	}
}

// degradedStore knows only that the shared one does not answer.
type degradedStore struct{ remaining int64 }

func (d degradedStore) Charge(_ ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	for i := range charges {
		outcomes[i] = ratelimit.Outcome{Remaining: d.remaining, Degraded: true}
	}
	return true, nil
}

func TestADegradedAnswerSaysSo(t *testing.T) {
	for name, test := range map[string]struct {
		remaining int64
		headers   []string
	}{
		"where a share is counted": {3, []string{"RateLimit-Limit: 5", "RateLimit-Remaining: 3", "RateLimit-Reset: 1", "x-sluice-degraded: true"}},
		"where nothing is known":   {-1, []string{"x-sluice-degraded: true"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, func(o *Options) { o.Gate, o.Headers = degradedStore{test.remaining}, true })
			r := f.ask(ask("messaging", []string{"kind", "x"}))
			var headers []string
			for _, h := range r.ResponseHeadersToAdd {
				headers = append(headers, h.Key+": "+h.Value)
			}
			if !slices.Equal(headers, test.headers) {
				t.Errorf("headers %q", headers)
			}
			if got := r.DynamicMetadata.GetFields()["sluice_degraded"].GetStringValue(); got != "true" {
				t.Errorf("metadata %v", r.DynamicMetadata)
			}
			f.want("ok ok:"+strconv.FormatInt(max(test.remaining, 0), 10), hits(ask("messaging", []string{"kind", "x"}), 0)) // a look
		})
	}
}
