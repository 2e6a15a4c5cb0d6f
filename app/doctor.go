package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/replicas"
)

// exitFailed is the exit status of a doctor who found something, as sluice mesh doctor's.
const exitFailed = 3

// storeFinding and storeResult are written as sluice mesh doctor writes them.
type storeFinding struct {
	Severity string `json:"severity"`
	Object   string `json:"object"`
	Says     string `json:"says"`
	Evidence string `json:"evidence,omitempty"`
	Fix      string `json:"fix,omitempty"`
	Doc      string `json:"doc"`
}

type storeResult struct {
	Code     string         `json:"code"`
	Title    string         `json:"title"`
	Skipped  bool           `json:"skipped,omitempty"` // for what comes before fails
	Findings []storeFinding `json:"findings,omitempty"`
}

// storeChecks is every code and its sentence; docs/stores.md explains them, and a test compares.
var storeChecks = []struct{ code, title string }{
	{redisconn.CodeReached, "Redis answers at every address."},
	{redisconn.CodeTLS, "The connection is encrypted as the URL says, and Redis proves who it is."},
	{redisconn.CodeUser, "Redis knows the user, who may do what sluiced does."},
	{redisconn.CodeTopology, "Redis is what the URL says: alone, behind Sentinels, or a cluster."},
	{redisconn.CodeServing, "It takes writes, for every key."},
	{codeLost, "A cluster serves the slots of its other primaries when one is gone."},
	{codeBehind, "Another server can take over with what this one has."},
	{codeStore, "Redis is 7 or newer, keeps what it is given, and has this version's functions."},
	{codeRights, "The functions may do what they do."},
	{codePatches, "Its version has no hole that is known to be open to whoever reaches it, or may run functions."},
	{codeSecret, "This replica has the secret of the others."},
	{codeSlow, "It answers well within redis-timeout."},
	{codeClock, "Its clock and this machine's agree."},
	{codeReplicas, "Who else serves on it is seen."},
}

const (
	codeLost     = "SR106"
	codeBehind   = "SR107"
	codeStore    = "SR111"
	codeRights   = "SR112"
	codePatches  = "SR113"
	codeSecret   = "SR121"
	codeSlow     = "SR131"
	codeClock    = "SR132"
	codeReplicas = "SR141"
)

