package extauthz_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/authz/extauthz"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

func known(context.Context) (string, bool) { return answertest.Peer, true }

func door(c answertest.Config) *extauthz.Server {
	return extauthz.New(extauthz.Options{
		Gate: answertest.Gate(c), Answers: answer.NewWriter(answer.Draft10), Peer: known, Log: slog.New(slog.DiscardHandler),
	})
}

func check(t *testing.T, conn *grpc.ClientConn, request *authv3.CheckRequest) *authv3.CheckResponse {
	t.Helper()
	response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), request)
	if err != nil {
		t.Fatalf("a gRPC error lets Envoy's failure mode decide: %v", err)
	}
	return response
}

// request has the headers in the joined form.
func request(pairs ...string) *authv3.CheckRequest {
	m := map[string]string{":authority": "api.example.com", ":path": "/v1", ":method": "GET"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Id: "123", Headers: m}},
	}}
}

// raw has them as encode_raw_headers sends them.
func raw(pairs ...string) *authv3.CheckRequest {
	m := new(corev3.HeaderMap)
	for i, pseudo := 0, []string{":authority", "api.example.com", ":path", "/v1", ":method", "GET"}; i < len(pseudo); i += 2 {
		if !slices.Contains(pairs, pseudo[i]) {
			pairs = append(pairs, pseudo[i], pseudo[i+1])
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Id: "123", HeaderMap: m}},
	}}
}

func from(principal string, r *authv3.CheckRequest) *authv3.CheckRequest {
	r.Attributes.Source = &authv3.AttributeContext_Peer{Principal: principal}
	return r
}

func set(t *testing.T, options []*corev3.HeaderValueOption) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, o := range options {
		if _, twice := m[o.Header.Key]; twice {
			t.Errorf("%s is set twice", o.Header.Key)
		}
		if o.Append == nil || o.Append.Value || o.AppendAction != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s does not overwrite: %v", o.Header.Key, o)
		}
		m[o.Header.Key] = o.Header.Value
	}
	return m
}

func metadata(r *authv3.CheckResponse) map[string]string {
	m := map[string]string{}
	for k, v := range r.GetDynamicMetadata().GetFields() {
		m[k] = v.GetStringValue()
	}
	return m
}

func TestEveryRefusal(t *testing.T) {
	good := []string{"x-api-key", answertest.Key}
	over := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()}
	both := raw(good...)
	both.Attributes.Request.Http.Headers = map[string]string{"a": "b"}
	for _, tt := range []struct {
		name    string
		config  answertest.Config
		request *authv3.CheckRequest
		want    int32 // HTTP
	}{
		{"nothing at all", answertest.Config{}, &authv3.CheckRequest{}, 400},
		{"no request", answertest.Config{}, from(answertest.SPIFFE, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}}), 400},
		{"no HTTP request", answertest.Config{}, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{}}}, 400},
		{"no credential", answertest.Config{}, request(), 401},
		{"an unknown key", answertest.Config{}, request("x-api-key", "sk_other"), 401},
		{"an unknown workload", answertest.Config{}, from("spiffe://evil/ns/a/sa/b", request()), 401},
		{"a principal that is no SPIFFE id", answertest.Config{}, from("CN=acme", request()), 401},
		{"an endless principal", answertest.Config{}, from("spiffe://"+strings.Repeat("a", 3000), request()), 400},
		{"the key twice, joined", answertest.Config{}, request("x-api-key", answertest.Key+","+answertest.Key), 401},
		{"the key twice, raw", answertest.Config{}, raw("x-api-key", answertest.Key, "x-api-key", answertest.Key), 401},
		{"the key in both places", answertest.Config{}, request("x-api-key", answertest.Key, "authorization", "Bearer "+answertest.Key), 401},
		{"a key that is no UTF-8", answertest.Config{}, raw("x-api-key", "\xff\xfe"), 401},
		{"a key of 60 KiB", answertest.Config{}, raw("x-api-key", strings.Repeat("k", 60<<10)), 401},
		{"a key of 64 KiB", answertest.Config{}, raw("x-api-key", strings.Repeat("k", 64<<10)), 400},
		{"H-14 10,000 headers", answertest.Config{}, raw(append(slices.Repeat([]string{"x-a", "1"}, 10_000), good...)...), 400},
		{"H-14 a key and a header of 1 MiB", answertest.Config{}, raw("x-api-key", answertest.Key, "cookie", strings.Repeat("k", 1<<20)), 400},
		{"two authorities", answertest.Config{}, raw("x-api-key", answertest.Key, ":authority", "a", ":authority", "a"), 400},
		{"the headers in both forms", answertest.Config{}, both, 400},
		{"H-07 a tenant from a header", answertest.Config{}, request("x-tenant-id", "acme"), 401},
		{"a suspended tenant", answertest.Config{}, request("x-api-key", answertest.SuspendedKey), 403},
		{"a limit", over, request(good...), 429},
		{"a limit, by mTLS", over, from(answertest.SPIFFE, request()), 429},
		{"a store that fails", answertest.Config{Err: errors.New("down")}, request(good...), 503},
		{"a store that panics", answertest.Config{Panic: "sk_good is broken"}, request(good...), 503},
		{"H-13 a plan that would break the header", answertest.Config{Plan: "pro\r\nx-admin: 1"}, request(good...), 503},
	} {
		for _, grpcCaller := range []bool{false, true} {
			name := tt.name
			r := proto.Clone(tt.request).(*authv3.CheckRequest) //nolint:errcheck // a clone
			if grpcCaller {
				name += ", to a gRPC caller"
				if http := r.GetAttributes().GetRequest().GetHttp(); http.GetHeaders() != nil {
					http.Headers["content-type"] = "application/grpc"
				} else if http.GetHeaderMap() != nil {
					http.HeaderMap.Headers = append(http.HeaderMap.Headers[:0:0],
						append([]*corev3.HeaderValue{{Key: "content-type", RawValue: []byte("application/grpc+proto")}}, http.HeaderMap.Headers...)...)
				} else {
					continue
				}
			}
			t.Run(name, func(t *testing.T) { refused(t, check(t, answertest.Dial(t, door(tt.config)), r), tt.want, grpcCaller) })
		}
	}
}

