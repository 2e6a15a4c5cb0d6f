// Package observe looks at what Sluice tells of itself with what operators look with: a
// real Jaeger and a real Prometheus. 'make test-observe' builds them and names their folder in
// SLUICE_OBSERVE_TOOLS, and Envoy in SLUICE_ENVOY.
package observe

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the sluiced that the tests run, built once.
var binary string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/observe:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Getenv("SLUICE_ENVOY") == "" || os.Getenv("SLUICE_OBSERVE_TOOLS") == "" {
		return 1, errors.New("SLUICE_ENVOY or SLUICE_OBSERVE_TOOLS is not set; 'make test-observe' builds what they name and sets them")
	}
	dir, err := os.MkdirTemp("", "sluice-observe-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "sluiced")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/sluiced")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return 1, fmt.Errorf("build sluiced: %w", err)
	}
	return m.Run(), nil
}

// tool is the path of one that 'make observe-tools' built.
func tool(name string) string { return filepath.Join(os.Getenv("SLUICE_OBSERVE_TOOLS"), name) }
