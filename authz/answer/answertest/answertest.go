// Package answertest builds gates whose answer a test chooses, for the tests of
// the doors. Only a gate can make an allowed decision, so a test has to ask one.
package answertest

import (
	"context"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// Credentials that the gates know.
const (
	Key          = "sk_good"
	SuspendedKey = "sk_suspended"
	SPIFFE       = "spiffe://cluster.local/ns/a/sa/b"
	Peer         = "spiffe://cluster.local/ns/edge/sa/gateway"
)

// Config is what the gate's store says to every charge.
type Config struct {
	Plan     string // default "pro"
	Limits   []ratelimit.Limit
	Outcomes []ratelimit.Outcome // one for each limit
	Err      error               // the store's
	Panic    any                 // the store panics with it
	Name     string              // the principal's name; default the credential's
	Soft     bool
}

// Action is one that the gates' rules allow.
func Action() authz.Action {
	return authz.Action{Method: "GET", Host: "api.example.com", Path: "/v1/calls"}
}

// Limits are two that are told, one that is shadow and one that is unlimited.
func Limits() []ratelimit.Limit {
	return []ratelimit.Limit{
		{Name: "burst", Algorithm: ratelimit.GCRA, Hits: 100, Burst: 100, Window: time.Minute},
		{Name: `per "day"`, Algorithm: ratelimit.Fixed, Hits: 5000, Window: 24 * time.Hour},
		{Name: "trial", Algorithm: ratelimit.Hard, Hits: 1, Window: time.Second, Shadow: true},
		{Name: "all", Algorithm: ratelimit.Fixed, Hits: ratelimit.Unlimited, Window: time.Second},
	}
}

// Left are the outcomes of Limits when there is room.
func Left() []ratelimit.Outcome {
	return []ratelimit.Outcome{
		{Remaining: 42, ResetAfter: 34_500_000},
		{Remaining: 4000, ResetAfter: 3_600_000_000},
		{Over: true, RetryAfter: 900_000_000},
		{Remaining: 1 << 40},
	}
}

// Over are the outcomes of Limits when the first is used up.
func Over() []ratelimit.Outcome {
	o := Left()
	o[0] = ratelimit.Outcome{Over: true, ResetAfter: 60_000_000, RetryAfter: 1_200_001}
	return o
}

// Gate returns a gate that answers as c says.
func Gate(c Config) *gate.Gate {
	f := &fake{c: c}
	if c.Plan == "" {
		f.c.Plan = "pro"
	}
	account := quota.Account{Tenant: "acme", Plan: f.c.Plan}
	for i := range c.Limits {
		account.Charges = append(account.Charges, ratelimit.Charge{Limit: &c.Limits[i], Hits: 1})
	}
	f.acme, f.gone = account, account
	f.gone.Suspended = true
	rules, problems := authz.Compile([]authz.Rule{{Name: "tenants-may", Effect: "allow"}})
	if len(problems) > 0 {
		panic(problems) // a rule of ours
	}
	snapshot := &quota.Snapshot{Revision: 7, Rules: rules}
	return gate.New(gate.Options{
		Snapshot:      func() *quota.Snapshot { return snapshot },
		Authenticator: f,
		Store:         f,
		IDKey:         [16]byte{1, 2, 3},
		Soft:          c.Soft,
	})
}

type fake struct {
	c          Config
	acme, gone quota.Account
}

func (*fake) Workload(*quota.Snapshot, *authz.Credentials) (*quota.Account, error) {
	return nil, nil //nolint:nilnil // no workload of a tenant's
}

func (f *fake) Identify(_ context.Context, _ int64, _ *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error) {
	principal, account := authz.Principal{}, &f.acme
	switch {
	case len(c.APIKeys) > 1:
		return principal, nil, authn.ErrManyCredentials
	case len(c.APIKeys) == 1 && c.APIKeys[0] == Key:
		principal = authz.Principal{Scheme: authz.APIKey, Name: "api-key/k1"}
	case len(c.APIKeys) == 1 && c.APIKeys[0] == SuspendedKey:
		principal, account = authz.Principal{Scheme: authz.APIKey, Name: "api-key/k2"}, &f.gone
	case len(c.APIKeys) == 1:
		return principal, nil, authn.ErrBadCredential
	case c.SPIFFE == SPIFFE:
		principal = authz.Principal{Scheme: authz.SPIFFE, Name: c.SPIFFE}
	case c.SPIFFE != "":
		return principal, nil, authn.ErrBadCredential
	default:
		return principal, nil, authn.ErrNoCredentials
	}
	if f.c.Name != "" {
		principal.Name = f.c.Name
	}
	return principal, account, nil
}

func (f *fake) Charge(_ ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	if f.c.Panic != nil {
		panic(f.c.Panic)
	}
	if f.c.Err != nil {
		return false, f.c.Err
	}
	copy(outcomes, f.c.Outcomes)
	for i := range outcomes {
		if outcomes[i].Over && !charges[i].Shadowed() {
			return false, nil
		}
	}
	return true, nil
}
