package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

func wholeRule() *quotav1.Rule {
	return &quotav1.Rule{
		Effect: "allow", Enforcement: "shadow",
		Who: &quotav1.Rule_Who{
			Tenants: []string{"tenants/acme"}, Plans: []string{"plans/gold"}, Roles: []string{"caller"}, Principals: []string{"spiffe://cluster.local/ns/acme/*"},
		},
		What: &quotav1.Rule_What{
			Services: []string{"calls"}, Hosts: []string{"*.example.com"}, Methods: []string{"GET"}, Paths: []string{"/v1/calls/{id}"},
		},
		When: `request.method == "GET"`, Audit: "required",
	}
}

func wholeIssuer() *quotav1.Issuer {
	return &quotav1.Issuer{
		Issuer: "https://login.example.com", Audiences: []string{"sluice"}, JwksUri: "https://login.example.com/keys",
		Algorithms: []string{"ES256"}, Tenant: "tenants/acme", RolesClaim: "roles", Types: []string{"JWT"},
	}
}

func TestARuleIsRefusedFieldByField(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	create := func(id string, r *quotav1.Rule) error {
		return second(w.CreateRule(signed(t), &quotav1.CreateRuleRequest{RuleId: id, Rule: r}))
	}
	bad := wholeRule()
	bad.Who.Tenants, bad.Who.Plans = []string{"tenants/acme", "acme", "tenants/a/b"}, []string{"gold"}
	wantFields(t, refused(t, create("bad", bad), codes.InvalidArgument, "INVALID_FIELD"), "rule.who.tenants[1]", "rule.who.tenants[2]", "rule.who.plans[0]")
	bad = wholeRule()
	bad.Who.Tenants, bad.Who.Plans = []string{"tenants/acme", "tenants/nobody"}, []string{"plans/none"}
	wantFields(t, refused(t, create("bad", bad), codes.InvalidArgument, "INVALID_FIELD"), "rule.who.tenants[1]", "rule.who.plans[0]")
	wantFields(t, refused(t, create("no name", wholeRule()), codes.InvalidArgument, "INVALID_FIELD"), "rule_id")
	must(t, create("callers", wholeRule()))
	refused(t, create("callers", wholeRule()), codes.AlreadyExists, "ALREADY_EXISTS")

	t.Run("a tenant that a rule names stays", func(t *testing.T) {
		_, err := w.DeleteTenant(signed(t), &quotav1.DeleteTenantRequest{Name: "tenants/acme"})
		refused(t, err, codes.FailedPrecondition, "CATALOG_WOULD_BREAK")
		if !strings.Contains(err.Error(), "rules[callers].who.tenants[0]") {
			t.Errorf("%v doesn't say which rule", err)
		}
	})
}

func TestARuleComesBackAsItWasWritten(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	made, err := w.CreateRule(signed(t), &quotav1.CreateRuleRequest{RuleId: "callers", Rule: wholeRule()})
	must(t, err)
	want := wholeRule()
	want.Name, want.Origin, want.Etag = "rules/callers", quotav1.Origin_ORIGIN_API, made.GetEtag()
	got, err := w.GetRule(signed(t), &quotav1.GetRuleRequest{Name: "rules/callers"})
	must(t, err)
	if !proto.Equal(made, want) || !proto.Equal(got, want) {
		t.Errorf("made %v\ngot  %v\nwant %v", made, got, want)
	}
	list, err := w.ListRules(signed(t), &quotav1.ListRulesRequest{})
	must(t, err)
	if len(list.GetRules()) != 1 || !proto.Equal(list.GetRules()[0], want) {
		t.Errorf("listed %v", list.GetRules())
	}
	streams, err := w.CreateRule(signed(t), &quotav1.CreateRuleRequest{RuleId: "streams", Rule: &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Grpc: []string{"voice.Calls/*"}}}})
	must(t, err)
	if g := streams.GetWhat().GetGrpc(); len(g) != 1 || g[0] != "voice.Calls/*" {
		t.Errorf("grpc %q", g)
	}
	if r := w.catalog.View().Rules[0].Value; r.Who.Tenants[0] != "acme" || r.What.Paths[0] != "/v1/calls/{id}" {
		t.Errorf("the catalogue has %+v", r)
	}
	_, err = w.DeleteRule(signed(t), &quotav1.DeleteRuleRequest{Name: "rules/callers", Etag: "old"})
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = w.DeleteRule(signed(t), &quotav1.DeleteRuleRequest{Name: "rules/callers", Etag: made.GetEtag()})
	must(t, err)
	_, err = w.GetRule(signed(t), &quotav1.GetRuleRequest{Name: "rules/callers"})
	refused(t, err, codes.NotFound, "NOT_FOUND")
}

