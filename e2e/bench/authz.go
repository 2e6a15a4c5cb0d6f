package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// Bounds that authorization is held to (issue 4).
const (
	jwtTarget   = 1.25 // against the reference
	rulesTarget = 1.2  // 1,000 rules against 10
	auditTarget = 1.10 // every request on record against none
	floodTime   = 10 * time.Second
)

// recorded makes a rule put each request on record.
const recorded = ", audit: best_effort"

const widePlan = `plans:
  - name: wide
    limits:
      - {name: smooth, algorithm: gcra, limit: 1_000_000_000, window: 1s}
      - {name: second, algorithm: fixed, limit: 1_000_000_000, window: 1s}
      - {name: ten, algorithm: hard, limit: 1_000_000_000, window: 10s}
`

// tokens is a catalogue with an issuer and two rules with conditions, both of which are asked.
func (i *issuer) catalog() string {
	return widePlan + `tenants: [{id: acme, plan: wide}]
issuers:
  - {name: bench, issuer: "` + issuerName + `", audiences: [` + audience + `], jwks_uri: "` + i.uri + `", tenant: acme, roles_claim: roles, allow_private: true}
rules:
  - name: agents-read-calls
    effect: allow
    who: {tenants: [acme], roles: [agent]}
    what: {methods: [GET], paths: ["/v1/calls/{id}"]}
    when: principal.name.startsWith("bench/") && path.id != "0"
  - name: nobody-behind-a-proxy
    effect: deny
    what: {paths: ["/v1/**"]}
    when: '"suspended" in principal.roles || request.headers["user-agent"] == "curl"'
`
}

// ruled is a catalogue of n tenants, each with a workload of its own, and of a rule for so many of them each.
func ruled(n, each int, audit string) string {
	var b strings.Builder
	b.WriteString(widePlan + "tenants:\n")
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("t%d", i)
		fmt.Fprintf(&b, "  - {id: t%d, plan: wide, principals: [%s]}\n", i, workload(i))
	}
	b.WriteString("rules:\n")
	for group := range slices.Chunk(names, each) {
		fmt.Fprintf(&b, "  - {name: r-%s, effect: allow%s, who: {tenants: [%s]}, what: {methods: [GET], paths: [\"/v1/calls/{id}\"]}}\n",
			group[0], audit, strings.Join(group, ", "))
	}
	return b.String()
}

func workload(i int) string { return fmt.Sprintf("spiffe://mesh/ns/t%d/sa/app", i) }

// workloads are the calls of n tenants' workloads, as Envoy asks about them.
func workloads(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		check := checkRequest("accept-language", "en")
		check.Attributes.Source.Principal = workload(i)
		out[i] = marshal(check)
	}
	return out
}

// served is a sluiced whose CPU is measured.
type served struct {
	stack *stack.Stack
	conn  *grpc.ClientConn
	calls call
}

func serveCatalog(ctx context.Context, sluiced, dir string, of side, requests [][]byte) (*served, error) {
	folder := filepath.Join(dir, "catalog")
	if err := writeCatalog(folder, map[string]string{"bench.yaml": of.catalog}); err != nil {
		return nil, err
	}
	s, err := stack.Start(ctx, stack.Options{Sluiced: sluiced, Dir: dir, Catalog: folder, Args: of.args})
	if err != nil {
		return nil, err
	}
	conn, err := dial(s.GRPC)
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return &served{s, conn, call{name: "ext_authz", method: authv3.Authorization_Check_FullMethodName, requests: requests}}, nil
}

func (s *served) stop() error { return errors.Join(s.conn.Close(), s.stack.Stop()) }

func (s *served) load(ctx context.Context) (float64, error) {
	return load(ctx, s.conn, s.stack.Sluiced().Pid, s.calls)
}

