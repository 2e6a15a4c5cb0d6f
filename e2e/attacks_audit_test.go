package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// classes is a catalogue with one path for each class of record.
const classes = `plans:
  - name: gold
    limits: [{name: rps, algorithm: gcra, limit: 1_000_000, window: 1s}]
  - name: counted
    limits: [{name: hourly, algorithm: fixed, limit: 1_000, window: 1h}]
tenants:
  - {id: acme, plan: gold}
  - {id: umbrella, plan: gold}
  - {id: durable, plan: counted}
rules:
  - {name: must, effect: allow, audit: required, what: {paths: ["/must/**"]}}
  - {name: may, effect: allow, audit: best_effort, what: {paths: ["/may/**"]}}
  - {name: plain, effect: allow, what: {paths: ["/plain/**"]}}
`

// catalogue writes a folder with one file.
func catalogue(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "catalogue")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "catalogue.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// rewrite puts another text in a file's place at once: a reader finds the one or the other, and never an empty file.
func rewrite(t *testing.T, file, text string) {
	t.Helper()
	beside := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := errors.Join(os.WriteFile(beside, []byte(text), 0o600), os.Rename(beside, file)); err != nil {
		t.Fatal(err)
	}
}

// key makes an API key of a tenant that is there.
func (w *world) key(t *testing.T, tenant string) string {
	t.Helper()
	key, err := w.quota.CreateApiKey(w.admin(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/" + tenant})
	if err != nil {
		t.Fatal(err)
	}
	return key.GetSecret()
}

// at asks for a path as the holder of a key.
func (w *world) at(ctx context.Context, key, path string) shot {
	return w.get(ctx, key, func(r *http.Request) { r.URL.Path = path })
}

// undisturbed asks for what requires a record while others are noisy, and is how often that passed. One in twenty may be
// refused: a disk that takes half a second to sync does that without the noise too.
func (w *world) undisturbed(t *testing.T, key string, noisy func() bool) (passed int) {
	t.Helper()
	slow := 0
	for noisy() {
		switch shot := w.at(t.Context(), key, "/must/be"); shot.status {
		case http.StatusOK:
			passed++
		case http.StatusServiceUnavailable:
			slow++
		default:
			t.Errorf("a request that requires a record: %d, %v", shot.status, shot.err)
		}
	}
	if slow > 1+passed/20 {
		t.Errorf("%d requests that require a record were refused, %d passed", slow, passed)
	}
	return passed
}

// copiedLog is a copy of the audit log, taken as the guide says while the server writes: what says
// how long the log is goes first, and a file that is about to take another's place is none of it.
func (w *world) copiedLog(t *testing.T) string {
	t.Helper()
	folder, copied := filepath.Join(w.Data, "audit"), t.TempDir()
	for _, pattern := range []string{"audit.checkpoint", "audit.pub", "audit-*.jsonl"} {
		files, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s in %s: %v", pattern, folder, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(copied, filepath.Base(file)), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return copied
}

// wholeLog runs 'sluice audit verify' with the public key alone, as who was given only a copy
// of the folder would.
func (w *world) wholeLog(t *testing.T) {
	t.Helper()
	copied := w.copiedLog(t)
	if out, code := sluice(t, "audit", "verify", copied, "--public-key", filepath.Join(copied, "audit.pub")); code != 0 {
		t.Errorf("audit verify: exit %d: %s", code, out)
	}
}

// whatever was admitted under a rule that requires a record is on record, though
// the server is killed again and again while it is asked.
func TestA02KilledUnderLoadThroughEnvoy(t *testing.T) {
	const kills, callers = 3, 8
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes)})
	key := s.key(t, "acme")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var ok, failed atomic.Int64
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for ctx.Err() == nil {
				switch shot := s.at(ctx, key, "/must/be"); {
				case shot.status == http.StatusOK:
					ok.Add(1)
				case shot.status == http.StatusServiceUnavailable:
					failed.Add(1)
					wait(t, 5*time.Millisecond)
				case ctx.Err() == nil:
					t.Errorf("%d, %v", shot.status, shot.err)
				}
			}
		})
	}
	for range kills {
		before := ok.Load()
		await.That(t, "requests pass", func() bool { return ok.Load() > before+50 })
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		down := failed.Load()
		await.That(t, "nothing passes while nobody decides", func() bool { return failed.Load() > down+callers })
		if err := s.StartSluiced(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	running.Wait()

	t.Run("A-02 each request that reached the upstream is on record, once", func(t *testing.T) {
		s.witness.mu.Lock() // what reaches it from now on, of a caller who has gone, is not looked for
		defer s.witness.mu.Unlock()
		recorded := map[string]int{}
		for _, r := range s.decisions(t) {
			if r.Required && *r.Allowed && r.Reason == admitted && r.Rule == "must" {
				recorded[r.Decision]++
			}
		}
		if s.witness.n < int(ok.Load()) {
			t.Fatalf("the upstream saw %d, callers got %d answers", s.witness.n, ok.Load())
		}
		for _, seen := range s.witness.seen {
			ids := seen.values("x-sluice-decision-id")
			if len(ids) != 1 || recorded[ids[0]] != 1 {
				t.Errorf("decision %q reached the upstream and is recorded %d times", ids, recorded[strings.Join(ids, "")])
			}
		}
		t.Logf("%d kills: %d reached the upstream, %d records, %d answers 503", kills, s.witness.n, len(recorded), failed.Load())
	})
	t.Run("A-02 the chain goes on over every crash, and the public key alone proves it", func(t *testing.T) {
		await.That(t, "the last records are signed", func() bool {
			all := s.audited(t)
			return len(all) > 0 && all[len(all)-1].Kind == "checkpoint"
		})
		resumes := 0
		for _, r := range s.audited(t) {
			if r.Kind == "resume" {
				resumes++
			}
		}
		if resumes != kills {
			t.Errorf("%d records say that the log was taken up again, want %d", resumes, kills)
		}
		s.wholeLog(t)
	})
}

// fileLimit sets the most bytes that a file of the process may have: what is written
// beyond it fails, as on a full disk. It returns what it was.
func fileLimit(t *testing.T, pid int, most uint64) (before uint64) {
	t.Helper()
	var old syscall.Rlimit
	change := syscall.Rlimit{Cur: most, Max: ^uint64(0)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(&change)), uintptr(unsafe.Pointer(&old)), 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return old.Cur
}

// F-04, F-10: the disk is full, and then it is not.
func TestF04ADiskThatIsFullThroughEnvoy(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes)})
	key, durable := s.key(t, "acme"), s.key(t, "durable")
	pid := s.Sluiced().Pid
	for _, path := range []string{"/must/be", "/may/be", "/plain/x"} {
		if shot := s.at(t.Context(), key, path); shot.status != http.StatusOK {
			t.Fatalf("%s before: %d, %v", path, shot.status, shot.err)
		}
	}
	if shot := s.at(t.Context(), durable, "/plain/x"); shot.status != http.StatusOK {
		t.Fatalf("a durable limit before: %d, %v", shot.status, shot.err)
	}
	before := fileLimit(t, pid, 64)
	await.That(t, "the log says that it can't be written", func() bool {
		s.at(t.Context(), key, "/must/be")
		return s.metric(t, "sluice_audit_failing") == "1"
	})
	contacts := s.witness.contacts()

	t.Run("F-04 what requires a record is refused, and the upstream hears nothing", func(t *testing.T) {
		for range 20 {
			if shot := s.at(t.Context(), key, "/must/be"); shot.status != http.StatusServiceUnavailable {
				t.Errorf("%d, %v", shot.status, shot.err)
			}
		}
		if n := s.witness.contacts() - contacts; n != 0 {
			t.Errorf("the upstream was contacted %d times", n)
		}
	})
	t.Run("F-04 what needs no record passes", func(t *testing.T) {
		for _, path := range []string{"/may/be", "/plain/x"} {
			for range 5 {
				if shot := s.at(t.Context(), key, path); shot.status != http.StatusOK {
					t.Errorf("%s: %d, %v", path, shot.status, shot.err)
				}
			}
		}
	})
	t.Run("F-04 strangers are refused as ever", func(t *testing.T) {
		if shot := s.at(t.Context(), "slk_00000000_none", "/must/be"); shot.status != http.StatusUnauthorized {
			t.Errorf("%d, %v", shot.status, shot.err)
		}
	})
	t.Run("F-10 a limit whose journal can't be written refuses once its block is used up", func(t *testing.T) {
		passed := 0
		await.That(t, "it is refused", func() bool {
			shot := s.at(t.Context(), durable, "/plain/x")
			if shot.status == http.StatusOK {
				passed++
			}
			return shot.status == http.StatusServiceUnavailable
		})
		if passed > 20 { // a block is 1 % of the limit, and one may be there ahead
			t.Errorf("%d passed on what was recorded before", passed)
		}
	})

	fileLimit(t, pid, before)
	t.Run("F-04 with room again it goes on without a restart, and says what is missing", func(t *testing.T) {
		for _, caller := range []string{key, durable} {
			await.That(t, "a request passes", func() bool { return s.at(t.Context(), caller, "/must/be").status == http.StatusOK })
		}
		if s.Sluiced().Pid != pid {
			t.Error("it was restarted")
		}
		shot := s.at(t.Context(), key, "/must/be")
		newest := s.witness.newest().values("x-sluice-decision-id")
		if shot.status != http.StatusOK || len(newest) != 1 || len(s.recordsOf(t, newest[0])) != 1 {
			t.Errorf("%d, %q has %d records", shot.status, newest, len(s.recordsOf(t, newest[0])))
		}
		gaps := uint64(0)
		await.That(t, "a gap record counts them", func() bool {
			gaps = 0
			for _, r := range s.audited(t) {
				if r.Kind == "gap" {
					gaps += r.Count
				}
			}
			return gaps > 0
		})
		s.wholeLog(t)
		t.Logf("%d entries are counted as missing", gaps)
	})
}

