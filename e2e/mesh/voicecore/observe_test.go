package voicecore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

// spans is a collector: it keeps what it is sent. It stands in for Jaeger, whose image nothing runs here.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu   sync.Mutex
	seen map[string][]string // names of services, by trace
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		service := ""
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				id := fmt.Sprintf("%x", span.TraceId)
				name := service
				if span.Kind == trace.Span_SPAN_KIND_SERVER {
					name += " (server)"
				}
				s.seen[id] = append(s.seen[id], name)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// observed: one request from outside is one trace, of the gateway, Sluice and the service, and one entry of Sluice's log.
func (m *mesh) observed(t *testing.T, key string) {
	kept := &spans{seen: map[string][]string{}}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, kept)
	m.Pod(t, "istio-system", "app=jaeger").Serve(t, 4317, server)
	entries := m.metric(t, "sluice_access_log_entries_total")
	var ours []string
	lab.Until(t, patience, func() error {
		status, answer := m.enter(t, "/traced", key)
		if status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		parent := strings.Split(answer.Header.Get("Traceparent"), "-")
		if len(parent) != 4 {
			t.Fatalf("the service got no trace context: %v", answer.Header)
		}
		ours = append(ours, parent[1])
		kept.mu.Lock()
		defer kept.mu.Unlock()
		for _, id := range ours {
			if holds(kept.seen[id], "istio-ingressgateway", "gateway-service", "sluice") {
				return nil
			}
		}
		return fmt.Errorf("the first trace has spans of %v", kept.seen[ours[0]])
	})
	lab.Until(t, patience, func() error {
		if n := m.metric(t, "sluice_access_log_entries_total"); n <= entries {
			return fmt.Errorf("%v entries of the access log arrived", n-entries)
		}
		return nil
	})
}

// holds says that each name begins one of the list.
func holds(list []string, names ...string) bool {
	for _, name := range names {
		if !slices.ContainsFunc(list, func(s string) bool { return strings.HasPrefix(s, name) }) {
			return false
		}
	}
	return true
}

// metric sums a metric of sluiced over its labels.
func (m *mesh) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	return m.metricOf(t, m.sluice(t), name)
}

func (m *mesh) metricOf(t *testing.T, sluice *lab.Pod, name string) (sum float64) {
	t.Helper()
	response, err := m.Client().Get("http://" + sluice.IP + ":9092/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		var v float64
		if at := strings.LastIndexByte(line, ' '); strings.HasPrefix(line, name) && at > 0 {
			if _, err := fmt.Sscan(line[at:], &v); err == nil {
				sum += v
			}
		}
	}
	return sum
}

// certificate is the serial number of a pod's certificate.
func certificate(t *testing.T, p *lab.Pod) string {
	t.Helper()
	var all struct {
		Certificates []struct {
			CertChain []struct {
				SerialNumber string `json:"serial_number"`
				Names        []struct {
					URI string
				} `json:"subject_alt_names"`
			} `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(p.Admin(t, "/certs")), &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all.Certificates {
		for _, link := range c.CertChain {
			if len(link.Names) > 0 && strings.HasPrefix(link.Names[0].URI, "spiffe://") {
				return link.SerialNumber
			}
		}
	}
	t.Fatalf("%s has no certificate", p.Name)
	return ""
}

// rotates: the certificate of a service is renewed while it is called, and no call fails.
func (m *mesh) rotates(t *testing.T, gateway *lab.Pod, key string) {
	token := m.token(t, key)
	analytics := m.Pod(t, apps, "app=analytics-service")
	reaches(t, gateway, "http://analytics-service:8080/", token)
	first, calls := certificate(t, analytics), 0
	lab.Until(t, patience, func() error {
		for range 20 {
			status, _ := between(t, gateway, "http://analytics-service:8080/", token)
			if calls++; status != http.StatusOK {
				t.Fatalf("call %d: status %d", calls, status)
			}
		}
		if certificate(t, analytics) == first {
			return fmt.Errorf("after %d calls the certificate is still %s", calls, first)
		}
		return nil
	})
	status, _ := between(t, gateway, "http://analytics-service:8080/", token)
	if status != http.StatusOK {
		t.Errorf("after the rotation: status %d", status)
	}
}
