package gate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

// inSoft is newParts behind a gate in the soft stage, with tenant tokens.
func inSoft(t *testing.T) (*Gate, *parts) {
	t.Helper()
	p := newParts(t, anyone)
	g := p.gate()
	g.o.Soft, g.o.Tokens = true, token.New(token.Options{Secret: [32]byte{7}})
	return g, p
}

func overlookedFor(t *testing.T, d *Decision, want Reason) {
	t.Helper()
	if got, soft := d.Shadowed(); !d.Allowed() || d.Reason != ReasonAdmitted || !soft || got != want {
		t.Errorf("allowed %v (%v), overlooked %v; want it admitted instead of %v", d.Allowed(), d.Reason, got, want)
	}
}

// one is the single record of a decision.
func one(t *testing.T, p *parts) audit.Entry {
	t.Helper()
	if len(p.records) != 1 {
		t.Fatalf("%d records: %+v", len(p.records), p.records)
	}
	return p.records[0]
}

func TestInTheSoftStageACallerWithoutProofPassesAsNobody(t *testing.T) {
	for _, err := range unproven {
		t.Run(err.Error(), func(t *testing.T) {
			g, p := inSoft(t)
			p.identify = func() (authz.Principal, *quota.Account, error) {
				return authz.Principal{Scheme: authz.APIKey, Name: "k1"}, p.account, err // what comes beside an error counts for nothing
			}
			r := ask()
			r.Holder = callService
			d := Decision{Tenant: "umbrella", Token: []byte("another's")}
			g.Admit(t.Context(), 1, r, &d)
			overlookedFor(t, &d, ReasonUnauthenticated)
			if d.Tenant != "" || d.Plan != "" || d.Principal.Name != "" || d.Principal.Scheme != authz.Nobody || d.Edge != d.ID || !d.Forwardable() || len(d.AppendProof(nil)) > 0 {
				t.Errorf("somebody: %+v", d)
			}
			if charges, _ := d.Limits(); len(d.Token) > 0 || len(charges) > 0 || p.charged != 0 {
				t.Errorf("token of %d bytes, charged %d times", len(d.Token), p.charged)
			}
			e := one(t, p)
			if !e.Allowed || e.Reason != "admitted" || e.Shadow || e.ShadowReason != "unauthenticated" || e.Detail != err.Error() || !e.Anonymous || e.Decision != d.ID {
				t.Errorf("recorded %+v", e)
			}
			if g.SoftCount(ReasonUnauthenticated) != 1 || g.Shadowed() != 1 || g.Count(ReasonAdmitted) != 1 || g.Count(ReasonUnauthenticated) != 0 {
				t.Error("counted otherwise")
			}
		})
	}
}

