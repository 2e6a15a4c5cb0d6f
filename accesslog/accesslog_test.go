package accesslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/accesslog"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/gate"
)

type memory struct {
	mu      sync.Mutex
	entries []accesslog.Entry
}

func (m *memory) Record(e accesslog.Entry) {
	if e.Tenant == "panic" {
		panic("asked to")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = append(m.entries, e)
}

type rig struct {
	*memory
	door *accesslog.Server
	gate *gate.Gate
	conn *grpc.ClientConn
}

func newRig(t *testing.T, remember int) *rig {
	t.Helper()
	r := &rig{memory: new(memory), gate: answertest.Gate(answertest.Config{})}
	r.door = accesslog.New(accesslog.Options{
		Verifier: r.gate, Recorder: r, Remember: remember, Log: slog.New(slog.DiscardHandler),
		Peer: func(context.Context) (string, bool) { return answertest.Peer, true },
	})
	r.conn = answertest.Dial(t, r.door)
	return r
}

// mint asks the gate for a decision, as a Check of that peer does.
func (r *rig) mint(peer string) string {
	var d gate.Decision
	r.gate.Admit(context.Background(), 0, &gate.Request{Peer: peer}, &d)
	return gate.FormatID(d.ID)
}

type log = datav3.HTTPAccessLogEntry

func entry(id string, kind datav3.AccessLogType) *log {
	ours, _ := structpb.NewStruct(map[string]any{
		"sluice_decision_id": id, "sluice_tenant": "acme", "sluice_plan": "pro", "sluice_principal": "api-key/k1", "sluice_proof": "api_key 0 00",
	})
	return &log{
		CommonProperties: &datav3.AccessLogCommon{
			AccessLogType: kind,
			StartTime:     timestamppb.New(time.Unix(1000, 0)),
			Duration:      durationpb.New(1500 * time.Millisecond),
			Metadata:      &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.ext_authz": ours}},
			ResponseFlags: &datav3.ResponseFlags{UpstreamRequestTimeout: true, NoRouteFound: true},
			RouteName:     "calls", UpstreamCluster: "voice", UpstreamRequestAttemptCount: 2,
		},
		Request: &datav3.HTTPRequestProperties{
			RequestMethod: corev3.RequestMethod_GET, Authority: "api.example.com", Path: "/v1/calls?token=sk_secret",
			RequestId: "abc", RequestHeadersBytes: 10, RequestBodyBytes: 20,
		},
		Response: &datav3.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(200), ResponseHeadersBytes: 30, ResponseBodyBytes: 40, ResponseCodeDetails: "via_upstream",
		},
	}
}

func final(id string) *log { return entry(id, datav3.AccessLogType_DownstreamEnd) }

func message(entries ...*log) *alsv3.StreamAccessLogsMessage {
	return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
	}}
}

