// Package e2e drives the built server through a real Envoy, as a user's
// request would come. 'make test' installs Envoy and names it in SLUICE_ENVOY.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/exit"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// binary is the sluiced that the tests run, built once.
var binary string

func TestMain(m *testing.M) {
	if command, ok := shims[filepath.Base(os.Args[0])]; ok {
		if err := command(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exit.Code(err))
		}
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if envoy() == "" {
		return 1, errors.New("SLUICE_ENVOY names no Envoy; 'make test' installs one and sets it")
	}
	dir, err := os.MkdirTemp("", "sluice-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "sluiced")
	build := exec.Command("go", "build", "-o", binary, "../cmd/sluiced")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return 1, fmt.Errorf("build sluiced: %w", err)
	}
	return m.Run(), nil
}

func envoy() string { return os.Getenv("SLUICE_ENVOY") }

// world is one running stack and a client of its doors and its quota API.
type world struct {
	*stack.Stack
	conn   *grpc.ClientConn
	quota  quotav1.QuotaServiceClient
	client *http.Client
	logs   string // folder
	ruled  bool   // the rule of tenant was made
}

// patient finds the second that the configurations give sluiced for an answer, and what they give a
// connection, a handshake included. A machine that builds something beside the tests can take longer to
// wake three processes, and the 503 that follows says nothing of what is tested.
var patient = regexp.MustCompile(`(?m)^( +(?:message_|connect_)?timeout: )(?:0\.25s|1s)$`)

// patiently is a configuration with five seconds instead.
func patiently(config string) string { return patient.ReplaceAllString(config, "${1}5s") }

// patience is what sluiced gives a disk in those five seconds. One that others write to can take longer for a sync than the
// half second that is the default, and the refusal that follows says nothing of what is tested.
var patience = []string{"--audit-wait", "4s"}

// way is how the test itself reaches sluiced, if not in plain text over TCP.
type way struct {
	target string
	creds  credentials.TransportCredentials
}

// start runs sluiced behind Envoy, with the demo's configuration unless told.
func start(t *testing.T, o stack.Options, by ...way) *world {
	t.Helper()
	o.Envoy = envoy()
	if o.Config == "" {
		o.Config = deploy.Demo
	}
	return alone(t, o, by...)
}

// alone runs sluiced without an Envoy, unless the options name one.
func alone(t *testing.T, o stack.Options, by ...way) *world {
	t.Helper()
	o.Sluiced, o.Dir = binary, t.TempDir()
	o.Config, o.Args = patiently(o.Config), slices.Concat(patience, o.Args)
	s, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		Stack:  s,
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce, MaxConnsPerHost: atOnce}},
		logs:   o.Dir,
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, name := range []string{"sluiced.log", "envoy.log"} {
				text, _ := os.ReadFile(filepath.Join(o.Dir, name))
				t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
	})
	w.conn = w.dial(t, by...)
	w.quota = quotav1.NewQuotaServiceClient(w.conn)
	return w
}

// dial opens one more connection to the gRPC port.
func (w *world) dial(t *testing.T, by ...way) *grpc.ClientConn {
	t.Helper()
	to := way{w.GRPC, insecure.NewCredentials()}
	if len(by) > 0 && by[0].target != "" {
		to.target = by[0].target
	}
	if len(by) > 0 && by[0].creds != nil {
		to.creds = by[0].creds
	}
	conn, err := grpc.NewClient(to.target, grpc.WithTransportCredentials(to.creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// freeze stops sluiced where it is, and returns when it has: the kernel may let a thread of it run on until
// another one has taken the signal. A SIGCONT ends it.
func (w *world) freeze(t *testing.T) {
	t.Helper()
	if err := w.Sluiced().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await.That(t, "every thread has stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", w.Sluiced().Pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("no threads: %v", err)
		}
		for _, thread := range threads {
			text, _ := os.ReadFile(thread)
			if _, state, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return true
	})
}

// log is what sluiced has logged so far.
func (w *world) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.logs, "sluiced.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// metrics is the page that Prometheus would read.
func (w *world) metrics(t *testing.T) string {
	t.Helper()
	response, err := http.Get(w.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (w *world) admin(t *testing.T) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.AdminToken)
}

// everything is the rule that lets tenants do everything.
const everything = "tenants-may"

// tenant makes a plan and a tenant of that name on it, and returns an API key. The
// first time it also makes the rule that lets tenants do everything; a test that is about rules deletes it.
func (w *world) tenant(t *testing.T, name string, limits ...*quotav1.Limit) string {
	t.Helper()
	ctx := w.admin(t)
	if !w.ruled {
		w.rule(t, everything, &quotav1.Rule{})
	}
	if _, err := w.quota.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: name, Plan: &quotav1.Plan{Limits: limits}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.quota.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: name, Tenant: &quotav1.Tenant{Plan: "plans/" + name}}); err != nil {
		t.Fatal(err)
	}
	key, err := w.quota.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/" + name})
	if err != nil {
		t.Fatal(err)
	}
	return key.GetSecret()
}

