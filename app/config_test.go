package app

import (
	"os"
	"path/filepath"
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
		"--config", path, "--grpc-listen", "0.0.0.0:9090", "--http-listen", ":9091", "--max-cells", "1",
		"--journal-on-damage", "ignore", "--ratelimit-format", "draft-99", "--log-level", "loud", "--log-format", "xml", "--drain-timeout", "-1s",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`"max-cell" is no setting`, "grpc-listen 0.0.0.0:9090", "http-listen :9091", "max-cells 1",
		`journal-on-damage "ignore": one of deny, forget`, `ratelimit-format "draft-99"`, `log-level "loud"`, `log-format "xml"`, "drain-timeout",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("does not say %q:\n%v", want, err)
		}
	}
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
