package rls

import (
	"fmt"
	"strings"
)

// Problem is one thing that a descriptor file gets wrong.
type Problem struct {
	File   string
	Line   int    // 0 if the file as a whole is at fault
	Field  string // as in descriptors[2].rate_limit.unit
	What   string
	Remedy string
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Field != "" {
		b.WriteString(": " + p.Field)
	}
	fmt.Fprintf(&b, ": %s; %s", p.What, p.Remedy)
	return b.String()
}

// Problems is the error of Load: everything that is wrong, one line each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}
