package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// promise is a figure of a package benchmark that is worth a line, by benchmark
// and unit as benchfmt has them.
type promise struct {
	benchmark, unit, name, shown string
	scale                        float64 // shown per unit
	target                       float64 // most that is shown; -1 if nothing is promised
}

var promised = []promise{
	{"Charge3Limits1MKeys/one_core", "sec/op", "decision, 3 limits, 1 M live keys", "ns", 1e9, 400},
	{"Charge3Limits1MKeys/one_core", "allocs/op", "allocations of that decision", "", 1, 0},
	{"Charge3Limits1MKeys/one_core", "bytes/key", "memory of a live key", "B", 1, 160},
	{"DurableLimitOf10/64_tenants", "fsyncs/s", "durable limit of 10, 64 tenants: fsyncs", "/s", 1, -1},
	{"DurableLimitOf10/64_tenants", "p99-µs", "durable limit of 10, 64 tenants: p99", "µs", 1, -1},
}

// benchPackages reads what 'go test -bench' printed, prints the figures that
// were promised, and returns all of them.
func benchPackages(path string) (results []result, err error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fmt.Println("package benchmarks")
	seen := 0
	for r := benchfmt.NewReader(f, path); r.Scan(); {
		b, ok := r.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		name := benchmarkName(string(b.Name.Full()))
		for _, v := range b.Values {
			results = append(results, result{Name: name, Unit: v.Unit, Ours: v.Value})
			i := slices.IndexFunc(promised, func(p promise) bool { return p.benchmark == name && p.unit == v.Unit })
			if i < 0 {
				continue
			}
			seen++
			promised[i].print(v.Value)
		}
	}
	if seen != len(promised) {
		return nil, fmt.Errorf("%s has %d of the %d figures that are promised: run 'make bench', which makes it", path, seen, len(promised))
	}
	return results, nil
}

func (p promise) print(value float64) {
	verdict := ""
	switch shown := value * p.scale; {
	case p.target < 0:
	case shown <= p.target:
		verdict = fmt.Sprintf("target ≤ %g: met", p.target)
	default:
		verdict = fmt.Sprintf("target ≤ %g: MISSED", p.target)
	}
	fmt.Printf("  %-46s %9.1f %s %s\n", p.name, value*p.scale, p.shown, verdict)
}

// benchmarkName is a benchmark's name without the number of processors.
func benchmarkName(full string) string {
	if i := strings.LastIndexByte(full, '-'); i > 0 && strings.Trim(full[i+1:], "0123456789") == "" {
		return full[:i]
	}
	return full
}
