package check

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

// empty is a cluster before the first installation.
func empty(t *testing.T) *fixture {
	f := healthy(t)
	f.cluster.objects = nil
	f.add(t, `{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {allocatable: {cpu: "8", memory: 32Gi}, conditions: [{type: Ready, status: "True"}]}}`)
	f.add(t, `{apiVersion: v1, kind: Secret, metadata: {name: sluice, namespace: sluice-system}, data: {secret: eA==, admin.token.sha256: eA==}}`)
	f.add(t, `{apiVersion: v1, kind: Secret, metadata: {name: edge, namespace: istio-system}}`)
	f.changes = []cluster.Change{{Object: "Namespace voicecore-ai", Action: cluster.Create}}
	return f
}

const injector = `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: NAME, labels: {app: sidecar-injector}}, webhooks: [{name: rev.namespace.sidecar-injector.istio.io,
namespaceSelector: {matchLabels: {istio-injection: enabled}}, objectSelector: {matchExpressions: [{key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}]},
rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}], clientConfig: {service: {name: istiod-1-20-0, namespace: istio-system}}}]}`

func TestPreflight(t *testing.T) {
	for _, c := range []struct {
		name     string
		code     string // empty: all holds
		severity Severity
		says     string
		seed     func(t *testing.T, f *fixture)
	}{
		{"an empty cluster of a version that Istio supports", "", "", "", func(*testing.T, *fixture) {}},
		{"a cluster with the mesh on it already", "", "", "", func(t *testing.T, f *fixture) { *f = *healthy(t) }},
		{"a Kubernetes that is too old", "SP101", Fail, "needs Kubernetes 1.32", func(_ *testing.T, f *fixture) { f.version = "v1.31.9+k3s1" }},
		{"a Kubernetes that is newer than Istio was tested with", "SP101", Warn, "newer than 1.36", func(_ *testing.T, f *fixture) { f.version = "v1.37.2" }},
		{"an Istio without patches", "SP102", Fail, "CVE-2026-73547", func(_ *testing.T, f *fixture) { f.values.Istio.Version = "1.30.3" }},
		{"an Istio that nobody maintains", "SP102", Fail, "no longer maintained", func(_ *testing.T, f *fixture) { f.values.Istio.Version = "1.20.0" }},
		{"a clock that is off", "SP103", Warn, "1h0m0s off", func(_ *testing.T, f *fixture) { f.there = at.Add(time.Hour) }},
		{"too little that is free", "SP111", Fail, "less is free than 4 CPUs", func(t *testing.T, f *fixture) {
			f.add(t, `{apiVersion: v1, kind: Pod, metadata: {name: big, namespace: other}, spec: {nodeName: n1, containers: [{name: a, image: x, resources: {requests: {cpu: "5"}}}]}, status: {phase: Running}}`)
		}},
		{"nodes that take no pods", "SP111", Fail, "0 of 1 nodes", func(t *testing.T, f *fixture) {
			f.set(t, "Node n1", []any{map[string]any{"key": "x", "effect": "NoSchedule"}}, "spec", "taints")
		}},
		{"a right that is missing", "SP121", Fail, "get, create, patch, delete is not allowed cluster-wide", func(_ *testing.T, f *fixture) {
			f.cluster.denied = func(group, resource, verb string) bool {
				return group == "*" || verb != "list" && resource == "customresourcedefinitions" && group == "apiextensions.k8s.io"
			}
		}},
		{"another mesh", "SP131", Warn, "Linkerd", func(t *testing.T, f *fixture) {
			f.add(t, `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: servers.policy.linkerd.io}, spec: {group: policy.linkerd.io}}`)
		}},
		{"another istiod", "SP131", Fail, "another istiod", func(t *testing.T, f *fixture) {
			f.add(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: istiod, namespace: istio-old, labels: {app: istiod}}}`)
		}},
		{"another injector for the same namespaces", "SP132", Fail, "injects into namespace voicecore-ai too", func(t *testing.T, f *fixture) {
			f.add(t, strings.Replace(injector, "NAME", "istio-sidecar-injector-old", 1))
		}},
		{"another CUSTOM provider", "SP133", Warn, "both must allow", func(t *testing.T, f *fixture) {
			f.add(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: login, namespace: voicecore-ai}, spec: {action: CUSTOM, provider: {name: oauth2-proxy}}}`)
		}},
		{"a field that somebody else owns", "SP141", Fail, "helm", func(_ *testing.T, f *fixture) {
			f.changes = []cluster.Change{{Object: "ConfigMap istio-system/istio", Action: cluster.Update, Conflicts: []cluster.Conflict{{Object: "ConfigMap istio-system/istio", Field: ".data.mesh", Manager: "helm"}}}}
		}},
		{"Sluice's own Secret is not there", "SP143", Fail, "StatefulSet sluice-system/sluice can't start without it", func(_ *testing.T, f *fixture) { f.remove(t, "Secret sluice-system/sluice") }},
		{"Sluice's own Secret has one of its files", "SP143", Fail, "it has no secret, and StatefulSet sluice-system/sluice can't start without it", func(t *testing.T, f *fixture) {
			f.set(t, "Secret sluice-system/sluice", map[string]any{"admin.token.sha256": "eA=="}, "data")
		}},
		{"the gateway's certificate is not there", "SP143", Warn, "no HTTPS", func(_ *testing.T, f *fixture) { f.remove(t, "Secret istio-system/edge") }},
		{"an API server that refuses an object", "SP141", Fail, "denied by policy", func(_ *testing.T, f *fixture) { f.failed = errors.New("denied by policy") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := empty(t)
			c.seed(t, f)
			r := Preflight(context.Background(), f.open(t))
			found := slices.DeleteFunc(r.Findings(), func(x Finding) bool { return x.Severity == Info })
			if c.code == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) == 0 || r.Failed() != (c.severity == Fail) {
				t.Fatalf("%+v", r)
			}
			said := false
			for _, x := range found {
				if x.Code != c.code || x.Severity != c.severity || x.Fix == "" || x.Doc != "docs/reference/checks.md#"+strings.ToLower(c.code) {
					t.Errorf("%+v", x)
				}
				said = said || strings.Contains(x.Says+x.Evidence, c.says)
			}
			if !said {
				t.Errorf("%q is not said: %+v", c.says, found)
			}
		})
	}
}

