package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"
	istio "istio.io/client-go/pkg/apis/security/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/app"
)

// kinds are the types of all that the chart may make. What is not here fails: a
// role, before all.
var kinds = map[string]func() any{
	"v1 ServiceAccount":                       func() any { return new(corev1.ServiceAccount) },
	"v1 ConfigMap":                            func() any { return new(corev1.ConfigMap) },
	"v1 Service":                              func() any { return new(corev1.Service) },
	"apps/v1 StatefulSet":                     func() any { return new(appsv1.StatefulSet) },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return new(networkingv1.NetworkPolicy) },
	"policy/v1 PodDisruptionBudget":           func() any { return new(policyv1.PodDisruptionBudget) },
	"autoscaling/v2 HorizontalPodAutoscaler":  func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"security.istio.io/v1 PeerAuthentication": func() any { return new(istio.PeerAuthentication) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() any { return new(monitoring.PrometheusRule) },
}

// objects decodes a rendering into the API's own types. A field that they do not
// have is an error, and so is one that is there twice.
func objects(t *testing.T, v map[string]any) (all []any) {
	t.Helper()
	rendered, err := render(load(t), v, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range documents(rendered) {
		all = append(all, object(t, doc))
	}
	return all
}

func object(t *testing.T, doc string) any {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	make := kinds[kind.APIVersion+" "+kind.Kind]
	if make == nil {
		t.Fatalf("the chart makes a %s %s, which no test knows\n%s", kind.APIVersion, kind.Kind, doc)
	}
	into := make()
	if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return into
}

// one is the only object of its type.
func one[T any](t *testing.T, all []any) *T {
	t.Helper()
	var found []*T
	for _, o := range all {
		if is, ok := o.(*T); ok {
			found = append(found, is)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d of %T, want 1", len(found), *new(T))
	}
	return found[0]
}

func TestEveryObjectIsOneThatTheAPIKnows(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range cases(t) {
		t.Run("with the values of "+name, func(t *testing.T) {
			for _, o := range objects(t, values(t, name)) {
				seen[fmt.Sprintf("%T", o)] = true
				m := o.(metav1.Object)
				if m.GetNamespace() != "sluice" || m.GetLabels()["app.kubernetes.io/name"] != "sluice" {
					t.Errorf("%T %s: namespace %q, labels %v", o, m.GetName(), m.GetNamespace(), m.GetLabels())
				}
				if name == "everything" && m.GetLabels()["team"] != "platform" {
					t.Errorf("%T %s has not the labels of the values", o, m.GetName())
				}
			}
		})
	}
	for kind, make := range kinds {
		if kind == "autoscaling/v2 HorizontalPodAutoscaler" {
			continue // refused, and tested below
		}
		if !seen[fmt.Sprintf("%T", make())] {
			t.Errorf("no values file makes a %s", kind)
		}
	}
}

// TestThePodIsRestricted asks the evaluator that kube-apiserver's admission runs.
func TestThePodIsRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	judge := func(pod corev1.PodTemplateSpec) string {
		restricted := psa.LevelVersion{Level: psa.LevelRestricted, Version: psa.LatestVersion()}
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec))
		return result.ForbiddenDetail()
	}
	for _, name := range cases(t) {
		t.Run("with the values of "+name, func(t *testing.T) {
			pod := one[appsv1.StatefulSet](t, objects(t, values(t, name))).Spec.Template
			if said := judge(pod); said != "" {
				t.Error(said)
			}
			for _, c := range pod.Spec.Containers {
				if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
					t.Errorf("%s may write to its root", c.Name)
				}
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
					t.Errorf("%s: resources %v", c.Name, c.Resources)
				}
			}
			pod.Spec.Containers[0].SecurityContext.Capabilities.Drop = nil
			if judge(pod) == "" {
				t.Error("the judge lets pass what is not restricted")
			}
		})
	}
}

