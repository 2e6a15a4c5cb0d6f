package authz_test

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
)

func TestCanonicalPathRefusesWhatHasTwoReadings(t *testing.T) {
	for _, c := range []struct {
		id, raw string
		want    error
	}{
		{"P-01 a path that begins with two slashes", "//admin/x", authz.ErrPathEmpty},
		{"P-01 a path that begins with three slashes", "///admin/x", authz.ErrPathEmpty},
		{"P-01 two slashes in the middle", "/v1//calls", authz.ErrPathEmpty},
		{"P-01 two slashes at the end", "/v1//", authz.ErrPathEmpty},
		{"P-02 a segment that goes up", "/v1/calls/../../admin/x", authz.ErrPathRelative},
		{"P-02 a segment that goes up, at the end", "/v1/..", authz.ErrPathRelative},
		{"P-02 an encoded segment that goes up", "/v1/calls/%2e%2e/%2e%2e/admin", authz.ErrPathEncoded},
		{"P-02 a half encoded segment that goes up", "/v1/.%2E/admin", authz.ErrPathEncoded},
		{"P-03 an encoded slash", "/v1/calls%2f..%2fadmin", authz.ErrPathEncoded},
		{"P-03 an encoded slash in upper case", "/admin%2Fx", authz.ErrPathEncoded},
		{"P-03 an encoded backslash", "/admin%5cx", authz.ErrPathEncoded},
		{"P-03 a backslash", `/admin\x`, authz.ErrPathByte},
		{"P-03 an encoded letter", "/%61dmin/x", authz.ErrPathEncoded},
		{"P-03 an encoded digit", "/v%31", authz.ErrPathEncoded},
		{"P-03 an encoded tilde", "/%7Euser", authz.ErrPathEncoded},
		{"P-03 a doubly encoded letter", "/%2561dmin", authz.ErrPathEncoded},
		{"P-04 a segment that stays", "/admin/x/.", authz.ErrPathRelative},
		{"P-04 a segment that stays in the middle", "/./admin", authz.ErrPathRelative},
		{"P-04 a segment that ends in a dot", "/admin./x", authz.ErrPathEdge},
		{"P-04 a path that ends in a dot", "/admin/x.", authz.ErrPathEdge},
		{"P-04 a segment of three dots", "/v1/.../admin", authz.ErrPathEdge},
		{"P-04 a segment that ends in an encoded space", "/admin%20/x", authz.ErrPathEdge},
		{"P-04 a path that ends in an encoded space", "/v1/keys/1%20", authz.ErrPathEdge},
		{"P-04 a segment that begins with an encoded space", "/v1/%20keys/1", authz.ErrPathEdge},
		{"P-04 an encoded space alone", "/v1/%20", authz.ErrPathEdge},
		{"P-05 a path parameter", "/admin;a=b/x", authz.ErrPathParams},
		{"P-05 an empty path parameter", "/v1/calls;/../admin", authz.ErrPathParams},
		{"P-06 a parameter on a segment that stays", "/v1/calls/.;/../admin", authz.ErrPathParams},
		{"P-06 a parameter on a segment that goes up", "/v1/calls/..;/admin", authz.ErrPathParams},
		{"P-06 a named parameter on a segment that goes up", "/v1/calls/..;x=1/admin", authz.ErrPathParams},
		{"P-07 a session id", "/admin/x;jsessionid=1", authz.ErrPathParams},
		{"P-07 an encoded semicolon", "/admin/x%3bfoo", authz.ErrPathParams},
		{"P-08 an empty path", "", authz.ErrPathForm},
		{"P-08 the asterisk of OPTIONS", "*", authz.ErrPathForm},
		{"P-08 an absolute URI", "http://other/admin", authz.ErrPathForm},
		{"P-08 a query alone", "?x", authz.ErrPathForm},
		{"P-08 an encoded question mark", "/admin%3fx", authz.ErrPathEncoded},
		{"P-08 a fragment", "/admin#x", authz.ErrPathByte},
		{"P-08 an encoded fragment", "/admin%23x", authz.ErrPathEncoded},
		{"P-08 a fragment in the query", "/admin?a#x", authz.ErrPathByte},
		{"P-09 Latin-1", "/caf\xe9", authz.ErrPathByte},
		{"P-09 plain UTF-8", "/café", authz.ErrPathByte},
		{"P-09 plain UTF-8 in the query", "/x?é", authz.ErrPathByte},
		{"P-09 encoded Latin-1", "/caf%E9", authz.ErrPathUTF8},
		{"P-09 encoded Latin-1 before a letter", "/caf%E9e", authz.ErrPathUTF8},
		{"P-09 an overlong slash", "/admin%c0%afx", authz.ErrPathUTF8},
		{"P-09 a surrogate", "/%ed%a0%80", authz.ErrPathUTF8},
		{"P-09 a cut character", "/%e2%82", authz.ErrPathUTF8},
		{"P-09 a character across a slash", "/%e2/%82%ac", authz.ErrPathUTF8},
		{"P-09 an encoded NUL", "/admin%00", authz.ErrPathEncoded},
		{"P-09 a NUL", "/admin\x00", authz.ErrPathByte},
		{"P-09 an encoded newline", "/admin%0d%0a", authz.ErrPathEncoded},
		{"P-09 a newline", "/admin\r\nx: 1", authz.ErrPathByte},
		{"P-09 a newline in the query", "/admin?\r\nx: 1", authz.ErrPathByte},
		{"P-09 a tab", "/admin\t", authz.ErrPathByte},
		{"P-09 a space", "/admin x", authz.ErrPathByte},
		{"P-09 DEL", "/admin\x7f", authz.ErrPathByte},
		{"P-09 an escape cut short", "/admin%2", authz.ErrPathEscape},
		{"P-09 a percent sign alone", "/100%", authz.ErrPathEscape},
		{"P-09 an escape of no digits", "/%zz", authz.ErrPathEscape},
		{"P-09 an IIS escape", "/%u002fadmin", authz.ErrPathEscape},
		{"P-09 64 KiB", "/" + strings.Repeat("a", 64<<10), authz.ErrPathLong},
		{"P-11 the authority of CONNECT", "example.com:443", authz.ErrPathForm},
		{"P-09 a brace", "/{id}", authz.ErrPathByte},
	} {
		t.Run(c.id+" is refused", func(t *testing.T) {
			if got, err := authz.CanonicalPath(c.raw); !errors.Is(err, c.want) || got != "" {
				t.Errorf("CanonicalPath(%q) = %q, %v; want %v", c.raw, got, err, c.want)
			}
		})
	}
}

