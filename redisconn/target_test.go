package redisconn

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]Target{
		"redis://127.0.0.1":                       {Addresses: []string{"127.0.0.1:6379"}},
		"redis://cache.example:7000/3":            {Addresses: []string{"cache.example:7000"}, DB: 3},
		"rediss://[::1]:6380":                     {TLS: true, Addresses: []string{"[::1]:6380"}},
		"redis://[fd00::1]":                       {Addresses: []string{"[fd00::1]:6379"}},
		"redis+sentinel://a,b:1/mymaster":         {Kind: Sentinel, Addresses: []string{"a:26379", "b:1"}, Primary: "mymaster"},
		"rediss+cluster://10.0.0.1:7000,b/":       {Kind: Cluster, TLS: true, Addresses: []string{"10.0.0.1:7000", "b:6379"}},
		"rediss+cluster://one-endpoint.example/0": {Kind: Cluster, TLS: true, Addresses: []string{"one-endpoint.example:6379"}},
		"unix:///run/redis/redis.sock":            {Addresses: []string{"/run/redis/redis.sock"}},
	} {
		got, err := Parse(url)
		if err != nil || got.Kind != want.Kind || got.TLS != want.TLS || !slices.Equal(got.Addresses, want.Addresses) || got.Primary != want.Primary || got.DB != want.DB {
			t.Errorf("%s: %+v, %v, want %+v", url, got, err, want)
			continue
		}
		if again, err := Parse(got.String()); err != nil || again.String() != got.String() {
			t.Errorf("%s is written %s, which reads %+v, %v", url, got, again, err)
		}
	}
}

func TestAURLThatMeansNothingIsRefused(t *testing.T) {
	for url, want := range map[string]string{
		"127.0.0.1:6379":             "no scheme; want redis://HOST:PORT",
		"http://127.0.0.1":           `scheme "http"; want redis://HOST:PORT`,
		"redis+proxy://127.0.0.1":    `scheme "redis+proxy"; want`,
		"redis://:hunter2@127.0.0.1": "a user or a password is in it",
		"redis://a,b":                "redis:// takes one address; for a Redis Cluster write redis+cluster://",
		"redis://":                   `"" is no HOST:PORT`,
		"redis://a:port":             `"a:port" is no HOST:PORT`,
		"redis://a:0":                `"a:0" is no HOST:PORT`,
		"redis+cluster://a, b":       `" b" is no HOST:PORT`,
		"redis://fd00::zz":           `"fd00::zz" is no HOST:PORT`,
		"redis://a/one":              "after the slash comes the number of a database",
		"redis+cluster://a/1":        "a Redis Cluster has database 0 alone",
		"redis+sentinel://a:26379":   "the name under which the Sentinels know the primary is missing",
		"redis://a?db=1":             "it has options after ? or #",
		"unix://run/redis.sock":      "unix:// is followed by a path that begins with /",
	} {
		t.Run("refused with a sentence: "+want, func(t *testing.T) {
			_, err := Parse(url)
			if err == nil || !strings.HasPrefix(err.Error(), "redis-url: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", url, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in the message: %v", err)
			}
		})
	}
}

func TestSettingsThatDoNotGoTogetherAreNamedAtOnce(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url  string
		o    Options
		want []string // nil: it does
	}{
		{"redis://localhost", Options{}, nil},
		{"redis://127.0.0.1", Options{}, nil},
		{"rediss://cache.example", Options{}, nil},
		{"redis://cache.example", Options{PlainText: true}, nil},
		{"unix:///run/redis.sock", Options{}, nil},
		{"redis://cache.example", Options{}, []string{"plain text to cache.example:6379, which is another machine", "write rediss://", "say redis-plaintext"}},
		{"redis://10.0.0.1", Options{}, []string{"plain text to 10.0.0.1:6379"}},
		{"redis+sentinel://127.0.0.1,b/m", Options{}, []string{"plain text to b:26379", "write rediss+sentinel://"}},
		{"redis://localhost", Options{CAFile: "ca.pem"}, []string{"do nothing while the URL says plain text; write rediss://"}},
		{"rediss://a", Options{CAFile: "none.pem"}, []string{"redis-ca: open none.pem"}},
		{"rediss://a", Options{CAFile: empty}, []string{"holds no PEM certificate"}},
		{"rediss://a", Options{CertFile: empty, KeyFile: empty}, []string{"redis-cert, redis-key: ", "want PEM"}},
		{
			"redis://10.0.0.1",
			Options{CertFile: "a", PasswordFile: empty, SentinelUser: "s"},
			[]string{"one without the other", "must hold one line, the password", "plain text to 10.0.0.1", "while the URL names no Sentinel", `redis-sentinel-password-file: empty, and user "s" can't prove itself`},
		},
		{"redis://localhost", Options{PasswordFile: "none"}, []string{"redis-password-file: open none", "name a file that this user can read"}},
	} {
		t.Run("for "+c.url, func(t *testing.T) {
			target, err := Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			c.o.Target = target
			client, err := New(c.o)
			if err == nil {
				_ = client.Close()
			}
			if (err == nil) != (c.want == nil) {
				t.Fatalf("%+v: %v", c.o, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no word of %q in: %v", want, err)
				}
			}
		})
	}
}
