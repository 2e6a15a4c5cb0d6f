package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Replica is one sluiced of a stack.
type Replica struct {
	GRPC string // host:port of its doors and gRPC quota API
	HTTP string // base URL of its REST API, metrics and health
	Data string // its data folder; the secret is that of the first replica's

	stack *Stack
	cmd   *exec.Cmd
}

// Start starts the server on the data that it had, and returns when it serves.
func (r *Replica) Start(ctx context.Context) error {
	o := r.stack.options
	args := []string{"serve", "--data", r.Data, "--grpc-listen", r.GRPC, "--http-listen", strings.TrimPrefix(r.HTTP, "http://")}
	if o.Catalog != "" {
		args = append(args, "--catalog", o.Catalog)
	}
	if o.RLS != "" {
		args = append(args, "--rls-config", o.RLS)
	}
	if r.stack.otlp != "" {
		args = append(args, "--otlp-endpoint", r.stack.otlp)
	}
	if r.stack.Redis != "" {
		args = append(args, "--redis-url", "redis://"+r.stack.Redis)
	}
	name := "sluiced.log"
	if r.Data != r.stack.Data {
		args = append(args, "--secrets", r.stack.Data)
		name = "sluiced-" + strings.TrimPrefix(filepath.Base(r.Data), "data-") + ".log"
		if err := os.MkdirAll(r.Data, 0o700); err != nil {
			return err
		}
	}
	cmd, log, err := r.stack.command(name, o.Sluiced, append(args, o.Args...)...)
	if err != nil {
		return err
	}
	r.cmd = cmd
	return waitReady(ctx, cmd, r.HTTP+"/readyz", log)
}

// Kill ends the server as a crash would, by SIGKILL, and returns when it is gone.
func (r *Replica) Kill() error {
	err := r.cmd.Process.Kill()
	_ = r.cmd.Wait() // reports the kill
	r.cmd = nil
	return err
}

// Terminate tells the server to drain and end, as an orchestrator does, and returns
// at once. The channel gets how it ended.
func (r *Replica) Terminate() (<-chan error, error) {
	cmd := r.cmd
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil, fmt.Errorf("stop sluiced: %w", err)
	}
	r.cmd = nil
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

// Running reports whether it was started, and neither killed nor told to end.
func (r *Replica) Running() bool { return r.cmd != nil }

// Process is the server's.
func (r *Replica) Process() *os.Process { return r.cmd.Process }

// startRedis runs a Redis that keeps nothing on disk, and gives it the functions.
func (s *Stack) startRedis(ctx context.Context, port string) error {
	cmd, log, err := s.command("redis.log", s.options.RedisServer, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.options.Dir)
	if err != nil {
		return err
	}
	s.redis, s.Redis = cmd, "127.0.0.1:"+port
	if err := waitListens(ctx, cmd, s.Redis, log); err != nil {
		return err
	}
	// No request waits for it, so each answer may take as long as a busy machine needs.
	migrate := exec.CommandContext(ctx, s.options.Sluiced, "migrate", "--redis-url", "redis://"+s.Redis, "--redis-timeout", "10s") //nolint:gosec // the caller names the binaries
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("sluiced migrate: %w\n%s", err, out)
	}
	return nil
}

// ReplicasCluster is what a configuration has as its cluster "sluice" where several replicas serve: health checks
// by which Envoy learns that one is draining before it is gone, and one that was killed or hangs
// is left out after a second. The endpoints follow.
const ReplicasCluster = `    - name: sluice
      type: STATIC
      connect_timeout: 0.25s
      # A replica that drains says so first; no request meets one that has ended.
      health_checks:
        - timeout: 0.5s
          interval: 0.5s
          no_traffic_interval: 0.5s
          unhealthy_threshold: 1
          healthy_threshold: 1
          grpc_health_check: {}
      # One healthy replica of three takes all requests; by default they would go to the dead as well.
      common_lb_config: {healthy_panic_threshold: {value: 0}}
`

// ReplicasRetry goes with ReplicasCluster into the gRPC service of ext_authz: what a replica did not answer because it was
// killed is asked of another. Replicas count it once all the same, by the id of Envoy's stream.
const ReplicasRetry = `                        retry_policy:
                          num_retries: 2
                          retry_on: connect-failure,reset
                          retry_host_predicate:
                            - name: envoy.retry_host_predicates.previous_hosts
                              typed_config:
                                "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                          host_selection_retry_max_attempts: 3
`

const endpoint = `              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}
`

// replicated puts all replicas into the cluster "sluice" of a configuration.
func (s *Stack) replicated(config string) (string, error) {
	if len(s.Replicas) == 1 {
		return config, nil
	}
	const begins, goesOn, endpoints, ends = "    - name: sluice\n", "      typed_extension_protocol_options:\n", "          - lb_endpoints:\n", "\n    - name: upstream\n"
	before, rest, ok := strings.Cut(config, begins)
	_, cluster, ok2 := strings.Cut(rest, goesOn)
	cluster, after, ok3 := strings.Cut(cluster, ends)
	cluster, _, ok4 := strings.Cut(cluster, endpoints)
	if !ok || !ok2 || !ok3 || !ok4 {
		return "", errors.New("stack: the configuration has no cluster sluice before one upstream, so replicas can't be put into it")
	}
	cluster = strings.Replace(cluster, "max_requests: 100000}", "max_requests: 100000, max_retries: 100000}", 1)
	cluster = ReplicasCluster + goesOn + cluster + endpoints
	if t := s.options.HealthTimeout; t > 0 {
		cluster = strings.Replace(cluster, "- timeout: 0.5s\n", fmt.Sprintf("- timeout: %gs\n", t.Seconds()), 1)
	}
	for _, r := range s.Replicas {
		_, port, _ := strings.Cut(r.GRPC, ":")
		cluster += fmt.Sprintf(endpoint, port)
	}
	const authz, asks = "- name: envoy.filters.http.ext_authz\n", "                        envoy_grpc: {cluster_name: sluice}\n                        timeout: "
	if !strings.Contains(before, authz) { // nothing else asks again
		return before + cluster + ends + after, nil
	}
	filters, log, ok := strings.Cut(before, asks)
	if !ok {
		return "", errors.New("stack: the configuration's ext_authz does not ask the cluster sluice")
	}
	timeout, log, _ := strings.Cut(log, "\n")
	return filters + asks + timeout + "\n" + ReplicasRetry + log + cluster + ends + after, nil
}
