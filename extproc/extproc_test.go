package extproc_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/extproc"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit"
)

func known(context.Context) (string, bool) { return answertest.Peer, true }

func door(c answertest.Config) *extproc.Server {
	return extproc.New(extproc.Options{
		Gate: answertest.Gate(c), Answers: answer.NewWriter(answer.Draft10), Peer: known, Log: slog.New(slog.DiscardHandler),
	})
}

func dial(t testing.TB, s *extproc.Server) extprocv3.ExternalProcessorClient {
	t.Helper()
	return extprocv3.NewExternalProcessorClient(answertest.Dial(t, s))
}

type (
	request  = extprocv3.ProcessingRequest
	response = extprocv3.ProcessingResponse
)

func httpHeaders(pairs ...string) *extprocv3.HttpHeaders {
	m := new(corev3.HeaderMap)
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.HttpHeaders{Headers: m}
}

func requestHeaders(pairs ...string) *request {
	return &request{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: httpHeaders(append(extproc.Missing(pairs, ":method", "GET", ":authority", "api"), append([]string{":path", "/"}, pairs...)...)...),
	}}
}

func good() *request { return requestHeaders("x-api-key", answertest.Key) }

func byPrincipal(id string, r *request) *request {
	attributes, _ := structpb.NewStruct(map[string]any{"source.principal": id})
	r.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": attributes}
	return r
}

func responseHeaders() *request {
	return &request{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: httpHeaders(":status", "200")}}
}

func requestBody() *request {
	return &request{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("a")}}}
}

func responseBody() *request {
	return &request{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: []byte("a")}}}
}

func requestTrailers() *request {
	return &request{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}}
}

func responseTrailers() *request {
	return &request{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}}
}

// talk sends one message after another and returns the answers and how the stream ended.
func talk(t *testing.T, s *extproc.Server, messages ...*request) ([]*response, error) {
	t.Helper()
	stream, err := dial(t, s).Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var answers []*response
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			break // the end is what Recv says
		}
		r, err := stream.Recv()
		if err != nil {
			return answers, err
		}
		answers = append(answers, r)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err == nil {
		t.Fatalf("an answer to nothing: %v", r)
	} else if !errors.Is(err, io.EOF) {
		return answers, err
	}
	return answers, nil
}

func set(t *testing.T, m *extprocv3.HeaderMutation) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, o := range m.GetSetHeaders() {
		if _, twice := out[o.Header.Key]; twice || o.Header.Value != "" || o.Append == nil || o.Append.Value ||
			o.AppendAction != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%v does not overwrite once with raw_value", o)
		}
		out[o.Header.Key] = string(o.Header.RawValue)
	}
	return out
}