func TestInTheSoftStagePolicyIsAskedAndOverlooked(t *testing.T) {
	never := authz.Rule{Name: "never", Effect: "deny"}
	for _, c := range []struct {
		name       string
		change     func(*testing.T, *parts)
		want       Reason
		detail     string
		shadowRule string
	}{
		{"a suspended tenant", func(_ *testing.T, p *parts) { p.account.Suspended = true }, ReasonSuspended, "the tenant is suspended", ""},
		{"a rule that forbids", func(t *testing.T, p *parts) { p.rule(t, never) }, ReasonForbidden, "a rule forbids this request", "never"},
		{"no rule", func(_ *testing.T, p *parts) { p.snapshot = &quota.Snapshot{} }, ReasonForbidden, "no rule allows this request", byDefault},
		{"a condition that can't be evaluated", func(t *testing.T, p *parts) {
			p.rule(t, authz.Rule{Name: "odd", Effect: "allow", When: `request.headers["x-a"] == "b"`})
		}, ReasonForbidden, "a condition of the rules can't be evaluated for this request", "odd"},
		{"a limit that is used up", func(_ *testing.T, p *parts) { p.over = true }, ReasonOverLimit, "a limit of the plan is used up", ""},
		{"all of it, of which the first is told", func(t *testing.T, p *parts) { p.account.Suspended, p.over = true, true; p.rule(t, never) }, ReasonSuspended, "the tenant is suspended", "never"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, p := inSoft(t)
			c.change(t, p)
			r := ask()
			r.Holder = callService
			var d Decision
			g.Admit(t.Context(), second, r, &d)
			overlookedFor(t, &d, c.want)
			if charges, _ := d.Limits(); p.charged != 1 || len(charges) != 1 || d.Tenant != "acme" || len(d.Token) == 0 {
				t.Errorf("charged %d times, tenant %q, token of %d bytes: the rest of the way is not as for others", p.charged, d.Tenant, len(d.Token))
			}
			e := one(t, p)
			if !e.Allowed || e.Reason != "admitted" || e.Shadow || e.ShadowReason != c.want.String() || e.ShadowRule != c.shadowRule || e.Detail != c.detail || e.Anonymous {
				t.Errorf("recorded %+v", e)
			}
			for _, reason := range Reasons() {
				if n := g.SoftCount(reason); (reason == c.want) != (n == 1) {
					t.Errorf("%v is counted %d times", reason, n)
				}
			}
		})
	}
	t.Run("what all would let pass is not marked", func(t *testing.T) {
		g, p := inSoft(t)
		var d Decision
		g.Admit(t.Context(), 1, ask(), &d)
		if _, soft := d.Shadowed(); !d.Allowed() || soft || len(p.records) != 0 || g.Shadowed() != 0 {
			t.Errorf("%v, %+v", d.Reason, p.records)
		}
	})
	t.Run("a limit in shadow, and a tenant in shadow, are so without the stage", func(t *testing.T) {
		g, p := inSoft(t)
		p.over, p.account.Shadow, p.account.Charges[0].Limit.Shadow = true, true, true
		p.rule(t, never)
		var d Decision
		g.Admit(t.Context(), 1, ask(), &d)
		if _, soft := d.Shadowed(); !d.Allowed() || soft || one(t, p).ShadowRule != "never" {
			t.Errorf("%v, %+v", d.Reason, p.records)
		}
	})
}

// Whatever a stage has left in a decision before it says that nobody proved anything is gone.
func TestInTheSoftStageNothingIsLeftOfWhoWasNotProven(t *testing.T) {
	g, p := inSoft(t)
	g.stages = slices.Clone(g.stages)
	g.stages[1].run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
		d.Principal, d.account, d.Tenant, d.Plan = authz.Principal{Scheme: authz.APIKey, Name: "k1"}, p.account, "acme", "gold"
		d.Edge, d.inner, d.until = [16]byte{1}, true, 5
		return d.decline(ReasonUnauthenticated, "late")
	}
	r := ask()
	r.Holder = callService
	var d Decision
	g.Admit(t.Context(), second, r, &d)
	overlookedFor(t, &d, ReasonUnauthenticated)
	if d.Tenant != "" || d.Plan != "" || d.Principal.Name != "" || d.Edge != d.ID || d.inner || d.until != 0 || len(d.Token) > 0 || p.charged != 0 {
		t.Errorf("left: %q, %q, %q, token of %d bytes", d.Tenant, d.Plan, d.Principal.Name, len(d.Token))
	}
}

// What the stage has overlooked is no excuse for what comes after it.
func TestInTheSoftStageWhatIsNotFoundOutIsRefused(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name   string
		change func(*testing.T, *parts, *Request)
		want   Reason
	}{
		{"a request that can be read two ways", func(_ *testing.T, _ *parts, r *Request) { r.Malformed = "two hosts" }, ReasonMalformed},
		{"a path with two readings", func(_ *testing.T, _ *parts, r *Request) { r.Action.Path = "/a/../b" }, ReasonMalformed},
		{"a suspended tenant whose usage can't be counted", func(_ *testing.T, p *parts, _ *Request) {
			p.account.Suspended, p.charge = true, func() (bool, error) { return true, broken }
		}, ReasonUnavailable},
		{"a forbidden request whose usage can't be counted", func(t *testing.T, p *parts, _ *Request) {
			p.rule(t, authz.Rule{Name: "never", Effect: "deny"})
			p.charge = func() (bool, error) { return true, broken }
		}, ReasonUnavailable},
		{"a store that refuses what it may not", func(_ *testing.T, p *parts, _ *Request) { p.charge = func() (bool, error) { return false, nil } }, ReasonOverLimit},
		{"an identity that we fail to find out", func(_ *testing.T, p *parts, _ *Request) {
			p.identify = func() (q authz.Principal, a *quota.Account, err error) { return q, nil, broken }
		}, ReasonUnauthenticated},
		{"a tenant that can't be told", func(_ *testing.T, p *parts, _ *Request) { p.account.Suspended, p.account.Plan = true, "a\nb" }, ReasonInternal},
		{"a record that is required and can't be made", func(t *testing.T, p *parts, _ *Request) {
			p.rule(t, recorded)
			p.over, p.write = true, func() error { return broken }
		}, ReasonUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, p := inSoft(t)
			r := ask()
			c.change(t, p, r)
			var d Decision
			g.Admit(t.Context(), 1, r, &d)
			if _, soft := d.Shadowed(); d.Allowed() || soft || d.Reason != c.want {
				t.Errorf("allowed %v, %v, want %v", d.Allowed(), d.Reason, c.want)
			}
			for _, reason := range Reasons() {
				if g.SoftCount(reason) != 0 {
					t.Errorf("%v is counted as overlooked", reason)
				}
			}
			if p.write() != nil {
				return // the one record is what could not be written
			}
			refused(t, p, &d)
			if e := one(t, p); e.ShadowReason != "" {
				t.Errorf("recorded as overlooked: %+v", e)
			}
		})
	}
}

