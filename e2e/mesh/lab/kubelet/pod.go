package kubelet

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// refresh is how often volumes and the status are brought up to date when nothing asks for it.
// A kubelet takes a minute.
const refresh = 2 * time.Second

// pod is one pod from its binding to its end.
type pod struct {
	k               *Kubelet
	namespace, name string
	uid             types.UID
	addr            netip.Addr
	began           metav1.Time
	tokens          map[string]string // by volume and path; of the pod's goroutine
	inits           []*container
	mains           []*container
	cancel          func()
	changed         chan struct{} // something that the status tells
	reported        *corev1.PodStatus

	mu      sync.Mutex
	api     *corev1.Pod
	waiting string // why containers don't start yet
	ready   bool   // initialized: every init container is done, or a sidecar that has started
	ending  chan struct{}
}

func newPod(k *Kubelet, api *corev1.Pod) *pod {
	p := &pod{
		k: k, namespace: api.Namespace, name: api.Name, uid: api.UID, api: api, began: metav1.Now(),
		tokens: map[string]string{}, changed: make(chan struct{}, 1), ending: make(chan struct{}),
	}
	for i := range api.Spec.InitContainers {
		p.inits = append(p.inits, p.newContainer(&api.Spec.InitContainers[i]))
	}
	for i := range api.Spec.Containers {
		p.mains = append(p.mains, p.newContainer(&api.Spec.Containers[i]))
	}
	return p
}

// see takes note of what the API server says now.
func (p *pod) see(api *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.api = api
	select {
	case <-p.ending:
	default:
		if api.DeletionTimestamp != nil {
			close(p.ending)
		}
	}
}

func (p *pod) seen() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.api
}

// change asks for a new status.
func (p *pod) change() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pod) all() []*container { return slices.Concat(p.inits, p.mains) }

// network is the pod's in [box.Network]: its UID.
func (p *pod) network() string { return string(p.uid) }

// run is the pod's life. When the context ends, everything is killed.
func (p *pod) run(ctx context.Context) {
	defer p.remove()
	var err error
	if p.addr, err = p.k.Network.Add(p.network()); err != nil {
		p.k.Logf("pod %s/%s gets no network: %v", p.namespace, p.name, err)
		return
	}
	if err := p.writeNames(); err != nil {
		p.k.Logf("pod %s/%s: %v", p.namespace, p.name, err)
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { p.start(ctx, &running) })

	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.ending:
			p.end(ctx)
			return
		case <-tick.C:
			if p.initialized() {
				if err := p.fillVolumes(ctx); err != nil && ctx.Err() == nil {
					p.k.Logf("pod %s/%s: %v", p.namespace, p.name, err)
				}
			}
		case <-p.changed:
		}
		if p.report(ctx) {
			p.stop(ctx, p.inits)
			return // it ran to its end
		}
	}
}

// remove lets go of what a pod held when all its processes have ended. Logs stay.
func (p *pod) remove() {
	if p.addr.IsValid() {
		if err := p.k.Network.Remove(p.network(), p.addr); err != nil {
			p.k.Logf("pod %s/%s: %v", p.namespace, p.name, err)
		}
	}
	if err := os.RemoveAll(p.home("volumes")); err != nil {
		p.k.Logf("pod %s/%s: %v", p.namespace, p.name, err)
	}
}

// start brings the containers up in their order; each then has a goroutine.
func (p *pod) start(ctx context.Context, running *sync.WaitGroup) {
	for {
		err := p.fillVolumes(ctx)
		p.wait(err)
		if err == nil {
			break
		}
		if !p.going(ctx) || !pause(ctx, 200*time.Millisecond) {
			return
		}
	}
	for _, c := range p.inits {
		if !p.going(ctx) {
			return
		}
		if c.sidecar {
			running.Go(func() { c.keep(ctx) })
			if !c.waitStarted(ctx) {
				return
			}
		} else if !c.once(ctx) {
			return
		}
	}
	p.mu.Lock()
	p.ready = true
	p.mu.Unlock()
	for _, c := range p.mains {
		if p.going(ctx) {
			running.Go(func() { c.keep(ctx) })
		}
	}
	p.change()
}

func (p *pod) initialized() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// going is false once the pod should end.
func (p *pod) going(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-p.ending:
		return false
	default:
		return true
	}
}

// wait notes why the pod does not get on, if it does not.
func (p *pod) wait(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	p.mu.Lock()
	p.waiting = why
	p.mu.Unlock()
	p.change()
}

// end stops the containers as a kubelet does, main ones first and then sidecars from the last to the
// first, within the grace period, and tells the API server that the pod is gone.
func (p *pod) end(ctx context.Context) {
	api := p.seen()
	grace := 30 * time.Second
	if s := api.DeletionGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	limited, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.stop(limited, p.mains)
		for _, c := range slices.Backward(p.inits) {
			p.stop(limited, []*container{c})
		}
	}()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-p.changed:
		case <-tick.C:
		}
		p.report(ctx)
	}
	now := int64(0)
	err := Insist(ctx, func() error {
		return p.k.Client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.uid},
		})
	})
	if err != nil && ctx.Err() == nil {
		p.k.Logf("pod %s/%s: saying that it is gone: %v", p.namespace, p.name, err)
	}
}

// stop stops containers at once, and kills what is left when the context ends.
func (p *pod) stop(ctx context.Context, containers []*container) {
	var all sync.WaitGroup
	for _, c := range containers {
		all.Go(func() { c.stop(ctx) })
	}
	all.Wait()
}