func TestEveryRefusalIsAnImmediateResponse(t *testing.T) {
	over := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()}
	twice := requestHeaders("x-api-key", answertest.Key)
	twice.GetRequestHeaders().Headers.Headers[3].Value = "sk_other"
	for _, tt := range []struct {
		name   string
		config answertest.Config
		in     *request
		want   int32
	}{
		{"no headers", answertest.Config{}, &request{Request: &extprocv3.ProcessingRequest_RequestHeaders{}}, 400},
		{"no credential", answertest.Config{}, requestHeaders(), 401},
		{"an unknown key", answertest.Config{}, requestHeaders("x-api-key", "sk_\xff"), 401},
		{"two keys", answertest.Config{}, requestHeaders("x-api-key", answertest.Key, "x-api-key", answertest.Key), 401},
		{"a header with two values", answertest.Config{}, twice, 400},
		{"two paths", answertest.Config{}, requestHeaders("x-api-key", answertest.Key, ":path", "/admin"), 400},
		{"a principal that is no SPIFFE id", answertest.Config{}, byPrincipal("CN=a", requestHeaders()), 401},
		{"a suspended tenant", answertest.Config{}, requestHeaders("x-api-key", answertest.SuspendedKey), 403},
		{"a limit", over, good(), 429},
		{"a store that fails", answertest.Config{Err: io.ErrUnexpectedEOF}, good(), 503},
		{"a plan that would break the header", answertest.Config{Plan: "a\nb"}, good(), 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers, err := talk(t, door(tt.config), tt.in)
			if err != nil || len(answers) != 1 {
				t.Fatalf("%d answers, %v", len(answers), err)
			}
			immediate := answers[0].GetImmediateResponse()
			if immediate == nil || int32(immediate.GetStatus().GetCode()) != tt.want {
				t.Fatalf("want %d: %v", tt.want, answers[0])
			}
			h := set(t, immediate.Headers)
			if h["content-type"] != "application/problem+json" || !json.Valid(immediate.Body) || immediate.GrpcStatus != nil {
				t.Errorf("no problem: %v, %s", h, immediate.Body)
			}
			if strings.Contains(answers[0].String(), "sk_") {
				t.Errorf("a credential is in the answer: %v", answers[0])
			}
			ours := answers[0].GetDynamicMetadata().GetFields()["envoy.filters.http.ext_authz"].GetStructValue().GetFields()
			if id := ours["sluice_decision_id"].GetStringValue(); len(id) != 32 || id != h["x-sluice-decision-id"] {
				t.Errorf("decision %q in the metadata, %q in the headers", id, h["x-sluice-decision-id"])
			}
		})
	}
	t.Run("to a gRPC caller", func(t *testing.T) {
		answers, err := talk(t, door(over), requestHeaders("x-api-key", answertest.Key, "content-type", "application/grpc"))
		if err != nil || len(answers) != 1 {
			t.Fatalf("%d answers, %v", len(answers), err)
		}
		immediate := answers[0].GetImmediateResponse()
		h := set(t, immediate.GetHeaders())
		if immediate.GetGrpcStatus().GetStatus() != 8 || h["grpc-status"] != "8" || h["grpc-status-details-bin"] == "" || len(immediate.GetBody()) > 0 {
			t.Errorf("no gRPC refusal: %v", answers[0])
		}
	})
}

func TestNothingIsAnsweredAfterARefusal(t *testing.T) {
	stream, err := dial(t, door(answertest.Config{})).Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*request{requestHeaders(), good(), responseHeaders()} {
		if err := stream.Send(m); err != nil {
			break
		}
	}
	if r, err := stream.Recv(); err != nil || r.GetImmediateResponse() == nil {
		t.Fatalf("%v, %v", r, err)
	}
	if r, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the refusal: %v, %v", r, err)
	}
}

func TestAnAdmittedStreamIsAnsweredToItsEnd(t *testing.T) {
	config := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()}
	answers, err := talk(t, door(config), requestHeaders("x-api-key", answertest.Key, "x_tenant_id", "evil", "x-tenant-id", "evil"),
		requestBody(), requestBody(), requestTrailers(), responseHeaders(), responseBody(), responseBody(), responseTrailers())
	if err != nil || len(answers) != 8 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	mutation := answers[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
	h := set(t, mutation)
	if h["x-tenant-id"] != "acme" || h["x-sluice-principal"] != "api-key/k1" || h["x-sluice-plan"] != "pro" || len(h["x-sluice-decision-id"]) != 32 {
		t.Errorf("headers %v", h)
	}
	if removed := mutation.GetRemoveHeaders(); !slices.Equal(removed, []string{"x-api-key", "x_tenant_id"}) {
		t.Errorf("removed %q", removed)
	}
	back := set(t, answers[4].GetResponseHeaders().GetResponse().GetHeaderMutation())
	if back["ratelimit"] != `"burst";r=42;t=35` || back["ratelimit-policy"] == "" {
		t.Errorf("to the client: %v", back)
	}
	for i, ok := range []bool{
		answers[1].GetRequestBody() != nil, answers[2].GetRequestBody() != nil, answers[3].GetRequestTrailers() != nil,
		answers[5].GetResponseBody() != nil, answers[6].GetResponseBody() != nil, answers[7].GetResponseTrailers() != nil,
	} {
		if !ok {
			t.Errorf("answer %d is to another message", i)
		}
	}
}

