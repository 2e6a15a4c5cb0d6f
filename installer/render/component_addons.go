package render

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/voicecore-ai/sluice/deploy/dashboards"
	"github.com/voicecore-ai/sluice/deploy/prometheus"
	"github.com/voicecore-ai/sluice/installer/profile"
)

// The consoles are not in Istio's charts. These manifests are our own and
// minimal: one replica, nothing kept, nothing that can write to the cluster.
//
//go:embed addons
var addonFiles embed.FS

// addons are the consoles: where one looks when something is wrong.
func addons(v *profile.Values) (Objects, error) {
	var out Objects
	for _, a := range []struct {
		name  string
		addon profile.Addon
	}{
		{"prometheus", v.Addons.Prometheus},
		{"jaeger", v.Addons.Jaeger},
		{"grafana", v.Addons.Grafana},
		{"kiali", v.Addons.Kiali},
	} {
		if !a.addon.Enabled {
			continue
		}
		objects, err := addon(v, a.name, a.addon)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		out = append(out, objects...)
	}
	return out, nil
}

// addon fills in one console's manifest.
func addon(v *profile.Values, name string, a profile.Addon) (Objects, error) {
	rules, err := alerts(v)
	if err != nil {
		return nil, err
	}
	boards, err := dashboardFiles()
	if err != nil {
		return nil, err
	}
	text, err := fill("addons/"+name+".yaml", map[string]any{
		"Namespace":    v.Addons.Namespace,
		"Image":        image(v, a.Image),
		"Grafana":      v.Addons.Grafana.Enabled,
		"Jaeger":       v.Addons.Jaeger.Enabled,
		"Rules":        indent(rules),
		"SluiceAlerts": indent(prometheus.Alerts),
		"SluiceRates":  indent(prometheus.Recording),
		"Dashboards":   boards,
	})
	if err != nil {
		return nil, err
	}
	out, err := decode(text)
	if err != nil {
		return nil, err
	}
	for _, o := range out {
		if !strings.HasPrefix(o.GetKind(), "ClusterRole") {
			o.SetNamespace(v.Addons.Namespace)
		}
		if err := pullSecret(o, v.Images.PullSecret); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// dashboardFile is one of a ConfigMap.
type dashboardFile struct{ Name, Text string }

// dashboardFiles are those of deploy/dashboards, each on one line.
func dashboardFiles() (all []dashboardFile, err error) {
	entries, err := dashboards.FS.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := dashboards.FS.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		var line bytes.Buffer
		if err := json.Compact(&line, text); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		all = append(all, dashboardFile{e.Name(), indent(line.String())})
	}
	return all, nil
}

// alerts are the rules that Prometheus evaluates, with the mesh's own numbers in them.
func alerts(v *profile.Values) (string, error) {
	c := v.Mesh.Certificates
	left := time.Duration(float64(c.Lifetime.Duration) * c.RenewAt)
	return fill("addons/rules.yaml", map[string]any{
		"RenewLeft":       left,
		"WarnSeconds":     int64((left / 2).Seconds()),
		"Critical":        c.Critical.Duration,
		"CriticalSeconds": int64(min(c.Critical.Duration, left/4).Seconds()),
		"RootSeconds":     int64(c.Lifetime.Seconds()),
	})
}

func fill(file string, values map[string]any) (string, error) {
	t, err := template.New("").Option("missingkey=error").ParseFS(addonFiles, file)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.ExecuteTemplate(&b, file[strings.LastIndex(file, "/")+1:], values); err != nil {
		return "", err
	}
	return b.String(), nil
}

// indent is a text as the value of a block in a ConfigMap.
func indent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return "    " + strings.Join(lines, "\n    ")
}

// image is an image at the mesh's own registry, when there is one.
func image(v *profile.Values, ref string) string {
	if v.Images.Registry == "" {
		return ref
	}
	_, rest, _ := strings.Cut(ref, "/")
	return strings.TrimSuffix(v.Images.Registry, "/") + "/" + rest
}

// pullSecret names the Secret with which a Deployment's images are pulled.
func pullSecret(o *unstructured.Unstructured, name string) error {
	if name == "" || o.GetKind() != "Deployment" {
		return nil
	}
	return unstructured.SetNestedSlice(o.Object, []any{map[string]any{"name": name}}, "spec", "template", "spec", "imagePullSecrets")
}

// decode reads the objects of a YAML stream.
func decode(text string) (Objects, error) {
	var out Objects
	d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		switch err := d.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		case len(o.Object) > 0:
			out = append(out, o)
		}
	}
}
