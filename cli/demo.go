package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

func demoCommand() *cobra.Command {
	var d demo
	c := &cobra.Command{
		Use:   "demo",
		Short: "Watch a real Envoy refuse exactly what two tenants' plans do not cover",
		Long: `Starts sluiced on its embedded store, or two of them on a Redis with --redis-server, a small upstream and Envoy, all on loopback;
creates a rule, two plans, two tenants and their API keys through the quota API; sends HTTP through
Envoy at half, once and five times each limit; prints what came back beside what the
plans say. The exit status is 0 only if the two agree.`,
		Example: `  sluice demo --envoy .tools/bin/envoy
  sluice demo --envoy .tools/bin/envoy --keep    # stay, and print lines to play with
  sluice demo --envoy .tools/bin/envoy --redis-server redis-server`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d.out = c.OutOrStdout()
			return d.run(c.Context())
		},
	}
	self, _ := os.Executable()
	c.Flags().StringVar(&d.envoy, "envoy", "envoy", "`path` of the Envoy binary")
	c.Flags().StringVar(&d.sluiced, "sluiced", filepath.Join(filepath.Dir(self), "sluiced"), "`path` of the sluiced binary; beside sluice unless told")
	c.Flags().StringVar(&d.redis, "redis-server", "", "`path` of redis-server, for two sluiceds that share it; \"\" for one on its embedded store")
	c.Flags().StringVar(&d.prometheus, "prometheus", "", "`path` of a Prometheus that watches, with the rules of deploy/prometheus; \"\" for none")
	c.Flags().StringVar(&d.jaeger, "jaeger", "", "`path` of a Jaeger that gets all traces; \"\" for none")
	c.Flags().BoolVar(&d.keep, "keep", false, "leave everything running until Ctrl-C")
	return c
}

type demo struct {
	envoy, sluiced, redis string
	prometheus, jaeger    string
	keep                  bool
	out                   io.Writer
	repeated              int // phases that were sent again
}

// customer is one tenant of the demo, and what its plan promises.
type customer struct {
	tenant, plan, promise string
	limits                []*quotav1.Limit
	rate                  int // hits a second that the plan covers
	burst                 int // hits on top, at once; 0 where windows are aligned
	key                   string
	admitted, unknown     int // answers so far, of every try: 200s, and those that may or may not have been charged
}

func customers() []*customer {
	second := durationpb.New(time.Second)
	return []*customer{
		{
			tenant: "acme", plan: "gold", promise: "gcra 50/s, burst 50", rate: 50, burst: 50,
			limits: []*quotav1.Limit{
				{Name: "requests-per-second", Algorithm: "gcra", Limit: 50, Window: second, Burst: 50},
				{Name: "requests-per-day", Algorithm: "fixed", Limit: 100_000, Window: durationpb.New(24 * time.Hour)},
			},
		},
		{
			tenant: "umbrella", plan: "free", promise: "fixed 20/s", rate: 20,
			limits: []*quotav1.Limit{
				{Name: "requests-per-second", Algorithm: "fixed", Limit: 20, Window: second},
				{Name: "requests-per-day", Algorithm: "fixed", Limit: 10_000, Window: durationpb.New(24 * time.Hour)},
			},
		},
	}
}

func (d *demo) run(ctx context.Context) (err error) {
	for _, b := range []struct{ flag, path, remedy string }{
		{"--envoy", d.envoy, "'make envoy' puts one at .tools/bin/envoy"},
		{"--sluiced", d.sluiced, "'make build' puts it beside sluice"},
		{"--redis-server", d.redis, "Debian's package redis-server has one"},
		{"--prometheus", d.prometheus, "'make observe-tools' puts one at .tools/observe/bin/prometheus"},
		{"--jaeger", d.jaeger, "'make observe-tools' puts one at .tools/observe/bin/jaeger"},
	} {
		if b.path == "" && b.flag != "--envoy" && b.flag != "--sluiced" {
			continue
		}
		if _, err := exec.LookPath(b.path); err != nil {
			return fmt.Errorf("%s %s: no such program; name its path (%s)", b.flag, b.path, b.remedy)
		}
	}
	dir, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return err
	}
	o := stack.Options{Sluiced: d.sluiced, Envoy: d.envoy, Config: deploy.Demo, Dir: dir, RedisServer: d.redis, Prometheus: d.prometheus, Jaeger: d.jaeger}
	if d.redis == "" {
		d.say("starting sluiced (embedded store), an upstream and Envoy on loopback …")
	} else {
		o.Replicas = 2
		d.say("starting redis-server, two sluiceds that share it, an upstream and Envoy over both on loopback …")
	}
	s, err := stack.Start(ctx, o)
	if err != nil {
		return fmt.Errorf("demo: %w (logs are in %s)", err, dir)
	}
	defer func() {
		err = errors.Join(err, s.Stop())
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w (logs are in %s)", err, dir)
		}
	}()
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing left to lose
	quota := quotav1.NewQuotaServiceClient(conn)
	admin := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.AdminToken)
	tenants := customers()
	if err := d.create(admin, quota, tenants); err != nil {
		return err
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	rows, err := d.drive(ctx, client, s.URL, tenants)
	if err != nil {
		return err
	}
	wrong := d.table(rows)
	d.refusal(rows)
	used, err := d.usage(admin, quota, tenants)
	if err != nil {
		return err
	}
	if wrong+used > 0 {
		return fmt.Errorf("demo: %d of the counts above are not what the plans say", wrong+used)
	}
	d.say("\nEvery count is what the plans say.")
	d.observers(s)
	if d.keep {
		d.stay(ctx, s, tenants)
	}
	return nil
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) create(ctx context.Context, quota quotav1.QuotaServiceClient, tenants []*customer) error {
	d.say("creating through the quota API:")
	rule := &quotav1.CreateRuleRequest{RuleId: "tenants-may", Rule: &quotav1.Rule{Effect: "allow"}}
	if _, err := quota.CreateRule(ctx, rule); err != nil {
		return fmt.Errorf("create rule %s: %w", rule.GetRuleId(), err)
	}
	d.say("  rule   tenants-may: every proven caller of a tenant may do everything")
	for _, c := range tenants {
		if _, err := quota.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: c.plan, Plan: &quotav1.Plan{Limits: c.limits}}); err != nil {
			return fmt.Errorf("create plan %s: %w", c.plan, err)
		}
		if _, err := quota.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: c.tenant, Tenant: &quotav1.Tenant{Plan: "plans/" + c.plan}}); err != nil {
			return fmt.Errorf("create tenant %s: %w", c.tenant, err)
		}
		created, err := quota.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/" + c.tenant})
		if err != nil {
			return fmt.Errorf("create API key of %s: %w", c.tenant, err)
		}
		c.key = created.GetSecret()
		d.say("  tenant %-9s on plan %-5s %-20s key %s…", c.tenant, c.plan, c.promise, c.key[:12])
	}
	return nil
}

