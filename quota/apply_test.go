package quota

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// world is a small catalogue by name, which a step changes at random.
type world struct {
	plans   map[string]Plan
	tenants map[tenant.ID]Tenant
	keys    map[string]APIKey
	rules   []authz.Rule
	issuers []trust.Issuer
}

func values[K ~string, V any](m map[K]V) (all []V) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, m[k])
	}
	return all
}

func (w *world) catalogue() Catalogue {
	return Catalogue{Plans: values(w.plans), Tenants: values(w.tenants), APIKeys: values(w.keys), Rules: w.rules, Issuers: w.issuers}
}

func (w *world) clone() *world {
	return &world{maps.Clone(w.plans), maps.Clone(w.tenants), maps.Clone(w.keys), w.rules, w.issuers}
}

func names(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return all
}

// drawLimits draws limits, a few of them wrong.
func drawLimits(t *rapid.T) []Limit {
	all := make([]Limit, 0, 12)
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names("l", 12)), 0, 10, rapid.ID).Draw(t, "limits") {
		all = append(all, Limit{
			Name: name, Limit: rapid.Int64Range(-1, 30).Draw(t, "limit"), Window: time.Duration(rapid.IntRange(1, 90).Draw(t, "window")) * time.Second,
			At: rapid.SampledFrom([]string{"", "edge", "service"}).Draw(t, "at"),
		})
		if all[len(all)-1].Limit < 0 && rapid.IntRange(0, 9).Draw(t, "mend") > 0 {
			all[len(all)-1].Limit = 5
		}
	}
	return all
}

func (w *world) step(t *rapid.T) {
	plan := rapid.SampledFrom(names("p", 3))
	id := rapid.Custom(func(t *rapid.T) tenant.ID { return tenant.ID(rapid.SampledFrom(names("t", 5)).Draw(t, "tenant")) })
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0, 1:
		name := plan.Draw(t, "plan")
		w.plans[name] = Plan{Name: name, Limits: drawLimits(t)}
	case 2:
		delete(w.plans, plan.Draw(t, "plan"))
	case 3, 4, 5:
		of := id.Draw(t, "id")
		w.tenants[of] = Tenant{
			ID: of, Plan: plan.Draw(t, "plan"), Suspended: rapid.Bool().Draw(t, "suspended"),
			Principals: rapid.SliceOfN(rapid.SampledFrom([]string{"spiffe://mesh/a", "spiffe://mesh/b", "spiffe://mesh/c"}), 0, 2).Draw(t, "principals"),
		}
		if rapid.Bool().Draw(t, "own limits") {
			changed := w.tenants[of]
			changed.Limits = drawLimits(t)
			w.tenants[of] = changed
		}
	case 6:
		delete(w.tenants, id.Draw(t, "id"))
	case 7:
		name := rapid.SampledFrom(names("k", 4)).Draw(t, "key")
		w.keys[name] = APIKey{ID: name, Tenant: id.Draw(t, "id"), Digest: digest(rapid.IntRange(0, 5).Draw(t, "digest")), Scopes: []string{"a"}}
	case 8:
		delete(w.keys, rapid.SampledFrom(names("k", 4)).Draw(t, "key"))
	default:
		w.rules = []authz.Rule{{Name: "r", Effect: "allow", Who: authz.Who{Tenants: []string{string(id.Draw(t, "id"))}, Plans: []string{plan.Draw(t, "plan")}}}}
		if rapid.Bool().Draw(t, "no rules") {
			w.rules = nil
		}
	}
}

// differ is the change from one world to the next.
func differ(before, after *world) Change {
	c := Change{Rules: after.rules, Issuers: after.issuers}
	for name, p := range after.plans {
		if fmt.Sprint(p) != fmt.Sprint(before.plans[name]) {
			c.Plans = append(c.Plans, p)
		}
	}
	for name, v := range after.tenants {
		if fmt.Sprint(v) != fmt.Sprint(before.tenants[name]) {
			c.Tenants = append(c.Tenants, v)
		}
	}
	for name, k := range after.keys {
		if fmt.Sprint(k) != fmt.Sprint(before.keys[name]) {
			c.APIKeys = append(c.APIKeys, k)
		}
	}
	for name := range before.plans {
		if _, ok := after.plans[name]; !ok {
			c.GonePlans = append(c.GonePlans, name)
		}
	}
	for name := range before.tenants {
		if _, ok := after.tenants[name]; !ok {
			c.GoneTenants = append(c.GoneTenants, name)
		}
	}
	for name := range before.keys {
		if _, ok := after.keys[name]; !ok {
			c.GoneAPIKeys = append(c.GoneAPIKeys, name)
		}
	}
	return c
}

