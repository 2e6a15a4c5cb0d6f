package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/tenant"
)

// scene is a running stack that is attacked: its upstream writes down the bytes
// that reach it, and its audit log is read.
type scene struct {
	*world
	witness *witness
	extProc bool
}

// stage starts a scene. Everybody whom nobody knows gets a record of their own in
// the audit log, so that each attack can be found there.
func stage(t *testing.T, config string, o stack.Options) *scene {
	t.Helper()
	if config == "" {
		config = deploy.Demo
	}
	s := &scene{witness: startWitness(t), extProc: strings.Contains(config, "envoy.filters.http.ext_proc")}
	// Envoy waits a second before it ends a connection that it closes by HTTP/2.
	config = strings.Replace(config, "stream_idle_timeout: 300s", "stream_idle_timeout: 300s\n                delayed_close_timeout: 0.05s", 1)
	o.Config = strings.ReplaceAll(config, "${UPSTREAM_PORT}", s.witness.port)
	o.Workers = 1
	o.Args = append([]string{"--audit-anonymous-rate", "1000"}, o.Args...)
	s.world = start(t, o)
	return s
}

// verdict is how an attack should end: the caller's status, and the reason of the one
// audit record. A reason of unasked means that Envoy answered before it asked sluiced.
type verdict struct {
	status int
	reason string
}

// The reasons of records, and none.
const (
	unasked         = ""
	admitted        = "admitted"
	unauthenticated = "unauthenticated"
	forbidden       = "forbidden"
	malformed       = "malformed"
)

// The verdicts that most attacks end in.
var (
	passes      = verdict{http.StatusOK, admitted}
	isNobody    = verdict{http.StatusUnauthorized, unauthenticated}
	isForbidden = verdict{http.StatusForbidden, forbidden}
	isMalformed = verdict{http.StatusBadRequest, malformed}
	byEnvoy     = verdict{http.StatusBadRequest, unasked}
)

// reply is what a caller got. Envoy closes a connection whose headers it does not
// take, which may overtake its 4xx: then the status is 400 and closed is true.
type reply struct {
	status int
	header http.Header
	body   string
	closed bool
}

// ending is what came of one request.
type ending struct {
	reply
	record audit.Record // zero if sluiced was not asked
	seen   sighting     // by the upstream; zero if it was not contacted

	asked, contacts int
}

// judge sends one request and compares its end with the verdict: the answer, the one
// record in the audit log, and whether the upstream was contacted.
func (s *scene) judge(t *testing.T, want verdict, act func() reply) ending {
	t.Helper()
	records := len(s.decisions(t))
	e := s.observe(t, act)
	s.settle(t, records+e.asked)
	s.check(t, want, &e)
	return e
}

// judged is judge, with the parts of what came of it.
func (s *scene) judged(t *testing.T, want verdict, act func() reply) (reply, audit.Record, sighting) {
	t.Helper()
	e := s.judge(t, want, act)
	return e.reply, e.record, e.seen
}

// oneRecord waits for the one decision after so many.
func (s *scene) oneRecord(t *testing.T, before int) audit.Record {
	t.Helper()
	s.settle(t, before+1)
	return s.decisions(t)[before]
}

// observe sends one request. Its record may be on its way still.
func (s *scene) observe(t *testing.T, act func() reply) ending {
	t.Helper()
	asked, contacts := s.asked(t), s.witness.contacts()
	e := ending{reply: act()}
	e.asked, e.contacts = s.asked(t)-asked, s.witness.contacts()-contacts
	if e.contacts > 0 {
		e.seen = s.witness.newest()
	}
	return e
}

// settle waits until the audit log has so many decisions, and fails if it has more.
func (s *scene) settle(t *testing.T, want int) {
	t.Helper()
	got := 0
	await.That(t, "each decision is in the audit log", func() bool {
		got = len(s.decisions(t))
		return got >= want
	})
	if got > want {
		t.Errorf("%d records of %d decisions", got, want)
	}
}

// accounted is how many decisions the audit log has, those included that it counts and does not write down one by one.
func (w *world) accounted(t *testing.T) (n int) {
	t.Helper()
	for _, r := range w.audited(t) {
		switch {
		case r.Kind == "decision":
			n++
		case r.Kind == "summary", r.Kind == "gap" && r.Reason != "recorded_late":
			n += int(r.Count)
		}
	}
	return n
}

