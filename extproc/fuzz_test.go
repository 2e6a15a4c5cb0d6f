package extproc

import (
	"runtime"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
)

// F-05, B-21: whatever a message says, it gets one answer or ends the stream with an error.
func FuzzMessage(f *testing.F) {
	for _, m := range []*extprocv3.ProcessingRequest{
		asks(":path", "/", "x-api-key", "k1"), asks(":authority", "a,b", "x_tenant_id", "evil", "authorization", "Bearer x,y"), answers(), {},
		{ObservabilityMode: true, Request: &extprocv3.ProcessingRequest_RequestTrailers{}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	w := newWorld()
	f.Fuzz(func(t *testing.T, b []byte) {
		in := new(extprocv3.ProcessingRequest)
		if proto.Unmarshal(b, in) != nil {
			return // gRPC ends the stream
		}
		for _, phase := range []phase{phaseStart, phaseRequest, phaseResponse, phaseLocal} {
			x := &exchange{server: w.Server, phase: phase}
			if out, err := x.step(t.Context(), in); out == nil && err == nil {
				t.Fatalf("no answer and no error in phase %d", phase)
			}
			x.finish()
		}
		if w.Live() != 0 {
			t.Fatalf("%d live", w.Live())
		}
	})
}

func TestAMessageOfTenKilobytesNeedsLittleMemory(t *testing.T) {
	var pairs []string
	for range 1000 {
		pairs = append(pairs, "x-tenant-id", "aaa")
	}
	w := newWorld()
	for _, in := range []*extprocv3.ProcessingRequest{
		asks(append([]string{":path", "/", "x-api-key", "k1"}, pairs[:1200]...)...), asks(":path", "/", "x-api-key", "k1", "x-big", strings.Repeat("a", 10<<10)),
	} {
		x := &exchange{server: w.Server}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if out, err := x.step(t.Context(), in); out == nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%d bytes", grown)
		}
		x.finish()
	}
}
