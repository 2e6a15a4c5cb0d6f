package redis_test

import (
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestF16Reshard moves a quarter of a cluster's slots to another primary, as an operator does, under load.
func TestF16Reshard(t *testing.T) {
	const slots = 4096
	late := lateness(t)
	nodes := primaries(t)
	// Patient: that a slot on its way costs no answer is the point. A machine that stalls for half a second would make outages of its
	// own; and how long answers take is looked at below.
	all := open(t, "redis+cluster://"+nodes[2].Addr, patient, nil)
	tenants := newTenants(t, 300, plenty, plenty, plenty)
	var took time.Duration
	have := load{all, tenants, 8, 10 * time.Millisecond}.run(func() {
		wait(t.Context(), time.Second)
		start := time.Now()
		out, err := exec.CommandContext(t.Context(), "redis-cli", "--cluster", "reshard", nodes[0].Addr, "--cluster-from", nodes[0].id, "--cluster-to", nodes[1].id,
			"--cluster-slots", strconv.Itoa(slots), "--cluster-yes", "--cluster-pipeline", "1000").CombinedOutput()
		if took = time.Since(start); err != nil {
			t.Errorf("redis-cli: %v\n%s", err, out[max(0, len(out)-2000):])
		}
		wait(t.Context(), time.Second)
	})
	settled(t, all)
	opened := uint64(0)
	for _, r := range all {
		opened += r.Stats().Opened
	}
	t.Logf("F16: %d slots were moved in %v; %d answers, %d failed, %d without Redis, no replica stopped asking but %d times; p99 %v, longest %v",
		slots, took.Round(time.Millisecond), len(have), have.failed(), have.degraded(), opened, have.slow(99), have.slow(100))
	have.exact(t, all[0].shared, tenants)
	have.inTime(t, late)
	have.clean(t)
	if opened > 0 {
		t.Errorf("%d times a replica stopped asking", opened)
	}
}
