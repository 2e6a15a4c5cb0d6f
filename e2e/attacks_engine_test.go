package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/exit"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// sluice runs a command line as an operator does, and returns what it printed and its exit status.
func sluice(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	c := cli.Command()
	c.SetOut(&b)
	c.SetErr(&b)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	if err != nil {
		b.WriteString(err.Error())
	}
	return b.String(), exit.Code(err)
}

// conditions that would cost too much are refused when they are made, or end when they do.
func TestX01ConditionsThatCostTooMuchThroughEnvoy(t *testing.T) {
	for _, w := range []wiring{{plain, asSent()}, {extProc, unguarded(deploy.ExtProc)}} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme := s.customer(t, "acme")
			for name, when := range map[string]string{
				"X-01 a list of any length":       `lists.range(2000000000).size() > 0`,
				"X-01 three loops in each other":  `principal.roles.all(a, principal.roles.all(b, principal.roles.all(c, a != b && b != c)))`,
				"X-01 a pattern from the request": `request.path.matches(request.host)`,
			} {
				_, err := s.quota.CreateRule(s.admin(t), &quotav1.CreateRuleRequest{RuleId: "x", Rule: &quotav1.Rule{Effect: "allow", When: when}})
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("%s is taken: %v", name, err)
				}
			}
			const slow = `request.path.matches("(?:a?){150}b")`
			s.rule(t, "all", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/plain/**"}}})
			s.rule(t, "slow-allows", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/allow/**"}}, When: slow})
			s.rule(t, "all-denied", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/deny/**"}}})
			s.rule(t, "slow-denies", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Paths: []string{"/deny/**"}}, When: slow})
			long := strings.Repeat("a", 7500)
			failed := func(t *testing.T, e ending) {
				if !e.record.Failed {
					t.Errorf("the record does not say that a condition failed: %s", e.record.Detail)
				}
			}
			s.run(t, []attack{
				{name: "X-01 a slow pattern in a rule that allows", request: http1("GET", "/allow/"+long, acme), want: isForbidden, check: failed},
				{name: "X-01 a slow pattern in a rule that denies", request: http1("GET", "/deny/"+long, acme), want: isForbidden, check: failed},
				{name: "X-01 the same pattern on a short path", request: http1("GET", "/allow/b", acme), want: passes},
				{name: "X-01 others are served", request: http1("GET", "/plain/x", acme), want: passes},
			})
		})
	}
}

// one bad rule refuses the whole edit, whoever makes it, and says so.
func TestX04ABadRuleChangesNothingThroughEnvoy(t *testing.T) {
	dir := catalogue(t, classes)
	file := filepath.Join(dir, "catalogue.yaml")
	s := stage(t, "", stack.Options{Catalog: dir})
	key := "x-api-key: " + s.key(t, "acme")
	may := func() reply { return s.raw(t, http1("GET", "/may/x", key)) }
	admin := func() reply { return s.raw(t, http1("GET", "/admin/x", key)) }
	before := s.judge(t, passes, may).record.Revision
	bad := classes + "  - {name: open, effect: allow, audit: best_effort}\n  - {name: bad, effect: allow, when: 'request.nobody == 1'}\n"
	rewrite(t, file, bad)
	await.That(t, "X-04 the refusal can be alerted on, and the log names the bad rule", func() bool {
		return s.number(t, `sluice_files_refused{setting="catalog"}`) == 1 && strings.Contains(s.log(t), "rules[4].when: is no condition")
	})
	if after := s.judge(t, passes, may).record.Revision; after != before {
		t.Errorf("X-04 the rules before are revision %d, now %d decides", before, after)
	}
	s.judge(t, isForbidden, admin) // the good rule of the edit does not hold either
	rewrite(t, file, classes+"  - {name: open, effect: allow, audit: best_effort}\n")
	await.That(t, "X-04 the mended file holds", func() bool { return s.number(t, `sluice_files_refused{setting="catalog"}`) == 0 })
	if after := s.judge(t, passes, admin).record.Revision; after == before {
		t.Error("X-04 the mended rules have no revision of their own")
	}
}

// what was decided through Envoy, asked again of other rules.
func TestX08DecisionsThroughEnvoyAreReplayed(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes)})
	key := "x-api-key: " + s.key(t, "acme")
	for range 3 {
		s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/may/x", key)) })
	}
	s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/must/x", key)) })
	s.judge(t, isForbidden, func() reply { return s.raw(t, http1("GET", "/admin/x", key)) })
	s.judge(t, isNobody, func() reply { return s.raw(t, http1("GET", "/may/x")) })
	logs, err := filepath.Glob(filepath.Join(s.Data, "audit", "*.jsonl"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	type answer struct {
		Same    int `json:"same"`
		Changed int `json:"changed"`
		Changes []struct {
			Count   int    `json:"count"`
			Was     string `json:"was"`
			Now     string `json:"now"`
			NowRule string `json:"now_rule"`
		} `json:"changes"`
	}
	replay := func(text string, want int) (a answer) {
		t.Helper()
		out, code := sluice(t, "authz", "replay", logs[0], "--against", catalogue(t, text), "-o", "json")
		if err := json.NewDecoder(strings.NewReader(out)).Decode(&a); err != nil || code != want { // a sentence follows
			t.Fatalf("exit %d, %v: %s", code, err, out)
		}
		return a
	}
	if a := replay(classes, 0); a.Same != 5 || a.Changed != 0 {
		t.Errorf("X-08 against the rules that decided: %+v", a)
	}
	a := replay(classes+"  - {name: closed, effect: deny, what: {paths: [\"/may/**\"]}}\n", 2)
	if a.Same != 2 || a.Changed != 3 || len(a.Changes) != 1 || a.Changes[0].Was != "allow" || a.Changes[0].Now != "deny" || a.Changes[0].NowRule != "closed" {
		t.Errorf("X-08 against rules that close a path: %+v", a)
	}
}

// H-12: whatever we write, a caller can't have it twice, and gets none of it with a refusal.
func TestH12WhatIsWrittenThroughEnvoy(t *testing.T) {
	ours := []string{"x-tenant-id", "x-sluice-principal", "x-sluice-plan", "x-sluice-decision-id", "x-sluice-tenant-token"}
	for _, w := range []wiring{{gateway, deploy.Demo}, {plain, asSent()}, {extProc, unguarded(deploy.ExtProc)}} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme := s.customer(t, "acme")
			s.rule(t, "calls", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/calls/**"}}})
			var spoofed, empty []string
			for _, name := range ours[:4] { // a token of another's is refused
				spoofed, empty = append(spoofed, name+": umbrella"), append(empty, name+":")
			}
			none := func(t *testing.T, e ending) {
				for _, name := range ours {
					if name != "x-sluice-decision-id" && len(e.header.Values(name)) > 0 {
						t.Errorf("the caller got %s: %q", name, e.header.Values(name))
					}
				}
			}
			s.run(t, []attack{ // each admission is checked for one of each, as the record has it
				{name: "H-12 allowed", request: http1("GET", "/v1/calls", acme), want: passes, check: none},
				{name: "H-12 allowed, and each was there before", request: http1("GET", "/v1/calls", slices.Concat([]string{acme}, spoofed)...), want: passes, check: none},
				{name: "H-12 allowed, and each was there twice", request: http1("GET", "/v1/calls", slices.Concat([]string{acme}, spoofed, spoofed)...), want: passes, check: none},
				{name: "H-12 allowed, and each was there, empty", request: http1("GET", "/v1/calls", slices.Concat([]string{acme}, empty)...), want: passes, check: none},
				{name: "H-12 denied", request: http1("GET", "/admin", slices.Concat([]string{acme}, spoofed)...), want: isForbidden, check: none},
				{name: "H-12 nobody", request: http1("GET", "/v1/calls", spoofed...), want: isNobody, check: none},
			})
		})
	}
}

// the log of requests through Envoy, in the hands of who would change it.
func TestA01ALogOfRealRequestsThatIsTamperedWith(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes)})
	key := "x-api-key: " + s.key(t, "acme")
	for range 3 {
		s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/must/x", key)) })
		s.judge(t, isForbidden, func() reply { return s.raw(t, http1("GET", "/admin/x", key)) })
	}
	await.That(t, "the last records are signed, and the checkpoint beside the log says so", func() bool {
		all := s.audited(t)
		_, signed, err := audit.Newest(os.DirFS(filepath.Join(s.Data, "audit")))
		return err == nil && all[len(all)-1].Kind == "checkpoint" && signed.Count == all[len(all)-1].Seq-1
	})
	s.wholeLog(t)
	log := s.copiedLog(t)
	segment, public := filepath.Join(log, "audit-00000001.jsonl"), filepath.Join(log, "audit.pub")
	text, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	at := slices.IndexFunc(lines, func(l []byte) bool { return bytes.Contains(l, []byte(`"path":"/admin/x"`)) })
	if at < 1 || at+2 >= len(lines) {
		t.Fatalf("a refusal is line %d of %d", at, len(lines))
	}
	for name, change := range map[string]func([][]byte) [][]byte{
		"A-01 a refusal made an admission": func(l [][]byte) [][]byte {
			l[at] = bytes.Replace(l[at], []byte(`"allowed":false`), []byte(`"allowed":true`), 1)
			return l
		},
		"A-01 a bit": func(l [][]byte) [][]byte {
			l[at] = bytes.Replace(l[at], []byte("/admin/x"), []byte("/admin/y"), 1)
			return l
		},
		"A-01 a record less":             func(l [][]byte) [][]byte { return slices.Delete(l, at, at+1) },
		"A-01 a record twice":            func(l [][]byte) [][]byte { return slices.Insert(l, at, l[at]) },
		"A-01 two in each other's place": func(l [][]byte) [][]byte { l[at], l[at+1] = l[at+1], l[at]; return l },
		"A-01 the end cut off":           func(l [][]byte) [][]byte { return l[:at+1] },
	} {
		t.Run(name, func(t *testing.T) {
			changed := bytes.Join(change(slices.Clone(lines)), nil)
			if bytes.Equal(changed, text) {
				t.Fatal("nothing was changed")
			}
			if err := os.WriteFile(segment, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			out, code := sluice(t, "audit", "verify", log, "--public-key", public)
			if code != 1 || !strings.Contains(out, "NOT WHOLE") {
				t.Errorf("exit %d: %s", code, out)
			}
		})
	}
	if got := s.raw(t, http1("GET", "/must/x", key)); got.status != http.StatusOK {
		t.Errorf("the server itself: %d", got.status)
	}
}
