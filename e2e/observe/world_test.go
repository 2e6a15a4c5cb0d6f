package observe

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/cli/stack"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// world is a running stack with one tenant, acme, that may do everything.
type world struct {
	*stack.Stack
	conn *grpc.ClientConn
	key  string
}

var asks = regexp.MustCompile(`(?m)^( +(?:message_)?timeout: )1s$`)

// patiently gives sluiced more than the second that a configuration of Envoy gives it for an answer: a
// busy machine may need it to wake both, and the refusal that follows says nothing of what is tested here.
func patiently(config string) string { return asks.ReplaceAllString(config, "${1}20s") }

// start runs sluiced, behind Envoy if the options have a configuration.
func start(t *testing.T, o stack.Options) *world {
	t.Helper()
	o.Sluiced, o.Dir = binary, t.TempDir()
	if o.Config != "" {
		o.Envoy, o.Config = os.Getenv("SLUICE_ENVOY"), patiently(o.Config)
	}
	s, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"sluiced.log", "envoy.log"} {
			if text, _ := os.ReadFile(filepath.Join(o.Dir, name)); t.Failed() {
				t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
	})
	w := &world{Stack: s}
	if w.conn, err = grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close() })
	w.key = acme(t, s, w.conn,
		&quotav1.Limit{Name: "per-second", Algorithm: "gcra", Limit: 1_000_000, Window: durationpb.New(time.Second)},
		&quotav1.Limit{Name: "per-hour", Algorithm: "fixed", Limit: 10_000_000, Window: durationpb.New(time.Hour)})
	return w
}

// acme makes the tenant, with a plan of these limits, and returns its key.
func acme(t *testing.T, s *stack.Stack, conn *grpc.ClientConn, limits ...*quotav1.Limit) string {
	t.Helper()
	quota := quotav1.NewQuotaServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.AdminToken)
	_, err := quota.CreateRule(ctx, &quotav1.CreateRuleRequest{RuleId: "tenants-may", Rule: &quotav1.Rule{Effect: "allow", Audit: "best_effort"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := quota.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "gold", Plan: &quotav1.Plan{Limits: limits}}); err != nil {
		t.Fatal(err)
	}
	if _, err := quota.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: "acme", Tenant: &quotav1.Tenant{Plan: "plans/gold"}}); err != nil {
		t.Fatal(err)
	}
	key, err := quota.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	return key.GetSecret()
}

// get sends one request through Envoy and returns the status.
func (w *world) get(ctx context.Context, t *testing.T, headers map[string]string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/v1/calls?canary="+canary, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := (&http.Client{Timeout: time.Minute}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}