// send streams messages, waits for the door to have read them, and returns what was recorded.
func (r *rig) send(t *testing.T, messages ...any) []accesslog.Entry {
	t.Helper()
	desc := &grpc.StreamDesc{ClientStreams: true}
	stream, err := r.conn.NewStream(t.Context(), desc, alsv3.AccessLogService_StreamAccessLogs_FullMethodName, grpc.ForceCodec(half{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := stream.SendMsg(m); err != nil {
			t.Fatalf("the stream ended: %v", err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(alsv3.StreamAccessLogsResponse)); err != nil {
		t.Fatalf("the stream ended: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.entries)
}

func (r *rig) counts(t *testing.T, want map[accesslog.Result]uint64) {
	t.Helper()
	for _, result := range accesslog.Results() {
		if got := r.door.Count(result); got != want[result] {
			t.Errorf("%v: %d, want %d", result, got, want[result])
		}
	}
}

// half sends bytes as they are and messages as protobuf.
type half struct{}

func (half) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return proto.Marshal(v.(proto.Message))
}
func (half) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (half) Name() string                    { return "proto" }

func TestAFinalEntrySettlesItsDecisionOnce(t *testing.T) {
	r := newRig(t, 0)
	id := r.mint(answertest.Peer)
	periodic := entry(id, datav3.AccessLogType_DownstreamPeriodic)
	got := r.send(t, message(periodic), message(periodic, final(id), final(id)), message(final(id), periodic))
	if len(got) != 3 || got[0].Final || got[1].Final || !got[2].Final {
		t.Fatalf("recorded %+v", got)
	}
	r.counts(t, map[accesslog.Result]uint64{accesslog.Renewed: 2, accesslog.Settled: 1, accesslog.Duplicate: 3})
	want := accesslog.Entry{
		ID: got[2].ID, Peer: answertest.Peer, Tenant: "acme", Plan: "pro", Principal: "api-key/k1", Final: true,
		Start: time.Unix(1000, 0).UTC(), Duration: 1500 * time.Millisecond, Method: "GET", Authority: "api.example.com",
		Path: "/v1/calls", RequestID: "abc", Route: "calls", Cluster: "voice", Attempts: 2, Code: 200, GRPCStatus: 2,
		Flags: got[2].Flags, Details: "via_upstream", BytesIn: 30, BytesOut: 70,
	}
	if got[2] != want || gate.FormatID(got[2].ID) != id {
		t.Errorf("recorded\n%+v, want\n%+v", got[2], want)
	}
	if names := got[2].Flags.Names(); !slices.Equal(names, []string{"upstream_request_timeout", "no_route_found"}) {
		t.Errorf("flags %v", names)
	}
}

func TestOnlyThePeerThatGotADecisionSettlesIt(t *testing.T) {
	r := newRig(t, 0)
	id := r.mint(answertest.Peer)
	flipped := "0" + id[1:]
	if flipped == id {
		flipped = "1" + id[1:]
	}
	got := r.send(t, message(
		final(r.mint("spiffe://other")), final(flipped), final("nonsense"), final(strings.Repeat("0", 32)),
		final(""), &log{}, &log{CommonProperties: &datav3.AccessLogCommon{AccessLogType: datav3.AccessLogType_DownstreamEnd}},
		entry(id, datav3.AccessLogType_UpstreamEnd), entry(id, datav3.AccessLogType_NotSet), entry(id, datav3.AccessLogType_DownstreamStart),
	))
	if len(got) != 0 {
		t.Errorf("recorded %+v", got)
	}
	r.counts(t, map[accesslog.Result]uint64{accesslog.Forged: 4, accesslog.Missing: 2, accesslog.Ignored: 4})
}

func TestAStreamSurvivesWhatIsBroken(t *testing.T) {
	r := newRig(t, 0)
	bad := entry(r.mint(answertest.Peer), datav3.AccessLogType_DownstreamEnd)
	bad.CommonProperties.Metadata.FilterMetadata["envoy.filters.http.ext_authz"].Fields["sluice_tenant"] = structpb.NewStringValue("panic")
	got := r.send(t, []byte{}, []byte("\xff\xff\xff"), nest(2, []byte("\xff\xff")), nest(2, nest(1, []byte("\xff"))),
		nest(3, []byte("tcp logs")), message(bad), message(final(r.mint(answertest.Peer))))
	if len(got) != 1 {
		t.Errorf("recorded %+v", got)
	}
	r.counts(t, map[accesslog.Result]uint64{accesslog.Malformed: 3, accesslog.Failed: 1, accesslog.Settled: 1})
}

func nest(number protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
}

// A client that puts such bytes in its path must not escape the audit, nor take
// the others of its batch with it.
func TestBytesThatAreNoTextDoNotHideARequest(t *testing.T) {
	r := newRig(t, 0)
	encode := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ids := []string{r.mint(answertest.Peer), r.mint(answertest.Peer), r.mint(answertest.Peer), r.mint(answertest.Peer)}
	inPath := append(encode(final(ids[0])), nest(3, nest(5, []byte("/\xff")))...)
	inSNI := append(encode(final(ids[1])), nest(1, nest(4, nest(2, []byte("\xff"))))...)
	inMetadata := append(encode(final(ids[2])), nest(1, nest(17, nest(1, append(nest(1, []byte("jwt")), nest(2, []byte("\xff"))...))))...)
	var logs []byte
	for _, e := range [][]byte{inPath, inSNI, inMetadata, encode(final(ids[3]))} {
		logs = append(logs, nest(1, e)...)
	}
	got := r.send(t, nest(2, logs))
	if len(got) != len(ids) {
		t.Fatalf("recorded %d of %d", len(got), len(ids))
	}
	for i, e := range got {
		if gate.FormatID(e.ID) != ids[i] || e.Code != 200 || e.Tenant != "acme" || e.BytesOut != 70 || e.Duration != 1500*time.Millisecond {
			t.Errorf("%d: recorded %+v", i, e)
		}
	}
}

func TestAGRPCCallIsJudgedByItsStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*log)
		grpc   bool
		status uint32
	}{
		{"HTTP", func(*log) {}, false, 2},
		{"a trailer", func(l *log) { l.Response.ResponseTrailers = map[string]string{"grpc-status": "0"} }, true, 0},
		{"a header", func(l *log) { l.Response.ResponseHeaders = map[string]string{"grpc-status": "8"} }, true, 8},
		{"no number", func(l *log) { l.Response.ResponseHeaders = map[string]string{"grpc-status": "-1"} }, true, 2},
		{"cut off", func(l *log) { l.Response.ResponseHeaders = map[string]string{"content-type": "application/grpc"} }, true, 2},
		{"never begun", func(l *log) { l.Request.RequestHeaders = map[string]string{"content-type": "application/grpc+proto"} }, true, 2},
		{"gRPC-Web", func(l *log) { l.Request.RequestHeaders = map[string]string{"content-type": "application/grpc-web"} }, false, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 0)
			l := final(r.mint(answertest.Peer))
			tt.change(l)
			got := r.send(t, message(l))
			if len(got) != 1 || got[0].GRPC != tt.grpc || got[0].GRPCStatus != tt.status {
				t.Errorf("recorded %+v", got)
			}
		})
	}
}

