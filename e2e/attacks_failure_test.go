package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/testca"
)

// F-01: a server that hangs longer than Envoy waits admits nobody, then or later.
func TestF01AServerThatHangsThroughEnvoy(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes)})
	key := s.key(t, "acme")
	s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/must/be", "x-api-key: "+key)) })
	contacts := s.witness.contacts()
	s.freeze(t)
	var asking sync.WaitGroup
	for range 5 {
		asking.Go(func() {
			if shot := s.at(t.Context(), key, "/must/be"); shot.status != http.StatusServiceUnavailable {
				t.Errorf("F-01 %d, %v, want 503", shot.status, shot.err)
			}
		})
	}
	asking.Wait()
	if err := s.Sluiced().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await.That(t, "it serves again", func() bool { return s.at(t.Context(), key, "/must/be").status == http.StatusOK })
	after := s.witness.contacts() - contacts
	if after != 1 {
		t.Errorf("F-01 the upstream was contacted %d times, want once, after the server went on", after)
	}
	if s.metric(t, "sluice_audit_failing") != "0" {
		t.Error("F-01 the log did not recover")
	}
}

// F-03: whatever happens to the catalogue's files under load, nobody is let in whom neither the
// rules before nor those after let in, and each record says which decided.
func TestF03ReloadsUnderLoadThroughEnvoy(t *testing.T) {
	dir := catalogue(t, classes)
	path := filepath.Join(dir, "catalogue.yaml")
	s := stage(t, "", stack.Options{Catalog: dir})
	key := s.key(t, "acme")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var denied, passed atomic.Int64
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				if shot := s.at(ctx, key, "/never/x"); shot.status == http.StatusForbidden {
					denied.Add(1)
				} else if ctx.Err() == nil {
					t.Errorf("F-03 a path that no version allows: %d, %v", shot.status, shot.err)
				}
				if shot := s.at(ctx, key, "/may/x"); shot.status == http.StatusOK {
					passed.Add(1)
				} else if ctx.Err() == nil {
					t.Errorf("F-03 a path that each version allows: %d, %v", shot.status, shot.err)
				}
			}
		})
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	broken := []string{
		strings.Replace(classes, "effect: allow", "effect: alow", 1), classes[:len(classes)/2] + "\n  - {", "rules: [{name: x, effect: allow, who: {tenants: []}}]",
		strings.Replace(classes, `paths: ["/may/**"]`, `paths: ["/**/x"]`, 1), "\x00\xff", classes + "  - {name: must, effect: allow}\n",
	}
	revision := func() string { return s.revision(t) }
	for round := range 12 {
		before := revision()
		write("catalogue.yaml", broken[round%len(broken)])
		seen := denied.Load()
		await.That(t, "requests are decided under a broken file", func() bool { return denied.Load() > seen+20 })
		if now := revision(); now != before {
			t.Errorf("F-03 a broken file made revision %s", now)
		}
		write("catalogue.tmp", classes+fmt.Sprintf("  - {name: extra%d, effect: deny, what: {paths: [\"/extra/**\"]}}\n", round))
		if err := os.Rename(filepath.Join(dir, "catalogue.tmp"), path); err != nil {
			t.Fatal(err)
		}
		await.That(t, "the good file holds", func() bool { return revision() != before })
	}
	stop()
	running.Wait()
	revisions := map[uint64]bool{}
	for _, r := range s.decisions(t) {
		if r.Revision == 0 || *r.Allowed != strings.HasPrefix(r.Path, "/may/") {
			t.Fatalf("F-03 %+v", r)
		}
		revisions[r.Revision] = true
	}
	if len(revisions) < 6 {
		t.Errorf("F-03 the records name %d revisions", len(revisions))
	}
	t.Logf("%d denied, %d passed, %d revisions decided", denied.Load(), passed.Load(), len(revisions))
}