// TestNobodyGetsRights: no role, no binding, no token, and only the two files of the Secret.
func TestNobodyGetsRights(t *testing.T) {
	for _, name := range cases(t) {
		t.Run("with the values of "+name, func(t *testing.T) {
			all := objects(t, values(t, name)) // fails on a kind like Role, which is not in the list
			account := one[corev1.ServiceAccount](t, all)
			if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
				t.Error("the account's token is mounted")
			}
			pod := one[appsv1.StatefulSet](t, all).Spec.Template.Spec
			if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken || pod.ServiceAccountName != account.Name {
				t.Errorf("account %q, token mounted: %v", pod.ServiceAccountName, pod.AutomountServiceAccountToken)
			}
			for _, v := range pod.Volumes {
				if v.Projected != nil || v.HostPath != nil {
					t.Errorf("volume %s: %+v", v.Name, v.VolumeSource)
				}
				if v.Name != "secrets" {
					continue
				}
				var files []string
				for _, i := range v.Secret.Items {
					files = append(files, i.Path)
				}
				if !slices.Equal(files, []string{"secret", "admin.token.sha256"}) {
					t.Errorf("of the Secret the pod sees %q", files)
				}
			}
		})
	}
	for kind := range kinds {
		if strings.HasPrefix(kind, "rbac.") {
			t.Errorf("%s is on the list: show here that it names no * and no secrets", kind)
		}
	}
}

