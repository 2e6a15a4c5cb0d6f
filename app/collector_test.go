package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/testca"
)

func TestWhatIsSentToACollectorGoesNowhereInPlainTextUnasked(t *testing.T) {
	for what, c := range map[string]struct {
		args []string
		want string // "" for accepted
	}{
		"plain text on this machine":               {[]string{"--otlp-endpoint", "127.0.0.1:4317", "--audit-otlp"}, ""},
		"TLS to another":                           {[]string{"--otlp-endpoint", "https://collector.example:4317", "--otlp-ca", "ca.pem"}, ""},
		"plain text to another, where it is asked": {[]string{"--otlp-endpoint", "collector.example:4317", "--otlp-plaintext"}, ""},
		"plain text to another":                    {[]string{"--otlp-endpoint", "collector.example:4317"}, "otlp-endpoint collector.example:4317: plain text to another machine: who is on the way reads which tenant does what; write https://collector.example:4317, or say otlp-plaintext"},
		"a port on whatever host":                  {[]string{"--otlp-endpoint", ":4317"}, "plain text to another machine"},
		"no port":                                  {[]string{"--otlp-endpoint", "https://collector.example"}, "otlp-endpoint https://collector.example: want host:port"},
		"a path":                                   {[]string{"--otlp-endpoint", "https://collector.example:4317/v1/traces"}, "want host:port"},
		"another scheme":                           {[]string{"--otlp-endpoint", "http://127.0.0.1:4317"}, "want host:port"},
		"TLS and plain text":                       {[]string{"--otlp-endpoint", "https://collector.example:4317", "--otlp-plaintext"}, "otlp-plaintext: otlp-endpoint says https"},
		"an authority for plain text":              {[]string{"--otlp-endpoint", "127.0.0.1:4317", "--otlp-ca", "ca.pem"}, "otlp-ca: does nothing while otlp-endpoint is plain text; write https://127.0.0.1:4317"},
		"an authority for nobody":                  {[]string{"--otlp-ca", "ca.pem"}, "otlp-endpoint: empty, so otlp-ca and otlp-plaintext would do nothing"},
		"copies for nobody":                        {[]string{"--audit-otlp"}, "audit-otlp: needs otlp-endpoint"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := load(t, nil, c.args)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// receiver is a collector behind TLS.
type receiver struct {
	collogs.UnimplementedLogsServiceServer
	coltrace.UnimplementedTraceServiceServer
	address      string
	spans, lines atomic.Int64
}

type (
	logsOf  struct{ *receiver }
	spansOf struct{ *receiver }
)

func (r logsOf) Export(_ context.Context, in *collogs.ExportLogsServiceRequest) (*collogs.ExportLogsServiceResponse, error) {
	r.lines.Add(int64(len(in.GetResourceLogs())))
	return &collogs.ExportLogsServiceResponse{}, nil
}

func (r spansOf) Export(_ context.Context, in *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	r.spans.Add(int64(len(in.GetResourceSpans())))
	return &coltrace.ExportTraceServiceResponse{}, nil
}

func startReceiver(t *testing.T, leaf testca.Leaf) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{address: l.Addr().String()}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{leaf.Certificate}, MinVersion: tls.VersionTLS12})))
	collogs.RegisterLogsServiceServer(s, logsOf{r})
	coltrace.RegisterTraceServiceServer(s, spansOf{r})
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(s.Stop)
	return r
}

func TestACollectorIsSpokenToByTLS(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms between exports
	ours, theirs := testca.New(t), testca.New(t)
	leaf := ours.Issue(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})

	// One request with a span, and with a record of its refusal.
	serve := func(r *receiver, args ...string) *server {
		s := run(t, append(args, "--otlp-endpoint", "https://"+r.address, "--audit-otlp")...)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if _, err := authv3.NewAuthorizationClient(dial(t, s)).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "h"}},
		}}); err != nil {
			t.Fatal(err)
		}
		return s
	}

	t.Run("one that proves itself gets spans and records", func(t *testing.T) {
		r := startReceiver(t, leaf)
		serve(r, "--otlp-ca", ours.File)
		await.That(t, "both come", func() bool { return r.spans.Load() > 0 && r.lines.Load() > 0 })
	})
	for what, args := range map[string][]string{
		"one of another authority":         {"--otlp-ca", theirs.File},
		"one that the system knows not of": nil,
	} {
		t.Run(what+" gets nothing", func(t *testing.T) {
			r := startReceiver(t, leaf)
			s := serve(r, args...)
			s.stop(t)
			if r.spans.Load() > 0 || r.lines.Load() > 0 {
				t.Errorf("%d batches of spans, %d of records", r.spans.Load(), r.lines.Load())
			}
			if sent := s.auditCopies.Sent(); sent > 0 || s.auditCopies.Dropped() == 0 {
				t.Errorf("%d records sent, %d dropped", sent, s.auditCopies.Dropped())
			}
		})
	}
	t.Run("a file that holds no certificate is refused at the start", func(t *testing.T) {
		for file, want := range map[string]string{leaf.KeyFile: "holds no PEM certificate", leaf.KeyFile + ".none": "no such file"} {
			if err := refused(t, "--otlp-endpoint", "https://127.0.0.1:1", "--otlp-ca", file); !strings.Contains(err.Error(), "otlp-ca: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
	})
}
