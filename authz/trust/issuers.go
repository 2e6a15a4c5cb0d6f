package trust

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// Realm stands, in an issuer's URLs, for the id of a tenant.
const Realm = "{tenant}"

// NoType is, in Issuer.Types, a token without "typ".
const NoType = "none"

// The defaults of an issuer.
var (
	defaultAlgorithms = []string{"RS256", "ES256", "EdDSA"}
	defaultTypes      = []string{"at+jwt", "JWT", NoType}
)

// asymmetric are the algorithms that an issuer may use (RFC 7518, 3.1; RFC 8037).
// One with a shared secret would let whoever verifies also sign.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Bounds of what an issuer may say.
const (
	maxIssuerURL   = 2048
	maxIssuerItems = 64
	maxAudience    = 256
	maxClaim       = 256
	maxClaimDepth  = 7 // of the 8 levels that a token may have
	maxTokenType   = 64
)

// Issuers are compiled issuers. They are immutable and safe for concurrent use.
type Issuers struct {
	all      []*Issuer
	exact    map[string]*Issuer
	patterns []issuerPattern
	vouchers map[[16]byte]bool
}

// issuerPattern is an "iss" with a realm: before, a tenant's id, after.
type issuerPattern struct {
	before, after string
	issuer        *Issuer
}

// Compile checks issuers and fills in their defaults. Every problem is
// reported; with any, there are no issuers.
func Compile(issuers []Issuer) (*Issuers, []authz.Problem) {
	k := issuerCompiler{
		out:  &Issuers{exact: make(map[string]*Issuer, len(issuers)), vouchers: make(map[[16]byte]bool, len(issuers))},
		name: make(map[string]int, len(issuers)), iss: make(map[string]int, len(issuers)),
	}
	for i := range issuers {
		k.issuer(i, &issuers[i])
	}
	k.ambiguous()
	if len(k.problems) > 0 {
		return nil, k.problems
	}
	return k.out, nil
}

// Find is the issuer of a token with that "iss", byte for byte, and the realm that
// stands in the place of {tenant}; nil if there is none. It allocates nothing.
func (s *Issuers) Find(iss string) (issuer *Issuer, realm string) {
	if s == nil {
		return nil, ""
	}
	if issuer := s.exact[iss]; issuer != nil {
		return issuer, ""
	}
	for i := range s.patterns {
		p := &s.patterns[i]
		if len(iss) <= len(p.before)+len(p.after) || !strings.HasPrefix(iss, p.before) || !strings.HasSuffix(iss, p.after) {
			continue
		}
		realm := iss[len(p.before) : len(iss)-len(p.after)]
		if _, err := tenant.ParseID(realm); err == nil {
			return p.issuer, realm
		}
	}
	return nil, ""
}

// All are the issuers in the order in which they were written, defaults filled in. The slice
// and what it points to are shared and read-only.
func (s *Issuers) All() []*Issuer {
	if s == nil {
		return nil
	}
	return s.all
}

// Vouches reports whether one of the issuers is what it was when it vouched with that voucher.
// With anything changed (its audiences, whom it speaks for, its keys' address) it is another one: what it
// said before may not be what it would say now. It allocates nothing.
func (s *Issuers) Vouches(voucher [16]byte) bool { return s != nil && s.vouchers[voucher] }

// Keys is the address of the keys for a realm.
func (i *Issuer) Keys(realm string) string {
	if realm == "" {
		return i.JWKSURI
	}
	return strings.Replace(i.JWKSURI, Realm, realm, 1)
}

// ClaimPath splits the name of a claim at its dots: realm_access.roles is the member
// roles of the object realm_access. A name with "://" in it is a URI and stays whole.
func ClaimPath(claim string) []string {
	if strings.Contains(claim, "://") {
		return []string{claim}
	}
	return strings.Split(claim, ".")
}

// issuerCompiler is one run of Compile.
type issuerCompiler struct {
	out      *Issuers
	problems []authz.Problem
	name     map[string]int
	iss      map[string]int
	places   []issuerPlace
}

// issuerPlace remembers an "iss" that can be compared with the others.
type issuerPlace struct {
	index  int
	pieces []string
}

func (k *issuerCompiler) problem(i int, field, wrong, right string) {
	k.item(i, field, -1, wrong, right)
}

func (k *issuerCompiler) item(i int, field string, item int, wrong, right string) {
	k.problems = append(k.problems, authz.Problem{Index: i, Field: field, Item: item, Wrong: wrong, Right: right})
}

