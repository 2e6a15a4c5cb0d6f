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
	for _, block := range strings.Split(section, "```sh\n")[1:] {
		if code, _, _ := strings.Cut(block, "```"); strings.Contains(code, "curl ") {
			script += code
		}
	}
	w := alone(t, stack.Options{})
	script = strings.ReplaceAll(script, "http://127.0.0.1:9091", w.HTTP)
	shims := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(shims, "curl")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = filepath.Dir(w.Data)
	cmd.Env = append(os.Environ(), "PATH="+shims+string(filepath.ListSeparator)+os.Getenv("PATH"))
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, said, script)
	}
	text := strings.ReplaceAll(string(said), " ", "")
	for _, want := range []string{`"name":"plans/gold"`, `"name":"tenants/acme"`, `"secret":"slk_`, `"limitName":"per-day"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, said)
		}
	}
}

// curl is as much of curl as the README uses, for machines without it. It
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
