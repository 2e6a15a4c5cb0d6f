package voicecore

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

// scaled: what the schema refuses in a file, nobody refuses to 'kubectl scale' but sluiced itself.
func (m *mesh) scaled(t *testing.T) {
	m.Kubectl(t, "", "-n", "sluice-system", "scale", "statefulset", "sluice", "--replicas=2")
	lab.Until(t, patience, func() error {
		said := m.Kubectl(t, "", "-n", "sluice-system", "get", "pod", "sluice-1", "--ignore-not-found", "-o",
			`jsonpath={.status.containerStatuses[?(@.name=="sluiced")].lastState.terminated.message}`)
		if !strings.Contains(said, "this is sluice-1, and only sluice-0 may serve") {
			return fmt.Errorf("sluice-1 said %q", said)
		}
		return nil
	})
	if ready := m.Kubectl(t, "", "-n", "sluice-system", "get", "endpointslices", "-l", "kubernetes.io/service-name=sluice", "-o",
		`jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}`); ready != "sluice-0" {
		t.Errorf("%q answer, want sluice-0 alone", ready)
	}
	m.Kubectl(t, "", "-n", "sluice-system", "scale", "statefulset", "sluice", "--replicas=1")
	m.Kubectl(t, "", "-n", "sluice-system", "wait", "pod", "sluice-1", "--for=delete", "--timeout=5m")
}

const redisValues = `
sluice:
  values:
    replicas: 2
    settings: {redis-timeout: 4s}
    store:
      type: redis
      redis: {url: "rediss://redis.example.net:6379", existingSecret: sluice-redis, tlsExistingSecret: sluice-redis-tls}
    networkPolicy: {redisTo: [{ipBlock: {cidr: 0.0.0.0/0}}]}
`

// shared moves Sluice to a Redis outside the mesh, as docs/guide/mesh-install.md says, and has both replicas asked.
func (m *mesh) shared(t *testing.T) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	redis, password := m.Machine(t, "redis.example.net"), filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	redis.Start(t, server, "--port", "0", "--tls-port", "6379", "--tls-cert-file", redis.Cert, "--tls-key-file", redis.Key, "--tls-ca-cert-file", redis.CA,
		"--tls-auth-clients", "no", "--bind", "0.0.0.0", "--requirepass", "hunter2", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	lab.Until(t, patience, func() error {
		_, err := redis.Run(filepath.Join(os.Getenv("SLUICE_BIN"), "sluiced"), "migrate", "--redis-url", "rediss://127.0.0.1:6379", "--redis-ca", redis.CA, "--redis-password-file", password)
		return err
	})
	m.overlay(t, redisValues)
	m.Kubectl(t, "", "-n", "sluice-system", "create", "secret", "generic", "sluice-redis", "--from-file="+password)
	m.Kubectl(t, "", "-n", "sluice-system", "create", "secret", "generic", "sluice-redis-tls", "--from-file=ca.crt="+redis.CA)
	m.command(t, "install", "--yes", "--take-ownership", "kubectl") // which has scaled it
	m.sluices = 2
	both := m.replicas(t)

	const limit, each = 40, 10
	key := m.tenant(t, "shared", limit)
	later, asked := m.tenant(t, "later", 100_000), map[string]float64{}
	count := func() (least float64) {
		least = math.Inf(1)
		for _, p := range both {
			now := m.metricOf(t, p, "sluice_decisions_total")
			least = min(least, now-asked[p.Name])
			asked[p.Name] = now
		}
		return least
	}
	count()
	lab.Until(t, patience, func() error { // both replicas learn of the tenants, of which this one is the later, and the gateway of both
		for range 4 * each {
			if status, _ := m.enter(t, "/", later); status != http.StatusOK {
				return fmt.Errorf("status %d", status)
			}
		}
		if n := count(); n < each {
			return fmt.Errorf("a replica was asked %v times of %d", n, 4*each)
		}
		return nil
	})
	used, seen := m.used(t, "shared"), map[int]int{}
	for range limit + each {
		status, _ := m.enter(t, "/", key)
		seen[status]++
	}
	if want := map[int]int{http.StatusOK: limit - used, http.StatusTooManyRequests: each + used}; !maps.Equal(seen, want) {
		t.Errorf("answers %v, want %v", seen, want)
	}
	for _, p := range both {
		if n := m.metricOf(t, p, "sluice_decisions_total") - asked[p.Name]; n < each {
			t.Errorf("%s was asked %v times", p.Name, n)
		}
	}
}
