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

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// scene is a running stack that is attacked: its upstream writes down the bytes
// that reach it, and its audit log is read.
type scene struct {
	*world
	witness *witness
}

// stage starts a scene. Everybody whom nobody knows gets a record of their own in
// the audit log, so that each attack can be found there.
func stage(t *testing.T, config string, o stack.Options) *scene {
	t.Helper()
	if config == "" {
		config = deploy.Demo
	}
	s := &scene{witness: startWitness(t)}
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

// judge sends one request and compares its end with the verdict: the answer, the one
// record in the audit log, and whether the upstream was contacted. It returns the answer,
// the record (zero if sluiced was not asked) and what the upstream saw (zero if nothing).
func (s *scene) judge(t *testing.T, want verdict, act func() reply) (reply, audit.Record, sighting) {
	t.Helper()
	records, asked, contacts := len(s.decisions(t)), s.asked(t), s.witness.contacts()
	got := act()
	if got.status != want.status {
		t.Errorf("status %d, want %d; %s", got.status, want.status, clip(got.body))
	}
	if want.reason == unasked {
		if n := s.asked(t) - asked; n != 0 {
			t.Errorf("sluiced was asked %d times, want Envoy to answer before", n)
		}
		if n := len(s.decisions(t)) - records; n != 0 {
			t.Errorf("%d records of what sluiced was not asked", n)
		}
		if n := s.witness.contacts() - contacts; n != 0 {
			t.Errorf("the upstream was contacted %d times", n)
		}
		return got, audit.Record{}, sighting{}
	}
	record := s.oneRecord(t, records)
	if record.Reason != want.reason || record.Allowed == nil || *record.Allowed != (want.reason == admitted) {
		t.Errorf("the record says %s (%s), want %s", record.Reason, record.Detail, want.reason)
	}
	if n := s.asked(t) - asked; n != 1 {
		t.Errorf("sluiced was asked %d times, want once", n)
	}
	seen := s.witness.contacts() - contacts
	if want.reason != admitted {
		if seen != 0 {
			t.Errorf("the upstream was contacted %d times", seen)
		}
		if id := got.header.Get("x-sluice-decision-id"); !got.closed && id != record.Decision {
			t.Errorf("the caller was told decision %q, the record has %q", id, record.Decision)
		}
		return got, record, sighting{}
	}
	if seen != 1 {
		t.Fatalf("the upstream was contacted %d times, want once", seen)
	}
	last := s.witness.newest()
	if ids := last.values("x-sluice-decision-id"); len(ids) != 1 || ids[0] != record.Decision {
		t.Errorf("the upstream got decision %q, the record has %q", ids, record.Decision)
	}
	return got, record, last
}

// oneRecord waits for the one decision after so many.
func (s *scene) oneRecord(t *testing.T, before int) audit.Record {
	t.Helper()
	var now []audit.Record
	eventually(t, "the decision is in the audit log", func() bool {
		now = s.decisions(t)
		return len(now) > before
	})
	if len(now) != before+1 {
		t.Errorf("%d records of one request", len(now)-before)
	}
	return now[before]
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

var askedStats = regexp.MustCompile(`(?m)^http\.[^:]*\.(?:ext_authz\.sluice\.(?:ok|denied|error)|ext_proc\.sluice\.streams_started): (\d+)$`)

// asked is how often Envoy has asked sluiced by ext_authz or ext_proc.
func (w *world) asked(t *testing.T) (n int) {
	t.Helper()
	response, err := http.Get(w.EnvoyAdmin + "/stats?filter=ext_")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, match := range askedStats.FindAllStringSubmatch(string(text), -1) {
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
	if err == nil && len(s.values("transfer-encoding")) > 0 {
		_, err = readLine(in)
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
