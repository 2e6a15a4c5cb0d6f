package runner

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grafana/sobek"
)

var httpExports = []string{"batch", "del", "expectedStatuses", "get", "head", "options", "patch", "post", "put", "request", "setResponseCallback"}

// client is a VU's connections, and what the script set for all its requests.
type client struct {
	transport *http.Transport
	jar       http.CookieJar // of one iteration
	callback  *expected
}

// start makes the transport. Options are not known yet to the first VU of a run, which sends nothing.
func (c *client) start(v *vu) {
	o := &v.run.options
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	c.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: conn, sent: &v.sent, received: &v.received}, nil
		},
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: o.insecureSkipTLSVerify}, //nolint:gosec // as the script says
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		DisableKeepAlives:   o.noConnectionReuse,
		MaxIdleConnsPerHost: int(max(1, o.batchPerHost)),
		IdleConnTimeout:     90 * time.Second,
	}
	c.reset()
}

// reset forgets the cookies of the last iteration.
func (c *client) reset() { c.jar, _ = cookiejar.New(nil) } // it has no error

// countedConn counts bytes.
type countedConn struct {
	net.Conn
	sent, received *atomic.Int64
}

// Read counts.
func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// Write counts.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// expected is what http.expectedStatuses gives: the statuses that are no failure.
type expected struct {
	exact  []int
	ranges [][2]int
}

var defaultExpected = &expected{ranges: [][2]int{{200, 399}}}

func (e *expected) has(status int) bool {
	return slices.Contains(e.exact, status) || slices.ContainsFunc(e.ranges, func(r [2]int) bool { return r[0] <= status && status <= r[1] })
}

// moduleHTTP is k6/http.
func (v *vu) moduleHTTP() map[string]any {
	without := func(method string) func(sobek.FunctionCall) sobek.Value {
		return func(call sobek.FunctionCall) sobek.Value {
			return v.send(v.request(method, call.Argument(0), nil, call.Argument(1)))
		}
	}
	with := func(method string) func(sobek.FunctionCall) sobek.Value {
		return func(call sobek.FunctionCall) sobek.Value {
			return v.send(v.request(method, call.Argument(0), call.Argument(1), call.Argument(2)))
		}
	}
	return map[string]any{
		"get": without(http.MethodGet), "head": without(http.MethodHead),
		"post": with(http.MethodPost), "put": with(http.MethodPut), "patch": with(http.MethodPatch), "del": with(http.MethodDelete), "options": with(http.MethodOptions),
		"request": func(call sobek.FunctionCall) sobek.Value {
			return v.send(v.request(call.Argument(0).String(), call.Argument(1), call.Argument(2), call.Argument(3)))
		},
		"batch":            v.batch,
		"expectedStatuses": v.expectedStatuses,
		"setResponseCallback": func(call sobek.FunctionCall) sobek.Value {
			v.client.callback = v.expectedOf(call.Argument(0))
			return sobek.Undefined()
		},
	}
}

// send sends one request and waits for its answer.
func (v *vu) send(r *request) sobek.Value {
	answer := r.do(v.ctx)
	return v.answered(answer)
}

// answered is the script's object for an answer.
func (v *vu) answered(a *answer) sobek.Value {
	if v.ctx.Err() != nil {
		return v.stopped()
	}
	if a.err != nil {
		if v.run.options.throw {
			panic(v.rt.NewGoError(a.err))
		}
		v.run.log.print("warn", "request failed: "+a.err.Error())
	}
	return v.response(a)
}

// batch sends requests at the same time, no more than the options allow.
func (v *vu) batch(call sobek.FunctionCall) sobek.Value {
	list, ok := call.Argument(0).(*sobek.Object)
	if !ok {
		panic(v.rt.NewTypeError("http.batch: want an array or an object of requests"))
	}
	keys := list.Keys()
	requests, answers := make([]*request, len(keys)), make([]*answer, len(keys))
	for i, key := range keys {
		requests[i] = v.batched(list.Get(key))
	}
	all := make(chan struct{}, v.run.options.batch)
	hosts := map[string]chan struct{}{}
	var sending sync.WaitGroup
	for i, r := range requests {
		host := hosts[r.url.Host]
		if host == nil {
			host = make(chan struct{}, max(1, v.run.options.batchPerHost))
			hosts[r.url.Host] = host
		}
		sending.Go(func() {
			host <- struct{}{}
			all <- struct{}{}
			answers[i] = r.do(v.ctx)
			<-all
			<-host
		})
	}
	sending.Wait()
	var out *sobek.Object
	if list.ClassName() == "Array" {
		out = v.rt.NewArray()
	} else {
		out = v.rt.NewObject()
	}
	for i, key := range keys {
		if err := out.Set(key, v.answered(answers[i])); err != nil {
			panic(v.rt.NewGoError(err))
		}
	}
	return out
}

