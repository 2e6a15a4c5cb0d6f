package app

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/nearest"
	"github.com/voicecore-ai/sluice/telemetry/traffic"
)

// Config is all that sluiced can be told. The name in the tag is the flag, the
// key in the file and, in upper case with SLUICE_ before it, the environment variable.
type Config struct {
	Data               string        `koanf:"data"`
	Secrets            string        `koanf:"secrets"`
	Catalog            string        `koanf:"catalog"`
	RLSConfig          string        `koanf:"rls-config"`
	GRPCListen         string        `koanf:"grpc-listen"`
	UDS                string        `koanf:"uds"`
	HTTPListen         string        `koanf:"http-listen"`
	HTTPRemote         bool          `koanf:"http-remote"`
	StatusListen       string        `koanf:"status-listen"`
	TLSCert            string        `koanf:"tls-cert"`
	TLSKey             string        `koanf:"tls-key"`
	TLSClientCA        string        `koanf:"tls-client-ca"`
	Stage              string        `koanf:"stage"`
	OnlyHost           string        `koanf:"only-host"`
	Peers              []string      `koanf:"peers"`
	EdgePeers          []string      `koanf:"edge-peers"`
	XFCCForwarders     []string      `koanf:"xfcc-forwarders"`
	Audit              string        `koanf:"audit"`
	AuditDir           string        `koanf:"audit-dir"`
	AuditWholeSources  bool          `koanf:"audit-whole-sources"`
	AuditAnonymousRate int           `koanf:"audit-anonymous-rate"`
	AuditTenantRate    int           `koanf:"audit-tenant-rate"`
	AuditMaxMiB        int           `koanf:"audit-max-mib"`
	AuditKeep          time.Duration `koanf:"audit-keep"`
	AuditMaxAge        time.Duration `koanf:"audit-max-age"`
	AuditWait          time.Duration `koanf:"audit-wait"`
	AuditOTLP          bool          `koanf:"audit-otlp"`
	JournalOnDamage    string        `koanf:"journal-on-damage"`
	RateLimitFormat    string        `koanf:"ratelimit-format"`
	MaxCells           int           `koanf:"max-cells"`
	DrainDelay         time.Duration `koanf:"drain-delay"`
	DrainTimeout       time.Duration `koanf:"drain-timeout"`
	OTLPEndpoint       string        `koanf:"otlp-endpoint"`
	OTLPCA             string        `koanf:"otlp-ca"`
	OTLPPlainText      bool          `koanf:"otlp-plaintext"`
	MetricsTenants     int           `koanf:"metrics-tenants"`
	LogLevel           string        `koanf:"log-level"`
	LogFormat          string        `koanf:"log-format"`
	Redis              RedisConfig   `koanf:",squash"`
}

// choices are the settings that take one of a few words.
var choices = map[string][]string{
	"audit":             {"on", "off"},
	"journal-on-damage": {"deny", "forget"},
	"ratelimit-format":  {"off", "legacy", "draft-06", "draft-10"},
	"log-level":         {"debug", "info", "warn", "error"},
	"log-format":        {"text", "json"},
	"stage":             {enforced, soft},
}

// The stages of a roll-out, by the words that the installer's mesh.stage has.
const (
	enforced = "enforced"
	soft     = "soft"
)

