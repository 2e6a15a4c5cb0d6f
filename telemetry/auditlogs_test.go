package telemetry

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/await"
)

// receiver is an OTLP collector.
type receiver struct {
	collector.UnimplementedLogsServiceServer
	hang chan struct{} // if not nil, nothing is answered before it is closed
	mu   sync.Mutex
	got  []*logs.LogRecord
}

func (r *receiver) Export(ctx context.Context, in *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	if r.hang != nil {
		select {
		case <-r.hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range in.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			r.got = append(r.got, scope.GetLogRecords()...)
		}
	}
	return &collector.ExportLogsServiceResponse{}, nil
}

func (r *receiver) serve(t *testing.T) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterLogsServiceServer(s, r)
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func copies(t *testing.T, endpoint string) *AuditLogs {
	t.Helper()
	a, err := NewAuditLogs(t.Context(), Endpoint{endpoint, insecure.NewCredentials()}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuditLogsHangingCollector(t *testing.T) {
	r := &receiver{hang: make(chan struct{})}
	a := copies(t, r.serve(t))
	line := append(bytes.Repeat([]byte("x"), 1<<20), '\n')
	for range 100 { // 100 MiB
		a.Write(line)
	}
	t.Run("what does not fit the queue is dropped and counted at once", func(t *testing.T) {
		if n := a.Dropped(); n < 100-auditQueueBytes>>20-1 {
			t.Errorf("%d of 100 were dropped", n)
		}
		if n := a.waiting.Load(); n > auditQueueBytes {
			t.Errorf("%d bytes wait", n)
		}
	})
	t.Run("closing gives up when it is told to", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = a.Close(ctx)
		if n := a.Dropped(); n != 100 {
			t.Errorf("%d of 100 were dropped", n)
		}
	})
}

func TestAuditLogsCopiesEveryLine(t *testing.T) {
	r := new(receiver)
	a := copies(t, r.serve(t))
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(audit.Options{Dir: dir, Origin: "sluiced/test", Seed: [32]byte{1}, Mask: [32]byte{2}, Wait: time.Minute, Copy: a.Write})
	if err != nil {
		t.Fatal(err)
	}
	const canary = "slk_abcdefgh_CANARYCANARYCANARY"
	for i := range 1500 {
		e := &audit.Entry{Time: int64(i), Class: authz.Required, Tenant: "acme", Reason: "forbidden", Trace: [16]byte{5}, Path: "/v1/" + canary}
		if i > 0 {
			e.Class, e.Allowed = authz.BestEffort, true
		}
		if err := l.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "audit-00000001.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(file), "\n"), "\n")
	await.That(t, "the collector has what it gets", func() bool { return a.Sent()+a.Dropped() >= uint64(len(lines)) }) // Close would give up after two seconds
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != len(lines) || a.Dropped() != 0 || a.Sent() != uint64(len(lines)) {
		t.Fatalf("the collector has %d records of %d; %d dropped, %d sent", len(r.got), len(lines), a.Dropped(), a.Sent())
	}
	for i, got := range r.got {
		if got.GetBody().GetStringValue() != lines[i] {
			t.Fatalf("record %d is %s, the log has %s", i, got, lines[i])
		}
		if strings.Contains(got.String(), "CANARY") {
			t.Fatalf("A-03: a key is in %s", got)
		}
	}
	first := r.got[2]
	if first.GetSeverityText() != "" || first.GetSeverityNumber() != logs.SeverityNumber_SEVERITY_NUMBER_WARN ||
		first.GetEventName() != "sluice.audit.decision" || first.GetTraceId()[0] != 5 || !strings.Contains(first.String(), "tenant.id") {
		t.Errorf("a refusal is %s", first)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Audit(l, a))
	families, err := registry.Gather()
	if err != nil || len(families) != 8 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}
