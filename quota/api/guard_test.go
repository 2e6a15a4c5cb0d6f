package api

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/voicecore-ai/sluice/gen/openapi"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// badCredentials are the ways not to be the administrator.
var badCredentials = map[string][]string{
	"no authorization":           nil,
	"an empty one":               {""},
	"a scheme alone":             {"Bearer"},
	"an empty token":             {"Bearer "},
	"a wrong token":              {"Bearer sla_wrong"},
	"the token cut short":        {"Bearer " + token[:len(token)-1]},
	"the token and more":         {"Bearer " + token + "x"},
	"another scheme":             {"Basic " + token},
	"the bare token":             {token},
	"two spaces":                 {"Bearer  " + token},
	"two values, one right":      {"Bearer " + token, "Bearer sla_wrong"},
	"the right one twice":        {"Bearer " + token, "Bearer " + token},
	"a list in one value":        {"Bearer " + token + ", Bearer " + token},
	"longer than any credential": {"Bearer " + strings.Repeat("x", 5000)},
}

func methods() protoreflect.MethodDescriptors {
	return quotav1.File_sluice_quota_v1_quota_proto.Services().ByName("QuotaService").Methods()
}

func empty(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	must(t, err)
	return kind.New().Interface()
}

// S1: every method × every way not to be the administrator, by gRPC.
func TestOnlyTheAdministratorCallsAnyMethod(t *testing.T) {
	w := newWorld(t, "")
	for i := range methods().Len() {
		m := methods().Get(i)
		full := "/" + service + "/" + string(m.Name())
		for name, values := range badCredentials {
			ctx := t.Context()
			for _, v := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
			}
			w.now = w.now.Add(time.Second) // fill the bucket: this test is not about it
			err := w.conn.Invoke(ctx, full, empty(t, m.Input()), empty(t, m.Output()))
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: %v", m.Name(), name, err)
			}
		}
		err := w.conn.Invoke(signed(t), full, empty(t, m.Input()), empty(t, m.Output()))
		switch status.Code(err) {
		case codes.OK, codes.InvalidArgument:
		default:
			t.Errorf("%s with the token: %v", m.Name(), err)
		}
	}
}

// S1 by REST: every path and method of the OpenAPI description.
func TestOnlyTheAdministratorCallsAnyPath(t *testing.T) {
	w := newWorld(t, "")
	var description struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	must(t, json.Unmarshal(openapi.JSON, &description))
	calls := 0
	for path, operations := range description.Paths {
		path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "x")
		for method := range operations {
			calls++
			method = strings.ToUpper(method)
			for name, values := range badCredentials {
				w.now = w.now.Add(time.Second)
				r, err := http.NewRequestWithContext(t.Context(), method, w.url+path, http.NoBody)
				must(t, err)
				r.Header["Authorization"] = values
				r.Header.Set("Grpc-Metadata-Authorization", "Bearer "+token)
				if code, body := do(t, r); code != http.StatusUnauthorized {
					t.Errorf("%s %s with %s: %d %s", method, path, name, code, body)
				}
			}
			if code, body := w.rest(t, method, path, ""); code == http.StatusUnauthorized || code == http.StatusForbidden || code >= 500 {
				t.Errorf("%s %s with the token: %d %s", method, path, code, body)
			}
		}
	}
	if calls != methods().Len() || calls != len(requests) || calls != len(roles) {
		t.Errorf("%d methods, but %d paths, %d routes and %d roles", methods().Len(), calls, len(requests), len(roles))
	}
}

func TestAMethodThatIsNotInTheTableIsDenied(t *testing.T) {
	w := newWorld(t, "")
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	_, err := guarded(ctx, w.service.server.guard, "/"+service+"/Invented", &quotav1.GetPlanRequest{},
		func(*quotav1.GetPlanRequest, *Act) (*quotav1.Plan, error) {
			t.Error("called")
			return &quotav1.Plan{}, nil
		})
	refused(t, err, codes.PermissionDenied, "METHOD_NOT_ALLOWED")
	for method := range roles {
		name := protoreflect.Name(strings.TrimPrefix(method, "/"+service+"/"))
		if methods().ByName(name) == nil {
			t.Errorf("the table names %s, which no descriptor has", method)
		}
	}
}