// config is what sluiced makes of the rendered file, or what it says against it.
func config(t *testing.T, all []any) app.Config {
	t.Helper()
	i := slices.IndexFunc(all, func(o any) bool {
		m, ok := o.(*corev1.ConfigMap)
		return ok && m.Data["sluiced.yaml"] != ""
	})
	if i < 0 {
		t.Fatal("no sluiced.yaml")
	}
	path := filepath.Join(t.TempDir(), "sluiced.yaml")
	if err := os.WriteFile(path, []byte(all[i].(*corev1.ConfigMap).Data["sluiced.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	f := flags(t, "--config", path)
	c, err := app.LoadConfig(f, []string{"SLUICE_DATA=/var/lib/sluice"}) // as the image sets it
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	app.Flags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSluicedTakesTheSettings: what the file names is where the pod has it.
func TestSluicedTakesTheSettings(t *testing.T) {
	for _, name := range cases(t) {
		t.Run("with the values of "+name, func(t *testing.T) {
			all := objects(t, values(t, name))
			c := config(t, all)
			pod := one[appsv1.StatefulSet](t, all).Spec.Template.Spec
			for setting, folder := range map[string]string{
				"data": c.Data, "secrets": c.Secrets, "catalog": c.Catalog, "rls-config": c.RLSConfig,
				"redis-password-file": filepath.Dir(c.Redis.PasswordFile), "redis-ca": filepath.Dir(c.Redis.CA), "redis-cert": filepath.Dir(c.Redis.Cert),
				"redis-key": filepath.Dir(c.Redis.Key), "redis-sentinel-password-file": filepath.Dir(c.Redis.SentinelPasswordFile),
				"otlp-ca": filepath.Dir(c.OTLPCA), "tls-cert": filepath.Dir(c.TLSCert), "tls-key": filepath.Dir(c.TLSKey), "tls-client-ca": filepath.Dir(c.TLSClientCA),
			} {
				mounted := slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
					return m.MountPath == folder && m.ReadOnly == (setting != "data") && m.SubPath == ""
				})
				if folder != "" && folder != "." && !mounted {
					t.Errorf("%s: nothing is mounted at %s", setting, folder)
				}
			}
			ports := map[string]int32{}
			for _, p := range pod.Containers[0].Ports {
				ports[p.Name] = p.ContainerPort
			}
			want := map[string]string{"grpc-doors": c.GRPCListen, "http-status": c.StatusListen, "http-api": c.HTTPListen}
			for _, p := range one[corev1.Service](t, all).Spec.Ports {
				if address := fmt.Sprintf(":%d", ports[p.TargetPort.String()]); want[p.Name] != address || p.Port != ports[p.Name] {
					t.Errorf("port %s: Service %d, container %d, sluiced %q", p.Name, p.Port, ports[p.Name], want[p.Name])
				}
				if before, _, _ := strings.Cut(p.Name, "-"); p.AppProtocol == nil || before != *p.AppProtocol {
					t.Errorf("port %s: appProtocol %v, which Istio takes for something else", p.Name, p.AppProtocol)
				}
				delete(want, p.Name)
			}
			if address, left := want["http-api"]; left && address != "127.0.0.1:9091" {
				t.Errorf("http-listen is %s, and no port of the Service", address)
			}
			grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
			if spare := grace - c.DrainDelay - c.DrainTimeout; spare != 15*time.Second {
				t.Errorf("%v to end, %v and %v to drain: %v are left", grace, c.DrainDelay, c.DrainTimeout, spare)
			}
		})
	}
	c := config(t, objects(t, values(t, "everything")))
	if c.MaxCells != 5_000_000 || c.Audit != "on" || !c.HTTPRemote || c.LogFormat != "json" || len(c.EdgePeers) != 1 || len(c.Peers) != 3 {
		t.Errorf("%+v", c)
	}
}

// TestTheAgentWritesWhereSluicedReads holds the annotations against what Istio's injector
// makes of them: a map from volume to mount, and a ProxyConfig.
func TestTheAgentWritesWhereSluicedReads(t *testing.T) {
	all := objects(t, values(t, "minimal"))
	template := one[appsv1.StatefulSet](t, all).Spec.Template
	var mounts map[string]corev1.VolumeMount
	if err := yaml.UnmarshalStrict([]byte(template.Annotations["sidecar.istio.io/userVolumeMount"]), &mounts); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.YAMLToJSONStrict([]byte(template.Annotations["proxy.istio.io/config"]))
	if err != nil {
		t.Fatal(err)
	}
	var proxy mesh.ProxyConfig
	if err := protojson.Unmarshal(text, &proxy); err != nil {
		t.Fatal(err)
	}
	if volume(t, all, "tls").EmptyDir == nil || mounts["tls"].MountPath == "" || mounts["tls"].MountPath != proxy.ProxyMetadata["OUTPUT_CERTS"] {
		t.Errorf("the agent writes to %q, and has mounted %v", proxy.ProxyMetadata["OUTPUT_CERTS"], mounts)
	}
	if !proxy.HoldApplicationUntilProxyStarts.GetValue() {
		t.Error("sluiced may start before its certificate is there")
	}
	c := config(t, all)
	if want := strings.Join([]string{c.GRPCListen[1:], c.StatusListen[1:]}, ","); template.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"] != want {
		t.Errorf("the sidecar leaves %s alone, want %s", template.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"], want)
	}
	for want, set := range map[string]map[string]any{"6379,26379": {}, "6379,26379,4317": {"settings.otlp-endpoint": "https://c:4317", "networkPolicy.enabled": false}, "": {"store.redis.url": "redis://r", "store.redis.plainText": true, "store.redis.sentinelUser": "", "store.redis.sentinelExistingSecret": "", "store.redis.tlsExistingSecret": "", "store.redis.clientCertificate": false}} {
		redis := one[appsv1.StatefulSet](t, objects(t, with(values(t, "redis"), set))).Spec.Template
		if got := redis.Annotations["traffic.sidecar.istio.io/excludeOutboundPorts"]; got != want {
			t.Errorf("on the way to Redis the sidecar leaves %q alone, want %q", got, want)
		}
	}
	for want, revision := range map[string]string{"sidecar.istio.io/inject=true": "", "istio.io/rev=canary": "canary"} {
		labels := one[appsv1.StatefulSet](t, objects(t, with(values(t, "minimal"), map[string]any{"istio.revision": revision}))).Spec.Template.Labels
		if key, value, _ := strings.Cut(want, "="); labels[key] != value {
			t.Errorf("revision %q: labels %v, want %s", revision, labels, want)
		}
	}
	for key := range one[appsv1.StatefulSet](t, objects(t, values(t, "secret-tls"))).Spec.Template.Annotations {
		if strings.Contains(key, "istio") {
			t.Errorf("without a mesh: annotation %s", key)
		}
	}
}

// TestTheSchemaKnowsEverySetting: each is a value, or made by the chart, and not both.
func TestTheSchemaKnowsEverySetting(t *testing.T) {
	made := []string{
		"config", "data", "secrets", "catalog", "rls-config", "grpc-listen", "uds", "http-listen", "http-remote", "status-listen",
		"tls-cert", "tls-key", "tls-client-ca", "peers", "edge-peers", "audit-dir", "stage", "only-host", "drain-delay", "drain-timeout",
		"redis-url", "redis-user", "redis-password-file", "redis-sentinel-user", "redis-sentinel-password-file", "redis-ca", "redis-cert", "redis-key", "redis-plaintext", "otlp-ca",
	}
	known := properties(t, "settings")
	flags(t).VisitAll(func(f *pflag.Flag) {
		if slices.Contains(known, f.Name) == slices.Contains(made, f.Name) {
			t.Errorf("%s: a value %v, made by the chart %v", f.Name, slices.Contains(known, f.Name), slices.Contains(made, f.Name))
		}
	})
	for _, name := range slices.Concat(known, made) {
		if flags(t).Lookup(name) == nil {
			t.Errorf("%s is no setting of sluiced", name)
		}
	}
}

// TestNobodyIsLetInByAnEmptyList: to a NetworkPolicy, "from: []" is everybody.
func TestNobodyIsLetInByAnEmptyList(t *testing.T) {
	for _, name := range cases(t) {
		t.Run("with the values of "+name, func(t *testing.T) {
			spec := one[networkingv1.NetworkPolicy](t, objects(t, values(t, name))).Spec
			if len(spec.PolicyTypes) != 2 {
				t.Errorf("types %v", spec.PolicyTypes)
			}
			for _, r := range spec.Ingress {
				if len(r.From) == 0 || len(r.Ports) == 0 {
					t.Errorf("in: %+v", r)
				}
			}
			for _, r := range spec.Egress {
				if len(r.To) == 0 || len(r.Ports) == 0 {
					t.Errorf("out: %+v", r)
				}
			}
		})
	}
	ways := func(set map[string]any) string {
		spec := one[networkingv1.NetworkPolicy](t, objects(t, with(values(t, "minimal"), set))).Spec
		var ports []string
		for _, r := range spec.Ingress {
			ports = append(ports, fmt.Sprintf("%s from %d", r.Ports[0].Port, len(r.From)))
		}
		for _, r := range spec.Egress {
			ports = append(ports, fmt.Sprintf("to %s", r.Ports[0].Port))
		}
		return strings.Join(ports, ", ")
	}
	twice := []any{"spiffe://d/ns/a/sa/x", "spiffe://d/ns/a/sa/y", "spiffe://d/ns/b/sa/x", "spiffe://d/other"}
	for want, set := range map[string]map[string]any{
		"grpc-doors from 1, to 53, to 15012": {},
		"grpc-doors from 2, to 53, to 15012": {"doors.peers": twice},
		"grpc-doors from 1, to 15012":        {"networkPolicy.dnsTo": []any{}},
	} {
		if got := ways(set); got != want {
			t.Errorf("%v: %s, want %s", set, got, want)
		}
	}
}

func TestReplicasWithAStoreThatTheyShare(t *testing.T) {
	all := objects(t, with(values(t, "redis"), map[string]any{"autoscaling.enabled": true}))
	hpa, set := one[autoscalingv2.HorizontalPodAutoscaler](t, all), one[appsv1.StatefulSet](t, all)
	if r := hpa.Spec.ScaleTargetRef; r.Kind != "StatefulSet" || r.Name != set.Name || r.APIVersion != "apps/v1" {
		t.Errorf("it scales %+v", r)
	}
	if set.Spec.Replicas != nil {
		t.Error("each upgrade would undo what the autoscaler did")
	}
}
