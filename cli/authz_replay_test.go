package cli_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
)

// what replay counts.
type counts struct {
	Asked, Same, Changed, Shadow int
	Unknown, Skipped             map[string]int
	Changes                      []struct {
		Count        int
		Was, Now     string
		Line         int
		WasShadow    bool   `json:"was_shadow"`
		WasRule      string `json:"was_rule"`
		NowRule      string `json:"now_rule"`
		Example, Who string
	}
}

// line is a decision about a GET as the log has it, with what fields say instead.
func line(t *testing.T, fields map[string]any) string {
	t.Helper()
	record := map[string]any{
		"seq": 1, "time": 1790000000000000, "kind": "decision", "tenant": "acme", "plan": "gold", "principal": principal, "scheme": "spiffe",
		"roles": []string{"agent"}, "method": "GET", "host": "api.example.com", "path": "/v1/calls/1", "allowed": true, "reason": "admitted", "rule": "agents-read",
	}
	maps.Copy(record, fields)
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

type fields = map[string]any

func TestX08ReplayComparesWhatRulesSay(t *testing.T) {
	dir := folder(t, "a.yaml", catalogYAML+`- name: always
  effect: allow
  what: {paths: [/v1/mixed/**]}
- name: mixed
  effect: deny
  what: {paths: [/v1/mixed/**]}
  when: '"x-block" in request.headers'
- name: bodies
  effect: deny
  what: {paths: [/v1/bodies/**]}
  when: request.body.sum > 3
- name: by-day
  effect: deny
  what: {paths: [/v1/calls/today]}
  when: request.time.getFullYear() == 2026
`)
	nobodys := fields{"allowed": false, "reason": "forbidden", "rule": ""}
	with := func(all ...fields) string {
		sum := fields{}
		for _, f := range all {
			maps.Copy(sum, f)
		}
		return line(t, sum)
	}
	inShadow := func(rule, shadow string) fields { return fields{"rule": rule, "shadow_rule": shadow, "shadow": false} }
	for _, c := range []struct {
		name, log string
		verdict   string // of the one record: same, changed, unknown <why> or skipped <why>
		was, now  string // if changed
	}{
		{"what stays is the same", with(), "same", "", ""},
		{"what a limit refused was allowed", with(fields{"allowed": false, "reason": "over_limit"}), "same", "", ""},
		{"what could not be counted was allowed", with(fields{"allowed": false, "reason": "unavailable"}), "same", "", ""},
		{"what would be allowed is said", with(nobodys), "changed", "deny", "allow by agents-read"},
		{"what would be denied is said", with(fields{"path": "/admin/x", "rule": "old"}), "changed", "allow by old", "deny by no-admin"},
		{"what none allows would be denied", with(fields{"roles": []string{"clerk"}, "rule": "old"}), "changed", "allow by old", "deny"},
		{"the time is the record's", with(fields{"path": "/v1/calls/today"}), "changed", "allow by agents-read", "deny by by-day"},

		{"a stream's end is not asked about", with(fields{"kind": "stream_end", "allowed": false, "reason": "forbidden", "rule": nil}), "skipped stream_end", "", ""},
		{"a flood's summary is not asked about", with(fields{"kind": "summary", "reason": "forbidden", "count": 5000}), "skipped summary", "", ""},
		{"an administrator's act is not asked about", with(fields{"kind": "admin"}), "skipped admin", "", ""},
		{"a gap is not asked about", with(fields{"kind": "gap"}), "skipped gap", "", ""},
		{"a checkpoint is not asked about", `{"seq":1,"time":1,"kind":"checkpoint","hash":"x"}`, "skipped checkpoint", "", ""},
		{"a kind of a later version is not asked about", with(fields{"kind": "\x1b[2J"}), "skipped other", "", ""},
		{"who proved nothing was not asked about", with(fields{"principal": "", "tenant": "", "scheme": nil, "allowed": false, "reason": "unauthenticated", "rule": ""}), "skipped unauthenticated", "", ""},
		{"a malformed request was not asked about", with(nobodys, fields{"reason": "malformed", "path": "//x"}), "skipped malformed", "", ""},
		{"a suspended tenant was not asked about", with(nobodys, fields{"reason": "suspended"}), "skipped suspended", "", ""},
		{"who came too late was not asked about", with(nobodys, fields{"reason": "unavailable"}), "skipped unavailable", "", ""},

		{"an admission in a tenant's shadow was a refusal", with(fields{"path": "/admin/x"}, inShadow("no-admin", "no-admin")), "same", "", ""},
		{"an admission in a tenant's shadow, which no rule allows, was a refusal", with(fields{"path": "/v2"}, inShadow("", "(default deny)")), "same", "", ""},
		{"what a tenant's shadow let pass may be allowed now", with(inShadow("", "(default deny)")), "changed", "deny", "allow by agents-read"},
		{"what a limit refused in a tenant's shadow was refused by rules", with(fields{"path": "/v2", "allowed": false, "reason": "over_limit"}, inShadow("", "(default deny)")), "same", "", ""},
		{"an admission that a rule in shadow refuses was a refusal", with(fields{"path": "/v1/calls/13"}, inShadow("agents-read", "soon")), "same", "", ""},
		{"an admission that a rule in shadow refused may be allowed now", with(inShadow("agents-read", "soon")), "changed", "deny by soon", "allow by agents-read"},
		{"a refusal that a rule in shadow would lift was an admission", with(nobodys, fields{"shadow_rule": "more", "shadow": true, "path": "/v2"}), "changed", "allow by more", "deny"},
		{"a rule in shadow of the other catalogue counts", with(fields{"path": "/v1/calls/13"}), "changed", "allow by agents-read", "deny by soon"},
		{"who proved nothing in the soft stage was not asked about", with(fields{"principal": "", "tenant": "", "scheme": nil, "rule": "", "shadow": false, "shadow_reason": "unauthenticated"}), "skipped unauthenticated", "", ""},
		{"an admission in the soft stage was a refusal", with(fields{"path": "/admin/x", "shadow_reason": "forbidden"}, inShadow("no-admin", "no-admin")), "same", "", ""},
		{"what the soft stage let pass may be allowed now", with(fields{"shadow_reason": "forbidden"}, inShadow("", "(default deny)")), "changed", "deny", "allow by agents-read"},
		{"what a limit would have refused in the soft stage was allowed", with(fields{"shadow": false, "shadow_reason": "over_limit"}), "same", "", ""},
		{"a tenant's shadow hides what rules in shadow said", with(fields{"path": "/v1/calls/13"}, inShadow("", "(default deny)")), "unknown shadow", "", ""},

		{"a masked path", with(fields{"path": "/v1/calls/[masked:0123456789abcdef]"}), "unknown masked", "", ""},
		{"a masked name", with(fields{"principal": "idp/[masked:0123456789abcdef]"}), "unknown masked", "", ""},
		{"a masked role", with(fields{"roles": []string{"agent", "[masked:0123456789abcdef]"}}), "unknown masked", "", ""},
		{"a path that was cut", with(fields{"path": "/admin/" + strings.Repeat("x", 1017) + "… and 9 bytes"}), "unknown cut", "", ""},
		{"a role that was cut", with(fields{"roles": []string{strings.Repeat("x", 256) + "… and 9 bytes"}}), "unknown cut", "", ""},
		{"a name with a byte that is not UTF-8", with(fields{"principal": "idp/\ufffd"}), "unknown not UTF-8", "", ""},
		{"sixteen roles may have been more", with(fields{"roles": strings.Split("abcdefghijklmnop", "")}), "unknown roles", "", ""},
		{"fifteen roles are all", with(fields{"roles": strings.Split("abcdefghijklmno", ""), "rule": "", "allowed": false, "reason": "forbidden"}), "same", "", ""},
		{"a path that is none", with(fields{"path": "//x"}), "unknown path or host", "", ""},
		{"what was not asked about is not unknown", with(nobodys, fields{"reason": "malformed", "path": "/[masked:0123456789abcdef]"}), "skipped malformed", "", ""},

		{"a condition that fails without headers", with(fields{"path": "/v1/regions/1"}), "unknown headers or body", "", ""},
		{"a condition that is false without headers", with(fields{"path": "/v1/mixed/1"}), "unknown headers or body", "", ""},
		{"a condition on the body beside nothing that allows", with(fields{"path": "/v1/bodies/1"}, nobodys), "same", "", ""},
		{"a refusal that no header changes", with(fields{"path": "/admin/x"}), "changed", "allow by agents-read", "deny by no-admin"},
	} {
		t.Run(c.name+" is "+c.verdict, func(t *testing.T) {
			code, out, problem := sluice(c.log, "authz", "replay", "-", "--against", dir, "-o", "json")
			var got counts
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("exit %d, %v, %s: %s", code, err, problem, out)
			}
			verdict := ""
			for _, one := range []struct {
				is    bool
				words string
			}{{got.Same == 1, "same"}, {got.Changed == 1, "changed"}, {len(got.Unknown) == 1, "unknown " + only(got.Unknown)}, {len(got.Skipped) == 1, "skipped " + only(got.Skipped)}} {
				if one.is {
					verdict += one.words
				}
			}
			if verdict != c.verdict || code != map[bool]int{true: 2}[c.verdict == "changed"] {
				t.Errorf("exit %d, is %q, want %q: %s", code, verdict, c.verdict, out)
			}
			if asked := !strings.HasPrefix(c.verdict, "skipped"); asked != (got.Asked == 1) {
				t.Errorf("%d asked", got.Asked)
			}
			if len(got.Changes) == 1 {
				d := got.Changes[0]
				if was, now := strings.TrimSuffix(d.Was+" by "+d.WasRule, " by "), strings.TrimSuffix(d.Now+" by "+d.NowRule, " by "); was != c.was || now != c.now {
					t.Errorf("%s became %s, want %s, %s", was, now, c.was, c.now)
				}
			}
			if shadow := strings.Contains(c.log, `"shadow_rule"`); shadow != (got.Shadow == 1) {
				t.Errorf("shadow is %d", got.Shadow)
			}
		})
	}
}

