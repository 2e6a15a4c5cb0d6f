// Package app is the composition root of the server: it reads the settings,
// builds every part, and starts and stops them in order. Nothing else knows all parts.
package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/voicecore-ai/sluice/accesslog"
	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/extauthz"
	"github.com/voicecore-ai/sluice/extproc"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/api"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
	"github.com/voicecore-ai/sluice/telemetry"
	"github.com/voicecore-ai/sluice/telemetry/traffic"
	"github.com/voicecore-ai/sluice/tenant"
)

// accessQueue is how many outcomes wait for the log before they are dropped and counted.
const accessQueue = 8192

// App is a server that was built. Start it once, stop it once.
type App struct {
	config Config
	log    *slog.Logger

	store       ratelimit.Store   // of counters: embedded or shared
	journal     *memstore.Journal // nil: shared
	embedded    *memstore.Store   // nil: shared
	shared      *shared           // nil: embedded
	catalog     *catalog.Catalog
	audit       *audit.Log           // nil: off
	auditCopies *telemetry.AuditLogs // nil: none
	spans       *telemetry.Spans     // nil: nobody traces
	doors       *telemetry.Doors
	keysets     *authn.KeySets
	authn       *authn.Authenticator
	gate        *gate.Gate
	rls         *rls.Door

	certificates       *certificates // nil: no TLS
	descriptorsRefused atomic.Bool   // what the files of rls-config hold now

	extauthz  *extauthz.Server
	extproc   *extproc.Server
	accesslog *accesslog.Server
	recorder  *accesslog.Logger
	requests  *telemetry.Requests
	traffic   *traffic.Traffic
	described traffic.Descriptors // limits of descriptor files
	grpc      *grpc.Server
	http      *http.Server
	status    *http.Server
	health    *health.Server

	listeners map[string]net.Listener // by setting
	ready     atomic.Bool
	draining  chan struct{} // closed when calls that never end by themselves must
	failed    chan error    // a part that ended by itself
	teardown  teardown
}

// New builds a server and opens its files and listeners; Start serves. An error
// names the setting at fault.
func New(config Config, log *slog.Logger) (*App, error) {
	a := &App{config: config, log: log, listeners: map[string]net.Listener{}, draining: make(chan struct{}), failed: make(chan error, 8)}
	if err := a.build(); err != nil {
		return nil, errors.Join(err, a.teardown.run(context.Background()))
	}
	return a, nil
}

func (a *App) build() error {
	keys, err := loadKeys(a.config.secrets())
	if err != nil {
		return err
	}
	if err := a.openStores(keys); err != nil {
		return err
	}
	if err := a.openAudit(keys); err != nil {
		return err
	}
	if err := a.buildIdentity(keys); err != nil {
		return err
	}
	service, err := a.quotaAPI(keys)
	if err != nil {
		return err
	}
	if err := a.buildGRPC(keys, service); err != nil {
		return err
	}
	if err := a.buildHTTP(service); err != nil {
		return err
	}
	return a.listen()
}

func (a *App) openStores(keys keys) error {
	open := a.openEmbedded
	if a.config.Redis.URL != "" {
		open = func() error { return a.openShared(keys) }
	}
	if err := open(); err != nil {
		return err
	}
	return a.openCatalog(keys)
}

// openEmbedded opens the counters of a server that shares them with nobody.
func (a *App) openEmbedded() error {
	if err := alone(a.config.OnlyHost); err != nil {
		return err
	}
	onDamage := memstore.Deny
	if a.config.JournalOnDamage == "forget" {
		onDamage = memstore.Forget
	}
	var err error
	a.journal, err = memstore.OpenJournal(filepath.Join(a.config.Data, journalFile), memstore.JournalOptions{
		OnDamage: onDamage, Log: a.log,
	})
	if err != nil {
		return dataProblem(a.config.Data, err)
	}
	a.embedded = memstore.New(memstore.Options{MaxCells: a.config.MaxCells, Journal: a.journal})
	a.store = a.embedded
	a.teardown.add(func(context.Context) error { return a.journal.Close() })
	return nil
}