func TestTheSoftStageIsOverWithTheNextGate(t *testing.T) {
	_, p := inSoft(t)
	store := memstore.New(memstore.Options{MaxCells: 1000})
	soft := New(Options{Snapshot: func() *quota.Snapshot { return p.snapshot }, Authenticator: p, Store: store, Audit: p, Soft: true})
	enforced := New(Options{Snapshot: func() *quota.Snapshot { return p.snapshot }, Authenticator: p, Store: store, Audit: p})
	p.account.Charges[0].Limit.Window = 1_000_000_000
	var d Decision // one for all: what a decision was must not show in the next
	var got []string
	ask := func(g *Gate, identify error) {
		p.identify = func() (authz.Principal, *quota.Account, error) {
			return authz.Principal{Scheme: authz.APIKey, Name: "k1"}, p.account, identify
		}
		g.Admit(t.Context(), second, ask(), &d)
		word := d.Reason.String()
		if r, ok := d.Shadowed(); ok {
			word += " instead of " + r.String()
		}
		if !slices.Contains(got, word) {
			got = append(got, word)
		}
	}
	for range 10 {
		ask(soft, nil)
	}
	ask(soft, nil)
	ask(soft, authn.ErrNoCredentials)
	ask(enforced, authn.ErrNoCredentials)
	ask(enforced, nil)
	if want := "admitted, admitted instead of over_limit, admitted instead of unauthenticated, unauthenticated, over_limit"; strings.Join(got, ", ") != want {
		t.Errorf("got %s\nwant %s", strings.Join(got, ", "), want)
	}
}

func TestInTheSoftStageStreamsGoOn(t *testing.T) {
	g, p := inSoft(t)
	enforced := p.gate()
	for name, h := range map[string]*Held{"nobody's": {}, "a tenant's that is gone": {Tenant: "gone", Principal: authz.Principal{Scheme: authz.APIKey, Expires: 1}}} {
		for question, ask := range map[string]func(*Gate) (bool, Reason){
			"recheck": func(g *Gate) (bool, Reason) { return g.Recheck(2, h) }, "stands": func(g *Gate) (bool, Reason) { return g.Stands(2, h) },
		} {
			if ok, reason := ask(g); !ok || reason != ReasonAdmitted {
				t.Errorf("%s, %s: %v, %v", name, question, ok, reason)
			}
			if ok, reason := ask(enforced); ok || reason != ReasonUnauthenticated {
				t.Errorf("enforced, %s, %s: %v, %v", name, question, ok, reason)
			}
		}
	}
}

func TestTheSoftStageAllocatesNothing(t *testing.T) {
	g, p := inSoft(t)
	g.o.Audit, g.o.Tokens, p.over, p.account.Suspended = nil, nil, true, true
	var d Decision
	r := ask()
	if n := testing.AllocsPerRun(100, func() { g.Admit(t.Context(), 1, r, &d) }); n != 0 || !d.Allowed() {
		t.Errorf("%v allocations, %v", n, d.Reason)
	}
}
