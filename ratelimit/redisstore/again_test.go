package redisstore

import (
	"context"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// The client of a cluster sends a pipeline again whose answer was lost, and the pilot never hears of it.
func TestWhatAClusterClientSendsAgainByItselfIsKnown(t *testing.T) {
	client := connectCluster(t)
	s := openTest(t, Options{Client: client})
	charges := []ratelimit.Charge{{Limit: limitOf(ratelimit.Fixed, 1, 366*24*time.Hour), Cell: cellOf(1), Hits: 1}}
	var r request
	r.collect(charges)
	c := s.encode(&r, ratelimit.Operation{}, charges)
	for i, want := range []byte{admitted, repeated} {
		got, err := client.Do(context.Background(), c.args...).Text()
		if err != nil || got == "" || got[0] != want {
			t.Errorf("sent %d times, the last hit of a limit is answered %.1q, %v; want %q", i+1, got, err, want)
		}
	}
}
