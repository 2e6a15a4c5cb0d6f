package api

import (
	"crypto/sha256"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// acts collects what a world's audit gets.
type acts struct {
	mu  sync.Mutex
	all []Act
}

func (a *acts) add(act Act) { a.mu.Lock(); defer a.mu.Unlock(); a.all = append(a.all, act) }

// take returns the acts since the last call.
func (a *acts) take() []Act {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.all
	a.all = nil
	return all
}

// one checks that there was exactly one act since the last call.
func (a *acts) one(t *testing.T, want Act) {
	t.Helper()
	all := a.take()
	if len(all) != 1 {
		t.Errorf("%d acts %+v, want %+v", len(all), all, want)
		return
	}
	if got := all[0]; got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func watchActs(w *world) *acts {
	a := &acts{}
	w.service.server.guard.audit = a.add
	return a
}

// C-05: nobody gets in by what everybody knows.
func TestC05NoTokenIsADefault(t *testing.T) {
	w := newWorld(t, "")
	for _, known := range knownTokens {
		o := Options{Catalog: w.catalog, Store: w.store, Pepper: pepper, AdminTokenDigest: sha256.Sum256([]byte(known)), Now: time.Now, Log: w.service.server.log}
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "everybody tries") {
			t.Errorf("a service whose token is %q: %v", known, err)
		}
	}
	g := newGuard(Options{AdminTokenDigest: sha256.Sum256(nil), Now: time.Now, Log: w.service.server.log})
	for _, value := range []string{"Bearer ", "Bearer"} {
		if who, err := g.authenticate([]string{value}); err == nil || who != nobody {
			t.Errorf("%q is the administrator of a server with an empty token", value)
		}
	}
}

// A-05, C-05: each refused caller is on record, by gRPC and by REST, and no act has a credential in it.
func TestA05EachRefusedCallerIsReported(t *testing.T) {
	w := newWorld(t, "")
	a := watchActs(w)
	const full = "/" + service + "/"
	for i := range methods().Len() {
		m := methods().Get(i)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sla_canary", "x-forwarded-for", "10.9.8.7")
		w.now = w.now.Add(time.Second)
		if err := w.conn.Invoke(ctx, full+string(m.Name()), empty(t, m.Input()), empty(t, m.Output())); err == nil {
			t.Errorf("%s answers", m.Name())
		}
		a.one(t, Act{Time: w.now.UnixMicro(), Source: "127.0.0.1", Method: full + string(m.Name()), Reason: "UNAUTHENTICATED"})
	}
	code, _ := w.rest(t, "DELETE", "/v1/rules/x", "", "Authorization", "Bearer sla_canary", "X-Forwarded-For", "10.9.8.7")
	if code != http.StatusUnauthorized {
		t.Errorf("status %d", code)
	}
	a.one(t, Act{Time: w.now.UnixMicro(), Source: "127.0.0.1", Method: "DELETE /v1/rules/x", Reason: "UNAUTHENTICATED"})
	w.rest(t, "GET", "/v1/"+strings.Repeat("x", 5000)+"\xff", "", "Authorization", "Bearer sla_canary")
	if all := a.take(); len(all) != 1 || len(all[0].Method) > 210 {
		t.Errorf("a long path: %+v", all)
	}

	t.Run("also when there are too many of them", func(t *testing.T) {
		for range callsAtOnce + 5 {
			_, _ = w.ListPlans(t.Context(), &quotav1.ListPlansRequest{})
		}
		all := a.take()
		if len(all) != callsAtOnce+5 || all[len(all)-1].Reason != "API_RATE_LIMITED" || all[len(all)-1].Actor != "" {
			t.Errorf("%d acts", len(all))
		}
	})
}

func TestA05AMethodThatIsNotInTheTableIsDeniedAndReported(t *testing.T) {
	w := newWorld(t, "")
	a := watchActs(w)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	_, err := guarded(ctx, w.service.server.guard, "/"+service+"/Invented", &quotav1.DeletePlanRequest{Name: "plans/gold"},
		func(*quotav1.DeletePlanRequest, *Act) (*quotav1.Plan, error) {
			t.Error("called")
			return &quotav1.Plan{}, nil
		})
	refused(t, err, codes.PermissionDenied, "METHOD_NOT_ALLOWED")
	a.one(t, Act{Time: start.UnixMicro(), Actor: "admin", Method: "/" + service + "/Invented", Reason: "METHOD_NOT_ALLOWED"})
}

func TestEachChangeIsReportedWithItsRevision(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("plans: [{name: filed}]"), 0o600))
	w := newWorld(t, dir)
	a := watchActs(w)
	act := func(method, resource, id, reason string) Act {
		want := Act{Time: start.UnixMicro(), Actor: "admin", Source: "127.0.0.1", Method: "/" + service + "/" + method, Resource: resource, RequestID: id, Reason: reason}
		if reason == "" {
			want.Revision = w.catalog.Snapshot().Revision
		}
		return want
	}
	w.gold(t)
	if all := a.take(); len(all) != 2 || all[0].Resource != "plans/gold" || all[1].Resource != "tenants/acme" || all[1].Revision != all[0].Revision+1 {
		t.Fatalf("acts %+v", all)
	}
	ctx := signed(t)
	create := &quotav1.CreateRuleRequest{RuleId: "callers", Rule: wholeRule(), RequestId: "r1"}
	_, err := w.CreateRule(ctx, create)
	must(t, err)
	a.one(t, act("CreateRule", "rules/callers", "r1", ""))

	t.Run("a retry and a trial are no change", func(t *testing.T) {
		_, err := w.CreateRule(ctx, create)
		must(t, err)
		_, err = w.DeleteRule(ctx, &quotav1.DeleteRuleRequest{Name: "rules/callers", ValidateOnly: true})
		must(t, err)
		_, err = w.DeleteRule(ctx, &quotav1.DeleteRuleRequest{Name: "rules/none", ValidateOnly: true})
		refused(t, err, codes.NotFound, "NOT_FOUND")
		_, err = w.ListRules(ctx, &quotav1.ListRulesRequest{})
		must(t, err)
		if all := a.take(); len(all) != 0 {
			t.Errorf("acts %+v", all)
		}
	})
	t.Run("a key is reported by its id, without its secret", func(t *testing.T) {
		made, err := w.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
		must(t, err)
		a.one(t, act("CreateApiKey", made.GetApiKey().GetName(), "", ""))
		_, err = w.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/nobody"})
		refused(t, err, codes.NotFound, "NOT_FOUND")
		a.one(t, act("CreateApiKey", "tenants/nobody/apiKeys", "", "NOT_FOUND"))
		_, err = w.DeleteApiKey(ctx, &quotav1.DeleteApiKeyRequest{Name: made.GetApiKey().GetName()})
		must(t, err)
		a.one(t, act("DeleteApiKey", made.GetApiKey().GetName(), "", ""))
	})
	t.Run("a change that is refused is reported with its reason", func(t *testing.T) {
		_, err := w.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "bad", Plan: &quotav1.Plan{Limits: []*quotav1.Limit{limit("l", -1)}}})
		refused(t, err, codes.InvalidArgument, "INVALID_FIELD")
		a.one(t, act("CreatePlan", "plans/bad", "", "INVALID_FIELD"))
		_, err = w.DeletePlan(ctx, &quotav1.DeletePlanRequest{Name: "plans/filed", RequestId: "r2"})
		refused(t, err, codes.FailedPrecondition, "OWNED_BY_FILE")
		a.one(t, act("DeletePlan", "plans/filed", "r2", "OWNED_BY_FILE"))
		_, err = w.DeletePlan(ctx, &quotav1.DeletePlanRequest{Name: "plans/gold", RequestId: "r1"})
		refused(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")
		a.one(t, act("DeletePlan", "plans/gold", "r1", "REQUEST_ID_REUSED"))
		_, err = w.DeletePlan(ctx, &quotav1.DeletePlanRequest{Name: "gold"})
		refused(t, err, codes.InvalidArgument, "INVALID_FIELD")
		a.one(t, act("DeletePlan", "", "", "INVALID_FIELD"))
	})
	t.Run("by REST with the client's address, whatever the client says of it", func(t *testing.T) {
		if code, body := w.rest(t, "PATCH", "/v1/plans/gold", `{"displayName":"Gold"}`, "X-Forwarded-For", "10.9.8.7"); code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		a.one(t, act("UpdatePlan", "plans/gold", "", ""))
	})
	t.Run("a panic is a refused change", func(t *testing.T) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
		_, err := guarded(ctx, w.service.server.guard, quotav1.QuotaService_DeletePlan_FullMethodName, &quotav1.DeletePlanRequest{},
			func(*quotav1.DeletePlanRequest, *Act) (*quotav1.Plan, error) { panic("no") })
		refused(t, err, codes.Internal, "INTERNAL")
		want := act("DeletePlan", "", "", "INTERNAL")
		want.Source = ""
		a.one(t, want)
	})
	t.Run("an audit that panics changes no answer", func(t *testing.T) {
		w.service.server.guard.audit = func(Act) { panic("full") }
		_, err := w.DeleteRule(ctx, &quotav1.DeleteRuleRequest{Name: "rules/callers"})
		must(t, err)
	})
}
