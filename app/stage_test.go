package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

// asked is what the doors of s answer to a caller without a credential and to a descriptor whose limit is 0.
func asked(t *testing.T, s *server) (check *authv3.CheckResponse, limited ratelimitv3.RateLimitResponse_Code) {
	t.Helper()
	conn := dial(t, s)
	check, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: ":method", RawValue: []byte("GET")}, {Key: ":path", RawValue: []byte("/v1/calls")}, {Key: ":authority", RawValue: []byte("api")},
		}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	limit, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{
		Domain: "edge", Descriptors: []*commonv3.RateLimitDescriptor{{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "banned", Value: "x"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return check, limit.GetOverallCode()
}

const banned = "domain: edge\ndescriptors: [{key: banned, rate_limit: {unit: second, requests_per_unit: 0}}]\n"

func TestTheStageOfTheServer(t *testing.T) {
	t.Run("soft: what would be refused passes, and the record, the metrics and the log say so", func(t *testing.T) {
		s := run(t, "--stage", "soft", "--catalog", folder(t, "a.yaml", catalogue), "--rls-config", folder(t, "a.yaml", banned))
		check, limited := asked(t, s)
		if check.GetStatus().GetCode() != 0 || check.GetOkResponse() == nil || limited != ratelimitv3.RateLimitResponse_OK {
			t.Errorf("%v, %v", check, limited)
		}
		page := s.page(t)
		for _, want := range []string{
			`sluice_stage{stage="soft"} 1`, `sluice_stage{stage="enforced"} 0`, `sluice_decisions_soft_total{reason="unauthenticated"} 1`,
			`sluice_decisions_soft_total{reason="over_limit"} 0`, `sluice_decisions_total{reason="admitted"} 1`, "sluice_decisions_shadowed_total 1", `sluice_rls_calls_total{result="shadowed"} 1`,
		} {
			if !strings.Contains(page, want+"\n") {
				t.Errorf("/metrics does not say %s", want)
			}
		}
		if strings.Contains(page, `sluice_decisions_soft_total{reason="malformed"}`) {
			t.Error("/metrics has a reason that the stage does not overlook")
		}
		if code, body := get(t, s.url+"/readyz"); code != http.StatusOK || strings.Contains(body, "soft") {
			t.Errorf("readiness: %d, %s", code, body)
		}
		await.That(t, "the log warns", func() bool { return strings.Contains(s.log.String(), "level=WARN msg=\"the stage is soft") })
		if code, _ := get(t, s.url+"/v1/tenants"); code != http.StatusUnauthorized {
			t.Errorf("the quota API without a token answers %d: it has no stage", code)
		}
		s.stop(t)
		records := 0
		err := audit.Search(os.DirFS(filepath.Join(s.config.Data, auditFolder)), audit.Filter{Reason: "unauthenticated"}, func(r *audit.Record, line []byte) error {
			if r.Kind != "decision" {
				return nil // of the quota API
			}
			records++
			if !*r.Allowed || r.Reason != "admitted" || r.ShadowReason != "unauthenticated" || *r.Shadow || !json.Valid(line) {
				t.Errorf("%s", line)
			}
			return nil
		})
		if err != nil || records != 1 {
			t.Errorf("%d records, %v", records, err)
		}
	})
	t.Run("enforced, by default: it is refused, and nothing speaks of a stage but the metric", func(t *testing.T) {
		s := run(t, "--catalog", folder(t, "a.yaml", catalogue), "--rls-config", folder(t, "a.yaml", banned))
		check, limited := asked(t, s)
		if check.GetDeniedResponse().GetStatus().GetCode() != 401 || limited != ratelimitv3.RateLimitResponse_OVER_LIMIT {
			t.Errorf("%v, %v", check, limited)
		}
		page := s.page(t)
		for _, want := range []string{`sluice_stage{stage="soft"} 0`, `sluice_stage{stage="enforced"} 1`, `sluice_decisions_soft_total{reason="unauthenticated"} 0`} {
			if !strings.Contains(page, want+"\n") {
				t.Errorf("/metrics does not say %s", want)
			}
		}
		if strings.Contains(s.log.String(), "stage") {
			t.Errorf("the log:\n%s", s.log)
		}
	})
	t.Run("another word is refused", func(t *testing.T) {
		if _, err := load(t, []string{"SLUICE_STAGE=permissive"}, nil); err == nil || !strings.Contains(err.Error(), `stage "permissive": one of enforced, soft`) {
			t.Error(err)
		}
	})
}

func TestTheLogSaysEveryHourThatTheStageIsSoft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(safeBuffer)
		a := &App{log: slog.New(slog.NewTextHandler(log, nil)), gate: gate.New(gate.Options{Soft: true}), rls: rls.New(rls.Options{})}
		ctx, cancel := context.WithCancel(t.Context())
		go a.remind(ctx)
		time.Sleep(2*time.Hour + time.Minute)
		cancel()
		synctest.Wait()
		if n := strings.Count(log.String(), "the stage is soft"); n != 3 {
			t.Errorf("%d lines in two hours, want one at the start and one for each:\n%s", n, log)
		}
	})
}
