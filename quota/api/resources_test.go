package api

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/voicecore-ai/sluice/authz/authn"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/ratelimit"
)

func TestWrongLimitsAreRefusedFieldByField(t *testing.T) {
	w := newWorld(t, "")
	_, err := w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{PlanId: "bad", Plan: &quotav1.Plan{Limits: []*quotav1.Limit{
		limit("negative", -1),
		limit("huge", math.MaxInt64),
		{Name: "windowless", Limit: 1},
		{Name: "odd", Algorithm: "leaky", Limit: 1, Window: durationpb.New(time.Minute)},
		{Name: "mad", Enforcement: "maybe", Limit: 1, Window: durationpb.New(time.Minute)},
	}}})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "plan.limits[0].limit", "plan.limits[1].limit",
		"plan.limits[2].window", "plan.limits[3].algorithm", "plan.limits[4].enforcement")
	_, err = w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{PlanId: "bad", Plan: &quotav1.Plan{Limits: []*quotav1.Limit{
		{Name: "impossible", Limit: 1, Window: &durationpb.Duration{Seconds: 1, Nanos: -1}},
	}}})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "plan.limits[0].window")

	for _, number := range []string{`9223372036854775808`, `"9223372036854775808"`, `1.5`, `1e400`, `"1 "`, `true`} {
		code, body := w.rest(t, "POST", "/v1/plans?planId=bad", `{"limits":[{"name":"l","limit":`+number+`,"window":"60s"}]}`)
		if code != 400 || !strings.Contains(body, `"field":"limit"`) {
			t.Errorf("limit %s: %d %s", number, code, body)
		}
	}
	if _, err := w.GetPlan(signed(t), &quotav1.GetPlanRequest{Name: "plans/bad"}); err == nil {
		t.Error("a refused plan is there")
	}
}

func TestATenantNeedsItsPlanAndAPlanItsTenantsGone(t *testing.T) {
	w := newWorld(t, "")
	_, err := w.CreateTenant(signed(t), &quotav1.CreateTenantRequest{TenantId: "acme", Tenant: &quotav1.Tenant{Plan: "plans/none"}})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "tenant.plan")
	_, err = w.CreateTenant(signed(t), &quotav1.CreateTenantRequest{TenantId: "acme"})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "tenant.plan")

	w.gold(t, limit("hourly", 5))
	_, err = w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: "plans/gold"})
	refused(t, err, codes.FailedPrecondition, "PLAN_IN_USE")
	_, err = w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	must(t, err)
	_, err = w.DeleteTenant(signed(t), &quotav1.DeleteTenantRequest{Name: "tenants/acme"})
	refused(t, err, codes.FailedPrecondition, "TENANT_HAS_KEYS")
	_, err = w.DeleteTenant(signed(t), &quotav1.DeleteTenantRequest{Name: "tenants/acme", Force: true})
	must(t, err)
	_, err = w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: "plans/gold"})
	must(t, err)
	_, err = w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: "plans/gold"})
	refused(t, err, codes.NotFound, "NOT_FOUND")
}

func TestCreateRefusesWhatExists(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	_, err := w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{PlanId: "gold"})
	refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
	_, err = w.CreateTenant(signed(t), &quotav1.CreateTenantRequest{TenantId: "acme", Tenant: &quotav1.Tenant{Plan: "plans/gold"}})
	refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
	for _, id := range []string{"", "-a", "A", "a/b", "a b", "ä", strings.Repeat("a", 64), "..", "plans/a", "a\x00"} {
		_, err = w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{PlanId: id})
		wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "plan_id")
	}
}

