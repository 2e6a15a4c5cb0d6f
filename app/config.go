package app

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// Config is all that sluiced can be told. The name in the tag is the flag, the
// key in the file and, in upper case with SLUICE_ before it, the environment variable.
type Config struct {
	Data            string        `koanf:"data"`
	Catalog         string        `koanf:"catalog"`
	RLSConfig       string        `koanf:"rls-config"`
	GRPCListen      string        `koanf:"grpc-listen"`
	UDS             string        `koanf:"uds"`
	HTTPListen      string        `koanf:"http-listen"`
	HTTPRemote      bool          `koanf:"http-remote"`
	TLSCert         string        `koanf:"tls-cert"`
	TLSKey          string        `koanf:"tls-key"`
	TLSClientCA     string        `koanf:"tls-client-ca"`
	Peers           []string      `koanf:"peers"`
	JournalOnDamage string        `koanf:"journal-on-damage"`
	RateLimitFormat string        `koanf:"ratelimit-format"`
	MaxCells        int           `koanf:"max-cells"`
	DrainDelay      time.Duration `koanf:"drain-delay"`
	DrainTimeout    time.Duration `koanf:"drain-timeout"`
	OTLPEndpoint    string        `koanf:"otlp-endpoint"`
	LogLevel        string        `koanf:"log-level"`
	LogFormat       string        `koanf:"log-format"`
}

// Flags declares every setting with its default and its one line of help.
func Flags(f *pflag.FlagSet) {
	f.String("config", "", "YAML file with any of these settings under the same names")
	f.String("data", "sluice-data", "folder of the secret, the journal and what the API created; made by 'sluiced init'")
	f.String("catalog", "", "folder of YAML files with plans, tenants and API keys; reloaded when it changes")
	f.String("rls-config", "", "folder of envoyproxy/ratelimit descriptor files for the RLS door; reloaded when it changes")
	f.String("grpc-listen", "127.0.0.1:9090", "TCP address of the doors and the gRPC quota API; anything but loopback needs --tls-cert; \"\" for none")
	f.String("uds", "", "path of a Unix socket for the doors; who may open it is a peer")
	f.String("http-listen", "127.0.0.1:9091", "address of the REST quota API, /metrics, /healthz and /readyz")
	f.Bool("http-remote", false, "let --http-listen be other than loopback; it carries the admin token in the clear, so put TLS before it")
	f.String("tls-cert", "", "PEM certificate chain of the gRPC server; makes it demand a client certificate")
	f.String("tls-key", "", "PEM private key for --tls-cert")
	f.String("tls-client-ca", "", "PEM bundle that client certificates must chain to")
	f.StringSlice("peers", nil, "SPIFFE ids that may use the doors over mTLS")
	f.String("journal-on-damage", "deny", "after a damaged journal was set aside: 'deny' counts durable limits as used up for their current window, 'forget' starts them at zero")
	f.String("ratelimit-format", "draft-10", "RateLimit headers on answers: off, legacy, draft-06, draft-10")
	f.Int("max-cells", 2_000_000, "most counters kept in memory; beyond it, requests that need a new one are refused")
	f.Duration("drain-delay", 0, "after SIGTERM, time to keep serving while readiness already says no; set it to what endpoints take to propagate")
	f.Duration("drain-timeout", 20*time.Second, "after --drain-delay, time for calls in flight before they are cut")
	f.String("otlp-endpoint", "", "host:port of an OpenTelemetry collector (gRPC) for spans; \"\" for none")
	f.String("log-level", "info", "debug, info, warn or error")
	f.String("log-format", "text", "text or json")
}

// LoadConfig merges, weakest first: defaults, the file named by --config or
// SLUICE_CONFIG, SLUICE_* variables, flags that were given. It reports every
// problem at once.
func LoadConfig(f *pflag.FlagSet, environ []string) (Config, error) {
	k := koanf.New("\x00") // flat: no key holds the separator
	path, _ := f.GetString("config")
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, "SLUICE_CONFIG="); ok && path == "" {
			path = v
		}
	}
	var problems []error
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return Config{}, fmt.Errorf("config %s: %w", path, err)
		}
		for _, key := range k.Keys() {
			if f.Lookup(key) == nil || key == "config" {
				problems = append(problems, fmt.Errorf("config %s: %q is no setting; 'sluiced serve --help' lists them", path, key))
			}
		}
	}
	err := k.Load(env.Provider("\x00", env.Opt{
		Prefix:      "SLUICE_",
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(key, value string) (string, any) {
			name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(key, "SLUICE_"), "_", "-"))
			if f.Lookup(name) == nil {
				return "", nil
			}
			if name == "peers" {
				return name, strings.Split(value, ",")
			}
			return name, value
		},
	}), nil)
	if err != nil {
		return Config{}, fmt.Errorf("environment: %w", err)
	}
	if err := k.Load(posflag.Provider(f, "\x00", k), nil); err != nil {
		return Config{}, fmt.Errorf("flags: %w", err)
	}
	var c Config
	if err := k.Unmarshal("", &c); err != nil {
		return Config{}, errors.Join(append(problems, fmt.Errorf("settings: %w", err))...)
	}
	return c, errors.Join(append(problems, c.check()...)...)
}

func (c Config) check() (problems []error) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.GRPCListen == "" && c.UDS == "" {
		wrong("grpc-listen, uds: both empty, so no door could be reached; set one")
	}
	switch {
	case c.TLSCert != "":
		if c.TLSKey == "" || c.TLSClientCA == "" {
			wrong("tls-cert: needs tls-key and tls-client-ca beside it")
		}
		if len(c.Peers) == 0 {
			wrong("peers: empty, so nobody could call over mTLS; list the SPIFFE ids of the proxies")
		}
	case c.GRPCListen != "" && !isLoopback(c.GRPCListen):
		wrong("grpc-listen %s: whoever reaches a door can claim any principal; use 127.0.0.1, or set tls-cert, tls-key, tls-client-ca and peers", c.GRPCListen)
	}
	if c.HTTPListen != "" && !c.HTTPRemote && !isLoopback(c.HTTPListen) {
		wrong("http-listen %s: not loopback; use 127.0.0.1, or say http-remote and put TLS before it", c.HTTPListen)
	}
	oneOf(wrong, "journal-on-damage", c.JournalOnDamage, "deny", "forget")
	oneOf(wrong, "ratelimit-format", c.RateLimitFormat, "off", "legacy", "draft-06", "draft-10")
	oneOf(wrong, "log-level", c.LogLevel, "debug", "info", "warn", "error")
	oneOf(wrong, "log-format", c.LogFormat, "text", "json")
	if c.MaxCells < 1000 {
		wrong("max-cells %d: at least 1000", c.MaxCells)
	}
	if c.DrainDelay < 0 || c.DrainTimeout <= 0 {
		wrong("drain-delay, drain-timeout: no negative times, and a timeout above 0")
	}
	return problems
}

func oneOf(wrong func(string, ...any), name, got string, allowed ...string) {
	for _, a := range allowed {
		if got == a {
			return
		}
	}
	wrong("%s %q: one of %s", name, got, strings.Join(allowed, ", "))
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// requireData checks that 'sluiced init' has been here.
func (c Config) requireData() error {
	if _, err := os.Stat(filepath.Join(c.Data, secretFile)); err != nil {
		return fmt.Errorf("data folder %q has no secret: run 'sluiced init --data %s' once (%w)", c.Data, c.Data, err)
	}
	return nil
}
