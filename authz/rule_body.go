package authz

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a body that a condition reads.
const (
	maxBody   = 64 << 10
	maxDepth  = 32
	maxValues = 10_000
)

// Errors of a body. A condition that reads such a body can't be evaluated.
var (
	errPartial  = errors.New("not all of it is here")
	errType     = errors.New("the content-type is not application/json, once, in UTF-8")
	errEncoding = errors.New("it has a content-encoding")
	errBodySize = errors.New("it is longer than 64 KiB")
	errUTF8     = errors.New("it is not plain UTF-8")
	errJSON     = errors.New("it is not JSON")
	errDeep     = errors.New("it is nested more than 32 deep")
	errMany     = errors.New("it has more than 10,000 values")
	errKeys     = errors.New("an object has a key twice, or in two cases")
	errNumber   = errors.New("a number is out of range: 64 bits for whole numbers, a double for others")
)

// parseBody reads a JSON body that every reader reads alike (B-01 to B-04, H-09):
// object, []any, string, int64, float64, bool or nil.
func parseBody(a *Action) (any, error) {
	if err := wholeJSON(a); err != nil {
		return nil, err
	}
	data := a.Body.Bytes
	switch {
	case len(data) > maxBody:
		return nil, errBodySize
	case !utf8.Valid(data) || bytes.HasPrefix(data, []byte("\uFEFF")):
		return nil, errUTF8
	case !json.Valid(data):
		return nil, errJSON
	case loneSurrogate(data):
		return nil, errUTF8
	}
	d := decoder{data: data, left: maxValues}
	return d.value(0)
}

// wholeJSON checks what the headers say of the body.
func wholeJSON(a *Action) error {
	if !a.Body.Whole {
		return errPartial
	}
	typed, marks := 0, 0
	for i := range a.Headers {
		value := a.Headers[i].Value
		switch string(a.Headers[i].Name) {
		case "content-type":
			if typed++; typed > 1 || !jsonType(string(value)) {
				return errType
			}
		case "content-encoding":
			return errEncoding
		case "x-envoy-auth-partial-body": // Envoy's mark on each body that it sends, in the place of a client's
			if marks++; marks > 1 || string(value) != "false" {
				return errPartial
			}
		case "content-length":
			if n, err := strconv.ParseUint(string(value), 10, 63); err != nil || n != uint64(len(a.Body.Bytes)) {
				return errPartial
			}
		}
	}
	if typed == 0 {
		return errType
	}
	return nil
}

func jsonType(value string) bool {
	kind, parameter, found := strings.Cut(value, ";")
	if !strings.EqualFold(strings.Trim(kind, " \t"), "application/json") {
		return false
	}
	parameter = strings.ToLower(strings.Trim(parameter, " \t"))
	return !found || parameter == "charset=utf-8" || parameter == `charset="utf-8"`
}

// loneSurrogate reports whether an escape of valid JSON is half a character,
// which readers replace, drop or keep.
func loneSurrogate(data []byte) bool {
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++ // valid JSON: there is a next byte
		if data[i] != 'u' {
			continue
		}
		first, _ := strconv.ParseUint(string(data[i+1:i+5]), 16, 16)
		i += 4
		switch {
		case first >= 0xdc00 && first <= 0xdfff:
			return true
		case first < 0xd800 || first > 0xdfff:
			continue
		case i+6 >= len(data) || data[i+1] != '\\' || data[i+2] != 'u':
			return true
		}
		second, _ := strconv.ParseUint(string(data[i+3:i+7]), 16, 16)
		if second < 0xdc00 || second > 0xdfff {
			return true
		}
		i += 6
	}
	return false
}

// decoder reads the values of what json.Valid has found to be valid, so it
// checks no grammar.
type decoder struct {
	data []byte
	at   int
	left int // values that may still be read
}

// next skips space and is the byte that begins what follows.
func (d *decoder) next() byte {
	for d.data[d.at] <= ' ' {
		d.at++
	}
	return d.data[d.at]
}

func (d *decoder) value(depth int) (any, error) {
	if d.left--; d.left < 0 {
		return nil, errMany
	}
	switch c := d.next(); c {
	case '{', '[':
		if depth == maxDepth {
			return nil, errDeep
		}
		d.at++
		if c == '{' {
			return d.object(depth + 1)
		}
		return d.array(depth + 1)
	case '"':
		return d.text()
	case 't':
		d.at += len("true")
		return true, nil
	case 'f':
		d.at += len("false")
		return false, nil
	case 'n':
		d.at += len("null")
		return nil, nil
	}
	start := d.at
	for d.at < len(d.data) && strings.IndexByte("+-.0123456789Ee", d.data[d.at]) >= 0 {
		d.at++
	}
	return number(string(d.data[start:d.at]))
}

// text reads a string. The escapes are left to encoding/json.
func (d *decoder) text() (string, error) {
	start, escaped := d.at, false
	for d.at++; d.data[d.at] != '"'; d.at++ {
		if d.data[d.at] == '\\' {
			escaped = true
			d.at++
		}
	}
	d.at++
	if !escaped {
		return string(d.data[start+1 : d.at-1]), nil
	}
	var s string
	if err := json.Unmarshal(d.data[start:d.at], &s); err != nil {
		return "", errJSON
	}
	return s, nil
}

// more skips a comma, or the end, and reports whether a value follows.
func (d *decoder) more(end byte) bool {
	switch d.next() {
	case end:
		d.at++
		return false
	case ',':
		d.at++
	}
	return true
}

func (d *decoder) array(depth int) (any, error) {
	items := []any{}
	for d.more(']') {
		item, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

func (d *decoder) object(depth int) (any, error) {
	fields := object{}
	var folded map[string]struct{} // the keys, once one is not as folded
	for d.more('}') {
		d.next()
		key, err := d.text()
		if err != nil {
			return nil, err
		}
		plain := fold(key)
		if plain != key && folded == nil {
			folded = make(map[string]struct{}, len(fields)+1)
			for known := range fields {
				folded[known] = struct{}{}
			}
		}
		_, twice := fields[plain]
		if folded != nil {
			_, twice = folded[plain]
			folded[plain] = struct{}{}
		}
		if twice {
			return nil, errKeys
		}
		d.next()
		d.at++ // the colon
		if fields[key], err = d.value(depth); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

// fold is a key as a reader sees it to whom the case of letters means nothing,
// Go's encoding/json for one: keys fold to one if strings.EqualFold says so. It
// allocates only for what is not lower case.
func fold(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r < utf8.RuneSelf:
			return r
		case r == 'ı' || r == 'İ': // Java's equalsIgnoreCase, not Go's EqualFold
			return 'i'
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if least >= 'A' && least <= 'Z' { // the Kelvin sign, the long s
			least += 'a' - 'A'
		}
		return least
	}, key)
}

// number is a whole number that 64 bits hold, or another that a double holds.
// A longer whole number would be another one to some readers.
func number(text string) (any, error) {
	if !strings.ContainsAny(text, ".eE") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, errNumber
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, errNumber
	}
	return f, nil
}
