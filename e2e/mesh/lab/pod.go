package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// patience is how long pods may take on a busy machine.
const patience = 5 * time.Minute

// Pod is a pod that was ready when it was found.
type Pod struct {
	Namespace, Name, IP string

	cluster *Cluster
	api     *corev1.Pod
}

// Pods waits until there are n pods with these labels ("app=a"), and no others, all ready.
func (c *Cluster) Pods(t testing.TB, namespace, selector string, n int) (pods []*Pod) {
	t.Helper()
	Until(t, patience, func() error {
		list, err := c.client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		pods = nil
		for i := range list.Items {
			p := &list.Items[i]
			if !ready(p) || p.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s/%s is not ready, or about to go", p.Namespace, p.Name)
			}
			pods = append(pods, &Pod{Namespace: p.Namespace, Name: p.Name, IP: p.Status.PodIP, cluster: c, api: p})
		}
		if len(pods) != n {
			return fmt.Errorf("%d pods of %s have the labels %s, want %d", len(pods), namespace, selector, n)
		}
		return nil
	})
	return pods
}

// Pod is Pods of one.
func (c *Cluster) Pod(t testing.TB, namespace, selector string) *Pod {
	t.Helper()
	return c.Pods(t, namespace, selector, 1)[0]
}

// Object is the pod as the API server had it.
func (p *Pod) Object() *corev1.Pod { return p.api }

// Serve makes the test itself the pod's program on a port: of a container without a process. HTTP/1 and cleartext HTTP/2.
func (p *Pod) Serve(t testing.TB, port int, h http.Handler) {
	t.Helper()
	t.Cleanup(serve(t, string(p.api.UID), port, h))
}

// Client makes requests as the pod's program would: its sidecar catches them. Connections are not kept.
func (p *Pod) Client() *http.Client { return p.cluster.clientFrom(string(p.api.UID), p.Namespace) }

// Admin asks the admin interface of the pod's Envoy: "/config_dump", "/stats?filter=rejected".
func (p *Pod) Admin(t testing.TB, path string) string {
	t.Helper()
	response, err := p.Client().Get("http://127.0.0.1:15000" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("Envoy's %s: %s, %v: %s", path, response.Status, err, body)
	}
	return string(body)
}

// Logs is what a container has printed.
func (p *Pod) Logs(t testing.TB, container string) string {
	t.Helper()
	data, err := os.ReadFile(logFile(p.api, container))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
