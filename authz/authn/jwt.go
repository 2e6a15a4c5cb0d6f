package authn

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"unicode"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

// Bounds of a token (RFC 7519, in the compact form of RFC 7515).
const (
	// MaxToken is the longest token that is read, in bytes. A door may cut a longer
	// one after MaxToken+1.
	MaxToken = 8 << 10

	maxSubject = 256
	maxRoles   = 64
	maxRole    = 128
	maxSkew    = 30 // seconds that an issuer's clock may be ahead
)

// token checks the one token of c, the cheapest check first; the signature, which costs
// most, comes last, and only if the caller has not wasted too many of them.
func (a *Authenticator) token(ctx context.Context, now int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error) {
	raw, from := c.Tokens[0], c.Source
	if a.keySets == nil || len(raw) > MaxToken || strings.Count(raw, ".") != 2 {
		return a.refuse(refusedForm)
	}
	digest := digestOf(raw)
	v := a.tokens.get(now, s.Issuers, &digest)
	if v == nil {
		if a.bad.has(now, &digest) {
			return a.refuse(refusedSignature)
		}
		by := a.budget.payer(now, from)
		if by == nobody {
			return a.refuseAs(refusedBudget, ErrTooManyBad)
		}
		var why refusal
		switch v, why = a.verify(ctx, now, s, raw, by); why {
		case 0:
		case refusedBudget:
			return a.refuseAs(why, ErrTooManyBad)
		case refusedSignature:
			a.budget.charge(now, from, by)
			a.bad.add(now, &digest)
			return a.refuse(why)
		default:
			return a.refuse(why)
		}
		a.tokens.put(now, &digest, v)
	}
	account := s.Account(v.tenant)
	if account == nil {
		return a.refuse(refusedTenant)
	}
	return v.principal, account, nil
}

// digestOf is the SHA-256 of raw, which is no longer than MaxToken, without allocation.
func digestOf(raw string) [sha256.Size]byte {
	var text [MaxToken]byte
	return sha256.Sum256(text[:copy(text[:], raw)])
}

// verify reads a token and checks its signature, for which by pays if it is wrong.
func (a *Authenticator) verify(ctx context.Context, now int64, s *quota.Snapshot, raw string, by payer) (*verified, refusal) {
	c, why := read(now, s.Issuers, raw)
	if why != 0 {
		return nil, why
	}
	// Keys of a realm are fetched only for a tenant that exists, or a stranger could
	// make us ask for any number of them.
	if c.realm != "" && s.Account(tenant.ID(c.realm)) == nil {
		return nil, refusedTenant
	}
	source, key := a.keySets.find(ctx, now, &c)
	if key == nil {
		return nil, refusedKey
	}
	end := strings.LastIndexByte(raw, '.')
	signature, ok := part(raw[end+1:])
	if !ok {
		return nil, refusedForm
	}
	if by == spare && !a.budget.spare.take(now) {
		return nil, refusedBudget
	}
	if !key.signed(c.alg, raw[:end], signature) {
		return nil, refusedSignature
	}
	source.used.Store(now)
	return &verified{
		principal: authz.Principal{
			Scheme: authz.JWT, Name: c.issuer.Name + "/" + c.subject, Roles: c.roles, Expires: c.expires, Voucher: c.issuer.Voucher(),
		},
		tenant: c.tenant, source: source, key: key,
	}, 0
}

// claims are what a token says, as far as it is asked.
type claims struct {
	alg, kid     string
	iss, subject string
	issuer       *trust.Issuer
	realm        string
	tenant       tenant.ID
	roles        []string
	expires      int64 // Unix µs
}

// read reads a token with two dots and checks all but its signature. The reason is 0 for a good one.
func read(now int64, issuers *trust.Issuers, raw string) (c claims, why refusal) {
	head, rest, _ := strings.Cut(raw, ".")
	body, _, _ := strings.Cut(rest, ".")
	header, ok := decodeObject(head)
	if !ok {
		return c, refusedForm
	}
	typ, why := c.header(header)
	if why != 0 {
		return c, why
	}
	payload, ok := decodeObject(body)
	if !ok || !spelled(payload, "iss", "sub", "aud", "exp", "nbf", "iat") {
		return c, refusedForm
	}
	if c.iss, ok = text(payload, "iss"); !ok {
		return c, refusedIssuer
	}
	if c.issuer, c.realm = issuers.Find(c.iss); c.issuer == nil {
		return c, refusedIssuer
	}
	switch {
	case !slices.Contains(c.issuer.Algorithms, c.alg):
		return c, refusedAlgorithm
	case !slices.ContainsFunc(c.issuer.Types, func(t string) bool { return strings.EqualFold(t, typ) }):
		return c, refusedType
	case !meant(payload, c.issuer.Audiences):
		return c, refusedAudience
	}
	if why := c.times(now, payload); why != 0 {
		return c, why
	}
	if c.subject, ok = text(payload, "sub"); !ok || !trust.Visible(c.subject, maxSubject) {
		return c, refusedSubject
	}
	if c.tenant, ok = tenantOf(c.issuer, c.realm, payload); !ok {
		return c, refusedTenant
	}
	if c.roles, ok = rolesOf(c.issuer, payload); !ok {
		return c, refusedRoles
	}
	return c, 0
}

