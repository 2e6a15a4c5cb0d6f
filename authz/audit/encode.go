package audit

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/voicecore-ai/sluice/authz"
)

// The most of an entry that is written, so that a line has a bound: maxLine, with every byte escaped.
const (
	maxField = 1024
	maxRoles = 16
	maxRole  = 256
)

// encoder turns entries into the bodies of lines: all between the braces but seq and hash.
type encoder struct {
	mask  masker
	whole bool
}

// append writes e. The same entry gives the same bytes.
func (c *encoder) append(b []byte, e *Entry) []byte {
	b = appendHead(b, e.Time, kindNames[min(e.Kind, kindCount-1)])
	if e.Class == authz.Required {
		b = append(b, `,"required":true`...)
	}
	b = c.field(b, "tenant", string(e.Tenant))
	b = c.field(b, "plan", e.Plan)
	b = c.field(b, "principal", e.Principal)
	if e.Scheme != authz.Nobody {
		b = c.field(b, "scheme", e.Scheme.String())
	}
	if len(e.Roles) > 0 {
		b = append(b, `,"roles":[`...)
		for i, role := range e.Roles[:min(len(e.Roles), maxRoles)] {
			if i > 0 {
				b = append(b, ',')
			}
			b = c.text(b, role, maxRole)
		}
		b = append(b, ']')
	}
	b = c.field(b, "peer", e.Peer)
	b = c.source(b, e.Source)
	b = c.field(b, "service", e.Service)
	b = c.field(b, "method", e.Method)
	b = c.field(b, "host", e.Host)
	b = c.field(b, "path", withoutQuery(e.Path))
	if e.GRPC {
		b = append(b, `,"grpc":true`...)
	}
	if e.Kind != kindGap {
		b = append(b, `,"allowed":`...)
		b = strconv.AppendBool(b, e.Allowed)
	}
	b = c.field(b, "reason", e.Reason)
	b = c.field(b, "detail", e.Detail)
	b = c.field(b, "rule", e.Rule)
	if e.Failed {
		b = append(b, `,"failed":true`...)
	}
	if e.ShadowRule != "" || e.ShadowReason != "" {
		b = append(b, `,"shadow":`...)
		b = strconv.AppendBool(b, e.Shadow)
		b = c.field(b, "shadow_rule", e.ShadowRule)
		b = c.field(b, "shadow_reason", e.ShadowReason)
	}
	b = number(b, "revision", e.Revision)
	b = id(b, "decision_id", &e.Decision)
	b = id(b, "trace_id", &e.Trace)
	b = number(b, "count", e.count)
	b = c.field(b, "actor", e.Actor)
	b = c.field(b, "act", e.Act)
	return c.field(b, "resource", e.Resource)
}

func appendHead(b []byte, now int64, kind string) []byte {
	b = append(b, `"time":`...)
	b = strconv.AppendInt(b, now, 10)
	b = append(b, `,"kind":"`...)
	b = append(b, kind...)
	return append(b, '"')
}

func number(b []byte, name string, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendUint(b, v, 10)
}

func id(b []byte, name string, v *[16]byte) []byte {
	if *v == ([16]byte{}) {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":"`...)
	return append(hex.AppendEncode(b, v[:]), '"')
}

func (c *encoder) field(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return c.text(b, s, maxField)
}

// source writes the client's network, or its address if whole: an address is personal data.
func (c *encoder) source(b []byte, s string) []byte {
	if s == "" {
		return b
	}
	p := network(s, c.whole)
	if !p.IsValid() {
		return append(b, `,"source":"unknown"`...)
	}
	b = append(b, `,"source":"`...)
	if c.whole {
		b = p.Addr().AppendTo(b)
	} else {
		b = p.AppendTo(b)
	}
	return append(b, '"')
}

// network is the /24 or /48 of an address, the address itself if whole, and
// invalid if s is none.
func network(s string, whole bool) netip.Prefix {
	a, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Prefix{}
		}
		a = ap.Addr()
	}
	a = a.Unmap().WithZone("")
	bits := 48
	switch {
	case whole:
		bits = a.BitLen()
	case a.Is4():
		bits = 24
	}
	p, _ := a.Prefix(bits) //nolint:errcheck // bits is at most the address's length
	return p
}

func withoutQuery(path string) string {
	for i := range len(path) {
		if path[i] == '?' || path[i] == '#' {
			return path[:i]
		}
	}
	return path
}

// What the text's bytes are to a writer: plain, to be escaped, or the end of what may be a credential.
const (
	plain = iota
	special
	suspect
)

var classes = func() (t [256]uint8) {
	for c := range t {
		if c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			t[c] = special
		}
	}
	for _, c := range "_ +%AIJKLw\t" {
		t[c] = suspect
	}
	return t
}()

// text writes s as a JSON string: nothing that isn't graphic, nothing that looks
// like a credential, at most so many bytes of s.
func (c *encoder) text(b []byte, s string, most int) []byte {
	cut := 0
	if len(s) > most {
		end := most
		for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		cut, s = len(s)-end, s[:end]
	}
	masked := false
	start := len(b)
	b = append(b, '"')
	for i, from := 0, 0; ; i++ {
		if i == len(s) {
			b = append(b, s[from:]...)
			break
		}
		switch classes[s[i]] {
		case plain:
			continue
		case suspect:
			if !masked && suspicious(s, i) {
				s, masked = c.mask.redact(s, cut > 0), true
				b, i, from = append(b[:start], '"'), -1, 0
				continue
			}
			if s[i] != '\t' {
				continue
			}
		}
		b = append(b, s[from:i]...)
		var n int
		b, n = escape(b, s[i:])
		i += n - 1
		from = i + 1
	}
	if cut > 0 {
		b = append(b, "… and "...)
		b = strconv.AppendInt(b, int64(cut), 10)
		b = append(b, " bytes"...)
	}
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

// escape writes the first rune of s, and says how long it is in s.
func escape(b []byte, s string) ([]byte, int) {
	if c := s[0]; c < utf8.RuneSelf {
		switch c {
		case '"', '\\':
			return append(b, '\\', c), 1
		case '\n':
			return append(b, '\\', 'n'), 1
		case '\r':
			return append(b, '\\', 'r'), 1
		case '\t':
			return append(b, '\\', 't'), 1
		}
		return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15]), 1
	}
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case r == utf8.RuneError && n == 1:
		return append(b, `\ufffd`...), 1
	case unicode.IsGraphic(r) && r != '\u2028' && r != '\u2029':
		return append(b, s[:n]...), n
	case r < 0x10000:
		return unit(b, uint16(r)), n
	}
	r -= 0x10000
	return unit(unit(b, uint16(0xd800+r>>10)), uint16(0xdc00+r&0x3ff)), n
}

func unit(b []byte, u uint16) []byte {
	return append(b, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}
