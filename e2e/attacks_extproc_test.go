package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// modes is the configuration for ext_proc with other body modes, and trailers too.
func modes(config, request, response string) string {
	return strings.NewReplacer(
		"request_body_mode: NONE", "request_body_mode: "+request, "response_body_mode: NONE", "response_body_mode: "+response,
		"request_trailer_mode: SKIP", "request_trailer_mode: SEND",
	).Replace(config)
}

// E-01, E-03, E-04, E-10: in each body mode that a filter may have, each request is asked about once, is one
// record, and its body reaches the upstream as it was.
func TestE04BodiesThroughEnvoy(t *testing.T) {
	large := strings.Repeat("ü", 600_000) // 1.2 MB, whose runes the chunks cut in two
	for _, mode := range []string{"NONE", "STREAMED", "BUFFERED_PARTIAL", "BUFFERED"} {
		for _, response := range []string{"NONE", "STREAMED"} {
			s := stage(t, modes(deploy.ExtProc, mode, response), stack.Options{Catalog: catalogue(t, classes)})
			key := "x-api-key: " + s.key(t, "acme")
			bodies := map[string]string{"no body": "", "a body of one byte": "x", "a body of 20 KB": large[:20_000], "a body of 1.2 MB": large}
			if mode == "BUFFERED" {
				delete(bodies, "a body of 1.2 MB") // more than Envoy keeps: it answers 413 after it has asked
			}
			for name, body := range bodies {
				t.Run(fmt.Sprintf("E-01, E-04 %s passes with request mode %s and response mode %s", name, mode, response), func(t *testing.T) {
					_, record, seen := s.judged(t, passes, func() reply {
						return s.raw(t, http1("POST", "/may/x", key, fmt.Sprintf("content-length: %d", len(body)))+body)
					})
					if seen.body != body {
						t.Errorf("the upstream got %d bytes of %d", len(seen.body), len(body))
					}
					if record.Source != "127.0.0.0/24" {
						t.Errorf("the record's source is %q", record.Source)
					}
				})
			}
			t.Run("E-03 chunks with an empty one at the end, and trailers, pass in mode "+mode, func(t *testing.T) {
				_, _, seen := s.judged(t, passes, func() reply {
					return s.raw(t, http1("POST", "/may/x", key, "transfer-encoding: chunked", "te: trailers")+"1\r\nx\r\n2\r\n\xc3\xbc\r\n0\r\n\r\n")
				})
				if seen.body != "x\xc3\xbc" {
					t.Errorf("the upstream got %q", seen.body)
				}
			})
			t.Run("E-01 a stranger's body reaches nobody in mode "+mode, func(t *testing.T) {
				_, record, _ := s.judged(t, isNobody, func() reply {
					return s.raw(t, http1("POST", "/may/x", "content-length: 3")+"abc")
				})
				if record.Source != "127.0.0.0/24" {
					t.Errorf("the record's source is %q", record.Source)
				}
			})
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
}

// E-02: messages in an order that no Envoy sends, to the running server.
func TestE02OrdersThatNoEnvoySends(t *testing.T) {
	w := alone(t, stack.Options{Catalog: catalogue(t, classes), Args: []string{"--audit-anonymous-rate", "1000"}})
	key := w.key(t, "acme")
	type message = *extprocv3.ProcessingRequest
	good, bad := processingRequest(key, "/may/x"), processingRequest("slk_00000000_none", "/may/x")
	response := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}}
	body := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("x"), EndOfStream: true}}}
	trailers := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}}
	responseBody := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{}}}
	observed := processingRequest(key, "/may/x")
	observed.ObservabilityMode = true
	for name, c := range map[string]struct {
		messages         []message
		answers, records int
		ends             codes.Code
	}{
		"E-02 a body before headers":                     {[]message{body, good}, 0, 1, codes.InvalidArgument},
		"E-02 trailers before headers":                   {[]message{trailers}, 0, 1, codes.InvalidArgument},
		"E-02 request headers twice":                     {[]message{good, good}, 1, 2, codes.InvalidArgument},
		"E-02 a response, and then a request":            {[]message{response, good}, 1, 1, codes.InvalidArgument},
		"E-02 a response's body first":                   {[]message{responseBody}, 0, 1, codes.InvalidArgument},
		"E-02 response headers twice":                    {[]message{good, response, response}, 2, 2, codes.InvalidArgument},
		"E-02 a body after trailers":                     {[]message{good, trailers, body}, 2, 2, codes.InvalidArgument},
		"E-02 nothing at all":                            {nil, 0, 0, codes.InvalidArgument},
		"E-02 a message that asks nothing":               {[]message{{}}, 0, 1, codes.InvalidArgument},
		"E-01 nothing after a refusal":                   {[]message{bad, response, good}, 1, 1, codes.OK},
		"E-03 the end of a body twice":                   {[]message{good, body, body}, 3, 1, codes.OK},
		"E-10 a response before the request's body":      {[]message{good, response, body, trailers}, 4, 1, codes.OK},
		"E-01 observability mode is charged nothing":     {[]message{observed}, 0, 0, codes.OK},
		"E-09 a response that never was a request":       {[]message{response, responseBody}, 2, 0, codes.OK},
		"E-01 all phases of a request, each is answered": {[]message{good, body, trailers, response, responseBody}, 5, 1, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(w.decisions(t))
			stream, err := extprocv3.NewExternalProcessorClient(w.conn).Process(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.messages {
				_ = stream.Send(m)
			}
			_ = stream.CloseSend()
			answers := 0
			for ; err == nil; answers++ {
				_, err = stream.Recv()
			}
			answers--
			if err == io.EOF { //nolint:errorlint // gRPC returns it as it is
				err = nil
			}
			if answers != c.answers || status.Code(err) != c.ends {
				t.Errorf("%d answers and %v, want %d and %v", answers, err, c.answers, c.ends)
			}
			await.That(t, "as many records", func() bool { return len(w.decisions(t)) >= before+c.records })
			wait(t, 100*time.Millisecond) // a record too many would be there by now
			if n := len(w.decisions(t)) - before; n != c.records {
				t.Errorf("%d records, want %d", n, c.records)
			}
		})
	}
}

