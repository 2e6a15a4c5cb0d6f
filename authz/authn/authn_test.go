package authn_test

import (
	"errors"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/quota"
)

const (
	gateway  = "spiffe://mesh/ns/edge/sa/gateway"
	acmeApp  = "spiffe://mesh/ns/acme/sa/app"
	otherApp = "spiffe://mesh/ns/umbrella/sa/app"
)

func TestIdentify(t *testing.T) {
	forAcme, forUmbrella := token(nil, nil), token(nil, m{"iss": `"https://claim.example.com"`, "org": `{"tenant":"umbrella"}`})
	xfcc := func(uri string) []string {
		return []string{`By=` + gateway + `;Hash=00;Subject="CN=a,O=b";URI=` + uri}
	}
	for _, tt := range []struct {
		name    string
		in      authz.Credentials
		wantErr error
		name0   string // the principal's
		tenant  string
	}{
		{name: "nothing", wantErr: authn.ErrNoCredentials},
		{name: "I-01 no principal, an empty key", in: authz.Credentials{APIKeys: []string{""}}, wantErr: authn.ErrBadCredential},
		{name: "an empty token", in: authz.Credentials{Tokens: []string{""}}, wantErr: authn.ErrBadCredential},
		{name: "a workload of no tenant", in: authz.Credentials{SPIFFE: gateway}, wantErr: authn.ErrBadCredential},

		{name: "I-02 another trust domain", in: authz.Credentials{SPIFFE: "spiffe://evil/ns/acme/sa/app"}, wantErr: authn.ErrBadCredential},
		{name: "I-02 a segment more", in: authz.Credentials{SPIFFE: acmeApp + "/x"}, wantErr: authn.ErrBadCredential},
		{name: "I-02 a slash at the end", in: authz.Credentials{SPIFFE: acmeApp + "/"}, wantErr: authn.ErrBadCredential},
		{name: "I-02 percent-encoded", in: authz.Credentials{SPIFFE: "spiffe://mesh/ns/acme%2fsa/app"}, wantErr: authn.ErrBadCredential},
		{name: "I-02 another scheme", in: authz.Credentials{SPIFFE: "SPIFFE://mesh/ns/acme/sa/app"}, wantErr: authn.ErrBadCredential},
		{name: "I-02 a path that goes up", in: authz.Credentials{SPIFFE: "spiffe://mesh/ns/acme/sa/x/../app"}, wantErr: authn.ErrBadCredential},
		{name: "I-02 a malformed id beside a good key", in: authz.Credentials{SPIFFE: "spiffe://mesh/", APIKeys: []string{"key-acme"}}, wantErr: authn.ErrBadCredential},
		{name: "I-03 a service account with a dot for a dash", in: authz.Credentials{SPIFFE: "spiffe://mesh/ns/acme/sa.app"}, wantErr: authn.ErrBadCredential},
		{name: "I-05 a NUL in the id", in: authz.Credentials{SPIFFE: acmeApp + "\x00.evil"}, wantErr: authn.ErrBadCredential},
		{name: "I-05 two ids joined", in: authz.Credentials{SPIFFE: acmeApp + "," + otherApp}, wantErr: authn.ErrBadCredential},

		{name: "I-06 a token of one tenant and a key of another", in: authz.Credentials{Tokens: []string{forAcme}, APIKeys: []string{"key-umbrella"}}, wantErr: authn.ErrManyCredentials},
		{name: "I-06 a token and a key of one tenant", in: authz.Credentials{Tokens: []string{forAcme}, APIKeys: []string{"key-acme"}}, wantErr: authn.ErrManyCredentials},
		{name: "I-06 two tokens", in: authz.Credentials{Tokens: []string{forAcme, forAcme}}, wantErr: authn.ErrManyCredentials},
		{name: "I-06 two keys of one tenant", in: authz.Credentials{APIKeys: []string{"key-acme", "key-acme-next"}}, wantErr: authn.ErrManyCredentials},
		{name: "I-06 one key twice", in: authz.Credentials{APIKeys: []string{"key-acme", "key-acme"}}, wantErr: authn.ErrManyCredentials},
		{name: "I-06 a good key and a bad one", in: authz.Credentials{APIKeys: []string{"key-acme", "x"}}, wantErr: authn.ErrManyCredentials},
		{name: "a workload of one tenant, a key of another", in: authz.Credentials{SPIFFE: acmeApp, APIKeys: []string{"key-umbrella"}}, wantErr: authn.ErrConflict},
		{name: "a workload of one tenant, a token of another", in: authz.Credentials{SPIFFE: acmeApp, Tokens: []string{forUmbrella}}, wantErr: authn.ErrConflict},
		{name: "a workload of a tenant and a bad key", in: authz.Credentials{SPIFFE: acmeApp, APIKeys: []string{"x"}}, wantErr: authn.ErrBadCredential},
		{name: "a workload of a tenant and a bad token", in: authz.Credentials{SPIFFE: acmeApp, Tokens: []string{"ey.a.b"}}, wantErr: authn.ErrBadCredential},

		{name: "I-04 the client's own XFCC, without mTLS", in: authz.Credentials{XFCC: xfcc(acmeApp)}, wantErr: authn.ErrNoCredentials},
		{name: "I-04 XFCC from a workload that is no forwarder", in: authz.Credentials{SPIFFE: otherApp, XFCC: xfcc(acmeApp)}, name0: otherApp, tenant: "umbrella"},
		{name: "I-04 XFCC from a stranger of no tenant", in: authz.Credentials{SPIFFE: "spiffe://mesh/ns/x/sa/y", XFCC: xfcc(acmeApp)}, wantErr: authn.ErrBadCredential},
		{name: "I-04 two XFCC headers", in: authz.Credentials{SPIFFE: gateway, XFCC: append(xfcc(acmeApp), xfcc(acmeApp)...)}, wantErr: authn.ErrBadCredential},
		{name: "I-04 two elements", in: authz.Credentials{SPIFFE: gateway, XFCC: []string{xfcc(otherApp)[0] + "," + xfcc(acmeApp)[0]}}, wantErr: authn.ErrBadCredential},
		{name: "I-04 an empty XFCC from a forwarder", in: authz.Credentials{SPIFFE: gateway, XFCC: []string{""}}, wantErr: authn.ErrBadCredential},
		{name: "I-04 a URI that is no SPIFFE id", in: authz.Credentials{SPIFFE: gateway, XFCC: xfcc("https://acme")}, wantErr: authn.ErrBadCredential},
		{name: "I-04 a bad XFCC beside a good key", in: authz.Credentials{SPIFFE: gateway, XFCC: []string{"URI=a,URI=b"}, APIKeys: []string{"key-acme"}}, wantErr: authn.ErrBadCredential},
		{name: "XFCC names one tenant, the key another", in: authz.Credentials{SPIFFE: gateway, XFCC: xfcc(acmeApp), APIKeys: []string{"key-umbrella"}}, wantErr: authn.ErrConflict},
		{name: "XFCC names a workload of no tenant", in: authz.Credentials{SPIFFE: gateway, XFCC: xfcc("spiffe://mesh/ns/x/sa/y")}, wantErr: authn.ErrBadCredential},

		{name: "a key", in: authz.Credentials{APIKeys: []string{"key-acme"}}, name0: "k1", tenant: "acme"},
		{name: "a token", in: authz.Credentials{Tokens: []string{forUmbrella}}, name0: "claim/user-1", tenant: "umbrella"},
		{name: "a workload", in: authz.Credentials{SPIFFE: acmeApp}, name0: acmeApp, tenant: "acme"},
		{name: "a workload and a key of its tenant", in: authz.Credentials{SPIFFE: acmeApp, APIKeys: []string{"key-acme"}}, name0: "k1", tenant: "acme"},
		{name: "a workload and a token of its tenant", in: authz.Credentials{SPIFFE: acmeApp, Tokens: []string{forAcme}}, name0: "main/user-1", tenant: "acme"},
		{name: "a gateway and a key", in: authz.Credentials{SPIFFE: gateway, APIKeys: []string{"key-acme"}}, name0: "k1", tenant: "acme"},
		{name: "a gateway and a token", in: authz.Credentials{SPIFFE: gateway, Tokens: []string{forAcme}}, name0: "main/user-1", tenant: "acme"},
		{name: "XFCC from a forwarder", in: authz.Credentials{SPIFFE: gateway, XFCC: xfcc(acmeApp)}, name0: acmeApp, tenant: "acme"},
		{name: "XFCC and a key of its tenant", in: authz.Credentials{SPIFFE: gateway, XFCC: xfcc(acmeApp), APIKeys: []string{"key-acme"}}, name0: "k1", tenant: "acme"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, authn.Options{XFCCForwarders: []string{gateway}})
			p, account, err := w.identify(tt.in)
			if !errors.Is(err, tt.wantErr) || p.Name != tt.name0 {
				t.Fatalf("got %+v, %v, want %q, %v", p, err, tt.name0, tt.wantErr)
			}
			if (account != nil) != (tt.wantErr == nil) || account != nil && string(account.Tenant) != tt.tenant {
				t.Errorf("the account is %+v", account)
			}
		})
	}
}

