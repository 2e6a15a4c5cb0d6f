package outage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// How the journal is counted again.
const (
	settleBudget = time.Second // for a batch; nobody's request waits for it
	settleFirst  = 100 * time.Millisecond
	settleMost   = 2 * time.Second // between two attempts
	settleSure   = time.Second     // if of so long nothing is missing, nothing older is
	drainLook    = 10 * time.Millisecond
)

// settleSoon counts again what is owed, on one goroutine, which ends when nothing is. Whoever asks while it
// runs is not forgotten: it may be past what he means.
func (s *Store) settleSoon() {
	s.asked.Store(true)
	if !s.settling.CompareAndSwap(false, true) {
		return
	}
	ended := func() {
		s.settling.Store(false)
		if s.asked.Load() {
			s.settleSoon()
		}
	}
	if !s.start(func() {
		defer ended()
		s.settle()
	}) {
		s.settling.Store(false)
	}
}

// settle hands the shared store what it may not have: all that was admitted without it, and, where it may have lost what it had
// acknowledged, what it acknowledged last. It leaves what is left when the breaker opens to the next one.
// While the store says that it can't count, it asks with a batch of each lane, and ever less often.
func (s *Store) settle() {
	first := settleFirst // a server that has just come back has enough to do
	if s.openLanes() > 0 {
		first = settleMost
	}
	if !s.rest(first) {
		return
	}
	for wait := settleFirst; ; wait = min(2*wait, settleMost) {
		s.asked.Store(false)
		left := s.again.take()
		if since, lossy := s.trouble.end(); lossy {
			left = append(left, s.recent(since.Add(-ackedAge))...)
		}
		left = append(left, s.owed.take()...)
		s.handing.Store(records(left))
		if len(left) == 0 && len(s.behind) == 0 {
			return
		}
		before := s.reapplied.Load()
		left, failed := s.settleAll(left)
		if len(left) == 0 {
			left, failed = s.lookBehind()
		}
		s.keepBack(left)
		switch {
		case len(left) == 0: // there may be more by now
		case !failed: // for the next breaker that closes
			s.trouble.begin(time.Now(), false)
			return
		case !s.rest(wait):
			return
		case s.reapplied.Load() > before: // it can count, if not always in time
			wait = settleFirst / 2
		}
	}
}

// recent takes what the shared store acknowledged, and leaves what is older than horizon behind.
func (s *Store) recent(horizon time.Time) (recent []*page) {
	s.looks++
	for _, p := range s.acked.take() {
		if p.horizon = horizon; p.placed.Before(horizon) {
			p.look = s.looks
			s.behind = append(s.behind, p)
		} else {
			recent = append(recent, p)
		}
	}
	return recent
}

// lookBehind hands over what was acknowledged longer ago than any replication lags, the newest first, until there was a second of which
// the shared store lacked nothing: then it has what is older, too. It lacks more if a server that was behind, or came back with an old
// snapshot, is the primary now. A page is not enough: one that was handed over before may lie between those that came meanwhile.
// A look that the next failover interrupted goes on after that one's: the server of then lacked something, and nobody knows how much.
func (s *Store) lookBehind() (left []*page, failed bool) {
	var sound time.Time // from here back nothing was missing; zero: something was
	for len(s.behind) > 0 && len(left) == 0 {
		last := len(s.behind) - 1
		p := s.behind[last]
		counted, lacked := s.reapplied.Load(), s.lacked.Load()
		left, failed = s.settleAll(s.behind[last:])
		s.behind = s.behind[:last]
		rest := last // the first of this look's
		for rest > 0 && s.behind[rest-1].look == p.look {
			rest--
		}
		switch {
		case s.lacked.Load() > lacked || rest == last:
			sound = time.Time{}
		case sound.IsZero() && s.reapplied.Load() > counted: // what means nothing any more can't be missing
			sound = p.placed
		}
		if !sound.IsZero() && sound.Sub(s.behind[last-1].placed) > settleSure {
			s.acked.giveBack(slices.Clone(s.behind[rest:]))
			s.behind, sound = s.behind[:rest], time.Time{}
		}
	}
	return left, failed
}

// Drain hands over what is owed before a replica ends, since nobody else knows of it, for as long as ctx lasts. It reports
// how many operations the shared store does not have then. Charge must not be called any more.
func (s *Store) Drain(ctx context.Context) (left int) {
	ticker := time.NewTicker(drainLook)
	defer ticker.Stop()
	for {
		if !s.settling.Load() {
			if left = s.Stats().Owed; left == 0 && !s.trouble.begun() {
				return 0
			}
			s.settleSoon()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return s.Stats().Owed
		}
	}
}

// rest is a pause that ends soon after a breaker has closed. It is false if s was closed.
func (s *Store) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.mended:
		return s.pause(settleFirst)
	case <-s.quit:
		return false
	}
}

// keepBack is for another time. There is no more room for it than for what comes.
func (s *Store) keepBack(left []*page) {
	var owed, acked []*page
	for _, p := range left {
		if p.records[0].seen == acknowledged { // then all are
			acked = append(acked, p)
		} else {
			owed = append(owed, p)
		}
	}
	s.again.giveBack(acked)
	s.owed.giveBack(owed)
	s.handing.Store(0)
}

// records is how many there are.
func records(pages []*page) (n int64) {
	for _, p := range pages {
		n += int64(len(p.records))
	}
	return n
}