// describe is everything that a snapshot says, in an order.
func describe(s *Snapshot) string {
	var lines []string
	line := func(format string, values ...any) { lines = append(lines, fmt.Sprintf(format, values...)) }
	charges := func(of []ratelimit.Charge) (text string) {
		for _, c := range of {
			text += fmt.Sprintf(" %+v×%d@%x", *c.Limit, c.Hits, c.Cell)
		}
		return text
	}
	for name, limits := range s.plans.all() {
		line("plan %s %d", name, len(limits))
	}
	for id, a := range s.tenants.all() {
		line("tenant %s %s %v %v %v charges%s inner%s", id, a.Plan, a.Tenant, a.Suspended, a.Shadow, charges(a.Charges), charges(a.Inner))
	}
	for d, c := range s.keys.all() {
		found, ok := s.Key(d)
		line("key %x %s %x %v %v of %s, %v", d, c.ID, c.Voucher, c.Expires, c.Scopes, found.Account.Tenant, ok && found.Account == s.Account(c.tenant))
	}
	for id, d := range s.digests.all() {
		line("digest %s %x", id, d)
	}
	for p, id := range s.spiffe.all() {
		line("spiffe %s %s %v", p, id, s.SPIFFE(p) == s.Account(id) && s.Account(id) != nil)
	}
	slices.Sort(lines)
	line("rules %+v", s.rules)
	return strings.Join(lines, "\n")
}

// byName calls a place by the name of its entry.
func byName(p Place) string {
	if p.Entry == "" {
		return p.String()
	}
	return p.Within(p.Entry, strconv.Itoa(p.Limit))
}

