package audit

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

var testEncoder = encoder{mask: masker{testMask}}

// jwt is a token as RFC 7519 shows one, with another subject.
const (
	jwt    = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"
	apiKey = "slk_abcdefgh_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	admin  = "sla_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
)

// fill puts s in every field that a client or an administrator can influence.
func fill(s string) *Entry {
	return &Entry{
		Class: authz.Required, Tenant: tenant.ID(s), Plan: s, Principal: s, Roles: []string{s, s}, Peer: s, Source: s, Service: s,
		Method: s, Host: s, Path: s, Reason: s, Detail: s, Rule: s, ShadowRule: s, Actor: s, Act: s, Resource: s,
	}
}

func TestA03SecretsAreNotWritten(t *testing.T) {
	cases := map[string][]string{ // what must not be found
		apiKey:                                   {"AAAAAAAA"},
		strings.ToUpper(apiKey):                  {"AAAAAAAA"},
		admin:                                    {"BBBBBBBB"},
		jwt:                                      {"eyJ", "c2ln"},
		"/v1/" + jwt + "/x":                      {"eyJ", "c2ln"},
		"/cb_" + jwt:                             {"eyJ", "c2ln"},
		"/v1/keys/" + apiKey + "/revoke":         {"AAAAAAAA"},
		"Bearer canary.canary":                   {"canary"},
		"authorization: bearer  canary":          {"canary"},
		"BEARER\tcanary":                         {"canary"},
		"Bearer+canary":                          {"canary"},
		"/slk%5Fabcdefgh_AAAAAAAAAAAAAA":         {"AAAAAAAA"},
		"/slk%255Fabcdefgh_AAAAAAAAAAAAAA":       {"AAAAAAAA"},
		"/Bearer%20canary":                       {"canary"},
		strings.ReplaceAll(jwt, ".", "%2E"):      {"c2ln"},
		"ewogICJhbGciOiAibm9uZSIKfQ.e30.":        {"ewog"},
		"eyAiYWxnIjogIm5vbmUiIH0.e30.":           {"eyAi"},
		"eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn":  {"Y2lw"}, // JWE
		apiKey + " and " + admin + " and " + jwt: {"AAAAAAAA", "BBBBBBBB", "eyJ"},
		strings.Repeat("x", maxField-30) + jwt:   {"eyJ"},
		strings.Repeat("x", maxRole-30) + jwt:    {"eyJ"},
	}
	for s, canaries := range cases {
		t.Run("A-03 in every field "+s, func(t *testing.T) {
			line := string(testEncoder.append(nil, fill(s)))
			for _, c := range canaries {
				if strings.Contains(line, c) {
					t.Errorf("%q is in %s", c, line)
				}
			}
		})
	}
	t.Run("A-03 the query of a path is not written", func(t *testing.T) {
		for _, path := range []string{"/v1?token=canary", "/v1#canary", "?canary"} {
			if line := string(testEncoder.append(nil, &Entry{Path: path})); strings.Contains(line, "canary") {
				t.Error(line)
			}
		}
	})
	t.Run("the same credential has the same digest, under another key another", func(t *testing.T) {
		one := string(testEncoder.append(nil, &Entry{Path: "/a/" + apiKey}))
		two := string(testEncoder.append(nil, &Entry{Path: "/b/" + apiKey}))
		other := encoder{mask: masker{[32]byte{8}}}
		three := string(other.append(nil, &Entry{Path: "/a/" + apiKey}))
		_, digest, _ := strings.Cut(one, "[masked:")
		if !strings.HasSuffix(two, digest) || strings.HasSuffix(three, digest) {
			t.Error(one, two, three)
		}
	})
	t.Run("what only looks a little like one is written", func(t *testing.T) {
		for _, s := range []string{
			"eyewitness-service.news.example", "ewolucja-service-long.name.example.org", "/v1/slk/x", "no Bearer", "'Authorization: Bearer'",
			"slk_", "api.v1.example.com", "/a_b/c+d/e%20f", "keyId", "rule for 100% of calls",
		} {
			if line := string(testEncoder.append(nil, fill(s))); strings.Contains(line, "[masked:") {
				t.Errorf("%q became %s", s, line)
			}
		}
	})
	t.Run("a client's address is cut to its network", func(t *testing.T) {
		for in, want := range map[string]string{
			"203.0.113.77": "203.0.113.0/24", "203.0.113.77:4711": "203.0.113.0/24", "2001:db8:1:2:3:4:5:6": "2001:db8:1::/48",
			"[2001:db8:1:2::1]:443": "2001:db8:1::/48", "::ffff:203.0.113.77": "203.0.113.0/24", "fe80::1%eth0": "fe80::/48", "\n": "unknown",
		} {
			if line := string(testEncoder.append(nil, &Entry{Source: in})); !strings.Contains(line, `"source":"`+want+`"`) {
				t.Errorf("%q became %s", in, line)
			}
		}
		whole := encoder{whole: true}
		if line := string(whole.append(nil, &Entry{Source: "203.0.113.77:80"})); !strings.Contains(line, `"203.0.113.77"`) {
			t.Error(line)
		}
	})
}