func TestAMaskGoesIntoARuleButNotIntoAList(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	_, err := w.CreateRule(signed(t), &quotav1.CreateRuleRequest{RuleId: "callers", Rule: wholeRule()})
	must(t, err)
	update := func(r *quotav1.Rule, mask ...string) (*quotav1.Rule, error) {
		r.Name = "rules/callers"
		return w.UpdateRule(signed(t), &quotav1.UpdateRuleRequest{Rule: r, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}})
	}
	got, err := update(&quotav1.Rule{Who: &quotav1.Rule_Who{Roles: []string{"agent"}}}, "who.roles", "what.methods")
	must(t, err)
	want := wholeRule()
	want.Name, want.Origin, want.Etag = "rules/callers", quotav1.Origin_ORIGIN_API, got.GetEtag()
	want.Who.Roles, want.What.Methods = []string{"agent"}, nil
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	_, err = update(&quotav1.Rule{}, "who.roles.x", "who.", "whom", "effect.x")
	if fields := refused(t, err, codes.InvalidArgument, "INVALID_FIELD"); len(fields) != 4 {
		t.Errorf("violations %q, want one per wrong path", fields)
	}
	code, body := w.rest(t, "PATCH", "/v1/rules/callers", `{"who":{"roles":["admin"]},"enforcement":"enforce"}`)
	if body = strings.ReplaceAll(body, " ", ""); code != 200 || !strings.Contains(body, `"roles":["admin"]`) || !strings.Contains(body, `"tenants":["tenants/acme"]`) || !strings.Contains(body, `"enforcement":"enforce"`) {
		t.Errorf("by REST: %d %s", code, body)
	}
}

// J-06: whoever holds the admin token can't make the server call inner addresses.
func TestJ06AnIssuerOfThePrivateNetworkComesFromAFileOnly(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(`
issuers:
  - {name: inner, issuer: https://login.internal, audiences: [sluice], jwks_uri: https://login.internal/keys, tenant_claim: tenant, allow_private: true}
`), 0o600))
	w := newWorld(t, dir)
	w.gold(t)
	private := wholeIssuer()
	private.AllowPrivate = true
	_, err := w.CreateIssuer(signed(t), &quotav1.CreateIssuerRequest{IssuerId: "login", Issuer: private})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "issuer.allow_private")
	made, err := w.CreateIssuer(signed(t), &quotav1.CreateIssuerRequest{IssuerId: "login", Issuer: wholeIssuer()})
	must(t, err)
	for _, mask := range []*fieldmaskpb.FieldMask{nil, {Paths: []string{"allow_private"}}, {Paths: []string{"*"}}} {
		private.Name = made.GetName()
		_, err = w.UpdateIssuer(signed(t), &quotav1.UpdateIssuerRequest{Issuer: private, UpdateMask: mask})
		wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "issuer.allow_private")
	}
	if code, body := w.rest(t, "PATCH", "/v1/issuers/login", `{"allowPrivate":true}`); code != 400 || !strings.Contains(body, "issuer.allow_private") {
		t.Errorf("by REST: %d %s", code, body)
	}
	got, err := w.GetIssuer(signed(t), &quotav1.GetIssuerRequest{Name: made.GetName()})
	must(t, err)
	want := wholeIssuer()
	want.Name, want.Origin, want.Etag = made.GetName(), quotav1.Origin_ORIGIN_API, got.GetEtag()
	if !proto.Equal(got, want) || !proto.Equal(got, made) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	filed, err := w.GetIssuer(signed(t), &quotav1.GetIssuerRequest{Name: "issuers/inner"})
	must(t, err)
	if !filed.GetAllowPrivate() || filed.GetOrigin() != quotav1.Origin_ORIGIN_FILE || filed.GetTenantClaim() != "tenant" {
		t.Errorf("the file's is %v", filed)
	}
}

