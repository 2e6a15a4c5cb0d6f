package main

import (
	"context"
	_ "embed" // the wirings that are compared
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

var (
	//go:embed bare.yaml
	bareWiring string
	//go:embed three.yaml
	threeWiring string
)

// Shape of one round through Envoy.
const (
	clients    = 32
	roundTime  = 2 * time.Second
	threeRules = `domain: bench
descriptors:
  - key: tenant
    rate_limit: {unit: second, requests_per_unit: 1000000000}
`
)

// wideTenant makes a tenant with three limits that are never reached.
func wideTenant(ctx context.Context, s *stack.Stack) (key string, err error) {
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	quota := quotav1.NewQuotaServiceClient(conn)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.AdminToken)
	limits := []*quotav1.Limit{
		{Name: "smooth", Algorithm: "gcra", Limit: 1_000_000_000, Window: durationpb.New(time.Second)},
		{Name: "second", Algorithm: "fixed", Limit: 1_000_000_000, Window: durationpb.New(time.Second)},
		{Name: "ten", Algorithm: "hard", Limit: 1_000_000_000, Window: durationpb.New(10 * time.Second)},
	}
	if _, err := quota.CreateRule(ctx, &quotav1.CreateRuleRequest{RuleId: "tenants-may", Rule: &quotav1.Rule{Effect: "allow"}}); err != nil {
		return "", err
	}
	if _, err := quota.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "wide", Plan: &quotav1.Plan{Limits: limits}}); err != nil {
		return "", err
	}
	if _, err := quota.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: "acme", Tenant: &quotav1.Tenant{Plan: "plans/wide"}}); err != nil {
		return "", err
	}
	created, err := quota.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	return created.GetSecret(), err
}

// benchEnvoy compares the default wiring with a bare Envoy and with three calls.
func benchEnvoy(ctx context.Context, envoy, sluiced, dir string, rounds int) (results []result, err error) {
	type wiring struct {
		name, config string
		stack        *stack.Stack
		key          string
		p50          []float64
	}
	wirings := []*wiring{{name: "default", config: deploy.Demo}, {name: "bare", config: bareWiring}, {name: "three calls", config: threeWiring}}
	var started []*stack.Stack
	defer func() {
		for _, s := range started {
			err = errors.Join(err, s.Stop())
		}
	}()
	for _, w := range wirings {
		descriptors := filepath.Join(dir, w.name, "rls")
		if err := os.MkdirAll(descriptors, 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(descriptors, "bench.yaml"), []byte(threeRules), 0o600); err != nil {
			return nil, err
		}
		w.stack, err = stack.Start(ctx, stack.Options{
			Sluiced: sluiced, Envoy: envoy, Config: w.config, Dir: filepath.Join(dir, w.name), RLS: descriptors,
		})
		if err != nil {
			return nil, err
		}
		started = append(started, w.stack)
		if w.key, err = wideTenant(ctx, w.stack); err != nil {
			return nil, err
		}
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: 5 * time.Second}
	fmt.Printf("through Envoy, %d connections, %v a round\n", clients, roundTime)
	for _, other := range wirings[1:] {
		ours := wirings[0]
		r, err := compare(rounds,
			func() (float64, error) { return throughput(ctx, client, ours.stack, ours.key, &ours.p50) },
			func() (float64, error) { return throughput(ctx, client, other.stack, other.key, &other.p50) })
		if err != nil {
			return nil, err
		}
		r.Name, r.Unit = "throughput, default / "+other.name, "rps"
		r.print()
		added := result{
			Name: "p50 latency, default / " + other.name, Unit: "ms", Ours: median(ours.p50), Theirs: median(other.p50), Rounds: rounds,
		}
		added.Ratio = added.Ours / added.Theirs
		added.Upper = added.Ratio
		added.print()
		results = append(results, r, added)
		ours.p50 = nil
	}
	return results, nil
}

// throughput sends for one round in a closed loop; an answer that is not 200 is an error.
func throughput(ctx context.Context, client *http.Client, s *stack.Stack, key string, p50 *[]float64) (float64, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var took []float64
	var failed error
	end := time.Now().Add(roundTime)
	for range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var mine []float64
			var err error
			for err == nil && time.Now().Before(end) {
				begin := time.Now()
				err = once(ctx, client, s.URL, key)
				mine = append(mine, time.Since(begin).Seconds()*1000)
			}
			mu.Lock()
			took, failed = append(took, mine...), errors.Join(failed, err)
			mu.Unlock()
		}()
	}
	wg.Wait()
	*p50 = append(*p50, median(took))
	return float64(len(took)) / roundTime.Seconds(), failed
}

func once(ctx context.Context, client *http.Client, url, key string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/calls", nil)
	if err != nil {
		return err
	}
	request.Header.Set("x-api-key", key)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if response.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("status %d", response.StatusCode))
	}
	return errors.Join(err, response.Body.Close())
}
