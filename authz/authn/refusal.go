package authn

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

// refusal is why a credential was refused. Callers are told less: what is wrong
// with a token helps whoever is making one up.
type refusal uint8

const (
	_ refusal = iota
	refusedForm
	refusedHeader
	refusedAlgorithm
	refusedType
	refusedIssuer
	refusedAudience
	refusedExpired
	refusedTime
	refusedSubject
	refusedTenant
	refusedRoles
	refusedKey
	refusedSignature
	refusedBudget
	refusedAPIKey
	refusedSPIFFE
	refusedXFCC
	refusedMany
	refusedConflict
	refusals
)

var refusalNames = [refusals]string{
	"", "token_form", "token_header", "token_algorithm", "token_type", "token_issuer", "token_audience", "token_expired",
	"token_time", "token_subject", "token_tenant", "token_roles", "token_key", "token_signature", "token_budget",
	"api_key", "spiffe", "xfcc", "many", "conflict",
}

// Refusals is how many credentials were refused for each reason since New.
func (a *Authenticator) Refusals() map[string]uint64 {
	all := make(map[string]uint64, refusals)
	for i := 1; i < int(refusals); i++ {
		all[refusalNames[i]] = a.refusals[i].Load()
	}
	return all
}

// refuse counts a refusal and says no more than that the credential is bad.
func (a *Authenticator) refuse(why refusal) (authz.Principal, *quota.Account, error) {
	return a.refuseAs(why, ErrBadCredential)
}

func (a *Authenticator) refuseAs(why refusal, err error) (authz.Principal, *quota.Account, error) {
	a.refusals[why].Add(1)
	return authz.Principal{}, nil, err
}
