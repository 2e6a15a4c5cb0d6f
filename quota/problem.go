package quota

import (
	"fmt"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a catalogue, and what would be right.
type Problem struct {
	Path  string // where: "plans/gold.yaml:12: plans[0].limits[1].window" or "plans[gold].limits[rps].window"
	Wrong string // what is there
	Right string // what would be right
}

// String is one line: path, what is wrong, what would be right.
func (p Problem) String() string { return p.Path + ": " + p.Wrong + "; " + p.Right }

// Problems is everything that is wrong with a catalogue, found in one go.
type Problems []Problem

// maxLines keeps an error readable (and a log line finite) when a whole
// catalogue is wrong for one reason. All problems are in the slice.
const maxLines = 100

// Error has a line for each problem, up to a hundred.
func (p Problems) Error() string {
	var b strings.Builder
	for i, problem := range p {
		if i == maxLines {
			fmt.Fprintf(&b, "\nand %d more problems", len(p)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(problem.String())
	}
	return b.String()
}

// Place is where in a Catalogue a value stands.
type Place struct {
	List  string // as YAML spells it: "plans", "tenants", "api_keys", "rules" or "issuers"
	Index int    // in that list; -1 for the list itself
	Entry string // the entry's name or id, where a change does not say all of that list, and Index is in the change or means nothing
	Limit int    // in the entry's limits; -1 outside them
	Item  int    // in the field's list, such as principals; -1 for the field itself
	Field string // as YAML spells it, with dots into a nested one ("who.tenants"); "" for the whole entry
}

// String is the place by indices: plans[0].limits[1].window.
func (p Place) String() string {
	return p.Within(strconv.Itoa(p.Index), strconv.Itoa(p.Limit))
}

// Within is the place, with other names for its entry and its limit.
func (p Place) Within(entry, limit string) string {
	if p.Index < 0 {
		return p.List
	}
	b := make([]byte, 0, 64)
	b = append(append(append(append(b, p.List...), '['), entry...), ']')
	if p.Limit >= 0 {
		b = append(append(append(b, ".limits["...), limit...), ']')
	}
	if p.Field != "" {
		b = append(append(b, '.'), p.Field...)
	}
	if p.Item >= 0 {
		b = append(strconv.AppendInt(append(b, '['), int64(p.Item), 10), ']')
	}
	return string(b)
}
