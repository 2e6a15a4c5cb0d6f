package gate

import (
	"context"
	"strings"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
)

// verdict is what a stage says. Its zero value denies, and so does every other
// value but one, or two in the soft stage of a roll-out: a stage can't pass by forgetting to say something.
type verdict uint8

const (
	denied   verdict = 0
	declined verdict = 0x5a // it was found out, and the answer is no; what can't be found out is denied
	passed   verdict = 0xa5
)

// stage is one step of an admission. The fault tests run over this table, so a
// new stage is covered without being named.
type stage struct {
	name string
	run  func(*Gate, context.Context, int64, *Request, *Decision) verdict
}

var stages = [...]stage{
	{"read", (*Gate).read},
	{"identify", (*Gate).identify},
	{"authorize", (*Gate).authorize},
	{"tell", (*Gate).tell},
	{"charge", (*Gate).charge},
	{"hand over", (*Gate).handOver},
}

const (
	tooLate = "too late to decide"
	usedUp  = "a limit of the plan is used up"
)

// run is true if every stage has passed, or declined what the soft stage overlooks, within ctx.
func (g *Gate) run(ctx context.Context, now int64, r *Request, d *Decision) (ok bool) {
	defer func() {
		if recover() != nil { // the value may quote input
			g.panicked()
			d.deny(ReasonInternal, "")
			ok = false
		}
	}()
	for i := range g.stages {
		if ctx.Err() != nil {
			d.deny(ReasonUnavailable, tooLate)
			return false
		}
		switch said := g.stages[i].run(g, ctx, now, r, d); {
		case said == passed:
		case said == declined && g.overlook(d):
		default:
			if d.Reason == ReasonAdmitted {
				d.deny(ReasonInternal, "")
			}
			return false
		}
	}
	if ctx.Err() != nil {
		d.deny(ReasonUnavailable, tooLate)
		return false
	}
	return len(g.stages) > 0
}

// maxService is the longest name of a service, in bytes: a SPIFFE id is no longer.
const maxService = trust.MaxSPIFFE

// read names the service and makes the host and the path canonical, once for rules, limits and records.
func (g *Gate) read(_ context.Context, _ int64, r *Request, d *Decision) verdict {
	d.snapshot = g.o.Snapshot()
	d.Revision = d.snapshot.Revision
	a := &r.Action
	if a.Service == "" && strings.HasPrefix(r.Holder, "spiffe://") { // for every door, so that a rule means the same at each
		a.Service = r.Holder
	}
	if r.Malformed != "" {
		return d.deny(ReasonMalformed, r.Malformed)
	}
	path, err := authz.CanonicalPath(a.Path)
	if err != nil {
		return d.deny(ReasonMalformed, err.Error())
	}
	host, err := authz.CanonicalHost(a.Host)
	if err != nil {
		return d.deny(ReasonMalformed, err.Error())
	}
	if a.Method == "" {
		return d.deny(ReasonMalformed, "the request has no method")
	}
	if len(a.Service) > maxService {
		return d.deny(ReasonMalformed, "the name of the service is too long")
	}
	a.Path, a.Host = path, host
	return passed
}

// authorize asks the rules. A tenant in shadow is let pass where they refuse, and
// the record says what they would have done.
func (g *Gate) authorize(_ context.Context, now int64, r *Request, d *Decision) verdict {
	if d.nobody {
		return passed // rules are about proven callers
	}
	d.input = authz.Input{Now: now, Principal: &d.Principal, Tenant: d.Tenant, Plan: d.Plan, Action: &r.Action}
	d.Verdict = d.snapshot.Rules.Decide(&d.input)
	switch {
	case d.Verdict.Allowed():
		return passed
	case d.Verdict.Failed && d.Verdict.Rule == "":
		return d.deny(ReasonForbidden, "the rules can't be evaluated for this request")
	case d.account.Shadow:
		d.shadowRule()
		return passed
	case d.Verdict.Failed:
		return d.decline(ReasonForbidden, "a condition of the rules can't be evaluated for this request")
	case d.Verdict.Rule != "":
		return d.decline(ReasonForbidden, "a rule forbids this request")
	default:
		return d.decline(ReasonForbidden, "no rule allows this request")
	}
}

// tell denies what could not be told to the service, before it is charged and recorded: a door
// that found out afterwards would refuse what the record says was allowed.
func (g *Gate) tell(_ context.Context, _ int64, _ *Request, d *Decision) verdict {
	if !d.Forwardable() {
		return d.deny(ReasonInternal, "the tenant can't be told to the service")
	}
	return passed
}

// charge charges every limit that holds at this hop, or none.
func (g *Gate) charge(_ context.Context, now int64, r *Request, d *Decision) verdict {
	if d.nobody {
		return passed // limits are a tenant's
	}
	if d.Verdict.Audit == authz.Required && (g.o.Audit == nil || !g.o.Audit.Available()) {
		return d.deny(ReasonUnavailable, "the decision can't be recorded right now; try again")
	}
	charges := d.account.Charges
	if d.inner {
		charges = d.account.Inner
	}
	if len(charges) > MaxLimits {
		return d.deny(ReasonInternal, "the tenant has too many limits")
	}
	d.n = copy(d.charges[:], charges)
	clear(d.outcomes[:d.n])
	if g.o.Soft {
		for i := range d.charges[:d.n] {
			d.charges[i].Shadow = true
		}
	}
	admitted, err := g.o.Store.Charge(g.operation(now, r), d.charges[:d.n], d.outcomes[:d.n])
	switch {
	case err != nil:
		d.n = 0
		g.uncounted(now, d.Tenant, err)
		return d.deny(ReasonUnavailable, "usage can't be counted right now; try again")
	case !admitted:
		return d.deny(ReasonOverLimit, usedUp)
	case d.over():
		return d.decline(ReasonOverLimit, usedUp)
	default:
		return passed
	}
}
