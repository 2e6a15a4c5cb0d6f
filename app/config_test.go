package app

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func load(t *testing.T, environ, args []string) (Config, error) {
	t.Helper()
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	Flags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(f, environ)
}

func TestSettingsComeFromFlagThenEnvironmentThenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluiced.yaml")
	text := "max-cells: 5000\nuds: /run/from-file\ndrain-delay: 3s\nlog-level: warn\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, []string{"SLUICE_CONFIG=" + path, "SLUICE_UDS=/run/from-env", "SLUICE_LOG_LEVEL=debug", "SLUICE_ENVOY=not ours"},
		[]string{"--log-level", "error"})
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxCells != 5000 || c.UDS != "/run/from-env" || c.LogLevel != "error" || c.DrainDelay != 3*time.Second {
		t.Errorf("%+v", c)
	}
	if c.HTTPListen != "127.0.0.1:9091" {
		t.Errorf("default of http-listen: %q", c.HTTPListen)
	}
}

func TestEveryWrongSettingIsNamedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluiced.yaml")
	if err := os.WriteFile(path, []byte("max-cell: 5000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := load(t, nil, []string{
		"--config", path, "--grpc-listen", "0.0.0.0:9090", "--http-listen", ":9091", "--max-cells", "1", "--metrics-tenants", "101",
		"--journal-on-damage", "ignore", "--ratelimit-format", "draft-99", "--log-level", "loud", "--log-format", "xml", "--drain-timeout", "-1s",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`"max-cell" is no setting`, "grpc-listen 0.0.0.0:9090", "http-listen :9091", "max-cells 1", "metrics-tenants 101: 0 to 100",
		`journal-on-damage "ignore": one of deny, forget`, `ratelimit-format "draft-99"`, `log-level "loud"`, `log-format "xml"`, "drain-timeout",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("does not say %q:\n%v", want, err)
		}
	}
}

func TestAValueOfTheWrongKindIsNamedWithItsSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluiced.yaml")
	text := "drain-delay: 3\nmax-cells: many\nhttp-remote: maybe\nuds: [a, b]\ndata:\nlog-level: loud\ntls: {cert: x}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := load(t, []string{"SLUICE_DRAIN_TIMEOUT=5", "SLUICE_GRPC_LISTEN=127.0.0.1"}, []string{"--config", path, "--http-listen", "http://x:1", "--peers", "me", "--edge-peers", "spiffe://mesh/ns/edge/sa/gw", "--uds", strings.Repeat("x", 108)})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"config " + path + `: drain-delay "3": want a time with its unit, like 3s, 1m30s or 72h; the default is "0s"`,
		`: max-cells "many": want a whole number; the default is "2000000"`,
		`: http-remote "maybe": want true or false`, `: uds "[a b]": want one text`, `: data "<nil>": want one text`,
		`log-level "loud": one of debug, info, warn, error`, `"tls.cert" is no setting`,
		`SLUICE_DRAIN_TIMEOUT: drain-timeout "5": want a time`,
		"grpc-listen 127.0.0.1: want host:port", "http-listen http://x:1: want host:port",
		`peers "me": does not begin with spiffe://; write one like`, `edge-peers "spiffe://mesh/ns/edge/sa/gw": not one of peers`, "tls-cert: empty, so", "at most 107 bytes, and this has 108",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("does not say %q:\n%v", want, err)
		}
	}
}

// fields are those of t, and of structs in it.
func fields(t reflect.Type, index []int) (all []reflect.StructField) {
	for i := range t.NumField() {
		f := t.Field(i)
		f.Index = append(slices.Clone(index), i)
		if f.Type.Kind() == reflect.Struct {
			all = append(all, fields(f.Type, f.Index)...)
			continue
		}
		all = append(all, f)
	}
	return all
}

// TestEverySettingHasAFlagAVariableAndAKey walks Config and the flags, so that
// none of the three is forgotten when a setting is added.
func TestEverySettingHasAFlagAVariableAndAKey(t *testing.T) {
	values := map[reflect.Kind]struct {
		text string
		want any
	}{
		reflect.String: {"127.0.0.1:77", "127.0.0.1:77"},
		reflect.Bool:   {"true", true},
		reflect.Int:    {"7777", 7777},
		reflect.Int64:  {"77s", 77 * time.Second},
		reflect.Slice:  {"spiffe://a/b", []string{"spiffe://a/b"}},
	}
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	Flags(f)
	settings := map[string]bool{"config": true}
	for _, field := range fields(reflect.TypeFor[Config](), nil) {
		name := field.Tag.Get("koanf")
		settings[name] = true
		if f.Lookup(name) == nil {
			t.Errorf("Config.%s has no flag %q", field.Name, name)
			continue
		}
		v, ok := values[field.Type.Kind()]
		if words := choices[name]; len(words) > 0 {
			v.text, v.want = words[len(words)-1], words[len(words)-1]
		}
		path := filepath.Join(t.TempDir(), "sluiced.yaml")
		if err := os.WriteFile(path, []byte(name+": "+v.text+"\n"), 0o600); err != nil || !ok {
			t.Fatalf("%s: kind %v, %v", name, field.Type.Kind(), err)
		}
		for source, c := range map[string]Config{
			"the flag":     only(t, nil, []string{"--" + name + "=" + v.text}),
			"the variable": only(t, []string{"SLUICE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "=" + v.text}, nil),
			"the file":     only(t, nil, []string{"--config", path}),
		} {
			if got := reflect.ValueOf(c).FieldByIndex(field.Index).Interface(); !reflect.DeepEqual(got, v.want) {
				t.Errorf("%s %s gave %v, want %v", name, source, got, v.want)
			}
		}
	}
	f.VisitAll(func(flag *pflag.Flag) {
		if !settings[flag.Name] {
			t.Errorf("--%s is in no field of Config", flag.Name)
		}
		if kind, usage := pflag.UnquoteUsage(flag); usage == "" || kind == "string" {
			t.Errorf("--%s: the help does not say what it is: %q, %q", flag.Name, kind, usage)
		}
	})
}

// only is what one setting alone comes to, whether it makes sense alone or not.
func only(t *testing.T, environ, args []string) Config {
	t.Helper()
	c, _ := load(t, environ, args)
	return c
}

func TestMutualTLSNeedsPeers(t *testing.T) {
	if _, err := load(t, nil, []string{"--grpc-listen", ":9090", "--tls-cert", "x"}); err == nil ||
		!strings.Contains(err.Error(), "peers: empty") || !strings.Contains(err.Error(), "tls-cert: needs") {
		t.Errorf("%v", err)
	}
}

func TestInitRefusesToReplaceASecret(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	token, err := Init(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(token) < 40 {
		t.Errorf("token %q is short", token)
	}
	if _, err := Init(data); err == nil || !strings.Contains(err.Error(), "initialised already") {
		t.Errorf("second init: %v", err)
	}
	for _, name := range []string{secretFile, adminTokenFile, adminHashFile} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", name, info.Mode())
		}
	}
	a, err := loadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	if a.pepper == [32]byte{} || a.cells == [16]byte{} || a.cells == a.decision {
		t.Error("keys are not told apart")
	}
}

func TestADamagedSecretIsRefused(t *testing.T) {
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, secretFile), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKeys(data); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("%v", err)
	}
}
