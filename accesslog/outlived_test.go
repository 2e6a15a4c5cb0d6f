package accesslog_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/voicecore-ai/sluice/accesslog"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
)

func TestAStreamThatItsTenantOutlivedIsAnnounced(t *testing.T) {
	r := newRig(t, 0)
	served := true
	var text bytes.Buffer
	logger := accesslog.NewLogger(accesslog.LoggerOptions{Log: slog.New(slog.NewTextHandler(&text, nil)), Queue: 8})
	r.door = accesslog.New(accesslog.Options{
		Verifier: r.gate, Recorder: both{r.memory, logger}, Log: slog.New(slog.DiscardHandler),
		Peer: func(context.Context) (string, bool) { return answertest.Peer, true },
		Stands: func(tenant, principal, proof string) (bool, string) {
			return served && tenant == "acme" && principal == "api-key/k1" && proof == "api_key 0 00", "unauthenticated"
		},
	})
	r.conn = answertest.Dial(t, r.door)
	id := r.mint(answertest.Peer)
	periodic := entry(id, datav3.AccessLogType_DownstreamPeriodic)
	r.send(t, message(periodic))
	served = false
	got := r.send(t, message(periodic, periodic, final(id), periodic))
	if len(got) != 4 || got[0].Outlived != "" || got[1].Outlived != "unauthenticated" || got[2].Outlived == "" || got[1].Final || got[3].Outlived != "" || !got[3].Final {
		t.Fatalf("recorded %+v", got)
	}
	r.counts(t, map[accesslog.Result]uint64{accesslog.Renewed: 1, accesslog.Outlived: 2, accesslog.Settled: 1, accesslog.Duplicate: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	logger.Run(ctx)
	if n := strings.Count(text.String(), "level=WARN"); n != 2 || !strings.Contains(text.String(), "still running") || !strings.Contains(text.String(), "reason=unauthenticated") || !strings.Contains(text.String(), id) {
		t.Errorf("%d warnings: %s", n, text.String())
	}
}

type both struct{ a, b accesslog.Recorder }

func (r both) Record(e accesslog.Entry) { r.a.Record(e); r.b.Record(e) }
