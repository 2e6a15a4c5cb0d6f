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
		case <-c.stir:
		case <-ask.C:
		}
		f.note(c, c.sync(ctx))
		ask.Reset(askEvery*3/4 + rand.N(askEvery/2)) //nolint:gosec // no secret
		c.debug()
	}
}

// sync takes over what is new, if anything is.
func (c *Catalog) sync(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, c.shared.patience())
	head, err := c.shared.head(short, c.shared.redis) // without the lock: a change may be waiting for Redis
	cancel()
	if err != nil && !errors.Is(err, errNoHead) {
		return err
	}
	if err == nil && head == *c.shared.at.Load() && !c.shared.doubt.Load() && c.ahead() == 0 {
		c.shared.confirmed.Store(time.Now().UnixNano())
		return nil
	}
	if err := c.turn.take(ctx); err != nil {
		return err
	}
	defer c.turn.end()
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	return c.announce(ctx)
}

// ahead is the revision here, if Redis does not have it yet, and 0 if it does: a file was changed here, or Redis lost what it had.
func (c *Catalog) ahead() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revision > c.shared.at.Load().revision {
		return c.revision
	}
	return 0
}

// announce tells Redis the revision here, so that it is the same everywhere, and never given again.
func (c *Catalog) announce(ctx context.Context) error {
	for attempt := range maxAttempts {
		revision := c.ahead()
		if revision == 0 {
			return nil
		}
		c.shared.pause(ctx, attempt)
		if err := c.shared.save(ctx, step{revision: revision}); !errors.Is(err, errBehind) {
			return err
		}
		if err := c.catchUp(ctx); err != nil {
			return err
		}
	}
	return nil // the next time
}

// catchUp takes over what others changed. Who calls it has the turn.
func (c *Catalog) catchUp(ctx context.Context) error {
	c.mu.Lock()
	own := c.own
	c.mu.Unlock()
	news, err := c.shared.pull(ctx, own)
	if err != nil || news == nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.adopt(news.own, news.delta) == nil {
		c.log.Debug("the catalogue was changed by another replica", "revision", c.revision)
	}
	return nil
}

// adopt takes over entries that are kept; d is how they differ from the newest ones known here, nil if nobody says.
// What can't be compiled beside the files here is known, but does not decide.
func (c *Catalog) adopt(own *View, d *delta) error {
	now := c.state.Load()
	revision := max(c.revision+1, c.shared.at.Load().revision)
	var next *state
	var err error
	if d != nil && now.files.ownsNone(&d.put) == nil {
		next, err = c.after(now, c.own, d, revision)
	} else { // which says of an entry that a file here has, too, that it is there twice
		next, err = c.build(now.files, own, revision)
	}
	if err != nil {
		c.own = own
		c.refuseShared(err)
		return err
	}
	c.publish(next)
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