// alone refuses a copy of the one server that may count for itself: Kubernetes starts as many as somebody scales to,
// each on a volume of its own, and together they would admit each limit as often.
func alone(only string) error {
	if only == "" {
		return nil
	}
	host, err := os.Hostname()
	if err == nil && host != only {
		err = fmt.Errorf("this is %s, and only %s may serve: without a Redis each replica counts for itself, and together they would admit each limit as often; scale back to one, or share a Redis (redis-url; docs/stores.md)", host, only)
	}
	if err != nil {
		return fmt.Errorf("only-host: %w", err)
	}
	return nil
}

func (a *App) openCatalog(keys keys) (err error) {
	if a.config.Catalog != "" {
		if _, err := os.ReadDir(a.config.Catalog); err != nil {
			return fmt.Errorf("catalog: %w; name a folder that this user can read, or leave the setting out", err)
		}
	}
	o := catalog.Options{Dir: a.config.Catalog, CellKey: keys.cells, Log: a.log}
	if a.shared != nil {
		o.Redis, o.RedisPrefix = a.shared.client, a.config.Redis.Prefix
	} else {
		o.DB = filepath.Join(a.config.Data, catalogFile)
	}
	a.catalog, err = catalog.Open(o)
	var invalid quota.Problems
	if errors.As(err, &invalid) {
		return fmt.Errorf("catalog: %w", invalid)
	}
	if err != nil && a.shared != nil {
		return err
	}
	if err != nil {
		return dataProblem(a.config.Data, err)
	}
	a.teardown.add(func(context.Context) error { return a.catalog.Close() })
	return nil
}

func (a *App) quotaAPI(keys keys) (*api.Service, error) {
	digest, err := loadAdminDigest(a.config.secrets())
	if err != nil {
		return nil, err
	}
	o := api.Options{
		Catalog: a.catalog, Store: a.store, Pepper: keys.pepper, AdminTokenDigest: digest, Now: time.Now, Log: a.log,
		LastUsed: a.authn.LastUsed,
	}
	if a.audit != nil {
		o.Audit = a.recordAct
	}
	return api.New(o)
}

func (a *App) buildGRPC(keys keys, service *api.Service) error {
	options := append(grpcOptions(), grpc.ForceServerCodecV2(rls.Codec()))
	if a.config.OTLPEndpoint != "" {
		to, err := a.config.collector()
		if err != nil {
			return err
		}
		spans, err := telemetry.OpenSpans(context.Background(), to, Version, a.log)
		if err != nil {
			return err
		}
		a.spans = spans
		a.teardown.add(spans.Stop)
	}
	if a.config.TLSCert != "" {
		creds, files, err := transport(a.config, a.log)
		if err != nil {
			return err
		}
		a.certificates = files
		options = append(options, grpc.Creds(creds))
	}
	a.grpc = grpc.NewServer(options...)
	a.health = health.NewServer()
	healthpb.RegisterHealthServer(a.grpc, watchedHealth{a.health, a.draining})
	service.Register(a.grpc)
	format, err := answer.ParseFormat(a.config.RateLimitFormat)
	if err != nil {
		return fmt.Errorf("ratelimit-format: %w", err)
	}
	answers := answer.NewWriter(format)
	check := extauthz.Options{Gate: a.gate, Answers: answers, Peer: peerName, Log: a.log, Refused: a.gate.Refuse}
	o := extproc.Options{
		Gate: a.gate, Answers: answers, Peer: peerName, Log: a.log, Stands: a.gate.Stands, Recheck: a.gate.Recheck, Revision: a.gate.Revision, Refused: a.gate.Refuse,
	}
	if a.audit != nil {
		o.Ended = a.recordEnd
	}
	a.doors = telemetry.NewDoors(a.spans)
	door := a.doors.Door("ext_authz", "envoy.service.auth.v3.Authorization/Check")
	check.Trace, check.Observe = door.Begin, door.Decided
	door = a.doors.Door("ext_proc", "envoy.service.ext_proc.v3.ExternalProcessor/Process")
	o.Trace, o.Observe = door.Begin, door.Decided
	a.extauthz = extauthz.New(check)
	a.extauthz.Register(a.grpc)
	a.extproc = extproc.New(o)
	a.extproc.Register(a.grpc)
	a.requests = telemetry.NewRequests()
	a.recorder = accesslog.NewLogger(accesslog.LoggerOptions{
		Log: a.log.WithGroup("request"), Metric: a.requests.Count, Mask: audit.NewMask(keys.mask), Queue: accessQueue,
	})
	a.accesslog = accesslog.New(accesslog.Options{
		Verifier: a.gate, Recorder: a.recorder, Peer: peerName, Log: a.log,
		Stands: func(id, principal, proof string) (bool, string) {
			held := gate.HeldBy(tenant.ID(id), principal, proof)
			ok, reason := a.gate.Stands(time.Now().UnixMicro(), &held)
			return ok, reason.String()
		},
	})
	a.accesslog.Register(a.grpc)
	if err := a.buildRLS(keys); err != nil {
		return err
	}
	reflection.Register(a.grpc)
	return nil
}

