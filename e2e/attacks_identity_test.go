package e2e

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/tenant"
	"github.com/voicecore-ai/sluice/testca"
)

// Workloads that speak for a tenant.
const (
	acmeAgent     = "spiffe://demo/ns/acme/sa/agent"
	acmeDashed    = "spiffe://demo/ns/acme/sa/cert-manager-io"
	umbrellaAgent = "spiffe://demo/ns/umbrella/sa/agent"
)

// Kinds of names in a certificate (RFC 5280, 4.2.1.6).
const (
	otherName = 0
	email     = 1
	dnsName   = 2
	uriName   = 6
)

// san is a name in a certificate, byte for byte.
func san(kind int, text string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: kind, Bytes: []byte(text), IsCompound: kind == otherName}
}

func uris(ids ...string) (all []asn1.RawValue) {
	for _, id := range ids {
		all = append(all, san(uriName, id))
	}
	return all
}

// forge signs a certificate with names that a careful authority would not.
func forge(t *testing.T, ca *testca.Authority, sans []asn1.RawValue) *testca.Leaf {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "caller"}}
	if len(sans) > 0 {
		value, err := asn1.Marshal(sans)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
	l := ca.Issue(t, template)
	return &l
}

// certified is one request by a workload, and how it should end.
type certified struct {
	name string
	at   *hop
	sans []asn1.RawValue // of the caller's certificate; none: plain text
	ask  string
	want verdict
	who  string // tenant and principal, if it passes
}