func (k *issuerCompiler) issuer(i int, in *Issuer) {
	is := *in
	is.Audiences, is.Algorithms, is.Types = slices.Clone(in.Audiences), slices.Clone(in.Algorithms), slices.Clone(in.Types)
	if len(is.Algorithms) == 0 {
		is.Algorithms = defaultAlgorithms
	}
	if len(is.Types) == 0 {
		is.Types = defaultTypes
	}
	k.checkName(i, is.Name)
	k.checkURLs(i, &is)
	k.checkTenant(i, &is)
	k.claim(i, "roles_claim", is.RolesClaim)
	if len(is.Audiences) == 0 {
		k.problem(i, "audiences", "is missing", "at least one \"aud\" that its tokens have, such as the name of your API")
	}
	k.list(i, "audiences", is.Audiences, func(s string) string {
		if !Visible(s, maxAudience) {
			return "1 to " + strconv.Itoa(maxAudience) + " visible ASCII characters"
		}
		return ""
	})
	k.list(i, "algorithms", is.Algorithms, func(s string) string {
		if !slices.Contains(asymmetric, s) {
			return "one of " + strings.Join(asymmetric, ", ")
		}
		return ""
	})
	k.list(i, "types", is.Types, func(s string) string {
		if !Visible(s, maxTokenType) {
			return "a media type without \"application/\", such as at+jwt, or none"
		}
		return ""
	})
	k.add(&is)
}

func (k *issuerCompiler) add(is *Issuer) {
	k.out.all, k.out.vouchers[is.Voucher()] = append(k.out.all, is), true
	before, after, realm := strings.Cut(is.Issuer, Realm)
	if realm {
		k.out.patterns = append(k.out.patterns, issuerPattern{before, after, is})
		return
	}
	k.out.exact[is.Issuer] = is
}

func (k *issuerCompiler) checkName(i int, name string) {
	const right = "1 to 63 of a-z, 0-9 and '-', first and last a letter or digit"
	if name == "" {
		k.problem(i, "name", "is missing", right+": it begins the names of its principals")
		return
	}
	if _, err := tenant.ParseID(name); err != nil {
		k.problem(i, "name", tenant.Quote(name)+" is no name", right)
	}
	if first, ok := k.name[name]; ok {
		k.problem(i, "name", tenant.Quote(name)+" is already issuer "+strconv.Itoa(first), "each issuer has its own name, or two principals could have one")
		return
	}
	k.name[name] = i
}

func (k *issuerCompiler) checkURLs(i int, is *Issuer) {
	switch wrong := wrongIssuerURL(is.Issuer, true); {
	case is.Issuer == "":
		k.problem(i, "issuer", "is missing", "the exact \"iss\" of its tokens, such as https://id.example.com/realms/acme")
	case wrong != "":
		k.problem(i, "issuer", tenant.Quote(is.Issuer)+" "+wrong, "the exact \"iss\" of its tokens, such as https://id.example.com/realms/acme")
	default:
		k.places = append(k.places, issuerPlace{i, issuerPieces(is.Issuer)})
	}
	const right = "where its keys are, such as https://id.example.com/realms/acme/keys"
	switch wrong := wrongIssuerURL(is.JWKSURI, false); {
	case is.JWKSURI == "":
		k.problem(i, "jwks_uri", "is missing", right)
	case wrong != "":
		k.problem(i, "jwks_uri", tenant.Quote(is.JWKSURI)+" "+wrong, right)
	case strings.Contains(is.JWKSURI, Realm) && !strings.Contains(is.Issuer, Realm):
		k.problem(i, "jwks_uri", tenant.Quote(is.JWKSURI)+" has a realm, and the issuer has none", "{tenant} in issuer as well, or in neither")
	}
}

func (k *issuerCompiler) checkTenant(i int, is *Issuer) {
	ways := 0
	for _, used := range []bool{is.Tenant != "", is.TenantClaim != "", strings.Contains(is.Issuer, Realm)} {
		if used {
			ways++
		}
	}
	const right = "exactly one of tenant, tenant_claim, and {tenant} in issuer"
	switch {
	case ways == 0:
		k.problem(i, "tenant", "is missing: nothing says whom its tokens speak for", right)
	case ways > 1:
		k.problem(i, "tenant", "there is more than one way to find the tenant", right)
	}
	if is.Tenant != "" {
		if _, err := tenant.ParseID(is.Tenant); err != nil {
			k.problem(i, "tenant", tenant.Quote(is.Tenant)+" is no tenant id", "the id of one of the tenants")
		}
	}
	k.claim(i, "tenant_claim", is.TenantClaim)
}

