package istiodtest_test

import (
	"os"
	"path/filepath"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/installer/lint"
	"github.com/voicecore-ai/sluice/installer/wiring/istiodtest"
)

// TestIstiodDoesTheSame: the files are the listeners of a gateway and of a service, before and after
// istiod itself (istio.io/istio v0.0.0-20260827124520, a snapshot before 1.31; its pilot/test/xds) applied filters.yaml.
func TestIstiodDoesTheSame(t *testing.T) {
	file, err := os.Open(filepath.Join("testdata", "filters.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	objects, err := lint.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, proxy := range map[string]istiodtest.Proxy{
		"gateway": {Gateway: true, Labels: map[string]string{"istio": "ingressgateway", "app": "istio-ingressgateway"}},
		"service": {Labels: map[string]string{"app": "call-service"}},
	} {
		t.Run("to the listener of a "+name, func(t *testing.T) {
			before, after := &listenerv3.Listener{}, &listenerv3.Listener{}
			raw := map[string][]byte{}
			for _, which := range []string{"before", "after"} {
				if raw[which], err = os.ReadFile(filepath.Join("testdata", name+"-"+which+".json")); err != nil {
					t.Fatal(err)
				}
			}
			got, err := istiodtest.Apply(raw["before"], objects, proxy)
			if err != nil {
				t.Fatal(err)
			}
			applied := &listenerv3.Listener{}
			for text, m := range map[*[]byte]*listenerv3.Listener{&got: applied} {
				if err := protojson.Unmarshal(*text, m); err != nil {
					t.Fatal(err)
				}
			}
			for which, m := range map[string]*listenerv3.Listener{"before": before, "after": after} {
				if err := protojson.Unmarshal(raw[which], m); err != nil {
					t.Fatal(err)
				}
			}
			if proto.Equal(before, after) {
				t.Fatal("istiod changed nothing, so the files show nothing")
			}
			if !proto.Equal(applied, after) {
				t.Errorf("this package made\n%s\nand istiod\n%s", protojson.Format(applied), protojson.Format(after))
			}
		})
	}
}
