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
	// Patient: that a call waits for its slot is the point. A server that stalls for a tenth of a second makes outages of its own.
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
	longer := have.count(func(s *sample) bool { return s.took > budget+late() })
	t.Logf("F16: %d slots were moved in %v; %d answers, %d failed, %d without Redis, %d took longer than %v, a replica stopped asking %d times; p99 %v, longest %v",
		slots, took.Round(time.Millisecond), len(have), have.failed(), have.degraded(), longer, budget+late(), opened, have.slow(99), have.slow(100))
	have.exact(t, all[0].shared, tenants)
	have.inTime(t, late)
	have.clean(t)
	// A call of a slot that is on its way waits for it, within the budget: on a machine that does other things it may take longer.
	if opened > 0 || longer*200 > len(have) {
		t.Errorf("of %d answers %d took longer than %v; %d times a replica stopped asking", len(have), longer, budget+late(), opened)
	}
}
