package gate

import (
	"context"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

func TestWhatCanNotBeAHeaderIsNotForwardable(t *testing.T) {
	good := Decision{Tenant: "acme", Plan: "pro", Principal: authz.Principal{Name: "n"}}
	if !good.Forwardable() {
		t.Error("a good one is not forwardable")
	}
	for _, spoil := range []func(*Decision){
		func(d *Decision) { d.Tenant = "" },
		func(d *Decision) { d.Tenant = "a\r\nx-admin: 1" },
		func(d *Decision) { d.Plan = "a\nb" },
		func(d *Decision) { d.Principal.Name = "nul\x00" },
	} {
		d := good
		spoil(&d)
		if d.Forwardable() {
			t.Errorf("%+v is forwardable", d.Principal)
		}
	}
}

func TestWhatCanNotBeToldIsRefusedAndTheRecordSaysSo(t *testing.T) {
	for name, spoil := range map[string]func(*parts){
		"a plan that would begin another header": func(p *parts) { p.account.Plan = "gold\r\nx-admin: 1" },
		"a tenant that would":                    func(p *parts) { p.account.Tenant = "acme\nx-admin: 1" },
		"a tenant without a name":                func(p *parts) { p.account.Tenant = "" },
		"a principal with a NUL": func(p *parts) {
			p.identify = func() (authz.Principal, *quota.Account, error) {
				return authz.Principal{Scheme: authz.JWT, Name: "staff/\x00"}, p.account, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParts(t, recorded)
			spoil(p)
			var d Decision
			p.gate().Admit(context.Background(), 1, ask(), &d)
			refused(t, p, &d)
			if p.charged != 0 {
				t.Error("it was charged")
			}
		})
	}
}