// only is the one key of m that counts one.
func only(m map[string]int) string {
	for k, n := range m {
		if n == 1 {
			return k
		}
	}
	return ""
}

func TestX08ReplayOfWhatTheLogWrites(t *testing.T) {
	dir := folder(t, "a.yaml", catalogYAML)
	logs := t.TempDir()
	l, err := audit.Open(audit.Options{Dir: logs, Origin: "sluiced/test", Seed: [32]byte{1}, Mask: [32]byte{2}, Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	entry := func(change func(*audit.Entry)) {
		e := audit.Entry{
			Time: 1790000000000000, Class: authz.Required, Tenant: "acme", Plan: "gold", Principal: principal, Scheme: authz.SPIFFE, Roles: []string{"agent"},
			Method: "GET", Host: "api.example.com", Path: "/v1/calls/1", Allowed: true, Reason: "admitted", Rule: "agents-read",
		}
		change(&e)
		if err := l.Record(&e); err != nil {
			t.Fatal(err)
		}
	}
	entry(func(*audit.Entry) {})
	entry(func(e *audit.Entry) { e.Path = "/admin/slk_abcdefgh_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" })
	entry(func(e *audit.Entry) { e.Path = "/admin/" + strings.Repeat("x", 2000) })
	entry(func(e *audit.Entry) { e.Principal = "idp/\xff" })
	entry(func(e *audit.Entry) { e.Roles = make([]string, 40) })
	entry(func(e *audit.Entry) { e.Roles = []string{strings.Repeat("x", 300)} })
	entry(func(e *audit.Entry) { e.Kind, e.Act = audit.KindAdmin, "DeleteRule" })
	entry(func(e *audit.Entry) { e.Kind = audit.KindStreamEnd })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, problem := sluice("", "authz", "replay", filepath.Join(logs, "audit-00000001.jsonl"), "--against", dir, "-o", "json")
	var got counts
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("exit %d, %v, %s: %s", code, err, problem, out)
	}
	if want := map[string]int{"masked": 1, "cut": 2, "not UTF-8": 1, "roles": 1}; got.Asked != 6 || got.Same != 1 || !maps.Equal(got.Unknown, want) {
		t.Errorf("%d asked, %d the same, unknown %v, want %v", got.Asked, got.Same, got.Unknown, want)
	}
	if got.Skipped["admin"] != 1 || got.Skipped["stream_end"] != 1 || got.Skipped["segment"] != 1 || got.Skipped["checkpoint"] < 1 {
		t.Errorf("skipped %v", got.Skipped)
	}
}

func TestX08ReplayPrints(t *testing.T) {
	dir := folder(t, "a.yaml", catalogYAML)
	log := line(t, nil) + "\n" + strings.Repeat(line(t, fields{"path": "/admin/x", "rule": "old", "principal": "idp/\x1b[2J"}), 3) +
		line(t, fields{"rule": "", "shadow_rule": "(default deny)", "shadow": false}) + line(t, fields{"path": "/[masked:00]"}) + line(t, fields{"kind": "admin"})
	file := filepath.Join(folder(t, "audit.jsonl", log), "audit.jsonl")
	code, out, problem := sluice("", "authz", "replay", file, "--against", dir)
	for _, want := range []string{
		"6 asked: 1 the same, 4 would change, unknown 1 (masked 1); skipped 1 (admin 1)", "deny in shadow", "allow by old", "idp/?[2J",
		"1 of those asked were decided otherwise only because of shadow", "│     3 │", "│    3 │",
	} {
		if code != 2 || problem != "4 of 6 decisions would change" || !strings.Contains(out, want) {
			t.Errorf("exit %d, %s: no %q in\n%s", code, problem, want, out)
		}
	}
	if bytes.ContainsRune([]byte(out), '\x1b') {
		t.Error("a terminal would obey it")
	}
	for _, c := range []struct{ name, log, want string }{
		{"what is no JSON is refused with its line", line(t, nil) + "{x\n", "-:2: not an audit record"},
		{"what has no kind is refused with its line", `{"allowed":true}`, "-:1: not an audit record: it has no kind"},
		{"a tenant that can be none is refused with its line", line(t, fields{"tenant": "A c"}), `-:1: tenant "A c"`},
		{"a long line is refused", strings.Repeat("x", 2<<20), "-:1: is longer than 1 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, _, problem := sluice(c.log, "authz", "replay", "-", "--against", dir); code != 1 || !strings.Contains(problem, c.want) {
				t.Errorf("exit %d, %s", code, problem)
			}
		})
	}
	t.Run("a last line that is being written is counted as skipped", func(t *testing.T) {
		whole := line(t, nil)
		for cut := range len(whole) - 1 {
			code, out, problem := sluice(whole+whole+whole[:cut], "authz", "replay", "-", "--against", dir)
			want := "2 asked: 2 the same, 0 would change, unknown 0; skipped 1 (unfinished 1)"
			if cut == 0 {
				want = "2 asked: 2 the same, 0 would change, unknown 0; skipped 0"
			}
			if code != 0 || !strings.Contains(out, want) {
				t.Fatalf("with %d bytes of it: exit %d, %s\n%s", cut, code, problem, out)
			}
		}
		if code, _, problem := sluice("{x", "authz", "replay", "-", "--against", dir); code != 1 || !strings.Contains(problem, "-:1: not an audit record") {
			t.Errorf("a file that has nothing else: exit %d, %s", code, problem)
		}
	})
	t.Run("a log that is not there is refused", func(t *testing.T) {
		if code, _, problem := sluice("", "authz", "replay", filepath.Join(t.TempDir(), "no"), "--against", dir); code != 1 || !strings.Contains(problem, "no such file") {
			t.Errorf("exit %d, %s", code, problem)
		}
	})
}
