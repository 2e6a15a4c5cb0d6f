package extproc

import (
	"slices"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/gate"
)

// goLive has the sweeper watch x from now on. It says no where the snapshot has changed since
// the decision and the new one would not let x go on: the sweep may have passed already.
func (x *exchange) goLive(now int64, r *gate.Request) (ok bool, reason gate.Reason) {
	s := x.server
	if s.o.Recheck == nil {
		return true, gate.ReasonAdmitted
	}
	x.hold(now, r)
	held := x.held // the sweeper asks about the other from now on
	s.live.add(x, held.Principal.Expires)
	if s.o.Revision() == held.Revision {
		return true, gate.ReasonAdmitted
	}
	return s.recheck(now, &held)
}

// hold keeps what the decision and the request say, but no credential.
func (x *exchange) hold(now int64, r *gate.Request) {
	d := &x.decision
	x.held = gate.Held{
		Decision: d.ID, Revision: d.Revision, Peer: x.peer, Tenant: d.Tenant, Plan: d.Plan, Principal: d.Principal, Since: now,
		Action: r.Action,
	}
	x.held.Action.Body = authz.Body{}
	x.held.Action.Headers = slices.DeleteFunc(r.Action.Headers, authz.Header.Confidential)
}

// ending says to a caller why a stream that was admitted is ended.
func ending(r gate.Reason) string {
	switch r {
	case gate.ReasonUnauthenticated:
		return "the credential has expired, was revoked or speaks for the tenant no more, since the request began"
	case gate.ReasonSuspended:
		return "the tenant was suspended while the request was under way"
	case gate.ReasonForbidden:
		return "this is no longer allowed"
	case gate.ReasonOverLimit:
		return "a limit of the plan was used up while the request was under way"
	default:
		return "whether the request may go on can't be decided"
	}
}
