package runner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/grafana/sobek"
)

// answer is what came back: a response, or why there is none.
type answer struct {
	request *request
	status  int
	text    string // of the status
	url     string
	proto   string
	header  http.Header
	body    []byte
	err     error
	code    int
	timings timings
}

// timings are in milliseconds.
type timings struct {
	blocked, connecting, tls, sending, waiting, receiving float64
}

func (t *timings) duration() float64 { return t.sending + t.waiting + t.receiving }

// do sends the request and reads the answer, and samples it. It uses nothing of the interpreter.
func (r *request) do(ctx context.Context) *answer {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, errTimeout)
	defer cancel()
	a := &answer{request: r, url: r.url.String()}
	tracer := &tracer{request: r}
	req, err := http.NewRequestWithContext(ctx, r.method, a.url, strings.NewReader(r.body))
	if err != nil {
		a.err, a.code = err, 1020
		return a
	}
	req.Header = r.header
	if r.host != "" {
		req.Host = r.host
	}
	client := http.Client{Transport: tracer, Jar: r.jar, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if int64(len(via)) > r.redirects {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err == nil {
		a.status, a.text, a.proto, a.header, a.url = resp.StatusCode, resp.Status, resp.Proto, resp.Header, resp.Request.URL.String()
		a.body, err = r.read(resp.Body)
		_ = resp.Body.Close()
	}
	last := tracer.hop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errTimeout) {
			err = fmt.Errorf("%s %s: request timeout: no answer within %v", r.method, r.name, r.timeout)
			a.code = 1050
		} else {
			a.code = errorCode(err)
		}
		a.err, a.status = err, 0
	} else if a.status >= 400 {
		a.code = 1000 + a.status
	}
	if context.Cause(ctx) != nil && a.code != 1050 {
		return a // stopped: what it would say is not true
	}
	if last != nil {
		a.timings = last.end()
		r.sample(last, a)
	}
	return a
}

func (r *request) read(body io.Reader) ([]byte, error) {
	if r.responseType == "none" {
		_, err := io.Copy(io.Discard, body)
		return nil, err
	}
	return io.ReadAll(body)
}

// sample adds the samples of one exchange.
func (r *request) sample(h *hop, a *answer) {
	system := map[string]string{"method": h.method, "name": r.name, "url": a.url, "status": strconv.Itoa(a.status)}
	if a.proto != "" {
		system["proto"] = a.proto
	}
	if a.code != 0 {
		system["error_code"] = strconv.Itoa(a.code)
	}
	if a.err != nil {
		system["error"] = a.err.Error()
	}
	failed := -1.0
	if r.callback != nil {
		failed = 1
		if a.err == nil && r.callback.has(a.status) {
			failed = 0
		}
		system["expected_response"] = strconv.FormatBool(failed == 0)
	}
	// What the script says of a request goes before what we know of it.
	tags := &tagSet{own: system, up: r.tags}
	if r.tags != nil && r.tags != r.v.tags {
		tags = &tagSet{own: r.tags.own, up: &tagSet{own: system, up: r.tags.up}}
	}
	b, m := &r.v.run.builtin, r.v.run.metrics
	m.add(b.reqs, 1, tags)
	m.add(b.reqDuration, a.timings.duration(), tags)
	m.add(b.reqBlocked, a.timings.blocked, tags)
	m.add(b.reqConnecting, a.timings.connecting, tags)
	m.add(b.reqTLS, a.timings.tls, tags)
	m.add(b.reqSending, a.timings.sending, tags)
	m.add(b.reqWaiting, a.timings.waiting, tags)
	m.add(b.reqReceiving, a.timings.receiving, tags)
	if failed >= 0 {
		m.add(b.reqFailed, failed, tags)
	}
}

// tracer measures each exchange of a request: there are several where it is redirected.
type tracer struct {
	request *request
	mu      sync.Mutex
	last    *hop
}

func (t *tracer) hop() *hop {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// RoundTrip measures.
func (t *tracer) RoundTrip(req *http.Request) (*http.Response, error) {
	if before := t.hop(); before != nil && before.redirect != nil {
		before.redirect.timings = before.end()
		t.request.sample(before, before.redirect)
	}
	h := &hop{method: req.Method, begin: time.Now()}
	t.mu.Lock()
	t.last = h
	t.mu.Unlock()
	resp, err := t.request.transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), h.trace())))
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		h.redirect = &answer{status: resp.StatusCode, proto: resp.Proto, url: req.URL.String()}
	}
	return resp, err
}

// hop is one exchange. Its times come from several goroutines, even after it has ended.
type hop struct {
	method   string
	redirect *answer // what it was, if it may lead to another

	mu                                                                     sync.Mutex
	begin, connectStart, connectDone, tlsStart, tlsDone, got, wrote, first time.Time
}