func refused(t *testing.T, response *authv3.CheckResponse, want int32, grpcCaller bool) {
	t.Helper()
	denied := response.GetDeniedResponse()
	if response.GetStatus().GetCode() == 0 || denied == nil {
		t.Fatalf("allowed: %v", response)
	}
	if got := int32(denied.GetStatus().GetCode()); got != want {
		t.Errorf("status %d, want %d: %s", got, want, denied.Body)
	}
	if text := response.String(); strings.Contains(text, "sk_") {
		t.Errorf("a credential is in the answer: %s", text)
	}
	h := set(t, denied.Headers)
	if got := h["retry-after"] != ""; got != (want == 429) {
		t.Errorf("retry-after: %q", h["retry-after"])
	}
	if got := h["www-authenticate"] != ""; got != (want == 401) {
		t.Errorf("www-authenticate: %q", h["www-authenticate"])
	}
	if grpcCaller {
		if h["content-type"] != "application/grpc" || h["grpc-status"] == "" || h["grpc-message"] == "" ||
			h["grpc-status-details-bin"] == "" || denied.Body != "" {
			t.Errorf("no gRPC refusal: %v, %q", h, denied.Body)
		}
	} else if h["content-type"] != "application/problem+json" || !json.Valid([]byte(denied.Body)) || h["grpc-status"] != "" {
		t.Errorf("no problem: %v, %q", h, denied.Body)
	}
	if id := metadata(response)["sluice_decision_id"]; id != h["x-sluice-decision-id"] {
		t.Errorf("the metadata have decision %q, the headers %q", id, h["x-sluice-decision-id"])
	}
}