// revision is that of the snapshot that decides, as /readyz says.
func (w *world) revision(t *testing.T) string {
	t.Helper()
	response, err := http.Get(w.HTTP + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var page struct{ Revision json.Number }
	if err := json.NewDecoder(response.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	return page.Revision.String()
}

// F-03: without rules nothing passes; with files that can't be loaded the server does not start.
func TestF03NoRulesThroughEnvoy(t *testing.T) {
	plans, _, _ := strings.Cut(classes, "rules:")
	s := stage(t, "", stack.Options{Catalog: catalogue(t, plans)})
	key := s.key(t, "acme")
	t.Run("F-03 without any rule everything is refused", func(t *testing.T) {
		s.judge(t, isForbidden, func() reply { return s.raw(t, http1("GET", "/must/be", "x-api-key: "+key)) })
	})
	t.Run("F-03 a catalogue that can't be loaded starts no server", func(t *testing.T) {
		started, err := stack.Start(t.Context(), stack.Options{
			Sluiced: binary, Dir: t.TempDir(), Catalog: catalogue(t, strings.Replace(classes, "effect: allow", "effect: yes", 1)),
		})
		if err == nil {
			t.Error(started.Stop())
		}
	})
}

// rawCodec sends bytes as they are, for messages that are none.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(proto.Message); ok {
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}

// hostileBytes is what no Envoy sends, by what it is.
func hostileBytes(good []byte) map[string][]byte {
	all := map[string][]byte{
		"nothing": {}, "one byte": {0x08}, "noise": []byte(strings.Repeat("\xff\x00\x81", 200)), "text": []byte("GET / HTTP/1.1\r\n\r\n"),
		"a length beyond the end": {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, "a field of number 0": {0x00, 0x01}, "a group without end": {0x0b},
		"an unknown field alone": {0xfa, 0x07, 0x03, 'a', 'b', 'c'}, "empty attributes": {0x0a, 0x00}, "an empty request": {0x0a, 0x02, 0x22, 0x00},
		"nested a thousand times": []byte(strings.Repeat("\x0a\x7f", 1000)),
	}
	for _, cut := range []int{1, len(good) / 3, len(good) / 2, len(good) - 1} {
		all[fmt.Sprintf("a good one cut after %d of %d bytes", cut, len(good))] = good[:cut]
	}
	return all
}

// F-05: whatever bytes reach a door, ext_authz answers with a refusal and ext_proc ends the stream with an error.
func TestF05GarbageToEveryDoor(t *testing.T) {
	w := alone(t, stack.Options{Args: []string{"--audit-anonymous-rate", "1000"}})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	good, err := proto.Marshal(checkRequest(key))
	if err != nil {
		t.Fatal(err)
	}
	force := grpc.ForceCodecV2(rawCodec{})
	for name, b := range hostileBytes(good) {
		t.Run("F-05 ext_authz refuses "+name+", with one record", func(t *testing.T) {
			before := len(w.decisions(t))
			var answer authv3.CheckResponse
			if err := w.conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, b, &answer, force); err != nil {
				t.Fatalf("an error, by which input would choose Envoy's failure mode: %v", err)
			}
			if answer.GetStatus().GetCode() == 0 || answer.GetDeniedResponse().GetStatus().GetCode() != http.StatusBadRequest {
				t.Errorf("%v", &answer)
			}
			await.That(t, "it is on record", func() bool { return len(w.decisions(t)) == before+1 })
			if r := w.decisions(t)[before]; r.Reason != malformed || *r.Allowed {
				t.Errorf("%+v", r)
			}
		})
	}
	process, err := proto.Marshal(processingRequest(key, "/v1/calls"))
	if err != nil {
		t.Fatal(err)
	}
	all := hostileBytes(process)
	all["a CheckRequest"] = good
	for name, b := range all {
		t.Run("F-05 ext_proc ends with an error, or refuses, "+name, func(t *testing.T) {
			stream, err := w.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, extprocv3.ExternalProcessor_Process_FullMethodName, force)
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.SendMsg(b)
			_ = stream.CloseSend()
			var answer extprocv3.ProcessingResponse
			err = stream.RecvMsg(&answer)
			if status.Code(err) == codes.OK && answer.GetImmediateResponse().GetStatus().GetCode() < 400 {
				t.Errorf("%v, %v: Envoy would go on", &answer, err)
			}
		})
	}
	t.Run("F-05 a method that is not there, and a call of the wrong kind, are errors", func(t *testing.T) {
		for _, method := range []string{"/envoy.service.auth.v2.Authorization/Check", "/envoy.service.auth.v3.Authorization/Allow", "/", extprocv3.ExternalProcessor_Process_FullMethodName} {
			var answer authv3.CheckResponse
			if err := w.conn.Invoke(t.Context(), method, good, &answer, force); err == nil {
				t.Errorf("%s answers %v", method, &answer)
			}
		}
	})
	if r, err := check(t.Context(), w.conn, key); err != nil || r.GetStatus().GetCode() != 0 {
		t.Errorf("F-05 a good check afterwards: %v, %v", r, err)
	}
	if log := w.log(t); strings.Contains(log, "panicked") {
		t.Errorf("F-05 something panicked:\n%s", log[max(0, len(log)-2000):])
	}
}

