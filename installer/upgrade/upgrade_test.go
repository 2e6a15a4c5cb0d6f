package upgrade

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// between is an upgrade of an embedded profile, with more assignments for what is installed.
func between(t *testing.T, from, to string, sets ...string) *asked {
	t.Helper()
	load := func(version, revision string) *cluster.Mesh {
		v, err := profile.Load(profile.Options{Profile: "voicecore", Sets: append([]string{"istio.version=" + version, "istio.revision=" + revision}, sets...)})
		if err != nil {
			t.Fatal(err)
		}
		return &cluster.Mesh{Values: v}
	}
	return &asked{Options: Options{From: load(from, ""), To: load(to, "next")}, status: &cluster.UpgradeStatus{}}
}

// worst is the severity of the first finding, and all that findings say.
func worst(t *testing.T, found []check.Finding, err error, usual check.Severity) (check.Severity, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		return "", ""
	}
	var text []string
	for _, f := range found {
		if f.Severity == "" {
			f.Severity = usual
		}
		text = append(text, string(f.Severity)+" "+f.Object+": "+f.Says+" / "+f.Fix)
	}
	s := found[0].Severity
	if s == "" {
		s = usual
	}
	return s, strings.Join(text, "\n")
}

func TestVersionsApart(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		want           check.Severity
		says           string
	}{
		{"a newer patch is well", "1.31.1", "1.31.4", "", ""},
		{"two minor versions are well", "1.29.7", "1.31.4", "", ""},
		{"three are too many, and it says which comes first", "1.28.0", "1.31.4", check.Fail, "upgrade to 1.30 first"},
		{"an older minor version is refused", "1.31.4", "1.30.9", check.Fail, "1.30.9 is older"},
		{"the same version is told, since a revision may be all that changes", "1.31.4", "1.31.4", check.Info, "the same version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := between(t, c.from, c.to)
			found, err := skew(t.Context(), a)
			got, text := worst(t, found, err, check.Fail)
			if got != c.want || !strings.Contains(text, c.says) {
				t.Errorf("%q %s, want %q with %q", got, text, c.want, c.says)
			}
		})
	}
}

func TestKubernetesVersions(t *testing.T) {
	for _, c := range []struct {
		name, istio, server string
		want                check.Severity
		says                string
	}{
		{"the oldest that is supported is well", "1.31.4", "v1.32.0", "", ""},
		{"the newest that is supported is well", "1.29.7", "v1.35.9", "", ""},
		{"an older one fails", "1.31.4", "v1.31.9", check.Fail, "needs Kubernetes 1.32"},
		{"a newer one is a warning", "1.30.4", "v1.37.2+k3s1", check.Warn, "newer than 1.36"},
		{"of an Istio that is not in the table nothing is claimed", "1.40.0", "v1.36.0", check.Warn, "not known here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := kubernetesFor(c.istio, c.server)
			got, text := worst(t, found, err, check.Fail)
			if got != c.want || !strings.Contains(text, c.says) {
				t.Errorf("%q %s, want %q with %q", got, text, c.want, c.says)
			}
		})
	}
}

