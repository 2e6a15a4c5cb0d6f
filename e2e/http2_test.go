package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
)

// attacker is a client that writes the frames that it likes.
type attacker struct {
	t    *testing.T
	conn net.Conn
	*http2.Framer
	next     uint32
	settings map[http2.SettingID]uint32

	mu      sync.Mutex
	goAway  *http2.ErrCode
	resets  map[http2.ErrCode]int
	pongs   int
	status  map[uint32]string // grpc-status, by stream
	ended   chan struct{}     // closed when the server has closed the connection
	decoder *hpack.Decoder
}

func dialHTTP2(t *testing.T, address string) *attacker {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	a := &attacker{
		t: t, conn: conn, Framer: http2.NewFramer(conn, conn), next: 1, settings: map[http2.SettingID]uint32{},
		resets: map[http2.ErrCode]int{}, status: map[uint32]string{}, ended: make(chan struct{}), decoder: hpack.NewDecoder(4096, nil),
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	frame, err := a.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	_ = frame.(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error { a.settings[s.ID] = s.Val; return nil })
	go a.read()
	return a
}

// read notes what the server says until it closes the connection.
func (a *attacker) read() {
	defer close(a.ended)
	for {
		frame, err := a.ReadFrame()
		if err != nil {
			return
		}
		a.mu.Lock()
		switch f := frame.(type) {
		case *http2.GoAwayFrame:
			code := f.ErrCode
			a.goAway = &code
		case *http2.PingFrame:
			a.pongs++
		case *http2.RSTStreamFrame:
			a.resets[f.ErrCode]++
		case *http2.HeadersFrame:
			fields, _ := a.decoder.DecodeFull(f.HeaderBlockFragment())
			for _, h := range fields {
				if h.Name == "grpc-status" {
					a.status[f.StreamID] = h.Value
				}
			}
		}
		a.mu.Unlock()
	}
}

// saw waits until the server has said something.
func (a *attacker) saw(what string, holds func() bool) {
	a.t.Helper()
	await.That(a.t, what, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return holds()
	})
}

// block is an encoded header list of a gRPC call. No entry goes into the
// dynamic table, so blocks do not depend on each other.
func block(method string, more ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	fields := append([]string{
		":method", "POST", ":scheme", "http", ":path", method, ":authority", "sluiced", "content-type", "application/grpc", "te", "trailers",
	}, more...)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// open begins a stream whose request goes on.
func (a *attacker) open(headers []byte) (id uint32, err error) {
	id, a.next = a.next, a.next+2
	const largest = 16 << 10
	first := headers[:min(len(headers), largest)]
	err = a.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(first) == len(headers)})
	for rest := headers[len(first):]; len(rest) > 0 && err == nil; {
		part := rest[:min(len(rest), largest)]
		rest = rest[len(part):]
		err = a.WriteContinuation(id, len(rest) == 0, part)
	}
	return id, err
}

// framed is a gRPC message as it is in DATA frames.
func framed(compressed byte, message []byte) []byte {
	n := len(message)
	return append([]byte{compressed, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
}

// memory is the resident size of sluiced in MiB, now and at most so far.
func memory(t *testing.T, w *world) (now, peak int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Sluiced().Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "VmRSS:":
			now, _ = strconv.Atoi(fields[1])
		case "VmHWM:":
			peak, _ = strconv.Atoi(fields[1])
		}
	}
	return now >> 10, peak >> 10
}

// bystander is a second client that goes on asking until stopped, and counts.
type bystander struct {
	stop     context.CancelFunc
	done     chan struct{}
	calls    atomic.Int64
	failures atomic.Int64
	first    atomic.Pointer[error]
}

func (w *world) bystander(t *testing.T, key string) *bystander {
	conn := w.dial(t)
	ctx, stop := context.WithCancel(t.Context())
	b := &bystander{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for ctx.Err() == nil {
			r, err := check(context.WithoutCancel(ctx), conn, key)
			if err == nil && r.GetStatus().GetCode() != 0 {
				err = fmt.Errorf("refused: %v", r)
			}
			if b.calls.Add(1); err != nil {
				b.failures.Add(1)
				b.first.CompareAndSwap(nil, &err)
			}
		}
	}()
	return b
}

