package trust_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
)

func goodIssuer(change func(*trust.Issuer)) trust.Issuer {
	i := trust.Issuer{
		Name: "idp", Issuer: "https://id.example.com/realms/acme", Audiences: []string{"api"},
		JWKSURI: "https://id.example.com/realms/acme/keys", Tenant: "acme",
	}
	if change != nil {
		change(&i)
	}
	return i
}

// issuerProblem is a problem without its sentences.
type issuerProblem struct {
	index int
	field string
	item  int
	wrong string // part of it
}

func TestCompileIssuersReportsWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []trust.Issuer
		want []issuerProblem
	}{
		{
			"nothing is everything missing",
			[]trust.Issuer{{}},
			[]issuerProblem{
				{0, "name", -1, "is missing"},
				{0, "issuer", -1, "is missing"},
				{0, "jwks_uri", -1, "is missing"},
				{0, "tenant", -1, "is missing"},
				{0, "audiences", -1, "is missing"},
			},
		},
		{"a name that is none", []trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Name = "Id/P" })}, []issuerProblem{{0, "name", -1, `"Id/P" is no name`}}},
		{
			"two issuers of one name",
			[]trust.Issuer{goodIssuer(nil), goodIssuer(func(i *trust.Issuer) { i.Issuer = "https://other.example.com" })},
			[]issuerProblem{{1, "name", -1, `"idp" is already issuer 0`}},
		},
		{
			"an empty audience, an audience twice",
			[]trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Audiences = []string{"a", "", "a"} })},
			[]issuerProblem{{0, "audiences", 1, "is not accepted"}, {0, "audiences", 2, "twice"}},
		},
		{
			"J-02 no algorithm with a shared secret, and never none",
			[]trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Algorithms = []string{"HS256", "none", "rs256", "ES256", "ES256K", ""} })},
			[]issuerProblem{
				{0, "algorithms", 0, `"HS256"`},
				{0, "algorithms", 1, `"none"`},
				{0, "algorithms", 2, `"rs256"`},
				{0, "algorithms", 4, `"ES256K"`},
				{0, "algorithms", 5, `""`},
			},
		},
		{"a type with a space", []trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Types = []string{"at jwt"} })}, []issuerProblem{{0, "types", 0, "not accepted"}}},
		{"a tenant and a claim", []trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.TenantClaim = "tenant" })}, []issuerProblem{{0, "tenant", -1, "more than one way"}}},
		{"a tenant that is no id", []trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Tenant = "Acme" })}, []issuerProblem{{0, "tenant", -1, `"Acme" is no tenant id`}}},
		{
			"claims that are no names",
			[]trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Tenant, i.TenantClaim, i.RolesClaim = "", "a..b", "a.b.c.d.e.f.g.h" })},
			[]issuerProblem{{0, "tenant_claim", -1, `"a..b"`}, {0, "roles_claim", -1, "is no name of a claim"}},
		},
		{
			"a realm in the keys alone",
			[]trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.JWKSURI = "https://id.example.com/{tenant}/keys" })},
			[]issuerProblem{{0, "jwks_uri", -1, "the issuer has none"}},
		},
		{"more items than are read", []trust.Issuer{goodIssuer(func(i *trust.Issuer) { i.Audiences = make([]string, 65) })}, []issuerProblem{{0, "audiences", -1, "there are 65"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			issuers, problems := trust.Compile(tt.in)
			if issuers != nil {
				t.Error("there are issuers despite a problem")
			}
			for n, p := range problems {
				if p.Right == "" {
					t.Errorf("%+v does not say what would be right", p)
				}
				if n >= len(tt.want) {
					t.Errorf("too much: %+v", p)
				} else if w := tt.want[n]; p.Index != w.index || p.Field != w.field || p.Item != w.item || !strings.Contains(p.Wrong, w.wrong) {
					t.Errorf("got %+v, want %+v", p, w)
				}
			}
			if len(problems) < len(tt.want) {
				t.Errorf("missing: %+v", tt.want[len(problems):])
			}
		})
	}
}

