package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/exit"
)

func TestFlags(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script.js")
	if err := os.WriteFile(script, []byte(`
export const options = { thresholds: { iterations: [__ENV.COUNT] } };
if (__ENV.HERE !== 'given') { throw new Error('HERE is ' + __ENV.HERE); }
export default function () {}
export function handleSummary() { throw new Error('a summary was made'); }
`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HERE", "there")
	t.Setenv("COUNT", "count==1")
	for _, c := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"k6's flags are taken", []string{"run", "-q", "-e", "HERE=given", "--summary-mode=disabled", script}, 0, ""},
		{"a flag goes before the environment", []string{"run", "--quiet", "-e", "HERE=given", "--env", "COUNT=count==2", "--summary-mode", "disabled", script}, 99, "count==2"},
		{"the environment is there", []string{"run", script}, 107, "HERE is there"},
		{"a summary is made unless it is disabled", []string{"run", "-e", "HERE=given", script}, 107, "a summary was made"},
		{"another flag is refused", []string{"run", "--vus", "3", script}, 104, "--vus"},
		{"another command is refused", []string{"cloud", script}, 104, "runner run"},
		{"no script is refused", []string{"run"}, 104, "one script"},
		{"another summary is refused", []string{"run", "--summary-mode=legacy", script}, 104, "compact, full or disabled"},
		{"a script that is not there is 107", []string{"run", script + ".none"}, 107, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := run(t.Context(), c.args)
			if exit.Code(err) != c.code {
				t.Fatalf("exit status %d, want %d: %v", exit.Code(err), c.code, err)
			}
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("the error is %v, want %q in it", err, c.text)
			}
		})
	}
}
