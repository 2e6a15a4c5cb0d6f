package extauthz_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/authz/extauthz"
)

// decoded is the answer as Envoy reads it; it must always be readable.
func decoded(t interface{ Fatalf(string, ...any) }, out []byte) *authv3.CheckResponse {
	r := new(authv3.CheckResponse)
	if err := proto.Unmarshal(out, r); err != nil {
		t.Fatalf("the answer is no CheckResponse: %v", err)
	}
	return r
}

// sound checks what holds for every answer, and returns whether it allows.
func sound(t interface {
	Fatalf(string, ...any)
	Errorf(string, ...any)
}, r *authv3.CheckResponse) bool {
	ok, denied := r.GetOkResponse(), r.GetDeniedResponse()
	switch {
	case r.GetStatus() == nil:
		t.Fatalf("no status: Envoy takes that for OK: %v", r)
	case r.GetStatus().GetCode() != 0:
		if denied == nil || ok != nil || denied.GetStatus().GetCode() < 400 {
			t.Errorf("no refusal: %v", r)
		}
		return false
	case ok == nil || denied != nil:
		t.Fatalf("allowed without headers: %v", r)
	}
	tenants := 0
	for _, h := range ok.Headers {
		if h.Header.Key == "x-tenant-id" {
			tenants++
		}
		for _, name := range ok.HeadersToRemove {
			if strings.EqualFold(name, h.Header.Key) {
				t.Errorf("%s is written and removed", name)
			}
		}
	}
	if tenants != 1 {
		t.Errorf("x-tenant-id is written %d times", tenants)
	}
	return true
}

// mayPass is the reference: read slowly, from the message, by its own rules.
func mayPass(r *authv3.CheckRequest) bool {
	var keys []string
	http := r.GetAttributes().GetRequest().GetHttp()
	add := func(name, value string) {
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "x-api-key":
			keys = append(keys, value)
		case "authorization":
			if len(value) >= 6 && strings.EqualFold(value[:6], "bearer") {
				keys = append(keys, strings.Trim(value[6:], " \t"))
			}
		}
	}
	for name, value := range http.GetHeaders() {
		add(name, value)
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		add(h.Key, h.Value+string(h.RawValue))
	}
	if len(keys) > 0 {
		return len(keys) == 1 && keys[0] == answertest.Key
	}
	return r.GetAttributes().GetSource().GetPrincipal() == answertest.SPIFFE
}

func genRequest(t *rapid.T) *authv3.CheckRequest {
	innocent := []string{"x-tenant-id", "X_Tenant_Id", "x-sluice-plan", "tenant", "cookie", "accept"}
	secret := []string{"x-api-key", "X-Api-Key", "authorization", ":authority", ":path", "content-type"}
	names, values := rapid.SampledFrom(innocent), rapid.SampledFrom([]string{
		answertest.Key, "Bearer " + answertest.Key, answertest.SuspendedKey, answertest.Key + "," + answertest.Key, "application/grpc", "Basic YQ==", "",
	})
	if rapid.Bool().Draw(t, "secret") {
		names = rapid.SampledFrom(append(innocent, secret...))
	}
	if rapid.IntRange(0, 3).Draw(t, "noise") == 0 {
		names, values = rapid.OneOf(names, rapid.String()), rapid.OneOf(values, rapid.String())
	}
	r := new(authv3.CheckRequest)
	if rapid.IntRange(0, 20).Draw(t, "attributes") == 0 {
		return r
	}
	r.Attributes = new(authv3.AttributeContext)
	if rapid.Bool().Draw(t, "source") {
		r.Attributes.Source = &authv3.AttributeContext_Peer{
			Principal: rapid.OneOf(rapid.SampledFrom([]string{answertest.SPIFFE, answertest.SPIFFE + "/", "", "spiffe://evil"}), rapid.String()).Draw(t, "principal"),
		}
	}
	if rapid.IntRange(0, 20).Draw(t, "request") == 0 {
		return r
	}
	http := &authv3.AttributeContext_HttpRequest{Id: rapid.String().Draw(t, "id"), Path: rapid.OneOf(rapid.Just("/v1"), rapid.String()).Draw(t, "path"), Method: "GET", Host: "api.example.com"}
	r.Attributes.Request = &authv3.AttributeContext_Request{Http: http}
	if rapid.Bool().Draw(t, "ordinary") {
		http.Headers = map[string]string{"x-api-key": answertest.Key, "accept": "*/*"}
		return r
	}
	form := rapid.IntRange(0, 5).Draw(t, "form")
	if form != 1 {
		http.Headers = rapid.MapOfN(names, values, 0, 6).Draw(t, "headers")
	}
	if form <= 1 {
		http.HeaderMap = new(corev3.HeaderMap)
		for range rapid.IntRange(0, 6).Draw(t, "count") {
			h := &corev3.HeaderValue{Key: names.Draw(t, "name"), RawValue: rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")}
			if rapid.Bool().Draw(t, "text") {
				h.RawValue = []byte(values.Draw(t, "value"))
			}
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, h)
		}
	}
	return r
}

