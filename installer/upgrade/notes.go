package upgrade

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

//go:embed notes.yaml
var notesText []byte

// note is one change of Istio.
type note struct {
	Since    string         `json:"since"` // minor version
	ID       string         `json:"id"`
	Severity check.Severity `json:"severity"`
	Says     string         `json:"says"`
	Fix      string         `json:"fix,omitempty"`
	// Look says where it shows; nil: everywhere.
	Look *look `json:"look,omitempty"`
}

// look is one place to look; one of its parts is set.
type look struct {
	// Kinds are group/version/kind (version/kind of the core), whose objects match as JSON.
	Kinds   []string `json:"kinds,omitempty"`
	Matches string   `json:"matches,omitempty"`
	// Env matches a name in istio.pilotEnv, Hub images.hub.
	Env string `json:"env,omitempty"`
	Hub string `json:"hub,omitempty"`
	// Addons are outside istiod's namespace.
	Addons bool `json:"addons,omitempty"`
}

// readNotes decodes the table; a wrong field is an error.
func readNotes() ([]note, error) {
	var all []note
	if err := yaml.UnmarshalStrict(notesText, &all); err != nil {
		return nil, fmt.Errorf("the table of notes: %w", err)
	}
	return all, nil
}

// source is where Istio says it.
func (n *note) source() string {
	return fmt.Sprintf("https://istio.io/latest/news/releases/%s.x/announcing-%s/upgrade-notes/", n.Since, n.Since)
}

// notes tells what changed between the versions and, where a note says where to look, what it meets.
func notes(ctx context.Context, a *asked) ([]check.Finding, error) {
	all, err := readNotes()
	if err != nil {
		return nil, err
	}
	from, err := minor(a.From.Values.Istio.Version)
	if err != nil {
		return nil, err
	}
	to, err := minor(a.To.Values.Istio.Version)
	if err != nil {
		return nil, err
	}
	var out []check.Finding
	for i := range all {
		n := &all[i]
		since, err := minor(n.Since)
		if err != nil {
			return out, err
		}
		if since <= from || since > to {
			continue
		}
		met, err := a.meets(ctx, n.Look)
		if err != nil {
			return out, fmt.Errorf("note %s: %w", n.ID, err)
		}
		for _, object := range met {
			out = append(out, check.Finding{Severity: n.Severity, Object: object, Says: "since Istio " + n.Since + ", " + n.Says, Fix: n.Fix, Doc: n.source()})
		}
	}
	return out, nil
}

// meets lists what a note is about, "the mesh" for a note about everything.
func (a *asked) meets(ctx context.Context, l *look) (out []string, err error) {
	v := a.From.Values
	switch {
	case l == nil:
		return []string{"the mesh"}, nil
	case l.Addons:
		if v.Addons.Kiali.Enabled && v.Addons.Namespace != v.Istio.Namespace {
			out = []string{"addons.namespace"}
		}
	case l.Hub != "":
		if regexp.MustCompile(l.Hub).MatchString(v.Images.Hub) {
			out = []string{"images.hub"}
		}
	case l.Env != "":
		for name := range v.Istio.PilotEnv {
			if regexp.MustCompile(l.Env).MatchString(name) {
				out = append(out, "istio.pilotEnv."+name)
			}
		}
	}
	for _, kind := range l.Kinds {
		found, err := a.matching(ctx, kind, regexp.MustCompile(l.Matches))
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	slices.Sort(out)
	return out, nil
}

func (a *asked) matching(ctx context.Context, kind string, pattern *regexp.Regexp) ([]string, error) {
	all := &unstructured.UnstructuredList{}
	i := strings.LastIndex(kind, "/")
	gv, err := schema.ParseGroupVersion(kind[:i])
	if err != nil {
		return nil, err
	}
	all.SetGroupVersionKind(gv.WithKind(kind[i+1:]))
	if err := a.client.List(ctx, all); err != nil {
		if meta.IsNoMatchError(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("listing each %s: %w", kind, err)
	}
	var out []string
	for i := range all.Items {
		u := &all.Items[i]
		u.SetManagedFields(nil)
		// Istio's own configuration of a control plane is rendered again, and says nothing of the user's.
		if u.GetLabels()["app.kubernetes.io/managed-by"] == cluster.Manager && u.GetKind() == "ConfigMap" && u.GetName() != "istio" {
			continue
		}
		text, err := json.Marshal(u.Object)
		if err != nil {
			return nil, err
		}
		if pattern.Match(text) {
			out = append(out, fmt.Sprintf("%s %s/%s", u.GetKind(), u.GetNamespace(), u.GetName()))
		}
	}
	return out, nil
}
