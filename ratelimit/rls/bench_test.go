package rls

import (
	"bufio"
	"context"
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
	"syscall"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/voicecore-ai/sluice/authz/rawpb"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

// serverEnv makes this binary a server on a socket: kind, blank, path.
const serverEnv = "RLS_BENCH_SERVER"

func TestMain(m *testing.M) {
	if v := os.Getenv(serverEnv); v != "" {
		kind, path, _ := strings.Cut(v, " ")
		if err := benchServer(kind, path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// streamWorkers is about as many as calls are in flight: a worker keeps its
// stack, a new goroutine grows one, and that is a quarter of what a call costs.
const streamWorkers = 64

// noop is the server that most people would write, without what it is for.
type noop struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
}

func (noop) ShouldRateLimit(context.Context, *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	return &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK}, nil
}

// benchServer serves until its input ends, and answers each line of it with
// the CPU time that it has used, in µs.
func benchServer(kind, path string) error {
	var s *grpc.Server
	if kind == "reference" {
		s = grpc.NewServer()
		ratelimitv3.RegisterRateLimitServiceServer(s, noop{})
	} else {
		options := []grpc.ServerOption{grpc.ForceServerCodecV2(Codec())}
		if kind != "door" {
			options = append(options, grpc.NumStreamWorkers(streamWorkers))
		}
		config, err := Load("testdata/good")
		if err != nil {
			return err
		}
		s = grpc.NewServer(options...)
		New(Options{Gate: memstore.New(memstore.Options{}), Config: config}).Register(s)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() { _ = s.Serve(l) }() //nolint:errcheck // ends with the process
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return err
		}
		fmt.Println(u.Utime.Nano()/1000 + u.Stime.Nano()/1000)
	}
	return nil
}

// child is a server process and a connection to it.
type child struct {
	in   io.WriteCloser
	out  *bufio.Scanner
	conn *grpc.ClientConn
}

func startChild(b *testing.B, kind string) *child {
	b.Helper()
	path := filepath.Join(b.TempDir(), "s")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+kind+" "+path, "GOMAXPROCS=1")
	if kind == "tuned" {
		cmd.Env = append(cmd.Env, "GOGC=400")
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	c := &child{in: in, out: bufio.NewScanner(out)}
	if !c.out.Scan() {
		b.Fatal("the server did not start")
	}
	if c.conn, err = grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec()))); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = c.conn.Close() //nolint:errcheck // the process ends
		_ = in.Close()     //nolint:errcheck // the process ends
		_ = cmd.Wait()     //nolint:errcheck // the process ends
	})
	return c
}

// cpu is what the server has used so far, in µs.
func (c *child) cpu(b *testing.B) float64 {
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		b.Fatal(err)
	}
	c.out.Scan()
	v, err := strconv.ParseFloat(c.out.Text(), 64)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// perCall is the server's CPU, µs per call, of n calls with 32 in flight.
func (c *child) perCall(b *testing.B, n int, messages [][]byte) float64 {
	const inFlight = 32
	before := c.cpu(b)
	var group sync.WaitGroup
	for w := range inFlight {
		group.Go(func() {
			reply := rawpb.New(nil)
			for i := range n / inFlight {
				request := rawpb.New(messages[(w+i)%len(messages)])
				if err := c.conn.Invoke(context.Background(), ratelimitv3.RateLimitService_ShouldRateLimit_FullMethodName, request, reply); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return (c.cpu(b) - before) / float64(n)
}

// BenchmarkRLSServer compares the server CPU of a call with that of a default
// grpc-go server whose generated handler does nothing: same bytes, same
// client, rounds in the order A B B A. "door" has grpc-go's defaults but the
// codec, "workers" has stream workers too, "tuned" GOGC=400 as well. The
// reference's answer is two bytes; the door's says what was left of two limits.
func BenchmarkRLSServer(b *testing.B) {
	const rounds, calls = 12, 32 * 400
	var messages [][]byte
	for i := range 16 {
		messages = append(messages, marshal(b, ask("messaging",
			[]string{"kind", "nested", "to", fmt.Sprint("206123456", i)}, []string{"path", fmt.Sprint("/api/v", i)})))
	}
	reference := startChild(b, "reference")
	reference.perCall(b, calls, messages)
	for _, kind := range []string{"door", "workers", "tuned"} {
		b.Run(kind, func(b *testing.B) {
			ours := startChild(b, kind)
			ours.perCall(b, calls, messages)
			for range b.N {
				var ratios, base, mine []float64
				for range rounds {
					a1 := reference.perCall(b, calls, messages)
					b1 := ours.perCall(b, calls, messages)
					b2 := ours.perCall(b, calls, messages)
					a2 := reference.perCall(b, calls, messages)
					ratios = append(ratios, (b1+b2)/(a1+a2))
					base, mine = append(base, (a1+a2)/2), append(mine, (b1+b2)/2)
				}
				slices.Sort(ratios)
				slices.Sort(base)
				slices.Sort(mine)
				// Distribution-free bound of the median: for 12 values the 10th is above it with 98 %.
				b.ReportMetric(ratios[len(ratios)/2], "ratio")
				b.ReportMetric(ratios[9], "ratio-upper")
				b.ReportMetric(base[len(base)/2], "reference-µs/call")
				b.ReportMetric(mine[len(mine)/2], "µs/call")
			}
		})
	}
}
