package gate

import (
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// AppendProof appends by what d's principal was believed: a text that Envoy keeps beside the tenant and the
// principal for as long as the request lasts, and brings back in each entry of its access log, so that nothing is held here. It
// holds no credential: the scheme, the end, the voucher in hex and an API key's scopes, with spaces between. Nothing is
// appended for a refusal, nor where the soft stage let nobody pass.
func (d *Decision) AppendProof(b []byte) []byte {
	if !d.allowed || d.nobody {
		return b
	}
	p := &d.Principal
	b = append(b, p.Scheme.String()...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, p.Expires, 10)
	b = append(b, ' ')
	b = hex.AppendEncode(b, p.Voucher[:])
	if p.Scheme != authz.APIKey {
		return b // what roles a token has does not change
	}
	for _, scope := range p.Roles { // without spaces, which the catalogue sees to
		b = append(b, ' ')
		b = append(b, scope...)
	}
	return b
}

// parseProof reads what AppendProof wrote. What it did not write is nobody's.
func parseProof(name, proof string) (p authz.Principal) {
	words := strings.Split(proof, " ")
	if len(words) < 3 {
		return authz.Principal{}
	}
	expires, err := strconv.ParseInt(words[1], 10, 64)
	voucher, hexErr := hex.DecodeString(words[2])
	if err != nil || hexErr != nil || len(voucher) != len(p.Voucher) {
		return authz.Principal{}
	}
	for _, s := range []authz.Scheme{authz.SPIFFE, authz.APIKey, authz.JWT} {
		if s.String() == words[0] {
			p = authz.Principal{Scheme: s, Name: name, Expires: expires, Voucher: [16]byte(voucher)}
		}
	}
	if p.Scheme == authz.APIKey {
		p.Roles = words[3:]
	}
	return p
}

// HeldBy is what a log entry brings back of an admission: enough for Stands, not for Recheck.
func HeldBy(id tenant.ID, principal, proof string) Held {
	return Held{Tenant: id, Principal: parseProof(principal, proof)}
}
