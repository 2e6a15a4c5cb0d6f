package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/boltfile"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/tenant"
)

var start = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// edit is a change by one who would rather have the entries of the API as they are written, and the test of Edit.
func edit(fn func(own *quota.Catalogue) error) func(*Edit) error {
	return func(e *Edit) error {
		own := all(e)
		if err := fn(&own); err != nil {
			return err
		}
		replace(&e.Plans, own.Plans)
		replace(&e.Tenants, own.Tenants)
		replace(&e.APIKeys, own.APIKeys)
		replace(&e.Rules, own.Rules)
		replace(&e.Issuers, own.Issuers)
		return nil
	}
}

func all(e *Edit) quota.Catalogue {
	return quota.Catalogue{
		Plans: values(&e.Plans), Tenants: values(&e.Tenants), APIKeys: values(&e.APIKeys), Rules: values(&e.Rules), Issuers: values(&e.Issuers),
	}
}

func values[T Listed](e *Entries[T]) (all []T) {
	for entry := range e.All() {
		if entry.Origin == FromAPI {
			found, _ := e.Find(e.list.key(&entry.Value))
			all = append(all, found.Value)
		}
	}
	return all
}

func replace[T Listed](e *Entries[T], with []T) {
	for _, old := range values(e) {
		e.Delete(e.list.key(&old))
	}
	for _, v := range with {
		e.Put(v)
	}
}

var addAcme = edit(func(own *quota.Catalogue) error {
	durable := false
	own.Plans = append(own.Plans, quota.Plan{Name: "gold", DisplayName: "Gold", Limits: []quota.Limit{
		{Name: "rps", Algorithm: "gcra", Limit: 5, Window: time.Second, Burst: 9, Enforcement: "shadow", Durable: &durable, OnOutage: "allow"},
	}})
	own.Tenants = append(own.Tenants, quota.Tenant{ID: "acme", Plan: "gold", Principals: []string{"spiffe://mesh/a"}})
	own.APIKeys = append(own.APIKeys, quota.APIKey{
		ID: "k1", Tenant: "acme", Digest: strings.Repeat("0a", 32), Expires: start.In(time.FixedZone("x", 3600)), Scopes: []string{"calls:read"},
	})
	own.Rules = append(own.Rules, authz.Rule{Name: "callers", Effect: "allow", Who: authz.Who{Roles: []string{"calls:read"}}, What: authz.What{Methods: []string{"GET"}}})
	own.Issuers = append(own.Issuers, trust.Issuer{
		Name: "login", Issuer: "https://login.example.com", Audiences: []string{"sluice"}, JWKSURI: "https://login.example.com/keys", TenantClaim: "tenant",
	})
	return nil
})

// eachKeeper runs a test with the API's entries in a file, and in Redis.
func eachKeeper(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("in a file", func(t *testing.T) { test(t, Options{DB: filepath.Join(t.TempDir(), "c.db")}) })
	t.Run("in Redis", func(t *testing.T) { test(t, inRedis(t, redistest.Start(t))) })
}

// in is o with a folder.
func (o Options) in(dir string) Options { o.Dir = dir; return o }

func TestAnUpdateHoldsAtOnceAndAfterARestart(t *testing.T) {
	eachKeeper(t, testRestart)
}

func testRestart(t *testing.T, o Options) {
	c, err := Open(o)
	must(t, err)
	before := c.Snapshot()
	must(t, c.Update(addAcme, false))
	if c.Snapshot().Account("acme") == nil || before.Account("acme") != nil {
		t.Error("the update is not in the next snapshot, or is in the last one")
	}
	view, revision := c.View(), c.Snapshot().Revision
	must(t, c.Close())
	if err := c.Update(addAcme, false); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
	c = open(t, o)
	again := c.View()
	if again.Revision < revision || again.Revision == revision && o.Redis == nil {
		t.Errorf("revision %d after %d", again.Revision, revision)
	}
	again.Revision = view.Revision
	if !reflect.DeepEqual(view, again) {
		t.Errorf("before %+v\nafter  %+v", view, again)
	}
	must(t, c.Update(edit(func(own *quota.Catalogue) error { *own = quota.Catalogue{}; return nil }), false))
	if v := c.View(); len(v.Plans)+len(v.Tenants)+len(v.APIKeys)+len(v.Rules)+len(v.Issuers) != 0 {
		t.Errorf("left over: %+v", v)
	}
}