// F-04: the folder of the log is moved away while it is written, and comes back.
func TestF04AFolderThatIsGoneThroughEnvoy(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes)})
	key := s.key(t, "acme")
	s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/must/be", "x-api-key: "+key)) })
	folder := filepath.Join(s.Data, "audit")
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	await.That(t, "F-04 what requires a record is refused", func() bool {
		return s.at(t.Context(), key, "/must/be").status == http.StatusServiceUnavailable
	})
	contacts := s.witness.contacts()
	if shot := s.at(t.Context(), key, "/must/be"); shot.status != http.StatusServiceUnavailable || s.witness.contacts() != contacts {
		t.Errorf("F-04 %d, %v, and the upstream was contacted %d times", shot.status, shot.err, s.witness.contacts()-contacts)
	}
	if shot := s.at(t.Context(), key, "/may/be"); shot.status != http.StatusOK {
		t.Errorf("F-04 what needs no record: %d, %v", shot.status, shot.err)
	}
	if s.metric(t, "sluice_audit_damaged") != "1" {
		t.Error("F-04 nobody is told that somebody changed the log")
	}
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	await.That(t, "F-04 it goes on without a restart", func() bool {
		return s.at(t.Context(), key, "/must/be").status == http.StatusOK
	})
	before := len(s.decisions(t))
	if shot := s.at(t.Context(), key, "/must/be"); shot.status != http.StatusOK {
		t.Errorf("F-04 %d, %v", shot.status, shot.err)
	}
	if r := s.oneRecord(t, before); r.Reason != admitted || !r.Required {
		t.Errorf("F-04 %+v", r)
	}
}