// problems are all lines of an error, in an order. Of two places that want the same, either may be called wrong.
func problems(err error) string {
	var all Problems
	if err == nil || !errors.As(err, &all) {
		return fmt.Sprint(err)
	}
	lines := make([]string, 0, len(all))
	for _, p := range all {
		if value, _, taken := strings.Cut(p.Wrong, " is already at "); taken {
			p.Path, p.Wrong = "", value
		}
		lines = append(lines, p.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Whatever the history, a snapshot that was changed says what one compiled from the whole says, an
// invalid catalogue has the same problems for both, and no snapshot changes once it is made.
func TestApplyIsCompile(t *testing.T) {
	valid, invalid := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		now := &world{plans: map[string]Plan{"p0": {Name: "p0"}}, tenants: map[tenant.ID]Tenant{"t0": {ID: "t0", Plan: "p0"}}, keys: map[string]APIKey{}}
		last, err := Compile(1, now.catalogue(), cellKey)
		if err != nil {
			t.Fatal(err)
		}
		for revision := uint64(2); revision < 30; revision++ {
			next := now.clone()
			for range rapid.IntRange(1, 4).Draw(t, "steps") {
				next.step(t)
			}
			before := describe(last)
			all := next.catalogue()
			whole, err := CompileAfter(nil, revision, all, cellKey, func(p Place) string { return byName(all.named(p)) })
			s, wrong := last.Apply(revision, differ(now, next), byName)
			if got, want := problems(wrong), problems(err); got != want {
				t.Fatalf("applied\n%s\ncompiled\n%s\n%+v", got, want, all)
			}
			if describe(last) != before {
				t.Fatalf("the last snapshot changed from\n%s\nto\n%s", before, describe(last))
			}
			if err != nil {
				invalid++
				continue
			}
			valid++
			if got, want := describe(s), describe(whole); got != want || s.Revision != revision {
				t.Fatalf("revision %d, applied\n%s\ncompiled\n%s", s.Revision, got, want)
			}
			now, last = next, s
		}
	})
	if valid < 100 || invalid < 100 {
		t.Errorf("%d valid and %d invalid catalogues: the test sees too little", valid, invalid)
	}
}

// changedShards is how many shards the maps don't share.
func changedShards[K comparable, V any](a, b shards[K, V]) (n int) {
	for i := range a.of {
		if fmt.Sprintf("%p", a.of[i]) != fmt.Sprintf("%p", b.of[i]) {
			n++
		}
	}
	return n
}

// What a change costs is what it names: tenants that were not compiled are the same ones, maps are shared but for a shard.
func TestApplyCompilesOnlyWhatChanged(t *testing.T) {
	const n = 5_000
	c := many(n)
	last, err := Compile(1, c, cellKey)
	if err != nil {
		t.Fatal(err)
	}
	compiled := func(next *Snapshot) (count int) {
		for id, a := range last.tenants.all() {
			if next.Account(id) != a {
				count++
			}
		}
		return count
	}
	for _, step := range []struct {
		name    string
		change  Change
		tenants int // that were compiled
		shards  int // that were copied, of tenants, keys, digests and principals together, at most
	}{
		{"nothing", Change{}, 0, 0},
		{"a tenant", Change{Tenants: []Tenant{{ID: "t7", Plan: "gold", Suspended: true, Principals: c.Tenants[7].Principals}}}, 1, 2},
		{"a new tenant with a key", Change{Tenants: []Tenant{{ID: "new", Plan: "gold"}}, APIKeys: []APIKey{{ID: "new", Tenant: "new", Digest: digest(1)}}}, 0, 3},
		{"a key that goes", Change{GoneAPIKeys: []string{"kt7"}}, 0, 2},
		{"a tenant that goes with its key", Change{GoneTenants: []tenant.ID{"t8"}, GoneAPIKeys: []string{"kt8"}}, 1, 4},
		{"a plan", Change{Plans: []Plan{{Name: "gold", Limits: []Limit{{Name: "rps", Limit: 6, Window: time.Second}}}}}, n, shardCount},
		{"a plan that nobody is on", Change{Plans: []Plan{{Name: "silver"}}}, 0, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			next, err := last.Apply(2, step.change, Place.String)
			if err != nil {
				t.Fatal(err)
			}
			shards := changedShards(last.tenants, next.tenants) + changedShards(last.keys, next.keys) +
				changedShards(last.digests, next.digests) + changedShards(last.spiffe, next.spiffe)
			if got := compiled(next); got != step.tenants || shards > step.shards {
				t.Errorf("%d tenants compiled, %d shards copied; want %d, at most %d", got, shards, step.tenants, step.shards)
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	c := many(100_000)
	last, err := Compile(1, c, cellKey)
	if err != nil {
		b.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change Change
		wrong  bool
	}{
		{"a tenant", Change{Tenants: []Tenant{{ID: "t7", Plan: "gold", Suspended: true}}}, false},
		{"a tenant that is wrong", Change{Tenants: []Tenant{{ID: "t7", Plan: "none"}}}, true},
		{"a key", Change{APIKeys: []APIKey{{ID: "new", Tenant: "t7", Digest: digest(1)}}}, false},
		{"a tenant that goes", Change{GoneTenants: []tenant.ID{"t7"}, GoneAPIKeys: []string{"kt7"}}, false},
		{"a tenant that goes without its key", Change{GoneTenants: []tenant.ID{"t7"}}, true},
		{"the plan of all", Change{Plans: c.Plans}, false},
		{"the plan of all that goes", Change{GonePlans: []string{"gold"}}, true},
	} {
		b.Run(step.name, func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				if _, err := last.Apply(2, step.change, Place.String); (err != nil) != step.wrong {
					b.Fatal(err)
				}
			}
		})
	}
}

// reportCPU adds what the process took of its processors, collector included, to what a benchmark reports.
func reportCPU(b *testing.B) func() {
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := spent()
	return func() { b.ReportMetric(float64((spent()-begin).Microseconds())/1e3/float64(b.N), "cpu-ms/op") }
}
