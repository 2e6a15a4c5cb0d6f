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
	until(t, "the Sentinel looks once a second", soon, func() bool {
		return c.Do(t.Context(), "SENTINEL", "DEBUG", "info-period", "500", "publish-period", "500").Err() == nil
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
func primaries(t *testing.T) []*node {
	t.Helper()
	var nodes []*node
	for _, s := range redistest.Cluster(t, quick[4:]...) {
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

// leads reports whether n is a primary.
func (n *node) leads(t *testing.T) bool {
	t.Helper()
	info, err := n.c.Info(t.Context(), "replication").Result()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(info, "role:master")
}

func (n *node) knows(t *testing.T, nodes int) {
	t.Helper()
	until(t, "a node knows all, and that all slots are served", soon, func() bool {
		info, err := n.c.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", nodes))
	})
}
