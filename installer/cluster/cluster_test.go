package cluster

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestConnectSaysWhatIsWrong(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	closed.Close()
	kubeconfig := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: c, cluster: {server: "https://` + address + `"}}],
contexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: c, user: u}}], users: [{name: u, user: {token: x}}]}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		target Target
		says   string
	}{
		"an API server that is down":       {Target{Kubeconfig: kubeconfig}, "the API server at https://" + address + " can't be reached; is the cluster up, and the --context the right one?"},
		"a context that does not exist":    {Target{Kubeconfig: kubeconfig, Context: "prod"}, `the kubeconfig has no context "prod"; it has: a, b`},
		"a kubeconfig that does not exist": {Target{Kubeconfig: kubeconfig + "x"}, "reading the kubeconfig: stat " + kubeconfig + "x: no such file or directory"},
		"a kubeconfig that is empty":       {Target{Kubeconfig: os.DevNull}, "no cluster: there is no kubeconfig; name one with --kubeconfig or in $KUBECONFIG"},
		"a kubeconfig that is not YAML":    {Target{Kubeconfig: filepath.Join("testdata", "garbage")}, "reading the kubeconfig: "},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(context.Background(), c.target)
			if err == nil || !strings.HasPrefix(err.Error(), c.says) {
				t.Errorf("got  %v\nwant %s…", err, c.says)
			}
		})
	}
	t.Run("what answers is no API server", func(t *testing.T) {
		if _, err := parseVersion([]byte("<html>")); err == nil || !strings.Contains(err.Error(), `is no API server: /version is "<html>"`) {
			t.Error(err)
		}
	})
}

func TestApplySetID(t *testing.T) {
	// The form is KEP-3659's: applyset-<base64url(sha256(name.namespace.kind.group))>-v1, and a label's value has at most 63 characters.
	id := applySetID("istio-system")
	if !regexp.MustCompile(`^applyset-[A-Za-z0-9_-]{43}-v1$`).MatchString(id) || len(id) > 63 {
		t.Error(id)
	}
	if id == applySetID("istio-system2") {
		t.Error("two namespaces have one id")
	}
}

func TestConflictsAreReadOutOfTheAnswer(t *testing.T) {
	err := apierrors.NewApplyConflict([]metav1.StatusCause{
		{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "kubectl-edit" using apps/v1`, Field: ".spec.replicas"},
		{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "helm"`, Field: ".metadata.labels.app"},
	}, "Apply failed")
	got := conflictsOf("Deployment a/b", err)
	want := []Conflict{{"Deployment a/b", ".spec.replicas", "kubectl-edit"}, {"Deployment a/b", ".metadata.labels.app", "helm"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	text := conflictError(got).Error()
	for _, part := range []string{`Deployment a/b: .spec.replicas was set by "kubectl-edit"`, `--take-ownership "kubectl-edit" --take-ownership "helm"`} {
		if !strings.Contains(text, part) {
			t.Errorf("%s\nlacks %s", text, part)
		}
	}
	for name, other := range map[string]error{
		"no error":                   nil,
		"a conflict of versions":     apierrors.NewConflict(corev1.Resource("secrets"), "x", errors.New("changed")),
		"a refusal of another kind":  apierrors.NewForbidden(corev1.Resource("secrets"), "x", errors.New("no")),
		"an error of the connection": errors.New("conflict with \"x\""),
	} {
		t.Run(name+" is no conflict of fields", func(t *testing.T) {
			if got := conflictsOf("x", other); got != nil {
				t.Error(got)
			}
		})
	}
}

func TestOnlyWhatControllersSetIsCeded(t *testing.T) {
	const webhook = "kind: ValidatingWebhookConfiguration\nwebhooks:\n- {name: a.b, failurePolicy: Ignore, clientConfig: {caBundle: '', url: x}}\n- {name: c, failurePolicy: Ignore}\n"
	cases := map[string]struct {
		object, field string
		scaled, ceded bool
		left          string
	}{
		"the failure policy of one webhook":          {webhook, `.webhooks[name="a.b"].failurePolicy`, false, true, "kind: ValidatingWebhookConfiguration\nwebhooks:\n- {name: a.b, clientConfig: {caBundle: '', url: x}}\n- {name: c, failurePolicy: Ignore}\n"},
		"its CA bundle":                              {webhook, `.webhooks[name="a.b"].clientConfig.caBundle`, false, true, "kind: ValidatingWebhookConfiguration\nwebhooks:\n- {name: a.b, failurePolicy: Ignore, clientConfig: {url: x}}\n- {name: c, failurePolicy: Ignore}\n"},
		"not its address":                            {webhook, `.webhooks[name="a.b"].clientConfig.url`, false, false, webhook},
		"not one that isn't rendered":                {webhook, `.webhooks[name="d"].failurePolicy`, false, false, webhook},
		"replicas under an autoscaler":               {"kind: Deployment\nspec: {replicas: 2, paused: false}", ".spec.replicas", true, true, "kind: Deployment\nspec: {paused: false}"},
		"not replicas without an autoscaler":         {"kind: Deployment\nspec: {replicas: 2}", ".spec.replicas", false, false, "kind: Deployment\nspec: {replicas: 2}"},
		"not another field under an autoscaler":      {"kind: Deployment\nspec: {paused: true}", ".spec.paused", true, false, "kind: Deployment\nspec: {paused: true}"},
		"not a field of that name in another object": {"kind: Widget\nspec: {replicas: 2}", ".spec.replicas", true, false, "kind: Widget\nspec: {replicas: 2}"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			u, want := object(t, c.object), object(t, c.left)
			if got := cede(u, c.field, c.scaled); got != c.ceded {
				t.Errorf("ceded: %v, want %v", got, c.ceded)
			}
			got, _ := yaml.Marshal(u.Object)
			expected, _ := yaml.Marshal(want.Object)
			if string(got) != string(expected) {
				t.Errorf("left:\n%s\nwant:\n%s", got, expected)
			}
		})
	}
}

func TestPodReason(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	cases := map[string]struct {
		status corev1.PodStatus
		says   string
	}{
		"an image that can't be pulled": {
			corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "proxy", State: waiting("ImagePullBackOff", "no such tag\nmore")}}},
			"container proxy of Pod p: ImagePullBackOff no such tag",
		},
		"a container that crashes": {
			corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "a", RestartCount: 3, State: waiting("CrashLoopBackOff", ""), LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error", Message: "bad flag"}}}}},
			"container a of Pod p: CrashLoopBackOff, it ended 3 times, last with status 2 (Error) bad flag",
		},
		"an init container that fails": {
			corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}},
			"container init of Pod p ended with status 1 ",
		},
		"a node that is too small": {
			corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available: 3 Insufficient cpu."}}},
			"Pod p can't be scheduled: 0/3 nodes are available: 3 Insufficient cpu.",
		},
		"a Pod that is only starting": {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "a", State: waiting("ContainerCreating", "")}}}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := podReason(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: c.status}); got != c.says {
				t.Errorf("got %q, want %q", got, c.says)
			}
		})
	}
}

