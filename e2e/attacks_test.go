package e2e

import (
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
	w.ruled = true // tenant makes none that allows everything
}

// attack is one request, and how it should end in a wiring.
type attack struct {
	name    string // a sentence that begins with its id
	request string // HTTP/1.1, byte for byte
	fields  []field
	body    string // of fields
	want    verdict
	check   func(t *testing.T, s *scene, seen sighting)
}

// run sends each attack and judges it.
func (s *scene) run(t *testing.T, attacks []attack) {
	t.Helper()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			_, _, seen := s.judge(t, a.want, func() reply {
				if a.fields != nil {
					return s.raw2(t, a.fields, a.body)
				}
				return s.raw(t, a.request)
			})
			if a.check != nil && !t.Failed() {
				a.check(t, s, seen)
			}
		})
	}
}

func TestAttacksOnHeaders(t *testing.T) {
	for wiring, config := range map[string]string{"at the gateway": deploy.Demo, "in a sidecar": deploy.Sidecar} {
		t.Run(wiring, func(t *testing.T) {
			s := stage(t, config, stack.Options{})
			s.rule(t, "calls", &quotav1.Rule{What: &quotav1.Rule_What{Methods: []string{"GET"}, Paths: []string{"/v1/calls/**"}}})
			key := "x-api-key: " + s.tenant(t, "acme")
			s.run(t, []attack{
				{name: "H-00 a good request passes", request: http1("GET", "/v1/calls", key), want: passes},
				{name: "H-00 a good request passes by HTTP/2", fields: ask2("GET", "/v1/calls", field{"x-api-key", key[len("x-api-key: "):]}), want: passes},
				{name: "H-00 nobody is refused", request: http1("GET", "/v1/calls"), want: isNobody},
			})
		})
	}
}