func TestURLsOfIssuers(t *testing.T) {
	for _, tt := range []struct{ url, wrongIssuer, wrongKeys string }{
		{"https://id.example.com", "", ""},
		{"https://id.example.com/", "", ""},
		{"https://id.example.com:8443/a/b.c", "", ""},
		{"https://id.example.com/keys?v=1", "has a query", ""},
		{"http://id.example.com", "does not begin with https://", "does not begin with https://"},
		{"HTTPS://id.example.com", "does not begin with https://", "does not begin with https://"},
		{"file:///etc/passwd", "does not begin with https://", "does not begin with https://"},
		{"id.example.com", "does not begin with https://", "does not begin with https://"},
		{"https://", "no URL with a host", "no URL with a host"},
		{"https://:443/", "no URL with a host", "no URL with a host"},
		{"https://a:b/", "no URL with a host", "no URL with a host"},
		{"https://u:p@id.example.com", "has a user", "has a user"},
		{"https://id.example.com/#", "has a fragment", "has a fragment"},
		{"https://id.example.com/a b", "visible ASCII", "visible ASCII"},
		{"https://id.example.com/ä", "visible ASCII", "visible ASCII"},
		{"https://id.example.com/\\a", "backslash", "backslash"},
		{"https://id.example.com/{realm}", "brace", "brace"},
		{"https://id.example.com/" + strings.Repeat("a", 2048), "longer than", "longer than"},
		{"https://id.example.com/{tenant}/{tenant}", "more than once", "more than once"},
		{"https://id.example.com/a{tenant}", "as part of", "as part of"},
		{"https://id.example.com/{tenant}.x", "as part of", "as part of"},
		{"https://a-{tenant}.example.com", "as part of", "as part of"},
		{"https://{tenant}", "the host's end", "the host's end"},
		{"https://id.{tenant}", "the host's end", "the host's end"},
		{"https://id.{tenant}:8443/a", "the host's end", "the host's end"},
		{"https://id.example.com:{tenant}", "no URL with a host", "no URL with a host"},
		{"https://{tenant}@id.example.com", "has a user", "has a user"},
		{"https://id.example.com/?t={tenant}", "has a query", "as part of"},
	} {
		t.Run("the URL "+tt.url, func(t *testing.T) {
			for _, c := range []struct{ field, wrong string }{{"issuer", tt.wrongIssuer}, {"jwks_uri", tt.wrongKeys}} {
				_, problems := trust.Compile([]trust.Issuer{goodIssuer(func(i *trust.Issuer) {
					if c.field == "issuer" {
						i.Issuer = tt.url
					} else {
						i.JWKSURI = tt.url
					}
				})})
				n := slices.IndexFunc(problems, func(p authz.Problem) bool { return p.Field == c.field })
				switch {
				case c.wrong == "" && n >= 0:
					t.Errorf("%s: %+v", c.field, problems[n])
				case c.wrong != "" && n < 0:
					t.Errorf("%s is accepted", c.field)
				case c.wrong != "" && !strings.Contains(problems[n].Wrong, c.wrong):
					t.Errorf("%s %s, want %q", c.field, problems[n].Wrong, c.wrong)
				}
			}
		})
	}
}

func realmIssuer(name, iss string) trust.Issuer {
	return trust.Issuer{Name: name, Issuer: iss, Audiences: []string{"api"}, JWKSURI: "https://id.example.com/keys"}
}