func TestASecretIsMadeOfTheKeysThatArePutIntoPods(t *testing.T) {
	for want, keys := range map[string][]string{
		"sluiced init --data made; kubectl create namespace ns; kubectl -n ns create secret generic s --from-file=made/secret --from-file=made/admin.token.sha256": {"secret", "admin.token.sha256"},
		"kubectl -n ns create secret generic s --from-file=password":                   {"password"},
		"kubectl -n ns create secret generic s --from-file=ca.crt --from-file=tls.crt": {"ca.crt", "tls.crt"},
		"make it in namespace ns": nil,
	} {
		if got := secretFix("ns", "s", keys); got != want {
			t.Errorf("of %q: %s\nwant %s", keys, got, want)
		}
	}
}

func TestWhatMayNotBeReadIsSaidAndNotTakenForGood(t *testing.T) {
	f := empty(t)
	f.cluster.denied = func(_, resource, verb string) bool { return resource == "nodes" && verb == "list" }
	r := Preflight(context.Background(), f.open(t))
	found := r.Findings()
	i := slices.IndexFunc(found, func(x Finding) bool { return x.Code == "SP111" })
	if i < 0 || found[i].Severity != Warn || !strings.Contains(found[i].Says, "not checked") || !strings.Contains(found[i].Fix, "permission") {
		t.Errorf("%+v", found)
	}
}

func TestRightsAreThoseOfWhatIsRendered(t *testing.T) {
	needed := healthy(t).open(t).needed()
	for _, want := range []right{
		{"security.istio.io", "peerauthentications", "istio-system", "patch"}, {"networking.istio.io", "serviceentries", "voicecore-ai", "create"},
		{"", "secrets", "istio-system", "update"}, {"networking.k8s.io", "networkpolicies", "voicecore-ai", "delete"},
	} {
		if !slices.Contains(needed, want) {
			t.Errorf("%+v is not asked for", want)
		}
	}
	for _, r := range needed {
		if r.resource == "secrets" && r.namespace == "" || r.verb == "*" || r.resource == "*" {
			t.Errorf("%+v is more than is needed", r)
		}
	}
}

func TestVersionsAreJudgedByTheTable(t *testing.T) {
	for _, c := range []struct {
		version string
		table   []release
		bad     bool
		fix     string
	}{
		{"1.29.0", istioReleases, true, "1.29.7"}, {"1.29.6", istioReleases, true, "1.29.7"}, {"1.29.7", istioReleases, false, ""},
		{"1.30.4", istioReleases, false, ""}, {"1.31.0", istioReleases, true, "1.31.1"}, {"1.31.4", istioReleases, false, ""},
		{"1.32.0", istioReleases, false, ""}, {"1.28.10", istioReleases, true, "1.31.1"}, {"latest", istioReleases, true, "1.31.1"},
		{"1.38.3", envoyReleases, true, "1.38.4"}, {"1.40.0", envoyReleases, false, ""}, {"1.36.2", envoyReleases, true, "1.38.4"},
	} {
		f, bad := unpatched(c.version, c.table)
		if bad != c.bad || f.Fix != c.fix {
			t.Errorf("%s: %+v, %v", c.version, f, bad)
		}
	}
	for _, table := range [][]release{istioReleases, envoyReleases} {
		for _, r := range table {
			for _, a := range r.advisories {
				if a.ids == "" || !strings.HasPrefix(a.source, "https://") || a.about == "" {
					t.Errorf("%d.%d: %+v names no source", r.major, r.minor, a)
				}
			}
		}
	}
}

func TestTheAPIServerSaysItsVersionAndTime(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", at.Format(http.TimeFormat))
		_, _ = w.Write([]byte(`{"gitVersion": "v1.35.1"}`))
	}))
	defer server.Close()
	request, err := http.NewRequest(http.MethodGet, server.URL+"/version", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	version, now, err := askVersion(server.Client(), request)
	if version != "v1.35.1" || !now.Equal(at) || err != nil {
		t.Errorf("%q, %s, %v", version, now, err)
	}
}
