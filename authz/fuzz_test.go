package authz_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
)

// FuzzCondition admits conditions and evaluates those that are admitted. None may
// panic, cost more than its budget, or give a verdict that Explain does not.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{
		`request.method == "GET"`, `principal.roles.exists(r, r == "agent")`, `"a" in request.body.tags`, heavy,
		`request.path.matches("^/v1/[a-z]+$")`, `request.time.getHours("Europe/Berlin") < 18`, `request.headers["x-region"] in ["eu"]`,
		`has(request.body.a) ? request.body.a.b[0] == null : path.id != ""`, `[1, 2].map(x, x * 2).all(y, y > int(path.id))`,
		`duration("1h") + request.time > timestamp("2026-01-01T00:00:00Z")`, `{"a": [request.path]}["a"][0] == "x"`,
		`principal.roles.all(a, principal.roles.all(b, a != b))`, "!!!!!!!!!true", `request.body == {"a": 1}`,
	} {
		f.Add(s, `{"a":{"b":[1]},"tags":["a"]}`)
	}
	f.Fuzz(func(t *testing.T, when, body string) {
		rules, problems := authz.Compile([]authz.Rule{{Name: "r", Effect: "allow", When: when, What: paths("/v1/calls/{id}")}})
		if (rules == nil) == (len(problems) == 0) {
			t.Fatalf("%v, %v", rules, problems)
		}
		if rules == nil {
			return
		}
		in := post(body, "x-region", "eu")
		in.Principal.Roles = manyRoles(80)
		verdict := rules.Decide(in)
		if again := rules.Decide(in); again != verdict {
			t.Fatalf("%q gave %+v, then %+v", when, verdict, again)
		}
		if when == "" {
			return
		}
		reason := rules.Explain(in)[0]
		if reason.Units > 21_000 && !strings.Contains(reason.Error, "limit") || reason.Units > 200_000 {
			t.Fatalf("%q cost %d units: %+v", when, reason.Units, reason)
		}
		if verdict.Allowed() != reason.Applies || verdict.Failed != (reason.When == "error") {
			t.Fatalf("%q gave %+v, explained by %+v", when, verdict, reason)
		}
	})
}

// heap is how many bytes f allocates.
func heap(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Whatever 10 KiB of input say, reading them takes at most 1 MiB.
func TestTenKiBOfInputCostAtMostOneMiB(t *testing.T) {
	const size = 10 << 10
	rules := compile(t, authz.Rule{Name: "r", Effect: "allow", When: `request.body.a == "x"`})
	for name, unit := range map[string]string{
		"numbers": "1,", "empty objects": "{},", "empty lists": "[],", "small objects": `{"":1},`, "texts": `"",`, "nested lists": strings.Repeat("[", 30) + strings.Repeat("]", 30) + ",",
	} {
		body := "[" + strings.TrimSuffix(strings.Repeat(unit, (size-2)/len(unit)), ",") + "]"
		if used := heap(func() { rules.Decide(post(body)) }); used > 1<<20 {
			t.Errorf("a body of %s takes %d bytes", name, used)
		}
	}
	for name, raw := range map[string]string{
		"escapes": "/" + strings.Repeat("%3a", 2700), "segments": strings.Repeat("/a", 4000), "euro signs": "/" + strings.Repeat("%e2%82%ac", 900), "more than is read": "/" + strings.Repeat("a", size),
	} {
		if used := heap(func() { _, _ = authz.CanonicalPath(raw) }); used > 64<<10 {
			t.Errorf("a path of %s takes %d bytes", name, used)
		}
	}
	roles := get("/")
	roles.Principal.Roles = strings.Split(strings.Repeat("a ", size/2), " ")
	loop := compile(t, authz.Rule{Name: "r", Effect: "allow", When: `principal.roles.map(r, r + r).size() > 1`})
	if used := heap(func() { loop.Decide(roles) }); used > 1<<20 {
		t.Errorf("roles take %d bytes", used)
	}
}