func TestI08APIKeys(t *testing.T) {
	w := newWorld(t, authn.Options{})
	for _, tt := range []struct {
		name, key string
		at        int64
		want      string
	}{
		{"an unknown key", "key-nobody", now, ""},
		{"a known key and a byte more", "key-acme ", now, ""},
		{"a known key without its last byte", "key-acm", now, ""},
		{"a key of 1 MB", string(make([]byte, 1<<20)), now, ""},
		{"an expired key", "key-old", now, ""},
		{"the new key after its end", "key-acme-next", now + 60*second, ""},
		{"the old key while both are valid", "key-acme", now, "k1"},
		{"the new key while both are valid", "key-acme-next", now + 60*second - 1, "k1-next"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, account, err := w.a.Identify(t.Context(), tt.at, w.snapshot, &authz.Credentials{APIKeys: []string{tt.key}})
			if tt.want == "" {
				if !errors.Is(err, authn.ErrBadCredential) || account != nil || p.Name != "" {
					t.Errorf("got %+v, %v, %v", p, account, err)
				}
				return
			}
			if err != nil || p.Name != tt.want || account.Tenant != "acme" || p.Scheme != authz.APIKey {
				t.Errorf("got %+v, %v", p, err)
			}
			if end := map[string]int64{"k1": 0, "k1-next": now + 60*second}[tt.want]; p.Expires != end {
				t.Errorf("expires at %d, want %d", p.Expires, end)
			}
		})
	}
	t.Run("the key and the token of a tenant that was deleted", func(t *testing.T) {
		good := authz.Credentials{Tokens: []string{token(nil, nil)}}
		if _, _, err := w.identify(good); err != nil {
			t.Fatal(err)
		}
		gone := &quota.Snapshot{Revision: 2, Issuers: w.snapshot.Issuers}
		for _, c := range []authz.Credentials{good, {APIKeys: []string{"key-acme"}}} {
			if _, _, err := w.a.Identify(t.Context(), now, gone, &c); !errors.Is(err, authn.ErrBadCredential) {
				t.Errorf("%+v: %v", c.APIKeys, err)
			}
		}
	})
}

