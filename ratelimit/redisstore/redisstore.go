// Package redisstore keeps counters in Redis 7.0 or newer, or Valkey, for any
// number of sluiceds that share limits: one server, Sentinel or Cluster. It is
// not for one process alone; memstore needs no server.
//
// [Migrate] puts a library of Lua functions onto the servers, [Open] looks
// whether they and the servers are as they must be, and a [Store] charges: all limits
// of a request, all or nothing, in one call of a function, by the server's clock. The
// function does what ratelimit.Apply does, to the bit; what each limit says is worked
// out here, from the cells as the function found them.
//
// Requests that meet share a pipeline and, on one server, calls of the function, up to 32 each;
// one that is alone waits for nobody. Each is answered for itself. One whose answer was
// lost is sent again, with the id that makes it count once.
// Every call ends within Options.Timeout. A refused caller who asks again costs
// no command until time alone could admit him (see denied.go).
//
// On one server, with 128 in flight, a decision of one limit costs Redis 6 to 8 µs on two
// shared cores, and each further limit about 4 (BenchmarkRedisCPU); alone it costs 9, as it does on
// a cluster. A cell of one fixed limit is 129 bytes, an operation about 80 for as long as it is known
// and up to ten seconds more (on a cluster 120, and no longer); a request costs two allocations, and a call of the function about 25.
package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Errors of Charge. After ErrNoAnswer it is not known whether it was charged;
// after the others it was not. A cause is wrapped.
var (
	ErrNoAnswer = errors.New("redisstore: no answer in time")
	ErrRefused  = errors.New("redisstore: Redis refuses")
	ErrShards   = errors.New("redisstore: limits of one request lie on several shards, which Redis Cluster can't charge together; pin the domain to one shard")
	ErrClosed   = errors.New("redisstore: closed")
	errShort    = errors.New("redisstore: fewer outcomes than charges")
	errMany     = fmt.Errorf("redisstore: more than %d charges in one request", MaxCharges)
)

// MaxCharges is the most charges of one request.
const MaxCharges = 64

// Options are what a store is made of.
type Options struct {
	// Client stays its maker's to close. MaxRetries must be -1 and
	// ContextTimeoutEnabled true: the store sends again by itself, and in time.
	Client redis.UniversalClient
	// Prefix begins the keys and channels that have names; "" is "sluice:".
	Prefix string
	// Beside begins, behind Prefix, the keys of others who belong here: those who run write theirs again to a Redis that
	// lost everything, before Migrate comes to mark the keys.
	Beside []string
	// Counters begins the keys of cells; "" is "q:". With a longer one a cell costs 16 bytes more.
	Counters string
	// Timeout bounds each call, sent again or not; 0 is 50 ms. Envoy's own
	// default is 20 ms for RLS and 200 ms for ext_authz; Redis answers in one.
	Timeout time.Duration
	// Remember is how long Redis knows an operation, so that Reapply does not count it twice: tens of seconds, at most ten minutes;
	// 0 is ten seconds. It is to be the same for all that share, or the shortest holds.
	Remember time.Duration
	// Observe is told of each pipeline: how many calls of the function, how long, whether it broke.
	Observe func(calls int, took time.Duration, err error)
	beat    time.Duration // see denied.go
	// CallerTime goes by Operation.Now and lets no key expire: for tests.
	CallerTime bool
}

// Store keeps counters. It is safe for concurrent use. It implements ratelimit.Store.
type Store struct {
	o        Options
	cluster  bool
	lanes    int
	minted   [8]byte // begins the ids of operations that have none
	next     atomic.Uint64
	pilots   []pilot // by slot, so that a server that hangs keeps the calls of others from no pipeline
	denied   denials
	asked    asked
	spare    sync.Pool // *call
	requests sync.Pool // *request
	stats    counters

	loading  sync.Mutex // held while functions that vanished are loaded again
	loaded   time.Time  // when that was last done
	unloaded time.Time  // when it last failed

	stop func()
	gone sync.WaitGroup // the goroutine that listens for what is given back
}

// Stats are counts since Open. Commands are calls of the function, which requests may share.
type Stats struct {
	Commands, Pipelines, Resends, Timeouts, Errors, Reloads, DeniedHits int64
	Listening                                                           bool // what others give back is heard, so denials are remembered
}

type counters struct{ commands, pipelines, resends, timeouts, errors, reloads, deniedHits atomic.Int64 }

// Stats is what s has done so far.
func (s *Store) Stats() Stats {
	c := &s.stats
	return Stats{
		Commands: c.commands.Load(), Pipelines: c.pipelines.Load(), Resends: c.resends.Load(), Timeouts: c.timeouts.Load(),
		Errors: c.errors.Load(), Reloads: c.reloads.Load(), DeniedHits: c.deniedHits.Load(), Listening: s.denied.open.Load(),
	}
}

// OneShard reports whether all charges of a request must have the same Shard,
// as on Redis Cluster. Whoever names the cells keeps those of a request together then.
func (s *Store) OneShard() bool { return s.cluster }

