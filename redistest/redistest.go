// Package redistest runs real redis-servers for tests, and breaks them: killed,
// frozen, started again empty. It is not for servers, and it does not fake
// Redis. A server costs about 20 ms and 10 MB, a cluster about half a second.
//
// Each listens on loopback, on a port below those that the kernel hands to
// clients: a client that dials a dead server there can't meet itself.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/loopback"
)

const (
	patience = time.Minute
	pause    = 2 * time.Millisecond
)

// Server is one redis-server. Its methods are for the goroutine of the test.
type Server struct {
	Addr string // host:port of 127.0.0.1

	t    testing.TB
	args []string
	cmd  *exec.Cmd
	out  *output
	gone chan struct{} // closed when the process has ended
}

// Start runs a redis-server that keeps nothing on disk, with more arguments
// than that if given ("--maxmemory", "1mb"), and waits until it answers. With
// "--tls-cert-file" among them it speaks TLS only. It is killed when the test ends.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("redistest: no redis-server on PATH; install Redis 7.0 or newer (Debian: redis-server): %v", err)
	}
	dir := t.TempDir()
	for range 10 { // another process may take the port first
		port := freePort(t)
		listen := []string{"--port", port}
		if slices.Contains(args, "--tls-cert-file") {
			listen = []string{"--port", "0", "--tls-port", port}
		}
		all := slices.Concat([]string{path, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir}, listen, args)
		if slices.Contains(args, "--cluster-enabled") {
			all = append(all, "--cluster-port", freePort(t))
		}
		s := &Server{Addr: net.JoinHostPort("127.0.0.1", port), t: t, args: all}
		if s.run() {
			t.Cleanup(s.Kill)
			return s
		}
		if !strings.Contains(s.out.String(), "Address already in use") {
			t.Fatalf("redistest: redis-server %q did not start:\n%s", args, s.out)
		}
	}
	t.Fatal("redistest: no free port")
	return nil
}

// Pid is the process id, to read its CPU time from /proc.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Kill ends the server as kill -9 does, frozen or not. What it held is lost,
// unless arguments of Start made it write.
func (s *Server) Kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	<-s.gone
}

// Freeze stops the server in its tracks: connections stay, and nothing answers.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

// Restart runs the server again at the same address, and waits until it
// answers. One that still runs is killed first.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if !s.run() {
		s.t.Fatalf("redistest: redis-server at %s did not start again:\n%s", s.Addr, s.out)
	}
}

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("redistest: %v: %v", sig, err)
	}
}

// run starts the process and reports whether it came to answer.
func (s *Server) run() bool {
	s.t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...) //nolint:gosec // redis-server, with what a test wants
	s.out, s.gone = new(output), make(chan struct{})
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	// The test's process may die before it cleans up.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	go func(cmd *exec.Cmd, gone chan struct{}) {
		_ = cmd.Wait()
		close(gone)
	}(s.cmd, s.gone)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-s.gone:
			return false
		case <-time.After(pause):
		}
		if s.answers() {
			return true
		}
	}
	s.t.Fatalf("redistest: redis-server at %s does not answer:\n%s", s.Addr, s.out)
	return false
}

// answers reports whether the server answers at all; that it wants a password,
// or TLS, is an answer, that it loads its data is none.
func (s *Server) answers() bool {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if slices.Contains(s.args, "--tls-port") {
		return true
	}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	reply := make([]byte, 64)
	n, _ := conn.Read(reply)
	return n > 0 && !bytes.HasPrefix(reply, []byte("-LOADING"))
}

// Cluster starts a Redis Cluster of three primaries without replicas and waits
// until each says that all slots are served. Arguments are those of Start.
func Cluster(t testing.TB, args ...string) []*Server {
	t.Helper()
	servers := make([]*Server, 3)
	clients := make([]*redis.Client, len(servers))
	for i := range servers {
		servers[i] = Start(t, slices.Concat([]string{"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"}, args)...)
		clients[i] = redis.NewClient(&redis.Options{Addr: servers[i].Addr, Protocol: 2})
	}
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	const slots = 16384
	for i, c := range clients {
		if err := errors.Join(
			c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(),
			c.ClusterAddSlotsRange(ctx, slots*i/len(clients), slots*(i+1)/len(clients)-1).Err(),
			servers[0].meet(ctx, c),
		); err != nil {
			t.Fatalf("redistest: cluster: %v", err)
		}
	}
	for i := range clients {
		for !whole(ctx, clients[i], len(clients)) {
			if ctx.Err() != nil {
				t.Fatalf("redistest: the cluster is not whole: %s", clients[i].ClusterNodes(context.Background()))
			}
			<-time.After(pause)
		}
	}
	return servers
}

// meet makes the node behind c know s.
func (s *Server) meet(ctx context.Context, c *redis.Client) error {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	bus := s.args[slices.Index(s.args, "--cluster-port")+1]
	return c.Do(ctx, "CLUSTER", "MEET", host, port, bus).Err()
}

// whole reports whether the node behind c sees n nodes and all slots.
func whole(ctx context.Context, c *redis.Client, n int) bool {
	info, err := c.ClusterInfo(ctx).Result()
	return err == nil && strings.Contains(info, "cluster_state:ok") &&
		strings.Contains(info, "cluster_slots_ok:16384\r") && strings.Contains(info, fmt.Sprintf("cluster_size:%d\r", n))
}

func freePort(t testing.TB) string {
	t.Helper()
	ports, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// output keeps what a process says, for when it fails.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