func TestCanonicalPathGivesOneSpelling(t *testing.T) {
	for _, c := range [][2]string{
		{"/", "/"},
		{"/?", "/"},
		{"/v1/calls/42", "/v1/calls/42"},
		{"/v1/calls/42?a=/../b;c&d=%2f%zz", "/v1/calls/42"},
		{"/v1/calls/", "/v1/calls/"},
		{"/ADMIN/x", "/ADMIN/x"},
		{"/a...b/.well-known/a.b", "/a...b/.well-known/a.b"},
		{"/~u/x-y_z/a:b@c/!$&'()*+,=", "/~u/x-y_z/a:b@c/!$&'()*+,="},
		{"/numbers/%2B4930", "/numbers/+4930"},
		{"/users/a%40example.com", "/users/a@example.com"},
		{"/calls/x%3astop", "/calls/x:stop"},
		{"/a%20b", "/a%20b"},
		{"/caf%c3%a9/%e2%82%ac", "/caf%C3%A9/%E2%82%AC"},
		{"/%5bslug%5D", "/%5Bslug%5D"},
		{"/sluice.quota.v1.QuotaService/GetUsage", "/sluice.quota.v1.QuotaService/GetUsage"},
	} {
		if got, err := authz.CanonicalPath(c[0]); err != nil || got != c[1] {
			t.Errorf("CanonicalPath(%q) = %q, %v; want %q", c[0], got, err, c[1])
		}
	}
}