// Close ends what s has running, in at most Options.Timeout. Calls that come later get ErrClosed.
func (s *Store) Close() error {
	s.stop()
	for i := range s.pilots {
		s.pilots[i].close()
	}
	s.gone.Wait()
	return nil
}

func newStore(o Options) *Store {
	_, cluster := o.Client.(*redis.ClusterClient)
	s := &Store{o: o.withDefaults(), cluster: cluster}
	rand.Read(s.minted[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	s.pilots, s.lanes = make([]pilot, 1), serverLanes
	if cluster {
		s.pilots, s.lanes = make([]pilot, clusterPilots), clusterLanes
	}
	for i := range s.pilots {
		s.pilots[i].s = s
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.gone.Go(func() { s.listen(ctx) })
	return s
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = "sluice:"
	}
	if o.Counters == "" {
		o.Counters = "q:"
	}
	if o.beat == 0 {
		o.beat = beat
	}
	if o.Timeout <= 0 {
		o.Timeout = 50 * time.Millisecond
	}
	return o
}

// period is that of operations.lua, and most how many it can tell apart.
const (
	period   = 10 * time.Second
	mostKept = 60
)

// keep is Remember in periods, rounded up.
func (o *Options) keep() byte {
	return byte(min(max((o.Remember+period-1)/period, 1), mostKept))
}

// id is that of op, or a new one; first says that nobody has asked with it.
func (s *Store) id(op ratelimit.Operation) (id [16]byte, first bool) {
	if op.ID != id {
		return op.ID, op.First
	}
	copy(id[:], s.minted[:])
	binary.BigEndian.PutUint64(id[8:], s.next.Add(1))
	return id, true
}

// Charge implements ratelimit.Store. Two charges of one cell are judged as their sum.
func (s *Store) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	switch {
	case len(outcomes) < len(charges):
		return false, errShort
	case len(charges) > MaxCharges:
		return false, errMany
	}
	r, _ := s.requests.Get().(*request)
	if r == nil {
		r = new(request)
	}
	defer s.requests.Put(r)
	r.collect(charges)
	if s.cluster && r.shards > 1 {
		return false, ErrShards
	}
	if len(r.cells) == 0 {
		return r.judge(charges, outcomes, reply{now: op.Now, status: admitted}), nil
	}
	sent := time.Now()
	if s.refused(r, op, charges, outcomes, sent) {
		return false, nil
	}
	if op.ID != ([16]byte{}) && !op.First && !r.idle {
		s.asked.add(op.ID, sent)
	}
	heard := s.denied.heard(r)
	rep, err := s.pilot(r.shard).call(s.encode(r, op, charges))
	if err != nil {
		return false, err
	}
	if err := r.decode(rep); err != nil {
		s.stats.errors.Add(1)
		return false, err
	}
	ok := r.judge(charges, outcomes, rep)
	switch {
	case r.frees:
		for _, name := range r.cells {
			s.denied.forget(name)
		}
	case rep.status == admitted && !r.idle:
		s.denied.update(r, charges, rep.now, sent)
	case !ok && r.refuses(charges, rep.now):
		s.denied.remember(r, rep.now, sent, heard)
	}
	return ok, nil
}

// Applied is an operation that was admitted, by Redis or by somebody in its place.
type Applied struct {
	Operation ratelimit.Operation // ID must be set; Now is when it was
	Charges   []ratelimit.Charge
}

// Reapply charges what Redis may have lost. An operation whose id Redis knows is
// skipped; of one it does not know every charge is applied up to the brim, as of
// when it was, and never refused. Redis knows an id for Options.Remember: of one that is
// older than that and was not lost, the charges count twice. After an error some
// may have been applied; to do it all again is safe within that time. missing is how many Redis did not know.
func (s *Store) Reapply(ctx context.Context, ops []Applied) (missing int, err error) {
	for first := range ops {
		if len(ops[first].Charges) > MaxCharges {
			return 0, errMany
		}
		if ops[first].Operation.ID == ([16]byte{}) {
			return 0, errors.New("redisstore: an operation without an id can't be applied again")
		}
	}
	for len(ops) > 0 {
		n := min(len(ops), maxBatch)
		m, err := s.reapply(ctx, ops[:n])
		if missing += m; err != nil {
			return missing, err
		}
		ops = ops[n:]
	}
	return missing, nil
}

func (s *Store) reapply(ctx context.Context, ops []Applied) (int, error) {
	errs := make([]error, len(ops))
	var all sync.WaitGroup
	var missing atomic.Int64
	for i := range ops {
		var r request
		r.collect(ops[i].Charges)
		if s.cluster && r.shards > 1 {
			return 0, ErrShards
		}
		if len(r.cells) == 0 || r.idle {
			continue
		}
		r.forced = true
		c := s.encode(&r, ops[i].Operation, ops[i].Charges)
		all.Go(func() {
			if errs[i] = ctx.Err(); errs[i] == nil {
				var rep reply
				if rep, errs[i] = s.pilot(r.shard).call(c); errs[i] == nil && rep.status == admitted {
					missing.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(missing.Load()), errors.Join(errs...)
}