func TestChartsAreOfTheVersion(t *testing.T) {
	t.Run("the built-in ones are of the version of the values", func(t *testing.T) {
		v, err := profile.Load(profile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if of, err := minor(v.Istio.Version); err != nil || of != builtIn {
			t.Errorf("the default version is %s, and builtIn says 1.%d", v.Istio.Version, builtIn)
		}
	})
	t.Run("the built-in ones do not do for another minor version", func(t *testing.T) {
		found, err := charts(t.Context(), between(t, "1.31.4", "1.32.0"))
		if got, text := worst(t, found, err, check.Fail); got != check.Fail || !strings.Contains(text, "--charts") {
			t.Errorf("%q %s, want that it fails and names --charts", got, text)
		}
	})
	for version, want := range map[string]check.Severity{"1.32.0": "", "1.31.9": check.Fail, "1.1.0": check.Warn, "latest": check.Warn} {
		t.Run("a folder whose chart says "+version, func(t *testing.T) {
			dir := t.TempDir()
			at := filepath.Join(dir, "charts", "istio-control", "istio-discovery")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(at, "Chart.yaml"), []byte("apiVersion: v2\nname: istiod\nappVersion: "+version+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			a := between(t, "1.31.4", "1.32.0")
			a.To.Values.Istio.Charts = dir
			found, err := charts(t.Context(), a)
			if got, text := worst(t, found, err, check.Fail); got != want {
				t.Errorf("%q %s, want %q", got, text, want)
			}
		})
	}
}

func TestTheTableOfNotes(t *testing.T) {
	all, err := readNotes()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Errorf("%d notes, want 15 at least", len(all))
	}
	seen := map[string]bool{}
	last := 0
	for _, n := range all {
		since, err := minor(n.Since)
		if err != nil || since < last {
			t.Errorf("note %s: since %q, want the order of versions", n.ID, n.Since)
		}
		last = since
		if seen[n.ID] || n.ID == "" || n.Says == "" || !slices.Contains([]check.Severity{check.Fail, check.Warn, check.Info}, n.Severity) {
			t.Errorf("note %+v: want an id of its own, a sentence and a severity", n)
		}
		seen[n.ID] = true
		if n.Severity != check.Info && (n.Fix == "" || n.Look == nil) {
			t.Errorf("note %s is a %s for everyone, or without a mend; want it to look where it shows", n.ID, n.Severity)
		}
		if n.Look == nil {
			continue
		}
		for _, pattern := range []string{n.Look.Matches, n.Look.Env, n.Look.Hub} {
			if _, err := regexp.Compile(pattern); err != nil {
				t.Errorf("note %s: %v", n.ID, err)
			}
		}
		for _, kind := range n.Look.Kinds {
			i := strings.LastIndex(kind, "/")
			if i < 0 {
				t.Errorf("note %s: kind %q, want group/version/kind", n.ID, kind)
				continue
			}
			if gv, err := schema.ParseGroupVersion(kind[:i]); err != nil || gv.Version == "" || n.Look.Matches == "" {
				t.Errorf("note %s: kind %q and pattern %q, want group/version/kind and a pattern", n.ID, kind, n.Look.Matches)
			}
		}
	}
}

func TestNotesAreToldWhereTheyMeet(t *testing.T) {
	tell := func(t *testing.T, a *asked) string {
		t.Helper()
		found, err := notes(t.Context(), a)
		_, text := worst(t, found, err, "")
		return text
	}
	t.Run("within a minor version there are none", func(t *testing.T) {
		if text := tell(t, between(t, "1.31.1", "1.31.4")); text != "" {
			t.Errorf("told %s", text)
		}
	})
	t.Run("those of the versions between are told, and no others", func(t *testing.T) {
		a := between(t, "1.30.4", "1.31.4", "istio.pilotEnv.PILOT_SPAWN_UPSTREAM_SPAN_FOR_GATEWAY=false", "images.hub=registry.istio.io/release")
		text := tell(t, a)
		for _, want := range []string{"warn images.hub: since Istio 1.31, images are no longer", "warn istio.pilotEnv.PILOT_SPAWN_UPSTREAM_SPAN_FOR_GATEWAY", "info the mesh: since Istio 1.31, proxies are told"} {
			if !strings.Contains(text, want) {
				t.Errorf("told\n%s\nwant %q", text, want)
			}
		}
		for _, other := range []string{"Istio 1.30", "Istio 1.32"} {
			if strings.Contains(text, other) {
				t.Errorf("told\n%s\nwant nothing of %s", text, other)
			}
		}
	})
	t.Run("a note that looks somewhere is silent where nothing is", func(t *testing.T) {
		if text := tell(t, between(t, "1.30.4", "1.31.4", "images.hub=docker.io/istio")); strings.Contains(text, "warn") {
			t.Errorf("told %s", text)
		}
	})
}

func TestTheMeshAsItWouldBe(t *testing.T) {
	a := between(t, "1.31.1", "1.31.4")
	components, err := render.All(a.To.Values)
	if err != nil {
		t.Fatal(err)
	}
	a.To.Components = components
	t.Run("our own profile has no problem", func(t *testing.T) {
		found, err := linted(t.Context(), a)
		if _, text := worst(t, found, err, ""); text != "" {
			t.Error(text)
		}
	})
	t.Run("one that undoes a decision fails", func(t *testing.T) {
		for _, o := range a.objects() {
			if o.GetKind() == "AuthorizationPolicy" && strings.Contains(o.GetName(), "sluice") {
				o.Object["spec"].(map[string]any)["provider"] = map[string]any{"name": "nobody"}
			}
		}
		found, err := linted(t.Context(), a)
		if got, text := worst(t, found, err, ""); !strings.Contains(text, "fail AuthorizationPolicy") {
			t.Errorf("%q %s, want that a policy that asks nobody fails", got, text)
		}
	})
}

func TestLabelsOfTwoControlPlanes(t *testing.T) {
	a := between(t, "1.31.1", "1.31.4")
	a.spaces = &corev1.NamespaceList{Items: []corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{"istio-injection": "enabled"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "both", Labels: map[string]string{"istio-injection": "enabled", "istio.io/rev": "x"}}},
	}}
	found, err := oneLabel(t.Context(), a)
	if _, text := worst(t, found, err, check.Fail); len(found) != 1 || !strings.Contains(text, "Namespace both") || !strings.Contains(text, "kubectl label namespace both istio.io/rev-") {
		t.Errorf("found %s, want namespace both, with the command that mends it", text)
	}
}

// unsafe is a workload whose restart loses requests unless it is changed.
func unsafe() *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "shop"}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}
	return d
}