func (a *App) buildRLS(keys keys) error {
	rlsConfig := &rls.Config{}
	if a.config.RLSConfig != "" {
		var err error
		if rlsConfig, err = rls.Load(a.config.RLSConfig); err != nil {
			return fmt.Errorf("rls-config: %w", err)
		}
		if len(rlsConfig.Domains()) == 0 {
			a.log.Warn("there is no descriptor file yet, so every rate limit call is one about an unknown domain", "rls-config", a.config.RLSConfig)
		}
	}
	a.described.Declare(rlsConfig.Limits())
	door := a.doors.Door("rls", "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
	a.rls = rls.New(rls.Options{
		Gate: a.gate, Config: rlsConfig, HashKey: keys.cells, Peer: peerName, Log: a.log, Soft: a.gate.Soft(),
		OneShard: a.shared != nil && a.shared.counters.OneShard(), Trace: door.BeginCall,
		Observe: func(ctx context.Context, began time.Time, answer rls.Answer) {
			a.described.Called(answer)
			door.Called(ctx, began, answer)
		},
	})
	a.rls.Register(a.grpc)
	return nil
}

// maxScrapes is how many may read /metrics at once: a page takes megabytes in the making.
const maxScrapes = 8

func (a *App) buildHTTP(service *api.Service) error {
	rest, err := service.Handler()
	if err != nil {
		return err
	}
	status := http.NewServeMux()
	status.Handle("/metrics", promhttp.HandlerFor(a.metrics(), promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes}))
	status.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	status.HandleFunc("/readyz", a.readyz)
	mux := http.NewServeMux()
	mux.Handle("/", status)
	mux.Handle("/v1/", rest)
	mux.Handle("/openapi.json", rest)
	a.http, a.status = a.httpServer(mux), a.httpServer(status)
	return nil
}

func (a *App) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderList,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// readyz says 200 while this server should be sent requests, and which
// snapshot it decides by.
func (a *App) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-type", "application/json")
	ready := a.ready.Load()
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"ready": ready, "version": Version, "revision": a.catalog.Snapshot().Revision,
	})
}

