package gate

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// parts are collaborators that all say yes, and count.
type parts struct {
	snapshot *quota.Snapshot
	account  *quota.Account
	identify func() (authz.Principal, *quota.Account, error)
	charge   func() (bool, error)
	write    func() error
	up       bool
	records  []audit.Entry
	charged  int
	over     bool // every limit is, and one in shadow never refuses
}

func newParts(t *testing.T, rule authz.Rule) *parts {
	t.Helper()
	rules, problems := authz.Compile([]authz.Rule{rule})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	limit := &ratelimit.Limit{Name: "l", Algorithm: ratelimit.Fixed, Hits: 10}
	p := &parts{
		snapshot: &quota.Snapshot{Revision: 3, Rules: rules},
		account:  &quota.Account{Tenant: "acme", Plan: "gold", Charges: []ratelimit.Charge{{Limit: limit, Hits: 1}}},
		charge:   func() (bool, error) { return true, nil },
		write:    func() error { return nil },
		up:       true,
	}
	p.identify = func() (authz.Principal, *quota.Account, error) {
		return authz.Principal{Scheme: authz.APIKey, Name: "k1"}, p.account, nil
	}
	return p
}

func (*parts) Workload(s *quota.Snapshot, c *authz.Credentials) (*quota.Account, error) {
	return s.SPIFFE(c.SPIFFE), nil
}

func (p *parts) Identify(context.Context, int64, *quota.Snapshot, *authz.Credentials) (authz.Principal, *quota.Account, error) {
	return p.identify()
}

func (p *parts) Charge(_ ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	p.charged++
	ok, err := p.charge()
	for i := range charges {
		outcomes[i].Over = p.over
		ok = ok && (!p.over || charges[i].Shadowed())
	}
	return ok, err
}

func (p *parts) Available() bool { return p.up }

func (p *parts) Record(e *audit.Entry) error {
	p.records = append(p.records, *e)
	return p.write()
}

func (p *parts) gate() *Gate {
	return New(Options{Snapshot: func() *quota.Snapshot { return p.snapshot }, Authenticator: p, Store: p, Audit: p})
}

func ask() *Request {
	return &Request{Peer: "p", Action: authz.Action{Method: "GET", Host: "api", Path: "/v1/calls"}}
}

var (
	anyone   = authz.Rule{Name: "anyone", Effect: "allow"}
	recorded = authz.Rule{Name: "recorded", Effect: "allow", Audit: "required"}
)