func TestAttacksOnWorkloads(t *testing.T) {
	m := startMesh(t, "--xfcc-forwarders", envoyID)
	m.rule(t, "calls", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/calls/**"}}})
	m.rule(t, "over-mtls", &quotav1.Rule{Who: &quotav1.Rule_Who{Principals: []string{"spiffe://demo/*"}}, What: &quotav1.Rule_What{Paths: []string{"/v1/secure"}}})
	keys := map[string]string{}
	for name, ids := range map[string][]string{"acme": {acmeAgent, acmeDashed}, "umbrella": {umbrellaAgent}} {
		keys[name] = m.tenant(t, name)
		_, err := m.quota.UpdateTenant(m.admin(t), &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: "tenants/" + name, Plan: "plans/" + name, Principals: ids}})
		if err != nil {
			t.Fatal(err)
		}
	}
	strict, open := m.service(t, "b", serviceB), m.service(t, "open", serviceB, anyName)
	told, plain := m.service(t, "told", serviceB, anyName, believing), m.service(t, "plain", serviceB, noTLS, believing)
	var all []certified
	all = append(all, withoutPrincipal(plain, keys)...)
	all = append(all, withOddIDs(strict, open)...)
	all = append(all, withForwarded(strict, told, plain, keys)...)
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			_, record, seen := c.at.judged(t, c.want, func() reply {
				if c.sans == nil {
					return plainly(t, c.at.in, c.ask)
				}
				return m.as(t, forge(t, m.ca, c.sans), c.at.in, c.ask)
			})
			if got := strings.TrimSpace(record.Tenant + " " + record.Principal); c.want == passes && got != c.who {
				t.Errorf("it passed as %q, want %q", got, c.who)
			}
			if v := seen.values(tenant.Header); c.want == passes && (len(v) != 1 || v[0] != record.Tenant) {
				t.Errorf("the upstream got %q", v)
			}
		})
	}
}

func withoutPrincipal(plain *hop, keys map[string]string) []certified {
	return []certified{
		{"I-01 in plain text, nobody is refused", plain, nil, http1("GET", "/v1/calls"), isNobody, ""},
		{"I-01 in plain text, a header that names a workload is none", plain, nil, http1("GET", "/v1/calls", "x-forwarded-client-cert: URI="+acmeAgent, "x-sluice-principal: "+acmeAgent), isNobody, ""},
		{"I-01 in plain text, a good key is not enough for a rule that wants a workload", plain, nil, http1("GET", "/v1/secure", "x-api-key: "+keys["acme"]), isForbidden, ""},
	}
}

func withOddIDs(strict, open *hop) (all []certified) {
	ask := http1("GET", "/v1/calls")
	all = append(all,
		certified{"I-02 a workload on the list passes", strict, uris(acmeAgent), ask, passes, "acme " + acmeAgent},
		certified{"I-01 a rule that wants a workload lets it pass", strict, uris(acmeAgent), http1("GET", "/v1/secure"), passes, "acme " + acmeAgent},
		certified{"I-02 one that is on no list is refused", strict, uris("spiffe://demo/ns/acme/sa/other"), ask, isNobody, ""},
		certified{"I-02 Envoy ends the handshake of another trust domain", strict, uris("spiffe://evil/ns/acme/sa/agent"), ask, byEnvoy, ""},
		certified{"I-02 Envoy ends the handshake of a trust domain that ours begins", strict, uris("spiffe://demo.evil/ns/acme/sa/agent"), ask, byEnvoy, ""},
		certified{"I-02 Envoy ends the handshake of an upper case scheme", strict, uris("SPIFFE://demo/ns/acme/sa/agent"), ask, byEnvoy, ""},
		certified{"I-03 a service account with a dash passes", open, uris(acmeDashed), ask, passes, "acme " + acmeDashed},
		certified{"I-03 a dot for a dash is another service account", open, uris("spiffe://demo/ns/acme/sa/cert-manager.io"), ask, isNobody, ""},
		certified{"I-05 several ids are refused, though Envoy tells only the first", open, uris(acmeAgent, umbrellaAgent), ask, isNobody, ""},
		certified{"I-05 several ids in the other order are refused", open, uris(umbrellaAgent, acmeAgent), ask, isNobody, ""},
		certified{"I-05 several ids are refused where one is of another mesh", strict, uris(acmeAgent, "spiffe://evil/ns/acme/sa/agent"), ask, isNobody, ""},
		certified{"I-05 several ids do not help where Envoy looks for one of ours", strict, uris("https://acme", acmeAgent), ask, isNobody, ""},
		certified{"I-05 one id twice is refused", open, uris(acmeAgent, acmeAgent), ask, isNobody, ""},
		certified{"I-05 a NUL ends no id", open, uris(acmeAgent + "\x00.evil"), ask, isNobody, ""},
		certified{"I-05 a line break makes no id", open, uris(acmeAgent + "\r\nx: y"), ask, isNobody, ""},
		certified{"I-05 bytes that are no UTF-8 get a decision", open, uris(acmeAgent + "\xff"), ask, isNobody, ""},
		certified{"I-05 an OTHERNAME is no id", open, []asn1.RawValue{san(otherName, "\x06\x03\x2a\x03\x04\xa0\x20\x0c\x1e"+acmeAgent)}, ask, isNobody, ""},
		certified{"I-05 a mail address is no id", open, []asn1.RawValue{san(email, acmeAgent)}, ask, isNobody, ""},
		certified{"I-05 a DNS name that looks like an id is none, though Envoy tells it as the principal", open, []asn1.RawValue{san(dnsName, acmeAgent)}, ask, isNobody, ""},
		certified{"I-05 a DNS name that looks like an id does not get past Envoy", strict, []asn1.RawValue{san(dnsName, acmeAgent)}, ask, byEnvoy, ""},
	)
	for what, id := range map[string]string{
		"another trust domain": "spiffe://evil/ns/acme/sa/agent", "a segment more": acmeAgent + "/x", "a slash at the end": acmeAgent + "/",
		"a percent-encoded slash": "spiffe://demo/ns/acme%2fsa/agent", "an upper case scheme": "SPIFFE://demo/ns/acme/sa/agent",
		"an upper case trust domain": "spiffe://DEMO/ns/acme/sa/agent", "a path that goes up": "spiffe://demo/ns/acme/sa/x/../agent",
		"an empty segment": "spiffe://demo//ns/acme/sa/agent", "a query": acmeAgent + "?x", "a fragment": acmeAgent + "#x",
		"a port": "spiffe://demo:443/ns/acme/sa/agent", "a user": "spiffe://x@demo/ns/acme/sa/agent", "a blank before it": " " + acmeAgent,
		"a blank after it": acmeAgent + " ", "an id of 3 KiB": acmeAgent + strings.Repeat("a", 3<<10), "nothing": "",
		"the last letter missing": strings.TrimSuffix(acmeAgent, "t"), "a homoglyph": strings.Replace(acmeAgent, "a", "а", 1),
	} {
		want := isNobody
		if len(id) > 2048 {
			want = isMalformed
		}
		all = append(all, certified{"I-02 " + what + " is another id", open, uris(id), ask, want, ""})
	}
	return all
}

func withForwarded(strict, told, plain *hop, keys map[string]string) (all []certified) {
	xfcc := func(value string, more ...string) string {
		return http1("GET", "/v1/calls", append(more, "x-forwarded-client-cert: "+value)...)
	}
	const by = "By=" + envoyID + ";Hash=3f5a;"
	good := verdict{http.StatusOK, admitted}
	all = append(all,
		certified{"I-04 Envoy writes over what a caller says about its certificate", strict, uris(umbrellaAgent), xfcc("URI=" + acmeAgent), good, "umbrella " + umbrellaAgent},
		certified{"I-04 Envoy takes away what a caller says in plain text", plain, nil, xfcc("URI=" + acmeAgent), isNobody, ""},
		certified{"I-04 a workload that is no forwarder is not believed", told, uris(umbrellaAgent), xfcc("URI=" + acmeAgent), good, "umbrella " + umbrellaAgent},
		certified{"I-04 a stranger that is no forwarder is not believed", told, uris(serviceC), xfcc("URI=" + acmeAgent), isNobody, ""},
		certified{"I-04 an id that a forwarder's begins with is no forwarder", told, uris(envoyID + "2"), xfcc("URI=" + acmeAgent), isNobody, ""},
		certified{"I-04 a forwarder with a second id is not believed", told, uris(envoyID, serviceC), xfcc("By=x;URI=" + envoyID + ";URI=" + serviceC), isNobody, ""},
		certified{"I-04 a forwarder that says nothing is nobody itself", told, uris(envoyID), http1("GET", "/v1/calls"), isNobody, ""},
		certified{"I-04 what a forwarder says conflicts with a key of another tenant", told, uris(envoyID), xfcc("URI="+acmeAgent, "x-api-key: "+keys["umbrella"]), isNobody, ""},
		certified{"I-04 what a forwarder says beside a key of that tenant is fine", told, uris(envoyID), xfcc("URI="+acmeAgent, "x-api-key: "+keys["acme"]), good, "acme " + strings.SplitN(keys["acme"], "_", 3)[1]},
	)
	for what, value := range map[string]string{
		"the client alone": "URI=" + acmeAgent, "what Envoy writes": by + `Subject="CN=x,O=y";URI=` + acmeAgent, "the pairs in another order": "URI=" + acmeAgent + ";" + by + `Subject=""`,
		"quoted commas and an escaped quote": by + `Subject="O=\"a,b\",CN=c;URI=d";URI=` + acmeAgent,
	} {
		all = append(all, certified{"I-04 a forwarder that says " + what + " is believed", told, uris(envoyID), xfcc(value), good, "acme " + acmeAgent})
	}
	for what, value := range map[string]string{
		"two clients": "URI=" + umbrellaAgent + ",URI=" + acmeAgent, "two clients with a blank between": "URI=" + acmeAgent + ", URI=" + acmeAgent,
		"one client with two ids": "URI=" + acmeAgent + ";URI=" + umbrellaAgent, "an id in an open quote": `Subject="CN=a;URI=` + acmeAgent,
		"an id in a quoted subject alone": `Subject="URI=` + acmeAgent + `"`, "an id after an escaped backslash": `Subject="a\\";URI=` + acmeAgent + `;x="`,
		"no id": by + `Subject="CN=x"`, "an empty id": by + "URI=", "an id that is none": "URI=https://acme", "a DNS name that looks like one": by + "DNS=" + acmeAgent,
		"17 KiB": "Subject=\"" + strings.Repeat("x", 17<<10) + "\";URI=" + acmeAgent,
	} {
		all = append(all, certified{"I-04 a forwarder that says " + what + " is refused", told, uris(envoyID), xfcc(value), isNobody, ""})
	}
	return all
}

func TestAttacksOnCredentials(t *testing.T) {
	for wiring, config := range map[string]string{"at the gateway": deploy.Demo, "in a sidecar": deploy.Sidecar, "by ext_proc": deploy.ExtProc} {
		t.Run(wiring, func(t *testing.T) { testCredentials(t, stage(t, config, stack.Options{}), config == deploy.ExtProc) })
	}
}

func testCredentials(t *testing.T, s *scene, extProc bool) {
	s.rule(t, "calls", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/calls/**"}}})
	key, other := s.tenant(t, "acme"), s.tenant(t, "umbrella")
	const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.AAAA"
	ask := func(lines ...string) string { return http1("GET", "/v1/calls", lines...) }
	id := strings.SplitN(key, "_", 3)[1]
	attacks := []attack{
		{name: "I-01 nobody is refused", request: ask(), want: isNobody},
		{name: "I-06 a token and a key of another tenant are refused", request: ask("authorization: Bearer "+jwt, "x-api-key: "+other), want: isNobody},
		{name: "I-06 a bad token does not fall back to a good key", request: ask("x-api-key: "+key, "authorization: Bearer "+jwt), want: isNobody},
		{name: "I-06 two keys of two tenants are refused", request: ask("x-api-key: "+key, "x-api-key: "+other), want: isNobody},
		{name: "I-06 one key twice is refused", request: ask("x-api-key: "+key, "x-api-key: "+key), want: isNobody},
		{name: "I-06 two keys in one value are refused", request: ask("x-api-key: " + key + ", " + other), want: isNobody},
		{name: "I-06 a key in each place is refused", request: ask("x-api-key: "+key, "authorization: Bearer "+key), want: isNobody},
		{name: "I-07 a key in the query is none", request: http1("GET", "/v1/calls?x-api-key="+key+"&access_token="+key), want: isNobody},
		{name: "I-07 a key in a cookie is none", request: ask("cookie: x-api-key=" + key + "; authorization=Bearer " + key), want: isNobody},
		{name: "I-07 a key in a look-alike of its header is none", request: ask("x-apikey: "+key, "api-key: "+key, "proxy-authorization: Bearer "+key, "x-authorization: Bearer "+key), want: isNobody},
		{name: "I-07 two authorization headers are refused", request: ask("authorization: Bearer "+key, "authorization: Bearer "+key), want: isNobody},
		{name: "I-07 two authorization headers are refused though one is not ours", request: ask("authorization: Basic eDp5", "authorization: Bearer "+key), want: isNobody},
		{name: "I-07 Bearer,Bearer is refused", request: ask("authorization: Bearer " + key + ",Bearer " + key), want: isNobody},
		{name: "I-07 Bearer,Bearer without keys is refused", request: ask("authorization: Bearer,Bearer"), want: isNobody},
		{name: "I-07 Bearer Bearer is refused", request: ask("authorization: Bearer Bearer " + key), want: isNobody},
		{name: "I-07 Bearer with nothing is refused", request: ask("authorization: Bearer"), want: isNobody},
		{name: "I-07 another scheme is none", request: ask("authorization: Basic " + key), want: isNobody},
		{name: "I-07 a scheme that Bearer begins is none", request: ask("authorization: Bearerx " + key), want: isNobody},
		{name: "I-07 the case and the blanks of Bearer do not count", request: ask("authorization:   bEARER \t " + key + "  "), want: passes, check: asAcme},
		{name: "I-08 an unknown prefix is refused", request: ask("x-api-key: xyz_" + id + "_" + strings.Repeat("A", 43)), want: isNobody},
		{name: "I-08 a known id with a wrong secret is refused", request: ask("x-api-key: slk_" + id + "_" + strings.Repeat("A", 43)), want: isNobody},
		{name: "I-08 a key without its last letter is refused", request: ask("x-api-key: " + key[:len(key)-1]), want: isNobody},
		{name: "I-08 a key with a letter more is refused", request: ask("x-api-key: " + key + "A"), want: isNobody},
		{name: "I-08 a key in upper case is refused", request: ask("x-api-key: " + strings.ToUpper(key)), want: isNobody},
		{name: "I-08 an empty key is refused", request: ask("x-api-key:"), want: isNobody},
		{name: "I-08 a key of 40 KiB is refused", request: ask("x-api-key: " + strings.Repeat("A", 40<<10)), want: isNobody},
		{name: "I-08 a key of 1 MB does not get past Envoy", request: ask("x-api-key: " + strings.Repeat("A", 1<<20)), want: byEnvoy},
		{name: "I-08 the right key passes", request: ask("x-api-key: " + key), want: passes, check: asAcme},
	}
	// Envoy says 431, if the caller is still listening.
	for i := range attacks {
		if strings.Contains(attacks[i].name, "1 MB") {
			a := attacks[i]
			attacks = append(attacks[:i], attacks[i+1:]...)
			t.Run(a.name, func(t *testing.T) { s.tooLarge(t, a.request, extProc) })
			break
		}
	}
	s.run(t, attacks)
	testKeysThatEnd(t, s, key)
}

// tooLarge wants Envoy to refuse a request by itself.
func (s *scene) tooLarge(t *testing.T, request string, extProc bool) {
	t.Helper()
	records, asked, contacts := len(s.decisions(t)), s.asked(t), s.witness.contacts()
	got := s.raw(t, request)
	if got.status != http.StatusRequestHeaderFieldsTooLarge && !got.closed {
		t.Errorf("status %d", got.status)
	}
	// By ext_proc sluiced sees Envoy's own answer go out, and has nothing to decide.
	if len(s.decisions(t)) != records || !extProc && s.asked(t) != asked || s.witness.contacts() != contacts {
		t.Error("sluiced was asked, or the upstream contacted")
	}
}

func asAcme(t *testing.T, e ending) {
	seen := e.seen
	t.Helper()
	if v := seen.values(tenant.Header); len(v) != 1 || v[0] != "acme" {
		t.Errorf("the upstream got tenant %q", v)
	}
	for _, name := range []string{"x-api-key", "authorization"} {
		if v := seen.values(name); len(v) != 0 {
			t.Errorf("the upstream got %s", name)
		}
	}
}

func testKeysThatEnd(t *testing.T, s *scene, first string) {
	try := func(key string, want verdict) {
		t.Helper()
		s.judge(t, want, func() reply { return s.raw(t, http1("GET", "/v1/calls", "x-api-key: "+key)) })
	}
	create := func(parent string, key *quotav1.ApiKey) *quotav1.CreateApiKeyResponse {
		made, err := s.quota.CreateApiKey(s.admin(t), &quotav1.CreateApiKeyRequest{Parent: parent, ApiKey: key})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	t.Run("I-08 both keys pass while one follows the other, and the old one ends by itself", func(t *testing.T) {
		next := create("tenants/acme", nil)
		end := time.Now().Add(5 * time.Second)
		old := create("tenants/acme", &quotav1.ApiKey{ExpireTime: timestamppb.New(end)})
		try(old.GetSecret(), passes)
		try(next.GetSecret(), passes)
		await.That(t, "the old key has expired", func() bool { return time.Now().After(end) })
		try(old.GetSecret(), isNobody)
		try(next.GetSecret(), passes)
	})
	t.Run("I-08 a revoked key is refused at the next request, and the others pass", func(t *testing.T) {
		made := create("tenants/acme", nil)
		try(made.GetSecret(), passes)
		if _, err := s.quota.DeleteApiKey(s.admin(t), &quotav1.DeleteApiKeyRequest{Name: made.GetApiKey().GetName()}); err != nil {
			t.Fatal(err)
		}
		try(made.GetSecret(), isNobody)
		try(first, passes)
	})
	t.Run("I-08 the key of a deleted tenant is refused, and stays so for a new tenant of that name", func(t *testing.T) {
		gone := s.tenant(t, "gone")
		try(gone, passes)
		if _, err := s.quota.DeleteTenant(s.admin(t), &quotav1.DeleteTenantRequest{Name: "tenants/gone", Force: true}); err != nil {
			t.Fatal(err)
		}
		try(gone, isNobody)
		if _, err := s.quota.CreateTenant(s.admin(t), &quotav1.CreateTenantRequest{TenantId: "gone", Tenant: &quotav1.Tenant{Plan: "plans/gone"}}); err != nil {
			t.Fatal(err)
		}
		try(gone, isNobody)
	})
}