// settleAll is the pages of which something is left, and whether that is so for another reason than an open breaker.
func (s *Store) settleAll(pages []*page) (left []*page, failed bool) {
	var bad [clusterLanes]bool // lanes of which a batch came back; the next would, too
	for _, p := range pages {
		due, shut := s.due(p, &bad)
		if len(shut.records) > 0 {
			left = append(left, shut)
		}
		start := time.Now()
		if rest := s.settlePage(due, start); rest != nil {
			left, failed = append(left, rest), true
			for i := range rest.records {
				bad[s.laneOf(&rest.of(i)[0].Cell)] = true
			}
		}
		s.pause(time.Since(start)) // requests come first: they have at least half of the time to themselves
	}
	return left, failed
}

// due is what of p is to be counted again now, and what is to be when its lane is well again.
func (s *Store) due(p *page, bad *[clusterLanes]bool) (due, shut *page) {
	now := time.Now()
	due, shut = &page{placed: p.placed, horizon: p.horizon}, &page{placed: p.placed, horizon: p.horizon}
	var closed [clusterLanes]bool // for all of the page alike
	for i := range s.lanes {
		closed[i] = !bad[i] && !s.lanes[i].isOpen()
	}
	for i := range p.records {
		r, charges := p.records[i], p.of(i)
		switch {
		case !r.sent.IsZero() && now.Sub(r.sent) > s.known() || now.Sub(r.at) > owedAge:
			switch {
			case r.at.Before(p.horizon):
			case r.seen == acknowledged:
				s.unsure.Add(1)
			default:
				s.dropped.Add(1)
			}
		case !closed[s.laneOf(&charges[0].Cell)]:
			shut.push(r, charges, every)
		default:
			then, old := r.op.Now, r.at.Before(p.horizon)
			due.push(r, charges, func(c *ratelimit.Charge) bool {
				// A bucket that others filled meanwhile does not tell how much of an old charge would have run out of it by now.
				return !over(c, then, then+now.Sub(r.at).Microseconds()) && (!old || c.Limit.Algorithm != ratelimit.GCRA)
			})
		}
	}
	return due, shut
}

// settlePage is what is left of due; nil for nothing.
func (s *Store) settlePage(due *page, now time.Time) *page {
	if len(due.records) == 0 {
		return nil
	}
	missing, err := s.reapply(due)
	s.lacked.Add(uint64(missing)) //nolint:gosec // it is not negative
	switch {
	case err == nil:
		s.reapplied.Add(uint64(len(due.records)))
		s.acknowledge(due, now)
		return nil
	case judge(err) == theirs && len(due.records) == 1:
		s.dropped.Add(1)
		s.o.Log.Error("what was admitted can't be counted in the shared store", "limits", names(due.charges), "error", err)
		return nil
	case judge(err) == theirs:
		return s.settleSingly(due, now)
	}
	if untouched(err, len(due.records)) {
		return due
	}
	for i := range due.records {
		if r := &due.records[i]; r.sent.IsZero() {
			r.sent = now
		}
	}
	return due
}

// untouched reports whether err says of each of n operations that the shared store could count nothing: it has seen none of them.
func untouched(err error, n int) bool {
	all, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // the joined error itself, and none that it wraps
	if !ok || len(all.Unwrap()) != n {
		return false
	}
	for _, err := range all.Unwrap() {
		if judge(err) != disorder || isSilence(err) {
			return false
		}
	}
	return true
}

// acknowledge keeps what was counted again as what was counted at once: the next trouble may come any moment.
func (s *Store) acknowledge(p *page, now time.Time) {
	horizon := s.trouble.horizon(s.keeps())
	for i, r := range p.records {
		if r.seen == unseen {
			r.at, r.sent = now, now
		}
		r.seen = acknowledged
		s.acked.keep(r, p.of(i), now, horizon)
	}
}

// settleSingly finds the operations of p that the shared store can't take, so that they don't keep the others.
func (s *Store) settleSingly(p *page, now time.Time) *page {
	rest := &page{placed: p.placed, horizon: p.horizon}
	for i := range p.records {
		one := &page{placed: p.placed, horizon: p.horizon}
		one.push(p.records[i], p.of(i), every)
		if one = s.settlePage(one, now); one != nil {
			rest.push(one.records[0], one.charges, every)
		}
	}
	if len(rest.records) == 0 {
		return nil
	}
	return rest
}

// over reports whether a charge of then means nothing any more now. Of GCRA that can't be told from one charge.
func over(c *ratelimit.Charge, then, now int64) bool {
	w := max(c.Limit.Window.Microseconds(), 1)
	switch c.Limit.Algorithm {
	case ratelimit.Fixed:
		return then >= 0 && then/w != now/w
	case ratelimit.Hard:
		return now-then > 2*w
	}
	return false
}

// reapply hands p to the shared store, and does not wait for it for ever.
func (s *Store) reapply(p *page) (int, error) {
	ops := make([]redisstore.Applied, len(p.records))
	for i := range p.records {
		ops[i] = redisstore.Applied{Operation: p.records[i].op, Charges: p.of(i)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleBudget)
	defer cancel()
	missing := 0 // of a call that is left behind nobody reads it
	answer := ask(func() (err error) {
		missing, err = s.o.Shared.Reapply(ctx, ops)
		return err
	})
	select {
	case err := <-answer:
		return missing, err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", redisstore.ErrNoAnswer, ctx.Err())
	}
}
