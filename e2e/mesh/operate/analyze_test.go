package operate

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

// failsOpen is what somebody writes after the installation: a filter that lets everybody in while Sluice is away.
const failsOpen = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: fails-open, namespace: apps}
spec:
  priority: 10
  workloadSelector: {labels: {app: nobody}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: fails-open
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
          failure_mode_allow: true
          grpc_service: {timeout: 0.2s, envoy_grpc: {cluster_name: "outbound|9090||sluice.sluice-system.svc.cluster.local", authority: sluice.sluice-system.svc.cluster.local}}
`

// analyzes runs the CronJob's pod as Kubernetes would, on a mesh that is well and on one that is not.
func analyzes(t *testing.T, c *lab.Cluster) {
	job := func(name, ends string) (exit, said string) {
		c.Kubectl(t, "", "-n", "istio-system", "create", "job", name, "--from=cronjob/sluice-analyze")
		c.Kubectl(t, "", "-n", "istio-system", "wait", "job/"+name, "--for=condition="+ends, "--timeout=5m")
		exit = c.Kubectl(t, "", "-n", "istio-system", "get", "pod", "-l", "job-name="+name, "-o", "jsonpath={.items[*].status.containerStatuses[*].state.terminated.exitCode}")
		return exit, c.Kubectl(t, "", "-n", "istio-system", "logs", "job/"+name)
	}
	if exit, said := job("analyze-well", "Complete"); exit != "0" || !strings.Contains(said, "2 checks: none failed, 2 with a warning") || !strings.Contains(said, "SA101") {
		t.Errorf("exit status %s, and it said\n%s", exit, said)
	}
	c.Apply(t, failsOpen)
	if exit, said := job("analyze-ill", "Failed"); exit != "3" || !strings.Contains(said, "FAIL  SL121 EnvoyFilter apps/fails-open") {
		t.Errorf("exit status %s, and it said\n%s", exit, said)
	}
	c.Kubectl(t, "", "-n", "apps", "delete", "envoyfilter", "fails-open")
}

// analystMay wants the rights of its roles and no other, but for what any account may, such as to ask about itself.
func analystMay(t *testing.T, c *lab.Cluster) {
	clusterwide, beside := map[string]bool{}, map[string]bool{"list configmaps/": true}
	for _, r := range roleOf(t, c).Rules {
		for _, resource := range r.Resources {
			clusterwide["list "+resource+"/"+r.APIGroups[0]], beside["list "+resource+"/"+r.APIGroups[0]] = true, true
		}
	}
	if len(clusterwide) != 12 {
		t.Errorf("the role lists %d resources", len(clusterwide))
	}
	for namespace, want := range map[string]map[string]bool{"kube-system": clusterwide, "istio-system": beside} {
		got := rights(t, c, "sluice-analyze", namespace)
		for right := range rights(t, c, "default", namespace) {
			delete(got, right)
		}
		if !maps.Equal(got, want) {
			t.Errorf("in %s it may\n%v\nwant\n%v", namespace, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
}

// rights are what the API server lets an account of istio-system do in a namespace, of which all but that one show cluster-wide rights alone.
func rights(t *testing.T, c *lab.Cluster, account, namespace string) map[string]bool {
	t.Helper()
	config := c.REST()
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:istio-system:" + account, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:istio-system", "system:authenticated"},
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace},
	}, metav1.CreateOptions{})
	if err != nil || review.Status.Incomplete || review.Status.EvaluationError != "" {
		t.Fatalf("%v, %+v", err, review)
	}
	out := map[string]bool{}
	for _, r := range review.Status.ResourceRules {
		for _, verb := range r.Verbs {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					out[strings.TrimSpace(verb+" "+resource+"/"+group+" "+strings.Join(r.ResourceNames, ","))] = true
				}
			}
		}
	}
	return out
}

func roleOf(t *testing.T, c *lab.Cluster) *rbacv1.ClusterRole {
	t.Helper()
	role := &rbacv1.ClusterRole{}
	if err := json.Unmarshal([]byte(c.Kubectl(t, "", "get", "clusterrole", "sluice-mesh-analyze", "-o", "json")), role); err != nil {
		t.Fatal(err)
	}
	return role
}

// analystNeeds takes one resource after another out of its role: without any of them the run says which, and never that all is well.
func analystNeeds(t *testing.T, c *lab.Cluster) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) { c.Kubectl(t, "", append([]string{"--kubeconfig", file}, args...)...) }
	kubectl("config", "set-credentials", "analyst", "--token", c.Kubectl(t, "", "-n", "istio-system", "create", "token", "sluice-analyze"))
	kubectl("config", "set-context", "--current", "--user", "analyst")
	run := func() (string, int) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("SLUICE_BIN"), "sluice"), "mesh", "analyze", "--istio-namespace", "istio-system", "--kubeconfig", file)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, status := run(); status != 0 {
		t.Fatalf("with all it has: exit status %d\n%s", status, out)
	}
	whole := roleOf(t, c)
	rules := func(without string) string {
		left := []rbacv1.PolicyRule{}
		for _, r := range whole.Rules {
			r.Resources = slices.DeleteFunc(slices.Clone(r.Resources), func(s string) bool { return s == without })
			if len(r.Resources) > 0 {
				left = append(left, r)
			}
		}
		text, err := json.Marshal(map[string]any{"rules": left})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	needed := map[string]bool{}
	for _, r := range whole.Rules {
		for _, resource := range r.Resources {
			needed[resource] = true
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(needed)) {
		c.Kubectl(t, "", "patch", "clusterrole", "sluice-mesh-analyze", "--type=merge", "-p", rules(resource))
		lab.Until(t, patience, func() error { // the authorizer learns of it
			if out, status := run(); status != 1 || !strings.Contains(out, resource) || !strings.Contains(out, "forbidden") {
				return fmt.Errorf("without %s: exit status %d, want 1 and that it is forbidden\n%s", resource, status, out)
			}
			return nil
		})
	}
	c.Kubectl(t, "", "patch", "clusterrole", "sluice-mesh-analyze", "--type=merge", "-p", rules(""))
}
