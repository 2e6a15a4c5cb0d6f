package accesslog

import (
	"context"
	"encoding/hex"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Labels are what a metric may be cut by: few values each, none from a client.
type Labels struct {
	Final bool
	GRPC  bool
	Class string // "2xx" … "5xx" or "other"; for gRPC "ok", "client", "server"
}

// Logger is a Recorder that writes each final entry as one record of a
// structured log, warns of each that its tenant or credential did not outlive, and tells a metric about every entry.
//
// The log is written by Run. Record only queues: what does not fit is dropped and counted,
// so a slow disk delays no proxy. The metric is told in any case.
type Logger struct {
	log     *slog.Logger
	metric  func(Labels, *Entry)
	mask    func(string) string
	queue   chan Entry
	dropped atomic.Uint64

	strangers *rate.Limiter
	unlogged  atomic.Uint64 // of them since the last line that said so
}

// Lines a second and at once about callers who proved nothing: whoever can send requests
// could fill the disk with them. The others are counted, in a line a second.
const (
	strangerRate  = 50
	strangerBurst = 200
)

// LoggerOptions are what a Logger is made of. Log is required.
type LoggerOptions struct {
	Log *slog.Logger
	// Metric is told about every entry; it must not block and must not keep it. Optional.
	Metric func(Labels, *Entry)
	// Mask takes credentials out of what a caller chose: a key in a path is a key in a log. Optional.
	Mask  func(string) string
	Queue int // entries that wait
}

// NewLogger returns a Logger.
func NewLogger(o LoggerOptions) *Logger {
	if o.Mask == nil {
		o.Mask = func(s string) string { return s }
	}
	return &Logger{log: o.Log, metric: o.Metric, mask: o.Mask, queue: make(chan Entry, max(o.Queue, 1)), strangers: rate.NewLimiter(strangerRate, strangerBurst)}
}

// Record implements Recorder.
func (l *Logger) Record(e Entry) {
	if l.metric != nil {
		l.metric(labelsOf(&e), &e)
	}
	if !e.Final && e.Outlived == "" {
		return
	}
	if e.Tenant == "" && !l.strangers.Allow() {
		l.unlogged.Add(1)
		return
	}
	select {
	case l.queue <- e:
	default:
		l.dropped.Add(1)
	}
}

// Dropped is how many entries were not logged since NewLogger.
func (l *Logger) Dropped() uint64 { return l.dropped.Load() }

// Run writes until ctx ends, then what is queued, and returns. Call it once.
func (l *Logger) Run(ctx context.Context) {
	defer l.count()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			l.count()
		case e := <-l.queue:
			l.write(&e)
		case <-ctx.Done():
			for {
				select {
				case e := <-l.queue:
					l.write(&e)
				default:
					return
				}
			}
		}
	}
}

func (l *Logger) count() {
	if n := l.unlogged.Swap(0); n > 0 {
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "requests of callers who proved nothing, not logged one by one", slog.Uint64("count", n))
	}
}

func (l *Logger) write(e *Entry) {
	attrs := []slog.Attr{
		slog.String("decision_id", hex.EncodeToString(e.ID[:])),
		slog.String("peer", e.Peer),
		slog.String("tenant", e.Tenant),
		slog.String("plan", e.Plan),
		slog.String("principal", e.Principal),
		slog.Time("start", e.Start),
		slog.Duration("duration", e.Duration),
		slog.String("method", e.Method),
		slog.String("authority", l.mask(e.Authority)),
		slog.String("path", l.mask(e.Path)),
		slog.String("request_id", l.mask(e.RequestID)),
		slog.String("route", e.Route),
		slog.String("cluster", e.Cluster),
		slog.Uint64("attempts", uint64(e.Attempts)),
		slog.Uint64("code", uint64(e.Code)),
		slog.Any("flags", e.Flags.Names()),
		slog.String("details", l.mask(e.Details)),
		slog.Uint64("bytes_in", e.BytesIn),
		slog.Uint64("bytes_out", e.BytesOut),
	}
	if e.GRPC {
		attrs = append(attrs, slog.Uint64("grpc_status", uint64(e.GRPCStatus)))
	}
	level, text := slog.LevelInfo, "request"
	if e.Outlived != "" {
		level, text = slog.LevelWarn, "a stream whose tenant or credential stands no more is still running"
		attrs = append(attrs, slog.String("reason", e.Outlived))
	}
	l.log.LogAttrs(context.Background(), level, text, attrs...)
}

func labelsOf(e *Entry) Labels {
	l := Labels{Final: e.Final, GRPC: e.GRPC, Class: "other"}
	switch {
	case e.GRPC && e.GRPCStatus == 0:
		l.Class = "ok"
	case e.GRPC && serverFault(e.GRPCStatus):
		l.Class = "server"
	case e.GRPC:
		l.Class = "client"
	case e.Code >= 100 && e.Code < 600:
		l.Class = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}[e.Code/100-1]
	}
	return l
}

// serverFault are the codes that the gRPC conventions of OpenTelemetry count as a
// server's error: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
func serverFault(code uint32) bool {
	switch code {
	case 2, 4, 12, 13, 14, 15:
		return true
	default:
		return code > 16
	}
}