// Flags declares every setting with its default and its one line of help, in
// the order in which a reader wants them.
func Flags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.String("config", "", "YAML `file` with any of these settings under the same names")
	f.String("data", "sluice-data", "`folder` of the secret, the journal and what the API created; made by 'sluiced init'")
	f.String("secrets", "", "`folder` of secret and admin.token.sha256, which is only read, such as a mounted Kubernetes Secret; \"\" for the data folder")
	f.String("catalog", "", "`folder` of YAML files with plans, tenants and API keys; reloaded when it changes")
	f.String("rls-config", "", "`folder` of envoyproxy/ratelimit descriptor files for the RLS door; reloaded when it changes")
	f.String("grpc-listen", "127.0.0.1:9090", "TCP `address` of the doors and the gRPC quota API; anything but loopback needs --tls-cert; \"\" for none")
	f.String("uds", "", "`path` of a Unix socket for the doors; who may open it is a peer")
	f.String("http-listen", "127.0.0.1:9091", "TCP `address` of the REST quota API, /metrics, /healthz and /readyz; \"\" for none")
	f.Bool("http-remote", false, "let --http-listen be other than loopback; it carries the admin token in the clear, so put TLS before it")
	f.String("status-listen", "", "TCP `address` of /metrics, /healthz and /readyz alone, for probes and Prometheus; nothing there is secret but, to some, the ids of tenants (--metrics-tenants), so it may be any; \"\" for none")
	f.String("tls-cert", "", "PEM `file` with the certificate chain of the gRPC server; makes it demand a client certificate")
	f.String("tls-key", "", "PEM `file` with the private key for --tls-cert")
	f.String("tls-client-ca", "", "PEM `file` with the certificates that a client's must chain to")
	f.String("stage", enforced, "`word` enforced, or soft for a roll-out: what is to be refused for who asks, for rules and for limits is admitted, recorded and counted, so nothing is protected")
	f.StringSlice("peers", nil, "SPIFFE `ids`, with commas between, that may use the doors over mTLS")
	f.StringSlice("edge-peers", nil, "those `ids` of --peers at which requests may begin; the others must bring a tenant token; none for all of them")
	f.StringSlice("xfcc-forwarders", nil, "SPIFFE `ids`, with commas between, of proxies that may name their client in x-forwarded-client-cert")
	f.String("audit", "on", "`word` on or off: keep a signed record of refusals, administrators' acts and what rules ask for")
	f.String("audit-dir", "", "`folder` of the audit log; \"\" for audit in the data folder")
	f.Bool("audit-whole-sources", false, "record client addresses whole, not cut to their network")
	f.Int("audit-anonymous-rate", 10, "refusals of callers without identity that are recorded singly, as a `number` a second for each source; the others are counted")
	f.Int("audit-tenant-rate", 50, "refusals of one tenant's callers that are recorded singly, as a `number` a second; the others are counted; those of a rule with audit: required always are")
	f.Int("audit-max-mib", 4096, "most MiB of audit log that are kept, as a `number`; the oldest segments go first; 0 for no bound")
	f.Duration("audit-keep", 24*time.Hour, "`time` for which nothing is deleted whatever --audit-max-mib says; a disk that is full for it refuses what must be recorded")
	f.Duration("audit-max-age", 0, "`time` after which segments of the audit log are deleted; 0 for never")
	f.Duration("audit-wait", 500*time.Millisecond, "`time` that a request waits for a record that its rule requires to be on disk, and is refused after; less than Envoy waits for an answer")
	f.Bool("audit-otlp", false, "send a copy of each audit record to --otlp-endpoint as a log")
	f.String("journal-on-damage", "deny", "`word` deny or forget: once a damaged journal was set aside, count durable limits as used up for their current window, or start them at zero")
	f.String("ratelimit-format", "draft-10", "`word` for the RateLimit headers on answers: off, legacy, draft-06, draft-10")
	f.String("only-host", "", "host `name` without which sluiced does not start, where something may start copies of it, each of which would count for itself; \"\" for any")
	f.Int("max-cells", 2_000_000, "most counters kept in memory, as a `number`; beyond it, requests that need a new one are refused")
	redisFlags(f)
	f.Duration("drain-delay", 0, "after SIGTERM, `time` to keep serving while readiness already says no; set it to what endpoints take to propagate")
	f.Duration("drain-timeout", 20*time.Second, "after --drain-delay, `time` for calls in flight before they are cut")
	f.String("otlp-endpoint", "", "`host:port` of an OpenTelemetry collector (OTLP over gRPC) for spans, https:// before it for TLS; \"\" for none")
	f.String("otlp-ca", "", "PEM `file` with the certificates that the collector's must chain to, read at the start; \"\" for the system's")
	f.Bool("otlp-plaintext", false, "let plain text go to a collector on another machine, where something else encrypts the way; who is on the way reads which tenant does what")
	f.Int("metrics-tenants", 20, "most tenants with series of their own on /metrics, those that ask most, as a `number` up to 100; the others share one; 0 names none")
	f.String("log-level", "info", "`word` for the least that is logged: debug, info, warn, error")
	f.String("log-format", "text", "`word` text or json")
}