func TestALostRaceIsAborted(t *testing.T) {
	w := newWorld(t, "")
	plan, acme := w.gold(t, limit("hourly", 5))
	update := func(etag string, n int64) (*quotav1.Plan, error) {
		return w.UpdatePlan(signed(t), &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: plan.GetName(), Etag: etag, Limits: []*quotav1.Limit{limit("hourly", n)}}})
	}
	changed, err := update(plan.GetEtag(), 6)
	must(t, err)
	if changed.GetEtag() == plan.GetEtag() || changed.GetEtag() == "" {
		t.Errorf("etag %q after %q", changed.GetEtag(), plan.GetEtag())
	}
	_, err = update(plan.GetEtag(), 7)
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	got, err := w.GetPlan(signed(t), &quotav1.GetPlanRequest{Name: plan.GetName()})
	must(t, err)
	if !proto.Equal(got, changed) {
		t.Errorf("got %v, want what the update answered: %v", got, changed)
	}
	_, err = w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: plan.GetName(), Etag: plan.GetEtag()})
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = w.UpdateTenant(signed(t), &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: acme.GetName(), Etag: "old", Suspended: true}})
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = w.DeleteTenant(signed(t), &quotav1.DeleteTenantRequest{Name: acme.GetName(), Etag: "old"})
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = w.DeleteTenant(signed(t), &quotav1.DeleteTenantRequest{Name: acme.GetName(), Etag: acme.GetEtag()})
	must(t, err)
}

func TestAnUpdateTakesWhatItsMaskNames(t *testing.T) {
	w := newWorld(t, "")
	_, acme := w.gold(t)
	full := func() *quotav1.Tenant {
		return &quotav1.Tenant{Name: acme.GetName(), DisplayName: "Acme", Plan: "plans/gold", Suspended: true, Principals: []string{"spiffe://mesh/acme"}}
	}
	for _, step := range []struct {
		name string
		mask []string
		in   *quotav1.Tenant
		want *quotav1.Tenant
	}{
		{"no mask takes what is set", nil, full(), full()},
		{"no mask leaves what is not", nil, &quotav1.Tenant{Name: acme.GetName()}, full()},
		{
			"a mask clears what is not set", []string{"suspended", "principals"}, &quotav1.Tenant{Name: acme.GetName(), DisplayName: "not this"},
			&quotav1.Tenant{Name: acme.GetName(), DisplayName: "Acme", Plan: "plans/gold"},
		},
		{
			"JSON names do too", []string{"displayName", "etag"}, &quotav1.Tenant{Name: acme.GetName(), DisplayName: "New"},
			&quotav1.Tenant{Name: acme.GetName(), DisplayName: "New", Plan: "plans/gold"},
		},
		{
			"a star takes all", []string{"*"}, &quotav1.Tenant{Name: acme.GetName(), Plan: "plans/gold"},
			&quotav1.Tenant{Name: acme.GetName(), Plan: "plans/gold"},
		},
	} {
		t.Run(step.name, func(t *testing.T) {
			got, err := w.UpdateTenant(signed(t), &quotav1.UpdateTenantRequest{Tenant: step.in, UpdateMask: &fieldmaskpb.FieldMask{Paths: step.mask}})
			must(t, err)
			step.want.Etag, step.want.Origin = got.GetEtag(), quotav1.Origin_ORIGIN_API
			if !proto.Equal(got, step.want) {
				t.Errorf("got %v\nwant %v", got, step.want)
			}
		})
	}
	_, err := w.UpdateTenant(signed(t), &quotav1.UpdateTenantRequest{Tenant: full(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"colour", "limits.name"}}})
	if fields := refused(t, err, codes.InvalidArgument, "INVALID_FIELD"); len(fields) != 2 {
		t.Errorf("violations %q, want one per wrong path", fields)
	}
	code, body := w.rest(t, "PATCH", "/v1/tenants/acme", `{"suspended":true}`)
	if code != 200 || !strings.Contains(body, `"suspended":true`) || !strings.Contains(body, `"plan":"plans/gold"`) {
		t.Errorf("by REST without a mask: %d %s", code, body)
	}
}

