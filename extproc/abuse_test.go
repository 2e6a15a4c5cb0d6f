package extproc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/extproc"
	"github.com/voicecore-ai/sluice/gate"
)

// counting is a gate that counts how often it is asked.
type counting struct {
	gate *gate.Gate
	mu   sync.Mutex
	n    int
}

func (c *counting) Admit(ctx context.Context, now int64, r *gate.Request, d *gate.Decision) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	c.gate.Admit(ctx, now, r, d)
}

func counted() (*extproc.Server, *counting) {
	c := &counting{gate: answertest.Gate(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()})}
	return extproc.New(extproc.Options{Gate: c, Answers: answer.NewWriter(answer.Draft10), Peer: known, Log: slog.New(slog.DiscardHandler)}), c
}

func TestARequestIsChargedOnceWhateverAnswersIt(t *testing.T) {
	local := &request{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: httpHeaders(":status", "503")}}
	for _, c := range []struct {
		name     string
		messages []*request
		charges  int
	}{
		{"E-09 a local reply that never was a request is charged nothing", []*request{local}, 0},
		{"E-09 a local reply with a body is charged nothing", []*request{local, responseBody()}, 0},
		{"E-09 a local reply to an admitted request is charged no second time", []*request{good(), local}, 1},
		{"E-10 both phases on charge once", []*request{good(), requestBody(), responseHeaders(), responseBody()}, 1},
		{"E-10 a response before the request's body has ended charges once", []*request{good(), responseHeaders(), requestBody(), requestTrailers(), responseTrailers()}, 1},
		{"E-02 request headers twice charge once", []*request{good(), good()}, 1},
		{"E-02 a response first and then a request charges nothing", []*request{responseHeaders(), good()}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, gate := counted()
			talk(t, s, c.messages...) //nolint:errcheck // how it ends is tested elsewhere
			if gate.n != c.charges {
				t.Errorf("charged %d times, want %d", gate.n, c.charges)
			}
		})
	}
}

func TestBodiesPassInAnyPieces(t *testing.T) {
	const size = 1_200_000
	whole := bytes.Repeat([]byte("ü"), size/2)
	for _, piece := range []int{16 << 10, 1 << 20, 12_001} { // the last cuts runes in two
		t.Run(fmt.Sprintf("E-04 a body of 1.2 MB in pieces of %d bytes, and no answer holds any of it", piece), func(t *testing.T) {
			messages := []*request{good()}
			for b := whole; len(b) > 0; b = b[min(piece, len(b)):] {
				messages = append(messages, &request{Request: &extprocv3.ProcessingRequest_RequestBody{
					RequestBody: &extprocv3.HttpBody{Body: b[:min(piece, len(b))], EndOfStream: len(b) <= piece},
				}})
			}
			s, _ := counted()
			answers, err := talk(t, s, messages...)
			if err != nil || len(answers) != len(messages) {
				t.Fatalf("%d answers to %d, %v", len(answers), len(messages), err)
			}
			for _, a := range answers[1:] {
				if a.GetRequestBody().GetResponse().GetBodyMutation() != nil || a.GetModeOverride() != nil {
					t.Fatalf("%v", a)
				}
			}
		})
	}
	t.Run("E-03 the end of a body twice, and an empty last piece, are answered like any", func(t *testing.T) {
		last := &request{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{EndOfStream: true}}}
		s, gate := counted()
		if answers, err := talk(t, s, good(), requestBody(), last, last, responseHeaders()); err != nil || len(answers) != 5 || gate.n != 1 {
			t.Errorf("%d answers, %v, charged %d times", len(answers), err, gate.n)
		}
	})
	t.Run("E-03 headers that are the end of the stream are answered once", func(t *testing.T) {
		r := good()
		r.GetRequestHeaders().EndOfStream = true
		s, _ := counted()
		if answers, err := talk(t, s, r); err != nil || len(answers) != 1 {
			t.Errorf("%d answers, %v", len(answers), err)
		}
	})
}

func TestNoAnswerAsksForAnotherMode(t *testing.T) {
	s, _ := counted()
	answers, err := talk(t, s, good(), requestBody(), requestTrailers(), responseHeaders(), responseBody(), responseTrailers())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		if a.GetModeOverride() != nil || a.GetOverrideMessageTimeout() != nil {
			t.Errorf("E-05 security hangs on an override: %v", a)
		}
	}
}

