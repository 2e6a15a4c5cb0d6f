// Command bench measures the built server side by side with references, in one
// run, and prints ratios: CPU per call against a default grpc-go server that
// decides nothing, and throughput and latency of a real Envoy with the default
// wiring against the same Envoy bare and with three calls. By name alone it also
// compares sluiced on Redis with envoyproxy/ratelimit.
//
// Absolute figures are this machine's; the ratios are what to compare.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sort"

	"github.com/voicecore-ai/sluice/cli/stack"
)

// result is one line of the report.
type result struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Ours   float64 `json:"ours"`
	Theirs float64 `json:"reference,omitempty"`
	Ratio  float64 `json:"ratio,omitempty"`   // median of the rounds' ratios
	Upper  float64 `json:"upper95,omitempty"` // upper 95 % bound of that median
	Target float64 `json:"target,omitempty"`
	Rounds int     `json:"rounds,omitempty"`
}

func main() {
	envoy := flag.String("envoy", ".tools/bin/envoy", "path of Envoy")
	sluiced := flag.String("sluiced", "bin/sluiced", "path of sluiced")
	out := flag.String("json", "", "file for the results as JSON")
	packages := flag.String("packages", "", "file with the output of 'go test -bench' to put beside them")
	rounds := flag.Int("rounds", 10, "rounds of each measurement, in the order A B B A")
	only := flag.String("only", "", "the one part to run: calls, authz, flood, envoy, tracing or redis; \"\" for all but redis")
	peer := flag.String("peer", ".tools/peers/bin/ratelimit", "path of envoyproxy/ratelimit, for redis")
	asReference := flag.Bool("reference", false, "serve the reference (used by bench itself)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := func() error {
		if *asReference {
			return serveReference()
		}
		return bench(ctx, options{*envoy, *sluiced, *peer, *packages, *out, *only, *rounds})
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop only un-registers signals
	}
}

// options are the flags that say what to measure.
type options struct {
	envoy, sluiced, peer, packages, out, only string
	rounds                                    int
}

// onRedis is the part that wants another program, and runs only by name.
const onRedis = "redis"

func bench(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var results []result
	if o.packages != "" {
		if results, err = benchPackages(o.packages); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		name string
		run  func(dir string) ([]result, error)
	}{
		{"calls", func(dir string) ([]result, error) { return benchCalls(ctx, o.sluiced, dir, o.rounds) }},
		{"authz", func(dir string) ([]result, error) { return benchAuthz(ctx, o.sluiced, dir, o.rounds) }},
		{"flood", func(dir string) ([]result, error) { return benchFlood(ctx, o.envoy, o.sluiced, dir) }},
		{"envoy", func(dir string) ([]result, error) { return benchEnvoy(ctx, o.envoy, o.sluiced, dir, o.rounds) }},
		{"tracing", func(dir string) ([]result, error) { return benchTracing(ctx, o.envoy, o.sluiced, dir, o.rounds) }},
		{onRedis, func(dir string) ([]result, error) { return benchRedis(ctx, o.sluiced, o.peer, dir, o.rounds) }},
	} {
		if o.only == "" && part.name == onRedis || o.only != "" && o.only != part.name {
			continue
		}
		more, err := part.run(filepath.Join(dir, part.name))
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		results = append(results, more...)
	}
	if o.out == "" {
		return nil
	}
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o750); err != nil {
		return err
	}
	return os.WriteFile(o.out, append(text, '\n'), 0o600)
}

// benchCalls compares CPU per call on the same recorded bytes.
func benchCalls(ctx context.Context, sluiced, dir string, rounds int) (results []result, err error) {
	descriptors := filepath.Join(dir, "rls")
	if err := os.MkdirAll(descriptors, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(descriptors, "bench.yaml"), []byte(rlsConfig), 0o600); err != nil {
		return nil, err
	}
	s, err := stack.Start(ctx, stack.Options{Sluiced: sluiced, Dir: dir, RLS: descriptors})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	key, err := wideTenant(ctx, s)
	if err != nil {
		return nil, err
	}
	ref, addr, err := startReference()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ref.Process.Kill()); _ = ref.Wait() }() // killed: its status says no more
	ours, err := dial(s.GRPC)
	if err != nil {
		return nil, err
	}
	defer ours.Close() //nolint:errcheck // nothing left to lose
	theirs, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // nothing left to lose
	fmt.Printf("server CPU per call, %d in flight, %d calls a round\n", inFlight, callsPerRound)
	for _, c := range calls(key) {
		r, err := compare(rounds,
			func() (float64, error) { return load(ctx, ours, s.Sluiced().Pid, c) },
			func() (float64, error) { return load(ctx, theirs, ref.Process.Pid, c) })
		if err != nil {
			return nil, err
		}
		r.Name, r.Unit, r.Target = "cpu per call, "+c.name, "µs", c.target
		r.print()
		results = append(results, r)
	}
	return results, nil
}

// compare measures A B B A A B … after one round of each that does not count.
func compare(rounds int, ours, theirs func() (float64, error)) (result, error) {
	var a, b, ratios []float64
	for i := -1; i < rounds; i++ {
		first, second := ours, theirs
		if i%2 != 0 {
			first, second = theirs, ours
		}
		x, err := first()
		if err != nil {
			return result{}, err
		}
		y, err := second()
		if err != nil {
			return result{}, err
		}
		if i%2 != 0 {
			x, y = y, x
		}
		if i >= 0 {
			a, b, ratios = append(a, x), append(b, y), append(ratios, x/y)
		}
	}
	return result{Ours: median(a), Theirs: median(b), Ratio: median(ratios), Upper: upper95(ratios), Rounds: rounds}, nil
}

func (r result) print() {
	verdict := ""
	if r.Target > 0 {
		verdict = fmt.Sprintf("target ≤ %.2f: met", r.Target)
		if r.Upper > r.Target {
			verdict = fmt.Sprintf("target ≤ %.2f: MISSED", r.Target)
		}
	}
	fmt.Printf("  %-34s %9.1f %s against %9.1f: ratio %.2f (upper 95 %% bound %.2f) %s\n",
		r.Name, r.Ours, r.Unit, r.Theirs, r.Ratio, r.Upper, verdict)
}

func median(v []float64) float64 {
	s := sorted(v)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return sorted(v)[len(v)/2]
}

// upper95 is the upper bound of a one-sided 95 % confidence interval of the
// median, from order statistics: the smallest rank that a Binomial(n, ½) stays
// below with probability 0.95.
func upper95(v []float64) float64 {
	s := sorted(v)
	n, term, sum := len(s), 1.0, 0.0
	for range n {
		term /= 2
	}
	for k := range n {
		sum += term // the probability of at most k
		if sum >= 0.95 {
			return s[k]
		}
		term *= float64(n-k) / float64(k+1)
	}
	return s[n-1]
}

func sorted(v []float64) []float64 {
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	return s
}

func listenLoopback() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
