package cluster

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// spaces are the namespaces of the profile voicecore that have workloads.
var spaces = []string{"istio-system", "sluice-system", "voicecore-ai"}

// TestCommandLine runs the scripts of testdata with the built command against the real API server.
func TestCommandLine(t *testing.T) {
	interruptedAndResumed(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("KUBECONFIG", kubeconfig)
			e.Setenv("PATH", strings.Join([]string{filepath.Dir(binary), os.Getenv("SLUICE_MESH_TOOLS"), e.Getenv("PATH")}, string(os.PathListSeparator)))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"edit": editCommand},
	})
}

// editCommand is 'edit APIVERSION KIND NAMESPACE NAME FIELD VALUE': what kubectl edit would do.
func editCommand(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 6 {
		ts.Fatalf("usage: edit APIVERSION KIND NAMESPACE NAME FIELD VALUE")
	}
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(args[0])
	u.SetKind(args[1])
	ctx := context.Background()
	ts.Check(admin.Get(ctx, client.ObjectKey{Namespace: args[2], Name: args[3]}, u))
	ts.Check(unstructured.SetNestedField(u.Object, args[5], strings.Split(args[4], ".")...))
	ts.Check(admin.Update(ctx, u, client.FieldOwner("kubectl-edit")))
}

// interruptedAndResumed presses Ctrl-C at a component and runs the command again.
func interruptedAndResumed(t *testing.T) {
	sluice := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), binary, append([]string{"mesh"}, args...)...)
		c.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
		return c
	}
	t.Run("Ctrl-C at a component exits with 130 and status says at which", func(t *testing.T) {
		c := sluice("install", "--profile", "voicecore", "--yes", "--skip-checks")
		c.Stdout = os.Stderr
		lines, err := c.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var said []string
		for s := bufio.NewScanner(lines); s.Scan(); {
			said = append(said, s.Text())
			if strings.HasPrefix(s.Text(), "istiod: ") && !strings.HasPrefix(said[max(len(said)-2, 0)], "istiod: ") {
				if err := c.Process.Signal(syscall.SIGINT); err != nil {
					t.Error(err)
				}
			}
		}
		if code := exitCode(c.Wait()); code != 130 || !strings.Contains(said[len(said)-1], "sluice: interrupted (") {
			t.Fatalf("exit status %d, it said\n%s", code, strings.Join(said[max(len(said)-5, 0):], "\n"))
		}
		out, err := sluice("status").Output()
		if code := exitCode(err); code != 4 || !strings.Contains(string(out), "UNFINISHED: install was interrupted at component istiod, begun ") {
			t.Errorf("status: exit status %d\n%s", code, out)
		}
	})
	// Not before: nothing is ready, so that the component lasts until the signal has come.
	settleUntilEnd(t, spaces...)
	t.Run("running it again finishes it", func(t *testing.T) {
		if out, err := sluice("install", "--profile", "voicecore", "--yes", "--skip-checks").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := sluice("status").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}
