package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// adminHost adds a virtual host to a configuration, which says on each answer that it was chosen.
func adminHost(config string) string {
	const before = "                  virtual_hosts:\n"
	return strings.Replace(config, before, before+`                    - name: admin
                      domains: ["admin.example.com"]
                      response_headers_to_add: [{header: {key: x-virtual-host, value: admin}}]
                      routes:
                        - match: {prefix: /}
                          route: {cluster: upstream}
`, 1)
}

const noAdmins = classes + `  - {name: no-admins, effect: deny, what: {hosts: [admin.example.com], paths: ["/may/no"]}}
`

// H-10: whatever port a client names, the virtual host that Envoy chooses is the host that rules are asked about.
func TestH10RulesAndTheRouterSeeOneHost(t *testing.T) {
	for name, config := range map[string]string{"by ext_authz": deploy.Demo, "by ext_proc": deploy.ExtProc} {
		t.Run(name, func(t *testing.T) {
			s := stage(t, adminHost(config), stack.Options{Catalog: catalogue(t, noAdmins)})
			key := "x-api-key: " + s.key(t, "acme")
			ask := func(host, path string) string {
				return "GET " + path + " HTTP/1.1\r\nhost: " + host + "\r\nconnection: close\r\n" + key + "\r\n\r\n"
			}
			for _, host := range []string{"admin.example.com", "admin.example.com:444", "ADMIN.example.com:65535", "admin.example.com:80"} {
				t.Run(host, func(t *testing.T) {
					e := s.judge(t, isForbidden, func() reply { return s.raw(t, ask(host, "/may/no")) })
					if e.record.Host != "admin.example.com" {
						t.Errorf("the record says %q", e.record.Host)
					}
					e = s.judge(t, passes, func() reply { return s.raw(t, ask(host, "/may/x")) })
					if got := e.header.Get("x-virtual-host"); got != "admin" || e.record.Host != "admin.example.com" {
						t.Errorf("the virtual host is %q, the record says %q", got, e.record.Host)
					}
					if got := e.seen.values("host"); len(got) != 1 || !strings.EqualFold(got[0], "admin.example.com") {
						t.Errorf("the upstream saw the host %q", got)
					}
				})
			}
			if e := s.observe(t, func() reply { return s.raw(t, ask("other.example.com:444", "/may/no")) }); e.status != http.StatusOK || e.header.Get("x-virtual-host") != "" {
				t.Errorf("another host got %d of %q", e.status, e.header.Get("x-virtual-host"))
			}
		})
	}
}
