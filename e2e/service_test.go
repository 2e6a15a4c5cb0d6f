package e2e

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// What a route leads to is told to each door in its own way, and rules hear the same.
func TestARuleAboutAServiceHoldsAtEveryDoor(t *testing.T) {
	const route = "route: {cluster: upstream, timeout: 15s}"
	named := func(config, perRoute string) string {
		before, after, ok := strings.Cut(config, "                        - name: upstream\n")
		if !ok || !strings.Contains(after, route) {
			t.Fatal("the configuration has another route than this test knows")
		}
		return before + `                        - name: billing
                          match: {prefix: /billing}
                          ` + route + `
                          typed_per_filter_config:
` + perRoute + "                        - name: upstream\n" + after
	}
	byExtensions := `                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              check_settings: {context_extensions: {service: billing}}
`
	byMetadata := `                            envoy.filters.http.ext_proc:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                              overrides: {grpc_initial_metadata: [{key: x-sluice-service, value: billing}]}
`
	for _, w := range []wiring{
		{"by ext_authz", named(deploy.Demo, byExtensions)},
		{"by ext_proc", named(deploy.ExtProc, byMetadata)},
	} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme := s.customer(t, "acme")
			s.rule(t, "all", &quotav1.Rule{})
			s.rule(t, "nobody-bills", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Services: []string{"billing"}}})
			get := func(path string, lines ...string) func() reply {
				return func() reply { return s.raw(t, http1("GET", path, append(lines, acme)...)) }
			}
			if e := s.judge(t, isForbidden, get("/billing/x")); e.record.Rule != "nobody-bills" || e.record.Service != "billing" {
				t.Errorf("the record says %+v", e.record)
			}
			if e := s.judge(t, isForbidden, get("/billing/x", "x-sluice-service: calls")); e.record.Service != "billing" {
				t.Errorf("a client named the service: %+v", e.record)
			}
			if e := s.judge(t, passes, get("/calls/x", "x-sluice-service: billing")); e.record.Service != "" {
				t.Errorf("the record says %+v", e.record)
			}
		})
	}
}