// check compares what came of a request with the verdict, and finds its record.
func (s *scene) check(t *testing.T, want verdict, e *ending) {
	t.Helper()
	if e.status != want.status && (!e.closed || want.reason != unasked) {
		t.Errorf("status %d, want %d; %s", e.status, want.status, clip(e.body))
	}
	passed := want.reason == admitted
	if n := e.contacts; n != 0 && !passed || n != 1 && passed {
		t.Errorf("the upstream was contacted %d times; it saw %+v", n, e.seen)
	}
	if want.reason == unasked {
		if e.asked != 0 {
			t.Errorf("sluiced was asked, want Envoy to answer before")
		}
		return
	}
	if e.asked != 1 {
		t.Errorf("sluiced was asked %d times, want once", e.asked)
	}
	id := e.header.Get("x-sluice-decision-id")
	if passed {
		id = strings.Join(e.seen.values("x-sluice-decision-id"), " and ")
	}
	records := s.recordsOf(t, id)
	if len(records) != 1 {
		t.Fatalf("%d records of decision %q, want one", len(records), id)
	}
	e.record = records[0]
	if r := e.record; r.Reason != want.reason || r.Allowed == nil || *r.Allowed != passed {
		t.Errorf("the record says %s (%s), want %s", r.Reason, r.Detail, want.reason)
	}
	if passed {
		asAuthorized(t, e)
	}
}

// asAuthorized fails where the upstream saw another request than the record
// says was admitted, or who the caller is in any way but once.
func asAuthorized(t *testing.T, e *ending) {
	t.Helper()
	method, rest, _ := strings.Cut(e.seen.line, " ")
	path, version, _ := strings.Cut(rest, " ")
	canonical, err := authz.CanonicalPath(path)
	if method != e.record.Method || err != nil || canonical != e.record.Path || version != "HTTP/1.1" {
		t.Errorf("the upstream saw %q, the record says %s %s", e.seen.line, e.record.Method, e.record.Path)
	}
	hosts := e.seen.values("host")
	if len(hosts) != 1 {
		t.Fatalf("the upstream saw the hosts %q", hosts)
	}
	if host, err := authz.CanonicalHost(hosts[0]); err != nil || host != e.record.Host {
		t.Errorf("the upstream saw the host %q, the record says %q", hosts[0], e.record.Host)
	}
	ours := map[string]string{"x-tenant-id": e.record.Tenant, "x-sluice-plan": e.record.Plan, "x-sluice-principal": e.record.Principal, "x-sluice-decision-id": e.record.Decision}
	for name, want := range ours {
		if got := e.seen.values(name); len(got) != 1 || got[0] != want {
			t.Errorf("the upstream saw %s: %q, the record says %q", name, got, want)
		}
	}
	for _, h := range e.seen.headers {
		_, known := ours[strings.ToLower(h.name)]
		known = known || strings.EqualFold(h.name, tenant.TokenHeader) // where the service can hold one
		if tenant.IsReservedHeader(h.name) && !known || strings.Contains(h.value, "slk_") {
			t.Errorf("the upstream saw %s: %s", h.name, h.value)
		}
	}
}

// recordsOf are the decisions in the audit log that have that id.
func (w *world) recordsOf(t *testing.T, id string) []audit.Record {
	t.Helper()
	return slices.DeleteFunc(w.decisions(t), func(r audit.Record) bool { return r.Decision != id })
}

// decisions are the records of decisions in the audit log, the oldest first.
func (w *world) decisions(t *testing.T) []audit.Record {
	t.Helper()
	return slices.DeleteFunc(w.audited(t), func(r audit.Record) bool { return r.Kind != "decision" })
}

// audited is the whole audit log, but for the headers of its segments and a line that is being written.
func (w *world) audited(t *testing.T) (records []audit.Record) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(w.Data, "audit", "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(segments)
	for _, segment := range segments {
		text, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if record, err := audit.ParseRecord(line); err == nil && record.Kind != "" {
				records = append(records, record)
			}
		}
	}
	return records
}

var (
	authzStats = regexp.MustCompile(`(?m)^http\.[^:]*\.ext_authz\.sluice\.(?:ok|denied|error|invalid): (\d+)$`)
	decided    = regexp.MustCompile(`(?m)^sluice_decisions_total\{[^}]*\} (\d+)$`)
)

// asked is how often Envoy has asked sluiced by ext_authz. By ext_proc it begins a stream
// for what it refuses itself, to show the answer: there it is how often sluiced has decided.
func (s *scene) asked(t *testing.T) (n int) {
	t.Helper()
	matches := decided.FindAllStringSubmatch(s.metrics(t), -1)
	if !s.extProc {
		response, err := http.Get(s.EnvoyAdmin + "/stats?filter=ext_authz")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		matches = authzStats.FindAllStringSubmatch(string(text), -1)
	}
	for _, match := range matches {
		count, _ := strconv.Atoi(match[1])
		n += count
	}
	return n
}

