package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// mostBody is max_request_bytes of the wirings with bodies.
const mostBody = 2048

// bodies is a wiring with bodies sent to sluiced, which no shipped configuration does.
func bodies(config string, partial, asBytes bool) string {
	const line = "                      validate_mutations: true\n"
	return strings.Replace(config, line, line+fmt.Sprintf(
		"                      with_request_body: {max_request_bytes: %d, allow_partial_message: %v, pack_as_bytes: %v}\n", mostBody, partial, asBytes), 1)
}

// post is a request with a body and its length.
func post(path, key, body string, lines ...string) string {
	return http1("POST", path, append([]string{key, fmt.Sprintf("content-length: %d", len(body))}, lines...)...) + body
}

// chunked is one with a body in chunks.
func chunked(path, key string, chunks ...string) string {
	request := http1("POST", path, key, asJSON, "transfer-encoding: chunked")
	for _, c := range chunks {
		request += fmt.Sprintf("%x\r\n%s\r\n", len(c), c)
	}
	return request
}

const asJSON = "content-type: application/json"

// Two rules read bodies: one allows, one denies what another allows. A body that can't
// be read one way must pass neither.
func (s *scene) bodyRules(t *testing.T) {
	t.Helper()
	own, pay := &quotav1.Rule_What{Paths: []string{"/v1/own"}}, &quotav1.Rule_What{Paths: []string{"/v1/pay"}}
	s.rule(t, "own", &quotav1.Rule{What: own, When: `request.body.tenant == "T1"`})
	s.rule(t, "pay", &quotav1.Rule{What: pay})
	s.rule(t, "not-for-others", &quotav1.Rule{Effect: "deny", What: pay, When: `request.body.tenant != "T1"`})
	s.rule(t, "calls", &quotav1.Rule{What: &quotav1.Rule_What{Grpc: []string{"voice.Orders/Create"}}, When: `request.body.tenant == "T1"`})
}

func unreadable(t *testing.T, e ending) {
	if !e.record.Failed {
		t.Errorf("the record does not say that a condition failed: %+v", e.record)
	}
}

func TestAttacksOnBodies(t *testing.T) {
	const good = `{"tenant":"T1"}`
	tooLarge := verdict{http.StatusRequestEntityTooLarge, unasked}
	for _, w := range []struct {
		name, config string
		over         verdict
	}{
		{"at a gateway that sends whole bodies", bodies(deploy.Demo, false, true), tooLarge},
		{"in a sidecar that sends partial bodies", bodies(deploy.Sidecar, true, true), isForbidden},
	} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme := s.customer(t, "acme")
			s.bodyRules(t)
			same := func(t *testing.T, e ending) {
				if e.seen.body != good {
					t.Errorf("the upstream got %s", clip(e.seen.body))
				}
			}
			for _, path := range []string{"/v1/own", "/v1/pay"} {
				attacks := []attack{
					{name: "B-00 a good body", request: post(path, acme, good, asJSON), want: passes, check: same},
					{name: "B-00 another tenant", request: post(path, acme, `{"tenant":"T2"}`, asJSON), want: isForbidden},
					{name: "H-09 a mark of a partial body, which Envoy replaces", request: post(path, acme, good, asJSON, "x-envoy-auth-partial-body: true"), want: passes, check: same},
					{name: "B-03 more than sluiced gets", request: post(path, acme, strings.TrimSuffix(good, "}")+`,"x":"`+strings.Repeat("a", mostBody)+`"}`, asJSON), want: w.over},
					{name: "B-03 more than sluiced gets, with a mark that says that it is whole", want: w.over,
						request: post(path, acme, good+strings.Repeat(" ", mostBody), asJSON, "x-envoy-auth-partial-body: false")},
				}
				s.run(t, slices.Concat(attacks, unreadableBodies(path, acme)))
				t.Run("B-03 a body in chunks that Envoy cuts where it looks whole, on "+path, func(t *testing.T) {
					first := chunked(path, acme, good+strings.Repeat(" ", mostBody-len(good)))
					second := "10\r\n{\"tenant\":\"T2\"} \r\n0\r\n\r\n"
					s.judge(t, w.over, func() reply { return s.inTwo(t, first, second) })
				})
			}
			s.run(t, grpcFrames(acme))
		})
	}
}

