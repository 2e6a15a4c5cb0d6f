package cluster

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// The labels and annotations of an ApplySet (KEP-3659), so that other tools
// recognize the inventory and its members.
const (
	labelID            = "applyset.kubernetes.io/id"
	labelPartOf        = "applyset.kubernetes.io/part-of"
	annotationTooling  = "applyset.kubernetes.io/tooling"
	annotationKinds    = "applyset.kubernetes.io/contains-group-kinds"
	annotationSpaces   = "applyset.kubernetes.io/additional-namespaces"
	inventoryName      = "sluice-mesh"
	kindNamespace      = "Namespace"
	kindCRD            = "CustomResourceDefinition"
	apiextensionsGroup = "apiextensions.k8s.io"
)

// applySetID is the id of the inventory in a namespace, as KEP-3659 computes it.
func applySetID(namespace string) string {
	sum := sha256.Sum256([]byte(inventoryName + "." + namespace + ".Secret."))
	return "applyset-" + base64.RawURLEncoding.EncodeToString(sum[:]) + "-v1"
}

// ref names an object; it is what the inventory keeps of it.
type ref struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Component string `json:"component"`
	// Found: it was there before the first installation, so removing it is not ours to do.
	Found bool `json:"found,omitempty"`
}

func refOf(u *unstructured.Unstructured, component string) ref {
	k := u.GroupVersionKind()
	return ref{Group: k.Group, Version: k.Version, Kind: k.Kind, Namespace: u.GetNamespace(), Name: u.GetName(), Component: component}
}

// String is the object as output names it: Deployment istio-system/istiod.
func (r ref) String() string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	return r.Kind + " " + name
}

// key is what makes the object the same one in another version of its API.
func (r ref) key() string {
	return strings.Join([]string{r.Group, r.Kind, r.Namespace, r.Name}, "|")
}

func (r ref) gvk() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// empty is an object to read into.
func (r ref) empty() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(r.gvk())
	u.SetNamespace(r.Namespace)
	u.SetName(r.Name)
	return u
}

func (r ref) isNamespace() bool { return r.Group == "" && r.Kind == kindNamespace }
func (r ref) isCRD() bool       { return r.Group == apiextensionsGroup && r.Kind == kindCRD }

// kept says that others' objects live in it: it is adopted when found, and never pruned.
func (r ref) kept() bool { return r.isNamespace() || r.isCRD() }

// labelled is a copy of a rendered object that says whose it is.
func labelled(u *unstructured.Unstructured, id string) *unstructured.Unstructured {
	out := u.DeepCopy()
	labels := out.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelPartOf] = id
	out.SetLabels(labels)
	return out
}

func parseVersion(raw []byte) (*version.Info, error) {
	var v version.Info
	if err := json.Unmarshal(raw, &v); err != nil || v.GitVersion == "" {
		return nil, fmt.Errorf("what answers is no API server: /version is %.80q", raw)
	}
	return &v, nil
}