// F-04: a request waits for its record as long as it is told, and is refused then.
func TestF04ARequestWaitsForItsRecordAsLongAsItIsTold(t *testing.T) {
	w := alone(t, stack.Options{Catalog: catalogue(t, classes), Args: []string{"--audit-wait", "1ns"}})
	request := checkRequest(w.key(t, "acme"))
	http := request.GetAttributes().GetRequest().GetHttp()
	http.Path = "/must/be"
	for _, header := range http.GetHeaderMap().GetHeaders() {
		if header.GetKey() == ":path" {
			header.RawValue = []byte(http.Path)
		}
	}
	await.That(t, "no disk is so fast each time", func() bool {
		answer, err := authv3.NewAuthorizationClient(w.conn).Check(t.Context(), request)
		return err == nil && answer.GetDeniedResponse().GetStatus().GetCode() == typev3.StatusCode_ServiceUnavailable
	})
}

// strangers are what nobody knows: their records, the counts of their summaries, and the bytes of both.
func strangers(t *testing.T, w *world) (single, counted, size int) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(w.Data, "audit", "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range segments {
		text, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			switch r, _ := audit.ParseRecord(line); {
			case r.Kind == "decision" && r.Reason == unauthenticated:
				single++
				size += len(line)
			case r.Kind == "summary":
				counted += int(r.Count)
				size += len(line)
			}
		}
	}
	return single, counted, size
}

