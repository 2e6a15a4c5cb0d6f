package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const install = "mesh install --profile voicecore"

// TestDeployScriptPassesEverythingOn runs the script of a POSIX shell beside a sluice that prints what it was given.
func TestDeployScriptPassesEverythingOn(t *testing.T) {
	dir := t.TempDir()
	stub := "#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\nexit 42\n"
	if err := os.WriteFile(filepath.Join(dir, "sluice"), []byte(stub), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ says, path, named string }{
		{"sluice is found in PATH", dir + ":/usr/bin:/bin", ""},
		{"sluice is named by SLUICE", "/usr/bin:/bin", filepath.Join(dir, "sluice")},
	} {
		t.Run(c.says, func(t *testing.T) {
			command := exec.Command("scripts/deploy-istio.sh", "--dry-run", "--set", "a=b c", "", "-f", "*")
			command.Env = []string{"PATH=" + c.path, "SLUICE=" + c.named}
			out, err := command.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 42 {
				t.Errorf("sluice exits with 42, the script with %v", err)
			}
			if want := "<mesh><install><--profile><voicecore><--dry-run><--set><a=b c><><-f><*>"; string(out) != want {
				t.Errorf("sluice got %s, want %s", out, want)
			}
		})
	}
	t.Run("without sluice it says so", func(t *testing.T) {
		command := exec.Command("/bin/sh", "scripts/deploy-istio.sh")
		command.Env = []string{"PATH=" + t.TempDir()}
		out, err := command.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 127 || !strings.Contains(string(out), "sluice") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// TestPowerShellScriptSaysWhatTheOtherSays reads the script that is not run here. It is
// held to lines that are known to be right, and to the command of the one that is run.
func TestPowerShellScriptSaysWhatTheOtherSays(t *testing.T) {
	code := func(name string) (lines []string, all string) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if line != "" && line[0] != '#' {
				lines = append(lines, line)
			}
		}
		return lines, string(text)
	}
	lines, all := code("scripts/deploy-istio.ps1")
	known := []*regexp.Regexp{
		regexp.MustCompile(`^Set-StrictMode -Version Latest$`),
		regexp.MustCompile(`^\$ErrorActionPreference = 'Stop'$`),
		regexp.MustCompile(`^\$sluice = 'sluice'$`),
		regexp.MustCompile(`^if \(\$env:SLUICE\) \{ \$sluice = \$env:SLUICE \}$`),
		regexp.MustCompile(`^& \$sluice ` + install + ` @args$`),
		regexp.MustCompile(`^exit \$LASTEXITCODE$`),
	}
	if len(lines) != len(known) {
		t.Fatalf("%d lines of code, want %d: %q", len(lines), len(known), lines)
	}
	for i, line := range lines {
		if !known[i].MatchString(line) {
			t.Errorf("line %d of code is %q, want %s", i+1, line, known[i])
		}
	}
	for _, r := range all {
		if r > 126 {
			t.Errorf("%q: older PowerShells read a script without a byte-order mark as the system's code page", r)
		}
	}
	if shell, _ := code("scripts/deploy-istio.sh"); len(shell) != 1 || !strings.Contains(shell[0], ` `+install+` "$@"`) {
		t.Errorf("the shell's script is %q", shell)
	}
}
