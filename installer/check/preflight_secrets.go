package check

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/voicecore-ai/sluice/installer/wiring"
)

var secretChecks = []Check{
	{Code: "SP143", Title: "the Secrets that the mesh refers to are there", Severity: Fail, run: secrets},
}

// secrets finds those that somebody else is to make: a pod that mounts one which is missing never starts.
func secrets(ctx context.Context, m *Mesh) ([]Finding, error) {
	var out []Finding
	asked := map[types.NamespacedName]bool{}
	ask := func(namespace, name string, f Finding) error {
		key := types.NamespacedName{Namespace: namespace, Name: name}
		if name == "" || asked[key] {
			return nil
		}
		asked[key] = true
		err := m.reads.client.Get(ctx, key, &corev1.Secret{})
		if apierrors.IsNotFound(err) {
			f.Object = name2("Secret", namespace, name)
			out, err = append(out, f), nil
		}
		return err
	}
	if g := m.values.Istio.Ingress; g.Enabled {
		err := ask(m.values.Istio.Namespace, g.TLSSecret, Finding{
			Severity: Warn, Says: "it is not there: the gateway answers no HTTPS until it is", Evidence: "istio.ingress.tlsSecret",
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
			err := ask(u.GetNamespace(), secret, Finding{
				Says: "it is not there, and " + name(u) + " can't start without it", Evidence: "spec.template.spec.volumes", Fix: m.secretFix(u, secret),
			})
			if err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func (m *Mesh) renders(kind, namespace, name string) bool {
	for _, u := range m.rendered {
		if u.GetKind() == kind && u.GetNamespace() == namespace && u.GetName() == name {
			return true
		}
	}
	return false
}

// secretFix is how sluiced's own is made; of another, who refers to it knows more.
func (m *Mesh) secretFix(u *unstructured.Unstructured, secret string) string {
	n := u.GetNamespace()
	if n != m.values.Sluice.Namespace || u.GetName() != wiring.Service {
		return "make it in namespace " + n
	}
	return fmt.Sprintf("sluiced init --data made; kubectl create namespace %s; kubectl -n %s create secret generic %s --from-file=made/secret --from-file=made/admin.token.sha256", n, n, secret)
}
