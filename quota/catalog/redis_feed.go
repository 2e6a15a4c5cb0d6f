package catalog

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/quota"
)

const (
	// askEvery is how often Redis is asked for its newest revision, give or take a quarter, so that a
	// message that was lost costs less than a second, and replicas don't ask together.
	askEvery  = 700 * time.Millisecond
	warnAfter = 5 * time.Second
	warnEvery = time.Minute
)

// Shared says how this process follows what replicas share in Redis: when Redis last confirmed that nothing
// is newer than what decides here, and what is wrong with it beside the files here (nil if nothing). ok is false if nothing is shared.
func (c *Catalog) Shared() (confirmed time.Time, ok bool, refused error) {
	if c.shared == nil {
		return time.Time{}, false, nil
	}
	return time.Unix(0, c.shared.confirmed.Load()), true, c.status.Load().shared
}

// follow takes over what other replicas change, until ctx ends.
func (c *Catalog) follow(ctx context.Context) {
	bell := c.shared.redis.Subscribe(ctx, c.shared.key("changed"))
	defer func() { _ = bell.Close() }()
	rings := bell.ChannelWithSubscriptions()
	ask := time.NewTimer(0)
	defer ask.Stop()
	var f follower
	for {
		select {
		case <-ctx.Done():
			return
		case ring, open := <-rings:
			if !open { // the client was closed
				rings = nil
				continue
			}
			if m, ok := ring.(*redis.Message); ok && m.Payload == c.shared.at.Load().String() {
				continue // this replica's own change, or one that is known
			}
		case <-ask.C:
		}
		f.note(c, c.sync(ctx))
		ask.Reset(askEvery*3/4 + rand.N(askEvery/2)) //nolint:gosec // no secret
		c.debug()
	}
}

// sync takes over what is new, if anything is.
func (c *Catalog) sync(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, redisTime)
	head, err := c.shared.head(short, c.shared.redis) // without the lock: a change may be waiting for Redis
	cancel()
	if err != nil && !errors.Is(err, errNoHead) {
		return err
	}
	if err == nil && head == *c.shared.at.Load() {
		c.shared.confirmed.Store(time.Now().UnixNano())
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.catchUp(ctx)
}

// catchUp takes over what others changed. What can't be compiled beside the files here is known, but does not decide.
func (c *Catalog) catchUp(ctx context.Context) error {
	news, err := c.shared.pull(ctx, c.own)
	if err != nil || news == nil {
		return err
	}
	now := c.state.Load()
	if now == nil { // Open has yet to compile anything
		c.own = news.own
		return nil
	}
	at := c.shared.at.Load().revision
	revision := max(c.revision+1, at)
	var next *state
	if news.delta != nil && now.files.ownsNone(&news.delta.put) == nil {
		next, err = c.after(now, news.delta, revision)
	} else { // which says of an entry that a file here has, too, that it is there twice
		next, err = c.build(now.files, news.own, revision)
	}
	if err != nil {
		c.own = news.own
		c.refuseShared(err)
		return nil
	}
	c.publish(next)
	c.log.Debug("the catalogue was changed by another replica", "revision", revision)
	if news.lost && revision > at { // so that the number is the same everywhere again
		if err := c.keeper.save(step{revision: revision}); err != nil && !errors.Is(err, errBehind) {
			c.log.Warn("the revision was not written; it may be used again", "revision", revision, "error", err)
		}
	}
	return nil
}

// refuseShared notes and logs what is wrong with the shared entries beside the files here.
func (c *Catalog) refuseShared(err error) {
	c.status.Store(c.status.Load().withShared(err))
	var problems quota.Problems
	errors.As(err, &problems)
	c.log.Error("what another replica changed is not valid beside the catalog folder of this one; the last good catalogue stays here",
		"problems", len(problems), "error", err, "revision", c.revision, "hint", "give every replica the same folder")
}

// follower keeps the log quiet about a Redis that is away.
type follower struct {
	since, warned time.Time
}

func (f *follower) note(c *Catalog, err error) {
	now := time.Now()
	switch {
	case err == nil:
		if !f.warned.IsZero() {
			c.log.Info("the catalogue in Redis is followed again", "away", now.Sub(f.since).Round(time.Second), "revision", c.Snapshot().Revision)
		}
		*f = follower{}
	case errors.Is(err, context.Canceled):
	case f.since.IsZero():
		f.since = now
	case now.Sub(f.since) > warnAfter && now.Sub(f.warned) > warnEvery:
		f.warned = now
		c.log.Warn("the catalogue in Redis can't be followed; what was known last goes on deciding, and the quota API can't change it",
			"away", now.Sub(f.since).Round(time.Second), "revision", c.Snapshot().Revision, "error", err)
	}
}
