package e2e

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

func TestAttacksOnUpgrades(t *testing.T) {
	upgrades := strings.Replace(deploy.Demo, "stream_idle_timeout: 300s", "upgrade_configs: [{upgrade_type: websocket}]\n                stream_idle_timeout: 300s", 1)
	handshake := []string{"upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="}
	open := func(path string, lines ...string) string {
		request := http1("GET", path, append(handshake, lines...)...)
		return strings.Replace(request, "connection: close", "connection: upgrade", 1) + "\x81\x85early bytes that nobody asked for"
	}
	h2c := func(path, key string) string {
		return strings.Replace(http1("GET", path, key, "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"), "connection: close", "connection: upgrade, http2-settings", 1)
	}
	for _, w := range []struct {
		wiring
		refused, denied verdict
	}{
		{wiring{gateway, deploy.Demo}, verdict{http.StatusForbidden, unasked}, verdict{http.StatusForbidden, unasked}},
		{wiring{"at a gateway with upgrades", upgrades}, isNobody, isForbidden},
		{wiring{"by ext_proc for streams", deploy.Streams}, isNobody, isForbidden},
	} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme := s.customer(t, "acme")
			s.rule(t, "calls", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/calls/**"}}})
			s.run(t, []attack{
				{name: "P-12 nobody who upgrades and sends at once", request: open("/v1/calls/ws"), want: w.refused},
				{name: "P-12 who may not upgrades and sends at once", request: open("/admin/ws", acme), want: w.denied},
				{name: "P-12 a spoofed tenant who upgrades", request: open("/v1/calls/ws", "x-tenant-id: acme"), want: w.refused},
				{name: "P-12 an upgrade to HTTP/2, which Envoy ignores", request: h2c("/admin", acme), want: isForbidden},
				{name: "P-12 an upgrade to HTTP/2 does not reach the upstream", request: h2c("/v1/calls", acme), want: passes, check: func(t *testing.T, e ending) {
					if got := append(e.seen.values("upgrade"), e.seen.values("http2-settings")...); len(got) != 0 {
						t.Errorf("the upstream saw %q", got)
					}
				}},
			})
		})
	}
}

func TestAttacksOnGRPC(t *testing.T) {
	for _, w := range []wiring{{gateway, deploy.Demo}, {plain, asSent()}} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme, umbrella := s.customer(t, "acme"), s.customer(t, "umbrella")
			s.rule(t, "get", &quotav1.Rule{
				Who: &quotav1.Rule_Who{Tenants: []string{"tenants/acme"}}, What: &quotav1.Rule_What{Grpc: []string{"voice.Calls/Get"}},
			})
			s.rule(t, "rest", &quotav1.Rule{
				Who: &quotav1.Rule_Who{Tenants: []string{"tenants/acme"}}, What: &quotav1.Rule_What{Paths: []string{"/v1/calls/**"}},
			})
			s.rule(t, "all", &quotav1.Rule{Who: &quotav1.Rule_Who{Tenants: []string{"tenants/umbrella"}}})
			s.rule(t, "nobody-deletes", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Grpc: []string{"voice.Calls/Delete"}}})
			var attacks []attack
			call := func(name, key, path, kind string, want verdict, code string) {
				attacks = append(attacks, attack{
					name: name, fields: ask2("POST", path, field2(key), field{"content-type", kind}, field{"te", "trailers"}), body: "\x00\x00\x00\x00\x00", want: want,
					check: func(t *testing.T, e ending) {
						if got := e.header.Get("grpc-status"); got != code {
							t.Errorf("grpc-status %q, want %q", got, code)
						}
					},
				})
			}
			const grpc = "application/grpc"
			refused := verdict{http.StatusOK, forbidden}
			call("P-13 the method that is allowed", acme, "/voice.Calls/Get", grpc, passes, "")
			for _, path := range []string{"/voice.Calls/get", "/voice.calls/Get", "/Voice.Calls/Get", "/voice.Calls/Get/", "/voice.Calls/Get/x", "/voice.Calls", "/voice.Calls/Delete", "/voice/Calls/Get"} {
				call("P-13 the method that is allowed, as "+path, acme, path, grpc, refused, "7")
			}
			call("P-13 gRPC on a route of REST", acme, "/v1/calls", grpc, refused, "7")
			call("P-13 gRPC+proto on a route of REST", acme, "/v1/calls", grpc+"+proto", refused, "7")
			call("P-13 JSON on a method of gRPC", acme, "/voice.Calls/Get", "application/json", isForbidden, "")
			call("P-13 gRPC-Web on a method of gRPC", acme, "/voice.Calls/Get", grpc+"-web", isForbidden, "")
			for _, path := range []string{"/voice.Calls/Delete", "/voice.calls/delete", "/voice.Calls/Delete/"} {
				call("P-13 a method that is forbidden, as "+path, umbrella, path, grpc, refused, "7")
				call("P-13 a method that is forbidden, by JSON as "+path, umbrella, path, "application/json", isForbidden, "")
				call("P-13 a method that is forbidden, by gRPC-Web as "+path, umbrella, path, grpc+"-web+proto", isForbidden, "")
			}
			slashes := verdict{http.StatusOK, malformed}
			if w.name == gateway {
				slashes = refused // Envoy has merged them
			}
			call("P-13 two slashes", umbrella, "/voice.Calls//Delete", grpc, slashes, map[string]string{forbidden: "7", malformed: "3"}[slashes.reason])
			s.run(t, attacks)
		})
	}
}

func TestRulesThroughEnvoy(t *testing.T) {
	s := stage(t, deploy.Demo, stack.Options{})
	acme, umbrella, initech := s.customer(t, "acme"), s.customer(t, "umbrella"), s.customer(t, "initech")
	get := func(key, path string) func() reply {
		return func() reply { return s.raw(t, http1("GET", path, key)) }
	}
	tenants := func(names ...string) *quotav1.Rule_Who {
		who := &quotav1.Rule_Who{}
		for _, name := range names {
			who.Tenants = append(who.Tenants, "tenants/"+name)
		}
		return who
	}
	at := func(paths ...string) *quotav1.Rule_What {
		return &quotav1.Rule_What{Hosts: []string{"api.example.com"}, Methods: []string{"GET"}, Paths: paths}
	}
	s.rule(t, "b-acme", &quotav1.Rule{Who: tenants("acme"), What: at("/v1/calls", "/v1/both")})
	s.rule(t, "a-umbrella", &quotav1.Rule{Who: tenants("umbrella"), Effect: "deny", What: at("/v1/calls")})
	s.rule(t, "z-both", &quotav1.Rule{Who: tenants("acme"), Effect: "deny", What: at("/v1/both")})

	t.Run("X-03 a request that one rule allows and another denies is denied, and the record names which", func(t *testing.T) {
		if e := s.judge(t, isForbidden, get(acme, "/v1/both")); e.record.Rule != "z-both" {
			t.Errorf("%+v", e.record)
		}
	})
	t.Run("X-03 two tenants' rules for one host say nothing of each other", func(t *testing.T) {
		if e := s.judge(t, passes, get(acme, "/v1/calls")); e.record.Rule != "b-acme" || e.record.Tenant != "acme" {
			t.Errorf("%+v", e.record)
		}
		if e := s.judge(t, isForbidden, get(umbrella, "/v1/calls")); e.record.Rule != "a-umbrella" || e.record.Tenant != "umbrella" {
			t.Errorf("%+v", e.record)
		}
		if e := s.judge(t, isForbidden, get(initech, "/v1/calls")); e.record.Rule != "" || e.record.Tenant != "initech" {
			t.Errorf("%+v", e.record)
		}
	})
	t.Run("X-06 an allowed request opens nothing for another tenant, key, method, path or host", func(t *testing.T) {
		for range 3 {
			s.judge(t, passes, get(acme, "/v1/calls"))
			s.judge(t, isForbidden, get(umbrella, "/v1/calls"))
			s.judge(t, isNobody, get("x-note: none", "/v1/calls"))
			s.judge(t, isNobody, get(acme[:len(acme)-1]+"x", "/v1/calls"))
			s.judge(t, isForbidden, func() reply { return s.raw(t, http1("DELETE", "/v1/calls", acme)) })
			s.judge(t, isForbidden, get(acme, "/v1/calls/"))
			s.judge(t, isForbidden, func() reply {
				return s.raw(t, strings.Replace(http1("GET", "/v1/calls", acme), "api.example.com", "other.example.com", 1))
			})
		}
	})
	t.Run("X-06 a rule that is deleted and made again holds for the next request, and the record has its revision", func(t *testing.T) {
		before := s.judge(t, passes, get(acme, "/v1/calls")).record.Revision
		if _, err := s.quota.DeleteRule(s.admin(t), &quotav1.DeleteRuleRequest{Name: "rules/b-acme"}); err != nil {
			t.Fatal(err)
		}
		if after := s.judge(t, isForbidden, get(acme, "/v1/calls")).record.Revision; after <= before {
			t.Errorf("revision %d after %d", after, before)
		}
		s.rule(t, "b-acme", &quotav1.Rule{Who: tenants("acme"), What: at("/v1/calls", "/v1/both")})
		s.judge(t, passes, get(acme, "/v1/calls"))
	})
	s.shadowRules(t, acme, initech, at)
	t.Run("X-06 a key that is revoked after an allowed request opens nothing", func(t *testing.T) {
		s.judge(t, passes, get(acme, "/v1/calls"))
		s.revoke(t, "acme")
		s.judge(t, isNobody, get(acme, "/v1/calls"))
	})
}

// shadowRules are said and change nothing.
func (s *scene) shadowRules(t *testing.T, acme, initech string, at func(...string) *quotav1.Rule_What) {
	get := func(key, path string) func() reply {
		return func() reply { return s.raw(t, http1("GET", path, key)) }
	}
	differs := func(t *testing.T, e ending, rule string, would bool) {
		t.Helper()
		if r := e.record; r.ShadowRule != rule || r.Shadow == nil || *r.Shadow != would {
			t.Errorf("want shadow rule %s, would be allowed %v: %+v", rule, would, r)
		}
	}
	t.Run("X-07 a rule in shadow that denies lets pass, and the record says what it would have done", func(t *testing.T) {
		s.rule(t, "shadow-deny", &quotav1.Rule{Effect: "deny", Enforcement: "shadow", What: at("/v1/calls")})
		differs(t, s.judge(t, passes, get(acme, "/v1/calls")), "shadow-deny", false)
		s.forget(t, "shadow-deny")
	})
	t.Run("X-07 a rule in shadow whose condition fails changes nothing and is on record", func(t *testing.T) {
		s.rule(t, "shadow-fails", &quotav1.Rule{Effect: "deny", Enforcement: "shadow", What: at("/v1/calls"), When: `request.headers["x-missing"] == "a"`})
		differs(t, s.judge(t, passes, get(acme, "/v1/calls")), "shadow-fails", false)
		s.forget(t, "shadow-fails")
	})
	t.Run("X-07 a rule in shadow that allows opens nothing, and the record says what it would have done", func(t *testing.T) {
		s.rule(t, "shadow-allow", &quotav1.Rule{Enforcement: "shadow", What: at("/v1/calls")})
		differs(t, s.judge(t, isForbidden, get(initech, "/v1/calls")), "shadow-allow", true)
		s.forget(t, "shadow-allow")
	})
	t.Run("X-07 a tenant in shadow is let pass, and the record says what would have been", func(t *testing.T) {
		if _, err := s.quota.UpdateTenant(s.admin(t), &quotav1.UpdateTenantRequest{
			Tenant: &quotav1.Tenant{Name: "tenants/initech", Authorization: "shadow"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"authorization"}},
		}); err != nil {
			t.Fatal(err)
		}
		differs(t, s.judge(t, passes, get(initech, "/v1/calls")), "(default deny)", false)
	})
}

func (w *world) forget(t *testing.T, rule string) {
	t.Helper()
	if _, err := w.quota.DeleteRule(w.admin(t), &quotav1.DeleteRuleRequest{Name: "rules/" + rule}); err != nil {
		t.Fatal(err)
	}
}