func doctorCommand(environ []string) *cobra.Command {
	output := "table"
	c := redisCommand(environ, &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with the Redis that replicas share, and what mends it",
		Long: `Asks everything that 'sluiced serve' asks of Redis before it starts, and more, with the same settings:
whether it is reached, is what the URL says, keeps what it is given, has the functions, and whether this
replica has the secret of the others. It may run beside replicas that serve: it reads, and charges limits of its own, which
Redis forgets within seconds.

docs/stores.md explains each code. The exit status is 3 if a check fails.`,
		Example: `  sluiced doctor --redis-url redis://127.0.0.1:6379
  sluiced doctor --config /etc/sluice.yaml -o json | jq '.results[].findings[]? | select(.severity == "fail")'`,
	}, func(ctx context.Context, config Config, w io.Writer) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("-o %q; one of table, json", output)
		}
		results := examine(ctx, config)
		if err := printStore(w, results, output); err != nil {
			return err
		}
		if n := count(results, "fail"); n > 0 {
			return exit.With(exitFailed, fmt.Errorf("%d checks: %d failed", len(results), n))
		}
		return nil
	})
	c.Flags().StringVarP(&output, "output", "o", output, "`word` table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// examine asks everything. What can't be asked because of what failed before is skipped, and says so.
func examine(ctx context.Context, config Config) []storeResult {
	results := make([]storeResult, len(storeChecks))
	for i, c := range storeChecks {
		results[i] = storeResult{Code: c.code, Title: c.title}
	}
	add := func(code string, f storeFinding) {
		f.Doc = "docs/stores.md#" + strings.ToLower(code)
		i := slices.IndexFunc(results, func(r storeResult) bool { return r.Code == code })
		results[i].Findings = append(results[i].Findings, f)
	}
	o, err := config.Redis.options()
	if err != nil { // LoadConfig has looked
		add(redisconn.CodeTopology, storeFinding{Severity: "fail", Object: "redis-url", Says: err.Error()})
		return results
	}
	client, err := redisconn.New(o)
	if err != nil {
		add(redisconn.CodeUser, storeFinding{Severity: "fail", Object: "settings", Says: err.Error(), Fix: redisconn.FixOf(err)})
	} else {
		defer client.Close() //nolint:errcheck // nothing is left to lose
	}
	problems := redisconn.Check(ctx, o)
	for _, p := range problems {
		f := storeFinding{Severity: "fail", Object: p.Object, Says: p.Says, Evidence: p.Evidence, Fix: p.Fix}
		if p.Warning {
			f.Severity = "warn"
		}
		add(p.Code, f)
	}
	if redisconn.Refusal(problems) != nil || err != nil {
		for i := range results {
			results[i].Skipped = len(results[i].Findings) == 0 && results[i].Code > redisconn.CodeServing
		}
		return results
	}
	examineKept(ctx, config, client, add)
	return results
}

// examineKept asks about what is in Redis, and how fast it comes.
func examineKept(ctx context.Context, config Config, client redis.UniversalClient, add func(string, storeFinding)) {
	object := "prefix " + config.Redis.Prefix
	if store, err := redisstore.Open(ctx, config.Redis.store(client)); err == nil {
		if err := store.Try(patienceWithRedis); err != nil { // how fast it is, is asked below
			add(codeRights, storeFinding{Severity: "fail", Object: config.Redis.URL, Says: "a charge of a limit that nobody has fails", Evidence: err.Error(), Fix: rightsFix})
		}
		_ = store.Close()
	} else {
		for _, one := range each(err) {
			add(codeStore, storeFinding{Severity: "fail", Object: config.Redis.URL, Says: one.Error()})
		}
	}
	if err := catalog.Check(ctx, client, config.Redis.Prefix); err != nil {
		add(codeStore, storeFinding{Severity: "fail", Object: object, Says: err.Error()})
	}
	keys, err := loadKeys(config.secrets())
	if err != nil {
		add(codeSecret, storeFinding{Severity: "warn", Object: config.secrets(), Says: "not checked: " + err.Error(), Fix: "run it with the replica's --data or --secrets"})
	} else if served, err := replicas.Agrees(ctx, client, config.Redis.Prefix, keys.fingerprint); errors.Is(err, replicas.ErrSecret) {
		add(codeSecret, storeFinding{Severity: "fail", Object: config.secrets(), Says: err.Error(), Evidence: "the fingerprints differ", Fix: secretFix})
	} else if err != nil {
		add(codeSecret, storeFinding{Severity: "warn", Object: object, Says: "not checked: " + err.Error()})
	} else if !served {
		add(codeSecret, storeFinding{Severity: "info", Object: object, Says: "no replica has served with it yet"})
	}
	if took, err := slowest(ctx, client); err != nil {
		add(codeSlow, storeFinding{Severity: "fail", Object: config.Redis.URL, Says: err.Error()})
	} else if took > config.Redis.Timeout/2 {
		add(codeSlow, storeFinding{
			Severity: "warn", Object: config.Redis.URL, Says: "the slowest of 50 answers took more than half of redis-timeout; one that takes all of it is a degraded one",
			Evidence: fmt.Sprintf("%v of %v", took.Round(time.Microsecond), config.Redis.Timeout), Fix: "bring Redis nearer, or raise redis-timeout and Envoy's timeout for the call with it",
		})
	}
	target, _ := redisconn.Parse(config.Redis.URL) // options has
	examineServers(ctx, client, target.Kind != redisconn.Standalone, add)
	names, err := replicas.Names(ctx, client, config.Redis.Prefix)
	if err != nil {
		add(codeReplicas, storeFinding{Severity: "warn", Object: object, Says: "not checked: " + err.Error()})
		return
	}
	add(codeReplicas, storeFinding{Severity: "info", Object: object, Says: fmt.Sprintf("%d replicas", len(names)), Evidence: strings.Join(names, ", ")})
}

// slowest is how long the slowest of 50 answers took, on a connection that was there.
func slowest(ctx context.Context, client redis.UniversalClient) (worst time.Duration, err error) {
	for i := range 51 {
		began := time.Now()
		if err := client.Ping(ctx).Err(); err != nil {
			return 0, err
		}
		if i > 0 {
			worst = max(worst, time.Since(began))
		}
	}
	return worst, nil
}

// each are the errors that were joined.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func count(results []storeResult, severity string) (n int) {
	for i := range results {
		if slices.ContainsFunc(results[i].Findings, func(f storeFinding) bool { return f.Severity == severity }) {
			n++
		}
	}
	return n
}

func printStore(w io.Writer, results []storeResult, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"results": results})
	}
	marks := map[string]string{"fail": "FAIL", "warn": "warn", "info": "info"}
	var b strings.Builder
	for i := range results {
		r := &results[i]
		mark := "ok  "
		for _, f := range r.Findings {
			if mark == "ok  " || f.Severity == "fail" {
				mark = marks[f.Severity]
			}
		}
		if r.Skipped {
			mark = "-   "
		}
		fmt.Fprintf(&b, "%s  %s  %s\n", mark, r.Code, r.Title)
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "      %s  %s: %s\n", marks[f.Severity], f.Object, f.Says)
			if f.Evidence != "" {
				fmt.Fprintf(&b, "            seen: %s\n", f.Evidence)
			}
			if f.Fix != "" {
				fmt.Fprintf(&b, "            mend: %s\n", f.Fix)
			}
		}
	}
	fmt.Fprintf(&b, "%d checks: %d failed, %d with a warning\n", len(results), count(results, "fail"), count(results, "warn"))
	_, err := io.WriteString(w, b.String())
	return err
}
