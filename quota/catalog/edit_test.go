package catalog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

func TestAnEditFindsWhatItChanged(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f.yaml", "plans: [{name: filed}]\ntenants: [{id: paper, plan: filed, principals: [spiffe://mesh/p]}]")
	c := open(t, Options{Dir: dir, DB: filepath.Join(t.TempDir(), "c.db")})
	must(t, c.Update(addAcme, false))
	before := c.View()
	must(t, c.Update(func(e *Edit) error {
		if e.Revision != before.Revision+1 {
			t.Errorf("revision %d after %d", e.Revision, before.Revision)
		}
		paper, ok := e.Tenants.Find("paper")
		if !ok || paper.Origin != FromFile || paper.Path != "f.yaml" {
			t.Errorf("a file's entry: %+v, %v", paper, ok)
		}
		acme, ok := e.Tenants.Find("acme")
		if !ok || acme.Origin != FromAPI {
			t.Errorf("the API's entry: %+v, %v", acme, ok)
		}
		paper.Value.Principals[0], acme.Value.Principals[0] = "changed", "changed" // a caller's own copy
		e.Tenants.Put(quota.Tenant{ID: "beta", Plan: "filed"})
		e.Tenants.Put(quota.Tenant{ID: "gone", Plan: "filed"})
		e.Tenants.Delete("gone")
		e.Tenants.Delete("paper") // not the API's, so nothing
		e.APIKeys.Delete("k1")
		_, beta := e.Tenants.Find("beta")
		_, gone := e.Tenants.Find("gone")
		_, k1 := e.APIKeys.Find("k1")
		_, again := e.Tenants.Find("paper")
		if !beta || gone || k1 || !again {
			t.Errorf("found beta %v, gone %v, k1 %v, paper %v", beta, gone, k1, again)
		}
		seen := map[tenant.ID]int{}
		for entry := range e.Tenants.All() {
			seen[entry.Value.ID]++
		}
		if want := map[tenant.ID]int{"paper": 1, "acme": 1, "beta": 1}; !reflect.DeepEqual(seen, want) {
			t.Errorf("all are %v", seen)
		}
		return nil
	}, false))
	if v := c.View(); len(v.Tenants) != 3 || v.Tenants[0].Value.Principals[0] != "spiffe://mesh/a" || v.Tenants[2].Value.Principals[0] != "spiffe://mesh/p" || len(v.APIKeys) != 0 {
		t.Errorf("view %+v", v)
	}
	if len(before.APIKeys) != 1 || len(before.Tenants) != 2 {
		t.Error("a view that was taken before changed")
	}
}

// Whatever is put and deleted, what holds is what a restart finds, sorted.
func TestAHistoryOfEditsOutlivesARestart(t *testing.T) {
	eachKeeper(t, testHistory)
}

func testHistory(t *testing.T, o Options) {
	c, err := Open(o)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for range 150 {
		must(t, c.Update(func(e *Edit) error {
			for range random.IntN(5) {
				name := fmt.Sprintf("p%d", random.IntN(40))
				if random.IntN(3) == 0 {
					e.Plans.Delete(name)
					delete(want, name)
				} else {
					want[name] = fmt.Sprint(random.IntN(3))
					e.Plans.Put(quota.Plan{Name: name, DisplayName: want[name]})
				}
			}
			return nil
		}, false))
	}
	view := c.View()
	must(t, c.Close())
	c = open(t, o)
	again := c.View()
	again.Revision = view.Revision
	if !reflect.DeepEqual(view, again) {
		t.Errorf("before %+v\nafter  %+v", view.Plans, again.Plans)
	}
	got := map[string]string{}
	last := ""
	for _, p := range again.Plans {
		if p.Value.Name <= last {
			t.Errorf("%s after %s", p.Value.Name, last)
		}
		last = p.Value.Name
		got[last] = p.Value.DisplayName
	}
	if !reflect.DeepEqual(got, want) || len(want) < 10 {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// The tenants that a change does not name keep their accounts, and nothing but the change is written.
func TestAChangeCostsWhatItNames(t *testing.T) {
	c := open(t, Options{DB: filepath.Join(t.TempDir(), "c.db")})
	const n = 500
	must(t, c.Update(func(e *Edit) error {
		e.Plans.Put(quota.Plan{Name: "gold"})
		for i := range n {
			e.Tenants.Put(quota.Tenant{ID: tenant.ID(fmt.Sprintf("t%d", i)), Plan: "gold"})
		}
		return nil
	}, false))
	before, view := c.Snapshot(), c.View()
	must(t, c.Update(func(e *Edit) error {
		for i := range n { // as they are, but for one
			e.Tenants.Put(quota.Tenant{ID: tenant.ID(fmt.Sprintf("t%d", i)), Plan: "gold", Suspended: i == 7})
		}
		d := e.delta()
		if changes, err := d.changes(); err != nil || len(changes) != 1 || changes[0].name != "t7" {
			t.Errorf("%d changes are kept: %v", len(changes), err)
		}
		return nil
	}, false))
	same := 0
	for i, e := range c.View().Tenants {
		if before.Account(e.Value.ID) == c.Snapshot().Account(e.Value.ID) && view.Tenants[i] == e {
			same++
		}
	}
	if same != n-1 || !c.Snapshot().Account("t7").Suspended {
		t.Errorf("%d of %d tenants are the same ones", same, n)
	}
}

// A change is checked without the whole catalogue, and still whoever it would hit is named where it stands.
func TestARefusalNamesWhomItHits(t *testing.T) {
	eachKeeper(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		c := open(t, o.in(dir))
		must(t, c.Update(addAcme, false))
		write(t, dir, "f.yaml", "tenants:\n  - id: paper\n    plan: gold\n    principals: [spiffe://mesh/p]\napi_keys: [{id: filed, tenant: acme, digest: "+strings.Repeat("ab", 32)+"}]")
		_, err := c.reload()
		must(t, err)
		for name, r := range map[string]struct {
			change func(e *Edit)
			want   string
		}{
			"when a plan goes": {func(e *Edit) { e.Plans.Delete("gold") },
				"tenants[acme].plan: there is no plan \"gold\"; declare it under plans\nf.yaml:3: tenants[0].plan: there is no plan \"gold\"; declare it under plans"},
			"when a tenant goes": {func(e *Edit) { e.Tenants.Delete("acme") },
				"f.yaml:5: api_keys[0].tenant: there is no tenant \"acme\"; the id of one of the tenants\napi_keys[k1].tenant: there is no tenant \"acme\"; the id of one of the tenants"},
			"when a principal is another's": {func(e *Edit) {
				e.Tenants.Put(quota.Tenant{ID: "beta", Plan: "gold", Principals: []string{"spiffe://mesh/b", "spiffe://mesh/a", "spiffe://mesh/p"}})
			}, "tenants[beta].principals[1]: \"spiffe://mesh/a\" is already at tenants[acme].principals[0]; a principal is listed once and belongs to one tenant\n" +
				"tenants[beta].principals[2]: \"spiffe://mesh/p\" is already at f.yaml:4: tenants[0].principals[0]; a principal is listed once and belongs to one tenant"},
			"when a plan grows": {func(e *Edit) {
				limits := make([]quota.Limit, 16)
				for i := range limits {
					limits[i] = quota.Limit{Name: fmt.Sprintf("l%d", i), Limit: 1, Window: time.Second}
				}
				e.Plans.Put(quota.Plan{Name: "gold", Limits: limits})
				e.Tenants.Put(quota.Tenant{ID: "acme", Plan: "gold", Limits: []quota.Limit{{Name: "l16", Limit: 1, Window: time.Second}}})
			}, "tenants[acme].limits: with its plan's, the tenant has 17 limits; at most 16"},
		} {
			t.Run(name, func(t *testing.T) {
				var problems quota.Problems
				err := c.Update(func(e *Edit) error { r.change(e); return nil }, false)
				if !errors.As(err, &problems) || err.Error() != r.want {
					t.Errorf("got\n%v\nwant\n%s", err, r.want)
				}
			})
		}
	})
}