func TestA04NothingBreaksALine(t *testing.T) {
	for _, s := range []string{
		"a\nb", "a\r\nb", "\x1b[31mred\x1b[0m", `","allowed":true,"x":"`, "a\u2028b\u2029c", "bad \xff\xfe utf-8", "nul\x00", "bidi \u202e evil", "tag \U000e0041",
		"c1 \u009b31m", "<script>&", `back\slash`, "\x7f", "tab\t", "ünïcödé 日本 🎈",
	} {
		t.Run("A-04 in every field "+fmt.Sprintf("%+q", s), func(t *testing.T) {
			e := fill(s)
			e.Source = ""
			line := sealed(e)
			for _, r := range line {
				if r == utf8.RuneError || !unicode.IsGraphic(r) || r == '\u2028' || r == '\u2029' {
					t.Errorf("%U is in %+q", r, line)
				}
			}
			r, err := ParseRecord([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			want := string([]rune(s)) // a replacement character for each bad byte
			for _, got := range []string{r.Tenant, r.Plan, r.Principal, r.Roles[1], r.Peer, r.Service, r.Method, r.Host, r.Path, r.Reason, r.Detail, r.Rule, r.ShadowRule, r.Actor, r.Act, r.Resource} {
				if got != want && got != withoutQuery(want) {
					t.Errorf("reads %+q, want %+q", got, want)
				}
			}
		})
	}
	t.Run("a field is cut, and says so", func(t *testing.T) {
		line := sealed(&Entry{Path: strings.Repeat("é", 5000), Roles: make([]string, 50)})
		r, err := ParseRecord([]byte(line))
		if err != nil || r.Path != strings.Repeat("é", maxField/2)+"… and 8976 bytes" || len(r.Roles) != maxRoles {
			t.Error(r, err)
		}
	})
	t.Run("the longest entry fits a line", func(t *testing.T) {
		e := fill(strings.Repeat("\x00", 1<<20))
		e.Roles = make([]string, 100)
		for i := range e.Roles {
			e.Roles[i] = e.Detail
		}
		if n := len(sealed(e)); n >= maxLine {
			t.Errorf("%d bytes, more than %d", n, maxLine)
		}
	})
}

func TestWhatIsWrittenAsItWasIsNotAltered(t *testing.T) {
	for _, c := range []struct {
		name, want string
		entry      *Entry
	}{
		{"a request is whole", "", &Entry{Path: "/v1/ünï%20+_", Roles: make([]string, maxRoles-1)}},
		{"the longest field is whole", "", &Entry{Path: strings.Repeat("x", maxField)}},
		{"a longer one is cut", "cut", &Entry{Path: strings.Repeat("x", maxField+1)}},
		{"a longer role is cut", "cut", &Entry{Roles: []string{strings.Repeat("x", maxRole+1)}}},
		{"a credential is masked", "masked", &Entry{Path: "/" + apiKey}},
		{"an encoded one is masked", "masked", &Entry{Path: "/slk%5Fabcdefgh_AAAAAAAAAAAAAA"}},
		{"a credential in a role is masked", "masked", &Entry{Roles: []string{"a", jwt}}},
		{"a byte that is no text is replaced", "not UTF-8", &Entry{Principal: "a\xff"}},
		{"as many roles as are kept may have been more", "roles", &Entry{Roles: make([]string, maxRoles)}},
		{"what no rule sees may be cut", "", &Entry{Detail: strings.Repeat("x", maxField+1), Rule: jwt}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ParseRecord([]byte(sealed(c.entry)))
			if got := r.Altered(); err != nil || got != c.want {
				t.Errorf("%q, want %q: %v", got, c.want, err)
			}
		})
	}
	for i, s := range []string{apiKey, strings.Repeat("x", maxField+1), "\xff"} { // in each field that rules see
		e := fill(s)
		for _, only := range []*Entry{
			{Tenant: e.Tenant}, {Plan: s}, {Principal: s}, {Roles: e.Roles}, {Service: s}, {Method: s}, {Host: s}, {Path: s},
		} {
			r, err := ParseRecord([]byte(sealed(only)))
			if err != nil || r.Altered() != []string{"masked", "cut", "not UTF-8"}[i] {
				t.Errorf("%q is not seen in %+v: %v", s, r, err)
			}
		}
	}
}

func sealed(e *Entry) string {
	var s state
	return strings.TrimSuffix(string(s.seal(nil, testEncoder.append(nil, e))), "\n")
}

func FuzzEntry(f *testing.F) {
	f.Add("/v1/calls", "acme")
	f.Add(jwt, apiKey)
	f.Add("a\n\x1b\u2028\xff", `"\`)
	f.Fuzz(func(t *testing.T, a, b string) {
		e := fill(a)
		e.Roles, e.Detail = []string{b}, b
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		line := testEncoder.append(nil, e)
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; len(a)+len(b) <= 10<<10 && spent > 1<<20 {
			t.Errorf("%d bytes of memory for %d of text", spent, len(a)+len(b))
		}
		if !json.Valid([]byte("{" + string(line) + "}")) {
			t.Fatalf("no JSON: %s", line)
		}
		for _, r := range string(line) {
			if !unicode.IsGraphic(r) {
				t.Fatalf("%U in %+q", r, line)
			}
		}
		if strings.Contains(string(line), apiKey) {
			t.Fatalf("a key in %s", line)
		}
		if again := testEncoder.append(nil, e); string(again) != string(line) {
			t.Fatal("the same entry has two spellings")
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(sealed(entry(authz.Required))))
	f.Add([]byte(`{"seq":1,"time":-5,"kind":"x","hash":"`))
	f.Add(publicPEM(public(testSeed)))
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = ParseRecord(text)
		_, _ = ParsePublicKeys(text)
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; len(text) <= 10<<10 && spent > 1<<20 {
			t.Errorf("%d bytes of memory for %d of text", spent, len(text))
		}
		l, why := parseLine(text)
		if why == "" && string(l.sealed)+hashStart+string(l.hash)+lineEnd != string(text) {
			t.Errorf("%q lost bytes", text)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	s, err := newSigner("sluiced/test", testSeed)
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.checkpoint(&Checkpoint{Origin: "sluiced/test", Count: 7, Time: start})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("a\n1\n\ntime 1\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := verify(text, s.key); err == nil {
			again, err := s.checkpoint(&c)
			if err != nil || string(again) != string(text) {
				t.Errorf("%q is accepted but not written", text)
			}
		}
	})
}

func TestRecordAllocations(t *testing.T) {
	o := options(t)
	o.CheckpointRecords = 1 << 30
	l := open(t, o)
	e := entry(authz.BestEffort)
	for range 20_000 { // grows the two queues
		record(t, l, e)
	}
	if n := testing.AllocsPerRun(5000, func() { record(t, l, e) }); n > 0.5 {
		t.Errorf("%.2f allocations for a best-effort record", n)
	}
	e.Class = authz.Unrecorded
	if n := testing.AllocsPerRun(100, func() { record(t, l, e) }); n > 0 {
		t.Errorf("%.2f allocations for no record", n)
	}
}
