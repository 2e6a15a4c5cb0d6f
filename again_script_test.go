package sluice

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatFetchesIsRunAgain has scripts/again run a command that fails so many times, and says so each time.
func TestWhatFetchesIsRunAgain(t *testing.T) {
	for _, c := range []struct {
		name            string
		fails, runs, is int
	}{
		{"what succeeds runs once", 0, 1, 0},
		{"what fails for a moment succeeds", 2, 3, 0},
		{"the last try counts", 3, 4, 0},
		{"what goes on failing fails, with its own status", 9, 4, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			runs := filepath.Join(t.TempDir(), "runs")
			cmd := exec.CommandContext(t.Context(), "scripts/again", "sh", "-c", `echo "$2" >>"$1"; [ $(wc -l <"$1") -gt "$0" ] || exit 7`, string(rune('0'+c.fails)), runs, "a b")
			cmd.Env = append(os.Environ(), "SLUICE_AGAIN=0 0 0")
			out, err := cmd.CombinedOutput()
			is := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				is = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(runs)
			if err != nil || string(text) != strings.Repeat("a b\n", c.runs) || is != c.is {
				t.Errorf("exit status %d after runs %q, %v\n%s", is, text, err, out)
			}
			if said := strings.Count(string(out), "once more"); said != c.runs-1 {
				t.Errorf("it said so %d times\n%s", said, out)
			}
		})
	}
}
