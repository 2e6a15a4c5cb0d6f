// Package upgrade says, before a mesh moves to another version of Istio, what
// stands in the way and what will be different. It changes nothing; the move itself is
// in package cluster.
//
// Call Check. It reads the workloads, pods and Istio objects of the whole cluster, once.
package upgrade

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

// Options say what moves where.
type Options struct {
	Cluster *cluster.Cluster
	// From is what is installed, To the same with another control plane.
	From, To *cluster.Mesh
}

// question is one sentence that must hold.
type question struct {
	code     string
	title    string
	severity check.Severity // of a breach, unless the finding says another
	ask      func(context.Context, *asked) ([]check.Finding, error)
}

// questions is all of them. Each has its place in docs/guide/mesh-upgrade.md.
var questions = []question{
	{"SU101", "nothing else is under way", check.Fail, idle},
	{"SU102", "the new version is at most two minor versions ahead", check.Fail, skew},
	{"SP102", "Istio is of a version that is patched", check.Fail, patched},
	{"SU103", "Kubernetes is of a version that the new Istio supports", check.Fail, kubernetes},
	{"SU104", "the charts are of the new version", check.Fail, charts},
	{"SU105", "what changed between the versions is known", check.Info, notes},
	{"SU106", "the mesh as it would be has no problem", check.Fail, linted},
	{"SU107", "each namespace chooses one control plane", check.Fail, oneLabel},
	{"SU108", "a restart of a workload loses no request", check.Warn, drains},
	{"SU109", "each proxy is of a workload that can be restarted", check.Warn, restartable},
}

// Check asks everything. What could not be read is a warning, and never taken for good.
func Check(ctx context.Context, o Options) (*check.Report, error) {
	reader, err := client.New(o.Cluster.REST(), client.Options{})
	if err != nil {
		return nil, err
	}
	a := &asked{Options: o, client: reader}
	if a.status, err = o.Cluster.UpgradeStatus(ctx, o.From.Values.Istio.Namespace); err != nil {
		return nil, err
	}
	a.injected = map[string]bool{}
	for i := range a.status.Namespaces {
		a.injected[a.status.Namespaces[i].Namespace] = true
	}
	return a.report(ctx, questions), nil
}

// asked is what the questions read.
type asked struct {
	Options
	client client.Client
	status *cluster.UpgradeStatus
	// injected are the namespaces that choose a control plane or have proxies.
	injected map[string]bool

	spaces      *corev1.NamespaceList
	pods        *corev1.PodList
	deployments *appsv1.DeploymentList
	sets        *appsv1.StatefulSetList
}

func (a *asked) report(ctx context.Context, questions []question) *check.Report {
	r := &check.Report{}
	for _, q := range questions {
		found, err := q.ask(ctx, a)
		if err != nil {
			found = append(found, check.Finding{Severity: check.Warn, Object: "the cluster", Says: "not checked: " + err.Error()})
		}
		for i := range found {
			f := &found[i]
			f.Code, f.Severity = cmp.Or(f.Code, q.code), cmp.Or(f.Severity, q.severity)
			f.Doc = cmp.Or(f.Doc, "docs/guide/mesh-upgrade.md#"+strings.ToLower(q.code))
		}
		r.Results = append(r.Results, check.Result{Code: q.code, Title: q.title, Findings: worstFirst(found)})
	}
	return r
}

// list fetches once.
func list[L client.ObjectList](ctx context.Context, a *asked, kept *L, empty L, has bool) (L, error) {
	if has {
		return *kept, nil
	}
	if err := a.client.List(ctx, empty); err != nil {
		return empty, fmt.Errorf("listing the %T: %w", empty, err)
	}
	*kept = empty
	return empty, nil
}
