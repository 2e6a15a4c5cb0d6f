package catalog

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
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
	catalogueFields = []string{"plans", "tenants", "api_keys"}
	planFields      = []string{"name", "display_name", "limits"}
	limitFields     = []string{"name", "algorithm", "limit", "window", "burst", "enforcement", "durable"}
	tenantFields    = []string{"id", "display_name", "plan", "suspended", "principals", "limits"}
	keyFields       = []string{"id", "tenant", "digest", "expires"}
)

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

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
		f.broke(file, 0, "is empty", "declare plans, tenants or api_keys, or delete the file")
		return quota.Catalogue{}
	}
	d := &decoder{file: file, left: maxValues}
	var c quota.Catalogue
	nowhere := quota.Place{Limit: -1, Item: -1}
	d.mapping(root, nowhere, catalogueFields, func(key string, n *yaml.Node) {
		switch key {
		case "plans":
			c.Plans = list(d, n, quota.Place{List: key, Limit: -1, Item: -1}, (*decoder).plan)
		case "tenants":
			c.Tenants = list(d, n, quota.Place{List: key, Limit: -1, Item: -1}, (*decoder).tenant)
		case "api_keys":
			c.APIKeys = list(d, n, quota.Place{List: key, Limit: -1, Item: -1}, (*decoder).key)
		}
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
	at.Field, at.Item = "", -1
	if n = follow(n); n.Kind != yaml.MappingNode {
		d.wrong(n, at, "is "+kind(n), "a mapping of "+strings.Join(known, ", "))
		return
	}
	var lines [8]int // by field: no mapping has more
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		field := slices.Index(known, key.Value)
		switch {
		case key.Kind != yaml.ScalarNode || field < 0:
			d.wrong(key, at, "unknown field "+clip(key.Value), nearest(key.Value, known))
		case lines[field] != 0:
			d.wrong(key, at, "field "+clip(key.Value)+" is here twice", "delete this one, or the one of line "+strconv.Itoa(lines[field]))
		default:
			lines[field] = key.Line
			set(key.Value, n.Content[i+1])
		}
	}
}

// list reads each item of n.
func list[T any](d *decoder, n *yaml.Node, at quota.Place, one func(*decoder, *yaml.Node, quota.Place) T) []T {
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
			p.Limits = list(d, n, at, (*decoder).limit)
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
		case "principals":
			t.Principals = list(d, n, at, (*decoder).text)
		case "limits":
			t.Limits = list(d, n, at, (*decoder).limit)
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
		}
	})
	return k
}

// scalar is the node of a value that is neither list nor mapping nor nothing.
func (d *decoder) scalar(n *yaml.Node, at quota.Place, right string) (*yaml.Node, bool) {
	d.left--
	if n = follow(n); n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.wrong(n, at, "is "+kind(n), right)
		return n, false
	}
	return n, d.left > 0
}

// text is a scalar as it is written: an id 007 is no number, a name no is no "false".
func (d *decoder) text(n *yaml.Node, at quota.Place) string {
	n, ok := d.scalar(n, at, "a text")
	if !ok {
		return ""
	}
	return n.Value
}

var decimal = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*(_[0-9]+)*)$`)

func (d *decoder) number(n *yaml.Node, at quota.Place, least int64) int64 {
	n, ok := d.scalar(n, at, fromLeast[least])
	if !ok {
		return 0
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 || !decimal.MatchString(n.Value) {
		d.wrong(n, at, clip(n.Value)+" is not a whole number", fromLeast[least]+", in digits without quotes")
		return 0
	}
	v, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 10, 64)
	if err != nil {
		shown := n.Value
		if len(shown) > 40 {
			shown = shown[:40] + "…"
		}
		d.wrong(n, at, shown+" is out of range", fromLeast[least])
		return 0
	}
	return v
}

// fromLeast says which numbers are right, by the least of them.
var fromLeast = [...]string{
	0: "a whole number from 0 (deny) to " + strconv.FormatInt(ratelimit.MaxHits, 10),
	1: "a whole number from 1 to " + strconv.FormatInt(ratelimit.MaxHits, 10),
}

func (d *decoder) boolean(n *yaml.Node, at quota.Place) *bool {
	n, ok := d.scalar(n, at, "true or false")
	if !ok {
		return nil
	}
	v := n.Value == "true"
	if !v && n.Value != "false" || n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		d.wrong(n, at, clip(n.Value)+" is neither true nor false", "true or false, without quotes")
		return nil
	}
	return &v
}

func (d *decoder) time(n *yaml.Node, at quota.Place) time.Time {
	const right = "a time such as 2027-01-31T00:00:00Z (RFC 3339)"
	n, ok := d.scalar(n, at, right)
	if !ok {
		return time.Time{}
	}
	v, err := time.Parse(time.RFC3339Nano, n.Value)
	if err != nil || v.Year() < 1970 || v.UTC().Year() > 9999 {
		d.wrong(n, at, clip(n.Value)+" is not a time", right)
		return time.Time{}
	}
	return v.UTC()
}

func (d *decoder) duration(n *yaml.Node, at quota.Place) time.Duration {
	const right = "a number with its unit: 10s, 1m, 24h, 30d"
	n, ok := d.scalar(n, at, right)
	if !ok {
		return 0
	}
	v, ok := parseDuration(n.Value)
	if !ok {
		d.wrong(n, at, clip(n.Value)+" is not a duration", right)
		return 0
	}
	return v
}

// parseDuration is time.ParseDuration with days of 24 hours before the rest: 1d12h.
func parseDuration(s string) (time.Duration, bool) {
	const day = 24 * time.Hour
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		v, err := time.ParseDuration(s)
		return v, err == nil && v != 0
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, false
	}
	v := time.Duration(n) * day // at most 65535 days: no overflow
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 || more > day {
			return 0, false
		}
		v += more
	}
	return v, v != 0
}

func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "empty"
	default:
		return clip(n.Value)
	}
}

// clip quotes a value for a problem, not all of it if it is long.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
}

// nearest suggests a field.
func nearest(s string, known []string) string {
	if s == "<<" {
		return "write the fields out; aliases work for whole values only"
	}
	best, least := "", 3
	if len(s) <= 2*maxFieldName {
		for _, k := range known {
			if n := distance(strings.ToLower(s), k); n < least && n < len(k) {
				best, least = k, n
			}
		}
	}
	if best != "" {
		return "did you mean " + strconv.Quote(best) + "?"
	}
	return "the fields here are " + strings.Join(known, ", ")
}

const maxFieldName = 16

// distance is how many letters must be added, removed or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
