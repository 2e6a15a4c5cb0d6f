package redisstore

import (
	"math/rand/v2"
	"testing"

	"github.com/voicecore-ai/sluice/redistest"
)

func TestASlotIsWhereRedisPutsTheKeys(t *testing.T) {
	var addrs []string
	for _, s := range redistest.Cluster(t) {
		addrs = append(addrs, s.Addr)
	}
	client := connect(t, addrs...)
	s, pilots := openTest(t, Options{Client: client}), map[*pilot]bool{}
	for range 500 {
		shard := rand.Uint64()
		key := string(appendTag([]byte("q:"), shard)) + "cell"
		want, err := client.ClusterKeySlot(t.Context(), key).Result()
		if err != nil || int64(s.Slot(shard)) != want {
			t.Fatalf("shard %x is on slot %d, for Redis on %d: %v", shard, s.Slot(shard), want, err)
		}
		pilots[s.pilot(shard)] = true
	}
	if len(pilots) != clusterPilots {
		t.Errorf("500 shards have %d pilots", len(pilots))
	}
	if one := openTest(t, Options{Client: connect(t, redistest.Start(t).Addr)}); one.Slot(7) != 0 || len(one.pilots) != 1 {
		t.Error("one server has slots")
	}
}
