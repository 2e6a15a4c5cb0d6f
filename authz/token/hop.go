package token

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

// Authenticator judges the credentials beside a token; its contract is that of
// authn.Authenticator.Identify.
type Authenticator interface {
	Identify(now int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error)
}

// Hop is what a request with a valid token is: one that the edge has admitted,
// identified and charged for all but the limits of a service.
type Hop struct {
	Claims  Claims
	Account *quota.Account // the tenant's, as the snapshot has it now: it may be suspended
}

// Hop judges the tenant token among c, and what is shown beside it. Without a token
// inner is false and nobody is identified. With one, anything that is not in order is
// an error, and means 401: a request that tries to be an inner hop and is none is never judged as an outer one.
//
// The caller's own credential must still stand: an API key that was revoked since, or an issuer that was
// edited, ends its tokens too.
//
// Beside a token a credential of the caller's own must name the same tenant, and then the
// token decides. The SPIFFE id by which the holder shows it is such a credential only where it is a tenant's.
func (t *Tokens) Hop(now int64, s *quota.Snapshot, c *authz.Credentials, own Authenticator) (h Hop, inner bool, err error) {
	switch len(c.Tenant) {
	case 0:
		return Hop{}, false, nil
	case 1:
	default:
		return Hop{}, true, authz.ErrManyCredentials
	}
	claims, err := t.Verify(now, c.Tenant[0], c.SPIFFE)
	if err != nil {
		return Hop{}, true, err
	}
	account := s.Account(claims.Tenant)
	if account == nil || !s.Stands(now, &claims.Principal, account) {
		return Hop{}, true, authz.ErrBadCredential
	}
	if len(c.APIKeys) > 0 || len(c.Tokens) > 0 || s.SPIFFE(c.SPIFFE) != nil {
		outer := *c
		outer.Tenant = nil
		_, beside, err := own.Identify(now, s, &outer)
		switch {
		case err != nil:
			return Hop{}, true, err
		case beside != account:
			return Hop{}, true, authz.ErrConflict
		}
	}
	return Hop{Claims: claims, Account: account}, true, nil
}
