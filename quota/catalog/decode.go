package catalog

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

// Bounds of one file. An alias counts each time it is used, so a file of
// aliases to aliases ends here.
const (
	maxValues   = 1 << 20
	maxProblems = 1000
)

// The fields of each mapping, as YAML spells them.
var (
	planFields   = []string{"name", "display_name", "limits"}
	limitFields  = []string{"name", "algorithm", "limit", "window", "burst", "enforcement", "durable", "at", "on_outage"}
	tenantFields = []string{"id", "display_name", "plan", "suspended", "authorization", "principals", "limits"}
	keyFields    = []string{"id", "tenant", "digest", "expires", "scopes"}
)

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// maxFields is more than any mapping has.
const maxFields = 12

// broke notes that nothing of a file can be used.
func (f *found) broke(file *file, line int, wrong, right string) {
	f.broken = true
	f.list = append(f.list, quota.Problem{Path: file.at(line), Wrong: wrong, Right: right})
}

// decode reads the entries of one file.
func (f *found) decode(file *file) quota.Catalogue {
	switch {
	case file.data == nil: // too large, said already
		return quota.Catalogue{}
	case !utf8.Valid(file.data):
		f.broke(file, 0, "is not UTF-8", "save it as UTF-8")
		return quota.Catalogue{}
	}
	root, err := parse(file.data)
	switch {
	case errors.Is(err, errDocuments):
		f.broke(file, 0, "holds more than one document", "one document per file: delete the '---' lines, or split it")
		return quota.Catalogue{}
	case err != nil:
		m := yamlError.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
		line, what := 0, err.Error()
		if m != nil {
			line, _ = strconv.Atoi(m[1])
			what = m[2]
		}
		f.broke(file, line, "is not YAML: "+what, "correct the syntax; a text with ': ' or '#' needs quotes")
		return quota.Catalogue{}
	case root == nil: // also a file between truncation and writing
		f.broke(file, 0, "is empty", "declare one of "+strings.Join(listNames(), ", ")+", or delete the file")
		return quota.Catalogue{}
	}
	d := &decoder{file: file, left: maxValues}
	var c quota.Catalogue
	nowhere := quota.Place{Limit: -1, Item: -1}
	d.mapping(root, nowhere, listNames(), func(key string, n *yaml.Node) {
		lists[listAt(key)].decode(d, n, &c)
	})
	f.list = append(f.list, d.problems...)
	if d.left <= 0 {
		f.broke(file, 0, "has more than "+strconv.Itoa(maxValues)+" values, aliases counted each time", "split it, or use fewer aliases")
	}
	return c
}

// decoder walks the nodes of one file.
type decoder struct {
	file     *file
	problems quota.Problems
	left     int // values that may still be read
}

func (d *decoder) wrong(n *yaml.Node, at quota.Place, wrong, right string) {
	if len(d.problems) >= maxProblems {
		return
	}
	path := d.file.at(n.Line)
	if at.List != "" {
		path += ": " + at.String()
	}
	d.problems = append(d.problems, quota.Problem{Path: path, Wrong: wrong, Right: right})
}

// mapping calls set with each known field of n once.
func (d *decoder) mapping(n *yaml.Node, at quota.Place, known []string, set func(key string, n *yaml.Node)) {
	if d.left--; d.left <= 0 {
		return
	}
	if n = follow(n); n.Kind != yaml.MappingNode {
		d.wrong(n, at, "is "+kind(n), "a mapping of "+strings.Join(known, ", "))
		return
	}
	var lines [maxFields]int // by field: no mapping has more
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		field := slices.Index(known, key.Value)
		switch {
		case key.Kind != yaml.ScalarNode || field < 0:
			d.wrong(key, at, "unknown field "+clip(key.Value), meant(key.Value, known))
		case lines[field] != 0:
			d.wrong(key, at, "field "+clip(key.Value)+" is here twice", "delete this one, or the one of line "+strconv.Itoa(lines[field]))
		default:
			lines[field] = key.Line
			set(key.Value, n.Content[i+1])
		}
	}
}

