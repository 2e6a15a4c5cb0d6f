package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/voicecore-ai/sluice/await"
)

// server is one that runs until it is stopped, and what it has logged.
type server struct {
	*App
	url string // of http-listen
	log *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// configOf is what 'sluiced serve' would make of these arguments, with a data folder of its own and free ports.
func configOf(t *testing.T, args ...string) (Config, error) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	if _, err := Init(data); err != nil {
		t.Fatal(err)
	}
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	Flags(f)
	if err := f.Parse(slices.Concat([]string{"--data", data, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"}, unhurried(args), args)); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(f, nil)
}

// build makes a server with a data folder of its own, as 'sluiced serve' would with these arguments.
func build(t *testing.T, args ...string) *server {
	t.Helper()
	config, err := configOf(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	log := new(safeBuffer)
	a, err := New(config, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return &server{a, "http://" + a.Addr("http-listen").String(), log}
}

// run is build and Start. The server is stopped at the end, unless the test has done so.
func run(t *testing.T, args ...string) *server {
	t.Helper()
	s := build(t, args...)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.ready.Load() {
			s.stop(t)
		}
	})
	return s
}

func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// metrics is the page that Prometheus would read.
func (s *server) page(t *testing.T) string {
	t.Helper()
	response, err := http.Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var frame = regexp.MustCompile(`(?m)^github\.com/voicecore-ai/sluice/\S+`)

// running are the goroutines that have a function of ours on their stack, the test's own left out.
func running() (all []string) {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, g := range strings.Split(string(stacks), "\n\n") {
		if ours := frame.FindString(g); ours != "" && !strings.Contains(g, "testing.tRunner") {
			all = append(all, g)
		}
	}
	return all
}

// pipe puts a named pipe in the place of a file: who opens it hangs until somebody opens the other end, as
// on a disk that does not answer.
func pipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path+".pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".pipe", path); err != nil {
		t.Fatal(err)
	}
}

func TestNothingRunsAnyMoreWhenStopReturns(t *testing.T) {
	before := len(running())
	descriptors, files := t.TempDir(), t.TempDir()
	s := run(t, append(newServerFiles(t).args(), "--catalog", files, "--rls-config", descriptors, "--uds", filepath.Join(t.TempDir(), "a.sock"),
		"--otlp-endpoint", "127.0.0.1:1", "--audit-otlp")...)
	names := []string{
		"accesslog.(*Logger).Run", "app.(*App).sweep", "extproc.(*Server).Run", "authn.(*KeySets).Run", "app.(*App).keepTimes",
		"app.(*certificates).watch", "catalog.(*Catalog).Watch", "app.(*App).watchDescriptors",
	}
	await.That(t, "all parts run", func() bool { // so that a part of another name is not missed below
		all := strings.Join(running(), "\n\n")
		return !slices.ContainsFunc(names, func(name string) bool { return !strings.Contains(all, name) })
	})
	s.stop(t)
	// A goroutine that has told that it ended may need a moment to be gone.
	for deadline := time.Now().Add(10 * time.Second); len(running()) > before && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if left := running(); len(left) > before {
		t.Errorf("%d goroutines of ours are left:\n%s", len(left)-before, strings.Join(left, "\n\n"))
	}
}

func TestACopyOfTheOneThatCountsAloneDoesNotStart(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	run(t, "--only-host", host)
	err = refused(t, "--only-host", "sluice-0")
	for _, want := range []string{"only-host: this is " + host + ", and only sluice-0 may serve", "scale back to one, or share a Redis"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a word of %q", err, want)
		}
	}
	if _, err := configOf(t, "--only-host", "sluice-0", "--redis-url", "redis://127.0.0.1"); err == nil || !strings.Contains(err.Error(), "only-host: for counters that one sluiced has alone") {
		t.Errorf("with a Redis: %v", err)
	}
}

func TestStopWaitsForTheLastSave(t *testing.T) {
	s := run(t)
	s.authn.ImportLastUsed(map[string]int64{"gone": time.Now().UnixMicro()})
	pipe(t, s.lastUsedPath()+".tmp")
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	await.That(t, "the last save hangs", func() bool {
		return slices.ContainsFunc(running(), func(g string) bool { return strings.Contains(g, "saveLastUsed") })
	})
	select {
	case err := <-stopped:
		t.Fatalf("it stopped before the last save: %v", err)
	default:
	}
	if saves := slices.DeleteFunc(running(), func(g string) bool { return !strings.Contains(g, "saveLastUsed") }); len(saves) != 1 {
		t.Errorf("%d saves at a time:\n%s", len(saves), strings.Join(saves, "\n\n"))
	}
	if _, err := os.ReadFile(s.lastUsedPath() + ".tmp"); err != nil { // the disk answers
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if log := s.log.String(); !strings.Contains(log, "stopped") {
		t.Errorf("the log does not say so:\n%s", log)
	}
}

func TestAStopThatMayTakeNoLongerNamesWhatStillRuns(t *testing.T) {
	s := run(t)
	pipe(t, s.lastUsedPath()+".tmp")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(ctx) }()
	await.That(t, "the last save hangs", func() bool { // and all that ends before it has ended
		return slices.ContainsFunc(running(), func(g string) bool { return strings.Contains(g, "saveLastUsed") })
	})
	cancel()
	if err := <-stopped; err == nil || err.Error() != "last use of API keys has not ended in time; it ends with the process" {
		t.Errorf("got %v, want an error that names what still runs", err)
	}
	if _, err := os.ReadFile(s.lastUsedPath() + ".tmp"); err != nil { // let it go
		t.Fatal(err)
	}
	await.That(t, "it has ended", func() bool {
		return !slices.ContainsFunc(running(), func(g string) bool { return strings.Contains(g, "saveLastUsed") })
	})
}