func TestAnIssuerSpeaksForATenantThatExists(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	create := func(i *quotav1.Issuer) error {
		return second(w.CreateIssuer(signed(t), &quotav1.CreateIssuerRequest{IssuerId: "login", Issuer: i}))
	}
	for _, nobody := range []string{"tenants/nobody", "acme", "tenants/"} {
		i := wholeIssuer()
		i.Tenant = nobody
		wantFields(t, refused(t, create(i), codes.InvalidArgument, "INVALID_FIELD"), "issuer.tenant")
	}
	must(t, create(wholeIssuer()))
	list, err := w.ListIssuers(signed(t), &quotav1.ListIssuersRequest{})
	must(t, err)
	if len(list.GetIssuers()) != 1 {
		t.Fatalf("listed %v", list.GetIssuers())
	}
	_, err = w.UpdateIssuer(signed(t), &quotav1.UpdateIssuerRequest{Issuer: &quotav1.Issuer{Name: "issuers/login", Audiences: []string{"other"}, Etag: "old"}})
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	for range 2 { // a retry under the same id
		_, err = w.DeleteIssuer(signed(t), &quotav1.DeleteIssuerRequest{Name: "issuers/login", RequestId: "r1"})
		must(t, err)
	}
	_, err = w.DeleteIssuer(signed(t), &quotav1.DeleteIssuerRequest{Name: "issuers/login"})
	refused(t, err, codes.NotFound, "NOT_FOUND")
}

func TestRulesAndIssuersOfAFileAreReadOnly(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(`
rules: [{name: filed, effect: allow}]
issuers:
  - {name: filed, issuer: https://login.example.com, audiences: [sluice], jwks_uri: https://login.example.com/keys, tenant_claim: tenant}
`), 0o600))
	w := newWorld(t, dir)
	ctx := signed(t)
	for what, err := range map[string]error{
		"update rule":   second(w.UpdateRule(ctx, &quotav1.UpdateRuleRequest{Rule: &quotav1.Rule{Name: "rules/filed", Effect: "deny"}})),
		"delete rule":   second(w.DeleteRule(ctx, &quotav1.DeleteRuleRequest{Name: "rules/filed"})),
		"update issuer": second(w.UpdateIssuer(ctx, &quotav1.UpdateIssuerRequest{Issuer: &quotav1.Issuer{Name: "issuers/filed", TenantClaim: "x"}})),
		"delete issuer": second(w.DeleteIssuer(ctx, &quotav1.DeleteIssuerRequest{Name: "issuers/filed"})),
	} {
		t.Run(what, func(t *testing.T) { refused(t, err, codes.FailedPrecondition, "OWNED_BY_FILE") })
	}
	_, err := w.CreateRule(ctx, &quotav1.CreateRuleRequest{RuleId: "filed", Rule: &quotav1.Rule{Effect: "allow"}})
	refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
}

