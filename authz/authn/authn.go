// Package authn turns credentials into a proven principal and the account it
// speaks for. One credential kind is one file. A tenant comes only from here,
// never from a header that a client can set.
//
// It is not authorization: what the principal may do is not asked here.
// An API key costs one HMAC-SHA-256 and one map look-up, without allocation.
package authn

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

// Authenticator checks every kind of credential against a snapshot.
type Authenticator struct {
	keys *hasher
}

// New returns an authenticator whose API keys are kept as HMAC-SHA-256 under pepper.
func New(pepper [32]byte) *Authenticator { return &Authenticator{keys: newHasher(pepper)} }

// Identify returns who c proves to be. now is Unix microseconds. An error, always
// one of package authz, means 401.
//
// A SPIFFE principal that belongs to no tenant (a gateway's, say) is not a
// refusal where an API key names one; two credentials that name different
// tenants are.
func (a *Authenticator) Identify(now int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error) {
	var principal authz.Principal
	var account *quota.Account
	if c.SPIFFE != "" {
		if account = s.SPIFFE(c.SPIFFE); account != nil {
			principal = authz.Principal{Scheme: authz.SPIFFE, Name: c.SPIFFE}
		}
	}
	switch len(c.APIKeys) {
	case 0:
	case 1:
		credential, err := a.apiKey(now, s, c.APIKeys[0])
		if err != nil {
			return authz.Principal{}, nil, err
		}
		if account != nil && account != credential.Account {
			return authz.Principal{}, nil, authz.ErrManyCredentials
		}
		account = credential.Account
		principal = authz.Principal{Scheme: authz.APIKey, Name: credential.ID}
	default:
		return authz.Principal{}, nil, authz.ErrManyCredentials
	}
	if account == nil {
		if c.SPIFFE != "" {
			return authz.Principal{}, nil, authz.ErrBadCredential
		}
		return authz.Principal{}, nil, authz.ErrNoCredentials
	}
	return principal, account, nil
}