const (
	gcra  = "gcra"
	hard  = "hard"
	fixed = "fixed"

	// ever is the longest window: a fixed one that begins anew once in a year.
	ever = 366 * 24 * time.Hour
)

func limit(name, algorithm string, n int64, window time.Duration) *quotav1.Limit {
	return &quotav1.Limit{Name: name, Algorithm: algorithm, Limit: n, Window: durationpb.New(window)}
}

// shot is one request: when it should leave, if offer sent it, when it left,
// when its answer came, and what that was.
type shot struct {
	due, sent, got time.Time
	status         int
	err            error
}

func (w *world) get(ctx context.Context, key string, edit ...func(*http.Request)) shot {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/v1/calls", nil)
	if err != nil {
		return shot{err: err}
	}
	request.Header.Set("x-api-key", key)
	for _, f := range edit {
		f(request)
	}
	s := shot{sent: time.Now()}
	response, err := w.client.Do(request)
	s.got = time.Now()
	if err != nil {
		s.err = err
		return s
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	s.status = response.StatusCode
	return s
}

// atOnce is how many requests are under way at most: those of a machine that can't keep up leave late, and do not wait for
// each other until Envoy or the client gives them up.
const atOnce = 256

// offer sends perSecond requests a second, evenly, from start on for the given time.
func (w *world) offer(t *testing.T, key string, start time.Time, perSecond int, during time.Duration) []shot {
	t.Helper()
	n := int(during.Seconds() * float64(perSecond))
	shots := make([]shot, n)
	var wg sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i := range n {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		wait(t, time.Until(due))
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			shots[i] = w.get(t.Context(), key)
			shots[i].due = due
		})
	}
	wg.Wait()
	return shots
}

// wait passes real time: Envoy and sluiced are other processes, so no clock can be faked for them.
func wait(t *testing.T, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// tally counts statuses and fails on a request that got no answer, or one that is neither 200 nor 429.
func tally(t *testing.T, shots []shot) (admitted []shot) {
	t.Helper()
	for _, s := range shots {
		switch {
		case s.err != nil:
			t.Fatalf("a request got no answer: %v", s.err)
		case s.status == http.StatusOK:
			admitted = append(admitted, s)
		case s.status != http.StatusTooManyRequests:
			t.Fatalf("status %d, want 200 or 429", s.status)
		}
	}
	sort.Slice(admitted, func(i, j int) bool { return admitted[i].sent.Before(admitted[j].sent) })
	return admitted
}

// most is the largest number of admissions that certainly fell into one trailing
// window: their requests left and their answers came within it.
func most(admitted []shot, window time.Duration) (peak int) {
	for i, first := range admitted {
		end, n := first.sent.Add(window), 0
		for _, s := range admitted[i:] {
			if s.sent.After(end) {
				break
			}
			if !s.got.After(end) {
				n++
			}
		}
		peak = max(peak, n)
	}
	return peak
}

// least is the smallest number of admissions that certainly fell into one
// trailing window, of all that begin after the first request left and end
// before the given time. It is smallest just after a request left, or just
// before an answer came.
func least(admitted []shot, window time.Duration, end time.Time) int {
	n := len(admitted)
	for _, edge := range admitted {
		for _, from := range []time.Time{edge.sent.Add(1), edge.got.Add(-window - 1)} {
			to := from.Add(window)
			if from.Before(admitted[0].sent) || to.After(end) {
				continue
			}
			in := 0
			for _, s := range admitted {
				if !s.sent.Before(from) && !s.got.After(to) {
					in++
				}
			}
			n = min(n, in)
		}
	}
	return n
}

// late is the longest time from when a request was due to its answer: by so
// much it is unknown when the server met any of them.
func late(shots []shot) (longest time.Duration) {
	for _, s := range shots {
		longest = max(longest, s.got.Sub(s.due))
	}
	return longest
}

// nextSecond is the next whole second of the wall clock at least 300 ms away
// from which the given time fits into one minute.
func nextSecond(fit time.Duration) time.Time {
	at := time.Now().Add(300 * time.Millisecond).Truncate(time.Second).Add(time.Second)
	if at.Add(fit).Truncate(time.Minute) != at.Truncate(time.Minute) {
		at = at.Truncate(time.Minute).Add(time.Minute)
	}
	return at
}
