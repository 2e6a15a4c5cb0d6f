package check

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var injectionChecks = []Check{
	{Code: "SV221", Title: "a new pod gets a proxy", Severity: Fail, run: injection},
}

// injection has the API server create a pod without keeping it, which asks the webhooks as a real one would.
func injection(ctx context.Context, m *Mesh) ([]Finding, error) {
	no := false
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: m.values.Mesh.Namespace, Name: "sluice-injection-probe", Labels: map[string]string{"app": "sluice-injection-probe"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			SecurityContext:              &corev1.PodSecurityContext{RunAsNonRoot: yes(), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.invalid/app:1",
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
		},
	}
	object := "Namespace " + pod.Namespace
	err := m.reads.client.Create(ctx, pod, client.DryRunAll)
	switch {
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return nil, fmt.Errorf("creating a pod for trial: %w", err)
	case err != nil:
		return []Finding{{
			Object: object, Says: "no pod can be created in it: " + err.Error(), Evidence: "a server-side dry run", Fix: "see that istiod answers its webhook (SV203, SD321)",
		}}, nil
	case hasProxy(pod):
		return nil, nil
	}
	return []Finding{{
		Object: object, Says: "a new pod in it gets no proxy", Evidence: "a server-side dry run gave containers " + containers(pod),
		Fix: "label it as the mesh's revision wants ('sluice mesh diff'), and see which webhook selects it (kubectl get mutatingwebhookconfiguration)",
	}}, nil
}

func yes() *bool {
	y := true
	return &y
}

func containers(p *corev1.Pod) (names string) {
	for _, c := range p.Spec.InitContainers {
		names += c.Name + " (init) "
	}
	for _, c := range p.Spec.Containers {
		names += c.Name + " "
	}
	return names
}