// LoadConfig merges, weakest first: defaults, the file named by --config or
// SLUICE_CONFIG, SLUICE_* variables, flags that were given. It reports every
// problem at once.
func LoadConfig(f *pflag.FlagSet, environ []string) (Config, error) {
	k := koanf.New("\x00") // flat: no key holds the separator
	path, _ := f.GetString("config")
	source := "config " + path
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, "SLUICE_CONFIG="); ok && path == "" {
			path, source = v, "SLUICE_CONFIG "+v
		}
	}
	var problems []error
	if path != "" {
		err := k.Load(file.Provider(path), yaml.Parser())
		var unreadable *fs.PathError
		switch {
		case errors.As(err, &unreadable):
			return Config{}, fmt.Errorf("%s: %w; name a YAML file that this user can read", source, err)
		case err != nil:
			return Config{}, fmt.Errorf("%s: %w; want a line like 'drain-delay: 3s' for each setting, each once", source, err)
		}
		problems = append(problems, checkTypes(f, k, func(string) string { return source })...)
	}
	variables := koanf.New("\x00")
	err := variables.Load(env.Provider("\x00", env.Opt{
		Prefix:        "SLUICE_",
		EnvironFunc:   func() []string { return environ },
		TransformFunc: func(key, value string) (string, any) { return fromVariable(f, key, value) },
	}), nil)
	if err != nil {
		return Config{}, fmt.Errorf("environment: %w", err)
	}
	problems = append(problems, checkTypes(f, variables, variableOf)...)
	if err := errors.Join(k.Merge(variables), k.Load(posflag.Provider(f, "\x00", k), nil)); err != nil {
		return Config{}, fmt.Errorf("settings: %w", err)
	}
	var c Config
	if err := k.Unmarshal("", &c); err != nil {
		return Config{}, fmt.Errorf("settings: %w", err)
	}
	return c, errors.Join(append(problems, c.check()...)...)
}

// fromVariable is the setting that an environment variable means, or "".
func fromVariable(f *pflag.FlagSet, key, value string) (string, any) {
	name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(key, "SLUICE_"), "_", "-"))
	flag := f.Lookup(name)
	switch {
	case flag == nil || name == "config":
		return "", nil
	case flag.Value.Type() == "stringSlice":
		return name, strings.Split(value, ",")
	}
	return name, value
}

func variableOf(setting string) string {
	return "SLUICE_" + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// checkTypes names each key that is no setting and each value that is not of
// its setting's kind, and takes both out. The decoder would turn 'drain-delay: 3'
// into three nanoseconds.
func checkTypes(f *pflag.FlagSet, k *koanf.Koanf, source func(string) string) (problems []error) {
	values := k.All()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		flag := f.Lookup(key)
		if flag == nil || key == "config" {
			name := strings.ReplaceAll(key, "\x00", ".")
			problems = append(problems, fmt.Errorf("%s: %q is no setting; %s'sluiced serve --help' lists them", source(key), name, didYouMean("", meant(f, name))))
			k.Delete(key)
			continue
		}
		kind, text := flag.Value.Type(), fmt.Sprint(values[key])
		_, isList := values[key].([]any)
		if values[key] == nil || isList && kind != "stringSlice" || !isKind(kind, text) {
			problems = append(problems, fmt.Errorf("%s: %w", source(key), errKind(flag, text)))
			k.Delete(key)
		}
	}
	return problems
}

// meant is the setting that whoever wrote name meant, most likely; "" if none is near.
func meant(f *pflag.FlagSet, name string) string {
	var known []string
	f.VisitAll(func(flag *pflag.Flag) { known = append(known, flag.Name) })
	return nearest.Name(strings.ReplaceAll(name, "_", "-"), known)
}

func didYouMean(prefix, best string) string {
	if best == "" {
		return ""
	}
	return "did you mean " + prefix + best + "? "
}

// misspelt are the variables that look like settings and are none. Others with SLUICE_ before them are
// Kubernetes', for a service of that name, or somebody's own.
func misspelt(f *pflag.FlagSet, environ []string) (problems []string) {
	for _, e := range environ {
		key, _, _ := strings.Cut(e, "=")
		word, ours := strings.CutPrefix(key, "SLUICE_")
		if name, _ := fromVariable(f, key, ""); !ours || name != "" || key == "SLUICE_CONFIG" || len(word) < 4 {
			continue
		}
		if best := meant(f, word); best != "" {
			problems = append(problems, fmt.Sprintf("%s is no setting, and is ignored; did you mean %s?", key, variableOf(best)))
		}
	}
	return problems
}

func isKind(kind, text string) bool {
	var err error
	switch kind {
	case "duration":
		_, err = time.ParseDuration(text)
	case "int":
		_, err = strconv.Atoi(text)
	case "bool":
		_, err = strconv.ParseBool(text)
	}
	return err == nil
}

func errKind(flag *pflag.Flag, text string) error {
	want := map[string]string{
		"duration":    "a time with its unit, like 3s, 1m30s or 72h",
		"int":         "a whole number",
		"bool":        "true or false",
		"string":      "one text",
		"stringSlice": "a list of texts",
	}[flag.Value.Type()]
	return fmt.Errorf("%s %q: want %s; the default is %q", flag.Name, text, want, flag.DefValue)
}

