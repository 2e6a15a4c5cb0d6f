package gate

import (
	"testing"

	"github.com/voicecore-ai/sluice/authz"
)

// What a door refuses without asking is one record, as that of a stranger, and never an admission.
func TestWhatADoorRefusesIsOnRecord(t *testing.T) {
	for _, reason := range append(Reasons(), 200) {
		p := newParts(t, authz.Rule{Name: "all", Effect: "allow"})
		g := p.gate()
		d := &Decision{allowed: true, Reason: reason, Detail: "why", Tenant: "acme", Token: []byte("x")}
		r := &Request{Peer: "p", Credentials: authz.Credentials{Source: "192.0.2.1"}}
		g.Refuse(1, r, d)
		want := reason
		if reason == ReasonAdmitted || int(reason) >= reasonCount {
			want = ReasonInternal
		}
		if d.Allowed() || d.Reason != want || d.Detail != "why" || d.Tenant != "" || len(d.Token) != 0 || d.Revision != 3 || g.Count(want) != 1 {
			t.Errorf("%v: %+v", reason, d)
		}
		if _, ours := g.VerifyID(FormatID(d.ID), "p"); !ours {
			t.Errorf("%v: the id is not ours", reason)
		}
		if len(p.records) != 1 {
			t.Fatalf("%v: %d records", reason, len(p.records))
		}
		if e := p.records[0]; !e.Anonymous || e.Allowed || e.Decision != d.ID || e.Source != "192.0.2.1" || e.Reason != want.String() || e.Detail != "why" {
			t.Errorf("%v: %+v", reason, e)
		}
		if p.charged != 0 {
			t.Errorf("%v: it was charged", reason)
		}
	}
	t.Run("F-02 a log that panics changes nothing", func(t *testing.T) {
		p := newParts(t, authz.Rule{Name: "all", Effect: "allow"})
		p.write = func() error { panic("disk") }
		d := &Decision{Reason: ReasonForbidden}
		g := p.gate()
		g.Refuse(1, &Request{}, d)
		if d.Allowed() || d.Reason != ReasonForbidden || g.Panics() != 1 {
			t.Errorf("%+v", d)
		}
	})
}
