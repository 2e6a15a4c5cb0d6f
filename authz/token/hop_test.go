package token_test

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

var pepper = [32]byte{7}

const worker = "spiffe://mesh/ns/acme/sa/app" // a workload that is acme

// idp vouches for the principal of claims.
func idp() authz.Issuer {
	return authz.Issuer{Name: "idp", Issuer: "https://id.example.com", Audiences: []string{"api"}, JWKSURI: "https://id.example.com/keys", TenantClaim: "org"}
}

func issuers(all ...authz.Issuer) *authz.Issuers {
	compiled, problems := authz.CompileIssuers(all)
	if len(problems) > 0 {
		panic(problems) // of ours
	}
	return compiled
}

func snapshot(t testing.TB) *quota.Snapshot { return snapshotWith(t, "key-acme", idp()) }

// snapshotWith has another k1, or other issuers.
func snapshotWith(t testing.TB, k1 string, issuers ...authz.Issuer) *quota.Snapshot {
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
func hop(t testing.TB, c authz.Credentials) (token.Hop, bool, error) {
	t.Helper()
	return tokens().Hop(now, snapshot(t), &c, authn.New(authn.Options{Pepper: pepper}))
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
		{"two tokens", authz.Credentials{SPIFFE: holder, Tenant: []string{good, good}}, authz.ErrManyCredentials},
		{"an empty token", authz.Credentials{SPIFFE: holder, Tenant: []string{""}}, token.ErrMalformed},
		{"a bad token beside a good key", authz.Credentials{SPIFFE: holder, Tenant: []string{"x"}, APIKeys: []string{"key-acme"}}, token.ErrMalformed},
		{"a token without mTLS", authz.Credentials{Tenant: []string{good}}, token.ErrHolder},
		{"a token without mTLS beside a good key", authz.Credentials{Tenant: []string{good}, APIKeys: []string{"key-acme"}}, token.ErrHolder},
		{"a token of another holder", authz.Credentials{SPIFFE: "spiffe://mesh/ns/other/sa/api", Tenant: []string{good}}, token.ErrHolder},
		{"I-06 a token and a key of another tenant", authz.Credentials{SPIFFE: holder, Tenant: []string{good}, APIKeys: []string{"key-umbrella"}}, authz.ErrConflict},
		{"I-06 a token and a holder that is another tenant", authz.Credentials{SPIFFE: worker, Tenant: []string{tokenOf(t, "umbrella", worker)}}, authz.ErrConflict},
		{"a token and an unknown key", authz.Credentials{SPIFFE: holder, Tenant: []string{good}, APIKeys: []string{"key-nobody"}}, authz.ErrBadCredential},
		{"a token and two keys", authz.Credentials{SPIFFE: holder, Tenant: []string{good}, APIKeys: []string{"key-acme", "key-acme"}}, authz.ErrManyCredentials},
		{"I-08 a token of a key that was revoked since", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.APIKey, Name: "k9"})}}, authz.ErrBadCredential},
		{"I-08 a token of a key that is another tenant's", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.APIKey, Name: "k2"})}}, authz.ErrBadCredential},
		{"a token of a workload that is no longer the tenant's", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.SPIFFE, Name: "spiffe://mesh/gone"})}}, authz.ErrBadCredential},
		{"I-08 a token of a tenant that is gone", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "gone", holder)}}, authz.ErrBadCredential},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			h, inner, err := hop(t, c.c)
			if !errors.Is(err, c.want) || !inner || h.Account != nil || h.Claims.Tenant != "" {
				t.Errorf("%+v, inner %v, %v; want %v", h, inner, err, c.want)
			}
		})
	}
}

// A token ends with what vouched for the caller at the edge, at the next request.
func TestATokenEndsWithItsVoucher(t *testing.T) {
	k1, _ := snapshot(t).KeyOf("k1")
	byToken, byKey := claims().Principal, authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: k1.Voucher}
	edit := func(change func(*authz.Issuer)) *quota.Snapshot {
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
		{"I-08 its issuer was removed", byToken, snapshotWith(t, "key-acme"), authz.ErrBadCredential},
		{"I-08 its issuer is for another audience", byToken, edit(func(i *authz.Issuer) { i.Audiences = []string{"other"} }), authz.ErrBadCredential},
		{"I-08 its issuer speaks for another tenant", byToken, edit(func(i *authz.Issuer) { i.Tenant, i.TenantClaim = "umbrella", "" }), authz.ErrBadCredential},
		{"I-08 its issuer finds the tenant elsewhere", byToken, edit(func(i *authz.Issuer) { i.TenantClaim = "other" }), authz.ErrBadCredential},
		{"I-08 its key was exchanged under the same id", byKey, snapshotWith(t, "key-other", idp()), authz.ErrBadCredential},
		{"a key was exchanged that did not vouch", byToken, snapshotWith(t, "key-other", idp()), nil},
		{"an issuer was removed that did not vouch", byKey, snapshotWith(t, "key-acme"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens, own := tokens(), authn.New(authn.Options{Pepper: pepper})
			shown := &authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, c.who)}}
			if _, _, err := tokens.Hop(now, snapshot(t), shown, own); err != nil {
				t.Fatalf("before the edit: %v", err)
			}
			if _, _, err := tokens.Hop(now, c.after, shown, own); !errors.Is(err, c.want) {
				t.Errorf("after it: %v, want %v", err, c.want)
			}
		})
	}
}

func TestHopAdmits(t *testing.T) {
	for _, c := range []struct {
		name string
		c    authz.Credentials
	}{
		{"a token from its holder", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "acme", holder)}}},
		{"a token and a key of the same tenant", authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "acme", holder)}, APIKeys: []string{"key-acme"}}},
		{"a token and a holder that is the same tenant", authz.Credentials{SPIFFE: worker, Tenant: []string{tokenOf(t, "acme", worker)}}},
	} {
		t.Run(c.name+" is an inner hop, and the token decides", func(t *testing.T) {
			h, inner, err := hop(t, c.c)
			if err != nil || !inner || h.Account.Tenant != "acme" || h.Claims.Principal.Name != claims().Principal.Name || h.Claims.Decision != claims().Decision {
				t.Errorf("%+v, inner %v, %v", h, inner, err)
			}
		})
	}
	t.Run("by a key that stands a token is good", func(t *testing.T) {
		k1, _ := snapshot(t).KeyOf("k1")
		c := authz.Credentials{SPIFFE: holder, Tenant: []string{tokenBy(t, authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: k1.Voucher})}}
		if h, _, err := hop(t, c); err != nil || h.Claims.Principal.Name != "k1" {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("the account is that of now: a suspended tenant stays suspended", func(t *testing.T) {
		h, _, err := hop(t, authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "closed", holder)}})
		if err != nil || !h.Account.Suspended {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("without a token nobody is an inner hop, whatever else is shown", func(t *testing.T) {
		if h, inner, err := hop(t, authz.Credentials{SPIFFE: worker, APIKeys: []string{"key-acme"}}); inner || err != nil || h.Account != nil {
			t.Errorf("%+v, inner %v, %v", h, inner, err)
		}
	})
}

func TestAHopAllocatesNothing(t *testing.T) {
	tokens, s, own := tokens(), snapshot(t), authn.New(authn.Options{Pepper: pepper})
	c := &authz.Credentials{SPIFFE: holder, Tenant: []string{tokenOf(t, "acme", holder)}}
	if n := testing.AllocsPerRun(1000, func() {
		if _, _, err := tokens.Hop(now, s, c, own); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
