// Package kubelet runs the pods of a cluster's one node as processes in boxes. It does what
// tests of a mesh can see of a real kubelet and its container runtime: init containers and
// sidecars in order, environment, volumes (kept current), probes, restarts, the stages of ending,
// status, logs, exec and port-forward.
//
// It has no images: a table says which program of this machine stands for which image. A
// container whose image the table lacks is reported running and ready, and nothing runs:
// dashboards need to be there, not to work, and a test serves its own pods' ports itself.
// It limits no memory and no CPU, pulls nothing, evicts nothing, and schedules by binding each pod here.
package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"runtime"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// NodeName is the one node's.
const NodeName = "lab"

// port is where a kubelet answers the API server.
const port = 10250

// Image is what stands for a container image.
type Image struct {
	Entrypoint []string          // as in an image's configuration; a container's command replaces it
	Files      map[string]string // paths in the container → files or folders of this machine
	User       int               // who runs it unless the pod says so
	Env        []string          // over what the pod says: it may turn off what this machine's Envoy lacks
}

// Options are what a kubelet stands on.
type Options struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by Start
	Network   *box.Network
	Image     func(name string) (Image, bool)
	Resolver  string               // address of the cluster's DNS server
	TLS       *tls.Config          // to serve the API server, and nobody else
	Logf      func(string, ...any) // what goes wrong
}

// Kubelet is the node's.
type Kubelet struct {
	Options
	configs listers.ConfigMapLister
	secrets listers.SecretLister

	mu   sync.Mutex
	pods map[types.UID]*pod
	wg   sync.WaitGroup
}

// Start registers the node and runs pods until the context ends; then it kills them.
func Start(ctx context.Context, o Options) (*Kubelet, error) {
	k := &Kubelet{
		Options: o, pods: map[types.UID]*pod{},
		configs: o.Informers.Core().V1().ConfigMaps().Lister(),
		secrets: o.Informers.Core().V1().Secrets().Lister(),
	}
	if err := k.register(ctx); err != nil {
		return nil, err
	}
	if err := k.serve(ctx, o.TLS); err != nil {
		return nil, err
	}
	pods := o.Informers.Core().V1().Pods().Informer()
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.see(ctx, o) },
		UpdateFunc: func(_, o any) { k.see(ctx, o) },
		DeleteFunc: k.gone,
	}); err != nil {
		return nil, err
	}
	o.Informers.Start(ctx.Done())
	for kind, ok := range o.Informers.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return nil, fmt.Errorf("the kubelet can't list %v", kind)
		}
	}
	return k, nil
}

// Wait returns when everything that the kubelet ran has ended.
func (k *Kubelet) Wait() { k.wg.Wait() }

// see is called for a pod's every change, one at a time.
func (k *Kubelet) see(ctx context.Context, object any) {
	api := object.(*corev1.Pod)
	if api.Spec.NodeName == "" {
		if err := k.bind(ctx, api); err != nil && ctx.Err() == nil {
			k.Logf("binding pod %s/%s: %v", api.Namespace, api.Name, err)
		}
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pods[api.UID]
	if p == nil {
		if api.Spec.NodeName != NodeName || api.Status.Phase == corev1.PodSucceeded || api.Status.Phase == corev1.PodFailed {
			return
		}
		p = newPod(k, api)
		k.pods[api.UID] = p
		inner, cancel := context.WithCancel(ctx)
		p.cancel = cancel
		k.wg.Go(func() { p.run(inner) })
	}
	p.see(api)
}

// gone is called when the API server has forgotten a pod.
func (k *Kubelet) gone(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	api := object.(*corev1.Pod)
	if p := k.pods[api.UID]; p != nil {
		p.cancel()
		delete(k.pods, api.UID)
	}
}

// find returns a running pod by its names.
func (k *Kubelet) find(namespace, name string) (*pod, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		if p.namespace == namespace && p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no pod %s/%s runs here", namespace, name)
}

// bind is all of our scheduler: there is one node, and it has room.
func (k *Kubelet) bind(ctx context.Context, api *corev1.Pod) error {
	if len(api.Spec.SchedulingGates) > 0 || api.DeletionTimestamp != nil {
		return nil
	}
	return Insist(ctx, func() error {
		return k.Client.CoreV1().Pods(api.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.Namespace, Name: api.Name, UID: api.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: NodeName},
		}, metav1.CreateOptions{})
	})
}

// Insist tries a write some times, a second apart: an API server that is too busy for it says so once, and no event
// would have it tried again. What is gone or has changed meanwhile is not tried again.
func Insist(ctx context.Context, write func() error) (err error) {
	for range 10 {
		if err = write(); err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || !pause(ctx, time.Second) {
			return err
		}
	}
	return err
}

// register makes the node. Its size is a wish: nothing is limited, and nothing should be refused for want of room.
func (k *Kubelet) register(ctx context.Context) error {
	version, err := k.Client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	node, err := k.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: NodeName, Labels: map[string]string{
			corev1.LabelHostname: NodeName, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		}},
		Spec: corev1.NodeSpec{PodCIDR: box.Pods.String(), PodCIDRs: []string{box.Pods.String()}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("registering the node: %w", err)
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourcePods: resource.MustParse("500"), corev1.ResourceEphemeralStorage: resource.MustParse("256Gi"),
	}
	now := metav1.Now()
	node.Status = corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
			Message: "processes in namespaces", LastHeartbeatTime: now, LastTransitionTime: now,
		}},
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: box.Node.String()}, {Type: corev1.NodeHostName, Address: NodeName},
		},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: port}},
		NodeInfo: corev1.NodeSystemInfo{
			OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH, KubeletVersion: version.GitVersion, ContainerRuntimeVersion: "lab://1",
		},
	}
	_, err = k.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
