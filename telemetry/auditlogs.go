package telemetry

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/voicecore-ai/sluice/authz/audit"
)

// AuditLogs sends what the audit log wrote to an OTLP collector: each line as the body of a log record, hash
// and all, so that the copy can be checked against the log; and a few attributes to search by.
//
// It is a copy, not the record: it never blocks, and what does not fit its queue, or what
// the collector does not take in time, is dropped and counted.
type AuditLogs struct {
	exporter sdklog.Exporter
	provider *sdklog.LoggerProvider
	logger   log.Logger
	emitted  *gathered

	queue    chan []byte
	waiting  atomic.Int64 // bytes
	dropped  atomic.Uint64
	sent     atomic.Uint64
	work     context.Context
	give     context.CancelFunc // gives up on the collector
	stop     chan struct{}
	stopped  chan struct{}
	stopping sync.Once
}

const (
	auditQueueBytes = 16 << 20
	auditBatches    = 1024 // that wait, each what one write of the log held
	exportRecords   = 512
	exportBytes     = 1 << 20 // collectors take 4 MiB
	exportTimeout   = 5 * time.Second
	exportAtClose   = 2 * time.Second
)

// NewAuditLogs sends to an OTLP collector.
func NewAuditLogs(ctx context.Context, to Endpoint, version string) (*AuditLogs, error) {
	exporter, err := otlploggrpc.New(ctx, otlploggrpc.WithEndpoint(to.Address), otlploggrpc.WithTLSCredentials(to.Credentials), otlploggrpc.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("otlp-endpoint: %w", err)
	}
	emitted := new(gathered)
	provider := sdklog.NewLoggerProvider(
		sdklog.WithProcessor(emitted),
		sdklog.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sluiced"), attribute.String("service.version", version))),
	)
	a := &AuditLogs{
		exporter: exporter, provider: provider, logger: provider.Logger("github.com/voicecore-ai/sluice/authz/audit"), emitted: emitted,
		queue: make(chan []byte, auditBatches), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	a.work, a.give = context.WithCancel(context.Background())
	go a.run()
	return a, nil
}

// Write queues a copy of whole lines. It is what audit.Options.Copy wants.
func (a *AuditLogs) Write(lines []byte) {
	n := int64(len(lines))
	if a.waiting.Add(n) > auditQueueBytes {
		a.drop(lines)
		return
	}
	select {
	case a.queue <- bytes.Clone(lines):
	default:
		a.drop(lines)
	}
}

func (a *AuditLogs) drop(lines []byte) {
	a.waiting.Add(-int64(len(lines)))
	a.dropped.Add(uint64(bytes.Count(lines, []byte("\n"))))
}

// Dropped is how many records the collector did not get.
func (a *AuditLogs) Dropped() uint64 { return a.dropped.Load() }

// Sent is how many records the collector took.
func (a *AuditLogs) Sent() uint64 { return a.sent.Load() }

// Close sends what waits, for two seconds at most and until ctx ends: a collector that is down holds up no
// stop. Close the audit log first: what is written later is lost.
func (a *AuditLogs) Close(ctx context.Context) error {
	a.stopping.Do(func() { close(a.stop) })
	defer a.give()
	patience, cancel := context.WithTimeout(ctx, exportAtClose)
	defer cancel()
	select {
	case <-a.stopped:
	case <-patience.Done():
		a.give()
		<-a.stopped
	}
	return a.exporter.Shutdown(ctx)
}

func (a *AuditLogs) run() {
	defer close(a.stopped)
	for {
		select {
		case lines := <-a.queue:
			a.send(lines)
		case <-a.stop:
			for {
				select {
				case lines := <-a.queue:
					a.send(lines)
				default:
					return
				}
			}
		}
	}
}

// send exports lines in batches that a collector takes.
func (a *AuditLogs) send(lines []byte) {
	defer a.waiting.Add(-int64(len(lines)))
	size := 0
	for line := range bytes.Lines(lines) {
		a.emit(bytes.TrimSuffix(line, []byte("\n")))
		if size += len(line); size >= exportBytes || len(a.emitted.records) >= exportRecords {
			a.export()
			size = 0
		}
	}
	a.export()
}

func (a *AuditLogs) export() {
	n := uint64(len(a.emitted.records))
	if n == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(a.work, exportTimeout)
	defer cancel()
	if err := a.exporter.Export(ctx, a.emitted.records); err != nil {
		a.dropped.Add(n)
	} else {
		a.sent.Add(n)
	}
	clear(a.emitted.records)
	a.emitted.records = a.emitted.records[:0]
}

func (a *AuditLogs) emit(line []byte) {
	r, err := audit.ParseRecord(line)
	if err != nil {
		a.dropped.Add(1) // the log writes no such line
		return
	}
	var out log.Record
	out.SetTimestamp(time.UnixMicro(r.Time))
	out.SetEventName("sluice.audit." + r.Kind)
	out.SetBody(attribute.StringValue(string(line)))
	out.SetSeverity(log.SeverityInfo)
	if r.Allowed != nil && !*r.Allowed || r.Kind == "gap" {
		out.SetSeverity(log.SeverityWarn)
	}
	out.AddAttributes(attribute.Int64("audit.seq", int64(r.Seq)))
	for _, field := range []struct{ name, value string }{
		{"tenant.id", r.Tenant}, {"authz.reason", r.Reason}, {"authz.rule", r.Rule}, {"authz.decision_id", r.Decision},
	} {
		if field.value != "" {
			out.AddAttributes(attribute.String(field.name, field.value))
		}
	}
	a.logger.Emit(withTrace(a.work, r.Trace), out)
}

// withTrace lets the record be found beside the spans of its trace.
func withTrace(ctx context.Context, text string) context.Context {
	var id trace.TraceID
	if len(text) != hex.EncodedLen(len(id)) {
		return ctx
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ctx
	}
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id}))
}

