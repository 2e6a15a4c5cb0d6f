package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// container is one of a pod's. Its image decides whether a process runs.
type container struct {
	pod     *pod
	spec    corev1.Container
	image   Image
	real    bool // there is a program for the image
	sidecar bool

	mu       sync.Mutex
	cmd      *exec.Cmd     // of the process that runs, nil when none does
	exited   chan struct{} // closed when that process ends
	stopping bool
	started  bool // the startup probe has passed
	ready    bool
	restarts int
	state    corev1.ContainerState
	last     corev1.ContainerState
}

func (p *pod) newContainer(spec *corev1.Container) *container {
	c := &container{pod: p, spec: *spec}
	c.image, c.real = p.k.Image(spec.Image)
	c.sidecar = spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
	c.state.Waiting = &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	return c
}

// set changes what the status tells.
func (c *container) set(f func()) {
	c.mu.Lock()
	f()
	c.mu.Unlock()
	c.pod.change()
}

// once runs an init container until it succeeds, and says whether it did.
func (c *container) once(ctx context.Context) bool {
	if !c.real {
		c.set(func() {
			c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: metav1.Now()}}
		})
		return true
	}
	for c.pod.going(ctx) {
		if code, err := c.process(ctx); err == nil && code == 0 {
			return true
		}
		if c.pod.seen().Spec.RestartPolicy == corev1.RestartPolicyNever || !c.again(ctx) {
			return false
		}
	}
	return false
}

// keep runs a container as long as its pod's policy wants it.
func (c *container) keep(ctx context.Context) {
	if !c.real {
		c.set(func() {
			c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
			c.started, c.ready = true, true
		})
		return
	}
	for c.pod.going(ctx) {
		code, err := c.process(ctx)
		policy := c.pod.seen().Spec.RestartPolicy
		if err == nil && !c.sidecar && (policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && code == 0) {
			return
		}
		if !c.again(ctx) {
			return
		}
	}
}

// again waits before the next try, longer each time, and says whether there is one.
func (c *container) again(ctx context.Context) bool {
	c.mu.Lock()
	stopping, delay := c.stopping, min(time.Second<<min(c.restarts, 4), 10*time.Second)
	c.mu.Unlock()
	if stopping {
		return false
	}
	c.set(func() {
		c.restarts++
		if c.state.Terminated != nil {
			c.last = c.state
			c.state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off %s", delay)}}
		}
	})
	return pause(ctx, delay) && c.pod.going(ctx)
}

// process runs the container's program to its end and returns its exit code.
func (c *container) process(ctx context.Context) (int, error) {
	cmd, err := c.begin()
	if err != nil {
		c.set(func() {
			c.state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerError", Message: err.Error()}}
		})
		return -1, err
	}
	probing, cancel := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { c.probe(probing) })
	exited := make(chan struct{})
	began := metav1.Now()
	c.set(func() {
		c.cmd, c.exited = cmd, exited
		c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}
		if c.stopping {
			_ = cmd.Process.Kill() // it began just when its pod ended
		}
	})
	done := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	done()
	cancel()
	probes.Wait()
	code := cmd.ProcessState.ExitCode()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		code = 128 + int(s.Signal())
	}
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	c.set(func() {
		c.cmd, c.started, c.ready = nil, false, false
		c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: int32(code), Reason: reason, StartedAt: began, FinishedAt: metav1.Now(),
			Message: c.tail(),
		}}
		close(exited)
	})
	return code, box.Remove(c.boxName())
}

func (c *container) boxName() string {
	return fmt.Sprintf("%s-%s-%d", c.pod.uid, c.spec.Name, c.restarts)
}

// begin starts the process.
func (c *container) begin() (*exec.Cmd, error) {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	// The container's user may open /dev/stdout, as Envoy does for its access log.
	if err := log.Chmod(0o666); err != nil {
		return nil, err
	}
	spec, err := c.box(c.boxName(), nil)
	if err != nil {
		return nil, err
	}
	spec.Stdout, spec.Stderr = log, log
	return box.Start(spec)
}

// box says how a program runs in this container: its own, or another that joins it.
func (c *container) box(name string, args []string) (box.Spec, error) {
	e, err := c.pod.env(c)
	if err != nil {
		return box.Spec{}, err
	}
	mounts, err := c.pod.mounts(c, e)
	if err != nil {
		return box.Spec{}, err
	}
	if args == nil {
		words := c.spec.Command
		if len(words) == 0 {
			words = c.image.Entrypoint
		}
		for _, word := range append(words[:len(words):len(words)], c.spec.Args...) {
			args = append(args, e.expand(word))
		}
	}
	if len(args) == 0 {
		return box.Spec{}, errors.New("neither the container nor its image says what to run")
	}
	s := box.Spec{
		Name: name, Network: c.pod.network(), Hostname: c.pod.name, Mounts: mounts,
		Args: args, Env: e.pairs(), Dir: c.spec.WorkingDir, User: c.image.User,
	}
	c.identify(&s)
	return s, nil
}

// identify takes the user from the pod, then from the container.
func (c *container) identify(s *box.Spec) {
	user, group := new(int64(s.User)), (*int64)(nil)
	if sc := c.pod.seen().Spec.SecurityContext; sc != nil {
		user, group = either(sc.RunAsUser, user), either(sc.RunAsGroup, group)
	}
	if sc := c.spec.SecurityContext; sc != nil {
		user, group = either(sc.RunAsUser, user), either(sc.RunAsGroup, group)
		s.ReadOnly = sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
	}
	s.User, s.Group = int(*user), int(*either(group, user))
}

func either(first, second *int64) *int64 {
	if first != nil {
		return first
	}
	return second
}

// streams are a command's own, nil where it has none.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run runs a command in the container's place and waits for it.
func (c *container) run(ctx context.Context, args []string, s streams) error {
	name := fmt.Sprintf("%s-exec-%d", c.pod.uid, time.Now().UnixNano())
	spec, err := c.box(name, args)
	if err != nil {
		return err
	}
	spec.Stdin, spec.Stdout, spec.Stderr = s.in, s.out, s.err
	cmd, err := box.Start(spec)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	return errors.Join(cmd.Wait(), box.Remove(name))
}

// stop ends the process: preStop, SIGTERM, and SIGKILL when the context ends.
func (c *container) stop(ctx context.Context) {
	c.mu.Lock()
	c.stopping = true
	cmd, exited := c.cmd, c.exited
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	if l := c.spec.Lifecycle; l != nil && l.PreStop != nil {
		switch {
		case l.PreStop.Sleep != nil:
			pause(ctx, time.Duration(l.PreStop.Sleep.Seconds)*time.Second)
		case l.PreStop.Exec != nil:
			if err := c.run(ctx, l.PreStop.Exec.Command, streams{}); err != nil {
				c.pod.k.Logf("pod %s/%s: preStop of %s: %v", c.pod.namespace, c.pod.name, c.spec.Name, err)
			}
		case l.PreStop.HTTPGet != nil:
			_ = c.get(ctx, l.PreStop.HTTPGet, 10*time.Second)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-exited
	}
}

// waitStarted waits for the startup probe, and says whether it passed.
func (c *container) waitStarted(ctx context.Context) bool {
	for c.pod.going(ctx) {
		c.mu.Lock()
		started := c.started
		c.mu.Unlock()
		if started {
			return true
		}
		if !pause(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return false
}

func (c *container) logFile() string { return c.pod.home("logs", c.spec.Name) }

// tail is the end of the log.
func (c *container) tail() string {
	data, err := os.ReadFile(c.logFile())
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-3):], "\n")
}
