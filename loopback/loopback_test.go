package loopback_test

import (
	"net"
	"slices"
	"strconv"
	"testing"

	"github.com/voicecore-ai/sluice/loopback"
)

func TestNobodyGetsAPortThatAnotherHasJustGot(t *testing.T) {
	const askers, each = 8, 40
	all := make(chan []string, askers)
	for range askers {
		go func() {
			ports, err := loopback.Ports(each)
			if err != nil {
				t.Error(err)
			}
			all <- ports
		}()
	}
	seen := map[string]bool{}
	for range askers {
		for _, port := range <-all {
			seen[port] = true
		}
	}
	if len(seen) != askers*each {
		t.Errorf("%d different ports of %d", len(seen), askers*each)
	}
}

func TestPortsAreDifferentFreeAndBelowThoseOfConnections(t *testing.T) {
	ports, err := loopback.Ports(100)
	if err != nil || len(ports) != 100 {
		t.Fatalf("%d ports, %v", len(ports), err)
	}
	slices.Sort(ports)
	if n := len(slices.Compact(slices.Clone(ports))); n != 100 {
		t.Errorf("%d different ones of 100", n)
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
		t.Errorf("%d of 100 are taken", taken)
	}
}
