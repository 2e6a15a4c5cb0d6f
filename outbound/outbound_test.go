package outbound_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/outbound"
)

// server answers over TLS on loopback, as id.example.com.
func server(t testing.TB, h http.HandlerFunc) (netip.AddrPort, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return netip.MustParseAddrPort(s.Listener.Addr().String()), roots
}

// to leads every name to one public address, and that address to a real server.
func to(server netip.AddrPort, roots *x509.CertPool) outbound.Options {
	o := outbound.Options{
		Roots:   roots,
		Resolve: resolveTo("93.184.215.14"),
	}
	return o.WithDial(func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.String())
	})
}

func resolveTo(addresses ...string) func(context.Context, string) ([]netip.Addr, error) {
	return func(context.Context, string) ([]netip.Addr, error) {
		var found []netip.Addr
		for _, a := range addresses {
			found = append(found, netip.MustParseAddr(a))
		}
		return found, nil
	}
}

// neverDial counts connections: there must be none.
func neverDial(o outbound.Options) (*outbound.Client, *atomic.Int64) {
	var dialed atomic.Int64
	return outbound.New(o.WithDial(func(context.Context, netip.AddrPort) (net.Conn, error) {
		dialed.Add(1)
		return nil, errors.New("dialed")
	})), &dialed
}

func TestB11J06URLsThatAreNotAsked(t *testing.T) {
	for _, tt := range []struct{ url, wrong string }{
		{"http://id.example.com/", "https://"},
		{"file:///etc/passwd", "https://"},
		{"gopher://id.example.com/", "https://"},
		{"//id.example.com/", "https://"},
		{"", "https://"},
		{"https://u:p@id.example.com/", "without user"},
		{"https:///keys", "with a host"},
		{"https:id.example.com", "with a host"},
		{"https://id.example.com/#a", "without a fragment"},
		{"https://id.example.com:x/", "no URL"},
		{"https://id.example.com:0/", "port"},
		{"https://id.example.com:99999/", "port"},
		{"https://id.example.com/" + strings.Repeat("a", 4096), "longer than"},
		{"https://127.0.0.1/", "loopback"},
		{"https://127.8.9.10:8443/", "loopback"},
		{"https://127.1/", "unusual form"},
		{"https://127.1./", "unusual form"},
		{"https://0x7f000001/", "unusual form"},
		{"https://0X7F.1/", "unusual form"},
		{"https://0x/", "unusual form"},
		{"https://2130706433/", "unusual form"},
		{"https://0177.0.0.1/", "unusual form"},
		{"https://127.0.0.1.nip.1/", "unusual form"},
		{"https://10.0.0.1/", "private"},
		{"https://172.16.0.1/", "private"},
		{"https://192.168.1.1/", "private"},
		{"https://100.64.0.1/", "CGNAT"},
		{"https://0.0.0.0/", "unspecified"},
		{"https://255.255.255.255/", "reserved"},
		{"https://224.0.0.1/", "multicast"},
		{"https://169.254.169.254/latest/meta-data/", "metadata"},
		{"https://168.63.129.16/", "metadata"},
		{"https://[::1]/", "loopback"},
		{"https://[::]/", "unspecified"},
		{"https://[::ffff:127.0.0.1]/", "IPv4 address in IPv6"},
		{"https://[::ffff:93.184.215.14]/", "IPv4 address in IPv6"},
		{"https://[::127.0.0.1]/", "not a public"},
		{"https://[64:ff9b::7f00:1]/", "NAT64"},
		{"https://[64:ff9b:1::7f00:1]/", "NAT64"},
		{"https://[2002:7f00:1::]/", "6to4"},
		{"https://[2001:0:7f00:1::]/", "reserved"},
		{"https://[fe80::1]/", "link-local"},
		{"https://[fe80::1%25eth0]/", "zone"},
		{"https://[fc00::1]/", "private"},
		{"https://[fd00:ec2::254]/", "metadata"},
		{"https://[ff02::1]/", "multicast"},
		{"https://metadata.google.internal/", "metadata service"},
		{"https://Metadata.Google.Internal./", "metadata service"},
		{"https://metadata/", "metadata service"},
		{"https://instance-data/", "metadata service"},
		{"https://ⓛocalhost/", "punycode"},
		{"https://a..b\x00/", "no URL"},
		{"https://./", "no host name"},
	} {
		t.Run("the URL "+tt.url[:min(len(tt.url), 60)], func(t *testing.T) {
			c, dialed := neverDial(outbound.Options{Resolve: resolveTo("93.184.215.14")})
			_, err := c.Get(t.Context(), tt.url, false)
			if !errors.Is(err, outbound.ErrAddress) || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("got %v, want %q", err, tt.wrong)
			}
			if dialed.Load() != 0 {
				t.Error("it was dialed")
			}
		})
	}
}