func decodeObject(s string) (object, bool) {
	raw, ok := part(s)
	if !ok {
		return nil, false
	}
	return parseObject(raw)
}

// header reads the protected header. Keys and addresses of keys in it (jku, x5u,
// jwk, x5c) are the sender's word about himself: they are not looked at. What would change how
// the rest is read is refused.
func (c *claims) header(h object) (typ string, why refusal) {
	if !spelled(h, "alg", "kid", "typ", "crit", "b64", "enc", "zip") {
		return "", refusedForm
	}
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, there := h.get(name); there {
			return "", refusedHeader
		}
	}
	var ok bool
	if c.alg, ok = text(h, "alg"); !ok || c.alg == "" {
		return "", refusedAlgorithm
	}
	if c.kid, ok = text(h, "kid"); !ok || len(c.kid) > maxKid {
		return "", refusedKey
	}
	if typ, ok = text(h, "typ"); !ok {
		return "", refusedType
	}
	const application = "application/"
	if typ == "" {
		return trust.NoType, 0
	}
	if strings.EqualFold(typ, trust.NoType) { // it says that it says nothing
		return "", refusedType
	}
	if len(typ) > len(application) && strings.EqualFold(typ[:len(application)], application) {
		typ = typ[len(application):]
	}
	return typ, 0
}

// meant reports whether "aud", a string or an array of strings, names one of audiences.
func meant(payload object, audiences []string) bool {
	raw, there := payload.get("aud")
	if !there {
		return false
	}
	aud, ok := texts(raw)
	if s, single := unquote(raw); single {
		aud, ok = []string{s}, true
	}
	return ok && slices.ContainsFunc(aud, func(s string) bool { return slices.Contains(audiences, s) })
}

// texts reads a valid JSON value that should be a list of strings.
func texts(raw []byte) ([]string, bool) {
	list, ok := items(raw)
	if !ok {
		return nil, false
	}
	all := make([]string, len(list))
	for i, item := range list {
		if all[i], ok = unquote(item); !ok {
			return nil, false
		}
	}
	return all, true
}

// times checks exp, which is mandatory, nbf and iat.
func (c *claims) times(now int64, payload object) refusal {
	const second = 1_000_000
	exp, there, ok := date(payload, "exp")
	if !there || !ok || now >= exp*second {
		return refusedExpired
	}
	c.expires = exp * second
	for _, name := range []string{"nbf", "iat"} {
		if at, _, ok := date(payload, name); !ok || at*second > now+maxSkew*second {
			return refusedTime
		}
	}
	return 0
}

// tenantOf is whom the token speaks for. That there is such a tenant is asked of each request's snapshot.
func tenantOf(i *trust.Issuer, realm string, payload object) (tenant.ID, bool) {
	id := i.Tenant
	switch {
	case realm != "":
		id = realm
	case i.TenantClaim != "":
		raw, there, ok := claim(payload, trust.ClaimPath(i.TenantClaim))
		if !there || !ok {
			return "", false
		}
		if id, ok = unquote(raw); !ok {
			return "", false
		}
	}
	parsed, err := tenant.ParseID(id)
	return parsed, err == nil
}

// rolesOf are the principal's roles. A role too many makes the token bad: a rule may
// deny by the one that would be left out.
func rolesOf(i *trust.Issuer, payload object) ([]string, bool) {
	if i.RolesClaim == "" {
		return nil, true
	}
	raw, there, ok := claim(payload, trust.ClaimPath(i.RolesClaim))
	if !there || !ok {
		return nil, ok
	}
	roles, ok := texts(raw)
	if s, single := unquote(raw); single {
		roles, ok = slices.DeleteFunc(strings.Split(s, " "), func(s string) bool { return s == "" }), true
	}
	bad := func(s string) bool { return s == "" || len(s) > maxRole || strings.ContainsFunc(s, unicode.IsControl) }
	if !ok || len(roles) > maxRoles || slices.ContainsFunc(roles, bad) {
		return nil, false
	}
	return roles, true
}
