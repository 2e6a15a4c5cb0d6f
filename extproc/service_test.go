package extproc_test

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/extproc"
	"github.com/voicecore-ai/sluice/gate"
)

// seen is a gate that refuses and keeps what it was asked.
type seen struct{ request gate.Request }

func (s *seen) Admit(_ context.Context, _ int64, r *gate.Request, _ *gate.Decision) { s.request = *r }

func TestTheServiceIsWhatTheRouteSays(t *testing.T) {
	const holder = "spiffe://mesh/ns/voicecore/sa/call"
	for _, tt := range []struct {
		name      string
		metadata  []string
		service   string
		malformed bool
	}{
		{"nothing, and the gate takes the holder", nil, "", false},
		{"the route's", []string{"x-sluice-service", "billing"}, "billing", false},
		{"two are none", []string{"x-sluice-service", "billing", "x-sluice-service", "calls"}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := new(seen)
			s := extproc.New(extproc.Options{Gate: asked, Answers: answer.NewWriter(answer.Draft10), Peer: known, Log: slog.New(slog.DiscardHandler)})
			in := good()
			attributes, err := structpb.NewStruct(map[string]any{"connection.uri_san_local_certificate": holder})
			if err != nil {
				t.Fatal(err)
			}
			in.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": attributes}
			stream, err := dial(t, s).Process(metadata.AppendToOutgoingContext(t.Context(), tt.metadata...))
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(in); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			if r := asked.request; r.Action.Service != tt.service || r.Holder != holder || (r.Malformed != "") != tt.malformed {
				t.Errorf("asked about %q for %q, malformed %q", r.Action.Service, r.Holder, r.Malformed)
			}
		})
	}
}