func TestB11J06NamesThatLeadInside(t *testing.T) {
	for _, tt := range []struct {
		addresses          []string
		refused, inCluster bool
	}{
		{[]string{"93.184.215.14"}, false, false},
		{[]string{"::ffff:93.184.215.14"}, false, false}, // how Go's resolver may give an A record
		{[]string{"2606:2800:21f::1"}, false, false},
		{[]string{"127.0.0.1"}, true, false},
		{[]string{"::ffff:127.0.0.1"}, true, false},
		{[]string{"::1"}, true, false},
		{[]string{"10.1.2.3"}, true, false},
		{[]string{"fd12::1"}, true, false},
		{[]string{"100.64.0.1"}, true, false},
		{[]string{"93.184.215.14", "10.1.2.3"}, true, false},
		{[]string{"169.254.169.254"}, true, true},
		{[]string{"::ffff:169.254.169.254"}, true, true},
		{[]string{"fd00:ec2::254"}, true, true},
		{[]string{"64:ff9b::a9fe:a9fe"}, true, true},
		{[]string{"100.100.100.200"}, true, true},
		{[]string{"10.1.2.3", "169.254.169.254"}, true, true},
		{[]string{"0.0.0.0"}, true, true},
		{[]string{"fe80::1"}, true, true},
		{nil, true, true},
		{strings.Split(strings.Repeat("93.184.215.14 ", 17)[:17*14-1], " "), true, true},
	} {
		t.Run(fmt.Sprintf("a name for %.40q is judged by its addresses", tt.addresses), func(t *testing.T) {
			for _, c := range []struct{ private, refused bool }{{false, tt.refused}, {true, tt.inCluster}} {
				client, dialed := neverDial(outbound.Options{Resolve: resolveTo(tt.addresses...)})
				_, err := client.Get(t.Context(), "https://id.example.com/", c.private)
				if errors.Is(err, outbound.ErrAddress) != c.refused || (dialed.Load() == 0) != c.refused {
					t.Errorf("private %t: %d dialed, %v", c.private, dialed.Load(), err)
				}
			}
		})
	}
}

func TestB11J06TheAddressThatWasCheckedIsDialed(t *testing.T) {
	at, roots := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "keys") })
	asked := 0
	var dialed []netip.AddrPort
	o := outbound.Options{Roots: roots, Resolve: func(context.Context, string) ([]netip.Addr, error) {
		asked++
		if asked > 1 { // DNS rebinding: the second answer leads inside
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
	}}
	c := outbound.New(o.WithDial(func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		dialed = append(dialed, to)
		return new(net.Dialer).DialContext(ctx, "tcp", at.String())
	}))
	body, err := c.Get(t.Context(), "https://example.com/keys", false)
	if err != nil || string(body) != "keys" {
		t.Fatalf("%q, %v", body, err)
	}
	if asked != 1 || len(dialed) != 1 || dialed[0].String() != "93.184.215.14:443" {
		t.Errorf("resolved %d times, dialed %v", asked, dialed)
	}
	if _, err := c.Get(t.Context(), "https://example.com/keys", false); !errors.Is(err, outbound.ErrAddress) || len(dialed) != 1 {
		t.Errorf("after rebinding: %v, dialed %v", err, dialed)
	}
}