// batched reads one request of a batch: a URL, an array or an object.
func (v *vu) batched(value sobek.Value) *request {
	object, ok := value.(*sobek.Object)
	if !ok {
		return v.request(http.MethodGet, value, nil, nil)
	}
	names := []string{"method", "url", "body", "params"}
	if object.ClassName() == "Array" {
		names = []string{"0", "1", "2", "3"}
	}
	method := http.MethodGet
	if m := object.Get(names[0]); m != nil {
		method = m.String()
	}
	return v.request(method, object.Get(names[1]), object.Get(names[2]), object.Get(names[3]))
}

// expectedStatuses makes a response callback.
func (v *vu) expectedStatuses(call sobek.FunctionCall) sobek.Value {
	e := &expected{}
	for _, a := range call.Arguments {
		if object, ok := a.(*sobek.Object); ok && object.Get("min") != nil && object.Get("max") != nil {
			e.ranges = append(e.ranges, [2]int{int(object.Get("min").ToInteger()), int(object.Get("max").ToInteger())})
			continue
		}
		if status, ok := a.Export().(int64); ok {
			e.exact = append(e.exact, int(status))
			continue
		}
		panic(v.rt.NewTypeError("http.expectedStatuses: %v is neither a number nor {min, max}", a))
	}
	if len(call.Arguments) == 0 {
		panic(v.rt.NewTypeError("http.expectedStatuses: no status"))
	}
	return v.rt.ToValue(e)
}

// expectedOf reads a response callback; nil for null, which judges no answer.
func (v *vu) expectedOf(value sobek.Value) *expected {
	if sobek.IsNull(value) {
		return nil
	}
	e, ok := value.Export().(*expected)
	if !ok {
		panic(v.rt.NewTypeError("a response callback is what http.expectedStatuses gives, or null"))
	}
	return e
}

// request is one to send, as the script gave it.
type request struct {
	v            *vu
	method       string
	url          *url.URL
	name         string // its URL as given
	host         string
	header       http.Header
	body         string
	tags         *tagSet
	timeout      time.Duration
	redirects    int64
	responseType string // text, binary or none
	callback     *expected
	transport    *http.Transport
	jar          http.CookieJar
}

// request reads a request of the script.
func (v *vu) request(method string, target, body, params sobek.Value) *request {
	if !v.ready {
		panic(v.rt.NewTypeError("requests are sent only in functions that iterations call"))
	}
	if target == nil || sobek.IsUndefined(target) || sobek.IsNull(target) {
		panic(v.rt.NewTypeError("http.%s: no URL", strings.ToLower(method)))
	}
	u, err := url.Parse(target.String())
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		panic(v.rt.NewTypeError("http: %q: want a URL that begins with http:// or https://", target.String()))
	}
	r := &request{
		v: v, method: method, url: u, name: target.String(), header: http.Header{"User-Agent": {v.run.options.userAgent}}, tags: v.tags, timeout: time.Minute,
		redirects: v.run.options.maxRedirects, responseType: "text", callback: v.client.callback, transport: v.client.transport, jar: v.client.jar,
	}
	if v.run.options.discardResponseBodies {
		r.responseType = "none"
	}
	r.setBody(body)
	if params != nil && !sobek.IsUndefined(params) && !sobek.IsNull(params) {
		r.setParams(params.ToObject(v.rt))
	}
	return r
}

func (r *request) setBody(body sobek.Value) {
	if body == nil || sobek.IsUndefined(body) || sobek.IsNull(body) {
		return
	}
	switch value := body.Export().(type) {
	case string:
		r.body = value
	case sobek.ArrayBuffer:
		r.body = string(value.Bytes())
	case map[string]any:
		form := url.Values{}
		for key, text := range r.v.stringMap("http: body", body) {
			form.Set(key, text)
		}
		r.body = form.Encode()
		r.header.Set("Content-Type", "application/x-www-form-urlencoded")
	default:
		r.v.unsupported("http: a body must be a string, an ArrayBuffer or an object of strings here")
	}
}

func (r *request) setParams(params *sobek.Object) {
	v := r.v
	for _, key := range params.Keys() {
		value := params.Get(key)
		if sobek.IsUndefined(value) {
			continue
		}
		switch key {
		case "headers":
			for name, text := range v.stringMap("http: headers", value) {
				if strings.EqualFold(name, "Host") {
					r.host = text
				}
				r.header.Set(name, text)
			}
		case "tags":
			r.tags = v.tagsOf(value)
		case "timeout":
			r.timeout = v.durationOf("http: timeout", value)
		case "redirects":
			r.redirects = value.ToInteger()
		case "responseType":
			r.responseType = value.String()
			if !slices.Contains([]string{"text", "binary", "none"}, r.responseType) {
				panic(v.rt.NewTypeError("http: responseType %q: want text, binary or none", r.responseType))
			}
		case "responseCallback":
			r.callback = v.expectedOf(value)
		default:
			v.unsupported("http: this runner has no parameter " + key + "; it has headers, redirects, responseCallback, responseType, tags, timeout")
		}
	}
}