func TestAChangeIsInTheVeryNextSnapshot(t *testing.T) {
	w := newWorld(t, "")
	plan, _ := w.gold(t, limit("hourly", 5))
	before := w.catalog.Snapshot()
	_, err := w.UpdatePlan(signed(t), &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: plan.GetName(), Limits: []*quotav1.Limit{limit("hourly", 500)}}})
	must(t, err)
	if n := w.catalog.Snapshot().Account("acme").Charges[0].Limit.Hits; n != 500 {
		t.Errorf("the snapshot says %d", n)
	}
	if n := before.Account("acme").Charges[0].Limit.Hits; n != 5 {
		t.Errorf("the old snapshot changed to %d", n)
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	w := newWorld(t, "")
	plan, acme := w.gold(t, limit("hourly", 5))
	key, err := w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	must(t, err)
	before, revision := w.state(t), w.catalog.Snapshot().Revision
	ctx, name := signed(t), plan.GetName()
	for what, err := range map[string]error{
		"create plan":   second(w.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "new", ValidateOnly: true, RequestId: "r"})),
		"update plan":   second(w.UpdatePlan(ctx, &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: name, DisplayName: "x"}, ValidateOnly: true, RequestId: "r"})),
		"create tenant": second(w.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: "new", Tenant: &quotav1.Tenant{Plan: name}, ValidateOnly: true})),
		"update tenant": second(w.UpdateTenant(ctx, &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: acme.GetName(), Suspended: true}, ValidateOnly: true})),
		"delete tenant": second(w.DeleteTenant(ctx, &quotav1.DeleteTenantRequest{Name: acme.GetName(), Force: true, ValidateOnly: true})),
		"delete key":    second(w.DeleteApiKey(ctx, &quotav1.DeleteApiKeyRequest{Name: key.GetApiKey().GetName(), ValidateOnly: true})),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	trial, err := w.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", ValidateOnly: true})
	must(t, err)
	if trial.GetSecret() != "" {
		t.Error("a trial shows a secret")
	}
	_, err = w.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "new", Plan: &quotav1.Plan{Limits: []*quotav1.Limit{limit("bad", -1)}}, ValidateOnly: true})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "plan.limits[0].limit")
	_, err = w.DeletePlan(ctx, &quotav1.DeletePlanRequest{Name: name, ValidateOnly: true})
	refused(t, err, codes.FailedPrecondition, "PLAN_IN_USE")
	if after := w.state(t); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	if r := w.catalog.Snapshot().Revision; r != revision {
		t.Errorf("revision went from %d to %d", revision, r)
	}
}

func second[T any](_ T, err error) error { return err }

// state is all that the API shows.
func (w *world) state(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"/v1/plans", "/v1/tenants", "/v1/tenants/acme/apiKeys", "/v1/rules", "/v1/issuers"} {
		code, body := w.rest(t, "GET", path, "")
		if code != 200 {
			t.Fatalf("%s: %d %s", path, code, body)
		}
		all.WriteString(strings.ReplaceAll(body, " ", ""))
	}
	return all.String()
}

func TestPagesHoldEachEntryOnce(t *testing.T) {
	w := newWorld(t, "")
	for i := range 7 {
		_, err := w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{PlanId: fmt.Sprintf("p%d", i)})
		must(t, err)
	}
	var seen []string
	r := &quotav1.ListPlansRequest{PageSize: 2}
	for {
		page, err := w.ListPlans(signed(t), r)
		must(t, err)
		for _, p := range page.GetPlans() {
			seen = append(seen, p.GetName())
		}
		if len(seen) == 4 { // what goes meanwhile shifts nothing
			_, err := w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: "plans/p0"})
			must(t, err)
		}
		if r.PageToken = page.GetNextPageToken(); r.GetPageToken() == "" {
			break
		}
	}
	if got := strings.Join(seen, " "); got != "plans/p0 plans/p1 plans/p2 plans/p3 plans/p4 plans/p5 plans/p6" {
		t.Errorf("seen %s", got)
	}
	page, err := w.ListPlans(signed(t), &quotav1.ListPlansRequest{PageSize: 1})
	must(t, err)
	good := page.GetNextPageToken()
	for name, token := range map[string]string{
		"no base64": "%", "too short": "AAAA", "cut": good[:len(good)-2], "more": good + "AA", "flipped": "B" + good[1:], "long": strings.Repeat("A", 4000),
	} {
		_, err := w.ListPlans(signed(t), &quotav1.ListPlansRequest{PageToken: token})
		if fields := refused(t, err, codes.InvalidArgument, "INVALID_FIELD"); len(fields) != 1 || fields[0] != "page_token" {
			t.Errorf("%s: %q", name, fields)
		}
	}
	_, err = w.ListTenants(signed(t), &quotav1.ListTenantsRequest{PageToken: good})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "page_token")
	_, err = w.ListPlans(signed(t), &quotav1.ListPlansRequest{PageSize: -1})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "page_size")
	page, err = w.ListPlans(signed(t), &quotav1.ListPlansRequest{PageSize: math.MaxInt32})
	must(t, err)
	if len(page.GetPlans()) != 6 {
		t.Errorf("%d plans on a page without bound", len(page.GetPlans()))
	}
}

