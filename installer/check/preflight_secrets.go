package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

var secretChecks = []Check{
	{Code: "SP143", Title: "the Secrets that the mesh refers to are there", Severity: Fail, run: secrets},
}

// secrets finds those that somebody else is to make: a pod that mounts one which is missing never starts, nor
// one that mounts a key which is not in it.
func secrets(ctx context.Context, m *Mesh) ([]Finding, error) {
	var out []Finding
	asked := map[types.NamespacedName]bool{}
	ask := func(namespace, name string, keys []string, f Finding) error {
		key := types.NamespacedName{Namespace: namespace, Name: name}
		if name == "" || asked[key] {
			return nil
		}
		asked[key] = true
		there := &corev1.Secret{}
		err := m.reads.client.Get(ctx, key, there)
		missing := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { _, ok := there.Data[k]; return ok })
		f.Object = name2("Secret", namespace, name)
		switch {
		case apierrors.IsNotFound(err):
			f.Says = "it is not there" + f.Says
			out, err = append(out, f), nil
		case err == nil && len(missing) > 0:
			f.Says = "it has no " + strings.Join(missing, ", ") + f.Says
			f.Fix = fmt.Sprintf("kubectl -n %s edit secret %s, or a new one: %s", namespace, name, f.Fix)
			out = append(out, f)
		}
		return err
	}
	if g := m.values.Istio.Ingress; g.Enabled {
		err := ask(m.values.Istio.Namespace, g.TLSSecret, nil, Finding{
			Severity: Warn, Says: ": the gateway answers no HTTPS until it is", Evidence: "istio.ingress.tlsSecret",
			Fix: fmt.Sprintf("kubectl -n %s create secret tls %s --cert CERTIFICATE --key KEY", m.values.Istio.Namespace, g.TLSSecret),
		})
		if err != nil {
			return out, err
		}
	}
	for _, u := range m.rendered {
		volumes, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "volumes")
		for _, v := range volumes {
			v, _ := v.(map[string]any)
			secret, _, _ := unstructured.NestedString(v, "secret", "secretName")
			if optional, _, _ := unstructured.NestedBool(v, "secret", "optional"); optional || m.renders("Secret", u.GetNamespace(), secret) {
				continue
			}
			keys := keysOf(v)
			err := ask(u.GetNamespace(), secret, keys, Finding{
				Says: ", and " + name(u) + " can't start without it", Evidence: "spec.template.spec.volumes", Fix: secretFix(u.GetNamespace(), secret, keys),
			})
			if err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// keysOf are those of a Secret that a volume names; none if it takes all there are.
func keysOf(volume map[string]any) (keys []string) {
	items, _, _ := unstructured.NestedSlice(volume, "secret", "items")
	for _, i := range items {
		if i, ok := i.(map[string]any); ok {
			keys = append(keys, fmt.Sprint(i["key"]))
		}
	}
	return keys
}

func (m *Mesh) renders(kind, namespace, name string) bool {
	for _, u := range m.rendered {
		if u.GetKind() == kind && u.GetNamespace() == namespace && u.GetName() == name {
			return true
		}
	}
	return false
}

// secretFix is how a Secret with these keys is made: sluiced's own of what it makes itself, another of files with the keys' names.
func secretFix(namespace, secret string, keys []string) string {
	if len(keys) == 0 {
		return "make it in namespace " + namespace
	}
	first, from := "", ""
	if slices.Contains(keys, "admin.token.sha256") {
		first, from = fmt.Sprintf("sluiced init --data made; kubectl create namespace %s; ", namespace), "made/"
	}
	return first + fmt.Sprintf("kubectl -n %s create secret generic %s --from-file=%s", namespace, secret, from+strings.Join(keys, " --from-file="+from))
}