func (c Config) check() (problems []error) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Data == "" {
		wrong("data: empty; name a folder, like ./data")
	}
	if c.GRPCListen == "" && c.UDS == "" {
		wrong("grpc-listen, uds: both empty, so no door could be reached; set one")
	}
	c.checkAddresses(wrong)
	c.Redis.check(wrong)
	if c.OnlyHost != "" && c.Redis.URL != "" {
		wrong("only-host: for counters that one sluiced has alone, and those of redis-url are shared; leave one of them out")
	}
	if c.TLSCert != "" {
		if c.TLSKey == "" || c.TLSClientCA == "" {
			wrong("tls-cert: needs tls-key and tls-client-ca beside it")
		}
		if len(c.Peers) == 0 {
			wrong("peers: empty, so nobody could call over mTLS; list the SPIFFE ids of the proxies")
		}
	} else if c.TLSKey != "" || c.TLSClientCA != "" || len(c.Peers) > 0 {
		wrong("tls-cert: empty, so tls-key, tls-client-ca and peers would do nothing; set it, or leave them out")
	}
	for _, list := range []struct {
		setting string
		ids     []string
	}{{"xfcc-forwarders", c.XFCCForwarders}, {"peers", c.Peers}} {
		for _, id := range list.ids {
			if problem := trust.CheckSPIFFE(id); problem != "" {
				wrong("%s %q: %s; write one like spiffe://cluster.local/ns/istio-system/sa/ingress", list.setting, id, problem)
			}
		}
	}
	for _, id := range c.EdgePeers {
		if !slices.Contains(c.Peers, id) {
			wrong("edge-peers %q: not one of peers, so it may not ask at all; add it there, or leave it out here", id)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(choices)) {
		got := map[string]string{
			"audit": c.Audit, "journal-on-damage": c.JournalOnDamage, "ratelimit-format": c.RateLimitFormat, "log-level": c.LogLevel, "log-format": c.LogFormat, "stage": c.Stage,
		}[name]
		if !slices.Contains(choices[name], got) {
			wrong("%s %q: one of %s", name, got, strings.Join(choices[name], ", "))
		}
	}
	if c.MaxCells < 1000 {
		wrong("max-cells %d: at least 1000", c.MaxCells)
	}
	if c.MetricsTenants < 0 || c.MetricsTenants > traffic.MaxTenants {
		wrong("metrics-tenants %d: 0 to %d", c.MetricsTenants, traffic.MaxTenants)
	}
	for _, least := range []struct {
		setting  string
		got, min int64
	}{
		{"audit-anonymous-rate", int64(c.AuditAnonymousRate), 1}, {"audit-tenant-rate", int64(c.AuditTenantRate), 1}, {"audit-max-mib", int64(c.AuditMaxMiB), 0},
		{"audit-max-age", int64(c.AuditMaxAge), 0}, {"audit-keep", int64(c.AuditKeep), 0},
	} {
		if least.got < least.min {
			wrong("%s: at least %d", least.setting, least.min)
		}
	}
	if c.AuditWait <= 0 {
		wrong("audit-wait %v: more than 0s, or what must be recorded would be refused at once", c.AuditWait)
	}
	c.checkCollector(wrong)
	if c.DrainDelay < 0 {
		wrong("drain-delay %v: 0s or more", c.DrainDelay)
	}
	if c.DrainTimeout <= 0 {
		wrong("drain-timeout %v: more than 0s, or calls in flight would be cut at once", c.DrainTimeout)
	}
	return problems
}

// longestSocket is what the kernel takes as the path of a Unix socket (unix(7), sun_path).
const longestSocket = 107

func (c Config) checkAddresses(wrong func(string, ...any)) {
	for _, a := range []struct{ setting, address string }{
		{"grpc-listen", c.GRPCListen}, {"http-listen", c.HTTPListen}, {"status-listen", c.StatusListen},
	} {
		if a.address != "" && !isAddress(a.address) {
			wrong("%s %s: want host:port with a port from 0 to 65535 and no scheme, like 127.0.0.1:9090", a.setting, a.address)
		}
	}
	if c.TLSCert == "" && !loopback(c.GRPCListen) {
		wrong("grpc-listen %s: whoever reaches a door can claim any principal; use 127.0.0.1, or set tls-cert, tls-key, tls-client-ca and peers", c.GRPCListen)
	}
	if !c.HTTPRemote && !loopback(c.HTTPListen) {
		wrong("http-listen %s: not loopback; use 127.0.0.1, or say http-remote and put TLS before it", c.HTTPListen)
	}
	if len(c.UDS) > longestSocket {
		wrong("uds %s: the path of a socket has at most %d bytes, and this has %d", c.UDS, longestSocket, len(c.UDS))
	}
}

// isAddress reports whether address is host:port.
func isAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	_, errPort := strconv.ParseUint(port, 10, 16)
	return err == nil && errPort == nil
}

// loopback reports whether nobody outside this machine reaches address. One that
// is none is another problem's.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
