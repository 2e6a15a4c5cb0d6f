package observe

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/loopback"
)

// jaeger is a running one, which keeps traces in memory.
type jaeger struct {
	otlp string // host:port of its OTLP receiver, gRPC
	api  string // base URL of its query API
}

// startJaeger returns when it answers.
func startJaeger(t *testing.T) *jaeger {
	t.Helper()
	ports, err := loopback.Ports(3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "jaeger.yaml")
	if err := os.WriteFile(path, []byte(stack.JaegerConfig(ports[0], ports[1], ports[2])), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "jaeger.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool("jaeger"), "--config", path)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_SAMPLER=always_off") // it traces itself, elsewhere
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it keeps nothing
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("jaeger.log:\n%s", text)
		}
	})
	j := &jaeger{otlp: "127.0.0.1:" + ports[2], api: "http://127.0.0.1:" + ports[0]}
	await.Within(t, patience, "Jaeger answers", func() bool { _, err := j.services(); return err == nil })
	await.Within(t, patience, "Jaeger takes spans", func() bool { // which it begins to later
		conn, err := net.Dial("tcp", j.otlp)
		return err == nil && conn.Close() == nil
	})
	return j
}

// services are the names of all that sent spans.
func (j *jaeger) services() (names []string, err error) {
	err = j.get("/api/services", &names)
	return names, err
}

// get reads the data of one answer of the query API.
func (j *jaeger) get(path string, data any) error {
	response, err := (&http.Client{Timeout: patience}).Get(j.api + path)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(&struct {
		Data any `json:"data"`
	}{data})
}

// span is one as Jaeger tells it.
type span struct {
	Trace      string `json:"traceID"`
	ID         string `json:"spanID"`
	Name       string `json:"operationName"`
	Process    string `json:"processID"`
	References []struct {
		Type  string `json:"refType"` // CHILD_OF; a link is FOLLOWS_FROM
		Trace string `json:"traceID"`
		ID    string `json:"spanID"`
	} `json:"references"`
	Tags []struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	} `json:"tags"`

	service string
}

// parent is the id of the span that it hangs on; "" for a root.
func (s *span) parent() string {
	for _, r := range s.References {
		if r.Type == "CHILD_OF" && r.Trace == s.Trace {
			return r.ID
		}
	}
	return ""
}

// tags are its attributes, and what else Jaeger makes of it.
func (s *span) tags() map[string]string {
	all := map[string]string{}
	for _, t := range s.Tags {
		all[t.Key] = fmt.Sprint(t.Value)
	}
	return all
}

// traces are all, as their spans, of which a service has one.
func (j *jaeger) traces(service string) (all [][]*span, err error) {
	return j.read("/api/traces?limit=1000&lookback=1h&service=" + url.QueryEscape(service))
}

// trace are the spans of one; none for one that is not known.
func (j *jaeger) trace(id string) ([]*span, error) {
	all, err := j.read("/api/traces/" + id)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

func (j *jaeger) read(path string) (all [][]*span, err error) {
	var data []struct {
		Spans     []*span `json:"spans"`
		Processes map[string]struct {
			Service string `json:"serviceName"`
		} `json:"processes"`
	}
	if err := j.get(path, &data); err != nil {
		return nil, err
	}
	for _, t := range data {
		for _, s := range t.Spans {
			s.service = t.Processes[s.Process].Service
		}
		all = append(all, t.Spans)
	}
	return all, nil
}