func TestAnUpdateThatIsRefusedChangesNothing(t *testing.T) {
	eachKeeper(t, testRefused)
}

func testRefused(t *testing.T, o Options) {
	dir := t.TempDir()
	write(t, dir, "f.yaml", "plans:\n  - name: filed\ntenants: [{id: paper, plan: filed}]\napi_keys: [{id: fk, tenant: paper, digest: "+strings.Repeat("ab", 32)+"}]\nrules: [{name: ruled, effect: deny, who: {roles: [banned]}}]")
	c := open(t, o.in(dir))
	must(t, c.Update(addAcme, false))
	before, view := c.Snapshot(), c.View()
	mine := errors.New("mine")
	for _, r := range []struct {
		name string
		fn   func(own *quota.Catalogue)
		err  error
		want string
	}{
		{"by fn itself", nil, mine, "mine"},
		{"for a problem of a limit", func(own *quota.Catalogue) { own.Plans[0].Limits[0].Limit = -1 }, nil,
			"plans[gold].limits[rps].limit: -1 is out of range; a whole number from 0 (deny) to 4294967296"},
		{"for a plan in use", func(own *quota.Catalogue) { own.Plans = nil }, nil,
			`tenants[acme].plan: there is no plan "gold"; one of the plans "filed"`},
		{"for a digest of a file's key", func(own *quota.Catalogue) { own.APIKeys[0].Digest = strings.Repeat("ab", 32) }, nil,
			`api_keys[k1].digest: "` + strings.Repeat("ab", 32) + `" is already at f.yaml:4: api_keys[0].digest; a key belongs to one tenant and is listed once`},
		{"for names that are none", func(own *quota.Catalogue) { own.Plans = append(own.Plans, quota.Plan{Name: "A]b"}) }, nil,
			`plans[0].name: "A]b" is no name; 1 to 63 of a-z, 0-9 and '-', first and last a letter or digit`},
		{"for shadowing a file's plan", func(own *quota.Catalogue) { own.Plans = append(own.Plans, quota.Plan{Name: "filed"}) }, ErrReadOnly,
			`read-only: plan "filed" is declared in f.yaml:2; change it there`},
		{"for shadowing a file's tenant", func(own *quota.Catalogue) { own.Tenants[0].ID = "paper" }, ErrReadOnly,
			`read-only: tenant "paper" is declared in f.yaml:3; change it there`},
		{"for a rule about nobody", func(own *quota.Catalogue) { own.Rules[0].Who.Tenants = []string{"acme", "nobody"} }, nil,
			`rules[callers].who.tenants[1]: there is no tenant "nobody"; the id of one of the tenants`},
		{"for an issuer of nobody", func(own *quota.Catalogue) { own.Issuers[0].Tenant, own.Issuers[0].TenantClaim = "nobody", "" }, nil,
			`issuers[login].tenant: there is no tenant "nobody"; the id of one of the tenants`},
		{"for shadowing a file's rule", func(own *quota.Catalogue) { own.Rules[0].Name = "ruled" }, ErrReadOnly,
			`read-only: rule "ruled" is declared in f.yaml:5; change it there`},
		{"for shadowing a file's key", func(own *quota.Catalogue) { own.APIKeys[0].ID = "fk" }, ErrReadOnly,
			`read-only: API key "fk" is declared in f.yaml:4; change it there`},
	} {
		for _, validateOnly := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, validate only %v", r.name, validateOnly), func(t *testing.T) {
				err := c.Update(edit(func(own *quota.Catalogue) error {
					if r.fn == nil {
						own.Plans = nil
						return mine
					}
					r.fn(own)
					return nil
				}), validateOnly)
				var problems quota.Problems
				if err == nil || err.Error() != r.want || r.err != nil && !errors.Is(err, r.err) || r.err == nil && !errors.As(err, &problems) {
					t.Errorf("got  %v\nwant %s", err, r.want)
				}
			})
		}
	}
	must(t, c.Update(edit(func(own *quota.Catalogue) error { own.Plans[0].Limits[0].Limit = 77; return nil }), true))
	if c.Snapshot() != before || !reflect.DeepEqual(c.View(), view) {
		t.Error("something changed")
	}
}

func TestAFileMayNotTakeWhatTheAPIOwns(t *testing.T) {
	eachKeeper(t, testTaken)
}

