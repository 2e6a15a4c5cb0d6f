package gate

import (
	"errors"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
)

// Soft reports whether this gate is in the soft stage of a roll-out.
func (g *Gate) Soft() bool { return g.o.Soft }

// SoftCount is how many requests the soft stage has let pass that would have been refused for r, since New.
func (g *Gate) SoftCount(r Reason) uint64 { return g.soft[r].Load() }

// Soft reports whether the soft stage lets pass what is refused for r. The others are no
// policy: what could be read two ways, and what we failed to find out.
func (r Reason) Soft() bool {
	switch r {
	case ReasonUnauthenticated, ReasonSuspended, ReasonForbidden, ReasonOverLimit:
		return true
	default:
		return false
	}
}

// Shadowed reports whether d admits only because the gate is in the soft stage, and
// what the caller would have been refused for.
func (d *Decision) Shadowed() (r Reason, ok bool) {
	return d.shadowed, d.allowed && d.shadowed != ReasonInternal
}

// decline says why, of what was found out. It returns what a stage that declines returns.
func (d *Decision) decline(r Reason, detail string) verdict {
	d.deny(r, detail)
	return declined
}

// overlook lets a request go on that a stage has declined, if the gate is soft and the reason is policy. The
// first reason is kept: it is what the caller would have been told.
func (g *Gate) overlook(d *Decision) bool {
	if !g.o.Soft || !d.Reason.Soft() {
		return false
	}
	if d.shadowed == ReasonInternal {
		d.shadowed, d.would = d.Reason, d.Detail
	}
	switch d.Reason {
	case ReasonUnauthenticated:
		d.nobody = true
		d.Principal, d.account, d.Tenant, d.Plan, d.Edge, d.inner, d.until = authz.Principal{}, nil, "", "", d.ID, false, 0
	case ReasonForbidden:
		d.shadowRule()
	}
	d.deny(ReasonInternal, "") // until all the others have said something
	return true
}

// byDefault stands for a rule where none allows. No rule can have the name.
const byDefault = "(default deny)"

// shadowRule notes that the rules would have refused what passes.
func (d *Decision) shadowRule() {
	d.Verdict.Shadow, d.Verdict.ShadowRule = false, d.Verdict.Rule
	if d.Verdict.Rule == "" {
		d.Verdict.ShadowRule = byDefault
	}
}

// over reports whether a limit would have refused that was not asked to.
func (d *Decision) over() bool {
	for i := range d.outcomes[:d.n] {
		if c := &d.charges[i]; d.outcomes[i].Over && c.Shadow && !c.Limit.Shadow {
			return true
		}
	}
	return false
}

// unproven are the ways in which a caller does not prove who it is. Another error is a failure of ours.
var unproven = [...]error{
	authn.ErrNoCredentials, authn.ErrManyCredentials, authn.ErrBadCredential, authn.ErrTooManyBad, authn.ErrConflict, errNoEdge,
	token.ErrMany, token.ErrMalformed, token.ErrKey, token.ErrSignature, token.ErrExpired, token.ErrEarly, token.ErrHolder, token.ErrRevoked,
}

func disproved(err error) bool {
	for _, known := range unproven {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