func TestRestartsThatLoseRequests(t *testing.T) {
	preStop := &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 2}}}
	probe := &corev1.Probe{}
	for _, c := range []struct {
		name   string
		change func(*appsv1.Deployment)
		want   check.Severity
		says   string
	}{
		{"a container that stops at once is a warning", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].ReadinessProbe = probe }, check.Warn, "no preStop hook"},
		{"one that is asked before it listens is a warning", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Lifecycle = preStop }, check.Warn, "no readinessProbe"},
		{"one with both is well", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Lifecycle, d.Spec.Template.Spec.Containers[0].ReadinessProbe = preStop, probe
		}, "", ""},
		{"one without a port serves nobody", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Ports = nil }, "", ""},
		{"a gateway drains by itself", func(d *appsv1.Deployment) {
			d.Spec.Template.Annotations = map[string]string{"inject.istio.io/templates": "gateway"}
		}, "", ""},
		{"outside the mesh it is nobody's business", func(d *appsv1.Deployment) { d.Namespace = "elsewhere" }, "", ""},
		{"a paused one would not restart", func(d *appsv1.Deployment) { d.Spec.Paused = true }, check.Fail, "rollout resume"},
		{"Recreate leaves a gap", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }, check.Warn, "Recreate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := between(t, "1.31.1", "1.31.4")
			a.injected = map[string]bool{"apps": true}
			d := unsafe()
			c.change(d)
			a.deployments, a.sets = &appsv1.DeploymentList{Items: []appsv1.Deployment{*d}}, &appsv1.StatefulSetList{}
			found, err := drains(t.Context(), a)
			got, text := worst(t, worstFirst(found), err, check.Warn)
			if got != c.want || !strings.Contains(text, c.says) {
				t.Errorf("%q %s, want %q with %q", got, text, c.want, c.says)
			}
		})
	}
	t.Run("a StatefulSet of one Pod leaves a gap, and one that is OnDelete does not restart", func(t *testing.T) {
		a := between(t, "1.31.1", "1.31.4")
		a.injected = map[string]bool{"apps": true}
		set := func(name string, n int32, strategy appsv1.StatefulSetUpdateStrategyType) appsv1.StatefulSet {
			s := appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name}}
			s.Spec.Replicas, s.Spec.UpdateStrategy.Type = ptr.To(n), strategy
			return s
		}
		a.deployments = &appsv1.DeploymentList{}
		a.sets = &appsv1.StatefulSetList{Items: []appsv1.StatefulSet{
			set("one", 1, appsv1.RollingUpdateStatefulSetStrategyType), set("two", 2, appsv1.RollingUpdateStatefulSetStrategyType), set("manual", 2, appsv1.OnDeleteStatefulSetStrategyType),
		}}
		found, err := drains(t.Context(), a)
		_, text := worst(t, found, err, check.Warn)
		if len(found) != 2 || !strings.Contains(text, "warn StatefulSet apps/one: it has one Pod") || !strings.Contains(text, "fail StatefulSet apps/manual") {
			t.Errorf("found %s, want one and manual", text)
		}
	})
}

func TestProxiesThatNothingRestarts(t *testing.T) {
	pod := func(name, owner string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name, Annotations: map[string]string{"sidecar.istio.io/status": "{}"}}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Name: "x", Controller: ptr.To(true)}}
		}
		return p
	}
	a := between(t, "1.31.1", "1.31.4")
	done := pod("done", "Job")
	done.Status.Phase = corev1.PodSucceeded
	plain := pod("plain", "")
	plain.Annotations = nil
	a.pods = &corev1.PodList{Items: []corev1.Pod{pod("web", "ReplicaSet"), pod("db", "StatefulSet"), pod("alone", ""), pod("batch", "Job"), done, plain}}
	found, err := restartable(t.Context(), a)
	if _, text := worst(t, found, err, check.Warn); len(found) != 2 || !strings.Contains(text, "Pod apps/alone") || !strings.Contains(text, "Pod apps/batch: it is of Job x") {
		t.Errorf("found %s, want the pod that is alone and the job's", text)
	}
}

func TestEveryQuestionIsOnItsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/guide/mesh-upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range questions {
		if strings.HasPrefix(q.code, "SU") && !strings.Contains(string(page), "### "+q.code+"\n") {
			t.Errorf("docs/guide/mesh-upgrade.md doesn't explain %s", q.code)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (SU\d+)$`).FindAllStringSubmatch(string(page), -1) {
		if !slices.ContainsFunc(questions, func(q question) bool { return q.code == m[1] }) {
			t.Errorf("docs/guide/mesh-upgrade.md explains %s, which nobody asks", m[1])
		}
	}
}

func TestWhatCanNotBeReadIsNoGood(t *testing.T) {
	a := between(t, "1.31.4", "1.31.5")
	a.To.Values.Istio.Version = "next"
	r := a.report(t.Context(), []question{{"SU102", "x", check.Fail, skew}})
	if f := r.Findings(); len(f) != 1 || f[0].Severity != check.Warn || !strings.HasPrefix(f[0].Says, "not checked: ") {
		t.Errorf("found %+v, want a warning that it was not checked", f)
	}
}
