package gate

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
)

// record writes d to the audit log: each refusal, each decision that a rule asks
// a record of, and each that would be another with every rule, and the server, enforced. It is
// false if d admits and its record is required and could not be made.
func (g *Gate) record(now int64, r *Request, d *Decision) (ok bool) {
	unrecorded := !d.allowed || d.Verdict.Audit != authz.Required // what holds if no record is made
	_, soft := d.Shadowed()
	if d.allowed && d.Verdict.Audit == authz.Unrecorded && d.Verdict.ShadowRule == "" && !soft {
		return true
	}
	if g.o.Audit == nil {
		return unrecorded
	}
	defer func() {
		if recover() != nil {
			g.panicked()
			ok = unrecorded
		}
	}()
	d.fill(now, r)
	err := g.o.Audit.Record(&d.entry)
	return err == nil || unrecorded
}

// fill describes d. Nothing of it is a credential.
func (d *Decision) fill(now int64, r *Request) {
	a := &r.Action
	class := authz.BestEffort
	if d.Verdict.Audit == authz.Required {
		class = authz.Required
	}
	d.entry = audit.Entry{
		Time: now, Kind: audit.KindDecision, Class: class, Anonymous: d.Principal.Scheme == authz.Nobody, Decision: d.ID, Trace: r.Trace,
		Tenant: d.Tenant, Plan: d.Plan, Principal: d.Principal.Name, Scheme: d.Principal.Scheme, Roles: d.Principal.Roles,
		Peer: r.Peer, Source: r.Credentials.Source,
		Service: a.Service, Method: a.Method, Host: a.Host, Path: a.Path, GRPC: a.GRPC,
		Allowed: d.allowed, Reason: d.Reason.String(), Detail: d.Detail,
		Rule: d.Verdict.Rule, Failed: d.Verdict.Failed, Shadow: d.Verdict.Shadow, ShadowRule: d.Verdict.ShadowRule, Revision: d.Revision,
	}
	if d.Degraded() {
		const mark = "judged without the shared store"
		if d.entry.Detail == "" {
			d.entry.Detail = mark
		} else {
			d.entry.Detail += "; " + mark
		}
	}
	if overlooked, soft := d.Shadowed(); soft {
		d.entry.Shadow, d.entry.ShadowReason = false, overlooked.String()
	}
}
