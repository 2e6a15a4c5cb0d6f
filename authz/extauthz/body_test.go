package extauthz_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/authz/extauthz"
	"github.com/voicecore-ai/sluice/gate"
)

// wholeness remembers whether the body of the last request was whole.
type wholeness bool

func (w *wholeness) Admit(_ context.Context, _ int64, r *gate.Request, _ *gate.Decision) {
	*w = wholeness(r.Action.Body.Whole)
}

func TestABodyIsWholeOnlyIfItsLengthWasTold(t *testing.T) {
	whole := new(wholeness)
	conn := answertest.Dial(t, extauthz.New(extauthz.Options{Gate: whole, Answers: answer.NewWriter(answer.Draft10), Peer: known, Log: slog.New(slog.DiscardHandler)}))
	with := func(text, bytes string, pairs ...string) *authv3.CheckRequest {
		r := raw(pairs...)
		r.Attributes.Request.Http.Body, r.Attributes.Request.Http.RawBody = text, []byte(bytes)
		return r
	}
	const mark = "x-envoy-auth-partial-body"
	for _, c := range []struct {
		name string
		in   *authv3.CheckRequest
		want bool
	}{
		{"B-03 of the length that was told, with Envoy's mark", with("", "{}", "content-length", "2", mark, "false"), true},
		{"B-03 without Envoy's mark", with("", "{}", "content-length", "2"), false},
		{"B-03 with a mark that it is cut", with("", "{}", "content-length", "2", mark, "true"), false},
		{"B-03 with two marks", with("", "{}", "content-length", "2", mark, "false", mark, "false"), false},
		{"B-03 with marks that differ", with("", "{}", "content-length", "2", mark, "false", mark, "true"), false},
		{"B-03 with an empty mark", with("", "{}", "content-length", "2", mark, ""), false},
		{"B-03 of another length", with("", "{}", "content-length", "3", mark, "false"), false},
		{"B-03 without a length", with("", "{}", mark, "false"), false},
		{"B-03 with two lengths", with("", "{}", "content-length", "2", "content-length", "2", mark, "false"), false},
		{"B-03 with a length that is none", with("", "{}", "content-length", "0x2", mark, "false"), false},
		{"B-03 empty", with("", "", "content-length", "0", mark, "false"), false},
		{"B-02 as text", with("{}", "", "content-length", "2", mark, "false"), false},
		{"B-02 as text and as bytes", with("{}", "{}", "content-length", "2", mark, "false"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, conn, c.in)
			if bool(*whole) != c.want {
				t.Errorf("whole: %v", *whole)
			}
		})
	}
}

func TestWhatIsWrittenIsNotRemovedToo(t *testing.T) {
	conn := answertest.Dial(t, door(answertest.Config{}))
	spoofed := []string{"x-api-key", answertest.Key, "x-tenant-id", "t2", "X-Tenant-ID", "t2", "x-sluice-plan", "p", "x-sluice-principal", "p", "x-sluice-decision-id", "d", "x.tenant.id", "t2", "x-original-url", "/admin"}
	for name, in := range map[string]*authv3.CheckRequest{"with raw headers": raw(spoofed...), "with joined headers": request(spoofed...)} {
		t.Run("H-12 "+name, func(t *testing.T) {
			ok := check(t, conn, in).GetOkResponse()
			if ok == nil {
				t.Fatal("denied")
			}
			for name := range set(t, ok.GetHeaders()) { // set fails on what does not overwrite
				if slices.Contains(ok.GetHeadersToRemove(), name) {
					t.Errorf("%s is written and removed", name)
				}
			}
			for _, name := range []string{"x-api-key", "x.tenant.id", "x-original-url"} {
				if !slices.Contains(ok.GetHeadersToRemove(), name) {
					t.Errorf("%s stays; removed are %q", name, ok.GetHeadersToRemove())
				}
			}
		})
	}
	for name, in := range map[string]*authv3.CheckRequest{"denied": raw(), "that can't be read": raw(":path", "//")} {
		t.Run("H-12 an answer "+name+" overwrites what it says", func(t *testing.T) {
			denied := check(t, conn, in).GetDeniedResponse()
			if denied == nil {
				t.Fatal("admitted")
			}
			set(t, denied.GetHeaders())
		})
	}
}
