// Package istioctl asks Istio's own analyzers, by running the istioctl that this machine has,
// and returns what they say as findings beside those of package check.
//
// They are not linked: that would add 68 MB to a command line of 69. What is not asked is therefore said: a report always
// has a finding that tells when, and why, Istio's analyzers did not run.
//
// An analysis of a cluster takes istioctl's time, some seconds, and reads what istioctl reads, which is more than Sluice's
// own rules do: Secrets among it.
package istioctl

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/render"
)

// The codes of what is said about the analysis itself; what Istio's analyzers say has their own, as IST0101.
const (
	codeRun     = "SA101"
	codeVersion = "SA102"
)

const page = "docs/reference/checks.md#"

// patience is how long one run may take. Without a right to list something, istioctl asks for ever, whatever its --timeout.
const patience = time.Minute

// Target is the cluster to analyze; the zero value of a field is what istioctl takes by itself.
type Target struct {
	Kubeconfig, Context string
	// Namespace is istiod's.
	Namespace string
	// Istiods are the versions of the mesh's control planes by revision. Each revision is asked about, each version compared with istioctl's.
	Istiods map[string]string
}

// Cluster has a cluster analyzed by the istioctl at path, or the one on PATH if it is empty.
func Cluster(ctx context.Context, path string, t Target) check.Result {
	return result(ctx, path, func(c *command) ([]check.Finding, error) {
		out := c.compare(t.Istiods)
		revisions := slices.Sorted(maps.Keys(t.Istiods))
		if len(revisions) == 0 {
			revisions = []string{""}
		}
		for _, r := range revisions {
			found, err := c.analyze(ctx, nil, t.arguments(r))
			if err != nil {
				return out, err
			}
			out = append(out, found...)
		}
		return unique(out), nil
	})
}

func (t Target) arguments(revision string) []string {
	// istioctl looks for the namespace of the kubeconfig's context first, and without it says nothing at all.
	args := []string{"--namespace", t.Namespace, "--istioNamespace", t.Namespace}
	for flag, value := range map[string]string{"--kubeconfig": t.Kubeconfig, "--context": t.Context, "--revision": revision} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	return args
}

// Objects has objects analyzed without a cluster. If they are not all there are, what is missing among them is not told.
func Objects(ctx context.Context, path string, objects render.Objects, complete bool) check.Result {
	return result(ctx, path, func(c *command) ([]check.Finding, error) {
		// Documents one after another: of a List, istioctl reads nothing and says nothing.
		var text bytes.Buffer
		for _, o := range objects {
			one, err := o.MarshalJSON()
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&text, "---\n%s", one)
		}
		found, err := c.analyze(ctx, text.Bytes(), []string{"--use-kube=false", "-"})
		if !complete {
			found = slices.DeleteFunc(found, func(f check.Finding) bool { return slices.Contains(missing, f.Code) })
		}
		return unique(found), err
	})
}

// missing are the codes that say that something is not there.
var missing = []string{"IST0101", "IST0127", "IST0132", "IST0139"}

// result runs an analysis. Whatever keeps it from being done is a finding: a failure, if an istioctl was named.
func result(ctx context.Context, path string, do func(*command) ([]check.Finding, error)) check.Result {
	r := check.Result{Code: codeRun, Title: "Istio's own analyzers find nothing"}
	c, err := find(ctx, path)
	if err == nil {
		r.Findings, err = do(c)
	}
	if err != nil {
		severity := check.Warn
		if path != "" { // it was asked for
			severity = check.Fail
		}
		r.Findings = append(r.Findings, check.Finding{
			Code: codeRun, Severity: severity, Object: "istioctl", Says: "Istio's own analyzers did not run: " + err.Error(),
			Fix: fixOf(err), Doc: page + strings.ToLower(codeRun),
		})
	}
	slices.SortStableFunc(r.Findings, func(a, b check.Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity)), strings.Compare(a.Object, b.Object))
	})
	return r
}

var order = []check.Severity{check.Fail, check.Warn, check.Info}

func fixOf(err error) string {
	if errors.Is(err, exec.ErrNotFound) {
		return "put the istioctl of the mesh's version, from https://github.com/istio/istio/releases, on PATH, or say --istioctl PATH"
	}
	return "run 'istioctl analyze --all-namespaces' to see what it says; it needs the rights that " + page + strings.ToLower(codeRun) + " lists"
}

// command is one istioctl.
type command struct{ path, version string }

