package catalog

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/nearest"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
)

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

// meant suggests a field.
func meant(s string, known []string) string {
	if s == "<<" {
		return "write the fields out; aliases work for whole values only"
	}
	if name := nearest.Name(s, known); name != "" {
		return "did you mean " + strconv.Quote(name) + "?"
	}
	return "the fields here are " + strings.Join(known, ", ")
}
