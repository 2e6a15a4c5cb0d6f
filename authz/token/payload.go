package token

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

const issuer = "sluice"

// maxRoles bounds what one token can make a reader allocate.
const maxRoles = 64

// sayable reports whether the claims can be written, and so whether a text that
// says them could have come from Mint.
func (c *Claims) sayable() bool {
	_, err := tenant.ParseID(string(c.Tenant))
	return err == nil &&
		c.Principal.Scheme != authz.Nobody && c.Principal.Scheme.String() != authz.Nobody.String() &&
		c.Principal.Name != "" && printable(c.Principal.Name) &&
		printable(c.Plan) &&
		len(c.Principal.Roles) <= maxRoles && !slices.ContainsFunc(c.Principal.Roles, func(r string) bool { return !printable(r) }) &&
		c.Decision != [16]byte{} &&
		strings.HasPrefix(c.Holder, "spiffe://") && printable(c.Holder) &&
		(c.Principal.Expires == 0 || c.Principal.Expires >= c.Expires) &&
		c.Issued > 0 && c.Issued < c.Expires && c.Expires-c.Issued <= MaxLife.Microseconds()
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// appendPayload appends the JSON of c: always these members, in this order, with
// no space, and in strings no escapes but \" and \\.
func appendPayload(b []byte, c *Claims) []byte {
	b = append(b, `{"iss":"`+issuer+`","sub":`...)
	b = appendString(b, c.Principal.Name)
	b = append(b, `,"sch":`...)
	b = appendString(b, c.Principal.Scheme.String())
	b = append(b, `,"vch":"`...) // what the caller's own credential hangs on in the catalogue
	b = hex.AppendEncode(b, c.Principal.Voucher[:])
	b = append(b, `","tnt":`...)
	b = appendString(b, string(c.Tenant))
	b = append(b, `,"pln":`...)
	b = appendString(b, c.Plan)
	b = append(b, `,"rol":[`...)
	for i, role := range c.Principal.Roles {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, role)
	}
	b = append(b, `],"did":"`...)
	b = hex.AppendEncode(b, c.Decision[:])
	b = append(b, `","cnf":{"spiffe":`...)
	b = appendString(b, c.Holder)
	b = append(b, `},"cxp":`...) // end of the caller's own credential; 0 for never
	b = strconv.AppendInt(b, c.Principal.Expires/second, 10)
	b = append(b, `,"iat":`...)
	b = strconv.AppendInt(b, c.Issued/second, 10)
	b = append(b, `,"exp":`...)
	b = strconv.AppendInt(b, c.Expires/second, 10)
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// parsePayload reads what appendPayload writes and nothing else.
func parsePayload(s string) (c Claims, ok bool) {
	p := parser{rest: s}
	p.literal(`{"iss":"` + issuer + `","sub":`)
	c.Principal.Name = p.text()
	p.literal(`,"sch":`)
	c.Principal.Scheme = schemeOf(p.text())
	p.literal(`,"vch":`)
	p.hex(&c.Principal.Voucher)
	p.literal(`,"tnt":`)
	c.Tenant = tenant.ID(p.text())
	p.literal(`,"pln":`)
	c.Plan = p.text()
	p.literal(`,"rol":[`)
	c.Principal.Roles = p.texts()
	p.literal(`],"did":`)
	p.hex(&c.Decision)
	p.literal(`,"cnf":{"spiffe":`)
	c.Holder = p.text()
	p.literal(`},"cxp":`)
	c.Principal.Expires = p.seconds()
	p.literal(`,"iat":`)
	c.Issued = p.seconds()
	p.literal(`,"exp":`)
	c.Expires = p.seconds()
	p.literal(`}`)
	if p.bad || p.rest != "" || !c.sayable() {
		return Claims{}, false
	}
	return c, true
}

func schemeOf(name string) authz.Scheme {
	for _, s := range []authz.Scheme{authz.SPIFFE, authz.APIKey, authz.JWT} {
		if s.String() == name {
			return s
		}
	}
	return authz.Nobody
}

// parser reads one text from its front. What does not fit makes it bad, and it stays so.
type parser struct {
	rest string
	bad  bool
}

func (p *parser) literal(want string) {
	rest, ok := strings.CutPrefix(p.rest, want)
	p.rest, p.bad = rest, p.bad || !ok
}

// text reads one string.
func (p *parser) text() string {
	if p.literal(`"`); p.bad {
		return ""
	}
	end := strings.IndexAny(p.rest, `"\`)
	if end >= 0 && p.rest[end] == '"' { // no escapes: nearly always
		s := p.rest[:end]
		p.rest = p.rest[end+1:]
		return s
	}
	var s []byte
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return string(s)
		case '\\':
			if i++; i == len(p.rest) || p.rest[i] != '"' && p.rest[i] != '\\' {
				p.bad = true
				return ""
			}
			s = append(s, p.rest[i])
		default:
			s = append(s, c)
		}
	}
	p.bad = true
	return ""
}

// hex reads one string of 16 bytes in lower case.
func (p *parser) hex(id *[16]byte) {
	text := p.text()
	n, err := hex.Decode(id[:], []byte(text[:min(len(text), hex.EncodedLen(len(id)))]))
	p.bad = p.bad || err != nil || n != len(id) || len(text) != hex.EncodedLen(n) || text != strings.ToLower(text)
}

func (p *parser) texts() (all []string) {
	for !p.bad && !strings.HasPrefix(p.rest, "]") {
		if len(all) == maxRoles {
			p.bad = true
			return nil
		}
		if len(all) > 0 {
			p.literal(",")
		}
		all = append(all, p.text())
	}
	return all
}

// seconds reads whole seconds, without sign or leading zeros, as µs.
func (p *parser) seconds() int64 {
	const digits = 12 // the year 33658
	n := 0
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	if n == 0 || n > digits || n > 1 && p.rest[0] == '0' {
		p.bad = true
		return 0
	}
	v, err := strconv.ParseInt(p.rest[:n], 10, 64)
	p.rest, p.bad = p.rest[n:], p.bad || err != nil
	return v * second
}