func TestJ06ARedirectIsNotFollowed(t *testing.T) {
	asked := 0
	at, roots := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "https://169.254.169.254/latest/meta-data/", http.StatusFound)
	})
	c := outbound.New(to(at, roots))
	if _, err := c.Get(t.Context(), "https://example.com/keys", false); !errors.Is(err, outbound.ErrStatus) || !strings.Contains(err.Error(), "redirects are not followed") {
		t.Errorf("got %v", err)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
		want string
	}{
		{"J-07 a body of 50 MB is refused", func(w http.ResponseWriter, _ *http.Request) {
			block := make([]byte, 1<<20)
			for range 50 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, outbound.ErrBody.Error()},
		{"headers of 1 MB are refused", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("a", 1<<20))
		}, "header"},
		{"a gzip body is not inflated", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				w.WriteHeader(http.StatusTeapot)
			}
		}, ""},
		{"another status is an error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "404"},
		{"an answer that breaks off is an error", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "short")
		}, "broke off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, roots := server(t, tt.h)
			_, err := outbound.New(to(at, roots)).Get(t.Context(), "https://example.com/secret-path", false)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret-path") {
				t.Errorf("the error tells the path: %v", err)
			}
		})
	}
}

func TestJ07ASlowAnswerEndsAtTheTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := outbound.New(outbound.Options{Resolve: resolveTo("93.184.215.14")}.WithDial(func(context.Context, netip.AddrPort) (net.Conn, error) {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { _ = theirs.Close() })
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // reads the hello, never answers
			return ours, nil
		}))
		start := time.Now()
		_, err := c.Get(t.Context(), "https://example.com/", false)
		if err == nil || time.Since(start) > outbound.DefaultTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestASlowResolverEndsAtTheTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dialed := neverDial(outbound.Options{Resolve: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		start := time.Now()
		_, err := c.Get(t.Context(), "https://example.com/", false)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != outbound.DefaultTimeout || dialed.Load() != 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestCertificatesAreChecked(t *testing.T) {
	at, roots := server(t, func(http.ResponseWriter, *http.Request) {})
	if _, err := outbound.New(to(at, nil)).Get(t.Context(), "https://example.com/", false); err == nil {
		t.Error("an unknown authority is believed")
	}
	if _, err := outbound.New(to(at, roots)).Get(t.Context(), "https://id.example.org/", false); err == nil {
		t.Error("a certificate for another name is believed")
	}
}

func TestAPrivateAddressIsAskedWhereAllowed(t *testing.T) {
	at, roots := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Got", r.Header.Get("X-Sent"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
	})
	c := outbound.New(outbound.Options{Roots: roots})
	r := outbound.Request{
		Method: http.MethodPost, URL: "https://" + at.String() + "/", Header: http.Header{"x-sent": {"a"}}, Body: []byte("hello"),
	}
	if _, err := c.Do(t.Context(), r); !errors.Is(err, outbound.ErrAddress) {
		t.Errorf("loopback without leave: %v", err)
	}
	r.AllowPrivate = true
	got, err := c.Do(t.Context(), r)
	if err != nil || got.Status != http.StatusAccepted || got.Header.Get("X-Got") != "a" || string(got.Body) != "hello" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	if outbound.New(outbound.Options{}).Proxied() {
		t.Error("a proxy would resolve the name itself")
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"https://id.example.com/keys", "https://127.1/", "https://[::ffff:127.0.0.1]:8443/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if outbound.CheckURL(raw) == nil && !strings.HasPrefix(strings.ToLower(raw), "https://") {
			t.Errorf("%q is accepted", raw)
		}
	})
}
