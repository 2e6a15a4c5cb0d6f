package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redisconn"
)

// marker is the key that says whose keys these are, and of which version.
func (o *Options) marker() string { return o.Prefix + "store" }

const markerWord = "sluice "

// Migrate puts the functions onto every server, and marks the keys as ours. The
// functions of other versions stay, so that replicas of both can run; a marker of a
// newer version stays, too. It refuses what Open refuses. It needs the rights to
// FUNCTION LOAD, SCAN, GET and SET.
func Migrate(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if err := o.checkServers(ctx); err != nil {
		return err
	}
	version, err := o.readMarker(ctx)
	if err != nil {
		return err
	}
	if version == 0 {
		if err := o.checkKeys(ctx); err != nil {
			return err
		}
	}
	if err := load(ctx, o.Client); err != nil {
		return fmt.Errorf("redisstore: the functions can't be loaded; the user of 'sluiced migrate' needs the right to +function|load: %w", err)
	}
	if version >= Version {
		return nil
	}
	if err := o.Client.Set(ctx, o.marker(), markerWord+strconv.Itoa(Version), 0).Err(); err != nil {
		return fmt.Errorf("redisstore: key %q can't be written; the user of 'sluiced migrate' needs the right to +set on it: %w", o.marker(), err)
	}
	return nil
}

// Open returns a store, or why Redis, as it is, can't be one that is exact, and
// what to do. ctx bounds the looking. It changes nothing.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := o.checkClient(); err != nil {
		return nil, err
	}
	if err := o.checkServers(ctx); err != nil {
		return nil, err
	}
	version, err := o.readMarker(ctx)
	switch {
	case err != nil:
		return nil, err
	case version > Version+1:
		return nil, fmt.Errorf("redisstore: the functions in Redis are of version %d, and this sluiced knows %d; use a newer sluiced, or another prefix", version, Version)
	}
	err = each(ctx, o.Client, func(ctx context.Context, c *redis.Client) error {
		err := c.FCall(ctx, helloName, nil).Err()
		switch {
		case err == nil:
			return nil
		case !isMissing(err):
			return reason(c.Options().Addr, err)
		case version > 0 && version < Version:
			return fmt.Errorf("redisstore: the functions at %s are of version %d, and this sluiced needs %d; run 'sluiced migrate'", c.Options().Addr, version, Version)
		}
		return fmt.Errorf("redisstore: the functions are missing at %s, or are another build's: this sluiced calls %s; run 'sluiced migrate', and let Redis keep them (appendonly, or a snapshot) if it restarts", c.Options().Addr, functionName)
	})
	if err != nil {
		return nil, err
	}
	if version == 0 {
		return nil, fmt.Errorf("redisstore: key %q is missing, so these keys are not known to be Sluice's; run 'sluiced migrate'", o.marker())
	}
	if err := watch(ctx, o.Client); err != nil {
		return nil, fmt.Errorf("redisstore: no map of the cluster: %w", err)
	}
	return newStore(o), nil
}

// tried is the cell of Try: nobody's, for a cell that is charged has a keyed name.
var tried = [16]byte{15: 2}