// F-04: nobody who proves nothing can fill the disk or get in the way of a record.
func TestF04AFloodOfStrangers(t *testing.T) {
	const perSecond = 64 << 10 // audit.Options.SourceBytes
	witness := startWitness(t)
	w := start(t, stack.Options{Config: demoBefore(witness.port), Catalog: catalogue(t, classes)})
	key := w.key(t, "acme")
	client := authv3.NewAuthorizationClient(w.conn)
	for name, ask := range map[string]func(ctx context.Context, i int) bool{
		"one source through Envoy": func(ctx context.Context, i int) bool {
			return w.at(ctx, fmt.Sprintf("slk_%08x_none", i), "/must/be").status == http.StatusUnauthorized
		},
		"each from a network of its own": func(ctx context.Context, i int) bool {
			r := checkRequest(fmt.Sprintf("slk_%08x_none", i))
			r.Attributes.Source = &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
				SocketAddress: &corev3.SocketAddress{Address: fmt.Sprintf("10.%d.%d.7", i>>8&255, i&255)},
			}}}
			answer, err := client.Check(ctx, r)
			return err == nil && answer.GetDeniedResponse().GetStatus().GetCode() == http.StatusUnauthorized
		},
	} {
		t.Run("F-04 a flood of strangers, "+name+", costs bounded bytes and no record", func(t *testing.T) {
			single, counted, size := strangers(t, w)
			contacts, began := witness.contacts(), time.Now()
			ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
			defer stop()
			var refused, serial atomic.Int64
			var flood sync.WaitGroup
			for range 4 {
				flood.Go(func() {
					for ctx.Err() == nil {
						if ask(t.Context(), int(serial.Add(1))) {
							refused.Add(1)
						}
					}
				})
			}
			passed := w.undisturbed(t, key, func() bool { return ctx.Err() == nil })
			flood.Wait()
			var singles, counts, bytes int
			await.That(t, "each stranger is recorded or counted", func() bool {
				singles, counts, bytes = strangers(t, w)
				singles, counts, bytes = singles-single, counts-counted, bytes-size
				return singles+counts == int(refused.Load())
			})
			seconds := int(time.Since(began).Seconds()) + 2 // the budget of a second was there when it began
			if bytes > perSecond*seconds {
				t.Errorf("%d bytes in %d s, at most %d a second are promised", bytes, seconds, perSecond)
			}
			if n := strings.Count(w.log(t), "code=401"); n > 200+50*2*seconds {
				t.Errorf("%d lines of strangers in the server's own log", n)
			}
			if n := witness.contacts() - contacts; n != passed || refused.Load() != serial.Load() || passed == 0 {
				t.Errorf("the upstream was contacted %d times, %d passed; %d of %d strangers were refused", n, passed, refused.Load(), serial.Load())
			}
			if w.metric(t, "sluice_audit_failing") != "0" || !strings.Contains(w.metrics(t), "sluice_audit_missing_total") {
				t.Errorf("failing is %s", w.metric(t, "sluice_audit_failing"))
			}
			t.Logf("%d strangers: %d records, %d counted, %d bytes; %d required records meanwhile", refused.Load(), singles, counts, bytes, passed)
		})
	}
	records := 0
	for _, r := range w.decisions(t) {
		if r.Required && r.Reason == admitted {
			records++
		}
	}
	if n := witness.contacts(); records < n { // more, if one was late
		t.Errorf("F-04 %d required records of %d requests that passed", records, n)
	}
	w.wholeLog(t)
}