func TestAKeyWorksUntilItIsDeleted(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t, limit("hourly", 5))
	expires := timestamppb.New(start.Add(time.Hour))
	made, err := w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", ApiKey: &quotav1.ApiKey{ExpireTime: expires}})
	must(t, err)
	id := strings.TrimPrefix(made.GetApiKey().GetName(), "tenants/acme/apiKeys/")
	if !strings.HasPrefix(made.GetSecret(), "slk_"+id+"_") || len(made.GetSecret()) != 4+8+1+43 {
		t.Errorf("key %q of id %q", made.GetSecret(), id)
	}
	credential, ok := w.catalog.Snapshot().Key(authn.Digest(pepper, made.GetSecret()))
	if !ok || credential.Account.Tenant != "acme" || !credential.Expires.Equal(expires.AsTime()) {
		t.Errorf("the snapshot has %+v, %v", credential, ok)
	}
	list, err := w.ListApiKeys(signed(t), &quotav1.ListApiKeysRequest{Parent: "tenants/acme"})
	must(t, err)
	if len(list.GetApiKeys()) != 1 || !proto.Equal(list.GetApiKeys()[0], made.GetApiKey()) {
		t.Errorf("listed %v, want %v", list.GetApiKeys(), made.GetApiKey())
	}
	_, err = w.CreateTenant(signed(t), &quotav1.CreateTenantRequest{TenantId: "other", Tenant: &quotav1.Tenant{Plan: "plans/gold"}})
	must(t, err)
	_, err = w.DeleteApiKey(signed(t), &quotav1.DeleteApiKeyRequest{Name: "tenants/other/apiKeys/" + id})
	refused(t, err, codes.NotFound, "NOT_FOUND")
	_, err = w.DeleteApiKey(signed(t), &quotav1.DeleteApiKeyRequest{Name: made.GetApiKey().GetName()})
	must(t, err)
	if _, ok := w.catalog.Snapshot().Key(authn.Digest(pepper, made.GetSecret())); ok {
		t.Error("the deleted key is in the very next snapshot")
	}
	_, err = w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/nobody"})
	refused(t, err, codes.NotFound, "NOT_FOUND")
	_, err = w.ListApiKeys(signed(t), &quotav1.ListApiKeysRequest{Parent: "tenants/nobody"})
	refused(t, err, codes.NotFound, "NOT_FOUND")
	_, err = w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", ApiKey: &quotav1.ApiKey{ExpireTime: timestamppb.New(start)}})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "api_key.expire_time")
}