func (k *issuerCompiler) claim(i int, field, name string) {
	if name == "" {
		return
	}
	path := ClaimPath(name)
	if !Visible(name, maxClaim) || len(path) > maxClaimDepth || slices.Contains(path, "") {
		k.problem(i, field, tenant.Quote(name)+" is no name of a claim", "a name such as tenant, or org.tenant for a nested one, up to 7 deep")
	}
}

func (k *issuerCompiler) list(i int, field string, list []string, wrong func(string) string) {
	if len(list) > maxIssuerItems {
		k.problem(i, field, "there are "+strconv.Itoa(len(list)), "at most "+strconv.Itoa(maxIssuerItems))
		return
	}
	for at, s := range list {
		if right := wrong(s); right != "" {
			k.item(i, field, at, tenant.Quote(s)+" is not accepted", right)
		} else if first := slices.Index(list, s); first < at {
			k.item(i, field, at, tenant.Quote(s)+" is listed twice", "each of them once")
		}
	}
}

// ambiguous reports two issuers that could both be the one of a token: which of
// them judges it would depend on their order.
func (k *issuerCompiler) ambiguous() {
	var patterns []issuerPlace
	for _, p := range k.places {
		if slices.Contains(p.pieces, Realm) {
			patterns = append(patterns, p)
			continue
		}
		iss := strings.Join(p.pieces, "")
		if first, ok := k.iss[iss]; ok {
			k.same(p.index, first)
			continue
		}
		k.iss[iss] = p.index
	}
	for n, p := range patterns {
		for _, o := range k.places {
			earlier := slices.ContainsFunc(patterns[:n], func(q issuerPlace) bool { return q.index == o.index })
			if o.index != p.index && !earlier && overlap(p.pieces, o.pieces) {
				k.same(max(p.index, o.index), min(p.index, o.index))
			}
		}
	}
}

func (k *issuerCompiler) same(i, first int) {
	k.problem(i, "issuer", "a token could be of this issuer and of issuer "+strconv.Itoa(first), "each \"iss\" belongs to one issuer")
}

// issuerPieces splits s into runs of the bytes that a tenant id may have, and single other
// bytes. A realm fills a run exactly, so two URLs can be compared piece by piece.
func issuerPieces(s string) (pieces []string) {
	for s != "" {
		if rest, ok := strings.CutPrefix(s, Realm); ok {
			pieces, s = append(pieces, Realm), rest
			continue
		}
		n := 0
		for n < len(s) && (isLower(s[n]) || isDigit(s[n]) || s[n] == '-') {
			n++
		}
		n = max(n, 1)
		pieces, s = append(pieces, s[:n]), s[n:]
	}
	return pieces
}

func overlap(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	fits := func(a, b string) bool {
		_, err := tenant.ParseID(b)
		return a == Realm && (b == Realm || err == nil)
	}
	for i := range a {
		if a[i] != b[i] && !fits(a[i], b[i]) && !fits(b[i], a[i]) {
			return false
		}
	}
	return true
}

// wrongIssuerURL says what is wrong with an issuer's URL; "" if nothing is.
func wrongIssuerURL(s string, identifier bool) string {
	const scheme = "https://"
	if !Visible(s, maxIssuerURL) {
		return "is longer than 2048 bytes or has other than visible ASCII characters"
	}
	if !strings.HasPrefix(s, scheme) {
		return "does not begin with https://"
	}
	if strings.Count(s, Realm) > 1 {
		return "has {tenant} more than once"
	}
	if strings.ContainsAny(strings.Replace(s, Realm, "", 1), `{}\`) {
		return "has a brace or a backslash"
	}
	u, err := url.Parse(strings.Replace(s, Realm, "tenant", 1))
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "is no URL with a host"
	case u.User != nil:
		return "has a user"
	case strings.Contains(s, "#"):
		return "has a fragment"
	case identifier && strings.Contains(s, "?"):
		return "has a query"
	}
	if !wholeRealm(s[len(scheme):]) {
		return "has {tenant} as part of a path segment or a host label, or as the host's end"
	}
	return ""
}

// wholeRealm reports whether {tenant}, if rest has it, is a whole segment of the
// path or a whole label of the host. The last label would choose the host freely.
func wholeRealm(rest string) bool {
	before, after, ok := strings.Cut(rest, Realm)
	if !ok {
		return true
	}
	if !strings.ContainsAny(before, "/?") { // in the host
		return (before == "" || strings.HasSuffix(before, ".")) && strings.HasPrefix(after, ".")
	}
	return !strings.Contains(before, "?") && strings.HasSuffix(before, "/") && (after == "" || after[0] == '/' || after[0] == '?')
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// Visible reports whether s is 1 to most visible ASCII characters: it may stand in a header as it is.
func Visible(s string, most int) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= most
}