// nothing that a caller sends ends a line, moves a terminal's cursor or breaks the JSON.
func TestA04NothingACallerSendsBreaksTheLog(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes), Args: []string{"--log-level", "debug"}})
	key := s.key(t, "acme")
	for name, c := range map[string]struct {
		request string
		want    verdict
	}{
		"a path with an escaped line end":      {http1("GET", "/may/x%0d%0a%7b%22kind%22:%22decision%22%7d", "x-api-key: "+key), isMalformed},
		"a path with an escaped terminal code": {http1("GET", "/may/%1b%5b31m", "x-api-key: "+key), isMalformed},
		"a path with JSON":                     {http1("GET", `/may/","allowed":true,"x":"`, "x-api-key: "+key), passes},
		"a path with C1 controls":              {http1("GET", "/may/%c2%9b31m", "x-api-key: "+key), passes},
		"a host with JSON":                     {strings.Replace(http1("GET", "/may/x", "x-api-key: "+key), "api.example.com", `a","allowed":true`, 1), byEnvoy},
		"an agent with JSON and a tab":         {http1("GET", "/may/x", "x-api-key: "+key, "user-agent: \t\"}{\"seq\":1"), passes},
		"a tenant with a line of ours":         {http1("GET", "/may/x", "x-api-key: "+key, `x-tenant-id: acme"},{"kind":"checkpoint"`), passes},
		"a key that is a line of ours":         {http1("GET", "/may/x", `x-api-key: {"seq":1,"kind":"checkpoint"}`), isNobody},
	} {
		t.Run("A-04 "+name, func(t *testing.T) {
			s.judge(t, c.want, func() reply { return s.raw(t, c.request) })
		})
	}
	for _, file := range append(auditFiles(t, s.world), filepath.Join(s.logs, "sluiced.log")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range text {
			if b < 0x20 && b != '\n' && b != '\t' || b == 0x7f {
				t.Errorf("A-04 %s has a control character %#x at byte %d", filepath.Base(file), b, i)
			}
		}
	}
	for i, r := range s.audited(t) {
		if r.Seq != uint64(i+1) {
			t.Fatalf("A-04 line %d has seq %d: a line was put in", i+1, r.Seq)
		}
	}
	s.wholeLog(t)
}

func auditFiles(t *testing.T, w *world) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.Data, "audit", "audit*"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, ".new") }) // about to take another's place
}

