package token

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

// Hop judges the tenant token of a request that shows one: what it says, and the tenant's account as s has
// it now, which may be suspended. Anything that is not in order is an error, and means 401: a request that
// tries to be an inner hop and is none is never judged as an outer one.
//
// The caller's own credential must still stand: an API key that was revoked since, or an issuer that was
// edited, ends its tokens too. What is shown beside the token is not looked at.
func (t *Tokens) Hop(now int64, s *quota.Snapshot, c *authz.Credentials) (Claims, *quota.Account, error) {
	if len(c.Tenant) != 1 {
		return Claims{}, nil, ErrMany
	}
	claims, err := t.Verify(now, c.Tenant[0], c.SPIFFE)
	if err != nil {
		return Claims{}, nil, err
	}
	account := s.Account(claims.Tenant)
	if account == nil || !s.Stands(now, &claims.Principal, account) {
		return Claims{}, nil, ErrRevoked
	}
	return claims, account, nil
}