// Start serves until Stop and returns once requests are answered.
func (a *App) Start() error {
	if a.gate.Soft() {
		a.part("stage", a.remind)
	}
	a.part("access log", a.recorder.Run)
	a.part("sweep", a.sweep)
	if a.shared != nil {
		a.part("presence", a.shared.presence.Run)
		a.part("Redis' settings", func(ctx context.Context) { a.shared.watch(ctx, a.log) })
	}
	a.part("ext_proc", a.extproc.Run)
	a.part("issuers' keys", a.keysets.Run)
	a.teardown.start("last use of API keys", a.failed, a.keepTimes)
	waiting, enough := context.WithTimeout(context.Background(), firstKeys)
	defer enough()
	if err := a.keysets.Ready(waiting); err != nil {
		a.log.Warn("the keys of some issuers are not there yet; their tokens are refused until they are", "waited", firstKeys, "error", err)
	}
	if a.certificates != nil {
		a.part("tls-cert", a.certificates.watch)
	}
	if a.config.Catalog != "" || a.shared != nil {
		a.teardown.start("catalog", a.failed, a.catalog.Watch)
	}
	if a.config.RLSConfig != "" {
		a.part("rls-config", a.watchDescriptors)
	}
	for name, l := range a.listeners {
		serve := a.grpc.Serve
		switch name {
		case "http-listen":
			serve = a.http.Serve
		case "status-listen":
			serve = a.status.Serve
		}
		a.teardown.start(name, a.failed, func(context.Context) error {
			err := serve(l) // it ends before its context does
			if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
				return nil
			}
			return err
		})
	}
	a.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	a.ready.Store(true)
	serving := []any{"version", Version, "revision", a.catalog.Snapshot().Revision}
	for _, name := range slices.Sorted(maps.Keys(a.listeners)) {
		serving = append(serving, name, a.Addr(name).String())
	}
	a.log.Info("serving", serving...)
	return nil
}

// part starts what only ends when it is told to.
func (a *App) part(name string, run func(context.Context)) {
	a.teardown.start(name, a.failed, func(ctx context.Context) error { run(ctx); return nil })
}

// sweep lets go of counters that are whole again, so that a new tenant finds room.
func (a *App) sweep(ctx context.Context) {
	every(ctx, 5*time.Second, func(now time.Time) {
		if a.shared != nil {
			a.shared.outage.Sweep(now.UnixMicro())
		} else {
			a.embedded.Sweep(now.UnixMicro())
		}
	})
}

// What a stop takes at most after --drain-timeout: for handlers to notice that their calls were
// cut, and for parts to end, queues to be written and files to close.
const (
	cutTimeout   = 2 * time.Second
	closeTimeout = 5 * time.Second
)

// Stop drains without failing a request: health says no first, then calls in
// flight end, then every part that Start started, then files close, in the reverse of the order in
// which they began. When it returns nil, nothing of the server runs any more. When ctx ends first,
// what still runs is named in the error and ends with the process.
func (a *App) Stop(ctx context.Context) error {
	a.ready.Store(false)
	a.health.Shutdown()
	a.log.Info("draining", "delay", a.config.DrainDelay, "timeout", a.config.DrainTimeout)
	select {
	case <-time.After(a.config.DrainDelay):
	case <-ctx.Done():
	}
	err := a.drain(ctx)
	closing, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if errors.Join(a.http.Shutdown(closing), a.status.Shutdown(closing)) != nil {
		a.log.Warn("calls of the REST API were cut")
		err = errors.Join(err, a.http.Close(), a.status.Close())
	}
	closing, cancel = context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	err = errors.Join(err, a.teardown.run(closing))
	a.log.Info("stopped")
	return err
}

// drain ends the gRPC server: by itself within --drain-timeout, then by cutting calls.
func (a *App) drain(ctx context.Context) error {
	drained := make(chan struct{})
	go func() { a.grpc.GracefulStop(); close(drained) }()
	a.accesslog.Drain()
	close(a.draining)
	draining, cancel := context.WithTimeout(ctx, a.config.DrainTimeout)
	defer cancel()
	select {
	case <-drained:
		return nil
	case <-draining.Done():
	}
	a.log.Warn("calls were cut that had not ended in time", "timeout", a.config.DrainTimeout)
	cut := make(chan struct{})
	go func() { a.grpc.Stop(); <-drained; close(cut) }() // waits for handlers, which may wait for a disk
	cutting, cancel := context.WithTimeout(ctx, cutTimeout)
	defer cancel()
	select {
	case <-cut:
		return nil
	case <-cutting.Done():
		return errors.New("calls that were cut are still running; they end with the process")
	}
}
