// Package stack brings up the whole path on loopback: sluiced on its embedded
// store, or several on a Redis of their own, a small upstream, and a real Envoy between
// them and the caller. The demo, the end-to-end tests and the benchmarks stand on it.
//
// It is not a deployment: nothing it starts outlives it, unless told to stay.
package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/loopback"
)

// Options say what to start.
type Options struct {
	Sluiced string   // path of the server's binary
	Envoy   string   // path of Envoy; "" starts none
	Config  string   // Envoy's configuration, with the placeholders of deploy/envoy/demo.yaml
	Dir     string   // working folder for data, configuration and logs
	Data    string   // data folder that 'sluiced init' made; "" makes one in Dir
	Args    []string // more arguments of 'sluiced serve'
	Catalog string   // folder of catalogue files; "" for none
	RLS     string   // folder of descriptor files; "" for none
	Workers int      // Envoy's worker threads; 0 means 2

	RedisServer string // path of redis-server, to keep counters there; "" keeps them in sluiced
	Replicas    int    // sluiceds on that Redis; 0 means 1

	// HealthTimeout is how long Envoy waits for a replica's answer to a health check; 0 is as long as ReplicasCluster says.
	HealthTimeout time.Duration

	Prometheus string // path of one that scrapes sluiced and Envoy; "" starts none
	Jaeger     string // path of one that gets their spans; "" starts none
}

// Stack is a running path.
type Stack struct {
	URL        string // where Envoy listens
	EnvoyAdmin string // base URL of Envoy's admin interface
	GRPC       string // host:port of sluiced's doors and gRPC quota API
	HTTP       string // base URL of sluiced's REST API, metrics and health
	Data       string // sluiced's data folder
	AdminToken string
	Upstream   *Upstream
	Replicas   []*Replica // GRPC, HTTP and Data are those of the first
	Redis      string     // host:port of Redis; "" without one
	Prometheus string     // base URL of its API; "" without one
	Jaeger     string     // base URL of its API; "" without one

	options    Options
	otlp       string // host:port of Jaeger's receiver
	redis      *exec.Cmd
	envoy      *exec.Cmd
	prometheus *exec.Cmd
	jaeger     *exec.Cmd
	logs       []*os.File
}

// Start starts everything and returns when it serves. What had started is
// stopped again if something fails; its log's last lines are in the error.
func Start(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{options: o}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	replicas := max(s.options.Replicas, 1)
	if replicas > 1 && s.options.RedisServer == "" {
		return errors.New("stack: replicas without a Redis would count separately")
	}
	ports, err := loopback.Ports(3 + 2*replicas + 4)
	if err != nil {
		return err
	}
	for i := range replicas {
		s.Replicas = append(s.Replicas, &Replica{
			GRPC: "127.0.0.1:" + ports[3+2*i], HTTP: "http://127.0.0.1:" + ports[4+2*i], Data: filepath.Join(s.options.Dir, "data-"+strconv.Itoa(i)), stack: s,
		})
	}
	s.GRPC, s.HTTP = s.Replicas[0].GRPC, s.Replicas[0].HTTP
	if err := s.openData(); err != nil {
		return err
	}
	observers := ports[3+2*replicas:]
	if s.options.Jaeger != "" {
		if err := s.startJaeger(ctx, observers[0], observers[1], observers[2]); err != nil {
			return err
		}
	}
	if s.options.RedisServer != "" {
		if err := s.startRedis(ctx, ports[2]); err != nil {
			return err
		}
	}
	for _, r := range s.Replicas {
		if err := r.Start(ctx); err != nil {
			return err
		}
	}
	if s.Upstream, err = startUpstream(); err != nil {
		return err
	}
	if s.options.Envoy == "" {
		return nil
	}
	s.URL = "http://127.0.0.1:" + ports[0]
	s.EnvoyAdmin = "http://127.0.0.1:" + ports[1]
	if err := s.startEnvoy(ctx, ports[0], ports[1]); err != nil || s.options.Prometheus == "" {
		return err
	}
	return s.startPrometheus(ctx, observers[3])
}

func (s *Stack) openData() (err error) {
	if s.Data = s.options.Data; s.Data == "" {
		s.Data = filepath.Join(s.options.Dir, "data")
		s.AdminToken, err = app.Init(s.Data)
	} else {
		var token []byte
		token, err = os.ReadFile(filepath.Join(s.Data, "admin.token"))
		s.AdminToken = strings.TrimSpace(string(token))
	}
	s.Replicas[0].Data = s.Data
	return err
}

// StartSluiced starts the first server on the data that it had. Kill or Terminate came before.
func (s *Stack) StartSluiced(ctx context.Context) error { return s.Replicas[0].Start(ctx) }

// Kill ends the first server as a crash would, by SIGKILL, and returns when it is gone.
func (s *Stack) Kill() error { return s.Replicas[0].Kill() }

// Terminate tells the first server to drain and end, as an orchestrator does, and returns
// at once. The channel gets how it ended.
func (s *Stack) Terminate() (<-chan error, error) { return s.Replicas[0].Terminate() }