// benchAuthz measures what identity, rules and records cost.
func benchAuthz(ctx context.Context, sluiced, dir string, rounds int) (results []result, err error) {
	i, err := newIssuer(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	token, err := i.token("user-1")
	if err != nil {
		return nil, err
	}
	request := [][]byte{marshal(checkRequest("authorization", "Bearer "+token))}
	verified, err := serveCatalog(ctx, sluiced, filepath.Join(dir, "jwt"), side{catalog: i.catalog()}, request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, verified.stop()) }()
	fmt.Printf("authorization: server CPU per call, %d in flight, %d calls a round\n", inFlight, callsPerRound)
	r, err := benchToken(ctx, verified, rounds)
	if err != nil {
		return nil, err
	}
	results = append(results, r)
	for _, c := range []pairing{
		{"1,000 tenants, 1,000 rules / 10 rules", rulesTarget, side{catalog: ruled(1000, 1, ""), tenants: 1000}, side{catalog: ruled(1000, 100, ""), tenants: 1000}},
		// Without a target: what a thousand tenants cost beside their rules is that nothing of them is in a cache.
		{"1,000 tenants and rules / 10 and 10", 0, side{catalog: ruled(1000, 1, ""), tenants: 1000}, side{catalog: ruled(10, 1, ""), tenants: 10}},
		{"on record / audit off", auditTarget, side{catalog: ruled(10, 1, recorded), tenants: 10}, side{catalog: ruled(10, 1, ""), tenants: 10, args: []string{"--audit", "off"}}},
	} {
		r, err := c.bench(ctx, sluiced, filepath.Join(dir, fmt.Sprintf("pair%d", len(results))), rounds)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// side is a sluiced and what it is asked.
type side struct {
	catalog string
	tenants int
	args    []string
}

// pairing is two of them that are compared.
type pairing struct {
	name         string
	target       float64
	ours, theirs side
}

func (p pairing) bench(ctx context.Context, sluiced, dir string, rounds int) (r result, err error) {
	ours, err := serveCatalog(ctx, sluiced, filepath.Join(dir, "ours"), p.ours, workloads(p.ours.tenants))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	theirs, err := serveCatalog(ctx, sluiced, filepath.Join(dir, "theirs"), p.theirs, workloads(p.theirs.tenants))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, theirs.stop()) }()
	r, err = compare(rounds,
		func() (float64, error) { return ours.load(ctx) },
		func() (float64, error) { return theirs.load(ctx) })
	r.Name, r.Unit, r.Target = "cpu per call, "+p.name, "µs", p.target
	if err != nil {
		return r, err
	}
	r.print()
	if strings.Contains(p.ours.catalog, recorded) {
		return r, ours.allRecorded(ctx, callsPerRound*(rounds+1))
	}
	return r, nil
}

// allRecorded is an error if more than one of a hundred records is missing: what is dropped
// costs nothing. Some may be, where a disk that hangs meets a load without a pause.
func (s *served) allRecorded(ctx context.Context, n int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.stack.HTTP+"/metrics", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	page, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(page), "\nsluice_audit_records_total ")
	var records float64
	if _, err := fmt.Sscan(rest, &records); err != nil || records < 0.99*float64(n) {
		return errors.Join(err, fmt.Errorf("%v records of %d calls", records, n))
	}
	return nil
}

// benchToken compares a call with a verified token and two conditions with the reference.
func benchToken(ctx context.Context, ours *served, rounds int) (r result, err error) {
	ref, addr, err := startReference()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, ref.Process.Kill()); _ = ref.Wait() }() // killed: its status says no more
	theirs, err := dial(addr)
	if err != nil {
		return r, err
	}
	defer theirs.Close() //nolint:errcheck // nothing left to lose
	r, err = compare(rounds,
		func() (float64, error) { return ours.load(ctx) },
		func() (float64, error) { return load(ctx, theirs, ref.Process.Pid, ours.calls) })
	r.Name, r.Unit, r.Target = "cpu per call, ext_authz, cached token and 2 conditions", "µs", jwtTarget
	if err == nil {
		r.print()
	}
	return r, err
}

// benchFlood sends distinct bad tokens through Envoy as fast as they go, and counts what
// becomes of a good caller meanwhile.
func benchFlood(ctx context.Context, envoy, sluiced, dir string) (results []result, err error) {
	i, err := newIssuer(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	folder := filepath.Join(dir, "catalog")
	if err := writeCatalog(folder, map[string]string{"bench.yaml": i.catalog()}); err != nil {
		return nil, err
	}
	s, err := stack.Start(ctx, stack.Options{Sluiced: sluiced, Envoy: envoy, Config: deploy.Demo, Dir: dir, Catalog: folder})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	good, err := i.token("user-1")
	if err != nil {
		return nil, err
	}
	fmt.Printf("a flood of distinct bad tokens through Envoy, %d callers, %v\n", clients, floodTime)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * clients}, Timeout: 5 * time.Second}
	ctx, cancel := context.WithTimeout(ctx, floodTime)
	defer cancel()
	var refused, serial atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				bad, err := i.forged(int(serial.Add(1)))
				if err != nil {
					return
				}
				if askAs(ctx, client, s.URL, bad) == http.StatusUnauthorized {
					refused.Add(1)
				}
			}
		})
	}
	asked, failures := 0, 0
	for ; ctx.Err() == nil; asked++ {
		if status := askAs(ctx, client, s.URL, good); status != http.StatusOK && ctx.Err() == nil {
			failures++
		}
	}
	wg.Wait()
	verdict := "target 0: met"
	if failures > 0 {
		verdict = "target 0: MISSED"
	}
	fmt.Printf("  %d bad tokens refused; a good caller asked %d times, errors %d %s\n", refused.Load(), asked, failures, verdict)
	return []result{
		{Name: "flood of bad tokens: refused", Unit: "requests", Ours: float64(refused.Load())},
		{Name: "flood of bad tokens: errors of a good caller", Unit: "requests", Ours: float64(failures), Theirs: float64(asked)},
	}, nil
}

// askAs is the status of one request with a token; 0 if there was no answer.
func askAs(ctx context.Context, client *http.Client, url, token string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/calls/42", nil)
	if err != nil {
		return 0
	}
	request.Header.Set("authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode
}
