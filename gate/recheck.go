package gate

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

// Held is what must stay true for as long as an admitted request is under way:
// who asked for what, when. A door that watches a stream keeps one. It holds no credential.
type Held struct {
	Decision [16]byte // id of the decision that admitted it
	Revision uint64   // of the snapshot that did
	Peer     string   // the Envoy that carries it
	Tenant   tenant.ID
	Plan     string
	// Principal is who asked. Its Name and Voucher are what a revocation finds it by.
	Principal authz.Principal
	// Action is what was asked, its path canonical, without confidential headers, which no condition reads, without all
	// of them where they are many, and without a body: a condition that reads what is not there ends the stream. Its slices are Held's own.
	Action authz.Action
	Since  int64 // when it was admitted, Unix µs

	input authz.Input // of the rules, for Recheck
}

// Recheck says whether what was admitted may go on under the snapshot of now, and if
// not, why: the tenant, the credential, and what the rules say now. It charges nothing and
// costs what the rules cost.
//
// In the soft stage it ends nothing, but what panics.
//
// It is about who the request is for, not about the services on its way: behind the edge a workload
// shows the caller's tenant token, and what has become of the workload is asked at its next request.
func (g *Gate) Recheck(now int64, h *Held) (ok bool, reason Reason) {
	s := g.o.Snapshot()
	account := s.Account(h.Tenant)
	if ok, reason := stands(now, s, account, &h.Principal); !ok {
		return g.soften(reason)
	}
	h.input = authz.Input{Now: now, Principal: &h.Principal, Tenant: h.Tenant, Plan: account.Plan, Action: &h.Action}
	if !account.Shadow && !s.Rules.Decide(&h.input).Allowed() {
		return g.soften(ReasonForbidden)
	}
	return true, ReasonAdmitted
}

// soften is what a door is told of a request that may no longer go on: in the soft stage, that it may.
func (g *Gate) soften(reason Reason) (ok bool, told Reason) {
	if g.o.Soft && reason.Soft() {
		return true, ReasonAdmitted
	}
	return false, reason
}

// Stands says whether what was admitted may go on as far as that hangs on the tenant and the credential, and if not, why: the
// half of Recheck that costs well under a microsecond whatever the rules cost.
func (g *Gate) Stands(now int64, h *Held) (ok bool, reason Reason) {
	s := g.o.Snapshot()
	ok, reason = stands(now, s, s.Account(h.Tenant), &h.Principal)
	if !ok {
		return g.soften(reason)
	}
	return ok, reason
}

// stands asks about a running request what every door that is told of one asks: are the tenant and the credential still there.
func stands(now int64, s *quota.Snapshot, account *quota.Account, p *authz.Principal) (ok bool, reason Reason) {
	switch {
	case account == nil:
		return false, ReasonUnauthenticated
	case account.Suspended:
		return false, ReasonSuspended
	case !s.Stands(now, p, account):
		return false, ReasonUnauthenticated
	}
	return true, ReasonAdmitted
}

// Revision is that of the snapshot which decides now.
func (g *Gate) Revision() uint64 { return g.o.Snapshot().Revision }
