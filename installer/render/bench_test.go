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
