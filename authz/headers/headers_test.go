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
			if got := read(tt.in...).APIKeys(); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
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
	r := read(pair{"x-api-key", "a"}, pair{"authorization", "Bearer b"}, pair{"x_tenant_id", "c"},
		pair{"content-type", "application/grpc"}, pair{"", ""})
	r.Reset()
	if len(r.APIKeys()) != 0 || r.GRPC || r.Malformed != "" {
		t.Errorf("left: %+v", r)
	}
	if got := r.AppendStripped(nil, func(string) bool { return false }); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}
