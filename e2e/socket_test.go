package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

func TestEnvoyReachesSluicedOverAUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "doors.sock")
	w := start(t, stack.Options{
		Config: strings.Replace(deploy.Demo, "socket_address: {address: 127.0.0.1, port_value: ${SLUICE_PORT}}", "pipe: {path: "+path+"}", 1),
		Args:   []string{"--grpc-listen", "", "--uds", path},
	}, way{target: "unix:" + path})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	decided := func(t *testing.T) {
		t.Helper()
		if s := w.get(t.Context(), key); s.status != http.StatusOK {
			t.Errorf("a good key: %d, %v", s.status, s.err)
		}
		if s := w.get(t.Context(), "slk_00000000_none"); s.status != http.StatusUnauthorized {
			t.Errorf("a wrong key: %d, %v", s.status, s.err)
		}
	}
	decided(t)

	t.Run("its owner and its group may open it, nobody else", func(t *testing.T) {
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != os.ModeSocket|0o660 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
	t.Run("what the socket's peer reports is settled", func(t *testing.T) {
		await.That(t, "two entries", func() bool {
			return strings.Contains(w.metrics(t), `sluice_access_log_entries_total{result="settled"} 2`)
		})
	})
	t.Run("a socket that a crash left is replaced, and Envoy finds the new one", func(t *testing.T) {
		if err := w.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Fatalf("the crash left no socket: %v", err)
		}
		if s := w.get(t.Context(), key); s.status != http.StatusServiceUnavailable {
			t.Errorf("while nobody listens: %d, %v, want 503", s.status, s.err)
		}
		if err := w.StartSluiced(t.Context()); err != nil {
			t.Fatal(err)
		}
		await.That(t, "a request passes", func() bool { return w.get(t.Context(), key).status == http.StatusOK })
		decided(t)
	})
	t.Run("a file that is no socket is left alone, and the error names it", func(t *testing.T) {
		file, data := filepath.Join(dir, "notes.txt"), filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(file, []byte("keep me"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := app.Init(data); err != nil {
			t.Fatal(err)
		}
		said, err := exec.Command(binary, "serve", "--data", data, "--grpc-listen", "", "--http-listen", "", "--uds", file).CombinedOutput()
		if err == nil || !strings.Contains(string(said), "uds "+file+": there is something that is no socket; remove it") {
			t.Errorf("%v: %s", err, said)
		}
		if text, err := os.ReadFile(file); string(text) != "keep me" {
			t.Errorf("%q, %v", text, err)
		}
	})
}