func (d *demo) table(rows []*row) (wrong int) {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"tenant", "plan", "offered", "sent", "200", "429", "other", "expected 200", ""})
	last := ""
	for _, r := range rows {
		if last != "" && last != r.tenant {
			t.AppendSeparator()
		}
		last = r.tenant
		ok, limited, other := r.counts()
		expected := fmt.Sprint(r.high)
		if r.low != r.high {
			expected = fmt.Sprintf("%d to %d", r.low, r.high)
		}
		mark := "✓"
		if !r.fits() {
			mark, wrong = "✗", wrong+1
		}
		t.AppendRow(table.Row{r.tenant, r.promise, r.factor, r.sent, ok, limited, other, expected, mark})
	}
	var columns []table.ColumnConfig
	for i := 4; i <= 8; i++ {
		columns = append(columns, table.ColumnConfig{Number: i, Align: text.AlignRight})
	}
	t.SetColumnConfigs(columns)
	d.say("\n%s", t.Render())
	return wrong
}

// refusal shows the headers of one 429.
func (d *demo) refusal(rows []*row) {
	for _, r := range rows {
		if r.refused == nil {
			continue
		}
		d.say("\none refusal of %s:\n  HTTP/1.1 429 Too Many Requests", r.tenant)
		for _, name := range []string{"Retry-After", "Ratelimit", "Ratelimit-Policy", "Content-Type"} {
			if v := r.refused.Get(name); v != "" {
				d.say("  %s: %s", strings.ToLower(name), v)
			}
		}
		return
	}
}

// usage shows what the quota API says was used, which for the day's limit must
// be exactly the 200s.
func (d *demo) usage(ctx context.Context, quota quotav1.QuotaServiceClient, tenants []*customer) (wrong int, err error) {
	d.say("\nusage as the quota API reports it:")
	for _, c := range tenants {
		usage, err := quota.GetUsage(ctx, &quotav1.GetUsageRequest{Name: "tenants/" + c.tenant + "/usage"})
		if err != nil {
			return 0, fmt.Errorf("usage of %s: %w", c.tenant, err)
		}
		for _, l := range usage.GetLimits() {
			mark := ""
			if l.GetLimitName() == "requests-per-day" {
				mark = "✓ equals the 200s above"
				if d.repeated > 0 {
					mark = "✓ equals the 200s, with those of what was sent again"
				}
				if used := int(l.GetUsed()); used < c.admitted || used > c.admitted+c.unknown {
					mark, wrong = fmt.Sprintf("✗ but %d answers were 200", c.admitted), wrong+1
				}
			}
			d.say("  %-9s %-20s %6d of %6d used  %s", c.tenant, l.GetLimitName(), l.GetUsed(), l.GetLimit(), mark)
		}
	}
	return wrong, nil
}

// observers says where what watches is asked. Neither has its web page: the modules that they are built from hold none.
func (d *demo) observers(s *stack.Stack) {
	if s.Prometheus != "" {
		d.say("\nPrometheus watches at %s (for Grafana with deploy/dashboards, or by hand):", s.Prometheus)
		d.say("  curl -s %s/api/v1/query --data-urlencode 'query=sum by (tenant, outcome) (sluice_tenant_requests_total)'", s.Prometheus)
	}
	if s.Jaeger != "" {
		d.say("\nJaeger has the traces at %s:", s.Jaeger)
		d.say("  curl -s '%s/api/traces?service=sluiced&limit=1'", s.Jaeger)
	}
}

// stay prints lines to play with and waits for Ctrl-C.
func (d *demo) stay(ctx context.Context, s *stack.Stack, tenants []*customer) {
	d.say("\nrunning until Ctrl-C. Play with:")
	for _, c := range tenants {
		d.say("  curl -i -H 'x-api-key: %s' %s/v1/calls", c.key, s.URL)
	}
	d.say("  curl -s %s/metrics | grep sluice_", s.HTTP)
	d.say("For the quota API and the guide (docs/guide), paste these three lines first:")
	d.say("  auth='authorization: Bearer %s'", s.AdminToken)
	d.say("  api=%s/v1", s.HTTP)
	d.say("  data=%s", s.Data)
	d.say("  curl -s -H \"$auth\" \"$api/tenants/acme/usage\"")
	<-ctx.Done()
	d.say("stopping")
}