// The caller is told no reason, so an operator has to find it here: a counter of one tenant that can't be read shows nowhere else.
func TestWhyUsageCantBeCountedIsLoggedOnceAMinute(t *testing.T) {
	var log strings.Builder
	p := newParts(t, anyone)
	g := New(Options{
		Snapshot: func() *quota.Snapshot { return p.snapshot }, Authenticator: p, Store: p, Audit: p, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	p.charge = func() (bool, error) { return true, errors.New("another program's key") }
	for second := range int64(150) {
		g.Admit(t.Context(), (1000+second)*time.Second.Microseconds(), ask(), new(Decision))
	}
	if got := log.String(); strings.Count(got, "another program's key") != 3 || strings.Count(got, "tenant=acme") != 3 {
		t.Errorf("want three lines with the reason in two and a half minutes:\n%s", got)
	}
}

// refused checks that a decision denies, says so consistently, and left one record.
func refused(t *testing.T, p *parts, d *Decision) {
	t.Helper()
	if d.Allowed() || d.Reason == ReasonAdmitted {
		t.Errorf("allowed %v, reason %v: a fault let the request pass", d.Allowed(), d.Reason)
	}
	if len(p.records) != 1 || p.records[0].Allowed || p.records[0].Reason != d.Reason.String() || p.records[0].Decision != d.ID {
		t.Errorf("want one record of the refusal (%v), got %+v", d.Reason, p.records)
	}
}

// F-01, F-02: whatever a stage does but pass in time, whichever stage it is, the request is denied.
func TestFaultsInEveryStageDeny(t *testing.T) {
	faults := map[string]func(*Gate, stage, context.CancelFunc) stage{
		"F-01 the deadline passes while it works": func(_ *Gate, s stage, cancel context.CancelFunc) stage {
			run := s.run
			s.run = func(g *Gate, ctx context.Context, now int64, r *Request, d *Decision) verdict {
				defer cancel()
				return run(g, ctx, now, r, d)
			}
			return s
		},
		"F-02 it panics": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(*Gate, context.Context, int64, *Request, *Decision) verdict { panic("sk_secret") }
			return s
		},
		"it panics with nil": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(*Gate, context.Context, int64, *Request, *Decision) verdict { panic(nil) } //nolint:govet // on purpose
			return s
		},
		"it says nothing": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(*Gate, context.Context, int64, *Request, *Decision) verdict { var nothing verdict; return nothing }
			return s
		},
		"it says something that is not known": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(*Gate, context.Context, int64, *Request, *Decision) verdict { return 1 }
			return s
		},
		"it claims the admission and denies": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
				d.allowed, d.Reason = true, ReasonAdmitted
				return denied
			}
			return s
		},
		"it allows by itself and denies": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
				d.allowed, d.Reason = true, ReasonForbidden
				return denied
			}
			return s
		},
		"it denies for a reason of policy without having found out": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
				return d.deny(ReasonForbidden, "")
			}
			return s
		},
		"it declines and does not say why": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(*Gate, context.Context, int64, *Request, *Decision) verdict { return declined }
			return s
		},
		"it declines for a failure of ours": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
				return d.decline(ReasonUnavailable, "")
			}
			return s
		},
		"it claims the admission and declines": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
				d.allowed = true
				return d.decline(ReasonAdmitted, "")
			}
			return s
		},
		"it declines because of how the request reads": func(_ *Gate, s stage, _ context.CancelFunc) stage {
			s.run = func(_ *Gate, _ context.Context, _ int64, _ *Request, d *Decision) verdict {
				return d.decline(ReasonMalformed, "")
			}
			return s
		},
		"it is nil": func(_ *Gate, s stage, _ context.CancelFunc) stage { s.run = nil; return s },
	}
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			t.Run("without a fault it is admitted", func(t *testing.T) {
				var d Decision
				if c.gate(t, newParts(t, anyone)).Admit(t.Context(), 1, ask(), &d); !d.Allowed() {
					t.Fatalf("%v: the faults would show nothing", d.Reason)
				}
			})
			for i := range stages {
				for fault, broken := range faults {
					t.Run(stages[i].name+": "+fault, func(t *testing.T) {
						p := newParts(t, anyone)
						g := c.gate(t, p)
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						g.stages = append([]stage(nil), stages[:]...)
						g.stages[i] = broken(g, g.stages[i], cancel)
						var d Decision
						g.Admit(ctx, 1, ask(), &d)
						refused(t, p, &d)
					})
				}
			}
			t.Run("no stage at all denies", func(t *testing.T) {
				p := newParts(t, anyone)
				g := c.gate(t, p)
				g.stages = nil
				var d Decision
				g.Admit(t.Context(), 1, ask(), &d)
				refused(t, p, &d)
			})
		})
	}
}

type caller struct {
	name string
	soft bool
	make func(*testing.T, *parts)
}

// callers are those who are admitted, by the one stage of a roll-out and by the other.
var callers = []caller{
	{"enforced, a caller who may", false, func(*testing.T, *parts) {}},
	{"soft, a caller who may", true, func(*testing.T, *parts) {}},
	{"soft, a caller without a credential", true, func(_ *testing.T, p *parts) {
		p.identify = func() (q authz.Principal, a *quota.Account, err error) { return q, nil, authn.ErrNoCredentials }
	}},
	{"soft, a tenant that is suspended", true, func(_ *testing.T, p *parts) { p.account.Suspended = true }},
	{"soft, a caller whom a rule forbids it", true, func(t *testing.T, p *parts) { p.rule(t, authz.Rule{Name: "never", Effect: "deny"}) }},
	{"soft, a caller whose limit is used up", true, func(_ *testing.T, p *parts) { p.over = true }},
}

