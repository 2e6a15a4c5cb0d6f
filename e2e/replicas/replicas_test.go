// Package replicas drives three sluiceds on one Redis, behind a real Envoy, while they are
// restarted, killed and frozen. 'make test' names Envoy in SLUICE_ENVOY.
package replicas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

var binary string

func TestMain(m *testing.M) {
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/replicas:", err)
		code = 1
	}
	os.Exit(code)
}

func build(m *testing.M) (code int, err error) {
	if os.Getenv("SLUICE_ENVOY") == "" {
		return 1, errors.New("SLUICE_ENVOY names no Envoy; 'make test' installs one and sets it")
	}
	dir, err := os.MkdirTemp("", "sluice-replicas-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "sluiced")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/sluiced").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build sluiced: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// world is three replicas, and keys of a tenant that meets no limit and of one that may make so many requests ever.
type world struct {
	*stack.Stack
	client       *http.Client
	free, capped string
}

// ever is the longest window.
const ever = 366 * 24 * time.Hour

const replicas = 3

// patience is what Envoy gives a replica for an answer, and a second more than a replica gives Redis: the defaults, 1 s and
// 100 ms, are too little for a machine that has other things to do. It can take a killed process a second to let go of its connections.
const patience = 5 * time.Second

func start(t *testing.T, capacity int64, args ...string) *world {
	t.Helper()
	dir := t.TempDir()
	config := strings.Replace(deploy.Demo, "  timeout: 1s\n", fmt.Sprintf("  timeout: %.0fs\n", patience.Seconds()), 1)
	if config == deploy.Demo {
		t.Fatal("the configuration has another time for an answer than this test knows")
	}
	s, err := stack.Start(t.Context(), stack.Options{
		Sluiced: binary, Envoy: os.Getenv("SLUICE_ENVOY"), Config: config, Dir: dir, RedisServer: "redis-server", Replicas: replicas,
		Args: append([]string{"--redis-timeout", (patience - time.Second).String()}, args...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, name := range []string{"sluiced.log", "sluiced-1.log", "sluiced-2.log", "envoy.log"} {
				text, _ := os.ReadFile(filepath.Join(dir, name))
				t.Logf("%s:\n%s", name, text[max(0, len(text)-2000):])
			}
		}
	})
	w := &world{Stack: s, client: &http.Client{Timeout: 4 * patience, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	w.capped = w.tenant(t, "capped", capacity)
	w.free = w.tenant(t, "free", 1<<31) // last, so that a replica that knows it knows both
	await.That(t, "Envoy finds all healthy", func() bool { return w.stat(t, "cluster.sluice.membership_healthy") == replicas })
	await.That(t, "every replica knows the tenants", func() bool {
		for range 4 * replicas {
			if w.get(w.free).status != http.StatusOK {
				return false
			}
		}
		return true
	})
	return w
}

// tenant makes one through the API of the first replica.
func (w *world) tenant(t *testing.T, name string, capacity int64) (key string) {
	t.Helper()
	conn, err := grpc.NewClient(w.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	quota, ctx := quotav1.NewQuotaServiceClient(conn), w.admin(t)
	_, err = quota.CreateRule(ctx, &quotav1.CreateRuleRequest{RuleId: name + "-may", Rule: &quotav1.Rule{Effect: "allow"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := quota.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: name, Plan: &quotav1.Plan{Limits: limits(capacity)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := quota.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: name, Tenant: &quotav1.Tenant{Plan: "plans/" + name}}); err != nil {
		t.Fatal(err)
	}
	created, err := quota.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/" + name})
	if err != nil {
		t.Fatal(err)
	}
	return created.GetSecret()
}

func (w *world) admin(t *testing.T) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.AdminToken)
}

func limits(capacity int64) []*quotav1.Limit {
	return []*quotav1.Limit{{Name: "ever", Algorithm: "fixed", Limit: capacity, Window: durationpb.New(ever)}}
}

// limit changes a tenant's through the API of the last replica.
func (w *world) limit(t *testing.T, name string, capacity int64) {
	t.Helper()
	conn, err := grpc.NewClient(w.Replicas[replicas-1].GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	quota := quotav1.NewQuotaServiceClient(conn)
	if _, err := quota.UpdatePlan(w.admin(t), &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: "plans/" + name, Limits: limits(capacity)}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) stat(t *testing.T, name string) int {
	t.Helper()
	response, err := http.Get(w.EnvoyAdmin + "/stats?format=json&usedonly&filter=^" + name + "$")
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Stats []struct{ Value int }
	}
	if err := errors.Join(json.NewDecoder(response.Body).Decode(&page), response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if len(page.Stats) == 0 {
		return 0
	}
	return page.Stats[0].Value
}

// refused waits until so many requests were: the capped tenant has used up what it may have, however slowly a busy machine asks.
func (w *world) refused(t *testing.T, n int) {
	t.Helper()
	await.That(t, "requests are refused", func() bool { return w.stat(t, "http.gateway.ext_authz.sluice.denied") >= n })
}

type shot struct {
	sent time.Time
	took time.Duration
	// status is 0 without an answer.
	status int
}

func (w *world) get(key string) shot {
	s := shot{sent: time.Now()}
	request, err := http.NewRequest(http.MethodGet, w.URL+"/v1/calls", nil) //nolint:noctx // the client has a timeout
	if err != nil {
		return s
	}
	request.Header.Set("x-api-key", key)
	response, err := w.client.Do(request)
	s.took = time.Since(s.sent)
	if err != nil {
		return s
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	s.status = response.StatusCode
	return s
}

// load sends both tenants' requests evenly, whatever the answers, until the function that it returns is called; that
// waits for the last answer.
func (w *world) load(t *testing.T, perSecond int) (end func() (free, capped []shot)) {
	t.Helper()
	var mu sync.Mutex
	var shots [2][]shot
	var all sync.WaitGroup
	done := make(chan struct{})
	all.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			all.Go(func() {
				s := w.get([]string{w.free, w.capped}[i%2])
				mu.Lock()
				defer mu.Unlock()
				shots[i%2] = append(shots[i%2], s)
			})
		}
	})
	return func() ([]shot, []shot) {
		close(done)
		all.Wait()
		return shots[0], shots[1]
	}
}

func byStatus(shots []shot) map[int]int {
	counts := map[int]int{}
	for _, s := range shots {
		counts[s.status]++
	}
	return counts
}

func slowest(shots []shot) (worst time.Duration) {
	for _, s := range shots {
		worst = max(worst, s.took)
	}
	return worst
}

// wait passes real time: Envoy, Redis and sluiced are other processes.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestThePageShowsTheClusterThatIsUsedHere(t *testing.T) {
	page, err := os.ReadFile("../../docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{stack.ReplicasCluster, stack.ReplicasRetry} {
		if !strings.Contains(string(page), "```yaml\n"+part+"```") {
			t.Errorf("docs/stores.md does not show\n%s", part)
		}
	}
}

func TestF1ReplicasRestartOneByOneAndNoRequestFails(t *testing.T) {
	const capacity = 400
	perSecond := 200
	if os.Getenv("SLUICE_FULL") != "" { // 'make test-faults FULL=1'
		perSecond = 1000
	}
	w := start(t, capacity, "--drain-delay", "2s")
	began := time.Now()
	end := w.load(t, perSecond)
	wait(t, time.Second)
	for i, r := range w.Replicas {
		ended, err := r.Terminate()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("replica %d: %v", i, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("replica %d has not ended", i)
		}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		await.That(t, "Envoy finds all healthy again", func() bool { return w.stat(t, "cluster.sluice.membership_healthy") == replicas })
	}
	wait(t, time.Second)
	w.refused(t, capacity)
	free, capped := end()
	made := float64(len(free)+len(capped)) / time.Since(began).Seconds()
	t.Logf("three replicas restarted under %.0f requests a second, of %d that were meant: free %v of %d; capped at %d: %v of %d; slowest %v", made, perSecond,
		byStatus(free), len(free), capacity, byStatus(capped), len(capped), max(slowest(free), slowest(capped)))
	if got := byStatus(free); got[http.StatusOK] != len(free) {
		t.Errorf("free: %v, want %d times 200", got, len(free))
	}
	if got := byStatus(capped); got[http.StatusOK] != capacity || got[http.StatusTooManyRequests] != len(capped)-capacity || len(capped) < 2*capacity {
		t.Errorf("capped: %v of %d, want %d times 200 and else 429, of twice as many", got, len(capped), capacity)
	}
	for _, name := range []string{"error", "failure_mode_allowed"} {
		if n := w.stat(t, "http.gateway.ext_authz.sluice."+name); n != 0 {
			t.Errorf("Envoy: ext_authz %s is %d", name, n)
		}
	}
}

// TestA6ALimitIsChangedInMidWindow: all replicas refuse, one is told of another limit, and all admit what that leaves room for.
func TestA6ALimitIsChangedInMidWindow(t *testing.T) {
	const capacity, perSecond = 60, 200
	w := start(t, capacity)
	var admitted, other atomic.Int64
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		ticker := time.NewTicker(time.Second / perSecond)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			all.Go(func() {
				switch w.get(w.capped).status {
				case http.StatusOK:
					admitted.Add(1)
				case http.StatusTooManyRequests:
				default:
					other.Add(1)
				}
			})
		}
	})
	await.That(t, "the first limit is reached", func() bool { return admitted.Load() >= capacity })
	want := int64(capacity)
	for _, limit := range []int64{150, 80, 151, 0, 220} {
		w.limit(t, "capped", limit)
		changed := time.Now()
		want = max(want, limit)
		await.That(t, "what is new is admitted", func() bool { return admitted.Load() >= want })
		took := time.Since(changed)
		wait(t, 300*time.Millisecond) // and no more
		t.Logf("A6: a limit of %d holds: %d admitted in all, the last of them after %v", limit, admitted.Load(), took.Round(time.Millisecond))
		if got := admitted.Load(); got != want {
			t.Errorf("with a limit of %d, %d were admitted in all, want %d", limit, got, want)
		}
	}
	close(done)
	all.Wait()
	if other.Load() > 0 {
		t.Errorf("%d requests failed", other.Load())
	}
}