func TestAnUpgradeIsServedWithoutBodiesOnly(t *testing.T) {
	for _, upgrade := range [][]string{
		{"upgrade", "websocket", "connection", "Upgrade"}, {":protocol", "websocket", ":method", "CONNECT"}, {":method", "CONNECT"},
	} {
		for mode, name := range modev3.ProcessingMode_BodySendMode_name {
			for _, direction := range []string{"request", "response"} {
				t.Run(fmt.Sprintf("E-06 %s in %s body mode %s", upgrade[1], direction, name), func(t *testing.T) {
					r := requestHeaders(append([]string{"x-api-key", answertest.Key}, upgrade...)...)
					r.ProtocolConfig = &extprocv3.ProtocolConfiguration{RequestBodyMode: modev3.ProcessingMode_BodySendMode(mode)}
					if direction == "response" {
						r.ProtocolConfig = &extprocv3.ProtocolConfiguration{ResponseBodyMode: modev3.ProcessingMode_BodySendMode(mode)}
					}
					s, gate := counted()
					answers, err := talk(t, s, r)
					if mode == 0 {
						if err != nil || len(answers) != 1 || answers[0].GetRequestHeaders() == nil {
							t.Errorf("%v, %v", answers, err)
						}
						return
					}
					if status.Code(err) != codes.FailedPrecondition || gate.n != 0 {
						t.Errorf("%v, %v; charged %d times", answers, err, gate.n)
					}
				})
			}
		}
	}
}

// Whatever the caller sends, what we set and remove are names of ours and of the
// credentials: Envoy would refuse to change others, and nothing may hang on that.
func TestOnlyHeadersOfOursAreChanged(t *testing.T) {
	s, _ := counted()
	answers, err := talk(t, s, requestHeaders("x-api-key", answertest.Key, ":authority", "a", ":method", "GET", ":scheme", "http",
		"x-envoy-original-path", "/admin", "x-envoy-internal", "true", "x-forwarded-for", "10.0.0.1",
		"x-sluice-tenant", "evil", "x-tenant-id", "evil", "Tenant_ID", "evil"), responseHeaders())
	if err != nil || len(answers) != 2 {
		t.Fatalf("%v, %v", answers, err)
	}
	m := answers[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
	names := slices.Clone(m.GetRemoveHeaders())
	for _, h := range m.GetSetHeaders() {
		names = append(names, h.GetHeader().GetKey())
	}
	for _, h := range answers[1].GetResponseHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
		names = append(names, h.GetHeader().GetKey())
	}
	for _, name := range names {
		if strings.HasPrefix(name, ":") || name == "host" || strings.HasPrefix(name, "x-envoy-") {
			t.Errorf("E-11 %s is changed", name)
		}
	}
	if answers[0].GetRequestHeaders().GetResponse().GetClearRouteCache() {
		t.Error("C-03 the request is routed again after it was authorized")
	}
}

// F-06, E-08: 8,000 streams that Envoy resets at every point leave nothing behind.
func TestStreamsThatAreResetLeaveNothing(t *testing.T) {
	streams := 8_000
	if testing.Short() {
		streams = 2_000
	}
	s := extproc.New(extproc.Options{
		Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Off), Peer: known, Log: slog.New(slog.DiscardHandler),
		Recheck:  func(int64, *gate.Held) (bool, gate.Reason) { return true, gate.ReasonAdmitted },
		Revision: func() uint64 { return 7 },
	})
	running, stop := context.WithCancel(t.Context())
	defer stop()
	go s.Run(running)
	client := dial(t, s)
	reset := func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := client.Process(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		messages := [][]*request{{}, {good()}, {good(), responseHeaders()}, {requestHeaders()}}[i%4]
		for _, m := range messages {
			if stream.Send(m) != nil {
				return
			}
			if i%8 < 4 { // half of them without waiting for the answer
				if _, err := stream.Recv(); err != nil {
					return
				}
			}
		}
	}
	for i := range 8 {
		reset(i)
	}
	await.That(t, "no stream lives", func() bool { return s.Live() == 0 })
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := range streams / 16 {
				reset(i + worker)
			}
		})
	}
	wg.Wait()
	await.That(t, fmt.Sprintf("no stream lives, and there are as many goroutines as before, %d", before), func() bool {
		return s.Live() == 0 && runtime.NumGoroutine() <= before+8
	})
	if n := s.Panics(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// BenchmarkLiveStream says what one more running stream costs in memory, the client's half included.
func BenchmarkLiveStream(b *testing.B) {
	b.Run("headers of a browser", func(b *testing.B) { liveStreams(b, good()) })
	b.Run("the most headers that are held", func(b *testing.B) {
		liveStreams(b, requestHeaders("x-api-key", answertest.Key, "x-long", strings.Repeat("a", 8000)))
	})
	b.Run("the most that Envoy sends", func(b *testing.B) {
		liveStreams(b, requestHeaders("x-api-key", answertest.Key, "x-long", strings.Repeat("a", 58<<10)))
	})
}

func liveStreams(b *testing.B, in *request) {
	s := extproc.New(extproc.Options{
		Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Off), Peer: known, Log: slog.New(slog.DiscardHandler),
		Recheck:  func(int64, *gate.Held) (bool, gate.Reason) { return true, gate.ReasonAdmitted },
		Revision: func() uint64 { return 7 },
	})
	client := dial(b, s)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for b.Loop() {
		stream, err := client.Process(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := stream.Send(in); err != nil {
			b.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			b.Fatal(err)
		}
		n++
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/float64(n), "B/stream")
	b.ReportMetric(float64(runtime.NumGoroutine())/float64(n), "goroutines/stream")
}
