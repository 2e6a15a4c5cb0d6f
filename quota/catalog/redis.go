package catalog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// What is in Redis, each key behind the prefix and the hash tag {catalog}, so that a cluster keeps them together:
//
//	head             hash: format; revision, the number of the newest change; stamp, a random name of it;
//	                 restored, if Redis had lost the catalogue: from which change a replica wrote it back
//	plans, tenants…  a hash for each list of the catalogue, name → JSON
//	feed             stream: the newest changes, each under its revision, with its stamp and what it changed
//	answer:…         what an operation was answered, for a day
//	answers          sorted set: the names of these by their time, so that they are not without number
//	changed          channel: revision and stamp of each change
//
// A change is one MULTI that holds only if the head is as its writer saw it. The stamp tells a change from another one
// under the same number, after a failover that lost writes; and a writer, whose connection was lost, whether its own came through.
const (
	sharedFormat = 1
	feedLength   = 1000     // changes that a replica may be behind without reading everything again
	maxInFeed    = 64 << 10 // bytes of changes in one entry of the feed; others say that everything is to be read again
	scanCount    = 500      // entries that Redis reads in one go: well under a millisecond, because counters wait meanwhile
	writeCount   = 500
	redisTime    = 5 * time.Second // for what is asked together; a change may wait twice as long
	loadTime     = time.Minute
	loadAttempts = 5
)

// Keys begins all keys in Redis that this package writes, behind the prefix.
const Keys = "{catalog}:"

// position is a change: where somebody has come to.
type position struct {
	revision uint64
	stamp    string
}

// shared is the catalogue's entries in Redis, which replicas share. Who calls it has the turn, but for head.
type shared struct {
	redis redis.UniversalClient
	base  string // of keys
	log   *slog.Logger

	time       atomic.Int64 // redisTime, ns; less in tests
	maxAnswers int

	at        atomic.Pointer[position] // of what is known
	line      lineage                  // of what is known
	confirmed atomic.Int64             // when Redis last said that nothing is newer, Unix ns

	doubt    atomic.Bool // Redis did a part of a change: nothing is true but what is read anew
	doubtful [][32]byte  // answers that were kept with such changes
}

func newShared(client redis.UniversalClient, prefix string, log *slog.Logger) *shared {
	s := &shared{redis: client, base: prefix + Keys, log: log, maxAnswers: maxAnswers}
	s.time.Store(int64(redisTime))
	s.at.Store(&position{})
	return s
}

func (s *shared) key(name string) string { return s.base + name }

// Errors of what is in Redis.
var (
	errNoHead = errors.New("there is no catalogue")
	errLonger = errors.New("more was changed than the feed holds")
	errLost   = errors.New("the feed is that of another catalogue")
)

// Migrate makes an empty catalogue under the prefix, if there is none, and
// otherwise says whether this version can use the one that is there. It needs the rights to HMGET, HLEN, XLEN, HSET, XADD and a transaction.
func Migrate(ctx context.Context, client redis.UniversalClient, prefix string) error {
	s := newShared(client, prefix, slog.New(slog.DiscardHandler))
	first := position{1, newStamp()}
	err := client.Watch(ctx, func(tx *redis.Tx) error {
		if _, err := s.head(ctx, tx); !errors.Is(err, errNoHead) {
			return err
		}
		for _, l := range lists {
			if n, err := tx.HLen(ctx, s.key(l.name())).Result(); err != nil || n > 0 {
				return s.foreign(l.name(), err)
			}
		}
		if n, err := tx.XLen(ctx, s.key("feed")).Result(); err != nil || n > 0 {
			return s.foreign("feed", err)
		}
		sent, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			s.step(ctx, p, first, step{})
			return nil
		})
		return why(sent, err)
	}, s.key("head"))
	if errors.Is(err, redis.TxFailedErr) { // another was faster
		_, err = s.head(ctx, client)
	}
	return s.explain(err)
}

// Check says what is wrong with the catalogue under the prefix, without reading its entries.
func Check(ctx context.Context, client redis.UniversalClient, prefix string) error {
	s := newShared(client, prefix, slog.New(slog.DiscardHandler))
	_, err := s.head(ctx, client)
	return s.explain(err)
}

// head is the newest change.
func (s *shared) head(ctx context.Context, c redis.Cmdable) (position, error) {
	values, err := c.HMGet(ctx, s.key("head"), "format", "revision", "stamp").Result()
	if err != nil {
		return position{}, s.foreign("head", err)
	}
	format, hasFormat := values[0].(string)
	revision, hasRevision := values[1].(string)
	stamp, hasStamp := values[2].(string)
	if !hasFormat && !hasRevision && !hasStamp {
		return position{}, errNoHead
	}
	version, err1 := strconv.Atoi(format)
	number, err2 := strconv.ParseUint(revision, 10, 64)
	switch {
	case err1 == nil && version > sharedFormat:
		return position{}, fmt.Errorf("it has format %d, and this version knows %d; start the version that wrote it, or restore the backup from before it", version, sharedFormat)
	case err1 != nil || version < 1 || err2 != nil || stamp == "":
		return position{}, s.foreign("head", nil)
	}
	return position{number, stamp}, nil
}

// foreign is the error about a key that holds what is not ours; other errors stay.
func (s *shared) foreign(name string, err error) error {
	if err != nil && !strings.HasPrefix(err.Error(), "WRONGTYPE") {
		return err
	}
	return fmt.Errorf("the key %s is not what Sluice keeps there: another program uses this prefix; choose another prefix, or remove that key if nobody needs it", s.key(name))
}

// explain says where an error is from; nil for nil.
func (s *shared) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoHead):
		err = fmt.Errorf("%w; restore the backup of Redis, or make an empty catalogue with 'sluiced migrate'", err)
	}
	return fmt.Errorf("catalogue in Redis under %s: %w", strings.TrimSuffix(s.base, ":"), err)
}

// unavailable is the error of a change that can't be made; nil for nil.
func (s *shared) unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w, because Redis does not do its part, and nothing was changed: %w", ErrUnavailable, s.explain(err))
}

// patience is how long Redis may take for an answer.
func (s *shared) patience() time.Duration { return time.Duration(s.time.Load()) }

// newStamp names a change.
func newStamp() string {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// pause lets another replica finish before the next attempt.
func (*shared) pause(ctx context.Context, attempt int) {
	if attempt == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(mathrand.N(time.Millisecond << min(attempt, 6))): //nolint:gosec // no secret
	}
}

// entry is one change in the feed.
type entry struct {
	List    string          `json:"list"`
	Name    string          `json:"name"`
	Content json.RawMessage `json:"content"` // null: gone
}
