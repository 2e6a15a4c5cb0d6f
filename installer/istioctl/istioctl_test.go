package istioctl

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/lint"
	"github.com/voicecore-ai/sluice/installer/render"
)

const version = `if [ "$1" = version ]; then echo '{"clientVersion": {"version": "1.31.4"}}'; exit; fi` + "\n"

// fake is an istioctl that does what a script says, and keeps its arguments and input.
// What the real one says is recorded in testdata; what the fake adds are faults.
func fake(t *testing.T, script string) (path string, kept func(name string) string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "istioctl")
	text := fmt.Sprintf("#!/bin/sh\n%secho \"$@\" >>%q\ncat >%q\n%s\n", version, filepath.Join(dir, "args"), filepath.Join(dir, "in"), script)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { // #nosec G306 -- it is run
		t.Fatal(err)
	}
	return path, func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func recorded(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("testdata/wrong.json")
	if err != nil {
		t.Fatal(err)
	}
	return "cat " + path
}

func wrong(t *testing.T) render.Objects {
	t.Helper()
	file, err := os.Open("testdata/wrong.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	objects, err := lint.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func lines(r check.Result) (out []string) {
	for _, f := range r.Findings {
		out = append(out, fmt.Sprintf("%s %s %s", f.Severity, f.Code, f.Object))
	}
	return out
}

func TestObjects(t *testing.T) {
	path, kept := fake(t, recorded(t))
	whole := []string{
		"fail IST0106 DestinationRule shop/d", "fail IST0101 VirtualService shop/v", "fail IST0101 VirtualService shop/v",
		"warn IST0133 EnvoyFilter shop/e", "warn IST0132 VirtualService shop/v",
	}
	r := Objects(t.Context(), path, wrong(t), true)
	if got := lines(r); !slices.Equal(got, whole) {
		t.Errorf("got %q\nwant %q", got, whole)
	}
	t.Run("a message has its own code, what Istio says, and Istio's page", func(t *testing.T) {
		want := check.Finding{
			Code: "IST0101", Severity: check.Fail, Object: "VirtualService shop/v", Says: `Referenced gateway not found: "shop/gone"`,
			Doc: "https://istio.io/v1.31/docs/reference/config/analysis/ist0101/",
		}
		if r.Findings[1] != want {
			t.Errorf("got %+v", r.Findings[1])
		}
	})
	t.Run("each object is a document of its own", func(t *testing.T) {
		if in := kept("in"); strings.Count(in, "---\n") != 4 || strings.Contains(in, `"kind":"List"`) {
			t.Errorf("got\n%s", in)
		}
		if args := kept("args"); args != "analyze --all-namespaces --output json --use-kube=false -\n" {
			t.Errorf("got %s", args)
		}
	})
	t.Run("among some objects, nothing is missing", func(t *testing.T) {
		want := []string{whole[0], whole[3]}
		if got := lines(Objects(t.Context(), path, wrong(t), false)); !slices.Equal(got, want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	})
}

func TestCluster(t *testing.T) {
	target := Target{Kubeconfig: "k", Context: "c", Namespace: "mesh", Istiods: map[string]string{"": "1.31.0", "1-32-0": "1.32.0"}}
	path, kept := fake(t, `echo '[{"code":"IST0102","level":"Info","message":"m","origin":"Namespace a"}]'`)
	r := Cluster(t.Context(), path, target)
	if got, want := lines(r), []string{"warn SA102 istioctl", "info IST0102 Namespace a"}; !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := r.Findings[0].Evidence; got != "istioctl 1.31.4, istiod 1.32.0" {
		t.Errorf("got %q", got)
	}
	asked := strings.Split(strings.TrimSpace(kept("args")), "\n")
	if len(asked) != 2 || strings.Contains(asked[0], "--revision") || !strings.Contains(asked[1], "--revision 1-32-0") {
		t.Errorf("each control plane is asked about once: %q", asked)
	}
	for _, want := range []string{"--kubeconfig k", "--context c", "--namespace mesh", "--istioNamespace mesh"} {
		if !strings.Contains(asked[0], want) {
			t.Errorf("no %s in %q", want, asked[0])
		}
	}
	if got := lines(Cluster(t.Context(), path, Target{Namespace: "mesh"})); !slices.Contains(got, "info SA102 istioctl") {
		t.Errorf("without an istiod nothing is compared, and that is said: %q", got)
	}
}

// TestWhatDidNotRunIsSaid: an analysis that was not done never looks like one that found nothing.
func TestWhatDidNotRunIsSaid(t *testing.T) {
	for _, c := range []struct{ name, script, says string }{
		{"it fails", "echo 'Error: secrets is forbidden' >&2; exit 1", "'istioctl analyze': Error: secrets is forbidden"},
		{"it fails and says nothing", "exit 3", "'istioctl analyze': exit status 3"},
		{"it succeeds and says nothing, as in a namespace that does not exist", "echo 'namespace \"x\" not found' >&2", "gave no answer that can be read"},
		{"it logs and prints no list", `printf '2026-01-01\terror\twatch failed\n'`, "gave no answer that can be read: error watch failed"},
		{"what it prints is no list", "echo '[{'", "gave no answer that can be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, _ := fake(t, c.script)
			r := Objects(t.Context(), path, nil, true)
			if len(r.Findings) != 1 || r.Findings[0].Severity != check.Fail || !strings.Contains(r.Findings[0].Says, c.says) || r.Findings[0].Fix == "" {
				t.Errorf("got %+v", r.Findings)
			}
		})
	}
	t.Run("it skips a part and goes on", func(t *testing.T) {
		path, _ := fake(t, `printf '2026-01-01\twarn\tfile\terror processing -[0] - skipping\n[]\n'`)
		r := Objects(t.Context(), path, nil, true)
		if len(r.Findings) != 1 || r.Findings[0].Says != "something was not analyzed" || r.Findings[0].Evidence != "error processing -[0] - skipping" {
			t.Errorf("got %+v", r.Findings)
		}
	})
	t.Run("there is none: a warning that says where to get it", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		r := Objects(t.Context(), "", nil, true)
		if len(r.Findings) != 1 || r.Findings[0].Severity != check.Warn || !strings.Contains(r.Findings[0].Fix, "github.com/istio/istio/releases") {
			t.Errorf("got %+v", r.Findings)
		}
	})
	t.Run("the one that was named is not there: a failure", func(t *testing.T) {
		r := Objects(t.Context(), filepath.Join(t.TempDir(), "none"), nil, true)
		if len(r.Findings) != 1 || r.Findings[0].Severity != check.Fail {
			t.Errorf("got %+v", r.Findings)
		}
	})
	t.Run("another program is not taken for it", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "istioctl")
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho hello\n"), 0o700); err != nil { // #nosec G306 -- it is run
			t.Fatal(err)
		}
		if r := Objects(t.Context(), path, nil, true); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Says, "it is no istioctl") {
			t.Errorf("got %+v", r.Findings)
		}
	})
	t.Run("an interruption ends it", func(t *testing.T) {
		path, _ := fake(t, "exec sleep 60")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if r := Objects(ctx, path, nil, true); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Says, "canceled") {
			t.Errorf("got %+v", r.Findings)
		}
	})
}
