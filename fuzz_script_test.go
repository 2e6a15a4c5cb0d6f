package sluice

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestAFuzzRunFailsForWhatItFinds has scripts/fuzz judge what 'go test -fuzz' says, which a fake stands in for: Go's end of the time can't be told to go wrong.
func TestAFuzzRunFailsForWhatItFinds(t *testing.T) {
	const (
		began = "fuzz: elapsed: 0s, gathering baseline coverage: 0/10 completed\nfuzz: elapsed: 30s, execs: 9 (0/sec), new interesting: 0 (total: 10)\n"
		late  = "--- FAIL: FuzzX (30.02s)\n    context deadline exceeded\n"
		ended = "FAIL\nexit status 1\nFAIL\texample.com/p\t30.0s\nFAIL\n"
	)
	for _, c := range []struct {
		name, says string
		writes     bool // an input beside the seeds
		code, want int
	}{
		{"a run without a finding passes", began + "PASS\nok  \texample.com/p\t30.0s\n", false, 0, 0},
		{"that the time was up is no finding", began + late + ended, false, 1, 0},
		{"nor that a worker took its time to end then", began + "waiting for fuzzing process to terminate...\n" + late + ended, false, 1, 0},
		{"an input that fails is one", began + "--- FAIL: FuzzX (3.02s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:3: bad\n    Failing input written to testdata/fuzz/FuzzX/1\n" + ended, true, 1, 1},
		{"an input whose failure is about a deadline is one", began + "--- FAIL: FuzzX (3.02s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:3: context deadline exceeded\n" + ended, false, 1, 1},
		{"an input that was found when the time was up is one", began + late + ended, true, 1, 1},
		{"a worker that hangs is one", began + "--- FAIL: FuzzX (30.02s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\n" + ended, false, 1, 1},
		{"what can't be built fails", "# example.com/p\np.go:1: bad\nFAIL\texample.com/p [build failed]\nFAIL\n", false, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			script, err := filepath.Abs("scripts/fuzz")
			if err != nil {
				t.Fatal(err)
			}
			dir, fake := t.TempDir(), t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "p", "testdata", "fuzz", "FuzzX"), 0o755); err != nil {
				t.Fatal(err)
			}
			program := "#!/bin/sh\n[ -z \"$WRITES\" ] || echo x >p/testdata/fuzz/FuzzX/1\nprintf %s \"$SAYS\"\nexit $CODE\n"
			if err := os.WriteFile(filepath.Join(fake, "go"), []byte(program), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), script, "./p", "FuzzX", "30s")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+fake+string(os.PathListSeparator)+os.Getenv("PATH"), "SAYS="+c.says, "CODE="+string(rune('0'+c.code)))
			if c.writes {
				cmd.Env = append(cmd.Env, "WRITES=yes")
			}
			out, err := cmd.CombinedOutput()
			got := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				got = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("exit status %d, want %d\n%s", got, c.want, out)
			}
		})
	}
}