func TestInTheSoftStageAStreamWithoutACallerGoesOnWithoutATenant(t *testing.T) {
	soft := answertest.Config{Soft: true, Limits: answertest.Limits(), Outcomes: answertest.Over()}
	for name, c := range map[string]struct {
		first  *request
		tenant string
	}{
		"without a credential": {requestHeaders("x-tenant-id", "evil", "x_tenant_id", "evil", "x-sluice-admin", "a.b"), ""},
		"over a limit":         {requestHeaders("x-tenant-id", "evil", "x_tenant_id", "evil", "x-sluice-admin", "a.b", "x-api-key", answertest.Key), "acme"},
	} {
		t.Run(name, func(t *testing.T) {
			answers, err := talk(t, door(soft), c.first, responseHeaders())
			if err != nil || len(answers) != 2 {
				t.Fatalf("%d answers, %v", len(answers), err)
			}
			mutation := answers[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
			if h := set(t, mutation); h["x-tenant-id"] != c.tenant || len(h["x-sluice-decision-id"]) != 32 {
				t.Errorf("told: %v", h)
			}
			for _, name := range []string{"x-tenant-id", "x_tenant_id", "x-sluice-admin"} {
				if (name != "x-tenant-id" || c.tenant == "") && !slices.Contains(mutation.GetRemoveHeaders(), name) {
					t.Errorf("the upstream gets the client's %s", name)
				}
			}
		})
	}
	answers, _ := talk(t, door(answertest.Config{Soft: true}), requestHeaders(":path", "/a/../b"))
	if len(answers) != 1 || answers[0].GetImmediateResponse().GetStatus().GetCode() != 400 {
		t.Errorf("what can be read two ways: %v", answers)
	}
}

func TestAWorkloadIsAdmittedByItsCertificate(t *testing.T) {
	answers, err := talk(t, door(answertest.Config{}), byPrincipal(answertest.SPIFFE, requestHeaders()))
	if err != nil || len(answers) != 1 || answers[0].GetRequestHeaders() == nil {
		t.Errorf("%v, %v", answers, err)
	}
}

func TestAResponseThatWasNoRequestPassesUntouched(t *testing.T) {
	answers, err := talk(t, door(answertest.Config{}), responseHeaders(), responseBody(), responseTrailers())
	if err != nil || len(answers) != 3 || answers[0].GetResponseHeaders() == nil {
		t.Fatalf("%v, %v", answers, err)
	}
	if m := answers[0].GetResponseHeaders().GetResponse().GetHeaderMutation(); m != nil {
		t.Errorf("changed: %v", m)
	}
}

func TestWhatComesOutOfOrderEndsTheStreamWithAnError(t *testing.T) {
	full := good()
	full.ProtocolConfig = &extprocv3.ProtocolConfiguration{RequestBodyMode: modev3.ProcessingMode_FULL_DUPLEX_STREAMED}
	for _, tt := range []struct {
		name     string
		messages []*request
		answers  int
		want     codes.Code
	}{
		{"nothing", nil, 0, codes.InvalidArgument},
		{"an empty message", []*request{{}}, 0, codes.InvalidArgument},
		{"a request body first", []*request{requestBody()}, 0, codes.InvalidArgument},
		{"a response body first", []*request{responseBody()}, 0, codes.InvalidArgument},
		{"request trailers first", []*request{requestTrailers()}, 0, codes.InvalidArgument},
		{"response trailers first", []*request{responseTrailers()}, 0, codes.InvalidArgument},
		{"request headers twice", []*request{good(), good()}, 1, codes.InvalidArgument},
		{"request headers after a response", []*request{responseHeaders(), good()}, 1, codes.InvalidArgument},
		{"response headers twice", []*request{good(), responseHeaders(), responseHeaders()}, 2, codes.InvalidArgument},
		{"a response body before its headers", []*request{good(), responseBody()}, 1, codes.InvalidArgument},
		{"a request body after its trailers", []*request{good(), requestTrailers(), requestBody()}, 2, codes.InvalidArgument},
		{"request trailers twice", []*request{good(), requestTrailers(), requestTrailers()}, 2, codes.InvalidArgument},
		{"response trailers twice", []*request{good(), responseTrailers(), responseTrailers()}, 2, codes.InvalidArgument},
		{"a response body after its trailers", []*request{good(), responseHeaders(), responseTrailers(), responseBody()}, 3, codes.InvalidArgument},
		{"a request body to a local response", []*request{responseHeaders(), requestBody()}, 1, codes.InvalidArgument},
		{"a body mode that wants other answers", []*request{full}, 0, codes.FailedPrecondition},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := door(answertest.Config{})
			answers, err := talk(t, s, tt.messages...)
			if status.Code(err) != tt.want || len(answers) != tt.answers {
				t.Errorf("%d answers, then %v; want %d and %v", len(answers), err, tt.answers, tt.want)
			}
			if len(tt.messages) > 0 && s.OutOfOrder() != 1 {
				t.Errorf("counted %d times", s.OutOfOrder())
			}
		})
	}
}

