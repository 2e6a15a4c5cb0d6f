package console

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

func TestTheConsolesAreWhereTheMeshHasThem(t *testing.T) {
	v, err := profile.Load(profile.Options{Profile: "voicecore"})
	if err != nil {
		t.Fatal(err)
	}
	components, err := render.All(v)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, r := range components {
		for _, u := range r.Objects {
			if u.GetKind() != "Service" || u.GetNamespace() != v.Addons.Namespace {
				continue
			}
			spec := u.Object["spec"].(map[string]any)
			for _, p := range spec["ports"].([]any) {
				found[u.GetName()+":"+strconv.FormatInt(number(t, p.(map[string]any)["port"]), 10)] = true
			}
		}
	}
	for _, c := range consoles {
		if key := c.name + ":" + strconv.Itoa(int(c.port)); !c.enabled(v) || !found[key] {
			t.Errorf("the profile has no Service %s", key)
		}
	}
}

func number(t *testing.T, v any) int64 {
	t.Helper()
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	}
	t.Fatalf("%v is no number", v)
	return 0
}

func TestListenTakesThePort(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	t.Run("another one if the console's own is taken", func(t *testing.T) {
		l, err := listen(t.Context(), 0, port)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		if a := l.Addr().(*net.TCPAddr); a.Port == port || !a.IP.IsLoopback() {
			t.Errorf("it listens on %s, want another port of the loopback address", a)
		}
	})
	t.Run("an error if the one that was asked for is taken", func(t *testing.T) {
		if l, err := listen(t.Context(), port, 1); err == nil || !strings.Contains(err.Error(), "--port") {
			t.Errorf("got %v, %v, want an error that names --port", l, err)
		}
	})
}

func TestAConsoleThatIsNotThere(t *testing.T) {
	v, err := profile.Load(profile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"zipkin": "one of kiali, jaeger, prometheus, grafana", "kiali": "--set addons.kiali.enabled=true"} {
		if _, err := Listen(t.Context(), Options{Mesh: &cluster.Mesh{Values: v}, Name: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}