// processingRequest are the request headers that Envoy sends by ext_proc.
func processingRequest(key, path string) *extprocv3.ProcessingRequest {
	headers := checkRequest(key).GetAttributes().GetRequest().GetHttp().GetHeaderMap()
	for _, h := range headers.GetHeaders() {
		if h.GetKey() == ":path" {
			h.RawValue = []byte(path)
		}
	}
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: headers}}}
}

// number is one of sluiced's metrics.
func (w *world) number(t *testing.T, name string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(w.metric(t, name), 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// F-06, F-07, E-08: callers that go away at any moment leave no goroutine, descriptor or memory behind.
func TestF06CallersThatGoAway(t *testing.T) {
	const rounds, each = 4, 4000
	w := alone(t, stack.Options{Catalog: catalogue(t, classes)})
	key := w.key(t, "acme")
	request := checkRequest(key)
	processing := processingRequest(key, "/plain/x")
	authz, extproc := authv3.NewAuthorizationClient(w.conn), extprocv3.NewExternalProcessorClient(w.conn)
	away := func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		switch i % 4 {
		case 0, 1: // cancelled while it is asked
			time.AfterFunc(time.Duration(i%97)*10*time.Microsecond, cancel)
			_, _ = authz.Check(ctx, request)
		case 2: // a stream that asks and goes without listening
			if stream, err := extproc.Process(ctx); err == nil {
				_ = stream.Send(processing)
			}
		default: // a stream that goes after its answer
			if stream, err := extproc.Process(ctx); err == nil && stream.Send(processing) == nil {
				_, _ = stream.Recv()
			}
		}
	}
	used := func() (goroutines, descriptors, heap float64) {
		return w.number(t, "go_goroutines"), w.number(t, "process_open_fds"), w.number(t, "go_memstats_heap_inuse_bytes")
	}
	var goroutines, descriptors, heap float64
	for round := range rounds {
		var callers sync.WaitGroup
		for worker := range 16 {
			callers.Go(func() {
				for i := range each / 16 {
					away(i*16 + worker)
				}
			})
		}
		callers.Wait()
		await.That(t, "no stream is left", func() bool { return w.number(t, "sluice_streams_live") == 0 })
		if round == 0 { // by now what is made once is made
			goroutines, descriptors, heap = used()
		}
	}
	await.That(t, "goroutines and descriptors are as before", func() bool {
		g, d, _ := used()
		return g <= goroutines+20 && d <= descriptors+5
	})
	_, _, after := used()
	if after > heap+32<<20 {
		t.Errorf("F-06 the heap was %.0f and is %.0f bytes", heap, after)
	}
	g, d, _ := used()
	t.Logf("%d calls: goroutines %.0f and %.0f, descriptors %.0f and %.0f, heap %.1f and %.1f MB", rounds*each, goroutines, g, descriptors, d, heap/1e6, after/1e6)
}

// F-07: streams that are open when the server is told to stop hold it up for the drain's time and no longer.
func TestF07OpenStreamsAtTheEnd(t *testing.T) {
	const streams = 1000
	w := alone(t, stack.Options{Catalog: catalogue(t, classes), Args: []string{"--drain-timeout", "1s"}})
	key := w.key(t, "acme")
	processing := processingRequest(key, "/plain/x")
	client := extprocv3.NewExternalProcessorClient(w.conn)
	var open []extprocv3.ExternalProcessor_ProcessClient
	for range streams {
		stream, err := client.Process(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(processing); err != nil {
			t.Fatal(err)
		}
		if r, err := stream.Recv(); err != nil || r.GetRequestHeaders() == nil {
			t.Fatalf("%v, %v", r, err)
		}
		open = append(open, stream)
	}
	ended, err := w.Terminate()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("F-07 exit: %v, want status 0", err)
		}
	case <-time.After(15 * time.Second): // 20 s is what calls have by default
		t.Fatal("F-07 still there after 15 s")
	}
	for _, stream := range open {
		if _, err := stream.Recv(); status.Code(err) == codes.OK {
			t.Fatal("F-07 a stream ended as if all were well: Envoy would go on unwatched")
		}
	}
	w.wholeLog(t)
}

// keyServer is an issuer whose keys come when it is told.
type keyServer struct {
	*httptest.Server
	key  *ecdsa.PrivateKey
	open chan struct{}
}

