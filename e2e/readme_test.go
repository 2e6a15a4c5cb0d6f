package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli"
	"github.com/voicecore-ai/sluice/cli/stack"
)

// TestTheReadmesCommandsWork runs what the README tells a newcomer to type
// after the server is up.
func TestTheReadmesCommandsWork(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Run the server\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var script string
	for _, code := range shellOf(section) {
		if strings.Contains(code, "curl ") {
			script += code
		}
	}
	w := alone(t, stack.Options{})
	said := paste(t, filepath.Dir(w.Data), strings.ReplaceAll(script, "http://127.0.0.1:9091", w.HTTP))
	text := strings.ReplaceAll(said, " ", "")
	for _, want := range []string{`"name":"plans/gold"`, `"name":"tenants/acme"`, `"secret":"slk_`, `"limitName":"per-day"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, said)
		}
	}
}

// TestTheGuidesCommandsWork runs what the page on authorization tells a newcomer to type beside the demo.
func TestTheGuidesCommandsWork(t *testing.T) {
	page, err := os.ReadFile("../docs/guide/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	w := alone(t, stack.Options{})
	w.tenant(t, "acme") // and the rule tenants-may
	script := fmt.Sprintf("auth='authorization: Bearer %s'\napi=%s/v1\ndata=%s\n", w.AdminToken, w.HTTP, w.Data)
	said := paste(t, t.TempDir(), script+strings.Join(shellOf(string(page)), ""))
	text := strings.ReplaceAll(said, " ", "")
	for _, want := range []string{`"name":"rules/nobody-is-admin"`, `{"rules":[{"name":"rules/tenants-may"`, "✓│try.test.yaml│acmeisnoadmin", "denybynobody-is-admin", "wouldchange,unknown0;skipped"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, said)
		}
	}
}

// shellOf is the commands of a page, block by block.
func shellOf(page string) (blocks []string) {
	for _, block := range strings.Split(page, "```sh\n")[1:] {
		code, _, _ := strings.Cut(block, "```")
		blocks = append(blocks, code)
	}
	return blocks
}

// paste runs a script whose every command must succeed, and returns what it said.
func paste(t *testing.T, dir, script string) string {
	t.Helper()
	path := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range shims {
		if err := os.Symlink(self, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "PATH="+path+string(filepath.ListSeparator)+os.Getenv("PATH"))
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, said, script)
	}
	return string(said)
}

// shims are the commands that the pages use and this binary can be.
var shims = map[string]func(args []string) error{
	"curl": curl,
	"sluice": func(args []string) error {
		c := cli.Command()
		c.SetArgs(args)
		return c.Execute()
	},
}

// curl is as much of curl as the pages use, for machines without it. It
// fails on an answer that is no success.
func curl(args []string) error {
	method, url, body := http.MethodGet, "", ""
	header := http.Header{}
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-H" && i+1 < len(args):
			i++
			name, value, _ := strings.Cut(args[i], ":")
			header.Add(name, strings.TrimSpace(value))
		case args[i] == "-X" && i+1 < len(args):
			i++
			method = args[i]
		case args[i] == "-d" && i+1 < len(args):
			i++
			method, body = http.MethodPost, args[i]
		case strings.HasPrefix(args[i], "-"):
			return fmt.Errorf("curl: %s is an option that this one does not know", args[i])
		default:
			url = args[i]
		}
	}
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	if method == http.MethodPost && header.Get("content-type") == "" {
		header.Set("content-type", "application/x-www-form-urlencoded")
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, response.Body)
	if err = errors.Join(err, response.Body.Close()); err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("curl: %s", response.Status)
	}
	return err
}
