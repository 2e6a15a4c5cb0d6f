package redisstore

import (
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// A Redis that is not ours, or was changed, may say anything: it admits by three letters only.
func TestAnAnswerOfNoKnownKindIsAnError(t *testing.T) {
	charges := []ratelimit.Charge{{Limit: limitOf(ratelimit.Fixed, 1, time.Minute), Cell: cellOf(1), Hits: 1}}
	known := 0
	for status := range 256 {
		var r request
		r.collect(charges)
		rep := reply{status: byte(status), now: 1, cells: "\x00\x00"}
		err := r.decode(rep)
		switch rep.status {
		case admitted, denied, repeated:
			if known++; err != nil {
				t.Errorf("%q: %v", rune(status), err)
			}
		default:
			if err == nil {
				t.Errorf("an answer that begins with %q is taken for one", rune(status))
			}
		}
	}
	if known != 3 {
		t.Errorf("%d kinds of answers", known)
	}
}