func TestAnAdmittedRequestIsToldWhoItIs(t *testing.T) {
	config := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()}
	spoofs := []string{"x-tenant-id", "evil", "x_tenant_id", "evil", "x-sluice-plan", "gold", "x-sluice-admin", "1", "tenant", "evil"}
	for _, tt := range []struct {
		name      string
		request   *authv3.CheckRequest
		principal string
		removed   []string
	}{
		{"by a key", request("x-api-key", answertest.Key), "api-key/k1", []string{"x-api-key"}},
		{"by a bearer", request("authorization", "Bearer "+answertest.Key), "api-key/k1", []string{"authorization"}},
		{"by a raw key", raw("x-api-key", answertest.Key), "api-key/k1", []string{"x-api-key"}},
		{"by mTLS", from(answertest.SPIFFE, request("authorization", "Basic YQ==")), answertest.SPIFFE, nil},
		{"with spoofed headers", from(answertest.SPIFFE, request(spoofs...)), answertest.SPIFFE, []string{"tenant", "x-sluice-admin", "x_tenant_id"}},
		{"with spoofed raw headers", from(answertest.SPIFFE, raw(append(spoofs, spoofs...)...)), answertest.SPIFFE, []string{"tenant", "x-sluice-admin", "x_tenant_id"}},
		{"beside a header that is no UTF-8", from(answertest.SPIFFE, raw("cookie", "\xff")), answertest.SPIFFE, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response := check(t, answertest.Dial(t, door(config)), tt.request)
			ok := response.GetOkResponse()
			if response.GetStatus().GetCode() != 0 || ok == nil {
				t.Fatalf("refused: %v", response)
			}
			h := set(t, ok.Headers)
			id := h["x-sluice-decision-id"]
			want := map[string]string{
				"x-tenant-id": "acme", "x-sluice-principal": tt.principal, "x-sluice-plan": "pro", "x-sluice-decision-id": id,
			}
			if !maps.Equal(h, want) {
				t.Errorf("headers %v, want %v", h, want)
			}
			removed := slices.Sorted(slices.Values(ok.HeadersToRemove))
			if !slices.Equal(removed, tt.removed) {
				t.Errorf("removed %q, want %q", removed, tt.removed)
			}
			for _, name := range removed {
				if h[name] != "" {
					t.Errorf("%s is written and removed", name)
				}
			}
			if m := metadata(response); len(id) != 32 || !maps.Equal(m, map[string]string{
				"sluice_decision_id": id, "sluice_tenant": "acme", "sluice_plan": "pro", "sluice_principal": tt.principal,
				"sluice_proof": m["sluice_proof"],
			}) || !strings.Contains(m["sluice_proof"], " 0 0000") {
				t.Errorf("metadata %v", m)
			}
			back := set(t, ok.ResponseHeadersToAdd)
			if back["ratelimit"] != `"burst";r=42;t=35` || !strings.HasPrefix(back["ratelimit-policy"], `"burst";q=100;w=60`) {
				t.Errorf("to the client: %v", back)
			}
		})
	}
}

// In the soft stage what the gate declines passes, and a client's tenant passes no more than before.
func TestInTheSoftStageNobodyIsToldAsSomebody(t *testing.T) {
	spoofs := []string{"x-tenant-id", "evil", "X-TENANT-ID", "evil", "x_tenant_id", "evil", "x-sluice-plan", "gold", "x-sluice-principal", "root", "x-sluice-admin", "1", "tenant", "evil"}
	over := answertest.Config{Soft: true, Limits: answertest.Limits(), Outcomes: answertest.Over()}
	for _, tt := range []struct {
		name    string
		request *authv3.CheckRequest
		told    string // the tenant
	}{
		{"without a credential", request(spoofs...), ""},
		{"without a credential, raw", raw(spoofs...), ""},
		{"with a tenant token that is none", request(append(spoofs, "x-sluice-tenant-token", "a.b")...), ""},
		{"with a bad key", request(append(spoofs, "x-api-key", "sk_bad")...), ""},
		{"with a stranger's certificate", from("spiffe://x/y", request(spoofs...)), ""},
		{"of a suspended tenant", request(append(spoofs, "x-api-key", answertest.SuspendedKey)...), "acme"},
		{"over a limit", request(append(spoofs, "x-api-key", answertest.Key)...), "acme"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response := check(t, answertest.Dial(t, door(over)), tt.request)
			ok := response.GetOkResponse()
			if response.GetStatus().GetCode() != 0 || ok == nil {
				t.Fatalf("refused: %v", response)
			}
			h := set(t, ok.Headers)
			if h["x-tenant-id"] != tt.told || metadata(response)["sluice_tenant"] != tt.told || len(h["x-sluice-decision-id"]) != 32 {
				t.Errorf("told: %v, metadata %v", h, metadata(response))
			}
			for name := range headersOf(tt.request) {
				removed := slices.ContainsFunc(ok.HeadersToRemove, func(s string) bool { return strings.EqualFold(s, name) })
				if (tenant.IsReservedHeader(name) || name == "x-api-key") && h[strings.ToLower(name)] == "" && !removed {
					t.Errorf("the upstream gets the client's %s", name)
				}
			}
			if back := set(t, ok.ResponseHeadersToAdd); len(back) > 0 {
				t.Errorf("a limit that refuses nobody is told: %v", back)
			}
		})
	}
	for name, refused := range map[string]struct {
		s    *extauthz.Server
		r    *authv3.CheckRequest
		want int
	}{
		"what can be read two ways": {door(over), request(":path", "/a/../b"), 400},
		"a store that fails":        {door(answertest.Config{Soft: true, Err: errors.New("down")}), request("x-api-key", answertest.Key), 503},
		"a store that panics":       {door(answertest.Config{Soft: true, Panic: "x"}), request("x-api-key", answertest.Key), 503},
		"a name that is no header":  {door(answertest.Config{Soft: true, Name: "a\nb"}), request("x-api-key", answertest.Key), 503},
		"a peer that is on no list": {extauthz.New(extauthz.Options{
			Gate: answertest.Gate(over), Answers: answer.NewWriter(answer.Off), Peer: func(context.Context) (string, bool) { return "", false },
		}), request("x-api-key", answertest.Key), 403},
	} {
		t.Run(name+" is refused all the same", func(t *testing.T) {
			response := check(t, answertest.Dial(t, refused.s), refused.r)
			if got := int(response.GetDeniedResponse().GetStatus().GetCode()); got != refused.want || response.GetStatus().GetCode() == 0 {
				t.Errorf("%d, want %d: %v", got, refused.want, response)
			}
		})
	}
}

