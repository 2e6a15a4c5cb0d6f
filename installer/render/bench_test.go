package render

import "testing"

// BenchmarkRender is everything of the largest profile, with Istio's charts and
// definitions: what 'sluice mesh render' takes beside the process's start. It is to stay under 2 s.
func BenchmarkRender(b *testing.B) {
	v := values(b, "voicecore")
	objects := 0
	for b.Loop() {
		objects = 0
		for _, c := range all(b, v) {
			objects += len(c.Objects)
		}
	}
	b.ReportMetric(float64(objects), "objects")
}

// TestRenderingIsBounded is the benchmark's sum without a clock: what is allocated
// says how often the megabyte of definitions and the large chart are gone through.
func TestRenderingIsBounded(t *testing.T) {
	v := values(t, "voicecore")
	if got := testing.AllocsPerRun(1, func() { all(t, v) }); got > 1e6 {
		t.Errorf("%.0f allocations to render everything; it was 0.6 million", got)
	}
}