func testTaken(t *testing.T, o Options) {
	dir := t.TempDir()
	c := open(t, o.in(dir))
	must(t, c.Update(addAcme, false))
	write(t, dir, "f.yaml", "plans: [{name: gold}]")
	_, err := c.reload()
	want := `plans[gold].name: "gold" is already at f.yaml:1: plans[0].name; each plan has its own name: rename or delete one of the two`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	must(t, c.Update(edit(func(own *quota.Catalogue) error { own.Tenants[0].Suspended = true; return nil }), false))
}

func TestAnOperationHappensOnce(t *testing.T) {
	eachKeeper(t, testOnce)
}

func testOnce(t *testing.T, o Options) {
	c, err := Open(o)
	must(t, err)
	calls := 0
	once := func(key, body byte, at time.Time, response string) (string, bool, error) {
		got, replayed, err := c.Once(Operation{Key: [32]byte{key}, BodyHash: [32]byte{body}, Now: at}, func(e *Edit) ([]byte, error) {
			if response == "" {
				return nil, errors.New("no")
			}
			calls++
			e.Plans.Put(quota.Plan{Name: fmt.Sprintf("p%d", calls)})
			return []byte(response), nil
		})
		return string(got), replayed, err
	}
	check := func(response string, replayed bool) func(string, bool, error) {
		return func(got string, again bool, err error) {
			t.Helper()
			if err != nil || got != response || again != replayed {
				t.Errorf("got %q, %v, %v; want %q, %v", got, again, err, response, replayed)
			}
		}
	}
	check("one", false)(once(1, 1, start, "one"))
	check("one", true)(once(1, 1, start.Add(time.Hour), "two"))
	if _, _, err := once(1, 2, start, "two"); !errors.Is(err, ErrReused) {
		t.Errorf("another body: %v", err)
	}
	if _, _, err := once(2, 1, start, ""); err == nil {
		t.Error("an error is lost")
	}
	if _, _, err := once(2, 1, start, strings.Repeat("x", maxAnswer+1)); err == nil {
		t.Error("an answer without bound is kept")
	}
	calls--
	check("three", false)(once(2, 1, start, "three"))
	must(t, c.Close())
	c = open(t, o)
	check("one", true)(once(1, 1, start.Add(24*time.Hour), "four"))
	check("four", false)(once(1, 1, start.Add(24*time.Hour+1000), "four"))
	if body, response, ok, err := c.keeper.recall(t.Context(), [32]byte{1}, start.Add(25*time.Hour)); err != nil || !ok || body != [32]byte{1} || string(response) != "four" {
		t.Errorf("recalled %v %q %v", body, response, ok)
	}
	if n := len(c.View().Plans); n != 3 {
		t.Errorf("%d plans", n)
	}
	if db, ok := c.keeper.(*store); ok && db.answers != 1 {
		t.Errorf("%d answers; want 1, because the other is older than a day", db.answers)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c, err := Open(Options{DB: path})
	must(t, err)
	c.keeper.(*store).maxAnswers = 3
	for i := range byte(9) {
		_, _, err := c.Once(Operation{Key: [32]byte{i}, Now: start.Add(time.Duration(i))}, func(*Edit) ([]byte, error) { return fmt.Appendf(nil, "[%d]", i), nil })
		must(t, err)
	}
	must(t, c.Close())
	c = open(t, Options{DB: path})
	kept := ""
	for i := range byte(9) {
		if _, response, ok, err := c.keeper.recall(t.Context(), [32]byte{i}, start); err == nil && ok {
			kept += string(response)
		}
	}
	if c.keeper.(*store).answers != 3 || kept != "[6][7][8]" {
		t.Errorf("%d answers kept: %s", c.keeper.(*store).answers, kept)
	}
}

func TestALockedFileIsAnErrorInTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	open(t, Options{DB: path})
	_, err := Open(Options{DB: path}) // it ends, though the other never does
	if !errors.Is(err, boltfile.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second opening: %v", err)
	}
}

func TestAFileOfAnotherFormatIsLeftAlone(t *testing.T) {
	for _, other := range []struct {
		what   string
		format byte
		want   error
		remedy string
	}{
		{"of a newer version", format + 1, errNewer, "start that version"},
		{"of the version before", format - 1, errOlder, "move it away"},
	} {
		t.Run("one "+other.what, func(t *testing.T) { testFormat(t, other.format, other.want, other.remedy) })
	}
}