// items reads each item of n.
func items[T any](d *decoder, n *yaml.Node, at quota.Place, one func(*decoder, *yaml.Node, quota.Place) T) []T {
	if d.left--; d.left <= 0 {
		return nil
	}
	if n = follow(n); n.Kind != yaml.SequenceNode {
		if at.Field == "" && at.Limit < 0 {
			d.wrong(n, quota.Place{}, at.List+" is "+kind(n), "a list: each entry begins with '- '")
		} else {
			d.wrong(n, at, "is "+kind(n), "a list: each entry begins with '- '")
		}
		return nil
	}
	out := make([]T, 0, len(n.Content))
	for i, c := range n.Content {
		if d.left <= 0 {
			break
		}
		switch {
		case at.Field == "limits":
			at.Limit = i
		case at.Field != "":
			at.Item = i
		default:
			at.Index = i
		}
		here := at
		if at.Field == "limits" {
			here.Field = ""
		}
		out = append(out, one(d, c, here))
	}
	return out
}

func (d *decoder) plan(n *yaml.Node, at quota.Place) (p quota.Plan) {
	d.mapping(n, at, planFields, func(key string, n *yaml.Node) {
		at.Field = key
		switch key {
		case "name":
			p.Name = d.text(n, at)
		case "display_name":
			p.DisplayName = d.text(n, at)
		case "limits":
			p.Limits = items(d, n, at, (*decoder).limit)
		}
	})
	return p
}

func (d *decoder) limit(n *yaml.Node, at quota.Place) (l quota.Limit) {
	said := false
	d.mapping(n, at, limitFields, func(key string, n *yaml.Node) {
		at.Field = key
		switch key {
		case "name":
			l.Name = d.text(n, at)
		case "algorithm":
			l.Algorithm = d.text(n, at)
		case "limit":
			l.Limit, said = d.number(n, at, 0), true
		case "window":
			l.Window = d.duration(n, at)
		case "burst":
			if l.Burst = d.number(n, at, 1); l.Burst == 0 && follow(n).Value == "0" {
				d.wrong(n, at, "0 is out of range", fromLeast[1])
			}
		case "enforcement":
			l.Enforcement = d.text(n, at)
		case "durable":
			l.Durable = d.boolean(n, at)
		case "at":
			l.At = d.text(n, at)
		case "on_outage":
			l.OnOutage = d.text(n, at)
		}
	})
	if at.Field = "limit"; !said && follow(n).Kind == yaml.MappingNode { // else it would deny everything
		d.wrong(n, at, "is missing", fromLeast[0])
	}
	return l
}

func (d *decoder) tenant(n *yaml.Node, at quota.Place) (t quota.Tenant) {
	d.mapping(n, at, tenantFields, func(key string, n *yaml.Node) {
		at.Field = key
		switch key {
		case "id":
			t.ID = tenant.ID(d.text(n, at))
		case "display_name":
			t.DisplayName = d.text(n, at)
		case "plan":
			t.Plan = d.text(n, at)
		case "suspended":
			if b := d.boolean(n, at); b != nil {
				t.Suspended = *b
			}
		case "authorization":
			t.Authorization = d.text(n, at)
		case "principals":
			t.Principals = items(d, n, at, (*decoder).text)
		case "limits":
			t.Limits = items(d, n, at, (*decoder).limit)
		}
	})
	return t
}

func (d *decoder) key(n *yaml.Node, at quota.Place) (k quota.APIKey) {
	d.mapping(n, at, keyFields, func(key string, n *yaml.Node) {
		at.Field = key
		switch key {
		case "id":
			k.ID = d.text(n, at)
		case "tenant":
			k.Tenant = tenant.ID(d.text(n, at))
		case "digest":
			k.Digest = d.text(n, at)
		case "expires":
			k.Expires = d.time(n, at)
		case "scopes":
			k.Scopes = items(d, n, at, (*decoder).text)
		}
	})
	return k
}