func TestF2OneOfThreeIsKilled(t *testing.T) {
	const capacity, perSecond = 300, 200
	w := start(t, capacity)
	end := w.load(t, perSecond)
	wait(t, 2*time.Second)
	if err := w.Replicas[2].Kill(); err != nil {
		t.Fatal(err)
	}
	wait(t, 6*time.Second)
	w.refused(t, 1)
	free, capped := end()
	failed := 0
	for status, n := range byStatus(append(free, capped...)) {
		if status != http.StatusOK && status != http.StatusTooManyRequests {
			failed += n
		}
	}
	t.Logf("one of three killed under %d requests a second: free %v of %d; capped at %d: %v of %d; %d failed; slowest %v", perSecond,
		byStatus(free), len(free), capacity, byStatus(capped), len(capped), failed, max(slowest(free), slowest(capped)))
	// In flight at that replica were at most as many as a second brings it in the time of one answer; a retry takes the rest.
	if failed > 2 {
		t.Errorf("%d requests failed, want at most those in flight", failed)
	}
	// What was charged and not answered is used up, never admitted twice.
	if got := byStatus(capped); got[http.StatusOK] > capacity || got[http.StatusOK] < capacity-failed {
		t.Errorf("capped: %v, want %d times 200, less those that failed", got, capacity)
	}
}

