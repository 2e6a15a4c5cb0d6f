package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// rule makes a rule of which every decision is recorded.
func (w *world) rule(t *testing.T, name string, r *quotav1.Rule) {
	t.Helper()
	if r.GetAudit() == "" {
		r.Audit = "best_effort"
	}
	if r.GetEffect() == "" {
		r.Effect = "allow"
	}
	if _, err := w.quota.CreateRule(w.admin(t), &quotav1.CreateRuleRequest{RuleId: name, Rule: r}); err != nil {
		t.Fatal(err)
	}
	w.ruled = true // whoever makes rules makes all of them
}

// customer is tenant without the rule that allows everything: it returns the header with the key.
func (w *world) customer(t *testing.T, name string) string {
	t.Helper()
	w.ruled = true
	return "x-api-key: " + w.tenant(t, name)
}

// attack is one request, and how it should end.
type attack struct {
	name    string // a sentence that begins with its id
	request string // HTTP/1.1, byte for byte
	fields  []field
	body    string // of fields
	want    verdict
	check   func(t *testing.T, e ending)
}

// run sends each attack, and then judges them all: the audit log writes in batches.
func (s *scene) run(t *testing.T, attacks []attack) {
	t.Helper()
	records := len(s.decisions(t))
	ends := make([]ending, len(attacks))
	for i, a := range attacks {
		ends[i] = s.observe(t, func() reply {
			if a.fields != nil {
				return s.raw2(t, a.fields, a.body)
			}
			return s.raw(t, a.request)
		})
		records += ends[i].asked
	}
	s.settle(t, records)
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			s.check(t, a.want, &ends[i])
			if a.check != nil && !t.Failed() {
				a.check(t, ends[i])
			}
		})
	}
}

// wiring is where an attack meets Sluice.
type wiring struct{ name, config string }

// asSent is the sidecar's Envoy as somebody who forgot every line that makes a
// request plain would write it, so that sluiced sees what was sent.
func asSent() string { return unguarded(deploy.Sidecar) }

func unguarded(config string) string {
	for _, line := range []string{"normalize_path: true", "merge_slashes: true", "path_with_escaped_slashes_action: REJECT_REQUEST", "headers_with_underscores_action: REJECT_REQUEST"} {
		config = strings.Replace(config, line, "", 1)
	}
	before, rest, found := strings.Cut(config, "early_header_mutation_extensions:")
	if found {
		_, after, _ := strings.Cut(rest, "http_filters:")
		config = before + "http_filters:" + after
	}
	return config
}

const (
	gateway = "at the gateway"
	sidecar = "in a sidecar"
	plain   = "in a sidecar that normalises nothing"
	extProc = "by ext_proc where Envoy normalises nothing"
)

// pathAttack is a path and the verdicts where Envoy makes it plain, and where it does not.
type pathAttack struct {
	name, path     string
	gateway, plain verdict
}

func pathAttacks() []pathAttack {
	f, m, e := isForbidden, isMalformed, byEnvoy
	long := strings.Repeat("a", 64<<10)
	return []pathAttack{
		{"P-01 two slashes", "//admin/x", f, m},
		{"P-01 three slashes", "///admin/x", f, m},
		{"P-02 a segment that goes up", "/v1/calls/../../admin/x", f, m},
		{"P-02 an encoded segment that goes up", "/v1/calls/%2e%2e/%2e%2e/admin", f, m},
		{"P-02 a half encoded segment that goes up", "/v1/calls/%2e./.%2E/admin", f, m},
		{"P-03 an encoded slash", "/v1/calls%2f..%2fadmin", e, m},
		{"P-03 an encoded slash after admin", "/admin%2fx", e, m},
		{"P-03 an encoded backslash", "/admin%5cx", e, m},
		{"P-03 a backslash", `/admin\x`, f, m},
		{"P-03 a backslash that goes up", `/v1/calls\..\..\admin`, f, m},
		{"P-03 an encoded letter", "/%61dmin/x", f, m},
		{"P-03 a doubly encoded letter", "/%2561dmin", m, m},
		{"P-03 a doubly encoded slash", "/admin%252fx", m, m},
		{"P-04 another case", "/ADMIN/x", f, f},
		{"P-04 a segment that stays", "/admin/x/.", f, m},
		{"P-04 no slash at the end", "/admin", f, f},
		{"P-04 a slash at the end", "/admin/", f, f},
		{"P-05 a path parameter", "/admin;a=b/x", m, m},
		{"P-05 a path parameter that goes up", "/v1/calls;/../../admin", f, m},
		{"P-06 a parameter on a segment that stays", "/v1/calls/.;/../../admin", f, m},
		{"P-06 a parameter on a segment that goes up", "/v1/..;/admin", f, m},
		{"P-07 a session id", "/admin/x;jsessionid=1", m, m},
		{"P-07 an encoded semicolon", "/admin/x%3bfoo", m, m},
		{"P-08 no path", "", e, e},
		{"P-08 an asterisk", "*", e, e},
		{"P-08 an absolute URI", "http://other.example.com/admin/x", f, f},
		{"P-08 an encoded question mark", "/admin%3fx", m, m},
		{"P-08 a fragment", "/admin#x", e, e},
		{"P-08 a fragment before the path that is wanted", "/v1/calls#/../../admin", e, e},
		{"P-08 a query that says it is a path", "/admin?/../v1/calls", f, f},
		{"P-08 a path without its slash", "admin/x", e, e},
		{"P-09 an overlong slash", "/admin%c0%afx", m, m},
		{"P-09 encoded Latin-1", "/admin/%e9", m, m},
		{"P-09 Latin-1", "/admin/\xe9", e, e},
		{"P-09 an encoded NUL", "/admin%00", e, m},
		{"P-09 a NUL", "/admin\x00", e, e},
		{"P-09 an encoded line break", "/admin%0d%0ax:%201", m, m},
		{"P-09 a tab", "/admin\tx", e, e},
		{"P-09 an escape of no digits", "/%u0061dmin", m, m},
		{"P-09 a path of 9 KiB", "/admin/" + long[:9<<10], m, m},
		{"P-09 a path of 64 KiB", "/admin/" + long, verdict{431, unasked}, verdict{431, unasked}},
	}
}