func testFormat(t *testing.T, other byte, want error, remedy string) {
	path := filepath.Join(t.TempDir(), "c.db")
	c, err := Open(Options{DB: path})
	must(t, err)
	must(t, c.keeper.(*store).db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketHead).Put(headFormat, seal(headFormat, []byte{7: other}))
	}))
	must(t, c.Close())
	before, err := os.ReadFile(path)
	must(t, err)
	if _, err := Open(Options{DB: path}); !errors.Is(err, want) || !strings.Contains(err.Error(), remedy) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened: %v", err)
	}
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
}

// sample is a file with a few pages of everything.
func sample(t testing.TB, path string) []byte {
	c, err := Open(Options{DB: path})
	must(t, err)
	for round := range 4 {
		_, _, err = c.Once(Operation{Key: [32]byte{byte(round)}, Now: start}, func(e *Edit) ([]byte, error) {
			for i := range 60 {
				id := fmt.Sprintf("n%d-%d", round, i)
				e.Plans.Put(quota.Plan{Name: id, DisplayName: strings.Repeat("x", 100)})
				e.Tenants.Put(quota.Tenant{ID: tenant.ID(id), Plan: id})
			}
			return []byte("done"), nil
		})
		must(t, err)
	}
	must(t, c.Close())
	content, err := os.ReadFile(path)
	must(t, err)
	return content
}

func TestADamagedFileIsSetAside(t *testing.T) {
	content := sample(t, filepath.Join(t.TempDir(), "c.db"))
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x40; return b }
	}
	for name, damage := range map[string]func([]byte) []byte{
		"an empty file":          func([]byte) []byte { return nil },
		"a file of zeros":        func(b []byte) []byte { clear(b); return b },
		"a file of text":         func([]byte) []byte { return []byte(strings.Repeat("hello\n", 10_000)) },
		"a cut file":             func(b []byte) []byte { return b[:len(b)/2] },
		"a file without its end": func(b []byte) []byte { return b[:3*boltfile.PageSize] },
		"the name of an empty part": func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("api_keys"), []byte("api_keyz"))
		},
		"both meta pages": func(b []byte) []byte { return flip(boltfile.PageSize + 20)(flip(20)(b)) },
		"a value": func(b []byte) []byte {
			i := bytes.LastIndex(b, []byte("n3-59"))
			return flip(i + 30)(b)
		},
	} {
		t.Run("with "+name, func(t *testing.T) {
			dir, path := t.TempDir(), filepath.Join(t.TempDir(), "c.db")
			write(t, dir, "f.yaml", plan(1))
			damaged := damage(bytes.Clone(content))
			must(t, os.WriteFile(path, damaged, 0o600))
			log := &syncBuffer{}
			c := open(t, Options{Dir: dir, DB: path, Log: slog.New(slog.NewTextHandler(log, nil))})
			if c.Snapshot().Account("acme") == nil || len(c.View().Plans) != 1 {
				t.Error("the entries of the folder don't hold, or others do")
			}
			must(t, c.Update(edit(func(own *quota.Catalogue) error { own.Plans = []quota.Plan{{Name: "new"}}; return nil }), false))
			aside, err := filepath.Glob(path + ".damaged-*")
			must(t, err)
			if len(aside) != 1 {
				t.Fatalf("set aside: %q", aside)
			}
			kept, err := os.ReadFile(aside[0])
			must(t, err)
			if !bytes.Equal(kept, damaged) {
				t.Error("the damaged file changed")
			}
			if text := log.String(); !strings.Contains(text, "put a backup in the place") || !strings.Contains(text, aside[0]) {
				t.Errorf("the log says no remedy: %s", text)
			}
		})
	}
}

func TestADamagedFileReplacesNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	for i := range 3 {
		must(t, os.WriteFile(path, []byte{byte(i)}, 0o600))
		_, err := setAside(path, start)
		must(t, err)
	}
	for i, name := range []string{"", "-1", "-2"} {
		content, err := os.ReadFile(path + ".damaged-20261124T000000Z" + name)
		must(t, err)
		if !bytes.Equal(content, []byte{byte(i)}) {
			t.Errorf("%q holds %v", name, content)
		}
	}
}

