package extauthz

import "github.com/voicecore-ai/sluice/authz/rawpb"

// Field numbers of envoy.service.auth.v3, as far as they are read.
const (
	checkAttributes   = 1
	attributesSource  = 1
	attributesRequest = 4
	peerPrincipal     = 4
	requestHTTP       = 2
	httpID            = 1
	httpHeaders       = 3
	httpHeaderMap     = 13
	headerMapHeaders  = 1
	headerKey         = 1
	headerValue       = 2
	headerRawValue    = 3
)

const (
	maxPrincipal = 2048 // a SPIFFE id is no longer
	maxStream    = 128
)

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
				c.readSource(value)
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

func (c *call) readSource(source []byte) {
	w := rawpb.Walk(source)
	for number, value, ok := w.Next(); ok; number, value, ok = w.Next() {
		if number != peerPrincipal || len(value) == 0 {
			continue
		}
		switch {
		case len(value) > maxPrincipal:
			c.malformed("the peer's principal is too long")
		case c.principal != "" && c.principal != string(value):
			c.malformed("the peer has two principals")
		default:
			c.principal = string(value)
		}
	}
	c.broken = c.broken || w.Bad()
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
}