// what is secret in a request is nowhere afterwards: not in the audit log, its copy, the
// server's own log, its metrics, its spans, its files, or the answer.
func TestA03SecretsAreNowhere(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	collector := startCollector(t)
	s := stage(t, traced(collector.address), stack.Options{
		Catalog: catalogue(t, classes), Args: []string{"--log-level", "debug", "--otlp-endpoint", collector.address},
	})
	key := s.key(t, "acme")
	_, secret, _ := strings.Cut(strings.TrimPrefix(key, "slk_"), "_")
	token := "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2lkLmNhbmFyeSJ9.canaryTokenSignatureAAAAAAAAAAAAAAAAAAAA"
	canaries := []string{secret, "eyJpc3MiOiJodHRwczovL2lkLmNhbmFyeSJ9", "canaryTokenSignature"}
	canary := func(name string) string { canaries = append(canaries, "cnry"+name); return "cnry" + name }
	path := "/may/x?token=" + canary("Query") + "&api_key=" + canary("QueryKey")
	common := []string{
		"cookie: session=" + canary("Cookie"), "baggage: secret=" + canary("Baggage"),
		"x-forwarded-client-cert: By=spiffe://a/b;Hash=" + canary("Cert"), "proxy-authorization: Basic " + canary("Proxy"),
		"x-tenant-id: " + canary("Tenant"), "x-sluice-tenant-token: " + canary("TenantToken"), "x-amz-security-token: " + canary("Amz"),
		"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "content-length: 10",
	}
	body := canary("Body12")
	for name, c := range map[string]struct {
		lines []string
		want  verdict
	}{
		"a good key":                     {[]string{"x-api-key: " + key}, passes},
		"a good key as bearer":           {[]string{"authorization: Bearer " + key}, passes},
		"a bad token":                    {[]string{"authorization: Bearer " + token}, isNobody},
		"a basic password":               {[]string{"authorization: Basic " + canary("Basic")}, isNobody},
		"a bearer that is nothing":       {[]string{"authorization: bearer " + canary("Bearer")}, isNobody},
		"a key with a wrong secret":      {[]string{"x-api-key: slk_00000000_" + canary("Secret")}, isNobody},
		"two keys":                       {[]string{"x-api-key: " + key, "x-api-key: " + canary("Second")}, isNobody},
		"a key, and a token beside it":   {[]string{"x-api-key: " + key, "authorization: Bearer " + token}, isNobody},
		"a key that is not ASCII":        {[]string{"x-api-key: \xff" + canary("Bytes")}, isNobody},
		"a forbidden path with the key":  {[]string{"x-api-key: " + key}, isForbidden},
		"the key in the path of another": {[]string{"x-api-key: " + key}, passes},
	} {
		t.Run("A-03 "+name, func(t *testing.T) {
			at := path
			switch c.want.reason {
			case forbidden:
				at = "/never/" + key + "/" + token
			case admitted:
				at = "/may/" + key + "/" + strings.ReplaceAll(token, ".", "%2e") + path[len("/may/x"):]
			}
			before := len(s.decisions(t))
			got := s.observe(t, func() reply {
				return s.raw(t, http1("POST", at, append(slices.Clone(c.lines), common...)...)+body)
			})
			// Not judged: a path with a key in it is masked in the record and whole at the upstream.
			if r := s.oneRecord(t, before); got.status != c.want.status || r.Reason != c.want.reason || got.contacts > 0 != (c.want == passes) {
				t.Errorf("%d, the record says %s, the upstream was contacted %d times", got.status, r.Reason, got.contacts)
			}
			for _, canary := range canaries {
				if strings.Contains(got.body, canary) || strings.Contains(fmt.Sprint(got.header), canary) {
					t.Errorf("the answer has %s: %s", canary, clip(got.body))
				}
			}
		})
	}
	ours := func(span *tracepb.Span) bool { return strings.HasSuffix(span.GetName(), "Authorization/Check") } // Envoy's own are Envoy's to mask
	await.That(t, "spans came", func() bool {
		return len(slices.DeleteFunc(collector.got(), func(span *tracepb.Span) bool { return !ours(span) })) >= 10
	})
	await.That(t, "the access log came", func() bool { return strings.Count(s.log(t), "/may/") > 2 })
	page, _ := s.scrape(t)
	if !strings.Contains(page, `# {trace_id="`) {
		t.Error("no metric has an exemplar")
	}
	sinks := map[string]string{"sluiced.log": s.log(t), "metrics": s.metrics(t), "metrics with exemplars": page}
	for _, span := range collector.got() {
		if ours(span) {
			sinks["spans"] += span.String()
		}
	}
	err := filepath.WalkDir(s.Data, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // it has taken another's place, which is read or was
			return nil
		}
		sinks[filepath.Base(path)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sinks) < 8 || sinks["spans"] == "" {
		t.Fatalf("%d sinks", len(sinks))
	}
	for sink, text := range sinks {
		for _, canary := range canaries {
			if i := strings.Index(text, canary); i >= 0 {
				t.Errorf("A-03 %s holds %s: %s", sink, canary, clip(text[max(0, i-100):]))
			}
		}
	}
	s.wholeLog(t)
}

// demoBefore is the demo's configuration before another upstream.
func demoBefore(port string) string { return strings.ReplaceAll(deploy.Demo, "${UPSTREAM_PORT}", port) }
