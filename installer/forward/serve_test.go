package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// through serves a target on this machine through Serve. Dialling is plain TCP, as a
// kubelet's end of a forwarding is.
func through(t *testing.T, dial Dial, to Target) (url string, failed chan error, stop func() error) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed = make(chan error, 10)
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, dial, to, func(err error) { failed <- err }) }()
	stop = func() error { cancel(); return <-done }
	t.Cleanup(cancel)
	return "http://" + l.Addr().String(), failed, stop
}

func get(t *testing.T, url string) string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestServe(t *testing.T) {
	var servers []*httptest.Server
	for i := range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, "pod %d", i) }))
		t.Cleanup(s.Close)
		servers = append(servers, s)
	}
	var current atomic.Int64
	to := func(context.Context) (types.NamespacedName, int, error) {
		return types.NamespacedName{Name: fmt.Sprint(current.Load())}, 80, nil
	}
	dial := func(ctx context.Context, pod types.NamespacedName, _ int) (net.Conn, error) {
		address := strings.TrimPrefix(servers[pod.Name[0]-'0'].URL, "http://")
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	url, failed, stop := through(t, dial, to)
	t.Run("a connection is carried to the pod of the time", func(t *testing.T) {
		for pod := range int64(2) {
			current.Store(pod)
			if got, want := get(t, url), fmt.Sprintf("pod %d", pod); got != want {
				t.Errorf("answered by %q, want %q", got, want)
			}
		}
	})
	t.Run("it ends with the context, open connections too", func(t *testing.T) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(io.Discard, conn); errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes and %v", n, err)
		}
		if _, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://")); err == nil {
			t.Error("the port is still open")
		}
	})
	if len(failed) != 0 {
		t.Errorf("it failed: %v", <-failed)
	}
}

func TestServeSaysWhyNothingComes(t *testing.T) {
	no := errors.New("none of the 0 Pods is ready")
	url, failed, _ := through(t, nil, func(context.Context) (types.NamespacedName, int, error) { return types.NamespacedName{}, 0, no })
	if _, err := http.Get(url); err == nil {
		t.Error("somebody answered")
	}
	if err := <-failed; !errors.Is(err, no) {
		t.Errorf("it says %v, want %v", err, no)
	}
}

func TestPortOfAPod(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "grpc", ContainerPort: 4317}}}, {Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 3000}}}}}}
	for target, want := range map[intstr.IntOrString]int{intstr.FromString("http"): 3000, intstr.FromInt32(8080): 8080, intstr.FromString("other"): 0} {
		if got := portOf(p, target); got != want {
			t.Errorf("target port %v is %d, want %d", target, got, want)
		}
	}
}
