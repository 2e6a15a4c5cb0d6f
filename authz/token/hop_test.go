package token_test

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

var pepper = [32]byte{7}

const worker = "spiffe://mesh/ns/acme/sa/app" // a workload that is acme

// idp vouches for the principal of claims.
func idp() trust.Issuer {
	return trust.Issuer{Name: "idp", Issuer: "https://id.example.com", Audiences: []string{"api"}, JWKSURI: "https://id.example.com/keys", TenantClaim: "org"}
}

func issuers(all ...trust.Issuer) *trust.Issuers {
	compiled, problems := trust.Compile(all)
	if len(problems) > 0 {
		panic(problems) // of ours
	}
	return compiled
}

func snapshot(t testing.TB) *quota.Snapshot { return snapshotWith(t, "key-acme", idp()) }

// snapshotWith has another k1, or other issuers.
func snapshotWith(t testing.TB, k1 string, issuers ...trust.Issuer) *quota.Snapshot {
	t.Helper()
	digest := func(key string) string {
		d := authn.Digest(pepper, key)
		return hex.EncodeToString(d[:])
	}
	s, err := quota.Compile(1, quota.Catalogue{
		Plans: []quota.Plan{{Name: "gold", Limits: []quota.Limit{{Name: "rps", Algorithm: "gcra", Limit: 10, Window: time.Second}}}},
		Tenants: []quota.Tenant{
			{ID: "acme", Plan: "gold", Principals: []string{worker}},
			{ID: "umbrella", Plan: "gold"},
			{ID: "closed", Plan: "gold", Suspended: true},
		},
		APIKeys: []quota.APIKey{
			{ID: "k1", Tenant: "acme", Digest: digest(k1)},
			{ID: "k2", Tenant: "umbrella", Digest: digest("key-umbrella")},
		},
		Issuers: issuers,
	}, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hop is what a request with these credentials is judged as.
func hop(t testing.TB, c authz.Credentials) (token.Claims, *quota.Account, error) {
	t.Helper()
	return tokens().Hop(now, snapshot(t), &c)
}

func tokenOf(t testing.TB, id tenant.ID, holder string) string {
	t.Helper()
	c := claims()
	c.Tenant, c.Holder = id, holder
	return mint(t, tokens(), now, c)
}

func tokenBy(t testing.TB, p authz.Principal) string {
	t.Helper()
	c := claims()
	c.Principal = p
	return mint(t, tokens(), now, c)
}

func TestHopRefuses(t *testing.T) {
	good := tokenOf(t, "acme", holder)
	for _, c := range []struct {
		name string
		c    authz.Credentials
		want error
	}{
		{"no token at all", authz.Credentials{SPIFFE: worker, APIKeys: []string{"key-acme"}}, token.ErrMany},
		{"two tokens", authz.Credentials{SPIFFE: holder, Tenant: []string{good, good}}, token.ErrMany},
		{"an empty token", authz.Credentials{SPIFFE: holder, Tenant: []string{""}}, token.ErrMalformed},
		{"a token without mTLS", authz.Credentials{Tenant: []string{good}}, token.ErrHolder},
		{"a token of another holder", authz.Credentials{SPIFFE: "spiffe://mesh/ns/other/sa/api", Tenant: []string{good}}, token.ErrHolder},
		{"I-08 a token of a key that was revoked since", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.APIKey, Name: "k9"})}}, token.ErrRevoked},
		{"I-08 a token of a key that is another tenant's", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.APIKey, Name: "k2"})}}, token.ErrRevoked},
		{"a token of a workload that is no longer the tenant's", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.SPIFFE, Name: "spiffe://mesh/gone"})}}, token.ErrRevoked},
		{"I-08 a token of a tenant that is gone", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "gone", holder)}}, token.ErrRevoked},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			claims, account, err := hop(t, c.c)
			if !errors.Is(err, c.want) || account != nil || claims.Tenant != "" {
				t.Errorf("%+v, %v; want %v", claims, err, c.want)
			}
		})
	}
}

// A token ends with what vouched for the caller at the edge, at the next request.
func TestATokenEndsWithItsVoucher(t *testing.T) {
	k1, _ := snapshot(t).KeyOf("k1")
	byToken, byKey := claims().Principal, authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: k1.Voucher}
	edit := func(change func(*trust.Issuer)) *quota.Snapshot {
		i := idp()
		change(&i)
		return snapshotWith(t, "key-acme", i)
	}
	for _, c := range []struct {
		name  string
		who   authz.Principal
		after *quota.Snapshot
		want  error
	}{
		{"I-08 its issuer was removed", byToken, snapshotWith(t, "key-acme"), token.ErrRevoked},
		{"I-08 its issuer is for another audience", byToken, edit(func(i *trust.Issuer) { i.Audiences = []string{"other"} }), token.ErrRevoked},
		{"I-08 its issuer speaks for another tenant", byToken, edit(func(i *trust.Issuer) { i.Tenant, i.TenantClaim = "umbrella", "" }), token.ErrRevoked},
		{"I-08 its issuer finds the tenant elsewhere", byToken, edit(func(i *trust.Issuer) { i.TenantClaim = "other" }), token.ErrRevoked},
		{"I-08 its key was exchanged under the same id", byKey, snapshotWith(t, "key-other", idp()), token.ErrRevoked},
		{"a key was exchanged that did not vouch", byToken, snapshotWith(t, "key-other", idp()), nil},
		{"an issuer was removed that did not vouch", byKey, snapshotWith(t, "key-acme"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens := tokens()
			shown := &authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, c.who)}}
			if _, _, err := tokens.Hop(now, snapshot(t), shown); err != nil {
				t.Fatalf("before the edit: %v", err)
			}
			if _, _, err := tokens.Hop(now, c.after, shown); !errors.Is(err, c.want) {
				t.Errorf("after it: %v, want %v", err, c.want)
			}
		})
	}
}

func TestHopAdmits(t *testing.T) {
	t.Run("a token from its holder", func(t *testing.T) {
		got, account, err := hop(t, authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "acme", holder)}})
		if err != nil || account.Tenant != "acme" || got.Principal.Name != claims().Principal.Name || got.Decision != claims().Decision {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("by a key that stands a token is good", func(t *testing.T) {
		k1, _ := snapshot(t).KeyOf("k1")
		c := authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: k1.Voucher})}}
		if claims, _, err := hop(t, c); err != nil || claims.Principal.Name != "k1" {
			t.Errorf("%+v, %v", claims, err)
		}
	})
	t.Run("the account is that of now: a suspended tenant stays suspended", func(t *testing.T) {
		claims, account, err := hop(t, authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "closed", holder)}})
		if err != nil || !account.Suspended {
			t.Errorf("%+v, %v", claims, err)
		}
	})
}

func TestAHopAllocatesNothing(t *testing.T) {
	tokens, s := tokens(), snapshot(t)
	c := &authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "acme", holder)}}
	if n := testing.AllocsPerRun(1000, func() {
		if _, _, err := tokens.Hop(now, s, c); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