func TestTheSettledAreRememberedWithinABound(t *testing.T) {
	const n = 8
	r := newRig(t, n)
	ids := make([]string, 3*n)
	logs := make([]*log, len(ids))
	for i := range ids {
		ids[i] = r.mint(answertest.Peer)
		logs[i] = final(ids[i])
	}
	r.send(t, message(logs...), message(logs[2*n:]...))
	r.counts(t, map[accesslog.Result]uint64{accesslog.Settled: 3 * n, accesslog.Duplicate: n})
}

func TestAnUnknownPeerIsRefused(t *testing.T) {
	r := newRig(t, 0)
	conn := answertest.Dial(t, accesslog.New(accesslog.Options{
		Verifier: r.gate, Recorder: r, Peer: func(context.Context) (string, bool) { return "", false },
	}))
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
}

func TestLongStringsAreCutBetweenRunes(t *testing.T) {
	r := newRig(t, 0)
	l := final(r.mint(answertest.Peer))
	l.Request.Path = "/" + strings.Repeat("é", 4000)
	got := r.send(t, message(l))
	if len(got) != 1 || len(got[0].Path) != 511 || strings.ContainsRune(got[0].Path, '\uFFFD') {
		t.Errorf("recorded %+v", got)
	}
}

func TestA03TheLoggerMasksWhatACallerChose(t *testing.T) {
	var out bytes.Buffer
	l := accesslog.NewLogger(accesslog.LoggerOptions{Log: slog.New(slog.NewTextHandler(&out, nil)), Mask: audit.NewMask([32]byte{1}), Queue: 1})
	const key = "slk_abcdefgh_0123456789012345678901234567890123456789012"
	l.Record(accesslog.Entry{Final: true, Path: "/v1/" + key, Authority: key + ".example.com", RequestID: "Bearer%20" + key, Details: key})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(ctx)
	if text := out.String(); strings.Contains(text, "abcdefgh") || strings.Count(text, "[masked:") != 4 || !strings.Contains(text, "/v1/[masked:") {
		t.Errorf("%s", text)
	}
}

func TestF04StrangersCannotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := accesslog.NewLogger(accesslog.LoggerOptions{Log: slog.New(slog.NewTextHandler(&out, nil)), Queue: 100_000})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		const flood = 10_000
		for range 10 { // a second
			for range flood / 10 {
				l.Record(accesslog.Entry{Final: true, Code: 401})
				l.Record(accesslog.Entry{Final: true, Code: 200, Tenant: "acme"})
			}
			time.Sleep(100 * time.Millisecond)
		}
		cancel()
		<-done
		text := out.String()
		strangers := strings.Count(text, "code=401")
		if known := strings.Count(text, "tenant=acme"); strangers > 260 || known != flood || l.Dropped() != 0 {
			t.Errorf("%d lines of strangers, %d of a tenant, %d dropped", strangers, known, l.Dropped())
		}
		counted := 0
		for line := range strings.Lines(text) {
			if _, n, ok := strings.Cut(line, "not logged one by one\" count="); ok {
				i, _ := strconv.Atoi(strings.TrimSpace(n))
				counted += i
			}
		}
		if counted+strangers != flood {
			t.Errorf("%d logged and %d counted of %d", strangers, counted, flood)
		}
	})
}