// startKeyServer has sluiced trust it.
func startKeyServer(t *testing.T) *keyServer {
	t.Helper()
	k := &keyServer{key: newKey(t), open: make(chan struct{})}
	coordinate := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	k.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-k.open:
		case <-r.Context().Done():
			return
		}
		point, _ := k.key.PublicKey.Bytes()
		_, _ = fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256","use":"sig","x":%q,"y":%q}]}`, coordinate(point[1:33]), coordinate(point[33:]))
	}))
	ca := testca.New(t)
	k.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}).Certificate}}
	k.StartTLS()
	t.Cleanup(k.CloseClientConnections)
	t.Cleanup(k.Close)
	t.Setenv("SSL_CERT_FILE", ca.File)
	return k
}

// token is a good one for some time.
func (k *keyServer) token(t *testing.T, life time.Duration) string {
	t.Helper()
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	message := part(`{"alg":"ES256","kid":"a"}`) + "." + part(fmt.Sprintf(`{"iss":"https://id.example.com","aud":"api","sub":"u","exp":%d}`, time.Now().Add(life).Unix()))
	digest := sha256.Sum256([]byte(message))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return message + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (k *keyServer) issuer() string {
	return "issuers:\n  - {name: idp, issuer: \"https://id.example.com\", audiences: [api], tenant: acme, allow_private: true, jwks_uri: \"" + k.URL + "\"}\n"
}

// F-07: a server says that it is ready when the keys of its issuers are there, or have been waited for.
func TestF07ReadyWithKeys(t *testing.T) {
	t.Run("F-07 by the time it is ready the first token passes", func(t *testing.T) {
		k := startKeyServer(t)
		time.AfterFunc(time.Second, func() { close(k.open) })
		s := stage(t, "", stack.Options{Catalog: catalogue(t, classes+k.issuer())})
		token := k.token(t, time.Hour)
		s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/may/x", "authorization: Bearer "+token)) })
	})
	t.Run("F-07 an issuer that hangs holds up the start for a bounded time, and its tokens are refused", func(t *testing.T) {
		k := startKeyServer(t)
		s := stage(t, "", stack.Options{Catalog: catalogue(t, classes+k.issuer())})
		token, key := k.token(t, time.Hour), s.key(t, "acme")
		s.judge(t, isNobody, func() reply { return s.raw(t, http1("GET", "/may/x", "authorization: Bearer "+token)) })
		s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/may/x", "x-api-key: "+key)) })
		close(k.open)
		await.That(t, "its tokens pass once the keys are there", func() bool {
			return s.raw(t, http1("GET", "/may/x", "authorization: Bearer "+token)).status == http.StatusOK
		})
	})
}

// F-08: a tenant at a hundred times its share is refused; nobody else is, nor gets no answer.
func TestF08ANoisyTenantThroughEnvoy(t *testing.T) {
	s := stage(t, "", stack.Options{Catalog: catalogue(t, classes+"  - {name: noisy, effect: allow, audit: best_effort}\n")})
	noisy := s.tenant(t, "noisy", limit("rps", gcra, 10, time.Second))
	quiet := s.key(t, "acme")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	began := time.Now()
	var over, passed atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for ctx.Err() == nil {
				switch s.at(t.Context(), noisy, "/v1/calls").status {
				case http.StatusTooManyRequests:
					over.Add(1)
				case http.StatusOK:
					passed.Add(1)
				default:
					t.Error("F-08 the noisy one got neither an answer nor a refusal of its limit")
				}
			}
		})
	}
	quietly := s.undisturbed(t, quiet, func() bool { return over.Load() < 1000 || time.Since(began) < 3*time.Second })
	stop()
	running.Wait()
	if most := 10 + 10*time.Since(began).Seconds(); float64(passed.Load()) > most {
		t.Errorf("F-08 the noisy one passed %d times, at most %.0f are its share; it was refused %d times", passed.Load(), most, over.Load())
	}
	await.That(t, "each refusal and each admission is on record, or counted", func() bool {
		n := int64(0)
		for _, r := range s.audited(t) {
			switch {
			case r.Tenant == "noisy" && r.Kind == "decision":
				n++
			case r.Kind == "gap" && r.Reason == "queue_full", r.Kind == "summary":
				n += int64(r.Count)
			}
		}
		return n == over.Load()+passed.Load()
	})
	t.Logf("%d passed and %d refused, %d of another tenant passed", passed.Load(), over.Load(), quietly)
}
