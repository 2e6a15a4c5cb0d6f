package authn

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep the JSON of a token may be nested.
const maxDepth = 8

// part decodes one part of a token: base64url without padding, in its one spelling.
// The library skips line breaks, even when strict.
func part(s string) ([]byte, bool) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}

// maxMembers is how many members an object, and items a list, may have if it is read.
const maxMembers = 128

// object is a JSON object whose values are not read yet: most of a token is for
// others, and a stranger chooses how much of it there is.
type object []member

type member struct {
	name  string
	value []byte
}

// get is the text of a member's value.
func (o object) get(name string) (value []byte, there bool) {
	for i := range o {
		if o[i].name == name {
			return o[i].value, true
		}
	}
	return nil, false
}

// parseObject reads one JSON object with nothing after it. It refuses what two readers could
// read differently, bytes that are no UTF-8 and a name twice, and what is nested below maxDepth.
func parseObject(raw []byte) (object, bool) {
	if !utf8.Valid(raw) || tooDeep(raw) || !json.Valid(raw) {
		return nil, false
	}
	return members(raw)
}

// members splits a valid JSON value that should be an object.
func members(raw []byte) (o object, ok bool) {
	at := blank(raw, 0)
	if raw[at] != '{' {
		return nil, false
	}
	for at = blank(raw, at+1); raw[at] != '}'; {
		end := value(raw, at)
		name, ok := unquote(raw[at:end])
		if _, again := o.get(name); !ok || again || len(o) == maxMembers {
			return nil, false
		}
		at = blank(raw, blank(raw, end)+1) // the colon
		end = value(raw, at)
		o = append(o, member{name, raw[at:end]})
		if at = blank(raw, end); raw[at] == ',' {
			at = blank(raw, at+1)
		}
	}
	return o, true
}

// items splits a valid JSON value that should be a list.
func items(raw []byte) (list [][]byte, ok bool) {
	if raw[0] != '[' {
		return nil, false
	}
	for at := blank(raw, 1); raw[at] != ']'; {
		end := value(raw, at)
		if len(list) == maxMembers {
			return nil, false
		}
		list = append(list, raw[at:end])
		if at = blank(raw, end); raw[at] == ',' {
			at = blank(raw, at+1)
		}
	}
	return list, true
}

// blank is where, from at, the next byte is that is no white space.
func blank(raw []byte, at int) int {
	for raw[at] == ' ' || raw[at] == '\t' || raw[at] == '\r' || raw[at] == '\n' {
		at++
	}
	return at
}

// value is where the value that begins at at ends, in valid JSON.
func value(raw []byte, at int) int {
	if c := raw[at]; c != '"' && c != '{' && c != '[' {
		for at < len(raw) && strings.IndexByte(",]} \t\r\n", raw[at]) < 0 {
			at++
		}
		return at
	}
	depth, quoted := 0, false
	for ; ; at++ {
		switch c := raw[at]; {
		case quoted && c == '\\':
			at++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth == 0 && !quoted {
			return at + 1
		}
	}
}

// unquote reads a valid JSON value that should be a string.
func unquote(raw []byte) (s string, ok bool) {
	if raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// tooDeep counts brackets outside strings; that they match is asked later.
func tooDeep(raw []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// spelled reports whether o has none of the names in another case. A reader that ignores
// case, as Go's own does for structs, would take one for the other.
func spelled(o object, names ...string) bool {
	for i := range o {
		for _, name := range names {
			if o[i].name != name && strings.EqualFold(o[i].name, name) {
				return false
			}
		}
	}
	return true
}

// text is a member that must be a string, and not empty, where there is one.
func text(o object, name string) (s string, ok bool) {
	raw, there := o.get(name)
	if !there {
		return "", true
	}
	s, ok = unquote(raw)
	return s, ok && s != ""
}

// claim follows path down from o. ok is false if something on it is no object or
// is written in two ways; there is false if the claim is not there.
func claim(o object, path []string) (raw []byte, there, ok bool) {
	for i, name := range path {
		if !spelled(o, name) {
			return nil, false, false
		}
		if raw, there = o.get(name); !there {
			return nil, false, true
		}
		if i == len(path)-1 {
			break
		}
		if o, ok = members(raw); !ok {
			return nil, false, false
		}
	}
	return raw, there, true
}

// maxDate is the end of the year 9999, Unix seconds.
const maxDate = 253_402_300_799

// date is a member that is a NumericDate (RFC 7519, 2) of whole seconds. there is false if there is none.
func date(o object, name string) (seconds int64, there, ok bool) {
	raw, there := o.get(name)
	if !there {
		return 0, false, true
	}
	seconds, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil { // 1.8e9 and 1800000000.0 are integers too
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > maxDate {
			return 0, true, false
		}
		seconds = int64(f)
	}
	return seconds, true, seconds >= 0 && seconds <= maxDate
}