// headersOf are the names that the client sent.
func headersOf(r *authv3.CheckRequest) map[string]bool {
	names := map[string]bool{}
	for name := range r.GetAttributes().GetRequest().GetHttp().GetHeaders() {
		names[name] = true
	}
	for _, h := range r.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		names[h.GetKey()] = true
	}
	return names
}

func TestTheDecisionIDVerifiesForItsPeerOnly(t *testing.T) {
	g := answertest.Gate(answertest.Config{})
	s := extauthz.New(extauthz.Options{Gate: g, Answers: answer.NewWriter(answer.Off), Peer: known})
	for _, r := range []*authv3.CheckRequest{request("x-api-key", answertest.Key), request()} {
		id := metadata(check(t, answertest.Dial(t, s), r))["sluice_decision_id"]
		if _, ok := g.VerifyID(id, answertest.Peer); !ok {
			t.Errorf("%q is not ours", id)
		}
		if _, ok := g.VerifyID(id, "spiffe://other"); ok {
			t.Errorf("%q verifies for another peer", id)
		}
	}
}

func TestAnUnknownPeerIsRefused(t *testing.T) {
	s := extauthz.New(extauthz.Options{
		Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Draft10),
		Peer: func(context.Context) (string, bool) { return "", false },
	})
	refused(t, check(t, answertest.Dial(t, s), request("x-api-key", answertest.Key)), 403, false)
}

// Envoy's C++ sends what protobuf-go would refuse: a path that is no UTF-8.
func TestBytesThatAreNoMessageGetADecision(t *testing.T) {
	conn := answertest.Dial(t, door(answertest.Config{}))
	good, err := proto.Marshal(request("x-api-key", answertest.Key))
	if err != nil {
		t.Fatal(err)
	}
	http := nest(4, []byte("/\xff"))
	notUTF8 := append(slices.Clone(good), nest(1, nest(4, nest(2, http)))...)
	workload, err := proto.Marshal(from(answertest.SPIFFE, request()))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		in      []byte
		allowed bool
	}{
		{"P-09 a path that is no UTF-8", notUTF8, false},
		{"an empty message", nil, false},
		{"a message that is cut off", good[:len(good)-1], false},
		{"garbage", []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), false},
		{"a tag alone", []byte{0x0a}, false},
		{"attributes of another type", []byte{0x08, 1}, false},
		{"a principal", workload, true},
		{"a principal that is taken back, as the last of a field counts", append(slices.Clone(workload), nest(1, nest(1, nest(4, nil)))...), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out authv3.CheckResponse
			err := conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, tt.in, &out, grpc.ForceCodec(half{}))
			if err != nil {
				t.Fatal(err)
			}
			if allowed := out.GetStatus().GetCode() == 0; allowed != tt.allowed {
				t.Errorf("allowed is %v: %v", allowed, &out)
			}
		})
	}
}

func nest(number protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
}

// half sends bytes as they are and reads messages.
type half struct{}

func (half) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (half) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (half) Name() string                    { return "proto" }

func TestAnInterceptorSeesNoSecretAndChangesNothing(t *testing.T) {
	seen := ""
	conn := answertest.Dial(t, door(answertest.Config{}), grpc.UnaryInterceptor(
		func(ctx context.Context, in any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			out, err := next(ctx, in)
			seen = info.FullMethod + prototext.Format(in.(proto.Message))
			return out, err
		}))
	if response := check(t, conn, request("x-api-key", answertest.Key)); response.GetOkResponse() == nil {
		t.Errorf("refused: %v", response)
	}
	if seen != authv3.Authorization_Check_FullMethodName {
		t.Errorf("the interceptor saw %q", seen)
	}
}

// silent is a gate that forgets to answer.
type silent struct{ real *gate.Gate }

