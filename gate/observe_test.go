package gate

import (
	"slices"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
)

func TestEachDecisionIsObservedOnce(t *testing.T) {
	p := newParts(t, authz.Rule{Name: "all", Effect: "allow"})
	g := p.gate()
	var seen []Reason
	g.o.Observe = func(now int64, d *Decision) {
		if seen = append(seen, d.Reason); now != 7 {
			t.Errorf("at %d", now)
		}
	}
	d := new(Decision)
	g.Admit(t.Context(), 7, ask(), d)
	d.Reason = ReasonMalformed
	g.Refuse(7, ask(), d)
	if want := []Reason{ReasonAdmitted, ReasonMalformed}; !slices.Equal(seen, want) {
		t.Errorf("%v, want %v", seen, want)
	}
	t.Run("what observes changes nothing by a panic", func(t *testing.T) {
		g.o.Observe = func(int64, *Decision) { panic("figures") }
		if g.Admit(t.Context(), 7, ask(), d); !d.Allowed() || g.Panics() != 1 {
			t.Errorf("%v, %d panics", d.Reason, g.Panics())
		}
	})
}
