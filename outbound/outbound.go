// Package outbound fetches from addresses that a tenant or an issuer may choose:
// key sets, webhooks. It is the guard against server-side request forgery: a
// name is resolved, every address of it is checked, and the address that was checked is dialed, so
// nothing can change in between. Redirects and proxies are never followed.
//
// It is not for addresses that the operator alone chooses (stores, collectors).
// Each request is a connection of its own: a few milliseconds, no pool to reason about. It is a
// leaf: it imports nothing of Sluice.
package outbound

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of every exchange, unless Options say otherwise.
const (
	DefaultTimeout = 3 * time.Second
	DefaultMaxBody = 1 << 20
	maxHeader      = 64 << 10
	maxURL         = 4096
	maxAddresses   = 16
)

// Errors that callers may tell apart with errors.Is.
var (
	// ErrAddress says that a URL or an address behind it is not to be asked.
	ErrAddress = errors.New("the address is refused")
	// ErrBody says that an answer was larger than is read.
	ErrBody = errors.New("the answer is too large")
	// ErrStatus says that an answer had another status than 200.
	ErrStatus = errors.New("the answer is no 200")
)

// Options are what a client is made of. The zero value is a good client.
type Options struct {
	Timeout time.Duration  // of a whole exchange, names resolved and body read; default DefaultTimeout
	MaxBody int64          // bytes of an answer; default DefaultMaxBody
	Roots   *x509.CertPool // default the system's
	// Resolve finds the addresses of a name; default the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// Client asks guarded questions. It is safe for concurrent use.
type Client struct {
	o       Options
	public  *http.Transport
	private *http.Transport
}

// New returns a client.
func New(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxBody <= 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.Resolve == nil {
		resolver := new(net.Resolver)
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return resolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.dial == nil {
		dialer := new(net.Dialer)
		o.dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", to.String())
		}
	}
	c := &Client{o: o}
	c.public, c.private = c.transport(false), c.transport(true)
	return c
}

func (c *Client) transport(allowPrivate bool) *http.Transport {
	only1 := new(http.Protocols)
	only1.SetHTTP1(true)
	return &http.Transport{
		Proxy: nil, // one from the environment would resolve the name itself
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return c.dial(ctx, address, allowPrivate)
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.o.Roots},
		Protocols:              only1,
		TLSHandshakeTimeout:    c.o.Timeout,
		ResponseHeaderTimeout:  c.o.Timeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      true,
		DisableCompression:     true, // what is counted is what is kept
	}
}

// Request is one question.
type Request struct {
	Method string // default GET
	URL    string
	Header http.Header
	Body   []byte
	// AllowPrivate admits private and loopback addresses, for what runs inside the
	// cluster. Metadata and link-local addresses are refused all the same.
	AllowPrivate bool
}

// Response is one answer.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do asks once. An answer with any status is a Response, a redirect too; it is
// not followed. Errors name the host, never the rest of the URL, which may hold a secret.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	u, err := parse(r.URL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("%s: the request can't be made: %w", u.Host, withoutURL(err))
	}
	for name, values := range r.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	if request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", "sluice")
	}
	transport := c.public
	if r.AllowPrivate {
		transport = c.private
	}
	// A transport, unlike http.Client, follows nothing and keeps no cookies.
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.Host, withoutURL(err))
	}
	defer response.Body.Close() //nolint:errcheck // it was read, or is not wanted
	body, err := io.ReadAll(io.LimitReader(response.Body, c.o.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s: the answer broke off: %w", u.Host, err)
	}
	if int64(len(body)) > c.o.MaxBody {
		return nil, fmt.Errorf("%s: %w: at most %d bytes", u.Host, ErrBody, c.o.MaxBody)
	}
	return &Response{Status: response.StatusCode, Header: response.Header, Body: body}, nil
}

