package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// How long the API server may take to open streams, and may leave them idle.
const (
	opening = 30 * time.Second
	idle    = time.Hour
)

// serve answers the API server: what kubectl logs, exec and port-forward ask for.
func (k *Kubelet) serve(ctx context.Context, config *tls.Config) error {
	l, err := tls.Listen("tcp", netip.AddrPortFrom(box.Node, port).String(), config)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", k.serveExec)
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.servePortForward)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: opening}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
	return nil
}

func (k *Kubelet) container(r *http.Request) (*container, error) {
	p, err := k.find(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		return nil, err
	}
	for _, c := range p.all() {
		if c.spec.Name == r.PathValue("container") {
			return c, nil
		}
	}
	return nil, fmt.Errorf("pod %s has no container %q", p.name, r.PathValue("container"))
}

// serveLogs follows a log by looking at it again; lines are cut by tailLines only.
func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	c, err := k.container(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	log, err := os.Open(c.logFile())
	if errors.Is(err, os.ErrNotExist) {
		return // nothing ran yet
	} else if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = log.Close() }()
	if n, err := strconv.Atoi(r.FormValue("tailLines")); err == nil {
		if _, err := log.Seek(tailOffset(log, n), io.SeekStart); err != nil {
			return
		}
	}
	for {
		if _, err := io.Copy(w, log); err != nil || r.FormValue("follow") != "true" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		if !pause(r.Context(), 100*time.Millisecond) {
			return
		}
	}
}

// tailOffset is where the last n lines begin.
func tailOffset(log io.Reader, n int) int64 {
	data, err := io.ReadAll(log)
	if err != nil {
		return 0
	}
	at := len(data)
	for i := len(data) - 1; i >= 0; i-- {
		if data[i] == '\n' && i != len(data)-1 {
			if n--; n <= 0 {
				return int64(at)
			}
		}
		at = i
	}
	return 0
}

func (k *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	c, err := k.container(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, executor{c}, c.pod.name, string(c.pod.uid), c.spec.Name, r.Form["command"],
		options, idle, opening, remotecommand.SupportedStreamingProtocols)
}

// executor runs commands beside a container's process, without a terminal.
type executor struct{ c *container }

func (e executor) ExecInContainer(
	ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, problems io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	err := e.c.run(ctx, cmd, streams{in, out, problems})
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exitError{exit}
	}
	return err
}

// exitError tells the caller's client the exit code.
type exitError struct{ *exec.ExitError }

func (e exitError) ExitStatus() int { return e.ExitCode() }

func (k *Kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	p, err := k.find(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, forwarder{p}, p.name, string(p.uid), options, idle, opening, portforward.SupportedProtocols)
}

// forwarder connects to a port as seen inside the pod.
type forwarder struct{ p *pod }

func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	var conn net.Conn
	if err := box.In(f.p.network(), func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
		return err
	}); err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(stream, conn); !errors.Is(err, io.EOF) {
		return err
	}
	return nil // the client has had enough
}
