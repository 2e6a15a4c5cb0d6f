package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/voicecore-ai/sluice/gen/openapi"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// maxBody is the longest request body in bytes.
const maxBody = 1 << 20

// rest is the REST form. It refuses what has more than one reading before the
// gateway sees it, and checks the token before it reads a body.
type rest struct {
	guard *guard
	mux   *runtime.ServeMux
}

// Handler returns the REST form of the API, under /v1/, and its description at
// /openapi.json, the only path that needs no token.
func (s *Service) Handler() (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true},
		}),
		runtime.WithErrorHandler(answerError),
		runtime.WithRoutingErrorHandler(answerUnrouted),
		runtime.WithMiddlewares(checkQuery),
		runtime.WithIncomingHeaderMatcher(forwardNothing),
		runtime.WithOutgoingHeaderMatcher(forwardNothing),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	if err := quotav1.RegisterQuotaServiceHandlerServer(context.Background(), mux, s.server); err != nil {
		return nil, err
	}
	return &rest{guard: s.server.guard, mux: mux}, nil
}

// forwardNothing keeps headers (Grpc-Metadata-…) from becoming metadata.
// Authorization goes its own way through the gateway.
func forwardNothing(string) (string, bool) { return "", false }

func (h *rest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/openapi.json" {
		serveOpenAPI(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if _, err := h.guard.authenticate(r.Header.Values("Authorization")); err != nil {
		h.guard.report(&Act{
			Time: h.guard.now().UnixMicro(), Source: withoutPort(r.RemoteAddr), Method: clip(r.Method + " " + r.URL.EscapedPath()),
		}, false, err)
		writeError(w, err, 0)
		return
	}
	if strings.Contains(r.URL.EscapedPath(), "%") {
		// No name needs an escape, and proxies disagree about what %2F means.
		writeError(w, fail(codes.NotFound, "NO_SUCH_PATH", "no path has an escape in it"), http.StatusNotFound)
		return
	}
	body, code, err := readBody(w, r)
	if err != nil {
		writeError(w, err, code)
		return
	}
	inner := r.Clone(r.Context())
	inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	h.mux.ServeHTTP(w, inner)
}

func serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, fail(codes.Unimplemented, "METHOD_NOT_ALLOWED", "only GET"), http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openapi.JSON) // the client went away
}

// readBody returns the body of r if it is one JSON value, at most maxBody long,
// as it is; else the error to answer and its HTTP status.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, int, error) {
	malformed := func(code int, message string) ([]byte, int, error) {
		return nil, code, fail(codes.InvalidArgument, "MALFORMED_REQUEST", message)
	}
	for name := range r.Header {
		if strings.Contains(name, "Method-Override") || name == "X-Http-Method" {
			return malformed(http.StatusBadRequest, name+": no method override; send the method itself")
		}
	}
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return malformed(http.StatusUnsupportedMediaType, "content-encoding: no encoding; send plain JSON")
	}
	const tooLong = "the body is longer than 1 MiB"
	if r.ContentLength > maxBody {
		return malformed(http.StatusRequestEntityTooLarge, tooLong)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if long := (*http.MaxBytesError)(nil); errors.As(err, &long) {
		return malformed(http.StatusRequestEntityTooLarge, tooLong)
	}
	if err != nil {
		return malformed(http.StatusBadRequest, "the body ended too early")
	}
	if len(body) == 0 {
		return nil, 0, nil
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		return malformed(http.StatusBadRequest, r.Method+" takes no body")
	}
	types := r.Header.Values("Content-Type")
	if len(types) != 1 {
		return malformed(http.StatusUnsupportedMediaType, "content-type: send exactly one, application/json")
	}
	media, parameters, err := mime.ParseMediaType(types[0])
	charset, hasCharset := parameters["charset"]
	if err != nil || media != "application/json" || hasCharset && !strings.EqualFold(charset, "utf-8") {
		return malformed(http.StatusUnsupportedMediaType, "content-type: only application/json, in UTF-8; with curl, -H 'content-type: application/json'")
	}
	if !json.Valid(body) {
		return malformed(http.StatusBadRequest, "the body is not one JSON value")
	}
	return body, 0, nil
}

