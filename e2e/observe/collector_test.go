package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/loopback"
)

// slow is a collector that takes a second for each batch.
type slow struct {
	collectorpb.UnimplementedTraceServiceServer
}

func (slow) Export(ctx context.Context, _ *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestACollectorInTroubleCostsItsSpansAndNothingElse(t *testing.T) {
	const requests, atOnce, mayWait = 5000, 16, 2048
	silent, slowly := listen(t), listen(t)
	nobody, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, slow{})
	go func() { _ = server.Serve(slowly) }()
	t.Cleanup(server.Stop)
	for _, c := range []struct {
		name, at string
	}{{"is down", "127.0.0.1:" + nobody[0]}, {"takes connections and says nothing", silent.Addr().String()}, {"is slow", slowly.Addr().String()}} {
		t.Run("T-05 one that "+c.name, func(t *testing.T) {
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
			service := listen(t)
			upstream := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: time.Minute}
			go func() { _ = upstream.Serve(service) }()
			t.Cleanup(func() { _ = upstream.Close() })
			config := traced(t, doors[0].config, &jaeger{otlp: c.at}, service.Addr().String(), wiring{sampling: 100})
			w := start(t, stack.Options{Config: config, Args: []string{"--otlp-endpoint", c.at}})
			if problem := w.load(requests, atOnce); problem != nil {
				t.Error(problem)
			}
			await.Within(t, patience, "what found no room, or was not taken, is counted", func() bool {
				became := w.spans(t)
				return became["sent"]+became["failed"]+became["dropped"] >= requests-mayWait
			})
			if c.at == slowly.Addr().String() {
				return
			}
			// A slow machine may make so few that there is room for all while one export after the other fails: until there is none.
			for range 20 {
				if w.spans(t)["dropped"] > 0 {
					break
				}
				if problem := w.load(requests, atOnce); problem != nil {
					t.Fatal(problem)
				}
			}
			if became := w.spans(t); became["dropped"] == 0 || became["sent"] != 0 {
				t.Errorf("spans became %v", became)
			}
		})
	}
}

// load sends n requests, some at once; all must be answered with 200.
func (w *world) load(n, atOnce int) error {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}
	defer client.CloseIdleConnections()
	problems := make([]error, atOnce)
	var group sync.WaitGroup
	for i := range atOnce {
		group.Go(func() {
			for range (n + atOnce - 1) / atOnce {
				request, err := http.NewRequest(http.MethodGet, w.URL+"/v1/calls", nil)
				if err != nil {
					problems[i] = err
					return
				}
				request.Header.Set("x-api-key", w.key)
				response, err := client.Do(request)
				if err != nil {
					problems[i] = err
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusOK {
					problems[i] = fmt.Errorf("status %d", response.StatusCode)
					return
				}
			}
		})
	}
	group.Wait()
	return errors.Join(problems...)
}

// spans says what became of those of sluiced.
func (w *world) spans(t *testing.T) map[string]int {
	t.Helper()
	response, err := http.Get(w.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // only read
	page, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	became := map[string]int{}
	for line := range strings.Lines(string(page)) {
		var name string
		var n int
		if rest, ok := strings.CutPrefix(line, `sluice_spans_total{result="`); ok {
			if _, err := fmt.Sscanf(strings.Replace(rest, `"}`, " ", 1), "%s %d", &name, &n); err != nil {
				t.Fatal(err)
			}
			became[name] = n
		}
	}
	return became
}
