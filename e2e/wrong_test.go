package e2e

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// bytesCodec sends and receives messages as they are, whatever is in them.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// sendBytes makes one call with one message and returns the first answer.
func sendBytes(ctx context.Context, conn *grpc.ClientConn, method string, message []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.SendMsg(message), s.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	err = s.RecvMsg(&answer)
	return answer, err
}

// garbage is what is no message, or one that nobody would send.
func garbage() map[string][]byte {
	rnd := rand.New(rand.NewPCG(13, 13))
	good, _ := proto.Marshal(checkRequest("slk_00000000_none"))
	all := map[string][]byte{
		"nothing":                       {},
		"text":                          []byte("GET / HTTP/1.1\r\n\r\n"),
		"ones":                          slices.Repeat([]byte{0xff}, 300),
		"zeros":                         make([]byte, 300),
		"a length beyond the end":       {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"a length of 2^63":              {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a field number of 0":           {0x02, 0x00},
		"a group that does not end":     {0x0b},
		"a thousand groups":             slices.Repeat([]byte{0x0b}, 1000),
		"a thousand messages inside":    nested(1000),
		"a message cut in the middle":   good[:len(good)/2],
		"a number where a text belongs": {0x08, 0x01, 0x10, 0x02, 0x18, 0x03},
		"a text that is no UTF-8":       {0x0a, 0x03, 0xff, 0xfe, 0xfd},
	}
	for _, name := range []string{"chance 1", "chance 2", "chance 3", "chance 4", "chance 5", "chance 6"} {
		b := make([]byte, 1+rnd.IntN(500))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		all[name] = b
	}
	return all
}

func nested(depth int) (b []byte) {
	for range depth {
		b = append(appendVarint([]byte{0x0a}, uint64(len(b))), b...)
	}
	return b
}

func appendVarint(b []byte, n uint64) []byte {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func TestBytesThatAreNoMessageGetADecisionOrAnError(t *testing.T) {
	w := alone(t, stack.Options{})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))

	t.Run("ext_authz decides, and refuses", func(t *testing.T) {
		for name, b := range garbage() {
			answer, err := sendBytes(t.Context(), w.conn, authv3.Authorization_Check_FullMethodName, b)
			var r authv3.CheckResponse
			if err = errors.Join(err, proto.Unmarshal(answer, &r)); err != nil || r.GetStatus().GetCode() == 0 || r.GetDeniedResponse() == nil {
				t.Errorf("%s: %v, %v", name, &r, err)
			}
		}
	})
	t.Run("RLS decides, and answers OVER_LIMIT", func(t *testing.T) {
		for name, b := range garbage() {
			answer, err := sendBytes(t.Context(), w.conn, ratelimitv3.RateLimitService_ShouldRateLimit_FullMethodName, b)
			var r ratelimitv3.RateLimitResponse
			if err = errors.Join(err, proto.Unmarshal(answer, &r)); err != nil || r.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT {
				t.Errorf("%s: %v, %v", name, &r, err)
			}
		}
	})
	t.Run("ext_proc ends the stream with an error, which Envoy fails closed on", func(t *testing.T) {
		for name, b := range garbage() {
			answer, err := sendBytes(t.Context(), w.conn, extprocv3.ExternalProcessor_Process_FullMethodName, b)
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s: answered %x, %v", name, answer, err)
			}
		}
	})
	t.Run("the access log counts it, and reads on", func(t *testing.T) {
		for name, b := range garbage() {
			if _, err := sendBytes(t.Context(), w.conn, alsv3.AccessLogService_StreamAccessLogs_FullMethodName, b); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("every other method says what is wrong", func(t *testing.T) {
		methods := []string{healthpb.Health_Check_FullMethodName, healthpb.Health_Watch_FullMethodName}
		for _, m := range quotav1.QuotaService_ServiceDesc.Methods {
			methods = append(methods, "/"+quotav1.QuotaService_ServiceDesc.ServiceName+"/"+m.MethodName)
		}
		for _, method := range methods {
			for name, b := range garbage() {
				_, err := sendBytes(w.admin(t), w.conn, method, b)
				switch code := status.Code(err); code {
				case codes.OK, codes.InvalidArgument, codes.NotFound, codes.ResourceExhausted: // an empty list is a good answer to nothing
				case codes.Internal: // grpc-go's own word for bytes that do not parse
					if !strings.Contains(err.Error(), "unmarshal") {
						t.Errorf("%s: %s: %v", method, name, err)
					}
				default:
					t.Errorf("%s: %s: %v", method, name, err)
				}
			}
			if _, err := sendBytes(t.Context(), w.conn, method, garbage()["chance 1"]); status.Code(err) == codes.OK {
				t.Errorf("%s without a token: answered", method)
			}
		}
	})
	t.Run("a method that there is not is UNIMPLEMENTED", func(t *testing.T) {
		for _, method := range []string{"/envoy.service.auth.v3.Authorization/check", "/x/y", "/sluice.quota.v1.QuotaService/", "//", "/sluice.quota.v1.QuotaService//ListPlans"} {
			if _, err := sendBytes(w.admin(t), w.conn, method, nil); status.Code(err) != codes.Unimplemented {
				t.Errorf("%s: %v", method, err)
			}
		}
	})
	t.Run("afterwards a good call is answered, and nothing has panicked", func(t *testing.T) {
		if r, err := check(t.Context(), w.conn, key); err != nil || r.GetStatus().GetCode() != 0 {
			t.Errorf("%v, %v", r, err)
		}
		if log := w.log(t); strings.Contains(log, "panic") || strings.Contains(log, "goroutine") {
			t.Errorf("the log:\n%s", log)
		}
	})
}

func TestHitsThatNobodyCanHaveCostNothing(t *testing.T) {
	dir := t.TempDir()
	text := "domain: demo\ndescriptors:\n  - key: user\n    rate_limit: {unit: year, requests_per_unit: 5}\n"
	if err := os.WriteFile(filepath.Join(dir, "demo.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := alone(t, stack.Options{RLS: dir})
	client := ratelimitv3.NewRateLimitServiceClient(w.conn)
	ask := func(user, domain string, edit func(*ratelimitv3.RateLimitRequest)) ratelimitv3.RateLimitResponse_Code {
		t.Helper()
		r := &ratelimitv3.RateLimitRequest{Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "user", Value: user}}},
		}}
		if edit != nil {
			edit(r)
		}
		answer, err := client.ShouldRateLimit(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v, want a decision", user, err)
		}
		return answer.GetOverallCode()
	}
	own := func(n uint64) func(*ratelimitv3.RateLimitRequest) {
		return func(r *ratelimitv3.RateLimitRequest) { r.Descriptors[0].HitsAddend = wrapperspb.UInt64(n) }
	}
	minus := func(n uint64) func(*ratelimitv3.RateLimitRequest) {
		return func(r *ratelimitv3.RateLimitRequest) {
			r.Descriptors[0].HitsAddend, r.Descriptors[0].IsNegativeHits = wrapperspb.UInt64(n), true
		}
	}
	for name, edit := range map[string]func(*ratelimitv3.RateLimitRequest){
		"2^32-1 for all":          func(r *ratelimitv3.RateLimitRequest) { r.HitsAddend = math.MaxUint32 },
		"2^32 for one":            own(1 << 32),
		"2^63-1":                  own(math.MaxInt64),
		"2^63, which is negative": own(1 << 63),
		"2^64-1, which is -1":     own(math.MaxUint64),
		"2^64-5, which is -5":     own(math.MaxUint64 - 4),
		"minus 2^64-1, marked":    minus(math.MaxUint64),
	} {
		t.Run("as: "+name, func(t *testing.T) {
			if code := ask(name, "demo", edit); code != ratelimitv3.RateLimitResponse_OVER_LIMIT {
				t.Errorf("answered %v", code)
			}
			for i := range 5 {
				if code := ask(name, "demo", nil); code != ratelimitv3.RateLimitResponse_OK {
					t.Errorf("hit %d of 5 after it: %v: something was charged", i+1, code)
				}
			}
			ask(name, "demo", edit)
			if code := ask(name, "demo", nil); code != ratelimitv3.RateLimitResponse_OVER_LIMIT {
				t.Errorf("a sixth hit: %v: something was given back", code)
			}
		})
	}
	t.Run("a refund that is marked as one never goes below nothing used", func(t *testing.T) {
		for range 3 {
			ask("refund", "demo", minus(1000))
		}
		ok := 0
		for range 20 {
			if ask("refund", "demo", nil) == ratelimitv3.RateLimitResponse_OK {
				ok++
			}
		}
		if ok != 5 {
			t.Errorf("%d admitted, want 5", ok)
		}
	})
	t.Run("a domain without a file is let pass, as the reference does, and counted", func(t *testing.T) {
		if code := ask("ann", "unheard-of", nil); code != ratelimitv3.RateLimitResponse_OK {
			t.Errorf("%v", code)
		}
		if !strings.Contains(w.metrics(t), `sluice_rls_calls_total{result="unknown_domain"} 1`) {
			t.Error("not counted")
		}
	})
}

func TestAWrongCatalogueFileChangesNothing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "plans.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil { // not renamed: seen while it is half there
			t.Fatal(err)
		}
	}
	plan := func(limit string) string {
		return "plans:\n  - name: gold\n    limits:\n      - {name: ever, algorithm: fixed, window: 8784h, limit: " + limit + "}\ntenants:\n  - {id: acme, plan: gold}\n"
	}
	write(plan("1000"))
	w := start(t, stack.Options{Catalog: dir})
	w.rule(t, everything, &quotav1.Rule{})
	created, err := w.quota.CreateApiKey(w.admin(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	key, admitted := created.GetSecret(), 0
	serves := func(t *testing.T) {
		t.Helper()
		if s := w.get(t.Context(), key); s.status != http.StatusOK {
			t.Errorf("the old configuration does not serve: %d, %v", s.status, s.err)
		}
		admitted++
	}
	for _, c := range []struct{ name, text, says string }{
		{"a limit of -1", plan("-1"), "plans.yaml:4: plans[0].limits[0].limit: -1 is out of range"},
		{"a limit of 2^63", plan("9223372036854775808"), "plans.yaml:4: plans[0].limits[0].limit: 9223372036854775808 is"},
		{"a limit that is no number", plan("many"), "plans.yaml:4: plans[0].limits[0].limit: "},
		{"a limit of 2^63-1 and one more", plan("9223372036854775807.5"), "plans.yaml:4: plans[0].limits[0].limit: "},
		{"a field that there is not", strings.Replace(plan("7"), "window", "windw", 1), `plans.yaml:4: plans[0].limits[0]: unknown field \"windw\"; did you mean \"window\"?`},
		{"a plan that there is not", strings.Replace(plan("7"), "plan: gold", "plan: golf", 1), "plans.yaml:6: tenants[0].plan: "},
		{"a file cut in the middle", plan("7")[:60], "plans.yaml:3: is not YAML: did not find expected ',' or '}'"}, // the line before, says the library
		{"an empty file", "", "plans.yaml: is empty"},
		{"bytes that are no text", "plans: \xff\xfe\n", "plans.yaml: is not UTF-8; save it as UTF-8"},
	} {
		t.Run(c.name+" is logged with file and line", func(t *testing.T) {
			before := len(w.log(t))
			write(c.text)
			await.That(t, "the log says "+c.says, func() bool { return strings.Contains(w.log(t)[before:], c.says) })
			if !strings.Contains(w.log(t)[before:], "the last good catalogue stays") {
				t.Error("the log does not say what holds")
			}
			serves(t)
		})
	}
	t.Run("a limit of 0 is a limit, and refuses all", func(t *testing.T) {
		write(plan("0"))
		await.That(t, "a request is refused", func() bool {
			s := w.get(t.Context(), key)
			if s.status == http.StatusOK {
				admitted++
			}
			return s.status == http.StatusTooManyRequests
		})
	})
	t.Run("the next good file holds, and what was used stays used", func(t *testing.T) {
		want := admitted + 3
		write(plan(strconv.Itoa(want)))
		await.That(t, "a request passes", func() bool {
			s := w.get(t.Context(), key)
			if s.status == http.StatusOK {
				admitted++
			}
			return s.status == http.StatusOK
		})
		for range 10 {
			if w.get(t.Context(), key).status == http.StatusOK {
				admitted++
			}
		}
		if admitted != want {
			t.Errorf("%d admitted, want %d", admitted, want)
		}
	})
}
