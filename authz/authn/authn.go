// Package authn turns credentials into a proven principal and the account it
// speaks for. One credential kind is one file. A tenant comes only from here,
// never from a header that a client can set.
//
// It is not authorization: what the principal may do is not asked here. It
// fetches nothing itself: [KeySetsOptions] has how.
//
// An API key costs one HMAC-SHA-256 and two map look-ups; a token that was verified before costs one
// SHA-256 and two. Neither allocates. A new token costs its signature, 30 to 70 µs.
package authn

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

// Errors of Identify. Each means 401.
var (
	ErrNoCredentials   = errors.New("no credentials: send an API key in x-api-key, or an API key or a token as 'Authorization: Bearer'")
	ErrManyCredentials = errors.New("more than one credential: send exactly one")
	ErrBadCredential   = errors.New("the credential is unknown, expired or malformed")
	ErrTooManyBad      = errors.New("too many bad credentials from this address: wait a second and try again")
	ErrConflict        = errors.New("the credentials name different tenants")
)

// Options are what an Authenticator is made of.
type Options struct {
	Pepper  [32]byte // API keys are kept as HMAC-SHA-256 under it
	KeySets *KeySets // nil: no token is believed
	// XFCCForwarders are the SPIFFE ids of proxies that may name their client in
	// x-forwarded-client-cert. One that fails [trust.CheckSPIFFE] never matches.
	XFCCForwarders []string
	MaxTokens      int // verified tokens that are remembered; default 65,536, at most 64 MiB
}

// Authenticator checks every kind of credential against a snapshot. It is safe
// for concurrent use.
type Authenticator struct {
	keys       *hasher
	keySets    *KeySets
	forwarders map[string]bool
	tokens     *tokenCache
	bad        badTokens
	budget     *budget
	used       lastUsed
	refusals   [refusals]atomic.Uint64
}

// New returns an authenticator.
func New(o Options) *Authenticator {
	a := &Authenticator{
		keys: newHasher(o.Pepper), keySets: o.KeySets, forwarders: make(map[string]bool, len(o.XFCCForwarders)),
		tokens: newTokenCache(o.MaxTokens), budget: newBudget(),
	}
	for _, id := range o.XFCCForwarders {
		a.forwarders[id] = true
	}
	return a
}

// Identify returns who c proves to be. now is Unix microseconds. An error, always
// one of those above, means 401.
//
// A request has one credential of its own, an API key or a token; two are refused
// even if they agree. Beside it, a SPIFFE principal that belongs to no tenant (a
// gateway's, say) is no refusal; one that belongs to another tenant is a conflict.
//
// It waits up to KeySetsOptions.Wait, and not beyond ctx, where a token names a key that is not known yet.
func (a *Authenticator) Identify(ctx context.Context, now int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error) {
	own := len(c.APIKeys) + len(c.Tokens)
	if own > 1 {
		return a.refuseAs(refusedMany, ErrManyCredentials)
	}
	workload, workloads, why := a.workload(s, c)
	if why != 0 {
		return a.refuse(why)
	}
	if own == 0 {
		switch {
		case workloads != nil:
			return authz.Principal{Scheme: authz.SPIFFE, Name: workload}, workloads, nil
		case workload != "":
			return a.refuse(refusedSPIFFE)
		}
		return authz.Principal{}, nil, ErrNoCredentials
	}
	var principal authz.Principal
	var account *quota.Account
	var err error
	if len(c.APIKeys) == 1 {
		principal, account, err = a.apiKey(now, s, c.APIKeys[0])
	} else {
		principal, account, err = a.token(ctx, now, s, c)
	}
	if err != nil {
		return authz.Principal{}, nil, err
	}
	if workloads != nil && workloads != account {
		return a.refuseAs(refusedConflict, ErrConflict)
	}
	return principal, account, nil
}

// Workload is the account of the workload behind the request, whatever other credential it has; nil
// if it is no tenant's. An error, always one of those above, means 401.
func (a *Authenticator) Workload(s *quota.Snapshot, c *authz.Credentials) (*quota.Account, error) {
	_, account, why := a.workload(s, c)
	if why != 0 {
		_, _, err := a.refuse(why)
		return nil, err
	}
	return account, nil
}

// workload is the SPIFFE id behind the request, and its account; nil if it is no
// tenant's. Where the peer is a trusted proxy that names its client, it is the client's.
func (a *Authenticator) workload(s *quota.Snapshot, c *authz.Credentials) (id string, account *quota.Account, why refusal) {
	id = c.SPIFFE
	if id == "" {
		return "", nil, 0
	}
	if len(c.XFCC) > 0 && a.forwarders[id] {
		client, ok := forwarded(c.XFCC)
		if !ok {
			return "", nil, refusedXFCC
		}
		id = client
	}
	account = s.SPIFFE(id)
	if account == nil && trust.CheckSPIFFE(id) != "" { // the catalogue's were checked
		return "", nil, refusedSPIFFE
	}
	return id, account, 0
}
