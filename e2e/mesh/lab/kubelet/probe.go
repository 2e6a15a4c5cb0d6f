package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// leniency is how many times its time a probe may take. On a machine that has a whole cluster on a few cores
// what is late is not ill; what refuses, or says that it is not ready, still fails at once.
const leniency = 10

// probe watches a process: until it has started, then whether it is ready and alive.
func (c *container) probe(ctx context.Context) {
	if probe := c.spec.StartupProbe; probe != nil && !c.settle(ctx, probe) {
		if ctx.Err() == nil {
			c.fail("startup")
		}
		return
	}
	c.set(func() { c.started = true })
	if probe := c.spec.LivenessProbe; probe != nil {
		go c.watch(ctx, probe, func(ok bool) {
			if !ok {
				c.fail("liveness")
			}
		})
	}
	if probe := c.spec.ReadinessProbe; probe != nil {
		c.watch(ctx, probe, func(ok bool) { c.set(func() { c.ready = ok }) })
		return
	}
	c.set(func() { c.ready = true })
}

// fail ends a process that a probe has given up.
func (c *container) fail(kind string) {
	c.pod.k.Logf("pod %s/%s: the %s probe of %s fails; it is restarted", c.pod.namespace, c.pod.name, kind, c.spec.Name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
	}
}

// settle probes until the first verdict.
func (c *container) settle(ctx context.Context, probe *corev1.Probe) (passed bool) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	c.watch(inner, probe, func(ok bool) { passed = ok; cancel() })
	return passed
}

// watch probes and tells each change of verdict, the first one too, until the context ends.
func (c *container) watch(ctx context.Context, probe *corev1.Probe, tell func(bool)) {
	pause(ctx, time.Duration(probe.InitialDelaySeconds)*time.Second)
	var verdict *bool
	good, bad := int32(0), int32(0)
	for ctx.Err() == nil {
		if c.try(ctx, probe) == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
		}
		if ctx.Err() != nil {
			return
		}
		ok := good >= max(probe.SuccessThreshold, 1)
		if (ok || bad >= max(probe.FailureThreshold, 1)) && (verdict == nil || *verdict != ok) {
			verdict = &ok
			tell(ok)
		}
		pause(ctx, time.Duration(max(probe.PeriodSeconds, 1))*time.Second)
	}
}

func (c *container) try(ctx context.Context, probe *corev1.Probe) error {
	limit := leniency * time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return c.get(ctx, probe.HTTPGet, limit)
	case probe.TCPSocket != nil:
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.address(probe.TCPSocket.Host, probe.TCPSocket.Port))
		if err != nil {
			return err
		}
		return conn.Close()
	case probe.GRPC != nil:
		return c.checkHealth(ctx, probe.GRPC)
	case probe.Exec != nil:
		return c.run(ctx, probe.Exec.Command, streams{})
	}
	return errors.New("this kubelet knows no probe of that kind")
}

func (c *container) get(ctx context.Context, g *corev1.HTTPGetAction, limit time.Duration) error {
	scheme := strings.ToLower(string(g.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/%s", scheme, c.address(g.Host, g.Port), strings.TrimPrefix(g.Path, "/")), nil)
	if err != nil {
		return err
	}
	for _, h := range g.HTTPHeaders {
		if strings.EqualFold(h.Name, "host") {
			request.Host = h.Value
		}
		request.Header.Set(h.Name, h.Value)
	}
	response, err := prober(limit).Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s: %s", request.URL, response.Status)
	}
	return nil
}

// prober makes a client that asks once, follows nowhere and, as a kubelet's, trusts any certificate.
func prober(limit time.Duration) *http.Client {
	return &http.Client{
		Timeout:       limit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		},
	}
}

func (c *container) checkHealth(ctx context.Context, g *corev1.GRPCAction) error {
	conn, err := grpc.NewClient(c.address("", intstr.FromInt32(g.Port)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	request := &health.HealthCheckRequest{}
	if g.Service != nil {
		request.Service = *g.Service
	}
	answer, err := health.NewHealthClient(conn).Check(ctx, request)
	if err == nil && answer.GetStatus() != health.HealthCheckResponse_SERVING {
		err = fmt.Errorf("health: %s", answer.GetStatus())
	}
	return err
}

// address is where a probe goes: the pod, unless it names a host.
func (c *container) address(host string, port intstr.IntOrString) string {
	if host == "" {
		host = c.pod.addr.String()
	}
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, named := range c.spec.Ports {
			if named.Name == port.StrVal {
				number = int(named.ContainerPort)
			}
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(number))
}
