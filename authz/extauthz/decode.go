package extauthz

import (
	"strconv"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/rawpb"
)

// Field numbers of envoy.service.auth.v3, as far as they are read.
const (
	checkAttributes       = 1
	attributesSource      = 1
	attributesDestination = 2
	attributesRequest     = 4
	attributesExtensions  = 10
	peerAddress           = 1
	peerPrincipal         = 4
	addressSocket         = 1
	socketAddress         = 2
	requestHTTP           = 2
	httpID                = 1
	httpMethod            = 2
	httpHeaders           = 3
	httpPath              = 4
	httpHost              = 5
	httpBody              = 11
	httpRawBody           = 12
	httpHeaderMap         = 13
	headerMapHeaders      = 1
	headerKey             = 1
	headerValue           = 2
	headerRawValue        = 3
)

const (
	maxPrincipal = 2048 // a SPIFFE id is no longer
	maxAddress   = 64
	maxStream    = 128
)

// serviceExtension is the context extension that names what a route leads to.
// Only the operator sets it, in Envoy's configuration.
const serviceExtension = "service"

// headerForms says in which of its two forms Envoy sent the headers. It sends
// one; a request with both could be read two ways.
type headerForms uint8

const (
	formMap headerForms = 1 << iota // headers: values of one name joined with commas
	formRaw                         // header_map: encode_raw_headers
)

// read takes out of the request what admission needs. What can't be read one
// way only ends in reader.Malformed.
func (c *call) read() {
	sawAttributes, sawHTTP := false, false
	top := rawpb.Walk(c.in.Bytes)
	for number, attributes, ok := top.Next(); ok; number, attributes, ok = top.Next() {
		if number != checkAttributes {
			continue
		}
		sawAttributes = true
		w := rawpb.Walk(attributes)
		for number, value, ok := w.Next(); ok; number, value, ok = w.Next() {
			switch number {
			case attributesSource:
				c.readPeer(value, &c.principal, &c.source)
			case attributesDestination:
				c.readPeer(value, &c.holder, nil)
			case attributesExtensions:
				c.readExtension(value)
			case attributesRequest:
				sawHTTP = c.readRequest(value) || sawHTTP
			}
		}
		c.broken = c.broken || w.Bad()
	}
	switch {
	case c.broken || top.Bad():
		c.malformed("the check request is not protobuf")
	case !sawAttributes:
		c.malformed("the check request has no attributes")
	case !sawHTTP:
		c.malformed("the check request has no HTTP request")
	case c.forms == formMap|formRaw:
		c.malformed("the check request has the headers twice")
	}
}

func (c *call) malformed(why string) {
	if c.reader.Malformed == "" {
		c.reader.Malformed = why
	}
}

// readPeer reads the principal and, where it is wanted, the address of one end.
func (c *call) readPeer(peer []byte, principal, address *string) {
	w := rawpb.Walk(peer)
	for number, value, ok := w.Next(); ok; number, value, ok = w.Next() {
		switch {
		case number == peerAddress && address != nil:
			c.readAddress(value, address)
		case number != peerPrincipal:
		case len(value) > maxPrincipal:
			c.malformed("a peer's principal is too long")
		case *principal != "" && *principal != string(value):
			c.malformed("a peer has two principals")
		default:
			*principal = string(value)
		}
	}
	c.broken = c.broken || w.Bad()
}

func (c *call) readAddress(address []byte, into *string) {
	w := rawpb.Walk(address)
	for number, socket, ok := w.Next(); ok; number, socket, ok = w.Next() {
		if number != addressSocket {
			continue
		}
		in := rawpb.Walk(socket)
		for number, value, ok := in.Next(); ok; number, value, ok = in.Next() {
			if number == socketAddress {
				*into = string(value[:min(len(value), maxAddress)])
			}
		}
		c.broken = c.broken || in.Bad()
	}
	c.broken = c.broken || w.Bad()
}

// readExtension reads one entry of the context extensions.
func (c *call) readExtension(entry []byte) {
	var key, value []byte
	w := rawpb.Walk(entry)
	for number, b, ok := w.Next(); ok; number, b, ok = w.Next() {
		switch number {
		case headerKey:
			key = b
		case headerValue:
			value = b
		}
	}
	c.broken = c.broken || w.Bad()
	if string(key) == serviceExtension {
		c.service = string(value)
	}
}

func (c *call) readRequest(request []byte) (sawHTTP bool) {
	w := rawpb.Walk(request)
	for number, http, ok := w.Next(); ok; number, http, ok = w.Next() {
		if number == requestHTTP {
			sawHTTP = true
			c.readHTTP(http)
		}
	}
	c.broken = c.broken || w.Bad()
	return sawHTTP
}

func (c *call) readHTTP(http []byte) {
	w := rawpb.Walk(http)
	for number, value, ok := w.Next(); ok; number, value, ok = w.Next() {
		switch number {
		case httpID:
			c.stream = string(value[:min(len(value), maxStream)])
		case httpMethod:
			c.reader.Target(value, nil, nil)
		case httpPath:
			c.reader.Target(nil, value, nil)
		case httpHost:
			c.reader.Target(nil, nil, value)
		case httpBody, httpRawBody:
			if c.body != nil && len(value) > 0 {
				c.malformed("the check request has two bodies")
			}
			c.body, c.text = value, c.text || number == httpBody && len(value) > 0
		case httpHeaders:
			c.forms |= formMap
			c.readHeader(value)
		case httpHeaderMap:
			c.forms |= formRaw
			m := rawpb.Walk(value)
			for number, header, ok := m.Next(); ok; number, header, ok = m.Next() {
				if number == headerMapHeaders {
					c.readHeader(header)
				}
			}
			c.broken = c.broken || m.Bad()
		}
	}
	c.broken = c.broken || w.Bad()
}

// readHeader reads a map entry or a HeaderValue: key and value have the same
// numbers, and only the latter has a raw value.
func (c *call) readHeader(header []byte) {
	var key, value, raw []byte
	w := rawpb.Walk(header)
	for number, b, ok := w.Next(); ok; number, b, ok = w.Next() {
		switch number {
		case headerKey:
			key = b
		case headerValue:
			value = b
		case headerRawValue:
			raw = b
		}
	}
	if w.Bad() {
		c.broken = true
		return
	}
	if len(raw) > 0 {
		if len(value) > 0 {
			c.malformed("a header has two values")
		}
		value = raw
	}
	c.reader.Add(key, value)
	if len(key) > 0 && key[0] != ':' {
		c.pairs = append(c.pairs, authz.Header{Name: key, Value: value})
	}
}

// whole reports whether the body is all that the upstream will get, byte for byte.
//
// Envoy marks each body that it sends, once and in the place of what a client wrote. Its mark says "false" of
// a body too that it cut exactly at max_request_bytes (measured on Envoy 1.40), so the length must have been told
// beforehand as well. In a text, which is what pack_as_bytes: false makes, Envoy has put '!' for what is not UTF-8.
func (c *call) whole() bool {
	if len(c.body) == 0 || c.text {
		return false
	}
	told, marks := 0, 0
	for i := range c.pairs {
		value := string(c.pairs[i].Value)
		switch string(c.pairs[i].Name) {
		case "content-length":
			if n, err := strconv.Atoi(value); err != nil || n != len(c.body) {
				return false
			}
			told++
		case "x-envoy-auth-partial-body":
			if value != "false" {
				return false
			}
			marks++
		}
	}
	return told == 1 && marks == 1
}