func TestWhatAClientMayDoToTheServer(t *testing.T) {
	w := alone(t, stack.Options{})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	check := block(authv3.Authorization_Check_FullMethodName)
	process := block(extprocv3.ExternalProcessor_Process_FullMethodName)
	silent, err := net.Dial("tcp", w.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	opened := time.Now()
	other := w.bystander(t, key)
	await.That(t, "the bystander is served", func() bool { return other.calls.Load() > 100 })
	before, _ := memory(t, w)

	t.Run("it is told of 10,000 streams and 64 KiB of headers", func(t *testing.T) {
		s := dialHTTP2(t, w.GRPC).settings
		if s[http2.SettingMaxConcurrentStreams] != 10_000 || s[http2.SettingMaxHeaderListSize] != 64<<10 {
			t.Errorf("%v", s)
		}
	})
	t.Run("a header list over 64 KiB is refused, and the connection lives", func(t *testing.T) {
		var many []string
		for i := range 33 { // of 2 KiB, so that the last is one too many
			many = append(many, fmt.Sprintf("x-%02d", i), strings.Repeat("a", 2000))
		}
		a := dialHTTP2(t, w.GRPC)
		if _, err := a.open(block(authv3.Authorization_Check_FullMethodName, many...)); err != nil {
			t.Fatal(err)
		}
		a.saw("a reset", func() bool { return a.resets[http2.ErrCodeFrameSize] == 1 })
		id, _ := a.open(check)
		if err := a.WriteData(id, true, framed(0, nil)); err != nil {
			t.Fatal(err)
		}
		a.saw("an answer to the next call", func() bool { return a.status[id] == "0" })
	})
	t.Run("one header over 64 KiB ends the connection", func(t *testing.T) {
		a := dialHTTP2(t, w.GRPC)
		_, _ = a.open(block(authv3.Authorization_Check_FullMethodName, "x-big", strings.Repeat("a", 65<<10)))
		select {
		case <-a.ended:
		case <-time.After(30 * time.Second):
			t.Error("it is still open")
		}
	})
	t.Run("headers that never end are cut off", func(t *testing.T) {
		a := dialHTTP2(t, w.GRPC)
		part := block("/x", "x-big", strings.Repeat("a", 16<<10-200))
		err := a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: check})
		sent := 0
		for ; err == nil && sent < 4096; sent++ { // 64 MiB
			err = a.WriteContinuation(1, false, part)
		}
		select {
		case <-a.ended:
			t.Logf("after %d KiB at most", sent*16)
		case <-time.After(30 * time.Second):
			t.Errorf("%d KiB were taken", sent*16)
		}
	})
	t.Run("a message over 1 MiB is refused by every door, and one of 1 MiB is not", func(t *testing.T) {
		for _, method := range []string{
			authv3.Authorization_Check_FullMethodName, extprocv3.ExternalProcessor_Process_FullMethodName, ratelimitv3.RateLimitService_ShouldRateLimit_FullMethodName,
		} {
			if _, err := sendBytes(t.Context(), w.conn, method, make([]byte, 1<<20+1)); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%s: %v, want RESOURCE_EXHAUSTED", method, err)
			}
			if _, err := sendBytes(t.Context(), w.conn, method, make([]byte, 1<<20)); status.Code(err) == codes.ResourceExhausted {
				t.Errorf("%s of 1 MiB: %v", method, err)
			}
		}
	})
	t.Run("a message that inflates to more than 1 MiB is refused", func(t *testing.T) {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, _ = io.CopyN(z, zeros{}, 50<<20)
		_ = z.Close()
		a := dialHTTP2(t, w.GRPC)
		id, _ := a.open(block(authv3.Authorization_Check_FullMethodName, "grpc-encoding", "gzip"))
		message := framed(1, packed.Bytes())
		for len(message) > 0 {
			part := message[:min(len(message), 16<<10)]
			message = message[len(part):]
			if err := a.WriteData(id, len(message) == 0, part); err != nil {
				t.Fatal(err)
			}
		}
		a.saw("RESOURCE_EXHAUSTED", func() bool { return a.status[id] == "8" })
		t.Logf("%d KiB that inflate to 50 MiB", packed.Len()>>10)
	})
	t.Run("a message in frames of one byte is read", func(t *testing.T) {
		request, _ := proto.Marshal(checkRequest(key, "x-pad", strings.Repeat("a", 30_000)))
		a := dialHTTP2(t, w.GRPC)
		id, _ := a.open(check)
		message := framed(0, request)
		for i := range message {
			if err := a.WriteData(id, i == len(message)-1, message[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		a.saw("an answer", func() bool { return a.status[id] == "0" })
	})
	t.Run("the 10,001st stream is refused", func(t *testing.T) {
		a := dialHTTP2(t, w.GRPC)
		for range 10_000 {
			if _, err := a.open(process); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.open(process); err != nil {
			t.Fatal(err)
		}
		a.saw("one REFUSED_STREAM and no other reset", func() bool { return a.resets[http2.ErrCodeRefusedStream] == 1 && len(a.resets) == 1 })
		now, _ := memory(t, w)
		t.Logf("10,000 open streams: %d MiB more", now-before)
	})
	t.Run("pings without end get GOAWAY with ENHANCE_YOUR_CALM", func(t *testing.T) {
		a := dialHTTP2(t, w.GRPC)
		for range 1000 {
			if a.WritePing(false, [8]byte{1}) != nil {
				break
			}
		}
		a.saw("ENHANCE_YOUR_CALM", func() bool { return a.goAway != nil && *a.goAway == http2.ErrCodeEnhanceYourCalm })
		select {
		case <-a.ended:
		case <-time.After(30 * time.Second):
			t.Error("the connection is still open")
		}
	})
	t.Run("streams that are opened and reset at once cost others nothing", func(t *testing.T) {
		request, _ := proto.Marshal(checkRequest(key))
		calls, begin := other.calls.Load(), time.Now()
		const streams = 20_000
		a := dialHTTP2(t, w.GRPC)
		for i := range streams {
			headers := check
			if i%2 == 0 {
				headers = process
			}
			id, err := a.open(headers)
			if err == nil && i%4 != 0 {
				err = a.WriteData(id, true, framed(0, request))
			}
			if err = errors.Join(err, a.WriteRSTStream(id, http2.ErrCodeCancel)); err != nil {
				t.Fatalf("the server hung up after %d: %v", i, err)
			}
		}
		if err := a.WritePing(false, [8]byte{1}); err != nil {
			t.Fatal(err)
		}
		a.saw("the server has read all of it", func() bool { return a.pongs == 1 })
		t.Logf("%d streams reset in %v, in which the other client was served %d times", streams, time.Since(begin).Round(time.Millisecond), other.calls.Load()-calls)
	})

	t.Run("a connection that says nothing is closed", func(t *testing.T) {
		_ = silent.SetReadDeadline(time.Now().Add(15 * time.Second)) // one that has passed is an error, even if the end was there before
		if _, err := io.Copy(io.Discard, silent); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("still open after %v", time.Since(opened).Round(time.Second))
		}
		t.Logf("after %v", time.Since(opened).Round(time.Second))
	})
	other.stop()
	<-other.done
	if n := other.failures.Load(); n > 0 {
		t.Errorf("%d of the other client's %d calls failed: %v", n, other.calls.Load(), *other.first.Load())
	}
	_, peak := memory(t, w)
	if peak-before > 256 {
		t.Errorf("%d MiB at most, %d before", peak, before)
	}
	t.Logf("%d calls of the other client, none failed; memory %d MiB before, %d at most", other.calls.Load(), before, peak)
	if log := w.log(t); strings.Contains(log, "panic") {
		t.Errorf("the log:\n%s", log)
	}
}

// zeros is a source of zero bytes.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
