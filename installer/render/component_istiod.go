package render

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"istio.io/istio/manifests"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// istioCharts are the folders of Istio's charts, and their files.
func istioCharts(v *profile.Values) fs.FS {
	if v.Istio.Charts != "" {
		return os.DirFS(v.Istio.Charts)
	}
	return manifests.FS
}

// Charts are Istio's charts, as a mesh is rendered from them, and which folders of them.
func Charts(v *profile.Values) (files fs.FS, folders []string) {
	return istioCharts(v), []string{"charts/base", "charts/default", "charts/gateway", "charts/istio-control/istio-discovery"}
}

// crds are Istio's custom resource definitions, of which there is one set in a
// cluster, whatever revisions share it. They are a component of their own: their
// kinds must be served before an object of them is applied.
//
// They are read, not rendered: Helm would parse a megabyte three times to change
// their labels.
func crds(v *profile.Values) (Objects, error) {
	text, err := fs.ReadFile(istioCharts(v), "charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return nil, fmt.Errorf("chart base: %w", err)
	}
	var objects Objects
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		o, err := parse(doc)
		if err != nil {
			return nil, fmt.Errorf("chart base, crd-all.gen.yaml: %w", err)
		}
		if o != nil {
			o.SetLabels(map[string]string{
				"app.kubernetes.io/managed-by": manager, "app.kubernetes.io/part-of": "istio", "app.kubernetes.io/version": v.Istio.Version,
			})
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// webhooks come after istiod is ready: the API server would refuse pods and
// Istio's configuration while nobody answers.
//
// What istiod writes into them is not ours, so that a second apply and 'diff'
// leave it alone: caBundle, and failurePolicy of those that validate, which the
// API sets to Fail where it is left out.
func webhooks(v *profile.Values) (Objects, error) {
	istiod, err := istiodChart(v)
	if err != nil {
		return nil, err
	}
	// What names no revision is validated by this one. The chart's injector, for namespaces labelled
	// istio-injection, is left out: without a revision istiod's chart has it, with one its label is the namespace's.
	unnamed, err := helm(istioCharts(v), "charts/default", release{
		name: "istiod-default", namespace: v.Istio.Namespace, version: v.Istio.Version,
		values: map[string]any{"revision": v.Istio.Revision, "global": map[string]any{"istioNamespace": v.Istio.Namespace}},
	})
	if err != nil {
		return nil, err
	}
	istiod = append(istiod, only(unnamed, true, "ValidatingWebhookConfiguration")...)
	objects := only(istiod, true, webhookKinds...)
	for _, o := range objects {
		hooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
		for _, hook := range hooks {
			h := hook.(map[string]any)
			unstructured.RemoveNestedField(h, "clientConfig", "caBundle")
			if o.GetKind() == "ValidatingWebhookConfiguration" {
				delete(h, "failurePolicy")
			}
		}
		o.Object["webhooks"] = hooks
	}
	return objects, nil
}

var webhookKinds = []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}

// istiod is the control plane, without its webhooks.
func istiod(v *profile.Values) (Objects, error) {
	objects, err := istiodChart(v)
	return only(objects, false, webhookKinds...), err
}

func istiodChart(v *profile.Values) (Objects, error) {
	mesh, err := meshConfig(v)
	if err != nil {
		return nil, err
	}
	global := map[string]any{
		"istioNamespace": v.Istio.Namespace,
		// For meshes of several clusters, which read each other's Secrets.
		"enableReaderRBAC": false,
		"hub":              v.Images.Hub,
		"tag":              v.Istio.Version,
		"proxy": map[string]any{
			"clusterDomain": v.Istio.ClusterDomain,
			"resources":     resources(v.Istio.Sidecar),
		},
	}
	if s := v.Images.PullSecret; s != "" {
		global["imagePullSecrets"] = []any{s}
	}
	return helm(istioCharts(v), "charts/istio-control/istio-discovery", release{
		name: "istiod", namespace: v.Istio.Namespace, version: v.Istio.Version,
		values: map[string]any{
			"revision":         v.Istio.Revision,
			"autoscaleEnabled": v.Istio.Pilot.Max > v.Istio.Pilot.Min,
			"autoscaleMin":     v.Istio.Pilot.Min,
			"autoscaleMax":     v.Istio.Pilot.Max,
			"replicaCount":     v.Istio.Pilot.Min,
			"resources":        resources(v.Istio.Pilot.Resource),
			"env":              pilotEnv(v),
			"telemetry":        map[string]any{"enabled": v.Istio.Stats},
			"meshConfig":       mesh,
			"global":           global,
		},
		open: []string{"env", "meshConfig", "resources", "global.enableReaderRBAC"},
	})
}

// pilotEnv is istiod's environment. Values may add to it, not change what they have fields for.
func pilotEnv(v *profile.Values) map[string]any {
	life := v.Mesh.Certificates.Lifetime.Duration
	env := map[string]any{
		// What a proxy asks for when it names no lifetime, and what istiod signs at most: a stolen token gets no longer one.
		"DEFAULT_WORKLOAD_CERT_TTL": life.String(),
		"MAX_WORKLOAD_CERT_TTL":     life.String(),
		"ENABLE_NATIVE_SIDECARS":    strconv.FormatBool(v.Istio.NativeSidecars),
		// Nothing of ours is a Gateway of the Gateway API, so istiod needs no right to make Deployments and Services in every namespace.
		"PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "false",
	}
	for k, value := range v.Istio.PilotEnv {
		env[k] = value
	}
	return env
}

func resources(r profile.Resource) map[string]any {
	return map[string]any{
		"requests": map[string]any{"cpu": r.Requests.CPU.String(), "memory": r.Requests.Memory.String()},
		"limits":   map[string]any{"cpu": r.Limits.CPU.String(), "memory": r.Limits.Memory.String()},
	}
}

// only returns the objects that are, or are not, of these kinds.
func only(objects Objects, are bool, kinds ...string) (out Objects) {
	for _, o := range objects {
		if slices.Contains(kinds, o.GetKind()) == are {
			out = append(out, o)
		}
	}
	return out
}