func TestAnIssBelongsToOneIssuer(t *testing.T) {
	for _, tt := range []struct {
		a, b  string
		clash bool
	}{
		{"https://id/a", "https://id/a", true},
		{"https://id/a", "https://id/a/", false},
		{"https://id/a", "https://id/A", false},
		{"https://id/{tenant}", "https://id/acme", true},
		{"https://id/{tenant}", "https://id/Acme", false},
		{"https://id/{tenant}", "https://id/acme/", false},
		{"https://id/{tenant}", "https://id/-", false},
		{"https://id/{tenant}", "https://id/{tenant}", true},
		{"https://id/{tenant}", "https://id/v2/{tenant}", false},
		{"https://id/{tenant}/x", "https://id/foo/{tenant}", true},
		{"https://{tenant}.id.com/x", "https://foo.id.com/{tenant}", true},
		{"https://{tenant}.id.com", "https://a.b.id.com", false},
		{"https://{tenant}.id.com", "https://a.id.com:8443", false},
	} {
		t.Run(tt.a+" beside "+tt.b, func(t *testing.T) {
			x, y := realmIssuer("x", tt.a), realmIssuer("y", tt.b)
			for _, i := range []*trust.Issuer{&x, &y} {
				if !strings.Contains(i.Issuer, trust.Realm) {
					i.Tenant = "acme"
				}
			}
			for _, in := range [][]trust.Issuer{{x, y}, {y, x}} {
				_, problems := trust.Compile(in)
				if got := len(problems) == 1 && problems[0].Index == 1 && strings.Contains(problems[0].Wrong, "issuer 0"); got != tt.clash {
					t.Errorf("got %+v", problems)
				}
			}
		})
	}
}

