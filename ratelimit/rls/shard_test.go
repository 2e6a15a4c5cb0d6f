package rls

import (
	"testing"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// shards is a gate that notes where the charges of a request lie.
type shards map[uint64]bool

func (s shards) Charge(_ ratelimit.Operation, charges []ratelimit.Charge, _ []ratelimit.Outcome) (bool, error) {
	for i := range charges {
		s[charges[i].Cell.Shard] = true
	}
	return true, nil
}

func TestADomainIsOneShardWhereTheStoreCanChargeNoMore(t *testing.T) {
	m := ask("messaging", []string{"user", "u"}, []string{"month", "m"}, []string{"path", "/api/x"})
	for _, c := range []struct {
		name  string
		alone bool
		want  int
	}{
		{"each first entry is a shard of its own", false, 3},
		{"but the domain is the shard on a cluster", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := shards{}
			f := open(t, func(o *Options) { o.Gate, o.OneShard = seen, c.alone })
			f.ask(m)
			if len(seen) != c.want {
				t.Errorf("charges lie on %d shards, want %d", len(seen), c.want)
			}
		})
	}
}