func find(ctx context.Context, path string) (*command, error) {
	found, err := exec.LookPath(cmp.Or(path, "istioctl"))
	if err != nil {
		if path == "" {
			return nil, fmt.Errorf("there is no istioctl on PATH (%w)", exec.ErrNotFound)
		}
		return nil, err
	}
	c := &command{path: found}
	text, err := c.run(ctx, nil, "version", "--remote=false", "--output", "json")
	if err != nil {
		return nil, err
	}
	var v struct {
		ClientVersion struct {
			Version string `json:"version"`
		} `json:"clientVersion"`
	}
	if err := json.Unmarshal(text, &v); err != nil || v.ClientVersion.Version == "" {
		return nil, fmt.Errorf("%s tells no version, so it is no istioctl", found)
	}
	c.version = v.ClientVersion.Version
	return c, nil
}

// run runs istioctl, and returns its standard output.
func (c *command) run(ctx context.Context, in []byte, args ...string) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, errs bytes.Buffer
	x := exec.CommandContext(bounded, c.path, args...) // #nosec G204 -- who runs sluice names it, or has it on PATH
	x.Stdin, x.Stdout, x.Stderr = bytes.NewReader(in), &out, &errs
	x.WaitDelay = time.Second
	err := x.Run()
	// It logs to standard output.
	switch said := sentence(errs.String() + out.String()); {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case bounded.Err() != nil:
		return nil, fmt.Errorf("'istioctl %s' did not end within %s: %s", args[0], patience, cmp.Or(said, "it said nothing"))
	case err != nil:
		return nil, fmt.Errorf("'istioctl %s': %s", args[0], cmp.Or(said, err.Error()))
	}
	return out.Bytes(), nil
}

// sentence is the first line that is about an error.
func sentence(text string) string {
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(line), " ")
		if i := strings.Index(strings.ToLower(line), "error"); i >= 0 {
			return line[i:]
		}
	}
	return ""
}

// message is what istioctl prints as JSON.
type message struct {
	Code, Level, Message, Origin, Reference string
	URL                                     string `json:"documentationUrl"`
}

var severities = map[string]check.Severity{"Error": check.Fail, "Warning": check.Warn, "Info": check.Info}

// always is what Istio says of every EnvoyFilter there is, whatever is in it. Sluice's own rules judge what is in it.
const always = "EnvoyFilter exposes internal implementation details"

func (c *command) analyze(ctx context.Context, in []byte, args []string) ([]check.Finding, error) {
	text, err := c.run(ctx, in, append([]string{"analyze", "--all-namespaces", "--output", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	log, list := answer(text)
	var messages []message
	// Where it analyzed nothing, it prints no list.
	if err := json.Unmarshal(list, &messages); err != nil {
		return nil, fmt.Errorf("'istioctl analyze' gave no answer that can be read: %s", cmp.Or(sentence(log), err.Error()))
	}
	var out []check.Finding
	if said := sentence(log); said != "" {
		out = append(out, check.Finding{
			Code: codeRun, Severity: check.Warn, Object: "istioctl", Says: "something was not analyzed", Evidence: said,
			Fix: "run 'istioctl analyze' to see the rest of what it logs", Doc: page + strings.ToLower(codeRun),
		})
	}
	for _, m := range messages {
		if strings.Contains(m.Message, always) {
			continue
		}
		doc, _, _ := strings.Cut(m.URL, "?")
		out = append(out, check.Finding{
			Code: m.Code, Severity: cmp.Or(severities[m.Level], check.Warn), Object: cmp.Or(m.Origin, "the mesh"), Says: m.Message, Doc: doc,
		})
	}
	return out, nil
}

// answer is what istioctl logged, and the list behind it.
func answer(text []byte) (log string, list []byte) {
	if bytes.HasPrefix(text, []byte("[")) {
		return "", text
	}
	if i := bytes.Index(text, []byte("\n[")); i >= 0 {
		return string(text[:i]), text[i:]
	}
	return string(text), nil
}

// unique leaves out what was said before, as by the analysis of another revision.
func unique(all []check.Finding) (out []check.Finding) {
	for _, f := range all {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// compare says where istioctl is of another minor version than a control plane: it knows other fields and other rules.
func (c *command) compare(istiods map[string]string) (out []check.Finding) {
	if len(istiods) == 0 {
		return []check.Finding{{
			Code: codeVersion, Severity: check.Info, Object: "istioctl", Says: "there is no istiod whose version its " + c.version + " could be compared with",
			Fix: "name istiod's namespace with --istio-namespace", Doc: page + strings.ToLower(codeVersion),
		}}
	}
	for _, revision := range slices.Sorted(maps.Keys(istiods)) {
		version := istiods[revision]
		if minor(version) == minor(c.version) {
			continue
		}
		out = append(out, check.Finding{
			Code: codeVersion, Severity: check.Warn, Object: "istioctl", Says: "its analyzers are not those of the mesh's version",
			Evidence: "istioctl " + c.version + ", istiod " + version, Fix: "use an istioctl of " + minor(version) + ", from https://github.com/istio/istio/releases",
			Doc: page + strings.ToLower(codeVersion),
		})
	}
	return out
}

// minor is a version without its patch: 1.31 of 1.31.4.
func minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