func (c *caller) gate(t *testing.T, p *parts) *Gate {
	t.Helper()
	c.make(t, p)
	g := p.gate()
	g.o.Soft = c.soft
	return g
}

func (p *parts) rule(t *testing.T, rule authz.Rule) {
	t.Helper()
	rules, problems := authz.Compile([]authz.Rule{rule})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	p.snapshot = &quota.Snapshot{Revision: 3, Rules: rules}
}

func TestFaultsOfEveryCollaboratorDeny(t *testing.T) {
	failed := errors.New("broken")
	faults := map[string]func(*parts){
		"there is no snapshot":           func(p *parts) { p.snapshot = nil },
		"F-03 the snapshot has no rules": func(p *parts) { p.snapshot = &quota.Snapshot{} },
		"the authenticator fails": func(p *parts) {
			p.identify = func() (q authz.Principal, a *quota.Account, err error) { return q, p.account, failed }
		},
		"the authenticator names nobody":    func(p *parts) { p.identify = func() (q authz.Principal, a *quota.Account, err error) { return } },
		"the authenticator panics":          func(p *parts) { p.identify = func() (authz.Principal, *quota.Account, error) { panic(failed) } },
		"the tenant is suspended":           func(p *parts) { p.account.Suspended = true },
		"F-10 the store fails":              func(p *parts) { p.charge = func() (bool, error) { return true, failed } },
		"the store panics":                  func(p *parts) { p.charge = func() (bool, error) { panic(failed) } },
		"a limit is over":                   func(p *parts) { p.charge = func() (bool, error) { return false, nil } },
		"there are more limits than fit":    func(p *parts) { p.account.Charges = make([]ratelimit.Charge, MaxLimits+1) },
		"a limit is missing from its cells": func(p *parts) { p.account = nil },
	}
	overlooked := map[string]Reason{ // of these the answer was found out, and is no
		"F-03 the snapshot has no rules": ReasonForbidden, "the tenant is suspended": ReasonSuspended,
	}
	for name, broken := range faults {
		t.Run(name, func(t *testing.T) {
			p := newParts(t, anyone)
			broken(p)
			var d Decision
			p.gate().Admit(t.Context(), 1, ask(), &d)
			refused(t, p, &d)
		})
		t.Run("in the soft stage, "+name, func(t *testing.T) {
			p := newParts(t, anyone)
			broken(p)
			g := p.gate()
			g.o.Soft = true
			var d Decision
			g.Admit(t.Context(), 1, ask(), &d)
			if want, ok := overlooked[name]; !ok {
				refused(t, p, &d)
			} else if got, soft := d.Shadowed(); !soft || got != want {
				t.Errorf("allowed %v, overlooked %v; want %v", d.Allowed(), got, want)
			}
		})
	}
	t.Run("F-01 a caller that has gone is denied and not charged", func(t *testing.T) {
		p := newParts(t, anyone)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var d Decision
		p.gate().Admit(ctx, 1, ask(), &d)
		refused(t, p, &d)
		if p.charged != 0 {
			t.Error("it was charged")
		}
	})
}

// patient waits for keys that never come.
type patient struct{ *parts }

func (patient) Identify(ctx context.Context, _ int64, _ *quota.Snapshot, _ *authz.Credentials) (authz.Principal, *quota.Account, error) {
	<-ctx.Done()
	return authz.Principal{}, nil, authn.ErrBadCredential
}

// F-01: who has gone while keys were waited for is not told that his credential is bad, which nobody knows.
func TestF01NobodyWaitsForKeysLongerThanTheCaller(t *testing.T) {
	for name, credentials := range map[string]authz.Credentials{
		"a token":                       {Tokens: []string{"a.b.c"}},
		"a token beside a tenant token": {Tokens: []string{"a.b.c"}, SPIFFE: callService},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, p := hops(t)
				if credentials.SPIFFE != "" {
					credentials.Tenant = []string{string(at(t, g, second, acmeApp, callService, "").Token)}
				}
				g.o.Authenticator, p.records = patient{p}, nil
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				r := ask()
				r.Credentials = credentials
				var d Decision
				g.Admit(ctx, second, r, &d)
				refused(t, p, &d)
				if d.Reason != ReasonUnavailable {
					t.Errorf("reason %v", d.Reason)
				}
			})
		})
	}
}

