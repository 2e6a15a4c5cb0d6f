package loopback_test

import (
	"net"
	"slices"
	"strconv"
	"testing"

	"github.com/voicecore-ai/sluice/loopback"
)

func TestPortsAreDifferentFreeAndBelowThoseOfConnections(t *testing.T) {
	ports, err := loopback.Ports(200)
	if err != nil || len(ports) != 200 {
		t.Fatalf("%d ports, %v", len(ports), err)
	}
	slices.Sort(ports)
	if n := len(slices.Compact(slices.Clone(ports))); n != 200 {
		t.Errorf("%d different ones of 200", n)
	}
	for _, p := range ports {
		if n, err := strconv.Atoi(p); err != nil || n < 1024 || n >= 32768 {
			t.Errorf("port %q", p)
		}
	}
	taken := 0
	for _, p := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:"+p)
		if err != nil {
			taken++ // by another process, meanwhile
			continue
		}
		_ = l.Close()
	}
	if taken > 10 {
		t.Errorf("%d of 200 are taken", taken)
	}
}