// Get fetches the body behind url. Any status but 200 is an error.
func (c *Client) Get(ctx context.Context, url string, allowPrivate bool) ([]byte, error) {
	response, err := c.Do(ctx, Request{Method: http.MethodGet, URL: url, AllowPrivate: allowPrivate})
	switch {
	case err != nil:
		return nil, err
	case response.Status >= 300 && response.Status < 400:
		return nil, fmt.Errorf("%w: %d; redirects are not followed: name the address they lead to", ErrStatus, response.Status)
	case response.Status != http.StatusOK:
		return nil, fmt.Errorf("%w: %d", ErrStatus, response.Status)
	}
	return response.Body, nil
}

// CheckURL says what is wrong with a URL as far as its text tells; nil if nothing is. What its
// name resolves to is checked with each request.
func CheckURL(raw string) error {
	_, err := parse(raw)
	return err
}

func parse(raw string) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, fmt.Errorf("%w: the URL is longer than %d bytes", ErrAddress, maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no URL", ErrAddress)
	}
	switch {
	case u.Scheme != "https":
		return nil, fmt.Errorf("%w: want a URL that begins with https://", ErrAddress)
	case u.User != nil:
		return nil, fmt.Errorf("%w: want a URL without user and password", ErrAddress)
	case u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("%w: want a URL with a host", ErrAddress)
	case u.Fragment != "":
		return nil, fmt.Errorf("%w: want a URL without a fragment", ErrAddress)
	}
	if wrong := wrongHost(u.Hostname()); wrong != "" {
		return nil, fmt.Errorf("%s: %w: %s", u.Host, ErrAddress, wrong)
	}
	return u, nil
}

// dial connects to an address of host that was checked here. If one address of
// a name is refused, the name is: who mixes them is up to something.
func (c *Client) dial(ctx context.Context, address string, allowPrivate bool) (net.Conn, error) {
	// net/http lets a dial outlive its request, in case another could use the connection.
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("%w: the port is none", ErrAddress)
	}
	addresses, err := c.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if wrong := wrongAddress(a, allowPrivate); wrong != "" {
			return nil, fmt.Errorf("%w: %s is %s", ErrAddress, a, wrong)
		}
	}
	for _, a := range addresses {
		var conn net.Conn
		if conn, err = c.o.dial(ctx, netip.AddrPortFrom(a, uint16(port))); err == nil {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("no connection: %w", err)
}

func (c *Client) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil // checked as written: an IPv4-mapped literal is refused
	}
	if wrong := wrongHost(host); wrong != "" {
		return nil, fmt.Errorf("%w: %s", ErrAddress, wrong)
	}
	found, err := c.o.Resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("the name can't be resolved: %w", err)
	}
	if len(found) == 0 || len(found) > maxAddresses {
		return nil, fmt.Errorf("%w: the name has %d addresses, want 1 to %d", ErrAddress, len(found), maxAddresses)
	}
	addresses := make([]netip.Addr, len(found))
	for i, a := range found {
		addresses[i] = a.Unmap() // resolvers give IPv4 in either form
	}
	return addresses, nil
}

// withoutURL is err without the URL that net/http puts into it.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// wrongHost says why a host may not be asked, whatever it resolves to; "" if it may.
func wrongHost(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return wrongAddress(a, true)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	for _, m := range metadataHosts {
		if name == m || strings.HasSuffix(name, "."+m) {
			return "it is a metadata service"
		}
	}
	if name == "" || len(name) > 253 {
		return "it is no host name"
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return "it is no host name: write it in ASCII (punycode)"
		}
	}
	if endsInNumber(name) {
		return "it is an address in an unusual form: write it as 192.0.2.1"
	}
	return ""
}

// endsInNumber is the test by which browsers and C libraries take a host for an
// IPv4 address (WHATWG URL, 3.5): 127.1, 0x7f000001 and 2130706433 are 127.0.0.1 to some.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	digits := last
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		digits = strings.Trim(hex, "abcdef0123456789")
		return digits == ""
	}
	return last != "" && strings.Trim(digits, "0123456789") == ""
}