func TestF4OneOfThreeIsFrozen(t *testing.T) {
	const capacity, perSecond = 300, 200
	w := start(t, capacity)
	end := w.load(t, perSecond)
	wait(t, time.Second)
	frozen := time.Now()
	if err := w.Replicas[1].Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await.That(t, "Envoy leaves it out", func() bool { return w.stat(t, "cluster.sluice.membership_healthy") == replicas-1 })
	out := time.Since(frozen)
	wait(t, patience+time.Second)
	if err := w.Replicas[1].Process().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await.That(t, "Envoy takes it back", func() bool { return w.stat(t, "cluster.sluice.membership_healthy") == replicas })
	w.refused(t, 1)
	free, capped := end()
	failed, late := 0, 0
	for _, s := range append(free, capped...) {
		if s.status == http.StatusOK || s.status == http.StatusTooManyRequests {
			continue
		}
		failed++
		if s.status != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503: no answer is no admission", s.status)
		}
		if s.sent.After(frozen.Add(out + 100*time.Millisecond)) {
			late++
		}
	}
	t.Logf("one of three frozen for %v under %d requests a second: left out after %v; free %v of %d; capped at %d: %v of %d; %d failed, %d of them later; slowest %v",
		time.Since(frozen).Round(time.Millisecond), perSecond, out.Round(time.Millisecond), byStatus(free), len(free), capacity, byStatus(capped), len(capped), failed, late, max(slowest(free), slowest(capped)))
	if late > 0 {
		t.Errorf("%d requests failed after the replica was left out", late)
	}
	if most := slowest(append(free, capped...)); most > 2*patience {
		t.Errorf("the slowest answer took %v; Envoy waits %v for sluiced", most, patience)
	}
	if got := byStatus(capped); got[http.StatusOK] > capacity || got[http.StatusOK] < capacity-failed {
		t.Errorf("capped: %v, want %d times 200, less those that failed", got, capacity)
	}
}
