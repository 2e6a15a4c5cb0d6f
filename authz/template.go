package authz

import (
	"strings"

	"github.com/voicecore-ai/sluice/tenant"
)

// template is a compiled path template.
type template struct {
	segments []segment
	rest     bool // ends with **
}

// segment is a literal, or a variable if it has a name.
type segment struct{ literal, variable string }

const (
	maxSegments  = 32
	templateForm = "whole segments: /v1/calls/{id}, or /v1/calls/** for all below and itself"
)

// parseTemplate reads a template. A slash at the end of a denying one means nothing.
func parseTemplate(text string, denies bool) (t template, wrong, right string) {
	if text == "" || text[0] != '/' {
		return t, "does not begin with '/'", templateForm
	}
	if len(text) > maxPath {
		return t, "is longer than 8 KiB", templateForm
	}
	rest, below := strings.CutSuffix(text, "/**")
	if below {
		t.rest = true
		if rest == "" {
			return t, "", ""
		}
		text = rest
	} else if denies && len(text) > 1 {
		text = strings.TrimSuffix(text, "/")
	}
	for literal := range strings.SplitSeq(text[1:], "/") {
		s, wrong, right := parseSegment(literal)
		if wrong != "" {
			return t, wrong, right
		}
		if denies {
			s.literal = foldPath(s.literal)
		}
		for _, earlier := range t.segments {
			if s.variable != "" && earlier.variable == s.variable {
				return t, "has {" + s.variable + "} twice", "a name of its own for each variable"
			}
		}
		t.segments = append(t.segments, s)
	}
	if len(t.segments) > maxSegments {
		return t, "has more than 32 segments", "/** after the first few"
	}
	for i, s := range t.segments {
		if s == (segment{}) && (i < len(t.segments)-1 || below) {
			return t, "has an empty segment ('//')", templateForm
		}
	}
	return t, "", ""
}

func parseSegment(text string) (s segment, wrong, right string) {
	if name, ok := strings.CutPrefix(text, "{"); ok {
		name, ok = strings.CutSuffix(name, "}")
		if !ok || !variableName(name) {
			return s, "has a variable " + tenant.Quote(text) + " that is none", "a whole segment {name}, of a-z, 0-9 and '_', with a letter first"
		}
		return segment{variable: name}, "", ""
	}
	if strings.Contains(text, "*") {
		return s, "has a '*' in " + tenant.Quote(text), "{name} for one whole segment; ** only as the last one"
	}
	canonical, err := CanonicalPath("/" + text)
	switch {
	case err != nil:
		return s, "can match no request: " + err.Error(), templateForm
	case canonical != "/"+text:
		return s, "can match no request: " + tenant.Quote(text) + " is not in canonical form", canonical[1:]
	}
	return segment{literal: text}, "", ""
}

// variableName reports whether a condition can say path.name.
func variableName(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	switch s { // CEL's own words
	case "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop",
		"package", "namespace", "return", "var", "void", "while", "true", "false", "null":
		return false
	}
	return true
}

// match reports whether a canonical path is one of t's; for a template that denies, one that
// foldPath has folded. fold ignores the case of ASCII letters and a '/' at the end.
func (t *template) match(path string, fold bool) bool {
	if fold && len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	for i := range t.segments {
		if path == "" || path[0] != '/' {
			return false
		}
		here := path[1:]
		if end := strings.IndexByte(here, '/'); end >= 0 {
			path, here = here[end:], here[:end]
		} else {
			path = ""
		}
		s := &t.segments[i]
		if s.variable != "" {
			if here == "" {
				return false
			}
		} else if !equal(here, s.literal, fold) {
			return false
		}
	}
	return path == "" || t.rest
}

// value is what the variable stands for in a path that t matches.
func (t *template) value(path, variable string) (string, bool) {
	for i := range t.segments {
		here, rest, _ := strings.Cut(path[1:], "/")
		if t.segments[i].variable == variable {
			return here, true
		}
		path = path[len(path)-len(rest)-1:]
	}
	return "", false
}

// head is the beginning of every path that t matches, folded and in lower case: up to two
// whole segments; "" if the first is a variable.
func (t *template) head() string {
	head := ""
	for i, s := range t.segments {
		if i == 2 || s.variable != "" || s.literal == "" {
			break
		}
		head += "/" + foldPath(s.literal)
	}
	if head == "" && len(t.segments) == 1 && t.segments[0] == (segment{}) {
		return "/"
	}
	lowered, _ := appendHead(nil, head) // not strings.ToLower, which knows more letters than requests are looked up by
	return string(lowered)
}
