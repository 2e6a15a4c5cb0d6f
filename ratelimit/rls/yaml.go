package rls

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// loader reads YAML trees strictly and collects what is wrong.
type loader struct {
	file     string
	problems Problems
	left     int  // descriptors and merges that may still be read, so that aliases can't multiply
	full     bool // said that there are too many
	merging  int  // depth of merge keys
}

// maxProblems is more than anybody reads.
const maxProblems = 200

func (l *loader) problem(n *yaml.Node, path, what, remedy string) {
	if len(l.problems) >= maxProblems {
		return
	}
	p := Problem{File: l.file, Field: path, What: what, Remedy: remedy}
	if n != nil {
		p.Line = n.Line
	}
	l.problems = append(l.problems, p)
}

// mapping is a YAML mapping and where it stands.
type mapping struct {
	l      *loader
	node   *yaml.Node
	path   string
	fields map[string]*yaml.Node
}

func resolve(n *yaml.Node) *yaml.Node {
	for range 8 { // an alias names an anchor, never another alias, in what the parser returns
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// mapping reads n, which may have only the known fields, each once.
func (l *loader) mapping(n *yaml.Node, path string, known []string) (mapping, bool) {
	n = resolve(n)
	m := mapping{l: l, node: n, path: path, fields: map[string]*yaml.Node{}}
	if n.Kind != yaml.MappingNode {
		l.problem(n, path, "is "+kindOf(n), "write it as fields: "+strings.Join(known, ", "))
		return m, false
	}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		name := k.Value
		switch {
		case k.Tag == "!!merge":
			merges = append(merges, v)
		case k.Kind != yaml.ScalarNode || !slices.Contains(known, name):
			l.problem(k, m.at(name), "is not a field here", "use one of "+strings.Join(known, ", "))
		case m.fields[name] != nil:
			l.problem(k, m.at(name), "is there twice", "keep one")
		default:
			m.fields[name] = v
		}
	}
	for _, v := range merges {
		l.merge(&m, resolve(v), known)
	}
	return m, true
}

// maxMerges is how deep merge keys may name mappings with merge keys.
const maxMerges = 8

// merge adds the fields that v has and m lacks (YAML 1.1 "<<").
func (l *loader) merge(m *mapping, v *yaml.Node, known []string) {
	if l.left--; l.left < 0 {
		return // said where the descriptors are counted
	}
	if l.merging >= maxMerges {
		l.problem(v, m.at("<<"), "is nested too deep", "write the fields out")
		return
	}
	l.merging++
	defer func() { l.merging-- }()
	if v.Kind != yaml.SequenceNode {
		if from, ok := l.mapping(v, m.path, known); ok {
			for name, n := range from.fields {
				if m.fields[name] == nil {
					m.fields[name] = n
				}
			}
		}
		return
	}
	for _, one := range v.Content {
		l.merge(m, resolve(one), known)
	}
}

func kindOf(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "empty"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	return strconv.Quote(shorten(n.Value))
}

func shorten(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

func (m *mapping) at(name string) string {
	if m.path == "" {
		return name
	}
	return m.path + "." + name
}

// get is the field, nil if it is absent or null.
func (m *mapping) get(name string) *yaml.Node {
	n := m.fields[name]
	if n == nil {
		return nil
	}
	if n = resolve(n); isNull(n) {
		return nil
	}
	return n
}

// absent reports whether the field is not there or holds no text.
func (m *mapping) absent(name string) bool {
	n := m.get(name)
	return n == nil || n.Kind == yaml.ScalarNode && n.Value == ""
}

// text is a scalar as it is written, so that value: 007 stays 007.
func (m *mapping) text(name string) string {
	n := m.get(name)
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode {
		m.l.problem(n, m.at(name), "is "+kindOf(n), "write one text")
		return ""
	}
	if len(n.Value) > maxText {
		m.l.problem(n, m.at(name), fmt.Sprintf("is %d bytes long", len(n.Value)), fmt.Sprintf("requests carry at most %d", maxText))
	}
	return n.Value
}

func (m *mapping) boolean(name string, otherwise bool) bool {
	n := m.get(name)
	if n == nil {
		return otherwise
	}
	var b bool
	if err := n.Decode(&b); err != nil {
		m.l.problem(n, m.at(name), "is "+kindOf(n), "write true or false")
		return otherwise
	}
	return b
}

// count is a whole number from least to most; ok is false if it is absent or wrong.
func (m *mapping) count(name string, least, most uint64) (v uint64, ok bool) {
	n := m.get(name)
	if n == nil {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.ReplaceAll(n.Value, "_", ""), 10, 64)
	if n.Kind != yaml.ScalarNode || err != nil || v < least || v > most {
		m.l.problem(n, m.at(name), "is "+kindOf(n), fmt.Sprintf("write a whole number from %d to %d", least, most))
		return 0, false
	}
	return v, true
}

// list is a sequence; nil if it is absent or wrong.
func (m *mapping) list(name string) []*yaml.Node {
	n := m.get(name)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		m.l.problem(n, m.at(name), "is "+kindOf(n), "write a list")
		return nil
	}
	return n.Content
}

const maxUint32 = uint64(math.MaxUint32)
