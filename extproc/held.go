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
	return s.ask(now, &held, s.o.Recheck)
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
	size := 0
	for _, h := range x.held.Action.Headers {
		size += len(h.Name) + len(h.Value)
	}
	if size > maxHeld || len(x.held.Action.Headers) > maxHeldHeaders {
		x.held.Action.Headers, x.held.Action.HeadersCut = nil, true
	}
}

// What is held of the headers of one request at most, in bytes and in number: a client can send 60 KiB of them, and
// wait. What has more is held without any, and a condition that reads one ends the stream.
const (
	maxHeld        = 8 << 10
	maxHeldHeaders = 64
)

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
