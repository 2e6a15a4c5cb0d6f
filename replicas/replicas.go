// Package replicas tells the sluiceds that share a Redis of each other: how many
// there are, and whether they were given the same secret. It shares nothing else.
//
// A replica says once a second that it lives, in two short round trips, and is forgotten after five. The count is
// what was last read: while Redis does not answer it stays what it was, which is what
// a share of a limit is worked out from then. A Redis that came back empty is told the secret's fingerprint again.
package replicas

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	every    = time.Second
	lifetime = 5 * every
)

// Keys behind the prefix.
const (
	livesKey  = "replicas"
	secretKey = "secret"
)

// Keys are all keys in Redis that this package writes, behind the prefix.
var Keys = []string{livesKey, secretKey}

// Presence is this replica among the others. It is safe for concurrent use.
type Presence struct {
	client redis.UniversalClient
	prefix string
	name   string
	secret [32]byte // its fingerprint
	log    *slog.Logger

	count  atomic.Int64
	fewer  time.Time // since when fewer than count were seen; zero: they are not
	silent bool      // the last beat failed
	agreed bool      // Redis has the fingerprint
}

// Join compares the fingerprint of this replica's secret with the others', says that it lives, and counts them. Run goes on with
// it. The error is ErrSecret, or Redis'.
func Join(ctx context.Context, client redis.UniversalClient, prefix string, fingerprint [32]byte, log *slog.Logger) (*Presence, error) {
	var id [6]byte
	rand.Read(id[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	host, _ := os.Hostname()
	p := &Presence{client: client, prefix: prefix, name: host + "/" + hex.EncodeToString(id[:]), secret: fingerprint, log: log}
	p.count.Store(1)
	if err := agree(ctx, client, prefix, fingerprint); err != nil {
		return nil, err
	}
	p.agreed = true
	return p, p.beat(ctx, time.Now())
}

// Count is how many replicas there are, this one included, as last seen. One that is gone counts for up to ten seconds more.
func (p *Presence) Count() int { return int(p.count.Load()) }

// Run says once a second that the replica lives, until ctx ends, and then that it is gone.
func (p *Presence) Run(ctx context.Context) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), every)
			_ = p.client.ZRem(last, p.prefix+livesKey, p.name).Err() // it is forgotten anyway
			cancel()
			return
		case now := <-ticker.C:
			one, cancel := context.WithTimeout(ctx, every)
			err := p.beat(one, now)
			cancel()
			if failed := err != nil && ctx.Err() == nil; failed != p.silent {
				p.silent = failed
				if failed {
					p.log.Warn("this replica can't say that it lives, or whose secret it has; the number of replicas stays as it was last seen", "replicas", p.Count(), "error", err)
				}
			}
		}
	}
}

// beat goes by Redis' clock, so that no two machines' are compared.
func (p *Presence) beat(ctx context.Context, now time.Time) error {
	at, err := p.client.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("replicas: %w", err)
	}
	key := p.prefix + livesKey
	var added, lives *redis.IntCmd
	_, err = p.client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		added = tx.ZAdd(ctx, key, redis.Z{Score: float64(at.UnixMilli()), Member: p.name})
		tx.ZRemRangeByScore(ctx, key, "-inf", "("+strconv.FormatInt(at.Add(-lifetime).UnixMilli(), 10))
		lives = tx.ZCard(ctx, key)
		tx.PExpire(ctx, key, lifetime)
		return nil
	})
	if err != nil {
		return fmt.Errorf("replicas: %w", err)
	}
	p.seen(lives.Val(), now)
	if p.agreed = p.agreed && added.Val() == 0; p.agreed {
		return nil
	}
	// Redis has forgotten this replica, and perhaps the secret as well.
	err = agree(ctx, p.client, p.prefix, p.secret)
	p.agreed = err == nil
	return err
}

// seen takes more at once and fewer only after a while: a Redis that came back empty knows one replica first.
func (p *Presence) seen(n int64, now time.Time) {
	switch {
	case n >= p.count.Load():
		p.fewer = time.Time{}
		p.count.Store(max(n, 1))
	case p.fewer.IsZero():
		p.fewer = now
	case now.Sub(p.fewer) >= lifetime:
		p.fewer = time.Time{}
		p.count.Store(max(n, 1))
	}
}

// Names are those of the replicas that live, sorted.
func Names(ctx context.Context, client redis.UniversalClient, prefix string) ([]string, error) {
	names, err := client.ZRange(ctx, prefix+livesKey, 0, -1).Result()
	slices.Sort(names)
	return names, err
}

// ErrSecret is that of a replica with another secret than those that were there before.
var ErrSecret = errors.New("this replica's secret is not the one that others serve with on this Redis under this prefix: API keys would be unknown to it, and counters its own")

// agree leaves the fingerprint of this replica's secret in Redis, if there is none, and compares it if there is.
func agree(ctx context.Context, client redis.UniversalClient, prefix string, fingerprint [32]byte) error {
	if err := client.SetNX(ctx, prefix+secretKey, hex.EncodeToString(fingerprint[:]), 0).Err(); err != nil {
		return fmt.Errorf("replicas: %w", err)
	}
	_, err := Agrees(ctx, client, prefix, fingerprint)
	return err
}

// Agrees compares without leaving anything. Nobody may have served yet.
func Agrees(ctx context.Context, client redis.UniversalClient, prefix string, fingerprint [32]byte) (served bool, err error) {
	kept, err := client.Get(ctx, prefix+secretKey).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("replicas: %w", err)
	case subtle.ConstantTimeCompare([]byte(kept), []byte(hex.EncodeToString(fingerprint[:]))) != 1:
		return true, ErrSecret
	}
	return true, nil
}
