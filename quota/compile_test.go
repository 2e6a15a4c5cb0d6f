package quota

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

var cellKey = [16]byte{3}

func digest(i int) string { return fmt.Sprintf("%064x", i) }

func TestCompileNamesEveryProblemAtOnce(t *testing.T) {
	const good = "spiffe://mesh/ns/acme/sa/app"
	with := func(l Limit) Catalogue {
		if l.Name == "" {
			l.Name = "a"
		}
		if l.Window == 0 {
			l.Window = time.Second
		}
		return Catalogue{Plans: []Plan{{Name: "gold", Limits: []Limit{l}}}}
	}
	customer := func(ts ...Tenant) Catalogue { return Catalogue{Plans: []Plan{{Name: "gold"}}, Tenants: ts} }
	key := func(ks ...APIKey) Catalogue {
		c := customer(Tenant{ID: "acme", Plan: "gold"})
		c.APIKeys = ks
		return c
	}
	principal := func(id string) Catalogue {
		return customer(Tenant{ID: "acme", Plan: "gold", Principals: []string{id}})
	}
	rules := func(rs ...authz.Rule) Catalogue {
		c := customer(Tenant{ID: "acme", Plan: "gold"})
		c.Rules = rs
		return c
	}
	issuers := func(is ...trust.Issuer) Catalogue {
		c := customer(Tenant{ID: "acme", Plan: "gold"})
		c.Issuers = is
		return c
	}
	notScope := func(i int, s string) string {
		return fmt.Sprintf("api_keys[0].scopes[%d]: %s is no scope; 1 to 128 visible ASCII characters without spaces and commas, such as calls:write\n", i, s)
	}
	many := make([]Limit, 17)
	for i := range many {
		many[i] = Limit{Name: fmt.Sprintf("l%d", i), Window: time.Second}
	}
	for _, c := range []struct {
		name string
		in   Catalogue
		want string
	}{
		{"a negative limit", with(Limit{Limit: -1}), `plans[0].limits[0].limit: -1 is out of range; a whole number from 0 (deny) to 4294967296`},
		{"a limit beyond the bound", with(Limit{Limit: 1<<32 + 1}), `plans[0].limits[0].limit: 4294967297 is out of range; a whole number from 0 (deny) to 4294967296`},
		{"a hard limit beyond its bound", with(Limit{Algorithm: "hard", Limit: 1 << 32}), `plans[0].limits[0].limit: 4294967296 is out of range; a whole number from 0 (deny) to 4294967295 for a hard limit`},
		{"a window that is too short", with(Limit{Window: time.Millisecond}), `plans[0].limits[0].window: 1ms is out of range; 1s to 366d`},
		{"a window that is too long", with(Limit{Window: 366*24*time.Hour + 1}), `plans[0].limits[0].window: 8784h0m0.000000001s is out of range; 1s to 366d`},
		{"a window that is too fine", with(Limit{Window: time.Second + time.Microsecond}), `plans[0].limits[0].window: 1.000001s is too fine; whole milliseconds`},
		{"a burst on a hard limit", with(Limit{Algorithm: "hard", Burst: 1}), `plans[0].limits[0].burst: a hard limit has no burst; leave burst out, or use the algorithm gcra`},
		{"a burst on a fixed limit", with(Limit{Algorithm: "fixed", Burst: -1}), `plans[0].limits[0].burst: a fixed limit has no burst; leave burst out, or use the algorithm gcra`},
		{"a burst out of range", with(Limit{Burst: 1<<32 + 1}), `plans[0].limits[0].burst: 4294967297 is out of range; a whole number from 1 to 4294967296`},
		{"an unknown algorithm", with(Limit{Algorithm: "GCRA"}), `plans[0].limits[0].algorithm: there is no algorithm "GCRA"; gcra (the default), hard or fixed`},
		{"an unknown enforcement", with(Limit{Enforcement: "dry-run"}), `plans[0].limits[0].enforcement: there is no enforcement "dry-run"; enforce (the default), or shadow: count, never refuse`},
		{"a limit without a window", Catalogue{Plans: []Plan{{Name: "gold", Limits: []Limit{{Name: "a"}}}}}, `plans[0].limits[0].window: is missing; how long the limit counts, such as 1s, 10m, 24h or 30d`},
		{"two limits of one name", Catalogue{Plans: []Plan{{Name: "gold", Limits: []Limit{many[0], many[0]}}}}, `plans[0].limits[1].name: "l0" is already at plans[0].limits[0].name; each limit of a plan or tenant has its own name`},
		{"too many limits in a plan", Catalogue{Plans: []Plan{{Name: "gold", Limits: many}}}, `plans[0].limits: the plan has 17 limits; at most 16`},
		{"too many limits for a tenant", Catalogue{Plans: []Plan{{Name: "gold", Limits: many[:9]}}, Tenants: []Tenant{{ID: "acme", Plan: "gold", Limits: many[8:]}}}, `tenants[0].limits: with its plan's, the tenant has 17 limits; at most 16`},
		{"a name that is none", Catalogue{Plans: []Plan{{Name: "Gold\n"}}}, `plans[0].name: "Gold\n" is no name; 1 to 63 of a-z, 0-9 and '-', first and last a letter or digit`},
		{"two plans of one name", Catalogue{Plans: []Plan{{Name: "gold"}, {Name: "gold"}}}, `plans[1].name: "gold" is already at plans[0].name; each plan has its own name: rename or delete one of the two`},
		{"a display name of two lines", Catalogue{Plans: []Plan{{Name: "gold", DisplayName: "a\nb"}}}, `plans[0].display_name: "a\nb" can't be shown; at most 200 bytes of UTF-8 on one line`},
		{"a tenant without a plan", customer(Tenant{ID: "acme"}), `tenants[0].plan: is missing; the name of one of the plans`},
		{"a tenant on an unknown plan", customer(Tenant{ID: "acme", Plan: "golf"}), `tenants[0].plan: there is no plan "golf"; one of the plans "gold"`},
		{"two tenants of one id", customer(Tenant{ID: "acme", Plan: "gold"}, Tenant{ID: "acme", Plan: "gold"}), `tenants[1].id: "acme" is already at tenants[0].id; each tenant has its own id: rename or delete one of the two`},
		{"a principal of two tenants", customer(Tenant{ID: "a", Plan: "gold", Principals: []string{good}}, Tenant{ID: "b", Plan: "gold", Principals: []string{good}}), `tenants[1].principals[0]: "` + good + `" is already at tenants[0].principals[0]; a principal is listed once and belongs to one tenant`},
		{"a key without a tenant", key(APIKey{ID: "k", Digest: digest(1)}), `api_keys[0].tenant: is missing; the id of one of the tenants`},
		{"a key of an unknown tenant", key(APIKey{ID: "k", Tenant: "nobody", Digest: digest(1)}), `api_keys[0].tenant: there is no tenant "nobody"; the id of one of the tenants`},
		{"two keys of one id", key(APIKey{ID: "k", Tenant: "acme", Digest: digest(1)}, APIKey{ID: "k", Tenant: "acme", Digest: digest(2)}), `api_keys[1].id: "k" is already at api_keys[0].id; each key has its own id: rename or delete one of the two`},
		{"two keys of one digest, in other letters", key(APIKey{ID: "k", Tenant: "acme", Digest: digest(10)}, APIKey{ID: "l", Tenant: "acme", Digest: strings.ToUpper(digest(10))}), `api_keys[1].digest: "` + strings.ToUpper(digest(10)) + `" is already at api_keys[0].digest; a key belongs to one tenant and is listed once`},
		{"a key in place of its digest, which is not shown", key(APIKey{ID: "k", Tenant: "acme", Digest: "slk_secret"}), `api_keys[0].digest: is 10 characters long; 64 hexadecimal digits, as 'sluice' prints them: never the key itself`},
		{"a digest that is not hexadecimal", key(APIKey{ID: "k", Tenant: "acme", Digest: strings.Repeat("x", 64)}), `api_keys[0].digest: is not hexadecimal; 64 hexadecimal digits, as 'sluice' prints them: never the key itself`},
		{"an expiry beyond the calendar", key(APIKey{ID: "k", Tenant: "acme", Digest: digest(1), Expires: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}), `api_keys[0].expires: the year 10000 is out of range; a time from 1970 to 9999; leave it out for never`},
		{"a word that is none for an outage", with(Limit{OnOutage: "open"}), `plans[0].limits[0].on_outage: there is no "open" for an outage; deny (the default of durable limits), local (the default of the others: this replica's share), or allow: no limit at all meanwhile`},
		{"a limit that charges nowhere", with(Limit{At: "Service"}), `plans[0].limits[0].at: a limit can't charge at "Service"; edge (the default): once, where the request comes in; or service: at each service too`},
		{"too many rules", rules(make([]authz.Rule, 10_001)...), `rules: there are 10001 rules; at most 10000`},
		{"an unknown authorization", customer(Tenant{ID: "acme", Plan: "gold", Authorization: "off"}), `tenants[0].authorization: there is no authorization "off"; enforce (the default), or shadow: record what rules refuse and let it pass`},
		{"too many scopes", key(APIKey{ID: "k", Tenant: "acme", Digest: digest(1), Scopes: slices.Repeat([]string{"s"}, 65)}), `api_keys[0].scopes: the key has 65 scopes; at most 64`},
		{"scopes that are none", key(APIKey{ID: "k", Tenant: "acme", Digest: digest(1), Scopes: []string{"", "a b", "a,b", "a\x7f", "a\n", "ä", strings.Repeat("a", 128), strings.Repeat("b", 129)}}), notScope(0, `""`) + notScope(1, `"a b"`) + notScope(2, `"a,b"`) + notScope(3, `"a\x7f"`) + notScope(4, `"a\n"`) + notScope(5, `"ä"`) + strings.TrimSuffix(notScope(7, `"`+strings.Repeat("b", 80)+`"…`), "\n")},
		{"a rule about nobody", rules(authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Tenants: []string{"acme", "umbrella"}, Plans: []string{"gold", "silver"}}}), `rules[0].who.tenants[1]: there is no tenant "umbrella"; the id of one of the tenants
rules[0].who.plans[1]: there is no plan "silver"; one of the plans "gold"`},
		{"an issuer that speaks for nobody", issuers(trust.Issuer{Name: "i", Issuer: "https://login.example.com", Audiences: []string{"sluice"}, JWKSURI: "https://login.example.com/keys", Tenant: "umbrella"}), `issuers[0].tenant: there is no tenant "umbrella"; the id of one of the tenants`},
		{"no SPIFFE id", principal("http://mesh/a"), `tenants[0].principals[0]: "http://mesh/a" does not begin with spiffe://; a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app`},
		{"a SPIFFE id without a path", principal("spiffe://mesh"), `tenants[0].principals[0]: "spiffe://mesh" has no path; a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app`},
		{"a SPIFFE id with a relative path", principal("spiffe://mesh/a/../b"), `tenants[0].principals[0]: "spiffe://mesh/a/../b" has a path with an empty or relative segment; a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app`},
		{"a SPIFFE id with an escape", principal("spiffe://mesh/a%2fb"), `tenants[0].principals[0]: "spiffe://mesh/a%2fb" has a path with other characters than letters, digits, '.', '-' and '_'; a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app`},
		{"a SPIFFE id with a port", principal("spiffe://mesh:80/a"), `tenants[0].principals[0]: "spiffe://mesh:80/a" has no trust domain of a-z, 0-9, '.', '-' and '_'; a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app`},
		{"a SPIFFE id that is too long", principal("spiffe://mesh/" + strings.Repeat("a", 2048)), `tenants[0].principals[0]: "spiffe://mesh/` + strings.Repeat("a", 66) + `"… is longer than 2048 bytes; a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app`},
		{"several at once", Catalogue{Plans: []Plan{{}}, Tenants: []Tenant{{Plan: "x"}}}, `plans[0].name: is missing; give it the name that others refer to
tenants[0].id: is missing; give it the id that others refer to
tenants[0].plan: there is no plan "x"; declare it under plans`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Compile(1, c.in, cellKey)
			var problems Problems
			if s != nil || !errors.As(err, &problems) {
				t.Fatalf("compiled: %v, %v", s, err)
			}
			if got := err.Error(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestCompileFillsInDefaults(t *testing.T) {
	no := false
	s, err := Compile(9, Catalogue{
		Plans: []Plan{{Name: "gold", Limits: []Limit{
			{Name: "rps", Limit: 5, Window: time.Second},
			{Name: "minute", Algorithm: "fixed", Limit: 7, Window: time.Minute},
			{Name: "never", Limit: 0, Window: time.Hour, Durable: &no, Enforcement: "shadow"},
		}}},
		Tenants: []Tenant{
			{ID: "acme", Plan: "gold", Principals: []string{"spiffe://mesh/ns/acme/sa/app"}, Limits: []Limit{
				{Name: "extra", Algorithm: "hard", Limit: 1<<32 - 1, Window: 366 * 24 * time.Hour},
				{Name: "rps", Limit: 50, Burst: 3, Window: time.Second},
			}},
			{ID: "plain", Plan: "gold"},
		},
		APIKeys: []APIKey{{ID: "k", Tenant: "acme", Digest: digest(1)}},
	}, cellKey)
	if err != nil {
		t.Fatal(err)
	}
	acme := s.Account("acme")
	want := []ratelimit.Limit{
		{Name: "rps", Algorithm: ratelimit.GCRA, Hits: 50, Burst: 3, Window: time.Second, OnOutage: ratelimit.OutageLocal},
		{Name: "minute", Algorithm: ratelimit.Fixed, Hits: 7, Window: time.Minute, Durable: true},
		{Name: "never", Algorithm: ratelimit.GCRA, Burst: 1, Window: time.Hour, Shadow: true, OnOutage: ratelimit.OutageLocal},
		{Name: "extra", Algorithm: ratelimit.Hard, Hits: 1<<32 - 1, Window: 366 * 24 * time.Hour, Durable: true},
	}
	if len(acme.Charges) != len(want) {
		t.Fatalf("%d charges", len(acme.Charges))
	}
	for i, c := range acme.Charges {
		if *c.Limit != want[i] || c.Hits != 1 || c.Cell.Shard != acme.Charges[0].Cell.Shard {
			t.Errorf("charge %d is %+v of %+v", i, c, *c.Limit)
		}
	}
	plain := s.Account("plain")
	if plain.Charges[0].Limit.Burst != 5 || plain.Charges[1].Limit != acme.Charges[1].Limit {
		t.Error("a plan's limit is not shared, or its burst is not its limit")
	}
	var d [32]byte
	d[31] = 1
	if k, ok := s.Key(d); !ok || k.Account != acme || k.ID != "k" || k.Digest != d {
		t.Errorf("key %+v, %v", k, ok)
	}
	if _, ok := s.Key([32]byte{1}); ok || s.Account("nobody") != nil || s.SPIFFE("spiffe://mesh/ns/acme/sa/App") != nil {
		t.Error("somebody who isn't there was found")
	}
	if s.SPIFFE("spiffe://mesh/ns/acme/sa/app") != acme || s.Revision != 9 {
		t.Error("the principal or the revision is lost")
	}
	if n := testing.AllocsPerRun(100, func() { s.Account("acme"); s.Key(d); s.SPIFFE("x") }); n != 0 {
		t.Errorf("%v allocations per look-up", n)
	}
}

func TestLimitsOfServicesAreInnerToo(t *testing.T) {
	s, err := Compile(1, Catalogue{
		Plans: []Plan{{Name: "gold", Limits: []Limit{
			{Name: "rps", Limit: 5, Window: time.Second, At: "edge"},
			{Name: "hop", Limit: 7, Window: time.Second, At: "service"},
			{Name: "day", Limit: 9, Window: 24 * time.Hour},
		}}},
		Tenants: []Tenant{
			{ID: "acme", Plan: "gold", Limits: []Limit{{Name: "extra", Limit: 1, Window: time.Hour, At: "service"}}},
			{ID: "flat", Plan: "gold", Limits: []Limit{{Name: "hop", Limit: 70, Window: time.Second}}, Authorization: "shadow"},
		},
	}, cellKey)
	if err != nil {
		t.Fatal(err)
	}
	acme, flat := s.Account("acme"), s.Account("flat")
	if len(acme.Charges) != 4 || len(acme.Inner) != 2 || acme.Inner[0] != acme.Charges[1] || acme.Inner[1] != acme.Charges[3] {
		t.Errorf("inner %+v of %+v", acme.Inner, acme.Charges)
	}
	if len(flat.Charges) != 3 || len(flat.Inner) != 0 {
		t.Errorf("a limit that the tenant has put at the edge is inner: %+v", flat.Inner)
	}
	if acme.Shadow || !flat.Shadow {
		t.Error("the wrong tenant is in shadow")
	}
	if s.Rules == nil || s.Issuers == nil {
		t.Error("no rules or issuers, not even none")
	}
}

// Package authz names places by its own index and field; here they get the catalogue's.
func TestProblemsOfRulesAndIssuersHavePlaces(t *testing.T) {
	k := newCompiler(&Snapshot{cellKey: cellKey}, &Catalogue{})
	k.adopt("rules", []authz.Problem{
		{Index: 3, Field: "when", Item: -1, Wrong: "w", Right: "r"},
		{Index: 0, Field: "what.paths", Item: 2, Wrong: "w", Right: "r"},
	})
	k.adopt("issuers", []authz.Problem{{Index: 1, Item: -1, Wrong: "w", Right: "r"}})
	want := "rules[3].when: w; r\nrules[0].what.paths[2]: w; r\nissuers[1]: w; r"
	if got := k.problems.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAChangedLimitKeepsItsCell(t *testing.T) {
	cells := func(l Limit, key [16]byte) ratelimit.Cell {
		s, err := Compile(1, Catalogue{Plans: []Plan{{Name: "p", Limits: []Limit{{Name: "other", Window: time.Hour}, l}}}, Tenants: []Tenant{{ID: "t", Plan: "p"}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return s.Account("t").Charges[1].Cell
	}
	before := cells(Limit{Name: "a", Limit: 1, Window: time.Second}, cellKey)
	if after := cells(Limit{Name: "a", Limit: 1000, Burst: 7, Window: time.Second, Enforcement: "shadow"}, cellKey); after != before {
		t.Error("a raised limit starts from zero")
	}
	if other := cells(Limit{Name: "b", Limit: 1, Window: time.Second}, cellKey); other.Key == before.Key || other.Shard != before.Shard {
		t.Error("another limit of the tenant has the same cell or another shard")
	}
	if other := cells(Limit{Name: "a", Limit: 1, Window: time.Second}, [16]byte{4}); other == before {
		t.Error("the cell does not depend on the key")
	}
}

// However a text is cut into a tenant and a limit, no two cells meet.
func TestNoTwoCellsCollide(t *testing.T) {
	k := func(id, name string) ([16]byte, uint64) {
		c := newCompiler(&Snapshot{cellKey: cellKey}, &Catalogue{})
		charges, _ := c.charges(tenant.ID(id), []limit{{Limit: &ratelimit.Limit{Name: name}}}, nil)
		return charges[0].Cell.Key, charges[0].Cell.Shard
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-b\-]{2,20}`).Draw(t, "text")
		seen, shards := map[[16]byte]int{}, map[uint64]int{}
		for i := range len(text) + 1 {
			key, shard := k(text[:i], text[i:])
			if j, ok := seen[key]; ok {
				t.Fatalf("%q cut at %d and at %d is one cell", text, i, j)
			}
			if j, ok := shards[shard]; ok {
				t.Fatalf("%q cut at %d and at %d is one shard", text, i, j)
			}
			if shard == uint64FromKey(key) {
				t.Fatalf("the shard of %q gives away its cell", text)
			}
			seen[key], shards[shard] = i, i
		}
	})
}

func uint64FromKey(key [16]byte) (v uint64) {
	for _, b := range key[:8] {
		v = v<<8 | uint64(b)
	}
	return v
}

func TestProblemsOfAWholeCatalogueStayReadable(t *testing.T) {
	c := Catalogue{Plans: make([]Plan, 250)}
	_, err := Compile(1, c, cellKey)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) < 250 {
		t.Fatalf("%d problems", len(problems))
	}
	text := err.Error()
	if lines := strings.Count(text, "\n"); lines != 100 || !strings.HasSuffix(text, fmt.Sprintf("and %d more problems", len(problems)-100)) {
		t.Errorf("%d lines, ending %q", lines, text[len(text)-40:])
	}
}

// Many returns a catalogue of n tenants with three limits each.
func many(n int) Catalogue {
	c := Catalogue{Plans: []Plan{{Name: "gold", Limits: []Limit{
		{Name: "rps", Limit: 5, Window: time.Second},
		{Name: "minute", Algorithm: "fixed", Limit: 7, Window: time.Minute},
		{Name: "day", Algorithm: "hard", Limit: 100, Window: 24 * time.Hour},
	}}}}
	for i := range n {
		id := tenant.ID(fmt.Sprintf("t%d", i))
		var d [32]byte
		d[0], d[1], d[2] = byte(i), byte(i>>8), byte(i>>16)
		c.Tenants = append(c.Tenants, Tenant{ID: id, Plan: "gold", Principals: []string{"spiffe://mesh/ns/" + string(id) + "/sa/app"}})
		c.APIKeys = append(c.APIKeys, APIKey{ID: "k" + string(id), Tenant: id, Digest: hex.EncodeToString(d[:])})
	}
	return c
}

func BenchmarkCompile100kTenants(b *testing.B) {
	c := many(100_000)
	b.ReportAllocs()
	defer reportCPU(b)()
	for b.Loop() {
		if _, err := Compile(1, c, cellKey); err != nil {
			b.Fatal(err)
		}
	}
}

// What was compiled for the snapshot before is taken from it while it is the same.
func BenchmarkCompileAfterAChangeBeside1000Rules(b *testing.B) {
	c := many(100)
	for i := range 1000 {
		c.Rules = append(c.Rules, authz.Rule{Name: fmt.Sprintf("r%d", i), Effect: "allow", When: `principal.roles.exists(r, r == "agent") && request.method == "GET"`})
	}
	last, err := Compile(1, c, cellKey)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CompileAfter(last, 2, c, cellKey, Place.String); err != nil {
			b.Fatal(err)
		}
	}
}