func (s *silent) Admit(ctx context.Context, now int64, r *gate.Request, d *gate.Decision) {
	if s.real != nil {
		s.real.Admit(ctx, now, r, d)
	}
}

func TestTheLastAnswerIsNotGivenAgain(t *testing.T) {
	g := &silent{real: answertest.Gate(answertest.Config{})}
	conn := answertest.Dial(t, extauthz.New(extauthz.Options{Gate: g, Answers: answer.NewWriter(answer.Off), Peer: known}))
	for range 10 {
		check(t, conn, request("x-api-key", answertest.Key))
	}
	g.real = nil
	for range 10 {
		refused(t, check(t, conn, request("x-api-key", answertest.Key)), 503, false)
	}
}

// panics is a gate that does, a few times, what a gate never does.
type panics struct {
	real *gate.Gate
	left int
}

func (p *panics) Admit(ctx context.Context, now int64, r *gate.Request, d *gate.Decision) {
	if p.left--; p.left >= 0 {
		panic("sk_secret")
	}
	p.real.Admit(ctx, now, r, d)
}

func TestAPanicIsCountedAndTheNextCallAnswered(t *testing.T) {
	g := &panics{real: answertest.Gate(answertest.Config{}), left: 3}
	s := extauthz.New(extauthz.Options{Gate: g, Answers: answer.NewWriter(answer.Off), Peer: known, Log: slog.New(slog.DiscardHandler)})
	conn := answertest.Dial(t, s)
	for range 3 {
		refused(t, check(t, conn, request("x-api-key", answertest.Key)), 503, false)
	}
	refused(t, check(t, conn, request()), 401, false)
	if s.Panics() != 3 {
		t.Errorf("%d panics, want 3", s.Panics())
	}
}

// told keeps what the door refused by itself.
type told struct {
	mu   sync.Mutex
	all  []string
	from []string
}

func (r *told) refused(_ int64, q *gate.Request, d *gate.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, d.Reason.String()+": "+d.Detail)
	r.from = append(r.from, q.Peer+" "+q.Credentials.Source+" "+q.Action.Path)
}

func TestWhatTheDoorRefusesByItselfIsTold(t *testing.T) {
	t.Run("C-10 an unlisted peer, by its address, and nothing that it says", func(t *testing.T) {
		r := new(told)
		s := extauthz.New(extauthz.Options{
			Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Off), Refused: r.refused,
			Peer: func(context.Context) (string, bool) { return "192.0.2.7", false },
		})
		refused(t, check(t, answertest.Dial(t, s), request("x-api-key", answertest.Key)), 403, false)
		if !slices.Equal(r.all, []string{"forbidden: this peer may not ask"}) || !slices.Equal(r.from, []string{" 192.0.2.7 "}) {
			t.Errorf("told %q of %q", r.all, r.from)
		}
	})
	for name, c := range map[string]struct {
		key  string
		want []string
	}{
		"F-02 a panic after an admission is told":                {answertest.Key, []string{"internal: the door failed"}},
		"F-02 a panic after a refusal is not: that is on record": {"sk_unknown", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(told)
			s := extauthz.New(extauthz.Options{
				Gate: answertest.Gate(answertest.Config{}), Answers: answer.NewWriter(answer.Off), Refused: r.refused, Peer: known,
				Log: slog.New(slog.DiscardHandler), Observe: func(context.Context, time.Time, *gate.Request, *gate.Decision) { panic("sk_secret") },
			})
			refused(t, check(t, answertest.Dial(t, s), request("x-api-key", c.key)), 503, false)
			if !slices.Equal(r.all, c.want) {
				t.Errorf("told %q, want %q", r.all, c.want)
			}
		})
	}
}

func TestADegradedAnswerSaysSo(t *testing.T) {
	for name, outcomes := range map[string][]ratelimit.Outcome{"when it admits": answertest.Left(), "when it refuses": answertest.Over()} {
		t.Run(name, func(t *testing.T) {
			outcomes[0].Degraded = true
			response := check(t, answertest.Dial(t, door(answertest.Config{Limits: answertest.Limits(), Outcomes: outcomes})), request("x-api-key", answertest.Key))
			headers := response.GetOkResponse().GetResponseHeadersToAdd()
			if response.GetOkResponse() == nil {
				headers = response.GetDeniedResponse().GetHeaders()
			}
			if got := set(t, headers)["x-sluice-degraded"]; got != "true" {
				t.Errorf("the header is %q", got)
			}
			if got := metadata(response)["sluice_degraded"]; got != "true" {
				t.Errorf("the metadata is %q", got)
			}
		})
	}
}
