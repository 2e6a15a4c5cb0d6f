package check

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/voicecore-ai/sluice/installer/wiring"
)

// TestARealProxyIsRead reads what an Envoy 1.40 behind istiod (a snapshot before 1.31) answered, in
// voicecore's mesh as laid down: of the listeners the inbound one, of the clusters two, without where secrets and spans come from and go.
func TestARealProxyIsRead(t *testing.T) {
	read := func(file string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("testdata", "recorded", file))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	m := healthy(t).open(t)
	p := &proxy{pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "voicecore-ai", Name: "tenant-service-1", Labels: map[string]string{"app": "tenant-service"}}}}
	for file, part := range map[string]func([]byte) error{"listeners.json": p.readListeners, "clusters.json": p.readClusters, "certs.json": p.readCerts, "server_info.json": p.readInfo} {
		if err := part(read(file)); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	w := m.wants(p)
	t.Run("its filters are where they are wanted", func(t *testing.T) {
		managers := p.managers()
		if len(managers) != 2 || !w.authz || !w.strips || !w.logs || !w.asks {
			t.Fatalf("%d managers; wanted %+v", len(managers), w)
		}
		for _, at := range managers {
			if says := misplaced(at.manager, &w); says != "" || len(at.Early) == 0 || !logs(at.manager) {
				t.Errorf("%s: %q, %v", at.where, says, at.names())
			}
		}
	})
	t.Run("it takes no plain text", func(t *testing.T) {
		plain := 0
		for _, c := range p.listeners[0].chains() {
			if !c.Socket.tls() {
				plain++
				if !c.blackhole() {
					t.Errorf("%s", c.Name)
				}
			}
		}
		if plain != 1 {
			t.Errorf("%d chains without TLS, of which one only drops", plain)
		}
	})
	t.Run("it calls Sluice in mutual TLS", func(t *testing.T) {
		if c := p.clusters[wiring.Cluster(m.values)]; c == nil || !c.mutual() {
			t.Errorf("%+v", c)
		}
		if c := p.clusters["inbound|8080||"]; c == nil || c.mutual() {
			t.Errorf("the cluster of the application itself: %+v", c)
		}
	})
	t.Run("its certificate and its root are told apart", func(t *testing.T) {
		i := slices.IndexFunc(p.certs, func(c certificate) bool {
			return c.id == "spiffe://cluster.local/ns/voicecore-ai/sa/tenant-service" && !c.root
		})
		if len(p.certs) != 2 || i < 0 || p.certs[i].to.Sub(p.certs[i].from).Hours() < 2159 || !p.certs[1-i].root {
			t.Errorf("%+v", p.certs)
		}
	})
	t.Run("its versions are known", func(t *testing.T) {
		if p.envoy != "1.40.0" || !strings.HasPrefix(p.istio, "1.31.0-") {
			t.Errorf("%q, %q", p.envoy, p.istio)
		}
	})
	t.Run("a listener that it refuses is told once, in Envoy's words", func(t *testing.T) {
		bad := &proxy{}
		if err := bad.readListeners(read("refused.json")); err != nil {
			t.Fatal(err)
		}
		if len(bad.listeners) != 1 || bad.listeners[0].rejected != "Proto constraint validation failed (BufferValidationError.MaxRequestBytes: value is required and must not be nil.)" {
			t.Errorf("%+v", bad.listeners)
		}
	})
}
