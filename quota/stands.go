package quota

import (
	"slices"

	"github.com/voicecore-ai/sluice/authz"
)

// KeyOf is the API key with that id: for who was admitted by it, not for who shows it.
func (s *Snapshot) KeyOf(id string) (Credential, bool) {
	digest, ok := s.digests.get(id)
	if !ok {
		return Credential{}, false
	}
	return s.Key(digest)
}

// Stands reports whether p, who proved to be a's a while ago, still is: the API key with
// that id is there, the same key, a's, not expired and has the scopes that it had; the workload is still a's; the
// issuer that vouched is there, and as it was; the credential has not ended. now is Unix µs.
//
// That an issuer withdrew the key that signed a token is not known here: its token ends by itself.
func (s *Snapshot) Stands(now int64, p *authz.Principal, a *Account) bool {
	if p.Expires != 0 && p.Expires <= now {
		return false
	}
	switch p.Scheme {
	case authz.SPIFFE:
		return s.SPIFFE(p.Name) == a
	case authz.APIKey:
		c, ok := s.KeyOf(p.Name)
		return ok && c.Account == a && c.Voucher == p.Voucher && slices.Equal(c.Scopes, p.Roles) && (c.Expires.IsZero() || c.Expires.UnixMicro() > now)
	case authz.JWT:
		return s.Issuers.Vouches(p.Voucher)
	default:
		return false
	}
}