func TestCanonicalPathAllocatesOnlyForAChange(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		_, _ = authz.CanonicalPath("/v1/calls/caf%C3%A9?x=1")
		_, _ = authz.CanonicalPath("/v1//calls")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCanonicalHost(t *testing.T) {
	for _, c := range [][2]string{
		{"api.example.com", "api.example.com"},
		{"API.Example.com:8080", "api.example.com"},
		{"localhost:0", "localhost"},
		{"my_service.ns", "my_service.ns"},
		{"127.0.0.1:80", "127.0.0.1"},
		{"[::1]:8080", "[::1]"},
		{"[::1]", "[::1]"},
		{"[2001:DB8:0:0::1]", "[2001:db8::1]"},
	} {
		if got, err := authz.CanonicalHost(c[0]); err != nil || got != c[1] {
			t.Errorf("CanonicalHost(%q) = %q, %v; want %q", c[0], got, err, c[1])
		}
	}
	for _, raw := range []string{
		"", ":80", "user@host", "user:pw@host", "host:", "host:80:80", "host:65536", "host:+1", "host:8a", "example.com.", ".example.com", "a..b",
		"a b", "a/b", "a\x00", "bücher.example", "a,b", "[::1", "::1", "[::1]x", "[::1]:", "[::1%25eth0]", "[127.0.0.1]", "[]", "*.example.com",
		strings.Repeat("a", 254), strings.Repeat("a", 64<<10),
	} {
		t.Run("H-10 the authority "+clip(raw)+" is refused", func(t *testing.T) {
			if got, err := authz.CanonicalHost(raw); !errors.Is(err, authz.ErrHost) {
				t.Errorf("gave %q, %v", got, err)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() {
		_, _ = authz.CanonicalHost("api.example.com:443")
		_, _ = authz.CanonicalHost("[::1]:443")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func clip(s string) string { return s[:min(len(s), 40)] }

// FuzzCanonicalPath compares with readers that know less: net/url, one that
// decodes before it splits, and one that cleans.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/v1/calls/42?x", "//a", "/a/../b", "/%2e", "/a%2fb", "/caf%c3%a9", "/x%3astop", "/a;b", "*", "/%c0%af"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := authz.CanonicalPath(raw)
		if err != nil {
			return
		}
		if again, err := authz.CanonicalPath(got); err != nil || again != got {
			t.Fatalf("%q became %q, and that %q, %v", raw, got, again, err)
		}
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			t.Fatalf("%q is taken, and net/url says %v", raw, err)
		}
		if u.Host != "" || u.Fragment != "" || u.User != nil {
			t.Fatalf("%q has a %#v to net/url", raw, u)
		}
		ours, err := url.PathUnescape(got)
		if err != nil || ours != u.Path {
			t.Fatalf("%q is %q to us and %q to net/url", raw, ours, u.Path)
		}
		split := strings.Split(got, "/")
		decoded := strings.Split(u.Path, "/")
		if len(split) != len(decoded) {
			t.Fatalf("%q has %d segments, decoded first %d", raw, len(split), len(decoded))
		}
		for i := range split {
			if s, err := url.PathUnescape(split[i]); err != nil || s != decoded[i] {
				t.Fatalf("segment %d of %q is %q, decoded first %q", i, raw, s, decoded[i])
			}
		}
		if clean := path.Clean(u.Path); clean != u.Path && clean+"/" != u.Path {
			t.Fatalf("%q is %q once cleaned", raw, clean)
		}
	})
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"a.b", "A:80", "[::1]:80", "u@h", "a.", "[::ffff:1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := authz.CanonicalHost(raw)
		if err != nil {
			return
		}
		if again, err := authz.CanonicalHost(got); err != nil || again != got {
			t.Fatalf("%q became %q, and that %q, %v", raw, got, again, err)
		}
		u, err := url.Parse("http://" + raw + "/")
		if err != nil {
			t.Fatalf("%q is taken, and net/url says %v", raw, err)
		}
		if strings.Trim(got, "[]") != strings.ToLower(u.Hostname()) && !strings.HasPrefix(raw, "[") || u.User != nil {
			t.Fatalf("%q is %q to us and %q to net/url", raw, got, u.Hostname())
		}
	})
}

func BenchmarkCanonicalPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = authz.CanonicalPath("/v1/calls/0b2b5b0e-7a3d/messages/42?page=3")
	}
}