func TestAPanicIsContained(t *testing.T) {
	w := newWorld(t, "")
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	_, err := guarded(ctx, w.service.server.guard, quotav1.QuotaService_GetPlan_FullMethodName, &quotav1.GetPlanRequest{},
		func(*quotav1.GetPlanRequest, *Act) (*quotav1.Plan, error) { panic("with a secret") })
	refused(t, err, codes.Internal, "INTERNAL")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the caller sees the panic: %v", err)
	}
}

func TestCallsAreBounded(t *testing.T) {
	w := newWorld(t, "")
	list := func(ctx context.Context) error {
		_, err := w.ListPlans(ctx, &quotav1.ListPlansRequest{})
		return err
	}
	t.Run("guesses run out", func(t *testing.T) {
		for range callsAtOnce {
			if err := list(t.Context()); status.Code(err) != codes.Unauthenticated {
				t.Fatal(err)
			}
		}
		err := list(t.Context())
		refused(t, err, codes.ResourceExhausted, "API_RATE_LIMITED")
		if !retryable(err) {
			t.Error("no RetryInfo")
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/v1/plans", http.NoBody)
		must(t, err)
		if code, body := do(t, r); code != http.StatusTooManyRequests {
			t.Errorf("by REST: %d %s", code, body)
		}
	})
	t.Run("the administrator still gets in", func(t *testing.T) { must(t, list(signed(t))) })
	t.Run("but not without bound either", func(t *testing.T) {
		for range callsAtOnce - 1 {
			must(t, list(signed(t)))
		}
		var err error
		for range 2 * callsPerSecond { // what is refused is not owed
			err = list(signed(t))
		}
		refused(t, err, codes.ResourceExhausted, "API_RATE_LIMITED")
		if !retryable(err) {
			t.Error("no RetryInfo")
		}
	})
	t.Run("a second later both go on", func(t *testing.T) {
		w.now = w.now.Add(time.Second)
		must(t, list(signed(t)))
		if err := list(t.Context()); status.Code(err) != codes.Unauthenticated {
			t.Error(err)
		}
	})
}

func retryable(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok && r.GetRetryDelay().AsDuration() > 0 {
			return true
		}
	}
	return false
}

// B25: paths that look like a method's, sent as raw HTTP/2, reach none.
func TestPathTricksReachNoMethod(t *testing.T) {
	w := newWorld(t, "")
	var reached atomic.Int64
	w.service.server.guard.now = func() time.Time { reached.Add(1); return start }
	target := w.conn.CanonicalTarget()
	address := target[strings.LastIndex(target, "/")+1:]
	for _, path := range []string{
		service + "/ListPlans", "//" + service + "/ListPlans", "/" + service + "//ListPlans", "/" + service + "/ListPlans/",
		"/" + service + "/listPlans", "/" + strings.ToUpper(service) + "/ListPlans", "/" + service + "/ListPlans%00",
		"/" + service + "/%4cistPlans", "/" + service + "/../" + service + "/ListPlans", "/" + service + "/", "/", "*",
		"/" + service + ".ListPlans", "/" + service + "/ListPlans?x=/", "http://localhost/" + service + "/ListPlans",
	} {
		if code := rawCall(t, address, path); code == "0" || code == "" {
			t.Errorf("%q: grpc-status %q", path, code)
		}
	}
	if reached.Load() != 0 {
		t.Error("a trick got to the guard")
	}
	if code := rawCall(t, address, "/"+service+"/ListPlans"); code != "0" {
		t.Errorf("the right path: grpc-status %q, so this test proves nothing", code)
	}
}

// rawCall sends an empty message to a path as it is and returns the grpc-status, or the HTTP status.
func rawCall(t *testing.T, address, path string) (answer string) {
	t.Helper()
	c, err := (&net.Dialer{Timeout: time.Minute}).DialContext(t.Context(), "tcp", address)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = c.Write([]byte(http2.ClientPreface))
	must(t, err)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, f.WriteSettings())
	var block strings.Builder
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", path},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"authorization", "Bearer " + token},
	} {
		must(t, e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}))
	must(t, f.WriteData(1, true, make([]byte, 5)))
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "connection closed"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range frame.Fields {
				if h.Name == "grpc-status" || h.Name == ":status" && h.Value != "200" {
					return h.Value
				}
			}
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return frame.ErrCode.String()
		}
	}
}