func TestLastUsed(t *testing.T) {
	const minute = 60 * second
	w := newWorld(t, authn.Options{})
	use := func(at int64, key string) {
		_, _, _ = w.a.Identify(t.Context(), at, w.snapshot, &authz.Credentials{APIKeys: []string{key}})
	}
	if got := w.a.LastUsed("k1"); got != 0 {
		t.Errorf("never used: %d", got)
	}
	use(now, "key-nobody")
	use(now, "key-old")
	if all := w.a.ExportLastUsed(nil); len(all) != 0 {
		t.Errorf("refused keys are recorded: %v", all)
	}
	use(now+minute/2, "key-acme")
	if got := w.a.LastUsed("k1"); got != now-now%minute {
		t.Errorf("got %d, want the minute of %d", got, now)
	}
	use(now+3*minute, "key-acme")
	use(now+minute, "key-acme") // a request that was overtaken
	if got := w.a.LastUsed("k1"); got != now+3*minute {
		t.Errorf("got %d", got)
	}
	use(now, "key-umbrella")

	other := newWorld(t, authn.Options{}).a
	other.ImportLastUsed(map[string]int64{"k1": now - 10*minute, "k2": now + 10*minute})
	other.ImportLastUsed(w.a.ExportLastUsed(nil))
	if a, b := other.LastUsed("k1"), other.LastUsed("k2"); a != now+3*minute || b != now+10*minute {
		t.Errorf("merged: %d, %d", a, b)
	}
	kept := other.ExportLastUsed(func(id string) bool { return id == "k2" })
	if len(kept) != 1 || other.LastUsed("k1") != 0 || other.LastUsed("k2") == 0 {
		t.Errorf("a deleted key is kept: %v", kept)
	}
}

func TestHitsDoNotAllocate(t *testing.T) {
	w := newWorld(t, authn.Options{XFCCForwarders: []string{gateway}})
	for name, c := range map[string]authz.Credentials{
		"an API key":       {APIKeys: []string{"key-acme"}, SPIFFE: gateway},
		"a token":          {Tokens: []string{token(nil, m{"realm_access": `{"roles":["a","b"]}`})}, Source: "192.0.2.1"},
		"a workload":       {SPIFFE: acmeApp},
		"a forwarded name": {SPIFFE: gateway, XFCC: []string{`By=` + gateway + `;Hash=00;Subject="CN=a";URI=` + acmeApp}},
	} {
		identify := func() {
			if _, _, err := w.a.Identify(t.Context(), now, w.snapshot, &c); err != nil {
				t.Fatal(name, err)
			}
		}
		identify()
		if n := testing.AllocsPerRun(200, identify); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
