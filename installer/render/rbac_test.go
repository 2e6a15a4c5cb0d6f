package render

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// tooMuch says why a rule of a role needs a reason, and nothing if it needs none.
func tooMuch(cluster bool, rule map[string]any) string {
	list := func(field string) (out []string) {
		items, _ := rule[field].([]any)
		for _, i := range items {
			out = append(out, fmt.Sprint(i))
		}
		return out
	}
	groups, resources, verbs := list("apiGroups"), list("resources"), list("verbs")
	writes := slices.ContainsFunc(verbs, func(v string) bool { return v != "get" && v != "list" && v != "watch" })
	switch {
	case slices.Contains(verbs, "*"), slices.Contains(groups, "*"):
		return "anything"
	case slices.Contains(resources, "*") && writes:
		return "writes everything of a group"
	case slices.Contains(resources, "*"):
		return "reads everything of a group"
	case slices.ContainsFunc(verbs, func(v string) bool { return v == "escalate" || v == "bind" || v == "impersonate" }):
		return "takes the rights of others"
	case cluster && slices.Contains(resources, "secrets"):
		return "secrets of every namespace"
	case slices.ContainsFunc(resources, func(r string) bool {
		return r == "pods/exec" || r == "pods/attach" || r == "serviceaccounts/token" || r == "nodes/proxy"
	}):
		return "acts as others"
	}
	return ""
}

// istios are the rules of Istio's own charts that say more than we would, and
// why each is there. All of them are istiod's; none is of what we add.
var istios = map[string]string{
	"istiod-clusterrole config.istio.io,security.istio.io,networking.istio.io,authentication.istio.io,rbac.istio.io,telemetry.istio.io,extensions.istio.io * get,watch,list": "istiod reads all of Istio's configuration, to serve it",
	"istiod-clusterrole gateway.networking.k8s.io,gateway.networking.x-k8s.io * get,watch,list":                                                                              "the same for the Gateway API",
	"istiod-clusterrole networking.k8s.io ingresses/status *":                                                                                                                "istiod writes addresses into Ingresses; the chart says * for get, update and patch",
	"istiod-clusterrole  secrets get,watch,list":                                                                                                                             "istiod hands gateways the certificates that Gateways name; the chart has no switch for it",
}

func TestNothingThatIsLaidDownMayDoMoreThanItMust(t *testing.T) {
	used := map[string]bool{}
	roles := 0
	for _, name := range []string{"voicecore", "default", "minimal"} {
		for _, c := range ours(t, values(t, name)) {
			for _, o := range c.Objects {
				if o.GetKind() != "ClusterRole" && o.GetKind() != "Role" {
					continue
				}
				roles++
				rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
				for _, r := range rules {
					rule := r.(map[string]any)
					why := tooMuch(o.GetKind() == "ClusterRole", rule)
					if why == "" {
						continue
					}
					id := strings.TrimSuffix(o.GetName(), "-istio-system")
					for _, f := range []string{"apiGroups", "resources", "verbs"} {
						id += " " + strings.Trim(strings.ReplaceAll(fmt.Sprint(rule[f]), " ", ","), "[]")
					}
					if istios[id] == "" || c.Name != "istiod" {
						t.Errorf("%s, %s %s: %s: %q", c.Name, o.GetKind(), o.GetName(), why, id)
					}
					used[id] = true
				}
			}
		}
	}
	for id := range istios {
		if !used[id] {
			t.Errorf("no role has the rule %q any more: take it off the list", id)
		}
	}
	if roles < 6 {
		t.Errorf("%d roles were looked at", roles)
	}
}

func TestRightsThatNeedAReasonAreSeen(t *testing.T) {
	rule := func(groups, resources, verbs string) map[string]any {
		list := func(s string) (out []any) {
			for part := range strings.SplitSeq(s, ",") {
				out = append(out, part)
			}
			return out
		}
		return map[string]any{"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)}
	}
	for _, c := range []struct {
		rule    map[string]any
		cluster bool
		want    string
	}{
		{rule("", "pods", "get,list"), true, ""},
		{rule("", "pods", "*"), false, "anything"},
		{rule("*", "pods", "get"), false, "anything"},
		{rule("apps", "*", "get"), true, "reads everything of a group"},
		{rule("apps", "*", "get,patch"), true, "writes everything of a group"},
		{rule("rbac.authorization.k8s.io", "clusterroles", "bind"), true, "takes the rights of others"},
		{rule("rbac.authorization.k8s.io", "clusterroles", "escalate"), true, "takes the rights of others"},
		{rule("", "users", "impersonate"), true, "takes the rights of others"},
		{rule("", "configmaps,secrets", "get"), true, "secrets of every namespace"},
		{rule("", "secrets", "get"), false, ""},
		{rule("", "pods/exec", "create"), false, "acts as others"},
		{rule("", "serviceaccounts/token", "create"), false, "acts as others"},
	} {
		if got := tooMuch(c.cluster, c.rule); got != c.want {
			t.Errorf("%v: %q, want %q", c.rule, got, c.want)
		}
	}
}