// raw sends bytes as they are to Envoy and reads one answer.
func (w *world) raw(t *testing.T, request string) reply {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(w.URL, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan struct{})
	go func() { _, _ = io.WriteString(conn, request); close(sent) }() // an answer may come before the end of the request
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		_ = conn.Close()
		<-sent
		return refusedAs(t, err)
	}
	got := reply{status: response.StatusCode, header: response.Header}
	if response.StatusCode >= 200 { // a 101 lasts
		body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		got.body = string(body)
	}
	_ = conn.Close()
	<-sent
	return got
}

// refusedAs is the reply that a connection without an answer amounts to. No
// answer in time is none: whoever hangs is not refused.
func refusedAs(t *testing.T, err error) reply {
	t.Helper()
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Fatalf("no answer: %v", err)
	}
	return reply{status: http.StatusBadRequest, header: http.Header{}, closed: true}
}

// http1 is the text of an HTTP/1.1 request without a body.
func http1(method, path string, lines ...string) string {
	return method + " " + path + " HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")
}

// field is one header of HTTP/2, as it is sent.
type field struct{ name, value string }

// ask2 are the pseudo-headers of a request.
func ask2(method, path string, more ...field) []field {
	return append([]field{{":method", method}, {":scheme", "http"}, {":authority", "api.example.com"}, {":path", path}}, more...)
}

// raw2 sends fields over HTTP/2 as they are, and a body if there is one, and reads one answer.
func (w *world) raw2(t *testing.T, fields []field, body string) reply {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(w.URL, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(&out, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings()
	const frame = 16 << 10
	first := block.Next(frame)
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: block.Len() == 0, EndStream: body == ""})
	for block.Len() > 0 {
		part := block.Next(frame)
		_ = framer.WriteContinuation(1, block.Len() == 0, part)
	}
	if body != "" {
		_ = framer.WriteData(1, true, []byte(body))
	}
	_, _ = conn.Write(out.Bytes()) // if Envoy has closed, reading says so
	return read2(t, framer)
}

func read2(t *testing.T, framer *http2.Framer) reply {
	t.Helper()
	got := reply{header: http.Header{}}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return refusedAs(t, err)
		}
		ended := false
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				if h.Name == ":status" {
					got.status, _ = strconv.Atoi(h.Value)
				} else {
					got.header.Add(h.Name, h.Value)
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			got.body += string(f.Data())
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			if got.status == 0 {
				return reply{status: http.StatusBadRequest, header: http.Header{}, closed: true}
			}
			ended = true
		}
		if ended {
			return got
		}
	}
}

// witness is an upstream that answers 200 and writes down what reached it, byte for byte.
type witness struct {
	port string

	mu   sync.Mutex
	n    int // connections that sent a byte of another request
	seen []sighting
}

// sighting is one request as the upstream saw it.
type sighting struct {
	line    string // the request line
	headers []field
	body    string
}

// values are those of a header, in any case of its name.
func (s sighting) values(name string) (all []string) {
	for _, h := range s.headers {
		if strings.EqualFold(h.name, name) {
			all = append(all, h.value)
		}
	}
	return all
}

func startWitness(t *testing.T) *witness {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{}
	_, w.port, _ = net.SplitHostPort(l.Addr().String())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context := t.Context()
			running.Go(func() {
				stop := make(chan struct{})
				go func() {
					select {
					case <-context.Done():
					case <-stop:
					}
					_ = conn.Close()
				}()
				w.serve(conn)
				close(stop)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); running.Wait() })
	return w
}

func (w *witness) serve(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		w.mu.Lock()
		w.n++
		w.mu.Unlock()
		s, err := readSighting(in)
		w.mu.Lock()
		w.seen = append(w.seen, s)
		w.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := fmt.Fprint(conn, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

func readSighting(in *bufio.Reader) (s sighting, err error) {
	if s.line, err = readLine(in); err != nil {
		return s, err
	}
	for {
		line, err := readLine(in)
		if err != nil {
			return s, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		s.headers = append(s.headers, field{name, value})
	}
	var body io.Reader = http.NoBody
	if length := s.values("content-length"); len(length) == 1 {
		n, err := strconv.ParseInt(length[0], 10, 64)
		if err != nil {
			return s, err
		}
		body = io.LimitReader(in, n)
	} else if slices.Contains(s.values("transfer-encoding"), "chunked") {
		body = httputil.NewChunkedReader(in)
	}
	text, err := io.ReadAll(body)
	s.body = string(text)
	for err == nil && len(s.values("transfer-encoding")) > 0 { // trailers
		var line string
		if line, err = readLine(in); line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		s.headers = append(s.headers, field{name, value})
	}
	return s, err
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}

// contacts is how many requests have begun to arrive.
func (w *witness) contacts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

// newest is the last request that has arrived.
func (w *witness) newest() sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 {
		return sighting{}
	}
	return w.seen[len(w.seen)-1]
}

// clip is the beginning of a text.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}
