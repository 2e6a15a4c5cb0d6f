package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Target is a pod and its port, chosen for each connection anew: pods come and go.
type Target func(ctx context.Context) (pod types.NamespacedName, port int, err error)

// Serve accepts connections until the context ends and carries each to the target.
// It closes the listener, and returns when no connection is left. Failed is told why one came to nothing.
func Serve(ctx context.Context, l net.Listener, dial Dial, to Target, failed func(error)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		here, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		open.Go(func() {
			defer func() { _ = here.Close() }()
			if err := carry(ctx, here, dial, to); err != nil && ctx.Err() == nil {
				failed(err)
			}
		})
	}
}

func carry(ctx context.Context, here net.Conn, dial Dial, to Target) error {
	pod, port, err := to(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	there, err := dial(ctx, pod, port)
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	context.AfterFunc(ctx, func() { _ = here.Close() })
	// Either end closes both: a browser that leaves, a pod that is replaced.
	done := make(chan error, 2)
	for _, way := range [][2]net.Conn{{there, here}, {here, there}} {
		go func() {
			_, err := io.Copy(way[0], way[1])
			done <- err
		}()
	}
	if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("the connection to Pod %s: %w", pod, err)
	}
	return nil
}

// Service is a ready pod behind a port of a Service; 0 is its first.
func Service(c client.Client, name types.NamespacedName, port int32) Target {
	return func(ctx context.Context) (types.NamespacedName, int, error) {
		s := &corev1.Service{}
		if err := c.Get(ctx, name, s); err != nil {
			if apierrors.IsNotFound(err) {
				return types.NamespacedName{}, 0, fmt.Errorf("there is no Service %s", name)
			}
			return types.NamespacedName{}, 0, fmt.Errorf("reading Service %s: %w", name, err)
		}
		i := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return port == 0 || p.Port == port })
		if i < 0 || len(s.Spec.Selector) == 0 {
			return types.NamespacedName{}, 0, fmt.Errorf("port %d of Service %s leads to no Pod", port, name)
		}
		pods := &corev1.PodList{}
		if err := c.List(ctx, pods, client.InNamespace(name.Namespace), client.MatchingLabels(s.Spec.Selector)); err != nil {
			return types.NamespacedName{}, 0, fmt.Errorf("listing the Pods of Service %s: %w", name, err)
		}
		for j := range pods.Items {
			p := &pods.Items[j]
			if number := portOf(p, s.Spec.Ports[i].TargetPort); ready(p) && number > 0 {
				return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, number, nil
			}
		}
		return types.NamespacedName{}, 0, fmt.Errorf("none of the %d Pods of Service %s is ready", len(pods.Items), name)
	}
}

func portOf(p *corev1.Pod, target intstr.IntOrString) int {
	if target.Type == intstr.Int {
		return target.IntValue()
	}
	for i := range p.Spec.Containers {
		for _, port := range p.Spec.Containers[i].Ports {
			if port.Name == target.StrVal {
				return int(port.ContainerPort)
			}
		}
	}
	return 0
}

func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