// gathered is a processor that keeps what is emitted until it is exported: the SDK's batch
// processor drops what is too much and tells nobody how much that was.
type gathered struct{ records []sdklog.Record }

// OnEmit implements sdklog.Processor.
func (g *gathered) OnEmit(_ context.Context, r *sdklog.Record) error {
	g.records = append(g.records, r.Clone())
	return nil
}

// Enabled implements sdklog.Processor.
func (g *gathered) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// Shutdown implements sdklog.Processor.
func (g *gathered) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdklog.Processor.
func (g *gathered) ForceFlush(context.Context) error { return nil }

// Audit exports how the audit log does. copies may be nil.
func Audit(l *audit.Log, copies *AuditLogs) prometheus.Collector {
	return exported{[]*prometheus.Desc{auditRecordsDesc, auditBytesDesc, auditMissingDesc, auditFsyncsDesc, auditErrorsDesc, auditFailingDesc, auditDamagedDesc, auditCopiesDesc}, func(m metrics) {
		s := l.Stats()
		m.count(auditRecordsDesc, s.Records)
		m.count(auditBytesDesc, s.Bytes)
		m.count(auditMissingDesc, s.Dropped, "dropped")
		m.count(auditMissingDesc, s.Suppressed, "suppressed")
		m.count(auditMissingDesc, s.Late, "late")
		m.count(auditFsyncsDesc, s.Fsyncs)
		m.count(auditErrorsDesc, s.Errors)
		m.flag(auditFailingDesc, s.Failing)
		m.flag(auditDamagedDesc, s.Damaged != "")
		if copies != nil {
			m.count(auditCopiesDesc, copies.Sent(), "sent")
			m.count(auditCopiesDesc, copies.Dropped(), "dropped")
		}
	}}
}

var (
	auditRecordsDesc = prometheus.NewDesc("sluice_audit_records_total", "Records written to the audit log, its own included.", nil, nil)
	auditBytesDesc   = prometheus.NewDesc("sluice_audit_bytes_total", "Bytes written to the audit log.", nil, nil)
	auditMissingDesc = prometheus.NewDesc("sluice_audit_missing_total",
		"Entries that are not in the audit log by themselves: 'dropped' are in no record but a gap's count, 'suppressed' are in a summary's, 'late' are in it though their requests were refused.",
		[]string{"how"}, nil)
	auditFsyncsDesc  = prometheus.NewDesc("sluice_audit_fsyncs_total", "Syncs of the audit log.", nil, nil)
	auditErrorsDesc  = prometheus.NewDesc("sluice_audit_errors_total", "Writes of the audit log that failed.", nil, nil)
	auditFailingDesc = prometheus.NewDesc("sluice_audit_failing", "1 while the audit log can't be written: what must be recorded is refused.", nil, nil)
	auditDamagedDesc = prometheus.NewDesc("sluice_audit_damaged", "1 if the audit log had been changed from outside when it was opened.", nil, nil)
	auditCopiesDesc  = prometheus.NewDesc("sluice_audit_copies_total", "Records for the OTLP collector, by what became of them.", []string{"result"}, nil)
)