func TestNoRequestPassesWithoutOneGoodCredential(t *testing.T) {
	s := door(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()})
	allowed := 0
	rapid.Check(t, func(t *rapid.T) {
		r := genRequest(t)
		in, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if sound(t, decoded(t, s.CheckBytes(context.Background(), in))) {
			allowed++
			if !mayPass(r) {
				t.Errorf("allowed: %v", r)
			}
		}
	})
	if allowed == 0 {
		t.Error("nothing was allowed: the property says nothing")
	}
}

func FuzzCheck(f *testing.F) {
	for _, r := range []*authv3.CheckRequest{
		{}, request(), request("x-api-key", answertest.Key), raw("authorization", "Bearer "+answertest.Key, "x_tenant_id", "a"),
		from(answertest.SPIFFE, request("content-type", "application/grpc")),
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	s := door(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()})
	f.Fuzz(func(t *testing.T, in []byte) {
		if !sound(t, decoded(t, s.CheckBytes(context.Background(), in))) {
			return
		}
		if !strings.Contains(string(in), answertest.Key) && !strings.Contains(string(in), answertest.SPIFFE) {
			t.Error("allowed without a credential")
		}
		// What the generated types can read, they must read the same way.
		if r := new(authv3.CheckRequest); proto.Unmarshal(in, r) == nil && !mayPass(r) {
			t.Errorf("allowed: %v", r)
		}
		if s.Panics() != 0 {
			t.Error("a panic")
		}
	})
}

// typical is what a sidecar asks for a browser's request.
func typical(t testing.TB) []byte {
	t.Helper()
	in, err := proto.Marshal(from("spiffe://cluster.local/ns/edge/sa/gateway", raw(
		":authority", "api.example.com", ":path", "/v1/calls/8f14e45fceea167a?expand=participants", ":method", "GET", ":scheme", "https",
		"x-forwarded-proto", "https", "x-forwarded-for", "203.0.113.7", "x-request-id", "5f3f1a3e-57f6-4f0e-8e0b-3c6f0d1f7c55",
		"user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
		"accept", "application/json", "accept-encoding", "gzip, deflate, br", "accept-language", "de-CH,de;q=0.9,en;q=0.8",
		"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x-api-key", answertest.Key,
	)))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestACheckAllocatesLittle(t *testing.T) {
	s := door(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()})
	in, ctx := typical(t), context.Background()
	// The key, the principal, the stream id, the answer and its bytes; the names
	// of headers that may be reserved; and what the race detector and a pool add.
	const most = 24
	if n := testing.AllocsPerRun(200, func() { s.CheckBytes(ctx, in) }); n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	}
}

func BenchmarkCheck(b *testing.B) {
	s := door(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()})
	in, ctx := typical(b), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		s.CheckBytes(ctx, in)
	}
}

// noop is the least that the generated types can do.
type noop struct {
	authv3.UnimplementedAuthorizationServer
}

func (noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}, nil
}

func (n noop) Register(r grpc.ServiceRegistrar) { authv3.RegisterAuthorizationServer(r, n) }

// BenchmarkServed compares the door with a handler that does nothing, both
// behind a real gRPC server; the client, which is the same, is part of the time.
func BenchmarkServed(b *testing.B) {
	config := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()}
	for name, s := range map[string]interface{ Register(grpc.ServiceRegistrar) }{"noop": noop{}, "door": extauthz.New(extauthz.Options{
		Gate: answertest.Gate(config), Answers: answer.NewWriter(answer.Draft10), Peer: known,
	})} {
		b.Run(name, func(b *testing.B) {
			conn, in := answertest.Dial(b, s), typical(b)
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					var out []byte
					if err := conn.Invoke(context.Background(), authv3.Authorization_Check_FullMethodName, in, &out, grpc.ForceCodec(whole{})); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// whole sends and receives bytes as they are.
type whole struct{}

func (whole) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (whole) Unmarshal(b []byte, v any) error { *v.(*[]byte) = slices.Clone(b); return nil }
func (whole) Name() string                    { return "proto" }
