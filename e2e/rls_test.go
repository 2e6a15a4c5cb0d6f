package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

const descriptors = `domain: demo
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 5}
  - key: user
    value: free
    rate_limit: {unlimited: true}
  - key: user
    value: banned
    rate_limit: {unit: second, requests_per_unit: 0}
`

func TestDescriptorFilesOfTheReferenceLimitThroughEnvoy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "demo.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".tmp", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".tmp", file); err != nil {
			t.Fatal(err)
		}
	}
	write(descriptors)
	w := start(t, stack.Options{Config: deploy.RLS, RLS: dir})
	admitted := func(user string, n int) (ok int) {
		t.Helper()
		for range n {
			s := w.get(t.Context(), "", func(r *http.Request) { r.Header.Set("x-user", user) })
			switch {
			case s.err != nil:
				t.Fatal(s.err)
			case s.status == http.StatusOK:
				ok++
			case s.status != http.StatusTooManyRequests:
				t.Fatalf("status %d", s.status)
			}
		}
		return ok
	}
	for _, c := range []struct {
		user string
		want int
	}{{"ann", 5}, {"bob", 5}, {"free", 20}, {"banned", 0}} {
		if n := admitted(c.user, 20); n != c.want {
			t.Errorf("%s: %d of 20 admitted, want %d", c.user, n, c.want)
		}
	}

	t.Run("a half-written file changes nothing and a whole one holds soon", func(t *testing.T) {
		write("domain: demo\ndescriptors:\n  - key: user\n    rate_limit: {unit: year, requests_per_un")
		await.That(t, "the log names file and line", func() bool {
			return strings.Contains(w.log(t), "the descriptor files are refused; the ones before stay in force") && strings.Contains(w.log(t), "demo.yaml: is not YAML: line 3")
		})
		if n := admitted("carl", 20); n != 5 {
			t.Errorf("%d admitted while the file was broken, want 5 as before", n)
		}
		write("domain: demo\ndescriptors:\n  - key: user\n    rate_limit: {unit: year, requests_per_unit: 8}\n")
		extra := 0
		await.That(t, "3 more are admitted, for the limit went from 5 to 8", func() bool {
			extra += admitted("carl", 1)
			return extra == 3
		})
		if n := admitted("carl", 5); n != 0 {
			t.Errorf("%d admitted beyond 8", n)
		}
	})
}