func TestFindIsExact(t *testing.T) {
	exact := goodIssuer(nil)
	slash := goodIssuer(func(i *trust.Issuer) { i.Name, i.Issuer, i.Tenant = "slash", "https://id.example.com/", "umbrella" })
	path, host := realmIssuer("path", "https://id.example.com/t/{tenant}"), realmIssuer("host", "https://{tenant}.login.example.com/")
	issuers, problems := trust.Compile([]trust.Issuer{exact, slash, path, host})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, tt := range []struct{ iss, name, realm string }{
		{"https://id.example.com/realms/acme", "idp", ""},
		{"https://id.example.com/realms/acme/", "", ""},
		{"https://ID.example.com/realms/acme", "", ""},
		{"https://id.example.com:443/realms/acme", "", ""},
		{"https://id.example.com/realms/%61cme", "", ""},
		{"https://id.example.com/", "slash", ""},
		{"https://id.example.com", "", ""},
		{"", "", ""},
		{"https://id.example.com/t/acme", "path", "acme"},
		{"https://id.example.com/t/acme/", "", ""},
		{"https://id.example.com/t/", "", ""},
		{"https://id.example.com/t/a/b", "", ""},
		{"https://id.example.com/t/Acme", "", ""},
		{"https://id.example.com/t/..", "", ""},
		{"https://id.example.com/t/{tenant}", "", ""},
		{"https://acme.login.example.com/", "host", "acme"},
		{"https://a.b.login.example.com/", "", ""},
		{"https://evil.com/.login.example.com/", "", ""},
		{"https://login.example.com/", "", ""},
	} {
		t.Run("the iss "+tt.iss, func(t *testing.T) {
			found, realm := issuers.Find(tt.iss)
			name := ""
			if found != nil {
				name = found.Name
			}
			if name != tt.name || realm != tt.realm {
				t.Errorf("got %q %q, want %q %q", name, realm, tt.name, tt.realm)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { issuers.Find("https://acme.login.example.com/") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var none *trust.Issuers
	if found, _ := none.Find("https://id.example.com/"); found != nil || len(none.All()) != 0 {
		t.Error("no issuers know one")
	}
}

func TestDefaultsOfAnIssuer(t *testing.T) {
	in := []trust.Issuer{goodIssuer(nil)}
	issuers, problems := trust.Compile(in)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := issuers.All()[0]
	if !slices.Equal(got.Algorithms, []string{"RS256", "ES256", "EdDSA"}) || !slices.Equal(got.Types, []string{"at+jwt", "JWT", "none"}) {
		t.Errorf("got %+v", got)
	}
	in[0].Audiences[0] = "changed"
	if got.Audiences[0] != "api" {
		t.Error("a compiled issuer changes with what it was made of")
	}
	if k := got.Keys(""); k != in[0].JWKSURI {
		t.Error(k)
	}
	r := trust.Issuer{JWKSURI: "https://id/{tenant}/keys"}
	if k := r.Keys("acme"); k != "https://id/acme/keys" {
		t.Error(k)
	}
}

func TestAVoucherSeesEveryField(t *testing.T) {
	a := goodIssuer(nil)
	if b := goodIssuer(nil); a.Voucher() != b.Voucher() {
		t.Error("an issuer and its copy have two vouchers")
	}
	for n := range reflect.TypeFor[trust.Issuer]().NumField() {
		b := goodIssuer(nil)
		switch f := reflect.ValueOf(&b).Elem().Field(n); f.Kind() {
		case reflect.String:
			f.SetString("other")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"other"}))
		default:
			t.Fatalf("a field of kind %v", f.Kind())
		}
		if a.Voucher() == b.Voucher() {
			t.Errorf("%s makes no difference", reflect.TypeFor[trust.Issuer]().Field(n).Name)
		}
	}
}

func TestIssuersVouchForWhatTheyAre(t *testing.T) {
	compile := func(all ...trust.Issuer) *trust.Issuers {
		out, problems := trust.Compile(all)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return out
	}
	first := compile(goodIssuer(nil))
	voucher := first.All()[0].Voucher()
	if again := compile(goodIssuer(nil)); !first.Vouches(voucher) || !again.Vouches(voucher) {
		t.Error("the same issuer, compiled again, does not vouch")
	}
	wider := goodIssuer(func(i *trust.Issuer) { i.Audiences = append(i.Audiences, "more") })
	for name, issuers := range map[string]*trust.Issuers{"nil": nil, "none": compile(), "another audience": compile(wider)} {
		if issuers.Vouches(voucher) || issuers.Vouches([16]byte{}) {
			t.Errorf("%s: it vouches", name)
		}
	}
}

// Two issuers that compile together never both know an iss.
func TestWhatCompilesIsNotAmbiguous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"a", "b", "{tenant}", ".", "/", "-", "a-b"})
		url := func(label string) string {
			return "https://h.x/" + strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(t, label), "")
		}
		a, b := realmIssuer("a", url("a")), realmIssuer("b", url("b"))
		for _, i := range []*trust.Issuer{&a, &b} {
			if !strings.Contains(i.Issuer, trust.Realm) {
				i.Tenant = "acme"
			}
		}
		if _, problems := trust.Compile([]trust.Issuer{a, b}); len(problems) > 0 {
			return
		}
		onlyA, _ := trust.Compile([]trust.Issuer{a})
		onlyB, _ := trust.Compile([]trust.Issuer{b})
		id := rapid.SampledFrom([]string{"a", "b", "a-b"}).Draw(t, "id")
		for _, i := range []trust.Issuer{a, b} {
			iss := strings.ReplaceAll(i.Issuer, trust.Realm, id)
			x, _ := onlyA.Find(iss)
			y, _ := onlyB.Find(iss)
			if x != nil && y != nil {
				t.Fatalf("%q is of %q and of %q", iss, a.Issuer, b.Issuer)
			}
		}
	})
}

func TestClaimPath(t *testing.T) {
	for in, want := range map[string][]string{
		"tenant": {"tenant"}, "realm_access.roles": {"realm_access", "roles"}, "https://acme.com/tenant": {"https://acme.com/tenant"},
	} {
		if got := trust.ClaimPath(in); !slices.Equal(got, want) {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("https://{tenant}.id.com/", "https://acme.id.com/")
	f.Add("https://id.com/{tenant}/x", "https://id.com/acme/x")
	f.Fuzz(func(t *testing.T, pattern, iss string) {
		in := realmIssuer("a", pattern)
		if !strings.Contains(pattern, trust.Realm) {
			in.Tenant = "acme"
		}
		issuers, problems := trust.Compile([]trust.Issuer{in})
		if len(problems) > 0 {
			return
		}
		found, realm := issuers.Find(iss)
		if found != nil && strings.Replace(found.Issuer, trust.Realm, realm, 1) != iss {
			t.Errorf("%q is found as %q with %q", iss, found.Issuer, realm)
		}
	})
}