func TestAttacksOnPaths(t *testing.T) {
	for _, w := range []wiring{{gateway, deploy.Demo}, {plain, asSent()}, {extProc, unguarded(deploy.ExtProc)}} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme, umbrella := s.customer(t, "acme"), s.customer(t, "umbrella")
			s.rule(t, "calls", &quotav1.Rule{
				Who: &quotav1.Rule_Who{Tenants: []string{"tenants/acme"}}, What: &quotav1.Rule_What{Methods: []string{"GET"}, Paths: []string{"/v1/calls/**"}},
			})
			s.rule(t, "all", &quotav1.Rule{Who: &quotav1.Rule_Who{Tenants: []string{"tenants/umbrella"}}})
			s.rule(t, "nobody-is-admin", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Paths: []string{"/admin/**"}}})
			var attacks []attack
			for _, p := range pathAttacks() {
				want := p.gateway
				if w.name != gateway {
					want = p.plain
				}
				attacks = append(attacks,
					attack{name: p.name + ", by who may GET calls", request: http1("GET", p.path, acme), want: want},
					attack{name: p.name + ", by who may do all but that", request: http1("GET", p.path, umbrella), want: want})
			}
			s.run(t, append(attacks, harmlessPaths(acme)...))
		})
	}
}

// harmlessPaths look odd and lead where the caller may go.
func harmlessPaths(acme string) (attacks []attack) {
	for _, p := range []struct{ name, path, seen string }{
		{"P-02 a path as it should be", "/v1/calls/17", "GET /v1/calls/17 HTTP/1.1"},
		{"P-03 an encoded mark that a segment may hold plain", "/v1/calls/%2B491234", "GET /v1/calls/%2B491234 HTTP/1.1"},
		{"P-08 an absolute URI", "http://other.example.com/v1/calls", "GET /v1/calls HTTP/1.1"},
		{"P-08 a query that says it is a path", "/v1/calls?/../../admin", "GET /v1/calls?/../../admin HTTP/1.1"},
		{"P-09 an encoded NUL in the query, which no rule reads", "/v1/calls?%00", "GET /v1/calls?%00 HTTP/1.1"},
	} {
		attacks = append(attacks, attack{name: p.name + " passes as it is", request: http1("GET", p.path, acme), want: passes, check: func(t *testing.T, e ending) {
			if e.seen.line != p.seen {
				t.Errorf("the upstream saw %q, want %q", e.seen.line, p.seen)
			}
		}})
	}
	return attacks
}

