package profile

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the messages in testdata anew")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, o Options) *Values {
	t.Helper()
	v, err := Load(o)
	must(t, err)
	return v
}

// file writes values into a file of their own.
func file(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "values.yaml")
	must(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// One bad file over the profile voicecore for each message; -update writes them.
func TestEachProblemHasItsMessage(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	if len(files) < 50 {
		t.Fatalf("%d files in testdata", len(files))
	}
	for _, name := range files {
		golden := strings.TrimSuffix(name, ".yaml") + ".err"
		t.Run(strings.ReplaceAll(strings.TrimSuffix(filepath.Base(name), ".yaml"), "_", " "), func(t *testing.T) {
			v, err := Load(Options{Profile: "voicecore", Files: []string{name}})
			var problems Problems
			if v != nil || !errors.As(err, &problems) {
				t.Fatalf("loaded: %v", err)
			}
			if *update {
				must(t, os.WriteFile(golden, []byte(err.Error()+"\n"), 0o600))
			}
			want, readErr := os.ReadFile(golden)
			must(t, readErr)
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestEveryMessageIsShown finds the message of each check in testdata, by the
// part of it that is written in the code.
func TestEveryMessageIsShown(t *testing.T) {
	var shown strings.Builder
	files, err := filepath.Glob("testdata/*.err")
	must(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		shown.Write(text)
	}
	messages := 0
	for _, source := range []string{"check.go", "validate.go", "validate_values.go"} {
		for _, what := range literals(t, source) {
			messages++
			if !strings.Contains(shown.String(), what) {
				t.Errorf("%s: no file in testdata shows %q", source, what)
			}
		}
	}
	if messages < 60 {
		t.Errorf("%d messages found in the code: the test looks in the wrong place", messages)
	}
}

func TestTheEmbeddedProfilesAreValid(t *testing.T) {
	if got := Names(); !slices.Equal(got, []string{"default", "minimal", "voicecore"}) {
		t.Errorf("profiles %v", got)
	}
	for _, name := range Names() {
		if v := load(t, Options{Profile: name}); v.Profile != name {
			t.Errorf("profile %s calls itself %s", name, v.Profile)
		}
	}
	if v := load(t, Options{}); v.Profile != "default" || v.Mesh.Certificates.Lifetime.Duration != 24*time.Hour || v.Mesh.Certificates.RenewAt != 0.5 {
		t.Errorf("without a name: %s, %+v", v.Profile, v.Mesh.Certificates)
	}
	_, err := Load(Options{Profile: "voicecor"})
	if want := `there is no profile "voicecor"; one of default, minimal, voicecore`; err == nil || err.Error() != want {
		t.Errorf("an unknown profile: %v", err)
	}
}

// TestVoicecoreHasEveryNumberOfItsMesh is the page that the mesh was asked for by.
func TestVoicecoreHasEveryNumberOfItsMesh(t *testing.T) {
	v := load(t, Options{Profile: "voicecore"})
	i, c := v.Istio, v.Mesh.Certificates
	r := i.Pilot.Resource
	for _, n := range []struct {
		what      string
		got, want any
	}{
		{"the namespace", v.Mesh.Namespace, "voicecore-ai"},
		{"istiod's replicas", [2]int32{i.Pilot.Min, i.Pilot.Max}, [2]int32{2, 5}},
		{"the ingress gateway's replicas", [2]int32{i.Ingress.Min, i.Ingress.Max}, [2]int32{2, 10}},
		{"the egress gateway's replicas", [2]int32{i.Egress.Min, i.Egress.Max}, [2]int32{2, 2}},
		{"istiod's CPU", r.Requests.CPU.MilliValue(), int64(500)},
		{"istiod's limit of CPU", r.Limits.CPU.MilliValue(), int64(2000)},
		{"istiod's memory", r.Requests.Memory.Value(), int64(2 << 30)},
		{"istiod's limit of memory", r.Limits.Memory.Value(), int64(4 << 30)},
		{"a sidecar's CPU", i.Sidecar.Requests.CPU.MilliValue(), int64(100)},
		{"a sidecar's limit of CPU", i.Sidecar.Limits.CPU.MilliValue(), int64(2000)},
		{"a sidecar's memory", i.Sidecar.Requests.Memory.Value(), int64(128 << 20)},
		{"a sidecar's limit of memory", i.Sidecar.Limits.Memory.Value(), int64(1024 << 20)},
		{"a certificate's life", c.Lifetime.Duration, 90 * 24 * time.Hour},
		{"the part of it that is left at renewal", c.RenewAt, 0.1},
		{"the alarm before its end", c.Critical.Duration, 24 * time.Hour},
		{"the share of requests that is traced", v.Mesh.Tracing.SamplePercent, 100.0},
		{"the stage", v.Mesh.Stage, Enforced},
	} {
		if n.got != n.want {
			t.Errorf("%s: %v, want %v", n.what, n.got, n.want)
		}
	}
	seconds := map[string]int{"tenant-service": 30, "call-service": 60, "ai-service": 120, "crm-service": 30, "analytics-service": 60, "integration-service": 45, "billing-service": 30}
	if len(v.Mesh.Services) != len(seconds)+1 {
		t.Errorf("%d services, want eight", len(v.Mesh.Services))
	}
	for _, s := range v.Mesh.Services {
		if want, listed := seconds[s.Name]; listed && s.Timeout.Duration != time.Duration(want)*time.Second {
			t.Errorf("%s: %v, want %d s", s.Name, s.Timeout.Duration, want)
		}
		if robin := s.Name == "ai-service" || s.Name == "analytics-service"; robin != (s.LoadBalancer == "ROUND_ROBIN") {
			t.Errorf("%s: %s", s.Name, s.LoadBalancer)
		}
		if s.Retries.Attempts != 3 || s.Pool.MaxConnections == 0 || !s.Pool.HTTP2 || s.Outlier.Consecutive5xx != 5 || s.Outlier.Interval.Duration != 30*time.Second ||
			s.Outlier.BaseEjection.Duration != 30*time.Second || s.Outlier.MaxEjection != 50 {
			t.Errorf("%s: retries %+v, pool %+v, outlier %+v", s.Name, s.Retries, s.Pool, s.Outlier)
		}
		if s.Name != "gateway-service" && !slices.Equal(s.Retries.On, []string{"5xx", "reset", "connect-failure", "refused-stream"}) {
			t.Errorf("%s is asked again on %v", s.Name, s.Retries.On)
		}
		if s.Name == "call-service" && (s.Pool.MaxConnections != 200 || s.Pool.MaxPending != 100 || s.Pool.MaxRequests != 200) {
			t.Errorf("%s: pool %+v", s.Name, s.Pool)
		}
	}
}

func service(t testing.TB, v *Values, name string) *Service {
	t.Helper()
	i := slices.IndexFunc(v.Mesh.Services, func(s Service) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("there is no %s", name)
	}
	return &v.Mesh.Services[i]
}

func TestFilesLieOverTheProfile(t *testing.T) {
	first := file(t, `
mesh:
  services:
    - {name: ai-service, timeout: 90s, retries: {attempts: 1}}
    - {name: search-service, callers: [gateway-service]}
  tracing: {samplePercent: 5}
sluice: {excludedPaths: [/up]}
`)
	second := file(t, "mesh: {services: [{name: ai-service, timeout: 100s}]}\n")
	before := load(t, Options{Profile: "voicecore"})
	v := load(t, Options{Profile: "voicecore", Files: []string{first, second}})
	ai, search := service(t, v, "ai-service"), service(t, v, "search-service")
	if len(v.Mesh.Services) != len(before.Mesh.Services)+1 || v.Mesh.Services[8].Name != "search-service" {
		t.Errorf("%d services, the last one %s", len(v.Mesh.Services), v.Mesh.Services[len(v.Mesh.Services)-1].Name)
	}
	if ai.Timeout.Duration != 100*time.Second || ai.Retries.Attempts != 1 || ai.LoadBalancer != "ROUND_ROBIN" {
		t.Errorf("a service is merged by name, field by field, the last file wins: %+v", ai)
	}
	if search.Port != 8080 || search.Timeout.Duration != 30*time.Second || search.Retries.Attempts != 3 || search.Outlier.MaxEjection != 50 {
		t.Errorf("what a new service leaves out is of the defaults: %+v", search)
	}
	if v.Mesh.Tracing.SamplePercent != 5 || !v.Mesh.Tracing.Enabled || !slices.Equal(v.Sluice.ExcludedPaths, []string{"/up"}) {
		t.Errorf("maps are merged, other lists replaced: %+v, %v", v.Mesh.Tracing, v.Sluice.ExcludedPaths)
	}
	if again := load(t, Options{Profile: "voicecore"}); !reflect.DeepEqual(before, again) {
		t.Error("values that were loaded have changed the profile")
	}
}

func TestNullTakesAwayWhatLiesBelow(t *testing.T) {
	none, one := file(t, "mesh: {services: null, external: null}\nsluice: {doors: {extProc: {services: null}}}\n"), file(t, "mesh: {services: [{name: only}]}\n")
	v := load(t, Options{Profile: "voicecore", Files: []string{none, one}})
	if len(v.Mesh.Services) != 1 || v.Mesh.Services[0].Name != "only" {
		t.Errorf("services %+v", v.Mesh.Services)
	}
}

func TestAssignmentsLieOverTheFiles(t *testing.T) {
	v := load(t, Options{Profile: "voicecore", Files: []string{file(t, "istio: {revision: a}\n")}, Sets: []string{
		"istio.revision=1-31-4", "mesh.certificates.renewAt=0.2", "istio.pilotEnv.PILOT_ENABLE_ALPN_FILTER=false", "istio.pilotEnv.X=7",
		"istio.stats=false,istio.pilot.max=9", "mesh.services[2].timeout=70s", "sluice.excludedPaths={/a,/b}", "istio.sidecar.limits.cpu=3", "sluice.values.drain.delaySeconds=2",
	}})
	if v.Istio.Revision != "1-31-4" || v.Mesh.Certificates.RenewAt != 0.2 || v.Istio.Stats || v.Istio.Pilot.Max != 9 {
		t.Errorf("%+v", v.Istio)
	}
	if env := v.Istio.PilotEnv; env["PILOT_ENABLE_ALPN_FILTER"] != "false" || env["X"] != "7" {
		t.Errorf("a text stays one, whatever it looks like: %v", env)
	}
	if v.Mesh.Services[2].Timeout.Duration != 70*time.Second || len(v.Sluice.ExcludedPaths) != 2 || v.Istio.Sidecar.Limits.CPU.Value() != 3 {
		t.Errorf("%v, %v, %v", v.Mesh.Services[2].Timeout, v.Sluice.ExcludedPaths, v.Istio.Sidecar.Limits.CPU)
	}
	if drain := v.Sluice.Values["drain"].(map[string]any); drain["delaySeconds"] != int64(2) && drain["delaySeconds"] != float64(2) {
		t.Errorf("the chart's own values pass as they are: %#v", v.Sluice.Values)
	}
}

func TestABadAssignmentIsNamed(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"mesh.stag=soft", `--set mesh.stag=soft: mesh.stag: unknown field "stag"; did you mean "stage"?`},
		{"mesh.services[1].timeout=soon", `--set mesh.services[1].timeout=soon: mesh.services[1].timeout: "soon" is not a length of time; such as 250ms, 10s, 5m or 2160h`},
		{"istio.stats", `--set istio.stats: is not an assignment: key "stats" has no value; a.b=value, a.list[0].b=value or a.list={x,y}`},
		{"istio.stats=maybe", `--set istio.stats=maybe: istio.stats: "maybe" is neither true nor false; true or false, without quotes`},
	} {
		_, err := Load(Options{Sets: []string{c.set}, Profile: "voicecore"})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\ngot  %v\nwant %s", c.set, err, c.want)
		}
	}
}

func TestAFileThatIsNotThereIsAnError(t *testing.T) {
	_, err := Load(Options{Files: []string{"testdata/none"}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestValuesSurviveBeingKept: what was loaded can be written down, beside a mesh, and loaded again over nothing.
func TestValuesSurviveBeingKept(t *testing.T) {
	for _, name := range Names() {
		v := load(t, Options{Profile: name, Sets: []string{"sluice.values.a.b=c"}})
		text, err := yaml.Marshal(v)
		must(t, err)
		kept := load(t, Options{Profile: name, Files: []string{file(t, string(text))}})
		again, err := yaml.Marshal(kept)
		must(t, err)
		if string(again) != string(text) {
			t.Errorf("%s: kept as\n%s\nis loaded as\n%s", name, text, again)
		}
	}
}

func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, name := range files {
		text, err := os.ReadFile(name)
		must(f, err)
		f.Add(string(text), "mesh.stage=soft")
	}
	f.Add("mesh: &a {services: [*a]}", "mesh.services[3].name=x")
	f.Fuzz(func(t *testing.T, text, set string) {
		v, err := Load(Options{Profile: "voicecore", Files: []string{file(t, text)}, Sets: []string{set}})
		var problems Problems
		if (v == nil) != (err != nil) || err != nil && !errors.As(err, &problems) {
			t.Fatalf("%v, %T: %v", v, err, err)
		}
	})
}
