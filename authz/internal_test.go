package authz

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/voicecore-ai/sluice/tenant"
)

// bomb is a condition that panics, or gives what no condition may give.
type bomb struct{ value ref.Val }

func (b bomb) Eval(any) (ref.Val, *cel.EvalDetails, error) {
	if b.value == nil {
		panic("bomb")
	}
	return b.value, nil, nil
}

// armed compiles rules and puts program in the place of each condition "true".
func armed(t *testing.T, program programme, rules ...Rule) *Rules {
	t.Helper()
	r, problems := Compile(rules)
	if problems != nil {
		t.Fatal(problems)
	}
	for i := range r.rules {
		if r.rules[i].when != nil {
			r.rules[i].when.program = program
		}
	}
	return r
}

func request() *Input {
	return &Input{
		Principal: &Principal{Scheme: SPIFFE, Name: "spiffe://td/a"}, Tenant: "acme",
		Action: &Action{Method: "GET", Path: "/"},
	}
}

func TestF02APanicInOneRuleDeniesOneRequest(t *testing.T) {
	for _, effect := range []string{"allow", "deny"} {
		r := armed(t, bomb{}, Rule{Name: "a", Effect: "allow"}, Rule{Name: "z", Effect: effect, When: "true"})
		if v := r.Decide(request()); v.Allowed() || !v.Failed || v.Rule != "z" {
			t.Errorf("%s: %+v", effect, v)
		}
		if reasons := r.Explain(request()); reasons[1].When != "error" || reasons[1].Applies {
			t.Errorf("%s: %+v", effect, reasons)
		}
	}
}

func TestX07APanicInAShadowRuleChangesNothing(t *testing.T) {
	r := armed(t, bomb{}, Rule{Name: "a", Effect: "allow", Audit: "best_effort"}, Rule{Name: "s", Effect: "deny", Enforcement: "shadow", Audit: "required", When: "true"})
	if v := r.Decide(request()); !v.Allowed() || v.Rule != "a" || v.Failed || v.Audit != BestEffort || v.Shadow || v.ShadowRule != "s" {
		t.Errorf("%+v", v)
	}
	r.shadow.any.all = append(r.shadow.any.all, 99) // an index that is wrong, which can't be
	if v := r.Decide(request()); !v.Allowed() || v.Rule != "a" || v.ShadowRule != "" {
		t.Errorf("a broken index of shadow rules: %+v", v)
	}
	r.enforced.any.all = append(r.enforced.any.all, 99)
	if v := r.Decide(request()); v != (Verdict{Failed: true}) {
		t.Errorf("a broken index of enforced rules: %+v", v)
	}
}

func TestF02AConditionThatGivesNoTruthDenies(t *testing.T) {
	for _, value := range []ref.Val{types.Int(1), types.String("true"), types.NullValue, types.NewUnknown(1, nil)} {
		r := armed(t, bomb{value}, Rule{Name: "a", Effect: "allow", When: "true"})
		if v := r.Decide(request()); v.Allowed() || !v.Failed {
			t.Errorf("%v: %+v", value, v)
		}
	}
}

// FuzzBody compares with encoding/json: a body that a condition can read is one
// that it reads to the same value.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{"a":"x"}`, `{"a":1,"A":2}`, `{"a":1.5e3}`, `[]`, `null`, `{"a":"\ud83d\ude00"}`, `{"a":"\ud83d"}`, `{"a":9223372036854775807}`, `{"\u0061":"x"}`,
		`{"a":[{"b":{}}, true , false,null]}`, "\uFEFF{}", ` { "a" : [ 1 , -2.5 ] } `, `{"K":1,"\u212a":2}`, `{"a":1,"b":2,"B":3}`, `-0`, `"\\\""`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		got, err := parseBody(&Action{
			Headers: []Header{{Name: []byte("content-type"), Value: []byte("application/json")}},
			Body:    Body{Bytes: []byte(body), Whole: true},
		})
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader([]byte(body)))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("%q is taken, and encoding/json says %v", body, err)
		}
		if want = numbers(t, want); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q is %#v to us and %#v to encoding/json", body, got, want)
		}
	})
}

// numbers turns json.Number into what number makes of it, and maps into objects.
func numbers(t *testing.T, v any) any {
	switch v := v.(type) {
	case json.Number:
		n, err := number(string(v))
		if err != nil {
			t.Fatalf("%s is taken: %v", v, err)
		}
		return n
	case []any:
		for i := range v {
			v[i] = numbers(t, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(t, v[k])
		}
		return object(v)
	}
	return v
}

// An untracked condition must cost no more than its estimate, for every request
// that keeps the sizes that the estimate takes.
func TestEstimatesOfUntrackedConditionsHold(t *testing.T) {
	text := func(n int) string { return strings.Repeat("a", n) }
	roles := make([]string, maxRoles)
	for i := range roles {
		roles[i] = text(maxRoles)
	}
	in := &Input{
		Principal: &Principal{Scheme: SPIFFE, Name: text(maxText), Roles: roles}, Tenant: tenant.ID(text(63)), Plan: text(63),
		Action: &Action{
			Method: text(maxShort), Host: text(maxText), Service: text(maxText), Path: "/" + text(maxLong-1),
			Headers: []Header{{[]byte("x"), []byte(text(maxLong))}, {[]byte("y"), []byte("a")}},
		},
	}
	for _, when := range []string{
		`principal.roles.exists(r, r == "agent")`,
		`"x" in principal.roles || "y" in principal.roles`,
		`principal.roles.all(r, r.startsWith("aa") && r != principal.roles[0] || r == tenant.id || true)`,
		`principal.roles.filter(r, r != "x").size() < 3`,
		`principal.roles.map(r, r.size()).exists(n, n == 3)`,
		`request.path.contains("b") || request.path.endsWith("aab") || request.path.startsWith("/v1")`,
		`request.path.matches("^/(a|b)*c$")`,
		`matches(principal.name, "(?:a?){40}b") || request.path.matches("[0-9a-f]{8}-[0-9a-f]{4}") || (request.host + tenant.id).matches("b")`,
		`request.headers["x"] == request.headers["y"] || request.headers["x"] == request.path`,
		`request.headers["x"].contains("b") || "z" in request.headers`,
		`principal.name == request.service && request.host == principal.name || principal.name.endsWith("/" + tenant.id)`,
		`path.id == request.path || path.id.contains(tenant.id + "b")`,
		`request.time.getHours("UTC") > 3 ? request.method == "GET" : request.host in ["a", "b"]`,
		`[request.path, request.host].exists(s, s.endsWith("b")) || {"a": request.path}["a"] == ""`,
		`string(request.path.size()) + request.method == "x"`,
	} {
		r, problems := Compile([]Rule{{Name: "r", Effect: "allow", When: when, What: What{Paths: []string{"/{id}"}}}})
		if problems != nil {
			t.Fatal(when, problems)
		}
		rule := &r.rules[0]
		if rule.when.tracked {
			t.Errorf("%s is tracked: %d units", when, rule.when.cost)
			continue
		}
		e := newEvaluation(r.fresh)
		e.in = in
		if !e.sized() || !e.headersSized() {
			t.Fatal("the request is larger than estimates take it to be")
		}
		rule.when.tracked = true
		if _, err := e.eval(rule, 0); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if e.spent != 0 || e.units() > rule.when.cost {
			t.Errorf("%s costs %d units and was estimated at %d", when, e.units(), rule.when.cost)
		}
	}
}
