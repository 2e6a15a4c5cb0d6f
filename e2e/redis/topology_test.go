package redis_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/loopback"
	"github.com/voicecore-ai/sluice/redistest"
)

// primary is the name by which the Sentinel knows the servers.
const primary = "ledger"

// follow starts a replica of a server, and waits until it has what that has.
func follow(t *testing.T, of *redistest.Server) *redistest.Server {
	t.Helper()
	host, port, _ := net.SplitHostPort(of.Addr)
	s := redistest.Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	synced(t, alone(t, s))
	return s
}

func synced(t *testing.T, c *redis.Client) {
	t.Helper()
	until(t, "a replica has what its primary has", soon, func() bool {
		info, err := c.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
}

// watch starts a Sentinel that makes another server the primary when this one was silent for a second.
func watch(t *testing.T, s *redistest.Server) (addr string) {
	t.Helper()
	ports, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	port := ports[0]
	addr = net.JoinHostPort("127.0.0.1", port)
	dir := t.TempDir()
	path := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor %[3]s %[4]s 1\nsentinel down-after-milliseconds %[3]s 1000\nsentinel failover-timeout %[3]s 1000\n",
		port, dir, primary, strings.Replace(s.Addr, ":", " ", 1))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "redis-server", path, "--sentinel")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2})
	t.Cleanup(func() { _ = c.Close() })
	// One that a busy machine has stopped for two seconds would by itself do nothing for the next thirty.
	until(t, "the Sentinel looks once a second", soon, func() bool {
		return c.Do(t.Context(), "SENTINEL", "DEBUG", "info-period", "500", "publish-period", "500", "tilt-period", "1000").Err() == nil
	})
	until(t, "the Sentinel knows the replicas", soon, func() bool {
		known, err := c.Do(t.Context(), "SENTINEL", "REPLICAS", primary).Slice()
		return err == nil && len(known) == 2
	})
	return addr
}

// node is a server of a cluster, as it tells the others about itself.
type node struct {
	*redistest.Server
	c         *redis.Client
	id        string
	port, bus string
}

// quick makes a cluster notice within a second or two that a server is gone.
var quick = []string{"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"}

func describe(t *testing.T, s *redistest.Server) *node {
	t.Helper()
	n := &node{Server: s, c: alone(t, s)}
	lines, err := n.c.ClusterNodes(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(lines) {
		if f := strings.Fields(line); strings.HasPrefix(f[2], "myself") {
			n.id = f[0]
			address, bus, _ := strings.Cut(f[1], "@")
			n.port = address[strings.LastIndex(address, ":")+1:]
			n.bus, _, _ = strings.Cut(bus, ",")
		}
	}
	return n
}

// primaries starts a cluster of three.
func primaries(t *testing.T, args ...string) []*node {
	t.Helper()
	var nodes []*node
	for _, s := range redistest.Cluster(t, args...) {
		nodes = append(nodes, describe(t, s))
	}
	return nodes
}

// join starts a replica of n in its cluster, which has some nodes then.
func (n *node) join(t *testing.T, nodes int) *node {
	t.Helper()
	r := describe(t, redistest.Start(t, quick...))
	n.meet(t, r)
	r.replicate(t, n, nodes)
	return r
}

// leads makes who of the two is the primary the first. The cluster may have thought one dead that a busy machine had stopped for a second.
func (n *node) leads(t *testing.T, other *node) (primary, second *node) {
	t.Helper()
	role := func(n *node) string {
		info, err := n.c.Info(t.Context(), "replication").Result()
		if err != nil || strings.Contains(info, "master_link_status:down") {
			return ""
		}
		_, role, _ := strings.Cut(info, "role:")
		role, _, _ = strings.Cut(role, "\r")
		return role
	}
	until(t, "one of two is the primary, and the other follows it", soon, func() bool {
		switch first, second := role(n), role(other); {
		case first == "master" && second == "slave":
			primary = n
		case first == "slave" && second == "master":
			n, other = other, n
			primary = n
		}
		return primary != nil
	})
	return primary, other
}

// meet makes r known to the cluster of n.
func (n *node) meet(t *testing.T, r *node) {
	t.Helper()
	if err := r.c.Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", n.port, n.bus).Err(); err != nil {
		t.Fatal(err)
	}
}

// replicate makes n a replica, and waits until it has everything and knows all nodes.
func (n *node) replicate(t *testing.T, of *node, nodes int) {
	t.Helper()
	until(t, "a replica knows its primary", soon, func() bool { return n.c.ClusterReplicate(t.Context(), of.id).Err() == nil })
	synced(t, n.c)
	n.knows(t, nodes)
}

func (n *node) knows(t *testing.T, nodes int) {
	t.Helper()
	until(t, "a node knows all, and that all slots are served", soon, func() bool {
		info, err := n.c.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", nodes))
	})
}