func TestTheLoggerWritesWhatIsFinalAndDropsWhatDoesNotFit(t *testing.T) {
	var out bytes.Buffer
	var labels []accesslog.Labels
	l := accesslog.NewLogger(accesslog.LoggerOptions{
		Log: slog.New(slog.NewJSONHandler(&out, nil)), Metric: func(l accesslog.Labels, _ *accesslog.Entry) { labels = append(labels, l) }, Queue: 2,
	})
	l.Record(accesslog.Entry{Code: 200})
	l.Record(accesslog.Entry{Final: true, Code: 200, Tenant: "acme", Path: "/\n\x1b[31m"})
	l.Record(accesslog.Entry{Final: true, Code: 200, GRPC: true, GRPCStatus: 8})
	l.Record(accesslog.Entry{Final: true, Code: 200, GRPC: true, GRPCStatus: 14})
	if l.Dropped() != 1 {
		t.Errorf("dropped %d", l.Dropped())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(ctx)
	want := []accesslog.Labels{{Class: "2xx"}, {Final: true, Class: "2xx"}, {Final: true, GRPC: true, Class: "client"}, {Final: true, GRPC: true, Class: "server"}}
	if !slices.Equal(labels, want) {
		t.Errorf("labels %v", labels)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("lines %q", lines)
	}
	var record struct {
		Tenant string  `json:"tenant"`
		Path   string  `json:"path"`
		GRPC   *uint32 `json:"grpc_status"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &record); err != nil || record.Tenant != "acme" || record.Path != "/\n\x1b[31m" || record.GRPC != nil {
		t.Errorf("%s: %v", lines[0], err)
	}
}

func TestASlowLogBlocksNobody(t *testing.T) {
	gone, held := make(chan struct{}), make(chan struct{})
	l := accesslog.NewLogger(accesslog.LoggerOptions{Log: slog.New(slog.NewTextHandler(stuck{held, gone}, nil)), Queue: 1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { l.Run(ctx); close(done) }()
	l.Record(accesslog.Entry{Final: true})
	<-held
	for range 100 {
		l.Record(accesslog.Entry{Final: true})
	}
	if l.Dropped() != 99 {
		t.Errorf("dropped %d, want 99", l.Dropped())
	}
	cancel()
	close(gone)
	<-done
}

// stuck is a disk that hangs on the first write.
type stuck struct{ held, gone chan struct{} }

func (s stuck) Write(b []byte) (int, error) {
	select {
	case <-s.gone:
	default:
		close(s.held)
		<-s.gone
	}
	return io.Discard.Write(b)
}

func FuzzMessage(f *testing.F) {
	g := answertest.Gate(answertest.Config{})
	var d gate.Decision
	g.Admit(context.Background(), 0, &gate.Request{Peer: answertest.Peer}, &d)
	b, err := proto.Marshal(message(final(gate.FormatID(d.ID))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, nest(2, nest(1, nest(3, nest(5, []byte("/\xff")))))...))
	m := new(memory)
	s := accesslog.New(accesslog.Options{
		Verifier: g, Recorder: m, Remember: 1, Peer: func(context.Context) (string, bool) { return answertest.Peer, true },
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		s.Message(answertest.Peer, in)
		if s.Count(accesslog.Failed) > 0 && !bytes.Contains(in, []byte("panic")) {
			t.Error("a panic")
		}
		for _, e := range m.entries {
			if _, ours := g.VerifyID(gate.FormatID(e.ID), answertest.Peer); !ours {
				t.Errorf("recorded %+v", e)
			}
		}
		m.entries = m.entries[:0]
	})
}

func BenchmarkMessage(b *testing.B) {
	g := answertest.Gate(answertest.Config{})
	m := accesslog.NewLogger(accesslog.LoggerOptions{Log: slog.New(slog.DiscardHandler), Queue: 1})
	s := accesslog.New(accesslog.Options{
		Verifier: g, Recorder: m, Peer: func(context.Context) (string, bool) { return answertest.Peer, true },
	})
	var d gate.Decision
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		g.Admit(context.Background(), 0, &gate.Request{Peer: answertest.Peer}, &d)
		in, err := proto.Marshal(message(final(gate.FormatID(d.ID))))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		s.Message(answertest.Peer, in)
	}
}
