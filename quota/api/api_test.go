package api

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

const (
	token   = "sla_for-tests"
	service = "sluice.quota.v1.QuotaService"
)

var (
	start  = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	pepper = [32]byte{1}
)

// world is the API over a real catalogue and store, served on real sockets.
type world struct {
	quotav1.QuotaServiceClient

	service *Service
	catalog *catalog.Catalog
	store   *memstore.Store
	conn    *grpc.ClientConn
	url     string
	now     time.Time // set it between calls only
}

func newWorld(t *testing.T, dir string) *world {
	t.Helper()
	return newWorldOn(t, catalog.Options{Dir: dir, DB: filepath.Join(t.TempDir(), "catalog.db")})
}

func newWorldOn(t *testing.T, o catalog.Options) *world {
	t.Helper()
	w := &world{now: start}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	o.CellKey, o.Log = [16]byte{2}, log
	var err error
	w.catalog, err = catalog.Open(o)
	must(t, err)
	w.store = memstore.New(memstore.Options{MaxCells: 10_000})
	w.service, err = New(Options{
		Catalog: w.catalog, Store: w.store, Pepper: pepper, AdminTokenDigest: sha256.Sum256([]byte(token)),
		Now: func() time.Time { return w.now }, Log: log,
	})
	must(t, err)

	server := grpc.NewServer()
	w.service.Register(server)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = server.Serve(listener) }()
	handler, err := w.service.Handler()
	must(t, err)
	web := httptest.NewServer(handler)
	w.url = web.URL
	w.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	w.QuotaServiceClient = quotav1.NewQuotaServiceClient(w.conn)
	t.Cleanup(func() {
		_ = w.conn.Close()
		web.Close()
		server.Stop()
		must(t, w.catalog.Close())
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signed is a context whose gRPC calls carry the admin token.
func signed(t *testing.T) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

// rest sends one REST request with the admin token; header pairs follow the body.
func (w *world) rest(t *testing.T, method, path, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	return do(t, r)
}

func do(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	a, err := http.DefaultTransport.RoundTrip(r)
	must(t, err)
	defer func() { _ = a.Body.Close() }()
	answer, err := io.ReadAll(a.Body)
	must(t, err)
	return a.StatusCode, string(answer)
}

func limit(name string, n int64) *quotav1.Limit {
	return &quotav1.Limit{Name: name, Algorithm: "fixed", Limit: n, Window: durationpb.New(time.Hour)}
}

// gold makes plan gold, tenant acme on it, and returns them.
func (w *world) gold(t *testing.T, limits ...*quotav1.Limit) (*quotav1.Plan, *quotav1.Tenant) {
	t.Helper()
	plan, err := w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{PlanId: "gold", Plan: &quotav1.Plan{Limits: limits}})
	must(t, err)
	acme, err := w.CreateTenant(signed(t), &quotav1.CreateTenantRequest{TenantId: "acme", Tenant: &quotav1.Tenant{Plan: "plans/gold"}})
	must(t, err)
	return plan, acme
}

// refused checks an error's code and the reason in its ErrorInfo, and returns the fields at fault.
func refused(t *testing.T, err error, code codes.Code, reason string) (fields []string) {
	t.Helper()
	s := status.Convert(err)
	got := ""
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			got = d.GetReason()
			if d.GetDomain() != "sluice" {
				t.Errorf("domain %q", d.GetDomain())
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	if s.Code() != code || got != reason {
		t.Errorf("got %v %s (%s), want %v %s", s.Code(), got, s.Message(), code, reason)
	}
	return fields
}

func wantFields(t *testing.T, got []string, want ...string) {
	t.Helper()
	for _, f := range want {
		if !slices.Contains(got, f) {
			t.Errorf("no violation of %s among %q", f, got)
		}
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	_, err := New(Options{})
	if err == nil {
		t.Fatal("made a service of nothing")
	}
	for _, name := range []string{"Catalog", "Store", "Pepper", "AdminTokenDigest", "Now", "Log"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v doesn't name %s", err, name)
		}
	}
}
