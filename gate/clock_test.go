package gate_test

import (
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

// kept are the entries that a gate has recorded.
type kept []audit.Entry

func (*kept) Available() bool               { return true }
func (k *kept) Record(e *audit.Entry) error { *k = append(*k, *e); return nil }

// F-09: a clock that jumps an hour ahead and back opens each window once, refuses the rest, and lets
// no key live again that has expired in both.
func TestF09AClockThatJumps(t *testing.T) {
	s := snapshot(t)
	var records kept
	g := gate.New(gate.Options{
		Snapshot:      func() *quota.Snapshot { return s },
		Authenticator: authn.New(authn.Options{Pepper: pepper}),
		Store:         memstore.New(memstore.Options{}),
		Audit:         &records,
	})
	hour := time.Hour.Microseconds()
	for _, step := range []struct {
		name     string
		at       int64
		admitted int // of 5, at 3 in 10 s
	}{
		{"F-09 before the jump a window admits its limit", now, 3},
		{"F-09 an hour ahead is another window", now + hour, 3},
		{"F-09 back again the first window gives nothing more", now, 0},
		{"F-09 an hour before, neither", now - hour, 0},
		{"F-09 ahead again, neither", now + hour, 0},
		{"F-09 after the jump has come true it goes on", now + hour + 10_000_000, 3},
	} {
		t.Run(step.name, func(t *testing.T) {
			before, admitted := len(records), 0
			for range 5 {
				var d gate.Decision
				g.Admit(t.Context(), step.at, request("", "key-acme"), &d)
				if d.Allowed() {
					admitted++
				} else if d.Reason != gate.ReasonOverLimit {
					t.Errorf("refused for %v", d.Reason)
				}
			}
			if admitted != step.admitted || len(records)-before != 5-admitted {
				t.Errorf("%d admitted and %d records of refusals, want %d and %d", admitted, len(records)-before, step.admitted, 5-step.admitted)
			}
		})
	}
	t.Run("F-09 an expired key stays expired whichever way it jumps from there", func(t *testing.T) {
		for _, at := range []int64{now, now + hour, now + 1} {
			var d gate.Decision
			if g.Admit(t.Context(), at, request("", "key-old"), &d); d.Allowed() || d.Reason != gate.ReasonUnauthenticated {
				t.Errorf("at %d: %v", at-now, d.Reason)
			}
		}
	})
}
