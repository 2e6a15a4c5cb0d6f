package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit/outage"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/replicas"
	"github.com/voicecore-ai/sluice/telemetry"
)

// shared is what a server has that shares a Redis with others.
type shared struct {
	client   redis.UniversalClient
	counters *redisstore.Store
	outage   *outage.Store
	presence *replicas.Presence
	calls    *telemetry.StoreCalls
	unfit    atomic.Bool // what the last look found that got an answer
}

// settleTimeout is how long a stop waits for Redis to take what was admitted without it.
const settleTimeout = time.Second

// patienceWithTry is what Redis has to say what it refuses: many times a request's, for a server that did not hear it would start, and
// count nothing.
const patienceWithTry = 10 * time.Second

// secretFix is what to do about replicas.ErrSecret.
const secretFix = "give every replica the same folder to --secrets, or this one a --redis-prefix of its own; if the secret was changed on purpose, stop all replicas and delete the key 'secret' behind the prefix"

// openShared connects to Redis, or says why this server can't share it. It leaves nothing half open.
func (a *App) openShared(keys keys) error {
	ctx, cancel := context.WithTimeout(context.Background(), patienceWithRedis)
	defer cancel()
	config := a.config.Redis
	o, err := config.options()
	if err != nil {
		return err
	}
	s := &shared{calls: telemetry.NewStoreCalls()}
	if s.client, err = redisconn.New(o); err != nil {
		return err
	}
	a.teardown.add(func(context.Context) error { return s.client.Close() })
	problems := redisconn.Check(ctx, o)
	if err := redisconn.Refusal(problems); err != nil {
		return err
	}
	for _, p := range problems {
		a.log.Warn("a part of Redis is not as it should be", "problem", p.Error())
	}
	counters := config.store(s.client)
	counters.Observe = s.calls.Observe
	counters.Timeout = outage.PatienceOf(counters.Timeout)
	if s.counters, err = redisstore.Open(ctx, counters); err != nil {
		return err
	}
	a.teardown.add(func(context.Context) error { return s.counters.Close() })
	if err := s.counters.Try(patienceWithTry); lacksRight(err) {
		return fmt.Errorf("redis: a charge of a limit that nobody has fails: %w; %s", err, rightsFix)
	} else if err != nil { // which passes: a slot that moves, a primary that is gone
		a.log.Warn("Redis can't count everywhere now; limits mean what their on_outage says until it can", "error", err)
	}
	if s.presence, err = replicas.Join(ctx, s.client, config.Prefix, keys.fingerprint, a.log); errors.Is(err, replicas.ErrSecret) {
		return fmt.Errorf("secrets: %w; %s", err, secretFix)
	} else if err != nil {
		return err
	}
	s.outage = outage.New(outage.Options{
		Shared: s.counters, Slot: s.counters.Slot, Replicas: s.presence.Count, OnOutage: config.onOutage(), Budget: config.Timeout, Remembered: counters.Remember, MaxCells: a.config.MaxCells, Log: a.log,
	})
	a.teardown.add(func(stop context.Context) error {
		patience, cancel := context.WithTimeout(stop, settleTimeout)
		defer cancel()
		if left := s.outage.Drain(patience); left > 0 {
			a.log.Warn("Redis will never count some requests that were admitted without it", "requests", left)
		}
		s.outage.Close()
		return nil
	})
	a.shared, a.store = s, s.outage
	a.log.Info("counters are shared", "redis", o.Target.String(), "replicas", s.presence.Count())
	return nil
}

// lookEvery is how often Redis is asked whether it is still set as at the start.
const lookEvery = time.Minute

// watch looks whether the servers, which a failover may have made others, still keep what they are given.
func (s *shared) watch(ctx context.Context, log *slog.Logger) {
	every(ctx, lookEvery, func(time.Time) { s.look(ctx, log) })
}

// look says nothing of a Redis that does not answer: that is the breaker's.
func (s *shared) look(ctx context.Context, log *slog.Logger) {
	one, cancel := context.WithTimeout(ctx, patienceWithRedis)
	defer cancel()
	err := s.counters.Check(one)
	if unfit := errors.Is(err, redisstore.ErrUnfit); unfit || err == nil {
		s.unfit.Store(unfit)
	}
	if err != nil && ctx.Err() == nil && !s.outage.Stats().Open {
		log.Error("Redis is not as it was at the start, and limits may not hold", "error", err)
	}
}

// lacksRight reports whether err is of a user who may call functions, and not do all that they do.
func lacksRight(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "The user executing the script")) // which is Redis 7.0's word
}

// quietRedis keeps go-redis from writing to standard error by itself: what it says of connections that
// fail comes once for each try, and the log has it in words of its own.
type quietRedis struct{ log *slog.Logger }

// Printf implements the logger of go-redis.
func (q quietRedis) Printf(_ context.Context, format string, v ...any) {
	q.log.Debug("go-redis", "says", fmt.Sprintf(format, v...))
}
