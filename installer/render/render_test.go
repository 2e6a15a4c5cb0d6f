package render

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	istio "istio.io/client-go/pkg/clientset/versioned/scheme"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kubernetes "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/installer/profile"
)

var update = flag.Bool("update", false, "write testdata anew")

func values(t testing.TB, name string, sets ...string) *profile.Values {
	t.Helper()
	v, err := profile.Load(profile.Options{Profile: name, Sets: sets})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func all(t testing.TB, v *profile.Values) []Rendered {
	t.Helper()
	rendered, err := All(v)
	if err != nil {
		t.Fatal(err)
	}
	return rendered
}

// ours is everything but Istio's definitions, which take most of the time and depend on its version alone.
func ours(t testing.TB, v *profile.Values) (rendered []Rendered) {
	t.Helper()
	for _, c := range components {
		if c.Name != "crds" {
			rendered = append(rendered, Rendered{Name: c.Name, Ready: c.Ready, Objects: component(t, v, c.Name)})
		}
	}
	return rendered
}

// text is a component as 'render' prints it.
func text(t testing.TB, objects Objects) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, o := range objects {
		doc, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(doc)
	}
	return b.Bytes()
}

// TestVoicecoreIsRenderedAsInItsGoldenFiles compares each component with
// testdata/voicecore. Of Istio's definitions, a megabyte that deploy/kubernetes
// has, only names and digests are kept here.
func TestVoicecoreIsRenderedAsInItsGoldenFiles(t *testing.T) {
	names := map[string]bool{}
	for _, c := range all(t, values(t, "voicecore")) {
		names[c.Name+".yaml"] = true
		t.Run("the component "+c.Name, func(t *testing.T) {
			got := text(t, c.Objects)
			if c.Name == "crds" {
				got = digests(t, c.Objects)
			}
			golden := filepath.Join("testdata", "voicecore", c.Name+".yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what is rendered; run 'make generate' and read the difference.\n%s", golden, firstDifference(got, want))
			}
		})
	}
	files, err := os.ReadDir("testdata/voicecore")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !names[f.Name()] {
			t.Errorf("testdata/voicecore/%s belongs to no component", f.Name())
		}
	}
}

func digests(t *testing.T, objects Objects) []byte {
	var b bytes.Buffer
	for _, o := range objects {
		fmt.Fprintf(&b, "%s: %x\n", o.GetName(), sha256.Sum256(text(t, Objects{o})))
	}
	return b.Bytes()
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: rendered %q, kept %q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines are rendered, %d kept", len(g), len(w))
}

func TestTheSameValuesGiveTheSameBytes(t *testing.T) {
	v := values(t, "voicecore")
	first := all(t, v)
	for range 2 {
		again := all(t, values(t, "voicecore"))
		if len(first) != len(again) {
			t.Fatalf("%d components, then %d", len(first), len(again))
		}
		for i := range first {
			if !bytes.Equal(text(t, first[i].Objects), text(t, again[i].Objects)) {
				t.Errorf("component %s differs from one rendering to the next", first[i].Name)
			}
		}
	}
}

// TestEachObjectCanBeApplied is what the API server would ask of every object.
func TestEachObjectCanBeApplied(t *testing.T) {
	for _, name := range profile.Names() {
		for _, sets := range [][]string{nil, {"istio.revision=1-31-4"}} {
			seen := map[string]string{}
			for _, c := range ours(t, values(t, name, sets...)) {
				for _, o := range c.Objects {
					id := strings.Join([]string{o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()}, " ")
					switch {
					case o.GetAPIVersion() == "" || o.GetKind() == "" || o.GetName() == "":
						t.Errorf("%s, %s: %q has no apiVersion, kind or name", name, c.Name, id)
					case clusterScoped(o.GetKind()) != (o.GetNamespace() == ""):
						t.Errorf("%s, %s: %q is in the wrong place", name, c.Name, id)
					case seen[id] != "":
						t.Errorf("%s: %q is in %s and in %s", name, id, seen[id], c.Name)
					}
					seen[id] = c.Name
					if err := strictly(o); err != nil {
						t.Errorf("%s, %s: %q: %v", name, c.Name, id, err)
					}
					if strings.Contains(o.GroupVersionKind().Group, "istio.io") && o.GetKind() != "EnvoyFilter" && regexp.MustCompile(`: "?0s"?\n`).Match(text(t, Objects{o})) {
						t.Errorf("%s, %s: %q has a duration of 0s, which Istio's definitions refuse", name, c.Name, id)
					}
					if empty := emptyFields(o.Object, o.GetKind()); len(empty) > 0 {
						t.Errorf("%s, %s: %q owns fields without a value: %v", name, c.Name, id, empty)
					}
				}
			}
		}
	}
}

var strict = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{kubernetes.AddToScheme, istio.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// strictly decodes an object into its Go type: a field that the type does not have is an error, as is an unknown kind.
func strictly(o *unstructured.Unstructured) error {
	text, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	_, _, err = strict.Decode(text, nil, nil)
	return err
}

func TestAFieldThatATypeDoesNotHaveIsSeen(t *testing.T) {
	o := find(t, component(t, values(t, "voicecore"), "istiod"), "Deployment", "istiod")
	if err := strictly(o); err != nil {
		t.Error(err)
	}
	o.Object["spec"].(map[string]any)["replica"] = int64(1)
	if err := strictly(o); err == nil || !strings.Contains(err.Error(), "replica") {
		t.Errorf("an unknown field: %v", err)
	}
}

func emptyFields(v any, at string) (found []string) {
	switch v := v.(type) {
	case nil:
		found = append(found, at)
	case map[string]any:
		for k, e := range v {
			found = append(found, emptyFields(e, at+"."+k)...)
		}
	case []any:
		for i, e := range v {
			found = append(found, emptyFields(e, fmt.Sprintf("%s[%d]", at, i))...)
		}
	}
	return found
}

// component renders one component.
func component(t testing.TB, v *profile.Values, name string) Objects {
	t.Helper()
	i := slices.IndexFunc(components, func(c Component) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no component %s", name)
	}
	objects, err := components[i].Objects(v)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func find(t testing.TB, objects Objects, kind, name string) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return objects[i]
}
