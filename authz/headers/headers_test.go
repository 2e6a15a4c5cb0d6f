package headers_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz/headers"
)

type pair struct{ name, value string }

func read(pairs ...pair) *headers.Reader {
	r := new(headers.Reader)
	for _, p := range pairs {
		r.Add([]byte(p.name), []byte(p.value))
	}
	return r
}

func TestEveryCredentialIsSeen(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []pair
		want []string
	}{
		{"no header is no credential", nil, nil},
		{"a key", []pair{{"x-api-key", "a"}}, []string{"a"}},
		{"a key in another case of the name", []pair{{"X-API-Key", "a"}}, []string{"a"}},
		{"an empty key is a credential, a bad one", []pair{{"x-api-key", ""}}, []string{""}},
		{"a bearer", []pair{{"authorization", "Bearer a"}}, []string{"a"}},
		{"a bearer in any case, with room", []pair{{"authorization", "  bEaReR \t a  "}}, []string{"a"}},
		{"an empty bearer is a bad credential", []pair{{"authorization", "Bearer"}}, []string{""}},
		{"a scheme that starts like bearer is another one", []pair{{"authorization", "BearerX a"}}, nil},
		{"basic belongs to the upstream", []pair{{"authorization", "Basic YQ=="}}, nil},
		{"digest has commas", []pair{{"authorization", `Digest a="1", b="2"`}}, nil},
		{"two headers", []pair{{"x-api-key", "a"}, {"x-api-key", "b"}}, []string{"a", "b"}},
		{"two headers that Envoy joined", []pair{{"x-api-key", "a,b"}}, []string{"a", "b"}},
		{"the same key twice is two", []pair{{"x-api-key", "a, a"}}, []string{"a", "a"}},
		{"a key and a bearer", []pair{{"x-api-key", "a"}, {"authorization", "Bearer b"}}, []string{"a", "b"}},
		{"a bearer joined with basic", []pair{{"authorization", "Basic x,Bearer a"}}, []string{"Basic x", "Bearer a"}},
		{"a comma in a bearer", []pair{{"authorization", "Bearer a,b"}}, []string{"Bearer a", "b"}},
		{"more than four are four, and too many", []pair{{"x-api-key", "a,b,c,d,e,f"}}, []string{"a", "b", "c", "d"}},
		{"bytes that are no text", []pair{{"x-api-key", "\xff\x00"}}, []string{"\xff\x00"}},
		{"a look-alike name is none", []pair{{"x_api_key", "a"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := read(tt.in...).Credentials().APIKeys; !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTokensAreToldFromKeys(t *testing.T) {
	long := "ey." + strings.Repeat("a", 9000) + ".b"
	for _, tt := range []struct {
		name         string
		in           []pair
		keys, tokens []string
	}{
		{"a token", []pair{{"authorization", "Bearer eyJh.eyJi.c"}}, nil, []string{"eyJh.eyJi.c"}},
		{"a token without a signature", []pair{{"authorization", "Bearer eyJh.eyJi."}}, nil, []string{"eyJh.eyJi."}},
		{"one dot is no token", []pair{{"authorization", "Bearer eyJh.b"}}, []string{"eyJh.b"}, nil},
		{"four dots (JWE) are no token", []pair{{"authorization", "Bearer eyJh.a.b.c.d"}}, []string{"eyJh.a.b.c.d"}, nil},
		{"what does not begin with ey is no token", []pair{{"authorization", "Bearer a.b.c"}}, []string{"a.b.c"}, nil},
		{"a token in x-api-key is a key, a bad one", []pair{{"x-api-key", "eyJh.b.c"}}, []string{"eyJh.b.c"}, nil},
		{"a long token is cut where it is too long", []pair{{"authorization", "Bearer " + long}}, nil, []string{long[:8193]}},
		{"I-06 a key and a token are both seen", []pair{{"x-api-key", "a"}, {"authorization", "Bearer ey.b.c"}}, []string{"a"}, []string{"ey.b.c"}},
		{"I-06 two tokens in two headers are both seen", []pair{{"authorization", "Bearer ey.b.c"}, {"authorization", "Bearer ey.d.e"}}, nil, []string{"ey.b.c", "ey.d.e"}},
		{"I-07 two bearers that a proxy joined are two", []pair{{"authorization", "Bearer ey.b.c,Bearer ey.b.c"}}, []string{"Bearer ey.b.c", "Bearer ey.b.c"}, nil},
		{"I-07 a token that a proxy joined with something is not one", []pair{{"authorization", "Bearer ey.b.c, x"}}, []string{"Bearer ey.b.c", "x"}, nil},
		{"I-07 the case and the blanks of Bearer do not count", []pair{{"Authorization", "  BEARER   ey.b.c  "}}, nil, []string{"ey.b.c"}},
		{"I-07 no query string, no cookie, no look-alike", []pair{
			{":path", "/?access_token=ey.b.c&api_key=a"}, {"cookie", "authorization=Bearer ey.b.c"}, {"x_api_key", "a"},
			{"proxy-authorization", "Bearer ey.b.c"}, {"x-authorization", "Bearer ey.b.c"},
		}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := read(tt.in...)
			if got := r.Credentials().APIKeys; !slices.Equal(got, tt.keys) {
				t.Errorf("keys %q, want %q", got, tt.keys)
			}
			if got := r.Credentials().Tokens; !slices.Equal(got, tt.tokens) {
				t.Errorf("tokens %.40q, want %.40q", got, tt.tokens)
			}
			strip := r.AppendStripped(nil, func(string) bool { return false })
			if n := len(tt.tokens) > 0; n != slices.Contains(strip, "authorization") && len(tt.keys) == 0 {
				t.Errorf("stripped: %q", strip)
			}
		})
	}
}

func TestWhatProxiesSayIsKept(t *testing.T) {
	long := strings.Repeat("a", 20_000)
	r := read(
		pair{"X-Forwarded-Client-Cert", "By=a;URI=b"}, pair{"x-forwarded-client-cert", long},
		pair{"x-sluice-tenant-token", " t1 "}, pair{"X-Sluice-Tenant-Token", "t2"}, pair{"x_sluice_tenant_token", "t3"},
	)
	if got := r.Credentials().XFCC; len(got) != 2 || got[0] != "By=a;URI=b" || len(got[1]) != 16<<10+1 {
		t.Errorf("XFCC %.40q", got)
	}
	if got := r.Credentials().Tenant; !slices.Equal(got, []string{"t1", "t2"}) {
		t.Errorf("tenant tokens %q", got)
	}
	want := []string{"x-sluice-tenant-token", "x_sluice_tenant_token"}
	if got := r.AppendStripped(nil, func(string) bool { return false }); !slices.Equal(got, want) {
		t.Errorf("stripped %q, want %q: the tenant token, not the certificate", got, want)
	}
}

func TestWhatCanBeReadTwoWaysIsMalformed(t *testing.T) {
	many := make([]pair, headers.MaxCount+1)
	reserved := make([]pair, 65)
	for i := range many {
		many[i] = pair{"a", "b"}
	}
	for i := range reserved {
		reserved[i] = pair{"x-tenant-id", "b"}
	}
	for _, tt := range []struct {
		want string
		in   []pair
	}{
		{"", []pair{{":authority", "a"}, {":path", "/"}, {":method", "GET"}, {":scheme", "https"}, {"a", "b"}, {"a", "b"}}},
		{"there is more than one :authority", []pair{{":authority", "a"}, {":authority", "a"}}},
		{"the request has two methods, paths or hosts", []pair{{":authority", "a.example.com"}, {"host", "b.example.com"}}},
		{"the request has two methods, paths or hosts", []pair{{"Host", "b.example.com"}, {":authority", "a.example.com"}}},
		{"the request has two methods, paths or hosts", []pair{{"host", "a.example.com:444"}, {":authority", "a.example.com"}}},
		{"there is more than one host", []pair{{":authority", "a"}, {"host", "a"}, {"host", "a"}}},
		{"", []pair{{":authority", "a.example.com"}, {"host", "a.example.com"}}},
		{"the :authority names more than one host", []pair{{":authority", "a,b"}}},
		{"there is more than one :path", []pair{{":path", "a"}, {":path", "a"}}},
		{"there is more than one :method", []pair{{":method", "a"}, {":method", "a"}}},
		{"there is more than one :scheme", []pair{{":scheme", "a"}, {":scheme", "a"}}},
		{"there is more than one content-type", []pair{{"content-type", "a"}, {"content-type", "a"}}},
		{"there is more than one authorization header", []pair{{"authorization", "Basic a"}, {"authorization", "Basic a"}}},
		{"a header name is not a token", []pair{{"", "a"}}},
		{"a header name is not a token", []pair{{":", "a"}}},
		{"a header name is not a token", []pair{{"x-tenant-id ", "a"}}},
		{"a header name is not a token", []pair{{"x-sluice-\xff", "a"}}},
		{"a header name is not a token", []pair{{"a\r\nb", "a"}}},
		{"the headers are larger than 64 KiB", []pair{{"cookie", strings.Repeat("a", headers.MaxBytes)}}},
		{"there are more than 1024 headers", many},
		{"there are too many reserved headers", reserved},
	} {
		t.Run(tt.want, func(t *testing.T) {
			if got := read(tt.in...).Malformed; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWhatAnUpstreamMustNotSeeIsStripped(t *testing.T) {
	written := func(name string) bool { return strings.EqualFold(name, "x-tenant-id") }
	for _, tt := range []struct {
		name string
		in   []pair
		want []string
	}{
		{"nothing to strip", []pair{{"accept", "a"}, {"authorization", "Basic a"}}, nil},
		{"the key", []pair{{"x-api-key", "a"}}, []string{"x-api-key"}},
		{"the key in a bearer", []pair{{"authorization", "Bearer a"}}, []string{"authorization"}},
		{"what is overwritten is not removed as well", []pair{{"x-tenant-id", "a"}, {"X-Tenant-ID", "b"}}, nil},
		{
			"every other spelling, once",
			[]pair{{"x_tenant_id", "a"}, {"x.tenant.id", "a"}, {"tenant", "a"}, {"X_TENANT_ID", "a"}, {"x-sluice-plan", "a"}},
			[]string{"x_tenant_id", "x.tenant.id", "tenant", "x-sluice-plan"},
		},
		{"H-08, H-10 what makes a framework take another host", []pair{{"x-original-host", "a"}, {"X-Host-Override", "a"}, {"x-http-host-override", "a"}}, []string{"x-original-host", "X-Host-Override", "x-http-host-override"}},
		{"H-08 what proxies say that are trusted or whose words the edge removes", []pair{{"x-forwarded-host", "a"}, {"x-forwarded-for", "a"}, {"forwarded", "a"}}, nil},
		{
			"P-10, H-08 what makes a framework take another method or path",
			[]pair{{"x-http-method-override", "DELETE"}, {"X_HTTP_Method", "a"}, {"x-method-override", "a"}, {"x-original-url", "/admin"}, {"x-original-uri", "a"}, {"x.rewrite.url", "a"}},
			[]string{"x-http-method-override", "X_HTTP_Method", "x-method-override", "x-original-url", "x-original-uri", "x.rewrite.url"},
		},
		{"names that are only like those", []pair{{"x-http-method-overrides", "a"}, {"x-original-urls", "a"}, {"http-method", "a"}, {"x", "a"}, {"x-http-metho", "a"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := read(tt.in...).AppendStripped(nil, written); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOnlyGRPCIsGRPC(t *testing.T) {
	for value, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "Application/GRPC;x=y": true,
		"application/grpc-web": false, "application/grpcx": false, "application/json": false, "": false,
	} {
		if got := read(pair{"content-type", value}).GRPC; got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func TestResetForgetsEverything(t *testing.T) {
	r := read(pair{"x-api-key", "a"}, pair{"authorization", "Bearer ey.b.c"}, pair{"x_tenant_id", "c"},
		pair{"content-type", "application/grpc"}, pair{"x-forwarded-client-cert", "d"}, pair{"x-sluice-tenant-token", "e"}, pair{"", ""})
	r.Reset()
	if len(r.Credentials().APIKeys)+len(r.Credentials().Tokens)+len(r.Credentials().XFCC)+len(r.Credentials().Tenant) != 0 || r.GRPC || r.Malformed != "" {
		t.Errorf("left: %+v", r)
	}
	if got := r.AppendStripped(nil, func(string) bool { return false }); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}