// panics is a gate that does what a gate never does.
type panics struct{}

func (panics) Admit(context.Context, int64, *gate.Request, *gate.Decision) { panic("sk_secret") }

func TestAPanicEndsTheStreamWithAnError(t *testing.T) {
	s := extproc.New(extproc.Options{
		Gate: panics{}, Answers: answer.NewWriter(answer.Off), Peer: known, Log: slog.New(slog.DiscardHandler),
	})
	answers, err := talk(t, s, good())
	if status.Code(err) != codes.Internal || len(answers) != 0 || strings.Contains(err.Error(), "sk_") {
		t.Errorf("%v, %v", answers, err)
	}
	if s.Panics() != 1 {
		t.Errorf("counted %d times", s.Panics())
	}
}

func TestAnUnknownPeerIsRefused(t *testing.T) {
	s := extproc.New(extproc.Options{
		Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Off),
		Peer: func(context.Context) (string, bool) { return "", false },
	})
	if _, err := talk(t, s, good()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
}

func TestAnObservedStreamIsClosedWithoutACharge(t *testing.T) {
	in := good()
	in.ObservabilityMode = true
	s := door(answertest.Config{Panic: "charged"})
	answers, err := talk(t, s, in)
	if !errors.Is(err, io.EOF) || len(answers) != 0 || s.Observed() != 1 || s.Panics() != 0 {
		t.Errorf("%v, %v, observed %d", answers, err, s.Observed())
	}
}

// Whatever comes in whatever order: as many answers as messages, each to its own
// message, and then an end; and no OK end before the request was answered.
func TestAnyOrderGetsOneAnswerEachOrAnError(t *testing.T) {
	client := dial(t, door(answertest.Config{}))
	kinds := map[string]func() *request{
		"refused": func() *request { return requestHeaders() }, "request headers": good, "response headers": responseHeaders,
		"request body": requestBody, "response body": responseBody, "request trailers": requestTrailers,
		"response trailers": responseTrailers, "nothing": func() *request { return &request{} },
	}
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	rapid.Check(t, func(rt *rapid.T) {
		order := rapid.SliceOfN(rapid.SampledFrom(names), 0, 8).Draw(rt, "order")
		stream, err := client.Process(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		for _, name := range order {
			if stream.Send(kinds[name]()) != nil {
				break
			}
		}
		_ = stream.CloseSend() //nolint:errcheck // the end is what Recv says
		answers := 0
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) && answers == 0 {
				rt.Error("an OK end without an answer: Envoy lets the request go on")
			}
			if err != nil {
				break
			}
			if answers == len(order) {
				rt.Fatalf("an answer to nothing: %v", r)
			}
			if !answersTo(order[answers], r) {
				rt.Errorf("to %s: %v", order[answers], r)
			}
			answers++
		}
	})
}