// F-04: what must be recorded and can't be is not admitted; what may be lost is.
func TestF04TheAuditLogIsDown(t *testing.T) {
	failed := errors.New("disk full")
	for _, c := range []struct {
		name    string
		rule    authz.Rule
		broken  func(*parts)
		allowed bool
		charged int
	}{
		{"required, and it says so beforehand: denied without a charge", recorded, func(p *parts) { p.up = false }, false, 0},
		{"required, and writing fails: denied", recorded, func(p *parts) { p.write = func() error { return failed } }, false, 1},
		{"required, and it panics: denied", recorded, func(p *parts) { p.write = func() error { panic(failed) } }, false, 1},
		{"required, and all is well: allowed", recorded, func(*parts) {}, true, 1},
		{"best effort, and writing fails: allowed", authz.Rule{Name: "r", Effect: "allow", Audit: "best_effort"}, func(p *parts) { p.write = func() error { return failed } }, true, 1},
		{"best effort, and it panics: allowed", authz.Rule{Name: "r", Effect: "allow", Audit: "best_effort"}, func(p *parts) { p.write = func() error { panic(failed) } }, true, 1},
		{"not asked for: allowed", anyone, func(p *parts) { p.up = false }, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newParts(t, c.rule)
			c.broken(p)
			var d Decision
			p.gate().Admit(t.Context(), 1, ask(), &d)
			if d.Allowed() != c.allowed || p.charged != c.charged {
				t.Errorf("allowed %v, charged %d times; want %v, %d", d.Allowed(), p.charged, c.allowed, c.charged)
			}
			if !c.allowed && d.Reason != ReasonUnavailable {
				t.Errorf("reason %v", d.Reason)
			}
		})
	}
	t.Run("required without a log at all: denied", func(t *testing.T) {
		p := newParts(t, recorded)
		g := p.gate()
		g.o.Audit = nil
		var d Decision
		g.Admit(t.Context(), 1, ask(), &d)
		if d.Allowed() || p.charged != 0 {
			t.Error("allowed or charged")
		}
	})
}

// X-07, per tenant: rules in shadow for one tenant are recorded and not enforced.
func TestX07ATenantInShadowIsLetPassAndRecorded(t *testing.T) {
	p := newParts(t, authz.Rule{Name: "never", Effect: "deny"})
	p.account.Shadow = true
	var d Decision
	g := p.gate()
	g.Admit(t.Context(), 1, ask(), &d)
	if !d.Allowed() || g.Shadowed() != 1 {
		t.Errorf("allowed %v, counted %d", d.Allowed(), g.Shadowed())
	}
	if len(p.records) != 1 || !p.records[0].Allowed || p.records[0].ShadowRule != "never" {
		t.Errorf("records %+v", p.records)
	}
}

// local is a store that judges without the shared one.
type local struct{ over bool }

func (l local) Charge(_ ratelimit.Operation, _ []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	outcomes[0] = ratelimit.Outcome{Over: l.over, Degraded: true}
	return !l.over, nil
}

func TestARecordSaysThatLimitsWereJudgedWithoutTheSharedStore(t *testing.T) {
	for name, over := range map[string]bool{"of an admission": false, "of a refusal": true} {
		t.Run(name, func(t *testing.T) {
			p := newParts(t, recorded)
			p.up = true
			g, d := p.gate(), Decision{}
			g.o.Store = local{over}
			g.Admit(t.Context(), 1, ask(), &d)
			if e := one(t, p); !d.Degraded() || d.Allowed() == over || !strings.Contains(e.Detail, "without the shared store") {
				t.Errorf("degraded %v, %+v", d.Degraded(), e)
			}
		})
	}
}