// E-05, E-06, E-07, E-11: an Envoy that is configured for what is not served refuses, and never
// passes on a request that was not decided.
func TestE07ConfigurationsThatAreNotServed(t *testing.T) {
	upgrade := []string{"upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="}
	for name, c := range map[string]struct {
		config   string
		lines    []string
		status   int
		records  int
		contacts int
	}{
		"E-07 FULL_DUPLEX_STREAMED":               {modes(strings.Replace(deploy.ExtProc, "response_trailer_mode: SKIP", "response_trailer_mode: SEND", 1), "FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED"), nil, 503, 1, 0},
		"E-06 an upgrade with body mode STREAMED": {modes(deploy.Streams, "STREAMED", "STREAMED"), upgrade, 503, 1, 0},
		"E-06 an upgrade with body mode BUFFERED": {modes(deploy.Streams, "BUFFERED", "NONE"), upgrade, 503, 1, 0},
		"E-05 a filter that takes overrides of the mode": {
			strings.Replace(deploy.ExtProc, "message_timeout: 1s", "message_timeout: 1s\n                      allow_mode_override: true", 1), nil, 200, 1, 1,
		},
		"E-11 a filter that may change no header": {
			strings.Replace(deploy.ExtProc, "mutation_rules: {disallow_is_error: true}", "mutation_rules: {disallow_all: true, disallow_is_error: true}", 1), nil, 503, 1, 0,
		},
		"E-11 a filter that may change no header and says nothing": {
			strings.Replace(deploy.ExtProc, "mutation_rules: {disallow_is_error: true}", "mutation_rules: {disallow_all: true}", 1), nil, 200, 1, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.config == deploy.ExtProc {
				t.Fatal("the configuration was not changed")
			}
			s := stage(t, c.config, stack.Options{Catalog: catalogue(t, classes)})
			key := s.key(t, "acme")
			lines := append([]string{"x-api-key: " + key, "x-tenant-id: umbrella", "x-sluice-tenant: umbrella"}, c.lines...)
			got := s.raw(t, "GET /may/x HTTP/1.1\r\nhost: a\r\n"+strings.Join(lines, "\r\n")+"\r\n\r\n")
			if got.status != c.status {
				t.Errorf("status %d, want %d: %s", got.status, c.status, clip(got.body))
			}
			await.That(t, "as many records", func() bool { return len(s.decisions(t)) >= c.records })
			if n := len(s.decisions(t)); n != c.records {
				t.Errorf("%d records, want %d", n, c.records)
			}
			if n := s.witness.contacts(); n != c.contacts {
				t.Errorf("the upstream was contacted %d times, want %d", n, c.contacts)
			}
			for _, h := range s.witness.newest().headers {
				if h.value == "umbrella" {
					t.Errorf("the upstream got the client's %s", h.name)
				}
			}
		})
	}
}