// unreadableBodies deny, whatever the rule's effect.
func unreadableBodies(path, key string) (attacks []attack) {
	const good = `{"tenant":"T1"}`
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(append([]byte(good), bytes.Repeat([]byte(" "), 1<<20)...))
	_ = z.Close()
	for _, c := range []struct{ name, request string }{
		{"B-01 a key twice", post(path, key, `{"tenant":"T1","tenant":"T2"}`, asJSON)},
		{"B-01 a key in two cases", post(path, key, `{"tenant":"T1","Tenant":"T2"}`, asJSON)},
		{"B-01 a key twice, once escaped", post(path, key, `{"tenant":"T1","t\u0065nant":"T2"}`, asJSON)},
		{"B-02 JSON as a parameter of another type", post(path, key, good, "content-type: text/plain; x=application/json")},
		{"B-02 two content-types", post(path, key, good, asJSON, "content-type: text/plain")},
		{"B-02 two content-types in one", post(path, key, good, asJSON+", text/plain")},
		{"B-02 no content-type", post(path, key, good)},
		{"B-02 a form that says it is JSON", post(path, key, "tenant=T1", asJSON)},
		{"B-02 a form", post(path, key, "tenant=T1", "content-type: application/x-www-form-urlencoded")},
		{"B-02 UTF-16", post(path, key, "{\x00\"\x00t\x00", asJSON+"; charset=utf-16")},
		{"B-02 a byte-order mark", post(path, key, "\ufeff"+good, asJSON)},
		{"B-02 Latin-1", post(path, key, "{\"tenant\":\"T1\",\"x\":\"\xe9\"}", asJSON)},
		{"B-02 gzip", post(path, key, zipped.String(), asJSON, "content-encoding: gzip")},
		{"B-02 plain, that says it is gzip", post(path, key, good, asJSON, "content-encoding: gzip")},
		{"B-03 no body", post(path, key, "", asJSON)},
		{"B-03 no body, with a mark that says that it is whole", post(path, key, "", asJSON, "x-envoy-auth-partial-body: false")},
		{"B-03 GET without a body", http1("GET", path, key, asJSON)},
		{"B-03 chunks, whose end nobody has told", chunked(path, key, good) + "0\r\n\r\n"},
		{"B-04 900 objects in each other", post(path, key, strings.Repeat(`{"a":`, 300)+"1"+strings.Repeat("}", 300), asJSON)},
		{"B-04 a number out of range", post(path, key, `{"tenant":"T1","n":1e999}`, asJSON)},
		{"B-04 a longer number than any", post(path, key, `{"tenant":"T1","n":`+strings.Repeat("9", 1500)+`}`, asJSON)},
		{"B-04 several parts", post(path, key, "--a\r\n\r\n"+good+"\r\n--a--", "content-type: multipart/form-data; boundary=a")},
		{"X-02 a missing field", post(path, key, `{"x":"T1"}`, asJSON)},
		{"X-02 null", post(path, key, `{"tenant":null}`, asJSON)},
		{"X-02 a number", post(path, key, `{"tenant":1}`, asJSON)},
		{"X-02 a list", post(path, key, `{"tenant":["T1"]}`, asJSON)},
		{"X-02 no object", post(path, key, `["tenant"]`, asJSON)},
	} {
		attacks = append(attacks, attack{name: c.name + " on " + path, request: c.request, want: isForbidden, check: unreadable})
	}
	const lies = `{"tenant":"T1"}{"tenant":"T2"}`
	fields := ask2("POST", path, field2(key), field2(asJSON), field{"content-length", fmt.Sprint(len(good))})
	return append(attacks,
		attack{name: "B-03 a length that lies by HTTP/2 on " + path, fields: fields, body: lies, want: byEnvoy},
		attack{name: "B-03 a length with more after it, which is another request, on " + path, request: post(path, key, good, asJSON) + `{"tenant":"T2"}`, want: passes})
}

// grpcFrames are bodies of gRPC for a rule that reads one. None of them is JSON, so no frame is ever looked into.
func grpcFrames(key string) (attacks []attack) {
	refused := verdict{http.StatusOK, forbidden}
	for _, c := range []struct{ name, frames string }{
		{"B-05 one message", "\x00\x00\x00\x00\x02\x08\x01"},
		{"B-05 a compressed message", "\x01\x00\x00\x00\x02\x08\x01"},
		{"B-05 a message that is longer than what comes", "\x00\xff\xff\xff\xff\x08\x01"},
		{"B-05 several messages", "\x00\x00\x00\x00\x02\x08\x01\x00\x00\x00\x00\x02\x08\x02"},
		{"B-05 JSON that says it is gRPC", `{"tenant":"T1"}`},
	} {
		fields := ask2("POST", "/voice.Orders/Create", field2(key), field{"content-type", "application/grpc"}, field{"te", "trailers"}, field{"content-length", fmt.Sprint(len(c.frames))})
		attacks = append(attacks, attack{name: c.name, fields: fields, body: c.frames, want: refused, check: func(t *testing.T, e ending) {
			unreadable(t, e)
			if got := e.header.Get("grpc-status"); got != "7" || !e.record.GRPC {
				t.Errorf("grpc-status %q, record %+v", got, e.record)
			}
		}})
	}
	return attacks
}

func TestBodiesAsTextAreNotRead(t *testing.T) {
	s := stage(t, bodies(deploy.Demo, false, false), stack.Options{})
	acme := s.customer(t, "acme")
	s.bodyRules(t)
	s.run(t, []attack{
		{name: "B-02 bytes that Envoy replaces", request: post("/v1/own", acme, "{\"tenant\":\"T1\",\"x\":\"\xff\"}", asJSON), want: isForbidden, check: unreadable},
		{name: "B-02 a body like any other", request: post("/v1/pay", acme, `{"tenant":"T1"}`, asJSON), want: isForbidden, check: unreadable},
	})
}

// inTwo sends one request in two parts, the second when sluiced was asked about the first or will not be.
func (s *scene) inTwo(t *testing.T, first, second string) reply {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(s.URL, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	asked := s.asked(t)
	if _, err := io.WriteString(conn, first); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(300 * time.Millisecond); s.asked(t) == asked && time.Now().Before(deadline); {
		wait(t, 5*time.Millisecond)
	}
	_, _ = io.WriteString(conn, second)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return refusedAs(t, err)
	}
	body, _ := io.ReadAll(response.Body)
	return reply{status: response.StatusCode, header: response.Header, body: string(body)}
}