// However a page is changed, the file opens whole or is found damaged; nothing
// panics, and nothing is half there.
func FuzzDamage(f *testing.F) {
	content := sample(f, filepath.Join(f.TempDir(), "c.db"))
	for at := 0; at < len(content); at += 4099 {
		f.Add(uint32(at), byte(0xff), uint32(at*7), byte(1))
	}
	f.Fuzz(func(t *testing.T, at uint32, mask byte, at2 uint32, mask2 byte) {
		b := bytes.Clone(content)
		b[int(at)%len(b)] ^= mask
		b[int(at2)%len(b)] ^= mask2
		path := filepath.Join(t.TempDir(), "c.db")
		must(t, os.WriteFile(path, b, 0o600))
		s, k, damage, err := tryStore(path)
		must(t, err)
		if damage != nil {
			return
		}
		n := len(k.own.Plans)
		if n%60 != 0 || n < 180 || len(k.own.Tenants) != n { // one meta page may be lost, and with it the last transaction
			t.Errorf("%d plans, %d tenants", n, len(k.own.Tenants))
		}
		e := newEdit(&View{}, k.own)
		for _, p := range k.own.Plans[n/2:] {
			e.Plans.Delete(p.Value.Name)
		}
		d := e.delta()
		changes, err := d.changes()
		must(t, err)
		must(t, s.save(t.Context(), step{revision: 99, changes: changes, answer: &remembered{Operation: Operation{Key: [32]byte{9}, Now: start}}}))
		must(t, s.close())
		s, k, damage, err = tryStore(path)
		if must(t, errors.Join(damage, err)); len(k.own.Plans) != n/2 || k.revision != 99 {
			t.Errorf("after a write: %d plans, revision %d", len(k.own.Plans), k.revision)
		}
		must(t, s.close())
	})
}

// A change costs what it names, not what there is.
func BenchmarkUpdateAmong100kTenants(b *testing.B) {
	c := open(b, Options{DB: filepath.Join(b.TempDir(), "c.db")})
	must(b, c.Update(put100k, false))
	for name, change := range map[string]func(*Edit){
		"a tenant": func(e *Edit) {
			t, _ := e.Tenants.Find("t7")
			t.Value.Suspended = !t.Value.Suspended
			e.Tenants.Put(t.Value)
		},
		"the plan of all": func(e *Edit) {
			p, _ := e.Plans.Find("gold")
			p.Value.Limits[0].Limit++
			e.Plans.Put(p.Value)
		},
	} {
		b.Run(name, func(b *testing.B) {
			begin := cpu(b)
			for b.Loop() {
				must(b, c.Update(func(e *Edit) error { change(e); return nil }, false))
			}
			b.ReportMetric(float64((cpu(b)-begin).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
		})
	}
}

// put100k makes tenants with a key each, on a plan of three limits.
func put100k(e *Edit) error {
	e.Plans.Put(quota.Plan{Name: "gold", Limits: []quota.Limit{
		{Name: "rps", Limit: 5, Window: time.Second},
		{Name: "minute", Algorithm: "fixed", Limit: 7, Window: time.Minute},
		{Name: "day", Algorithm: "hard", Limit: 100, Window: 24 * time.Hour},
	}})
	for i := range 100_000 {
		id := tenant.ID(fmt.Sprintf("t%d", i))
		e.Tenants.Put(quota.Tenant{ID: id, Plan: "gold"})
		e.APIKeys.Put(quota.APIKey{ID: fmt.Sprintf("k%d", i), Tenant: id, Digest: fmt.Sprintf("%064x", i)})
	}
	return nil
}

// cpu is what the process took of its processors, collector included.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What was compiled is taken from the snapshot before, as long as it is the same.
func TestRulesThatDidNotChangeAreNotCompiledAgain(t *testing.T) {
	eachKeeper(t, testRulesStay)
}

func testRulesStay(t *testing.T, o Options) {
	c := open(t, o)
	must(t, c.Update(addAcme, false))
	before := c.Snapshot()
	must(t, c.Update(edit(func(own *quota.Catalogue) error { own.Tenants[0].Suspended = true; return nil }), false))
	if after := c.Snapshot(); after.Rules != before.Rules || after.Issuers != before.Issuers || !after.Account("acme").Suspended {
		t.Error("they were compiled again, or the change is lost")
	}
	if v := c.View(); !slices.Equal(v.Rules[0].Value.Who.Roles, []string{"calls:read"}) {
		t.Errorf("rules %+v", v.Rules)
	}
	// A change in place of a shared slice must not be taken for none.
	must(t, c.Update(edit(func(own *quota.Catalogue) error { own.Rules[0].Who.Roles[0] = "other"; return nil }), false))
	if v := c.View(); v.Rules[0].Value.Who.Roles[0] != "other" {
		t.Errorf("rules %+v", v.Rules)
	}
}
