package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/render"
)

func TestTimeoutSaysWhy(t *testing.T) {
	pod := func(status corev1.PodStatus) func(*testing.T, *mesh) {
		return func(t *testing.T, m *mesh) {
			p := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: "istiod-1", Labels: map[string]string{"app": "istiod"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "discovery", Image: "pilot:1"}}},
			}
			if err := admin.Create(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			p.Status = status
			if err := admin.Status().Update(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	waiting := func(reason, message string) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "discovery", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}
	}
	crashed := waiting("CrashLoopBackOff", "back-off")
	crashed.ContainerStatuses[0].RestartCount = 4
	crashed.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
	cases := map[string]struct {
		happens func(*testing.T, *mesh)
		says    string
	}{
		"nobody looks at the deployment":  {func(*testing.T, *mesh) {}, "Deployment NS/istiod: "},
		"an image can't be pulled":        {pod(waiting("ImagePullBackOff", `Back-off pulling image "pilot:1"`)), `container discovery of Pod istiod-1: ImagePullBackOff Back-off pulling image "pilot:1"`},
		"a container is killed at start":  {pod(crashed), "container discovery of Pod istiod-1: CrashLoopBackOff, it ended 4 times, last with status 137 (OOMKilled)"},
		"no node has room":                {pod(corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu."}}}), "Pod istiod-1 can't be scheduled: 0/1 nodes are available: 1 Insufficient cpu."},
		"a quota allows no Pod":           {quota, "exceeded quota: compute, requested: cpu=500m"},
		"a warning is all there is to go": {warning, "Error creating: pods is forbidden"},
	}
	for name, k := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // what it takes is waiting
			m, c := newMesh(t), connect(t)
			// What else becomes ready has no part in this, and a slow machine might not be ready with it in time.
			m.Components = []render.Rendered{*m.component("namespaces"), *m.component("istiod")}
			happened := false
			var lines []string
			_, err := c.Install(t.Context(), m.Mesh, cluster.Options{Timeout: 15 * time.Second, Progress: func(e cluster.Event) {
				lines = append(lines, e.Text)
				if strings.HasPrefix(e.Text, "HorizontalPodAutoscaler") && !happened { // the last object of the component
					happened = true
					k.happens(t, m)
				}
			}})
			says := strings.ReplaceAll(k.says, "NS", m.ns)
			if !errors.Is(err, cluster.ErrNotReady) || !strings.Contains(err.Error(), "istiod was not ready within 15s") || !strings.Contains(err.Error(), says) {
				t.Errorf("got  %v\nwant that istiod was not ready within 15s, and %s", err, says)
			}
			if !slices.ContainsFunc(lines, func(l string) bool {
				return strings.HasPrefix(l, "waiting for Deployment") && strings.Contains(l, strings.TrimPrefix(says, "Deployment "+m.ns+"/istiod: "))
			}) {
				t.Errorf("progress didn't say it:\n%s", strings.Join(lines, "\n"))
			}
			if s, err := c.Status(t.Context(), m.ns); err != nil || !strings.Contains(s.Unfinished, "interrupted at component istiod") {
				t.Errorf("status: %+v, %v", s, err)
			}
		})
	}
}

func quota(t *testing.T, m *mesh) {
	d := &appsv1.Deployment{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: m.ns, Name: "istiod"}, d); err != nil {
		t.Fatal(err)
	}
	d.Status.ObservedGeneration = d.Generation
	d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: `pods "istiod-" is forbidden: exceeded quota: compute, requested: cpu=500m`}}
	if err := admin.Status().Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func warning(t *testing.T, m *mesh) {
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: m.ns, Name: "istiod.1"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: m.ns, Name: "istiod"},
		Type:           corev1.EventTypeWarning, Reason: "FailedCreate", Message: "Error creating: pods is forbidden", LastTimestamp: metav1.Now(),
	}
	if err := admin.Create(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsAreSentences(t *testing.T) {
	t.Run("a user who may only look is told what is missing", func(t *testing.T) {
		user, err := control.AddUser(envtest.User{Name: "bob", Groups: []string{"viewers"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := user.KubeConfig()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "look"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}}}}
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "look"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "look", APIGroup: rbacv1.GroupName}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "viewers", APIGroup: rbacv1.GroupName}}}
		for _, o := range []client.Object{role, binding} {
			if err := admin.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		untilAllowed(t, "bob", "viewers", "secrets")
		c, err := cluster.Connect(t.Context(), cluster.Target{Kubeconfig: file})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Install(t.Context(), newMesh(t).Mesh, cluster.Options{})
		if err == nil || !strings.HasPrefix(err.Error(), "this account is not allowed to do that; have the missing permission granted") || !strings.Contains(err.Error(), `User "bob" cannot patch resource`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a kind that nobody brings is named with what to do", func(t *testing.T) {
		m, c := newMesh(t), connect(t)
		u := m.find("ConfigMap", "alerts")
		u.SetAPIVersion("monitoring.coreos.com/v1")
		u.SetKind("ServiceMonitor")
		_, err := c.Install(t.Context(), m.Mesh, cluster.Options{})
		if err == nil || !strings.Contains(err.Error(), "this cluster has no kind ServiceMonitor in monitoring.coreos.com/v1, and the mesh doesn't bring it; install what does, or switch off") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a field that doesn't exist is an error before anything is changed", func(t *testing.T) {
		m, c := installed(t)
		set(t, m.find("Deployment", "istiod"), "x", "spec", "template", "spec", "serviceAcountName")
		before := m.versions(t)
		_, err := c.Install(t.Context(), m.Mesh, cluster.Options{})
		if err == nil || !strings.Contains(err.Error(), "serviceAcountName") {
			t.Errorf("got %v, want that the field is named", err)
		}
		if after := m.versions(t); len(after) != len(before) || after["inventory"] != before["inventory"] {
			t.Error("something was changed")
		}
	})
}

// untilAllowed waits until the API server, which hears of new roles a moment after it has stored them, lets a user read a resource.
func untilAllowed(t *testing.T, user, group, resource string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; <-time.After(20 * time.Millisecond) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, Groups: []string{group}, ResourceAttributes: &authorizationv1.ResourceAttributes{Resource: resource, Verb: "get"},
		}}
		if err := admin.Create(t.Context(), review); err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s may not read %s: %+v", user, resource, review.Status)
		}
	}
}
