package lab

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// shell stands for an image whose program runs a script.
var shell = Options{Images: map[string]Image{"shell": {Entrypoint: []string{"sh", "-c"}, User: 65532}}}

const scripts = `
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: default}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: scripts, namespace: default, labels: {app: scripts}, annotations: {mood: good}}
spec:
  terminationGracePeriodSeconds: 20
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: words, configMap: {name: words}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  initContainers:
  - {name: first, image: shell, args: ["umask 0; echo first >/shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
  - name: sidecar
    image: shell
    restartPolicy: Always
    args: ["trap 'echo sidecar ends >>/shared/order; cat /shared/order; exit 0' TERM; echo sidecar >>/shared/order; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [grep, sidecar, /shared/order]}, periodSeconds: 1, failureThreshold: 30}
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: registry.example/shell:1@sha256:00
    args:
    - |
      trap 'echo main ends >>/shared/order; exit 0' TERM
      echo main >>/shared/order
      echo '$(NAME) $(MOOD) $(CPUS) $$(id -u) $(UNKNOWN)' "$(cat /about/labels)" "$(cat /proc/1/comm)"
      touch /etc/x 2>/dev/null || echo read-only
      touch /shared/ready
      while :; do sleep 0.1; done
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MOOD, value: "$(NAME)/good"}
    - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    resources: {limits: {cpu: 1500m}}
    securityContext: {readOnlyRootFilesystem: true, runAsUser: 1000}
    readinessProbe: {exec: {command: [test, -e, /shared/ready]}, periodSeconds: 1}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: words, mountPath: /words}
    - {name: about, mountPath: /about}
  - {name: nothing, image: "registry.example/grafana:12"}
`

func TestPodsRunAsAKubeletRunsThem(t *testing.T) {
	c := Start(t, shell)
	c.Apply(t, scripts)
	p := c.Pod(t, "default", "app=scripts")

	t.Run("environment, user, volumes and a read-only file system are as the pod says", func(t *testing.T) {
		want := "scripts scripts/good 2 $(id -u) $(UNKNOWN) app=\"scripts\" sh\nread-only\n"
		if got := c.Kubectl(t, "", "logs", "scripts", "-c", "main"); got != want {
			t.Errorf("the log is %q, want %q", got, want)
		}
		if got := c.Kubectl(t, "", "exec", "scripts", "-c", "main", "--", "sh", "-c", "id -u; cat /words/greeting"); got != "1000\nhello" {
			t.Errorf("exec printed %q", got)
		}
	})
	t.Run("a command's exit code comes back", func(t *testing.T) {
		err := exec.Command(c.Tool("kubectl"), "--kubeconfig", c.Kubeconfig(), "exec", "scripts", "-c", "main", "--", "sh", "-c", "exit 7").Run()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("exec ended with %v, want exit status 7", err)
		}
	})
	t.Run("a changed config map reaches the file", func(t *testing.T) {
		c.Kubectl(t, "", "patch", "configmap", "words", "-p", `{"data":{"greeting":"good day"}}`)
		Until(t, patience, func() error {
			if got := c.Kubectl(t, "", "exec", "scripts", "-c", "main", "--", "cat", "/words/greeting"); got != "good day" {
				return fmt.Errorf("the file says %q", got)
			}
			return nil
		})
	})
	t.Run("a port is forwarded", func(t *testing.T) {
		p.Serve(t, 8080, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.Host) }))
		forward := exec.Command(c.Tool("kubectl"), "--kubeconfig", c.Kubeconfig(), "port-forward", "scripts", "18080:8080")
		if err := forward.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = forward.Process.Kill(), forward.Wait() }()
		Until(t, patience, func() error {
			response, err := http.Get("http://127.0.0.1:18080/")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != "127.0.0.1:18080" {
				t.Errorf("the pod answers %q, %v", body, err)
			}
			return nil
		})
	})
	t.Run("containers begin and end in order", func(t *testing.T) {
		c.Kubectl(t, "", "delete", "pod", "scripts", "--timeout=5m")
		if got, want := strings.Fields(p.Logs(t, "sidecar")), "first sidecar main main ends sidecar ends"; strings.Join(got, " ") != want {
			t.Errorf("the order was %q, want %q", got, want)
		}
	})
	t.Run("the pods of a job run to their end", func(t *testing.T) {
		c.Apply(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: default}
spec: {backoffLimit: 1, template: {spec: {restartPolicy: Never, containers: [{name: main, image: "registry.example/sluice:1", args: [version]}]}}}
`)
		c.Kubectl(t, "", "wait", "--for=condition=complete", "job/once", "--timeout=5m")
		if got := c.Kubectl(t, "", "logs", "job/once"); !strings.HasPrefix(got, "sluice ") {
			t.Errorf("our own program printed %q", got)
		}
	})
	t.Run("a service spreads calls over its pods, by name and by the load balancer's address", func(t *testing.T) {
		c.Apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: two, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: two}}
  template: {metadata: {labels: {app: two}}, spec: {containers: [{name: app, image: lab/app}]}}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: default}
spec: {type: LoadBalancer, selector: {app: two}, ports: [{port: 80, targetPort: 8080}]}
`)
		c.Pods(t, "default", "app=two", 2)
		balancer := c.Kubectl(t, "", "wait", "service/two", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=5m", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
		for _, url := range []string{"http://two.default/", "http://" + balancer + "/"} {
			seen := map[string]bool{}
			Until(t, patience, func() error {
				_, a, err := Ask(c.Client(), url, nil)
				if a != nil {
					seen[a.Pod] = true
				}
				if len(seen) < 2 {
					return fmt.Errorf("%s reached %v only, then %w", url, seen, err)
				}
				return nil
			})
		}
	})
}