// Try charges limits of its own once in all ways, and says what Redis refuses: a user may call functions and lack the rights for what
// they do. On a cluster it tries several slots. Redis forgets the charges within seconds, and their operations when it does all.
// Each answer may take until within, for what Redis refuses has to be heard from a slow one as well.
func (s *Store) Try(within time.Duration) error {
	o := s.o
	o.Timeout = within
	patient := newStore(o)
	defer patient.Close() //nolint:errcheck // it has none
	shards := 1
	if s.cluster {
		shards = 32
	}
	for shard := range uint64(shards) { //nolint:gosec // it is positive
		var charges []ratelimit.Charge
		for i, a := range []ratelimit.Algorithm{ratelimit.Fixed, ratelimit.GCRA, ratelimit.Hard} {
			l := &ratelimit.Limit{Name: "try", Algorithm: a, Hits: 1, Burst: 1, Window: ratelimit.MinWindow}
			c := ratelimit.Charge{Limit: l, Hits: 1, Cell: ratelimit.Cell{Key: tried, Shard: shard}}
			c.Cell.Key[0] = byte(i)
			charges = append(charges, c)
		}
		now, outcomes := time.Now().UnixMicro(), make([]ratelimit.Outcome, len(charges))
		back := charges[0]
		back.Hits = -1
		for _, step := range [][]ratelimit.Charge{charges, charges[:1], {back}} { // the second is refused, and then looked up
			var id [16]byte
			rand.Read(id[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
			if _, err := patient.Charge(ratelimit.Operation{Now: now, ID: id}, step, outcomes); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkClient looks at what would break promises later.
func (o *Options) checkClient() error {
	retries, inTime := 0, false
	switch c := o.Client.(type) {
	case *redis.Client:
		retries, inTime = c.Options().MaxRetries, c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		retries, inTime = c.Options().MaxRetries, c.Options().ContextTimeoutEnabled
	default:
		return fmt.Errorf("redisstore: a %T is neither a client of one server nor of a cluster", o.Client)
	}
	if retries > 0 || !inTime {
		return errors.New("redisstore: the client would send again by itself, or wait longer than its caller; set MaxRetries to -1 and ContextTimeoutEnabled")
	}
	return nil
}

// Check says what Open would say of the servers: they may have been set otherwise since, and after a failover they are others.
func (s *Store) Check(ctx context.Context) error { return s.o.checkServers(ctx) }

// ErrUnfit is every problem of a server that answers, and can't keep limits exactly.
var ErrUnfit = errors.New("redisstore: a Redis that can't keep limits exactly")

type unfit string

func (u unfit) Error() string        { return string(u) }
func (u unfit) Is(target error) bool { return target == ErrUnfit }

// checkServers refuses servers that can't keep limits exactly.
func (o *Options) checkServers(ctx context.Context) error {
	_, cluster := o.Client.(*redis.ClusterClient)
	return each(ctx, o.Client, func(ctx context.Context, c *redis.Client) error {
		addr := c.Options().Addr
		info, err := redisconn.Info(ctx, c)
		if err != nil {
			return reason(addr, err)
		}
		var problems []error
		problem := func(format string, args ...any) {
			problems = append(problems, unfit(fmt.Sprintf("redisstore: Redis at %s "+format, append([]any{addr}, args...)...)))
		}
		version := info["redis_version"]
		if major, err := strconv.Atoi(strings.SplitN(version, ".", 2)[0]); err != nil || major < 7 {
			problem("is of version %q; functions need Redis 7.0 or newer, or Valkey", version)
		}
		if policy := info["maxmemory_policy"]; policy != "noeviction" {
			problem("may throw counters away: maxmemory-policy is %q; set it to noeviction", policy)
		}
		switch clustered := info["cluster_enabled"] == "1"; {
		case clustered && !cluster:
			problem("is a node of a cluster; name several nodes of it, or say that it is a cluster")
		case !clustered && cluster:
			problem("is no node of a cluster; name it alone, without saying that it is a cluster")
		}
		if info["role"] == "slave" {
			problem("is a replica, which takes no writes; name the primary, or Sentinel")
		}
		return errors.Join(problems...)
	})
}

// reason says what err at a server means and what to do.
func reason(addr string, err error) error {
	var refusal redis.Error
	if !errors.As(err, &refusal) {
		return fmt.Errorf("redisstore: no answer from Redis at %s; is it running, is the address right, may this host reach it, and do both speak TLS, or neither: %w", addr, err)
	}
	switch text := refusal.Error(); {
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"):
		return fmt.Errorf("redisstore: Redis at %s wants another user or password; look at the user's line in its ACL: %w", addr, err)
	case strings.HasPrefix(text, "NOPERM"):
		return fmt.Errorf("redisstore: the user at %s lacks a right; give it those in docs/stores.md: %w", addr, err)
	case strings.Contains(text, "cluster support disabled"):
		return fmt.Errorf("redisstore: Redis at %s is no node of a cluster; name it alone, without saying that it is a cluster: %w", addr, err)
	}
	return fmt.Errorf("redisstore: Redis at %s can't be used: %w", addr, err)
}

// readMarker is the version that the keys are marked with; 0: not at all.
func (o *Options) readMarker(ctx context.Context) (int, error) {
	text, err := o.Client.Get(ctx, o.marker()).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	foreign := fmt.Errorf("redisstore: key %q is another program's; give Sluice a prefix, or a Redis, of its own", o.marker())
	switch {
	case err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE"):
		return 0, foreign
	case err != nil:
		return 0, fmt.Errorf("redisstore: key %q can't be read; the user needs the right to +get on it: %w", o.marker(), err)
	}
	digits, ours := strings.CutPrefix(text, markerWord)
	version, err := strconv.Atoi(digits)
	if !ours || err != nil || version < 1 {
		return 0, foreign
	}
	return version, nil
}

// checkKeys refuses keys under our prefixes that no sluiced can have written, since
// there is no marker. It looks at every key, once in the life of a Redis.
func (o *Options) checkKeys(ctx context.Context) error {
	return each(ctx, o.Client, func(ctx context.Context, c *redis.Client) error {
		for _, prefix := range []string{o.Prefix, o.Counters} {
			keys := c.Scan(ctx, 0, escapeGlob(prefix)+"*", 10_000).Iterator()
			for keys.Next(ctx) {
				if prefix == o.Prefix && slices.ContainsFunc(o.Beside, func(part string) bool { return strings.HasPrefix(keys.Val(), prefix+part) }) {
					continue
				}
				return fmt.Errorf("redisstore: key %q at %s is another program's; give Sluice prefixes, or a Redis, of its own, or remove the key", keys.Val(), c.Options().Addr)
			}
			if err := keys.Err(); err != nil {
				return reason(c.Options().Addr, err)
			}
		}
		return nil
	})
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}