func TestUsageIsFullestFirstAndChargesNothing(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t, limit("empty", 10), limit("half", 4), &quotav1.Limit{
		Name: "none", Algorithm: "fixed", Window: durationpb.New(time.Hour), Enforcement: "shadow", // or it would refuse what a look must not charge
	}, &quotav1.Limit{
		Name: "burst", Algorithm: "gcra", Limit: 10, Burst: 8, Window: durationpb.New(time.Hour), Enforcement: "shadow",
	})
	account := w.catalog.Snapshot().Account("acme")
	for _, c := range account.Charges {
		if c.Limit.Name != "half" && c.Limit.Name != "burst" {
			continue
		}
		c.Hits = 2
		if ok, err := w.store.Charge(ratelimit.Operation{Now: start.UnixMicro()}, []ratelimit.Charge{c}, make([]ratelimit.Outcome, 1)); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	w.now = start.Add(17 * time.Nanosecond)
	for range 3 { // looking changes nothing
		u, err := w.GetUsage(signed(t), &quotav1.GetUsageRequest{Name: "tenants/acme/usage"})
		must(t, err)
		var got []string
		for _, l := range u.GetLimits() {
			got = append(got, fmt.Sprintf("%s %s %d/%d left %d %.2f %v", l.GetLimitName(), l.GetAlgorithm(), l.GetUsed(), l.GetCapacity(), l.GetRemaining(), l.GetRatio(), l.GetShadow()))
		}
		want := []string{
			"none fixed 0/0 left 0 1.00 true",
			"half fixed 2/4 left 2 0.50 false",
			"burst gcra 2/8 left 6 0.25 true",
			"empty fixed 0/10 left 10 0.00 false",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if r := u.GetLimits()[1].GetResetTime().AsTime(); !r.Equal(start.Add(time.Hour)) {
			t.Errorf("half resets at %v", r)
		}
	}
	_, err := w.GetUsage(signed(t), &quotav1.GetUsageRequest{Name: "tenants/nobody/usage"})
	refused(t, err, codes.NotFound, "NOT_FOUND")
	_, err = w.GetUsage(signed(t), &quotav1.GetUsageRequest{Name: "tenants/acme"})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "name")
}

func TestWhatAFileOwnsIsReadOnly(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(`
plans:
  - name: filed
    limits: [{name: hourly, algorithm: fixed, limit: 5, window: 1h}]
tenants:
  - {id: paper, plan: filed}
api_keys:
  - {id: filedkey, tenant: paper, digest: "`+strings.Repeat("ab", 32)+`"}
`), 0o600))
	w := newWorld(t, dir)
	plan, err := w.GetPlan(signed(t), &quotav1.GetPlanRequest{Name: "plans/filed"})
	must(t, err)
	if plan.GetOrigin() != quotav1.Origin_ORIGIN_FILE {
		t.Errorf("origin %v", plan.GetOrigin())
	}
	ctx := signed(t)
	for what, err := range map[string]error{
		"update plan":   second(w.UpdatePlan(ctx, &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: "plans/filed", DisplayName: "x"}})),
		"delete plan":   second(w.DeletePlan(ctx, &quotav1.DeletePlanRequest{Name: "plans/filed"})),
		"update tenant": second(w.UpdateTenant(ctx, &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: "tenants/paper", Suspended: true}})),
		"delete tenant": second(w.DeleteTenant(ctx, &quotav1.DeleteTenantRequest{Name: "tenants/paper", Force: true})),
		"delete key":    second(w.DeleteApiKey(ctx, &quotav1.DeleteApiKeyRequest{Name: "tenants/paper/apiKeys/filedkey"})),
	} {
		t.Run(what, func(t *testing.T) { refused(t, err, codes.FailedPrecondition, "OWNED_BY_FILE") })
	}
	_, err = w.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "filed"})
	refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
	made, err := w.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/paper"})
	must(t, err)
	if _, ok := w.catalog.Snapshot().Key(authn.Digest(pepper, made.GetSecret())); !ok {
		t.Error("a key of the API for a tenant of a file doesn't work")
	}
}

// oracle is a store that knows only what an outage leaves to say.
type oracle struct{ err error }

func (o oracle) Charge(_ ratelimit.Operation, _ []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	for i := range outcomes {
		outcomes[i].Degraded = true
	}
	return o.err == nil, o.err
}

func TestUsageIsNotMadeUpDuringAnOutage(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t, limit("hourly", 5))
	for name, store := range map[string]ratelimit.Store{"the store fails": oracle{os.ErrDeadlineExceeded}, "the answer is degraded": oracle{}} {
		t.Run(name, func(t *testing.T) {
			w.service.server.store = store
			_, err := w.GetUsage(signed(t), &quotav1.GetUsageRequest{Name: "tenants/acme/usage"})
			refused(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
		})
	}
}
