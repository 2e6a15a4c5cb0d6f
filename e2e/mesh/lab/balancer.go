package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/kubelet"
)

// balance gives Services of type LoadBalancer an address each, which kube-proxy then serves. It stands for a cloud.
func (c *Cluster) balance(ctx context.Context) error {
	given := map[types.UID]netip.Addr{} // the handlers of one informer are called one at a time
	last := balancerRange.Addr()
	give := func(object any) {
		s := object.(*corev1.Service)
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Status.LoadBalancer.Ingress) > 0 {
			return
		}
		addr, ok := given[s.UID]
		if !ok {
			last = last.Next()
			addr, given[s.UID] = last, last
		}
		status := corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: addr.String()}}}}
		patch, err := json.Marshal(map[string]any{"status": status})
		if err == nil {
			err = kubelet.Insist(ctx, func() error {
				_, err := c.client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
				return err
			})
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "load balancer: service %s/%s: %v\n", s.Namespace, s.Name, err)
		}
	}
	_, err := c.informers.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: give, UpdateFunc: func(_, now any) { give(now) },
	})
	return err
}