func TestAttacksOnMethods(t *testing.T) {
	for _, w := range []wiring{{gateway, deploy.Demo}, {plain, asSent()}, {extProc, unguarded(deploy.ExtProc)}} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme, umbrella := s.customer(t, "acme"), s.customer(t, "umbrella")
			s.rule(t, "calls", &quotav1.Rule{
				Who: &quotav1.Rule_Who{Tenants: []string{"tenants/acme"}}, What: &quotav1.Rule_What{Methods: []string{"GET", "POST"}, Paths: []string{"/v1/calls/**"}},
			})
			s.rule(t, "all", &quotav1.Rule{Who: &quotav1.Rule_Who{Tenants: []string{"tenants/umbrella"}}})
			s.rule(t, "nobody-deletes", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Methods: []string{"DELETE"}}})
			s.rule(t, "nobody-connects", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Methods: []string{"CONNECT"}}})
			s.run(t, slices.Concat(overridden(acme), methodAttacks(w.name, acme), []attack{
				{name: "P-10 the method that is forbidden, by who may do the others", request: http1("DELETE", "/v1/calls", umbrella), want: isForbidden},
				{name: "P-10 the same in lower case by HTTP/2", fields: ask2("delete", "/v1/calls", field2(umbrella)), want: isForbidden},
			}))
			t.Run("P-11 sluiced and Envoy are alive after it", func(t *testing.T) {
				s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/v1/calls", acme)) })
			})
		})
	}
}

// field2 is a line of HTTP/1.1 as HTTP/2 has it.
func field2(line string) field {
	name, value, _ := strings.Cut(line, ": ")
	return field{name, value}
}

// overridden are requests whose method or path a framework might take from elsewhere.
func overridden(key string) (attacks []attack) {
	for _, name := range []string{
		"x-http-method-override", "X-HTTP-Method", "x-method-override", "x-original-url", "x-original-uri", "x-rewrite-url", "x.http~method!override",
	} {
		attacks = append(attacks, attack{
			name: "P-10, H-08 " + name + " does not reach the upstream", request: http1("POST", "/v1/calls", key, "content-length: 0", name+": DELETE"), want: passes,
			check: func(t *testing.T, e ending) {
				for _, h := range e.seen.headers {
					if strings.Contains(h.value, "DELETE") {
						t.Errorf("the upstream saw %s: %s", h.name, h.value)
					}
				}
			},
		})
	}
	return attacks
}

// methodAttacks are by somebody who may GET and POST. What Envoy's parser of HTTP/1.1
// does not know it refuses; by HTTP/2 a method is any text.
func methodAttacks(in, key string) []attack {
	k, notFound := field2(key), verdict{http.StatusNotFound, unasked}
	connect := notFound
	if in == extProc {
		connect = isMalformed // ext_proc asks before Envoy looks for a route
	}
	return []attack{
		{name: "P-10 the method that is forbidden", request: http1("DELETE", "/v1/calls", key), want: isForbidden},
		{name: "P-10 the method that is forbidden, in lower case", request: http1("delete", "/v1/calls", key), want: byEnvoy},
		{name: "P-10 a method in lower case", request: http1("get", "/v1/calls", key), want: byEnvoy},
		{name: "P-10 a method that nobody knows", request: http1("FROB", "/v1/calls", key), want: byEnvoy},
		{name: "P-10 a method that nobody knows by HTTP/2", fields: ask2("FROB", "/v1/calls", k), want: isForbidden},
		{name: "P-10 a method in lower case by HTTP/2", fields: ask2("get", "/v1/calls", k), want: isForbidden},
		{name: "P-10 the method that is forbidden, in lower case by HTTP/2", fields: ask2("delete", "/v1/calls", k), want: isForbidden},
		{name: "P-10 no method by HTTP/2", fields: ask2("", "/v1/calls", k), want: byEnvoy},
		{name: "P-10 two methods by HTTP/2", fields: ask2("GET", "/v1/calls", field{":method", "DELETE"}, k), want: byEnvoy},
		{name: "P-10 two paths by HTTP/2", fields: ask2("GET", "/v1/calls", field{":path", "/admin"}, k), want: byEnvoy},
		{name: "P-10 a method with a request line in it by HTTP/2", fields: ask2("GET /admin HTTP/1.1\r\nx: y", "/v1/calls", k), want: byEnvoy},
		{name: "P-10 a method with a blank by HTTP/2", fields: ask2("GET /admin", "/v1/calls", k), want: byEnvoy},
		{name: "P-08 the asterisk of OPTIONS has no route", request: http1("OPTIONS", "*", key), want: notFound},
		{name: "P-11 CONNECT, which has no route", request: "CONNECT other.example.com:443 HTTP/1.1\r\nhost: other.example.com:443\r\nconnection: close\r\n" + key + "\r\n\r\n", want: connect},
		{name: "P-11 CONNECT with a path", request: http1("CONNECT", "/v1/calls", key), want: byEnvoy},
		{name: "P-11 CONNECT by HTTP/2, which has no route", fields: []field{{":method", "CONNECT"}, {":authority", "other.example.com:443"}, k}, want: connect},
		{name: "P-11 CONNECT with a protocol by HTTP/2", fields: ask2("CONNECT", "/v1/calls", field{":protocol", "websocket"}, k), want: byEnvoy},
		{name: "P-11 TRACE", request: http1("TRACE", "/v1/calls", key), want: isForbidden},
	}
}
