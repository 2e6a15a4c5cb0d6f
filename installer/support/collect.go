package support

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	logBytes     = 1_000_000 // of each container, from the end
	logLines     = 5000
	adminPort    = 15000
	answerBytes  = 30_000_000 // of Envoy's configuration
	adminPatient = 30 * time.Second
)

// state is what the inventory says.
func (c *collector) state(ctx context.Context) error {
	c.Progress("the inventory")
	namespace := c.Mesh.Values.Istio.Namespace
	s, err := c.Cluster.Status(ctx, namespace)
	if err != nil {
		return err
	}
	if err := c.addJSON("status.json", s); err != nil {
		return err
	}
	u, err := c.Cluster.UpgradeStatus(ctx, namespace)
	if err != nil {
		c.miss("proxies.json: %v", err)
		return ctx.Err()
	}
	return c.addJSON("proxies.json", u)
}

// objects are those of the inventory as they are now. The Secrets among them
// come first, so that their values are known wherever they turn up.
func (c *collector) objects(ctx context.Context) error {
	c.Progress("objects")
	var all []*unstructured.Unstructured
	for _, r := range c.Mesh.Components {
		for _, u := range r.Objects {
			if u.GetKind() == "CustomResourceDefinition" {
				continue // a megabyte that everybody has
			}
			live := &unstructured.Unstructured{}
			live.SetGroupVersionKind(u.GroupVersionKind())
			err := c.client.Get(ctx, client.ObjectKeyFromObject(u), live)
			switch {
			case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
				c.miss("%s: it is not there", nameOf(u))
				continue
			case err != nil:
				c.miss("%s: %v", nameOf(u), err)
				continue
			}
			if live.GetKind() == "Secret" {
				c.learn(live)
			}
			all = append(all, live)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, u := range all {
		text, err := yaml.Marshal(object(u).Object)
		if err != nil {
			return err
		}
		c.add("objects/"+nameOf(u)+".yaml", text)
	}
	return nil
}

// nameOf is an object as a path.
func nameOf(u *unstructured.Unstructured) string {
	return cmp.Or(u.GetNamespace(), "cluster") + "/" + u.GetKind() + "-" + u.GetName()
}

// namespaces are those of the mesh, each once.
func (c *collector) namespaces() []string {
	v := c.Mesh.Values
	out := []string{v.Istio.Namespace, v.Mesh.Namespace, v.Sluice.Namespace, v.Addons.Namespace}
	slices.Sort(out)
	return slices.Compact(slices.DeleteFunc(out, func(s string) bool { return s == "" }))
}

func (c *collector) events(ctx context.Context) error {
	c.Progress("events")
	for _, ns := range c.namespaces() {
		all := &corev1.EventList{}
		if err := c.client.List(ctx, all, client.InNamespace(ns)); err != nil {
			c.miss("events of %s: %v", ns, err)
			continue
		}
		var lines []string
		for i := range all.Items {
			e := &all.Items[i]
			at := e.LastTimestamp.Time
			if at.IsZero() {
				at = e.EventTime.Time
			}
			if time.Since(at) > c.Since {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %s %dx: %s", at.UTC().Format(time.RFC3339), e.Type, e.Reason, e.InvolvedObject.Kind+"/"+e.InvolvedObject.Name, e.Count, e.Message))
		}
		slices.Sort(lines)
		c.add("events/"+ns+".txt", []byte(strings.Join(lines, "\n")+"\n"))
	}
	return ctx.Err()
}

// pods are what they are made of, without the values of variables, and how they are.
func (c *collector) pods(ctx context.Context) error {
	c.Progress("pods")
	return c.eachPod(ctx, func(p *corev1.Pod) error {
		plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
		if err != nil {
			return err
		}
		u := &unstructured.Unstructured{Object: plain}
		u.SetKind("Pod")
		text, err := yaml.Marshal(object(u).Object)
		if err == nil {
			c.add("pods/"+p.Namespace+"/"+p.Name+".yaml", text)
		}
		return err
	})
}

func (c *collector) eachPod(ctx context.Context, do func(*corev1.Pod) error) error {
	for _, ns := range c.namespaces() {
		all := &corev1.PodList{}
		if err := c.client.List(ctx, all, client.InNamespace(ns)); err != nil {
			c.miss("pods of %s: %v", ns, err)
			continue
		}
		for i := range all.Items {
			if err := do(&all.Items[i]); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return ctx.Err()
}

// logs are the ends of those of the mesh's own: istiod, proxies, Sluice. Those of services are theirs.
func (c *collector) logs(ctx context.Context) error {
	c.Progress("logs")
	return c.eachPod(ctx, func(p *corev1.Pod) error {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if own(p, s.Name) {
				c.log(ctx, p, s.Name, false)
				if s.RestartCount > 0 {
					c.log(ctx, p, s.Name, true)
				}
			}
		}
		return nil
	})
}

func own(p *corev1.Pod, container string) bool {
	return container == "istio-proxy" || container == "istio-init" || p.Labels["app"] == "istiod" || p.Labels["app.kubernetes.io/name"] == "sluice"
}

func (c *collector) log(ctx context.Context, p *corev1.Pod, container string, previous bool) {
	name := "logs/" + p.Namespace + "/" + p.Name + "/" + container
	request := c.api.Get().Namespace(p.Namespace).Resource("pods").Name(p.Name).SubResource("log").
		Param("container", container).Param("tailLines", strconv.Itoa(logLines)).Param("timestamps", "true")
	if previous {
		name += ".previous"
		request = request.Param("previous", "true")
	} else {
		request = request.Param("sinceSeconds", strconv.Itoa(max(1, int(c.Since.Seconds()))))
	}
	stream, err := request.Stream(ctx)
	if err != nil {
		c.miss("%s: %v", name, err)
		return
	}
	defer func() { _ = stream.Close() }()
	text, err := tail(stream, logBytes)
	if err != nil {
		c.miss("%s: %v", name, err)
	}
	c.add(name+".log", text)
}

// tail is the end of a stream, from the beginning of a line.
func tail(r io.Reader, n int) ([]byte, error) {
	var kept []byte
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		kept = append(kept, line...)
		if over := len(kept) - n; over > n {
			kept = slices.Clone(kept[over:])
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if over := len(kept) - n; over > 0 {
				kept = kept[over:]
				_, rest, _ := strings.Cut(string(kept), "\n")
				kept = []byte(rest)
			}
			return kept, err
		}
	}
}

// proxies are what Envoys run and count.
func (c *collector) proxies(ctx context.Context) error {
	return c.eachPod(ctx, func(p *corev1.Pod) error {
		if p.Annotations["sidecar.istio.io/status"] == "" || p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			return nil
		}
		at := "proxies/" + p.Namespace + "/" + p.Name + "/"
		c.Progress("proxy " + p.Namespace + "/" + p.Name)
		text, err := c.admin(ctx, p, "/config_dump")
		if err == nil {
			text, err = configDump(text)
		}
		if err != nil {
			c.miss("%sconfig_dump.json: %v", at, err)
			return ctx.Err()
		}
		c.add(at+"config_dump.json", text)
		for file, path := range map[string]string{"certs.json": "/certs", "clusters.txt": "/clusters", "stats.txt": "/stats?usedonly", "server_info.json": "/server_info"} {
			text, err := c.admin(ctx, p, path)
			if err != nil {
				c.miss("%s%s: %v", at, file, err)
				continue
			}
			c.add(at+file, text)
		}
		return ctx.Err()
	})
}

// admin asks the administration of a pod's Envoy, which listens on the pod's loopback address only.
func (c *collector) admin(ctx context.Context, p *corev1.Pod, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminPatient)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return c.dial(ctx, types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, adminPort)
		},
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerBytes+1))
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %s", response.Status)
	case len(text) > answerBytes:
		return nil, fmt.Errorf("it is more than %d bytes", answerBytes)
	}
	return text, nil
}