// Sluiced is the first server's process, for a look at what it uses.
func (s *Stack) Sluiced() *os.Process { return s.Replicas[0].Process() }

// EnvoyProcess is Envoy's.
func (s *Stack) EnvoyProcess() *os.Process { return s.envoy.Process }

func (s *Stack) startEnvoy(ctx context.Context, listen, admin string) error {
	_, sluice, _ := strings.Cut(s.GRPC, ":")
	text, err := s.replicated(s.options.Config)
	if err != nil {
		return err
	}
	if s.otlp != "" {
		_, port, _ := strings.Cut(s.otlp, ":")
		if text, err = Traced(text, port); err != nil {
			return err
		}
	}
	config := strings.NewReplacer(
		"${LISTEN_PORT}", listen,
		"${ADMIN_PORT}", admin,
		"${UPSTREAM_PORT}", s.Upstream.port,
		"${SLUICE_PORT}", sluice,
	).Replace(text)
	path := filepath.Join(s.options.Dir, "envoy.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	workers := s.options.Workers
	if workers == 0 {
		workers = 2
	}
	cmd, log, err := s.command("envoy.log", s.options.Envoy, "--config-path", path, "--disable-hot-restart",
		"--concurrency", strconv.Itoa(workers), "--log-level", "warning")
	if err != nil {
		return err
	}
	s.envoy = cmd
	return waitReady(ctx, cmd, s.EnvoyAdmin+"/ready", log)
}

func (s *Stack) command(logName, path string, args ...string) (*exec.Cmd, string, error) {
	logPath := filepath.Join(s.options.Dir, logName)
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a folder of ours
	if err != nil {
		return nil, "", err
	}
	s.logs = append(s.logs, log)
	cmd := exec.Command(path, args...) //nolint:gosec // the caller names the binaries
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("start %s: %w", path, err)
	}
	return cmd, logPath, nil
}

// Stop stops what was started, Envoy first, gracefully and then, after a
// minute, by force. A process that does not end cleanly is an error.
func (s *Stack) Stop() error {
	err := errors.Join(stop("prometheus", s.prometheus), stop("envoy", s.envoy))
	for _, r := range s.Replicas {
		err = errors.Join(err, stop("sluiced", r.cmd))
		r.cmd = nil
	}
	err = errors.Join(err, stop("redis-server", s.redis))
	if s.jaeger != nil && s.jaeger.ProcessState == nil {
		_ = s.jaeger.Process.Kill() // it keeps nothing, and would wait for idle connections
		_ = s.jaeger.Wait()         // reports the kill
	}
	s.envoy, s.redis, s.prometheus, s.jaeger = nil, nil, nil, nil
	if s.Upstream != nil {
		err = errors.Join(err, s.Upstream.server.Close())
	}
	for _, f := range s.logs {
		err = errors.Join(err, f.Close())
	}
	s.logs = nil
	return err
}

func stop(name string, cmd *exec.Cmd) error {
	if cmd == nil || cmd.ProcessState != nil {
		return nil
	}
	switch err := cmd.Process.Signal(syscall.SIGTERM); {
	case errors.Is(err, os.ErrProcessDone): // waitReady saw its end and said so
		return nil
	case err != nil:
		return fmt.Errorf("stop %s: %w", name, err)
	}
	force := time.AfterFunc(ending, func() { _ = cmd.Process.Kill() })
	defer force.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s did not end cleanly: %w", name, err)
	}
	return nil
}

// How long a process may take: to be ready, for a million tenants take a busy machine a minute; and to end,
// for on that machine a drained server still has data to write.
const (
	patience = 3 * time.Minute
	ending   = time.Minute
)

// waitReady polls url until it says 200, the process ends, or patience does.
func waitReady(ctx context.Context, cmd *exec.Cmd, url, log string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return wait(ctx, cmd, log, func(ctx context.Context) bool {
		response, err := http.DefaultClient.Do(request.WithContext(ctx))
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// waitListens dials address until somebody takes the connection, the process ends, or patience does.
func waitListens(ctx context.Context, cmd *exec.Cmd, address, log string) error {
	return wait(ctx, cmd, log, func(ctx context.Context) bool {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

func wait(ctx context.Context, cmd *exec.Cmd, log string, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !ready(ctx) {
		var status syscall.WaitStatus
		if pid, _ := syscall.Wait4(cmd.Process.Pid, &status, syscall.WNOHANG, nil); pid == cmd.Process.Pid {
			return fmt.Errorf("%s ended before it was ready:\n%s", filepath.Base(cmd.Path), tail(log))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v:\n%s", filepath.Base(cmd.Path), patience, tail(log))
		case <-ticker.C:
		}
	}
	return nil
}

func tail(path string) string {
	f, err := os.Open(path) //nolint:gosec // a log of ours
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // only read
	if info, err := f.Stat(); err == nil && info.Size() > 4096 {
		_, _ = f.Seek(-4096, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return string(text)
}