func (h *hop) trace() *httptrace.ClientTrace {
	mark := func(at *time.Time) {
		now := time.Now()
		h.mu.Lock()
		*at = now
		h.mu.Unlock()
	}
	return &httptrace.ClientTrace{
		ConnectStart:         func(string, string) { mark(&h.connectStart) },
		ConnectDone:          func(string, string, error) { mark(&h.connectDone) },
		TLSHandshakeStart:    func() { mark(&h.tlsStart) },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { mark(&h.tlsDone) },
		GotConn:              func(httptrace.GotConnInfo) { mark(&h.got) },
		WroteRequest:         func(httptrace.WroteRequestInfo) { mark(&h.wrote) },
		GotFirstResponseByte: func() { mark(&h.first) },
	}
}

// end is what the exchange took, if it ends now. What did not happen took nothing.
func (h *hop) end() (t timings) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	span := func(from, to time.Time) float64 {
		if from.IsZero() || to.IsZero() || to.Before(from) {
			return 0
		}
		return ms(to.Sub(from))
	}
	first := func(times ...time.Time) time.Time {
		for _, at := range times {
			if !at.IsZero() {
				return at
			}
		}
		return now
	}
	if !h.connectDone.After(h.got) || h.got.IsZero() { // else it was for another request
		t.connecting, t.tls = span(h.connectStart, h.connectDone), span(h.tlsStart, h.tlsDone)
	}
	t.blocked = max(0, span(h.begin, first(h.got))-t.connecting-t.tls)
	if !h.got.IsZero() {
		wrote := h.wrote
		if wrote.IsZero() || !h.first.IsZero() && wrote.After(h.first) { // the answer came while it was sent
			wrote = first(h.first)
		}
		t.sending = span(h.got, wrote)
		t.waiting = span(wrote, first(h.first))
		t.receiving = span(h.first, now)
	}
	return t
}

// errorCode is k6's number for an error of the network.
func errorCode(err error) int {
	var dns *net.DNSError
	var op *net.OpError
	var unknownCA x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return 1101
		}
		return 1100
	case errors.As(err, &unknownCA):
		return 1310
	case errors.As(err, &hostname):
		return 1311
	case errors.As(err, &certificate):
		return 1300
	case errors.Is(err, syscall.ECONNREFUSED):
		return 1212
	case errors.Is(err, syscall.ECONNRESET):
		return 1220
	case errors.Is(err, syscall.EPIPE):
		return 1201
	case errors.As(err, &op):
		if op.Op != "dial" {
			return 1200
		}
		if op.Timeout() {
			return 1211
		}
		return 1210
	}
	return 1000
}

// response is the script's object for an answer.
func (v *vu) response(a *answer) sobek.Value {
	failure := ""
	if a.err != nil {
		failure = a.err.Error()
	}
	headers := make(map[string]any, len(a.header))
	for name, values := range a.header {
		headers[name] = strings.Join(values, ", ")
	}
	t := &a.timings
	timings := map[string]sobek.Value{}
	for name, value := range map[string]float64{
		"duration": t.duration(), "blocked": t.blocked, "connecting": t.connecting, "tls_handshaking": t.tls,
		"sending": t.sending, "waiting": t.waiting, "receiving": t.receiving,
	} {
		timings[name] = v.rt.ToValue(value)
	}
	body := sobek.Null()
	switch {
	case a.err != nil:
	case a.request.responseType == "text":
		body = v.rt.ToValue(string(a.body))
	case a.request.responseType == "binary":
		body = v.rt.ToValue(v.rt.NewArrayBuffer(a.body))
	}
	object := v.rt.NewObject()
	for name, text := range headers {
		_ = object.Set(name, text)
	}
	return v.strict("a response", map[string]sobek.Value{
		"status": v.rt.ToValue(a.status), "status_text": v.rt.ToValue(a.text), "url": v.rt.ToValue(a.url), "proto": v.rt.ToValue(a.proto),
		"error": v.rt.ToValue(failure), "error_code": v.rt.ToValue(a.code), "body": body, "headers": object,
		"timings": v.strict("response.timings", timings), "json": v.rt.ToValue(v.jsonOf(a)),
	})
}

// jsonOf is response.json.
func (v *vu) jsonOf(a *answer) func(sobek.FunctionCall) sobek.Value {
	return func(call sobek.FunctionCall) sobek.Value {
		if !sobek.IsUndefined(call.Argument(0)) {
			v.unsupported("response.json takes no selector here; take the member of what it gives")
		}
		if a.err != nil || a.request.responseType == "none" {
			panic(v.rt.NewTypeError("response.json: the response has no body"))
		}
		return v.parse(a.body)
	}
}