// E-08: requests that are reset while sluiced hangs, on a route with a mode of its own, leave nothing behind.
func TestE08ResetsWhileItIsAsked(t *testing.T) {
	config := strings.Replace(deploy.ExtProc, "route: {cluster: upstream, timeout: 15s}", `route: {cluster: upstream, timeout: 15s}
                          typed_per_filter_config:
                            envoy.filters.http.ext_proc:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                              overrides: {processing_mode: {request_header_mode: SEND, response_header_mode: SKIP, response_trailer_mode: SEND}}`, 1)
	s := stage(t, config, stack.Options{Catalog: catalogue(t, classes)})
	key := s.key(t, "acme")
	s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/may/x", "x-api-key: "+key)) })
	goroutines := s.number(t, "go_goroutines")
	for range 3 {
		s.freeze(t)
		var asking sync.WaitGroup
		for i := range 50 {
			asking.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(10+i)*5*time.Millisecond)
				defer cancel()
				if shot := s.at(ctx, key, "/may/x"); shot.status == http.StatusOK {
					t.Error("E-08 it passed while nobody decided")
				}
			})
		}
		asking.Wait()
		if err := s.Sluiced().Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	await.That(t, "E-08 no stream and no goroutine is left", func() bool {
		return s.metric(t, "sluice_streams_live") == "0" && s.number(t, "go_goroutines") <= goroutines+15
	})
	await.That(t, "E-08 the last of what was decided too late is on record", func() bool { return s.accounted(t) == s.asked(t) })
	if n := s.witness.contacts(); n != 1 {
		t.Errorf("E-08 the upstream was contacted %d times", n)
	}
	s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/may/x", "x-api-key: "+key)) })
}

// E-09: what Envoy answers itself, after it has asked, is one record.
func TestE09LocalRepliesAreOneRecord(t *testing.T) {
	for wiring, config := range map[string]string{"ext_proc": deploy.ExtProc, "ext_authz": deploy.Demo} {
		config := strings.NewReplacer("${UPSTREAM_PORT}", "1", "match: {prefix: /}", "match: {prefix: /may}").Replace(config)
		s := stage(t, config, stack.Options{Catalog: catalogue(t, classes)})
		key := s.key(t, "acme")
		t.Run("E-09 by "+wiring+", a 503 for an upstream that is not there is one record of an admission", func(t *testing.T) {
			before := len(s.decisions(t))
			if got := s.raw(t, http1("GET", "/may/x", "x-api-key: "+key)); got.status != http.StatusServiceUnavailable {
				t.Errorf("%d", got.status)
			}
			if r := s.oneRecord(t, before); r.Reason != admitted {
				t.Errorf("%+v", r)
			}
		})
		t.Run("E-09 by "+wiring+", a 404 for a route that is not there is at most one record, of what was decided", func(t *testing.T) {
			before := s.asked(t)
			records := len(s.decisions(t))
			if got := s.raw(t, http1("GET", "/never", "x-api-key: "+key)); got.status != http.StatusNotFound && got.status != http.StatusForbidden {
				t.Errorf("%d", got.status)
			}
			asked := s.asked(t) - before
			await.That(t, "as many records as questions", func() bool { return len(s.decisions(t)) == records+asked })
		})
	}
}