// requests are the messages behind each route, to know what a query may hold.
// A route that is not here is refused.
var requests = map[string]proto.Message{
	"POST /v1/plans":                        (*quotav1.CreatePlanRequest)(nil),
	"GET /v1/{name=plans/*}":                (*quotav1.GetPlanRequest)(nil),
	"GET /v1/plans":                         (*quotav1.ListPlansRequest)(nil),
	"PATCH /v1/{plan.name=plans/*}":         (*quotav1.UpdatePlanRequest)(nil),
	"DELETE /v1/{name=plans/*}":             (*quotav1.DeletePlanRequest)(nil),
	"POST /v1/tenants":                      (*quotav1.CreateTenantRequest)(nil),
	"GET /v1/{name=tenants/*}":              (*quotav1.GetTenantRequest)(nil),
	"GET /v1/tenants":                       (*quotav1.ListTenantsRequest)(nil),
	"PATCH /v1/{tenant.name=tenants/*}":     (*quotav1.UpdateTenantRequest)(nil),
	"DELETE /v1/{name=tenants/*}":           (*quotav1.DeleteTenantRequest)(nil),
	"POST /v1/{parent=tenants/*}/apiKeys":   (*quotav1.CreateApiKeyRequest)(nil),
	"GET /v1/{parent=tenants/*}/apiKeys":    (*quotav1.ListApiKeysRequest)(nil),
	"DELETE /v1/{name=tenants/*/apiKeys/*}": (*quotav1.DeleteApiKeyRequest)(nil),
	"POST /v1/rules":                        (*quotav1.CreateRuleRequest)(nil),
	"GET /v1/{name=rules/*}":                (*quotav1.GetRuleRequest)(nil),
	"GET /v1/rules":                         (*quotav1.ListRulesRequest)(nil),
	"PATCH /v1/{rule.name=rules/*}":         (*quotav1.UpdateRuleRequest)(nil),
	"DELETE /v1/{name=rules/*}":             (*quotav1.DeleteRuleRequest)(nil),
	"POST /v1/issuers":                      (*quotav1.CreateIssuerRequest)(nil),
	"GET /v1/{name=issuers/*}":              (*quotav1.GetIssuerRequest)(nil),
	"GET /v1/issuers":                       (*quotav1.ListIssuersRequest)(nil),
	"PATCH /v1/{issuer.name=issuers/*}":     (*quotav1.UpdateIssuerRequest)(nil),
	"DELETE /v1/{name=issuers/*}":           (*quotav1.DeleteIssuerRequest)(nil),
	"GET /v1/{name=tenants/*/usage}":        (*quotav1.GetUsageRequest)(nil),
}

// checkQuery refuses query parameters that the gateway would pass over without
// a word: a misspelt validateOnly must not make a trial a change.
func checkQuery(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		pattern, _ := runtime.HTTPPattern(r.Context())
		request, ok := requests[r.Method+" "+pattern.String()]
		if !ok {
			writeError(w, fail(codes.PermissionDenied, "METHOD_NOT_ALLOWED", "this method may not be called"), 0)
			return
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			writeError(w, fail(codes.InvalidArgument, "MALFORMED_REQUEST", "the query can't be read"), 0)
			return
		}
		var v violations
		for name, values := range query {
			f := parameter(request.ProtoReflect().Descriptor().Fields(), name)
			if f == nil || path[string(f.Name())] != "" {
				v.add(name, "no query parameter of this method")
			} else if len(values) > 1 {
				v.add(name, "more than once; send it once")
			}
		}
		if err := v.err(); err != nil {
			writeError(w, err, 0)
			return
		}
		next(w, r, path)
	}
}

// parameter is the field that a query may set under name, or nil. Resources come in the body.
func parameter(fields protoreflect.FieldDescriptors, name string) protoreflect.FieldDescriptor {
	f := fields.ByName(protoreflect.Name(name))
	if f == nil {
		f = fields.ByJSONName(name)
	}
	if f == nil || f.Message() != nil && f.Message().FullName() != "google.protobuf.FieldMask" {
		return nil
	}
	return f
}

// answerError is the gateway's error handler.
func answerError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	code := 0
	if s := (*runtime.HTTPStatusError)(nil); errors.As(err, &s) {
		err, code = s.Err, s.HTTPStatus
	}
	s := status.Convert(err)
	if len(s.Details()) == 0 { // the gateway's own: it could not decode the request
		if s.Code() != codes.InvalidArgument && code != http.StatusBadRequest {
			writeError(w, internal(), 0)
			return
		}
		err = undecodable(s.Message())
	}
	writeError(w, err, code)
}

var (
	fieldInMessage = regexp.MustCompile(`field "?([A-Za-z0-9_.]+)`)
	protoPrefix    = regexp.MustCompile(`^proto:\s*`)
)

// undecodable makes a field violation of a decoder's message.
func undecodable(message string) error {
	// protojson writes a no-break space at times, so that nobody relies on its words.
	message = protoPrefix.ReplaceAllString(strings.ReplaceAll(message, "\u00a0", " "), "")
	field := ""
	if m := fieldInMessage.FindStringSubmatch(message); m != nil {
		field = m[1]
	}
	return invalid(field, message)
}

// answerUnrouted answers a path or a method that no route has.
func answerUnrouted(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	switch code {
	case http.StatusMethodNotAllowed:
		writeError(w, fail(codes.Unimplemented, "METHOD_NOT_ALLOWED", r.Method+" is not for this path"), code)
	case http.StatusNotFound:
		writeError(w, fail(codes.NotFound, "NO_SUCH_PATH", "no such path; /openapi.json lists them"), code)
	default:
		writeError(w, fail(codes.InvalidArgument, "MALFORMED_REQUEST", "the path can't be read"), http.StatusBadRequest)
	}
}

// writeError answers err as google.rpc.Status in JSON. code 0 means the one
// that belongs to the status.
func writeError(w http.ResponseWriter, err error, code int) {
	s := status.Convert(err)
	if code == 0 {
		code = runtime.HTTPStatusFromCode(s.Code())
	}
	w.Header().Set("Content-Type", "application/json")
	if s.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
	}
	if i := slices.IndexFunc(s.Details(), func(d any) bool { _, ok := d.(*errdetails.RetryInfo); return ok }); i >= 0 {
		wait := s.Details()[i].(*errdetails.RetryInfo).GetRetryDelay().AsDuration() //nolint:errcheck // IndexFunc looked
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	}
	body, err := protojson.Marshal(s.Proto())
	if err != nil {
		body = []byte(`{"code":13,"message":"the error can't be written"}`)
	}
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // JSON, and nosniff is set; an error means that the client went away
}