func answersTo(asked string, r *response) bool {
	switch asked {
	case "refused":
		return r.GetImmediateResponse() != nil
	case "request headers":
		return r.GetRequestHeaders() != nil
	case "response headers":
		return r.GetResponseHeaders() != nil
	case "request body":
		return r.GetRequestBody() != nil
	case "response body":
		return r.GetResponseBody() != nil
	case "request trailers":
		return r.GetRequestTrailers() != nil
	case "response trailers":
		return r.GetResponseTrailers() != nil
	default:
		return false
	}
}

func TestWhatTheDoorRefusesByItselfIsTold(t *testing.T) {
	full := good()
	full.ProtocolConfig = &extprocv3.ProtocolConfiguration{RequestBodyMode: modev3.ProcessingMode_FULL_DUPLEX_STREAMED}
	for _, c := range []struct {
		name     string
		peer     bool
		observe  func(context.Context, time.Time, *gate.Request, *gate.Decision)
		messages []*request
		want     string
	}{
		{"C-10 an unlisted peer", false, nil, []*request{good()}, " 192.0.2.7 forbidden: this peer may not ask"},
		{"E-02 what comes out of order", true, nil, []*request{requestBody()}, answertest.Peer + "  malformed: a request body came out of order"},
		{"E-02 what comes out of order after an admission", true, nil, []*request{good(), good()}, answertest.Peer + "  malformed: request headers came out of order, after decision "},
		{"E-07 a body mode that is not served", true, nil, []*request{full}, answertest.Peer + "  internal: body mode FULL_DUPLEX_STREAMED is not served"},
		{"F-02 a panic after an admission", true, func(context.Context, time.Time, *gate.Request, *gate.Decision) { panic("sk_secret") }, []*request{good()}, answertest.Peer + "  internal: the door failed, after decision "},
		{"F-02 no panic after a refusal, which is on record", true, func(context.Context, time.Time, *gate.Request, *gate.Decision) { panic("sk_secret") }, []*request{requestHeaders()}, ""},
		{"nothing of what goes well", true, nil, []*request{good(), responseHeaders()}, ""},
		{"nothing of what the gate refuses", true, nil, []*request{requestHeaders()}, ""},
	} {
		t.Run(c.name+" is told", func(t *testing.T) {
			var mu sync.Mutex
			var told []string
			s := extproc.New(extproc.Options{
				Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Off), Log: slog.New(slog.DiscardHandler), Observe: c.observe,
				Peer: func(context.Context) (string, bool) {
					if !c.peer {
						return "192.0.2.7", false
					}
					return answertest.Peer, true
				},
				Refused: func(_ int64, r *gate.Request, d *gate.Decision) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, r.Peer+" "+r.Credentials.Source+" "+d.Reason.String()+": "+d.Detail)
				},
			})
			_, _ = talk(t, s, c.messages...)
			mu.Lock()
			defer mu.Unlock()
			if c.want == "" && len(told) != 0 || c.want != "" && (len(told) != 1 || !strings.HasPrefix(told[0], c.want)) {
				t.Errorf("told %q, want %q", told, c.want)
			}
		})
	}
}

func TestADegradedAnswerSaysSo(t *testing.T) {
	for name, outcomes := range map[string][]ratelimit.Outcome{"when it admits": answertest.Left(), "when it refuses": answertest.Over()} {
		t.Run(name, func(t *testing.T) {
			outcomes[0].Degraded = true
			answers, err := talk(t, door(answertest.Config{Limits: answertest.Limits(), Outcomes: outcomes}), requestHeaders("x-api-key", answertest.Key))
			if err != nil || len(answers) == 0 {
				t.Fatal(answers, err)
			}
			ours := answers[0].GetDynamicMetadata().GetFields()["envoy.filters.http.ext_authz"].GetStructValue().GetFields()
			if got := ours["sluice_degraded"].GetStringValue(); got != "true" {
				t.Errorf("the metadata is %q", got)
			}
		})
	}
}
