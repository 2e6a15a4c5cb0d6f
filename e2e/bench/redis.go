package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	rlv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/loopback"
)

// Shape of the comparison on Redis: one descriptor of one entry, the keys taken in turn.
const (
	redisKeys        = 10_000
	redisCalls       = 40_000
	redisInFlight    = 64
	redisConnections = 8
	redisTarget      = 0.4 // most of the peer's server CPU
)

// counted is a server that answers RLS, and the Redis behind it.
type counted struct {
	name     string
	addr     string
	pid      int
	redis    string // host:port; "" without one
	redisPid int
	command  string // what its Redis does for each decision
	conns    []*grpc.ClientConn
	server   []float64 // CPU per call of each round, in µs
	behind   []float64 // the same of its Redis
}

// benchRedis compares sluiced on Redis with envoyproxy/ratelimit on Redis and with the reference, which has none.
//
// The peer (Apache-2.0) is built from its module at v1.4.1-0.20260122083618-3fb702589d36, as e2e/tools/peers/go.mod locks it, on
// radix v4. Its builds of 2025, on radix v3, gathered commands of a single Redis into pipelines and so cost less; as modules
// they could not be fetched any more (2026-11), so the peer at its best is not what stands here.
func benchRedis(ctx context.Context, sluiced, peer, dir string, rounds int) (_ []result, err error) {
	var ends []func() error
	defer func() {
		for _, end := range slices.Backward(ends) {
			err = errors.Join(err, end())
		}
	}()
	descriptors := filepath.Join(dir, "root", "ratelimit", "config") // where the peer looks, too
	if err := os.MkdirAll(descriptors, 0o700); err != nil {
		return nil, err
	}
	const config = "domain: bench\ndescriptors:\n  - key: tenant\n    rate_limit: {unit: hour, requests_per_unit: 1000000000}\n"
	if err := os.WriteFile(filepath.Join(descriptors, "bench.yaml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	ref, addr, err := startReference()
	if err != nil {
		return nil, err
	}
	ends = append(ends, func() error { return kill(ref) })
	all := []*counted{{name: "no-op", addr: addr, pid: ref.Process.Pid}}

	server, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	s, err := stack.Start(ctx, stack.Options{Sluiced: sluiced, Dir: dir, RLS: descriptors, RedisServer: server})
	if err != nil {
		return nil, err
	}
	ends = append(ends, s.Stop)
	pid, err := redisInfo(ctx, s.Redis, "process_id:")
	if err != nil {
		return nil, err
	}
	all = append(all, &counted{name: "sluiced", addr: s.GRPC, pid: s.Sluiced().Pid, redis: s.Redis, redisPid: pid, command: "set"})
	for _, kind := range []string{"SINGLE", "CLUSTER"} {
		c, end, err := startPeer(ctx, peer, server, dir, kind)
		ends = append(ends, end)
		if err != nil {
			return nil, fmt.Errorf("envoyproxy/ratelimit, %s: %w", kind, err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		for range redisConnections {
			conn, err := dial(c.addr)
			if err != nil {
				return nil, err
			}
			ends = append(ends, conn.Close)
			c.conns = append(c.conns, conn)
		}
	}
	if err := inTurn(ctx, all, rounds); err != nil {
		return nil, err
	}
	return redisTable(all, rounds), nil
}

func ask(tenant string) []byte {
	return marshal(&rlsv3.RateLimitRequest{Domain: "bench", Descriptors: []*rlv3.RateLimitDescriptor{
		{Entries: []*rlv3.RateLimitDescriptor_Entry{{Key: "tenant", Value: tenant}}},
	}})
}

// inTurn measures A B C D D C B A …, after one round of each that does not count.
func inTurn(ctx context.Context, all []*counted, rounds int) error {
	requests := make([][]byte, redisKeys)
	for i := range requests {
		requests[i] = ask("tenant-" + strconv.Itoa(i))
	}
	for round := -1; round < rounds; round++ {
		order := slices.Clone(all)
		if round%2 != 0 {
			slices.Reverse(order)
		}
		for _, c := range order {
			server, behind, err := c.load(ctx, requests)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round >= 0 {
				c.server, c.behind = append(c.server, server), append(c.behind, behind)
			}
		}
	}
	return nil
}

// load sends redisCalls calls and returns the CPU per call of the server and of its Redis, in µs. Decisions
// that Redis was not asked about would be cheap and not what is measured: they fail it.
func (c *counted) load(ctx context.Context, requests [][]byte) (server, behind float64, err error) {
	before, err := c.use(ctx)
	if err != nil {
		return 0, 0, err
	}
	var wg sync.WaitGroup
	failures := make(chan error, redisInFlight)
	for caller := range redisInFlight {
		wg.Go(func() {
			var reply []byte
			for i := range redisCalls / redisInFlight {
				request := requests[(i*redisInFlight+caller)%len(requests)]
				if err := c.conns[caller%len(c.conns)].Invoke(ctx, rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, request, &reply); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return 0, 0, err
	}
	after, err := c.use(ctx)
	if err != nil {
		return 0, 0, err
	}
	if n := after.commands - before.commands; c.redis != "" && n < redisCalls {
		return 0, 0, fmt.Errorf("for %d decisions Redis did %d %s: some were made without it", redisCalls, n, c.command)
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / redisCalls }
	return each(after.server - before.server), each(after.redis - before.redis), nil
}

// use is what a server and its Redis have used so far.
type use struct {
	server, redis time.Duration
	commands      int
}

func (c *counted) use(ctx context.Context) (u use, err error) {
	if u.server, err = cpu(c.pid); err != nil || c.redis == "" {
		return u, err
	}
	if u.commands, err = redisInfo(ctx, c.redis, "cmdstat_"+c.command+":calls="); err != nil {
		return u, err
	}
	u.redis, err = cpu(c.redisPid)
	return u, err
}

// redisTable prints the medians, and what sluiced costs against the cheapest of the peers.
func redisTable(all []*counted, rounds int) []result {
	fmt.Printf("one limit on Redis, %d keys, %d in flight on %d connections, %d calls a round, %d rounds: CPU per decision\n",
		redisKeys, redisInFlight, redisConnections, redisCalls, rounds)
	fmt.Printf("  %-44s %10s %10s %10s\n", "", "server µs", "of no-op", "Redis µs")
	reference, ours, best := all[0], all[1], all[2]
	for _, c := range all {
		fmt.Printf("  %-44s %10.1f %10.2f %10.1f\n", c.name, median(c.server), median(quotients(c.server, reference.server)), median(c.behind))
	}
	for _, c := range all[3:] {
		if median(c.server) < median(best.server) {
			best = c
		}
	}
	ratios := quotients(ours.server, best.server)
	r := result{
		Name: "server cpu, rls on Redis, / " + best.name, Unit: "µs", Ours: median(ours.server), Theirs: median(best.server),
		Ratio: median(ratios), Upper: upper95(ratios), Target: redisTarget, Rounds: rounds,
	}
	r.print()
	ratios = quotients(ours.behind, best.behind)
	behind := result{
		Name: "Redis cpu, / " + best.name, Unit: "µs", Ours: median(ours.behind), Theirs: median(best.behind),
		Ratio: median(ratios), Upper: upper95(ratios), Rounds: rounds,
	}
	behind.print()
	return []result{r, behind}
}

func quotients(a, b []float64) []float64 {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	return q
}

// startPeer runs envoyproxy/ratelimit on a Redis of its own. CLUSTER is a cluster of that one
// Redis: since radix v4 it gathers commands into pipelines there alone. end is never nil.
func startPeer(ctx context.Context, peer, redisServer, dir, kind string) (c *counted, end func() error, err error) {
	var started []*exec.Cmd
	end = func() error {
		var problems []error
		for _, cmd := range slices.Backward(started) {
			problems = append(problems, kill(cmd))
		}
		return errors.Join(problems...)
	}
	start := func(cmd *exec.Cmd) error {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%s.log", filepath.Base(cmd.Path), kind)))
		if err != nil {
			return err
		}
		defer log.Close() //nolint:errcheck // the process has its own
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			return err
		}
		started = append(started, cmd)
		return nil
	}
	ports, err := loopback.Ports(5)
	if err != nil {
		return nil, end, err
	}
	args := []string{"--port", ports[0], "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir}
	window := "0"
	if kind == "CLUSTER" {
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", ports[1], "--cluster-config-file", "peer-nodes.conf")
		window = "150us"
	}
	if err := start(exec.Command(redisServer, args...)); err != nil { //nolint:gosec // from PATH
		return nil, end, err
	}
	redisAddr := "127.0.0.1:" + ports[0]
	if err := serves(ctx, redisAddr, kind == "CLUSTER"); err != nil {
		return nil, end, err
	}
	cmd := exec.Command(peer) //nolint:gosec // named by a flag
	cmd.Env = append(os.Environ(),
		"BACKEND_TYPE=redis", "REDIS_SOCKET_TYPE=tcp", "REDIS_TYPE="+kind, "REDIS_URL="+redisAddr, "REDIS_PIPELINE_WINDOW="+window,
		"HOST=127.0.0.1", "GRPC_HOST=127.0.0.1", "DEBUG_HOST=127.0.0.1", "PORT="+ports[2], "GRPC_PORT="+ports[3], "DEBUG_PORT="+ports[4],
		"RUNTIME_ROOT="+filepath.Join(dir, "root"), "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false", "RUNTIME_IGNOREDOTFILES=true",
		"DISABLE_STATS=true", "USE_STATSD=false", "LOG_LEVEL=warn")
	if err := start(cmd); err != nil {
		return nil, end, err
	}
	name := "envoyproxy/ratelimit " + kind
	if window != "0" {
		name += ", window " + window
	}
	c = &counted{
		name: name, addr: "127.0.0.1:" + ports[3], pid: cmd.Process.Pid,
		redis: redisAddr, redisPid: started[0].Process.Pid, command: "incrby",
	}
	return c, end, answers(ctx, c.addr)
}

// within tries until it works, for as long as a busy machine may need.
func within(ctx context.Context, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// serves waits for a Redis and, if it is a cluster, gives it all slots.
func serves(ctx context.Context, addr string, cluster bool) error {
	if err := within(ctx, func(ctx context.Context) error { return says(ctx, addr, "PING", "+PONG") }); err != nil || !cluster {
		return err
	}
	if err := says(ctx, addr, "CLUSTER ADDSLOTSRANGE 0 16383", "+OK"); err != nil {
		return err
	}
	return within(ctx, func(ctx context.Context) error { return says(ctx, addr, "CLUSTER INFO", "cluster_state:ok") })
}

// says fails if Redis' answer to a command does not hold what it should.
func says(ctx context.Context, addr, command, what string) error {
	answer, err := askRedis(ctx, addr, command)
	if err == nil && !strings.Contains(answer, what) {
		err = fmt.Errorf("redis answers %s by %q", command, answer)
	}
	return err
}

// askRedis sends one command as a person would type it, and returns the answer as it came.
func askRedis(ctx context.Context, addr, command string) (string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // nothing left to lose
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, command+"\r\nQUIT\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// answers waits for a server of RLS.
func answers(ctx context.Context, addr string) error {
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing left to lose
	return within(ctx, func(ctx context.Context) error {
		var reply []byte
		return conn.Invoke(ctx, rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, ask("first"), &reply)
	})
}

// redisInfo is the number behind field in what the Redis at addr says of itself; 0 if it does not have it yet.
func redisInfo(ctx context.Context, addr, field string) (int, error) {
	text, err := askRedis(ctx, addr, "INFO everything")
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(text, field)
	if !found {
		return 0, nil
	}
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	return strconv.Atoi(digits)
}

// kill ends a process that was started here; that it was killed is all its status could say.
func kill(cmd *exec.Cmd) error {
	err := cmd.Process.Kill()
	_ = cmd.Wait()
	return err
}
