package lint_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/lint"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// everyDoor uses all of them, with excluded paths.
var everyDoor = []string{
	"sluice.doors.extAuthz.enabled=true", "sluice.doors.extAuthz.inner=true", "sluice.doors.accessLog=true", "sluice.doors.extProc.enabled=true",
	"sluice.doors.rateLimit.enabled=true", "sluice.excludedPaths={/healthz,/static/*}",
}

func TestOurOwnMeshHasNoProblem(t *testing.T) {
	for _, c := range []struct {
		profile, name string
		set           []string
		warns         int
	}{
		{"voicecore", "as it is", nil, 0},
		{"voicecore", "with every door", everyDoor, 0},
		{"voicecore", "in the soft stage, which warns of itself", append([]string{"mesh.stage=soft"}, everyDoor...), 1},
		{"default", "as it is, soft", nil, 1},
		{"minimal", "as it is, soft", nil, 1},
	} {
		t.Run(c.profile+" "+c.name, func(t *testing.T) {
			v, err := profile.Load(profile.Options{Profile: c.profile, Sets: c.set})
			if err != nil {
				t.Fatal(err)
			}
			rendered, err := render.All(v)
			if err != nil {
				t.Fatal(err)
			}
			var objects []*unstructured.Unstructured
			for _, r := range rendered {
				objects = append(objects, r.Objects...)
			}
			warns := 0
			for _, p := range lint.Objects(objects, lint.Options{}) {
				if p.Severity == lint.Warning && p.Code == "SL162" {
					warns++
					continue
				}
				// The doors are not the sidecar's: sluiced itself speaks mutual TLS there.
				if p.Severity == lint.Waived && p.Code == "SL163" && p.Object == "StatefulSet sluice-system/sluice" {
					continue
				}
				t.Errorf("%+v", p)
			}
			if warns != c.warns {
				t.Errorf("%d warnings, want %d", warns, c.warns)
			}
			if len(objects) < 20 {
				t.Errorf("only %d objects", len(objects))
			}
		})
	}
}