func TestTrialsOfRulesChangeNothing(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	_, err := w.CreateRule(signed(t), &quotav1.CreateRuleRequest{RuleId: "callers", Rule: wholeRule()})
	must(t, err)
	before, revision := w.state(t), w.catalog.Snapshot().Revision
	ctx := signed(t)
	for what, err := range map[string]error{
		"create rule":   second(w.CreateRule(ctx, &quotav1.CreateRuleRequest{RuleId: "new", Rule: wholeRule(), ValidateOnly: true, RequestId: "r"})),
		"update rule":   second(w.UpdateRule(ctx, &quotav1.UpdateRuleRequest{Rule: &quotav1.Rule{Name: "rules/callers", Effect: "deny"}, ValidateOnly: true})),
		"delete rule":   second(w.DeleteRule(ctx, &quotav1.DeleteRuleRequest{Name: "rules/callers", ValidateOnly: true})),
		"create issuer": second(w.CreateIssuer(ctx, &quotav1.CreateIssuerRequest{IssuerId: "new", Issuer: wholeIssuer(), ValidateOnly: true})),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := w.state(t); after != before || w.catalog.Snapshot().Revision != revision {
		t.Errorf("before %s\nafter %s", before, after)
	}
}

func TestScopesAuthorizationAndPlaceAreKept(t *testing.T) {
	w := newWorld(t, "")
	plan, acme := w.gold(t, &quotav1.Limit{Name: "hop", Limit: 5, Window: limit("x", 1).GetWindow(), At: "service", OnOutage: "allow"})
	if plan.GetLimits()[0].GetAt() != "service" || plan.GetLimits()[0].GetOnOutage() != "allow" || len(w.catalog.Snapshot().Account("acme").Inner) != 1 {
		t.Errorf("plan %v", plan)
	}
	acme, err := w.UpdateTenant(signed(t), &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: acme.GetName(), Authorization: "shadow"}})
	must(t, err)
	if acme.GetAuthorization() != "shadow" || !w.catalog.Snapshot().Account("acme").Shadow {
		t.Errorf("tenant %v", acme)
	}
	_, err = w.UpdateTenant(signed(t), &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: acme.GetName(), Authorization: "off"}})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "tenant.authorization")
	_, err = w.UpdatePlan(signed(t), &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: "plans/gold", Limits: []*quotav1.Limit{{Name: "hop", Limit: 5, Window: limit("x", 1).GetWindow(), At: "x", OnOutage: "x"}}}})
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "plan.limits[0].on_outage", "plan.limits[0].at")

	key := func(scopes ...string) (*quotav1.CreateApiKeyResponse, error) {
		return w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", ApiKey: &quotav1.ApiKey{Scopes: scopes}})
	}
	_, err = key("calls:read", "a b")
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "api_key.scopes[1]")
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprint("s", i))
	}
	_, err = key(many...)
	wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "api_key.scopes")
	made, err := key("calls:read", "calls:write")
	must(t, err)
	if s := made.GetApiKey().GetScopes(); len(s) != 2 || s[1] != "calls:write" {
		t.Errorf("scopes %q", s)
	}
}

func TestAKeySaysWhenItWasLastUsed(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	made, err := w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	must(t, err)
	last := func() *quotav1.ApiKey {
		list, err := w.ListApiKeys(signed(t), &quotav1.ListApiKeysRequest{Parent: "tenants/acme"})
		must(t, err)
		return list.GetApiKeys()[0]
	}
	if k := last(); k.GetLastUsedTime() != nil {
		t.Errorf("unknown, but %v", k)
	}
	at := int64(0)
	w.service.server.used = func(id string) int64 {
		if "tenants/acme/apiKeys/"+id != made.GetApiKey().GetName() {
			t.Errorf("asked about %q", id)
		}
		return at
	}
	if k := last(); k.GetLastUsedTime() != nil {
		t.Errorf("never used, but %v", k)
	}
	at = start.UnixMicro()
	k := last()
	if !k.GetLastUsedTime().AsTime().Equal(start) || k.GetEtag() != made.GetApiKey().GetEtag() {
		t.Errorf("key %v, want it used at %v and its etag as before", k, start)
	}
}

// Whatever a mask says, it is refused or changes what the message has.
func FuzzMask(f *testing.F) {
	for _, path := range []string{"who", "who.tenants", "what.paths", "effect", "*", "who.tenants.x", "", ".", "who.", ".who", "etag", "whoTenants", "who..tenants", "\x00"} {
		f.Add(path, "who")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		src := &quotav1.Rule{Effect: "deny", Who: &quotav1.Rule_Who{Roles: []string{"r"}}}
		dst := &quotav1.Rule{Effect: "allow", When: "true", What: &quotav1.Rule_What{Paths: []string{"/"}}}
		err := merge(dst, src, &fieldmaskpb.FieldMask{Paths: []string{one, two}})
		if err != nil {
			refused(t, err, codes.InvalidArgument, "INVALID_FIELD")
			return
		}
		if dst.GetEffect() != "allow" && dst.GetEffect() != "deny" || dst.GetWho() != nil && len(dst.GetWho().GetRoles()) > 1 {
			t.Errorf("%q and %q made %v", one, two, dst)
		}
		if _, err := proto.Marshal(dst); err != nil {
			t.Error(err)
		}
	})
}
