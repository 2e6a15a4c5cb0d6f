package render

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// kubeVersion is what charts are told, whatever cluster they are rendered for:
// the oldest that Istio 1.31 supports. Rendering asks no cluster.
const kubeVersion = "v1.32.0"

// manager is who app.kubernetes.io/managed-by names.
const manager = "sluice"

// release is one rendering of a chart.
type release struct {
	name      string
	namespace string
	// version replaces the chart's own, if set: Istio's source carries a placeholder.
	version string
	values  map[string]any
	// open are paths of values that a chart reads without a default, or under which it takes any key.
	open []string
}

// helm renders the chart in a folder of files. Values are checked against the
// chart's schema and, for Istio's charts, against the values they know: one that
// no template reads would silently do nothing. Hooks, tests and notes are left
// out. The objects come in Helm's order of kinds.
func helm(files fs.FS, dir string, r release) (Objects, error) {
	c, err := loadChart(files, dir)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", dir, err)
	}
	if r.version != "" {
		c.Metadata.Version, c.Metadata.AppVersion = r.version, r.version
	}
	if err := known(c, r.values, r.open); err != nil {
		return nil, fmt.Errorf("chart %s: %w", dir, err)
	}
	kube, err := common.ParseKubeVersion(kubeVersion)
	if err != nil {
		return nil, err
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *kube
	// Every rendering is an upgrade: what differs between the two in these charts is owned by the cluster afterwards.
	values, err := util.ToRenderValues(c, r.values, common.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsUpgrade: true}, capabilities)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", dir, err)
	}
	values["Release"].(map[string]any)["Service"] = manager
	texts, err := engine.Render(c, values)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", dir, err)
	}
	maps.DeleteFunc(texts, func(name, _ string) bool { return path.Base(name) == "NOTES.txt" })
	_, manifests, err := releaseutil.SortManifests(texts, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", dir, err)
	}
	objects := make(Objects, 0, len(manifests))
	for _, m := range manifests {
		o, err := parse(m.Content)
		if err != nil {
			return nil, fmt.Errorf("chart %s, %s: %w", dir, m.Name, err)
		}
		if o == nil {
			continue // a document of comments
		}
		if o.GetNamespace() == "" && !clusterScoped(o.GetKind()) {
			o.SetNamespace(r.namespace)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

func loadChart(files fs.FS, dir string) (*chart.Chart, error) {
	var all []*archive.BufferedFile
	err := fs.WalkDir(files, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, p)
		all = append(all, &archive.BufferedFile{Name: strings.TrimPrefix(p, dir+"/"), Data: data})
		return err
	})
	if err != nil {
		return nil, err
	}
	return loader.LoadFiles(all)
}

func parse(text string) (*unstructured.Unstructured, error) {
	asJSON, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil || string(asJSON) == "null" {
		return nil, err
	}
	o := new(unstructured.Unstructured)
	if err := o.UnmarshalJSON(asJSON); err != nil {
		return nil, err
	}
	dropEmpty(o.Object)
	return o, nil
}

// dropEmpty takes out fields that a template left without a value, and empty
// annotations: whoever applies them owns them, though they say nothing.
func dropEmpty(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			m, isMap := e.(map[string]any)
			if e == nil || k == "annotations" && isMap && len(m) == 0 {
				delete(v, k)
			} else {
				dropEmpty(e)
			}
		}
	case []any:
		for _, e := range v {
			dropEmpty(e)
		}
	}
}

// istioDefaults is where Istio's charts keep their own defaults.
const istioDefaults = "_internal_defaults_do_not_set"

// known refuses values that an Istio chart has no default for. Other charts have a schema.
func known(c *chart.Chart, values map[string]any, open []string) error {
	defaults, ok := c.Values[istioDefaults].(map[string]any)
	if !ok {
		return nil
	}
	var unknown []string
	var walk func(values, defaults map[string]any, at string)
	walk = func(values, defaults map[string]any, at string) {
		for k, v := range values {
			p := strings.TrimPrefix(at+"."+k, ".")
			if slices.Contains(open, p) {
				continue
			}
			d, ok := defaults[k]
			if !ok {
				unknown = append(unknown, p)
				continue
			}
			inner, isMap := v.(map[string]any)
			below, _ := d.(map[string]any)
			if isMap {
				walk(inner, below, p)
			}
		}
	}
	walk(values, defaults, "")
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("it has no value %s, so it would not do what they ask for; use charts of Istio 1.31", strings.Join(unknown, ", "))
	}
	return nil
}

// clusterScoped reports whether objects of a kind that we or the charts render
// live outside namespaces.
func clusterScoped(kind string) bool {
	switch kind {
	case "Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "PriorityClass", "GatewayClass":
		return true
	}
	return false
}