func TestInventoryKeepsThreeRevisionsThatFitIntoASecret(t *testing.T) {
	noise := func(n int) []byte { // what gzip can't make smaller
		b := make([]byte, n)
		r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not a secret
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	cases := map[string]struct {
		sizes []int
		kept  []int
	}{
		"small ones, oldest first out":      {[]int{10, 10, 10, 10, 10}, []int{3, 4, 5}},
		"large ones, as many as fit":        {[]int{400_000, 400_000, 400_000}, []int{2, 3}},
		"one that is too large for history": {[]int{10, 1_000_000}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := &corev1.Secret{Data: map[string][]byte{stateKey: []byte("{}")}}
			for i, size := range c.sizes {
				s.Data[revisionPrefix+string(rune('1'+i))] = noise(size)
			}
			trim(s)
			if got := revisions(s); !slices.Equal(got, c.kept) {
				t.Errorf("kept %v, want %v", got, c.kept)
			}
			total := 0
			for data := range maps.Values(s.Data) {
				total += len(data)
			}
			if total > corev1.MaxSecretSize {
				t.Errorf("%d bytes, the API server takes %d", total, corev1.MaxSecretSize)
			}
		})
	}
}

func TestLeaseRunsOut(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	life := int32(15)
	name := "alice, process 7"
	l := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &life, RenewTime: &metav1.MicroTime{Time: at}}}
	for after, want := range map[time.Duration]time.Duration{0: 15 * time.Second, 10 * time.Second: 5 * time.Second, 15 * time.Second: 0, time.Hour: 0} {
		if by, left := leaseLeft(l, at.Add(after)); left != want || by != name {
			t.Errorf("after %s: %s left to %q, want %s", after, left, by, want)
		}
	}
	if _, left := leaseLeft(&coordinationv1.Lease{}, at); left != 0 {
		t.Error("a lease without a holder is held")
	}
}

func TestDiffShowsThatASecretChangedAndNotToWhat(t *testing.T) {
	before := object(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {password: aHVudGVyMg==, same: eA==}")
	after := object(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {password: aHVudGVyMw==, same: eA==}")
	got, err := unified("Secret s", before, after)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(got, "aHVudGVy") || strings.Contains(got, "hunter") {
		t.Errorf("the diff tells the secret:\n%s", got)
	}
	if strings.Count(got, "\n-") != 2 || strings.Count(got, "\n+") != 2 || !strings.Contains(got, "  password: (sha256 ") {
		t.Errorf("want one line less and one more, each beside its header:\n%s", got)
	}
}

func TestJoinedInventoryForgetsNothing(t *testing.T) {
	space := ref{Version: "v1", Kind: kindNamespace, Name: "a", Found: true}
	old := []ref{space, {Version: "v1", Kind: "ConfigMap", Namespace: "a", Name: "gone"}, {Version: "v1beta1", Group: "g", Kind: "K", Name: "k"}}
	now := []ref{{Version: "v1", Kind: kindNamespace, Name: "a", Found: true}, {Version: "v1", Group: "g", Kind: "K", Name: "k"}}
	want := []ref{space, {Version: "v1", Group: "g", Kind: "K", Name: "k"}, old[1]}
	if got := joined(old, now); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
