package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	serverLanes  = 2   // pipelines in flight on one server: with more each, and each call of the function, would carry less
	clusterLanes = 4   // the same of a range of slots, where calls are shared by nobody
	maxBatch     = 256 // requests in one
	maxTries     = 4   // of one request without an answer: one in a hundred lost is one in a hundred million
	// Of its time a call gives so much to the first try: a lost answer shows as a
	// broken connection at once, or not at all.
	firstTry = 3.0 / 5
)

// call is a request, which a call of a function carries.
type call struct {
	mode    byte
	id      [16]byte
	now, at int64    // 0: Redis' time; of what is forced, when it was
	keys    []string // of its cells
	charges string
	frees   bool   // hits are given back
	text    []byte // what keys and charges are made of

	deadline time.Time
	tries    int
	unsure   bool // a try had no answer, or one that another try followed, so it may have been charged
	done     chan struct{}
	timer    *time.Timer

	// Under the pilot's mutex.
	reply reply
	err   error
	left  bool // nobody waits for it any more
}

// newCall is one that was used before, or a new one.
func (s *Store) newCall() *call {
	c, used := s.spare.Get().(*call)
	if !used {
		c = &call{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	}
	*c = call{done: c.done, timer: c.timer, keys: c.keys[:0], text: c.text[:0]}
	return c
}

// again makes c one whose id may be known.
func (c *call) again() {
	if c.mode == fresh {
		c.mode = careful
	}
}

// refused is what an error reply to c comes to: that of a second try says nothing about the first.
func (c *call) refused() error {
	if c.unsure {
		return ErrNoAnswer
	}
	return ErrRefused
}

// pilot gathers calls into pipelines. A call that finds a lane free leaves at
// once; those that come while all are in flight leave together.
type pilot struct {
	s *Store

	mu     sync.Mutex
	queue  []*call
	lanes  int
	closed bool
	flying sync.WaitGroup
}

// call is the answer to c, within the store's timeout. Afterwards c is nobody's.
func (p *pilot) call(c *call) (reply, error) {
	c.deadline = time.Now().Add(p.s.o.Timeout)
	c.timer.Reset(p.s.o.Timeout)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return reply{}, ErrClosed
	}
	p.queue = append(p.queue, c)
	if p.lanes < p.s.lanes {
		p.lanes++
		p.flying.Go(p.lane)
	}
	p.mu.Unlock()

	select {
	case <-c.done:
		return p.s.reuse(c)
	case <-c.timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-c.done:
		return p.s.reuse(c)
	default:
	}
	c.left = true
	p.s.stats.timeouts.Add(1)
	if c.err != nil {
		return reply{}, c.err
	}
	return reply{}, fmt.Errorf("%w: %v have passed", ErrNoAnswer, p.s.o.Timeout)
}

// reuse is the answer to c, which is kept for another request.
func (s *Store) reuse(c *call) (reply, error) {
	rep, err := c.reply, c.err
	c.timer.Stop()
	s.spare.Put(c)
	return rep, err
}

func (p *pilot) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.flying.Wait()
}

// lane flies until nobody waits.
func (p *pilot) lane() {
	for {
		runtime.Gosched() // those who are about to ask come along; if nobody is, no time passes
		batch := p.board()
		if batch == nil {
			return
		}
		sent := time.Now()
		if p.land(p.send(batch), sent) {
			time.Sleep(movesFor)
		}
	}
}

// board takes those who wait, or gives the lane back.
func (p *pilot) board() []*call {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), maxBatch)
	var batch []*call
	for _, c := range p.queue[:n] {
		if !c.left {
			batch = append(batch, c)
		}
	}
	p.queue = append(p.queue[:0], p.queue[n:]...)
	switch {
	case len(batch) > 0:
		return batch
	case len(p.queue) > 0:
		return []*call{}
	}
	p.lanes--
	return nil
}

// send sends a pipeline and waits for its answers.
func (p *pilot) send(batch []*call) []group {
	if len(batch) == 0 {
		return nil
	}
	start := time.Now()
	timeout := p.s.o.Timeout
	first := time.Duration(float64(timeout) * firstTry)
	end := start
	for _, c := range batch {
		if c.tries++; c.tries == 1 && end.Before(start.Add(first)) {
			end = start.Add(first)
		} else if c.tries > 1 && end.Before(c.deadline) {
			end = c.deadline
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	groups := p.s.groups(batch)
	pipe := p.s.o.Client.Pipeline()
	for i := range groups {
		_ = pipe.Process(ctx, p.s.command(ctx, &groups[i]))
	}
	_, err := pipe.Exec(ctx)
	p.s.stats.commands.Add(int64(len(groups)))
	p.s.stats.pipelines.Add(1)
	if p.s.o.Observe != nil {
		p.s.o.Observe(len(groups), time.Since(start), err)
	}
	return groups
}

// land gives each call its answer, or another try. It reports whether that one should wait a moment.
func (p *pilot) land(groups []group, sent time.Time) (moving bool) {
	reloaded, tried := false, false
	for i := range groups {
		if isMissing(groups[i].cmd.Err()) && !tried {
			reloaded, tried = p.s.reload(sent), true
		}
	}
	p.s.reroute(groups)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var again []*call
	for i := range groups {
		answers := p.s.answers(groups[i].cmd)
		for _, c := range groups[i].calls {
			rep, err := answers.next(c)
			then := c.land(rep, err)
			if c.left || !now.Before(c.deadline) || then == reload && !reloaded || then == resend && c.tries >= maxTries {
				then = over
			}
			switch then {
			case over:
				if c.err != nil {
					p.s.stats.errors.Add(1)
				}
				c.done <- struct{}{} // from here on it is another's
				continue
			case resend:
				c.again()
				p.s.stats.resends.Add(1)
			case move:
				moving = true
			}
			again = append(again, c)
		}
	}
	p.queue = append(again, p.queue...)
	return moving
}

// What is to come after an answer, or none.
const (
	over = iota
	reload
	move
	resend
)

// land takes an answer.
func (c *call) land(rep reply, err error) (then int) {
	switch {
	case err == nil:
		c.reply, c.err = rep, nil
	case isMissing(err):
		c.err, then = fmt.Errorf("%w: %w; run 'sluiced migrate'", c.refused(), err), reload
	case isMoving(err):
		c.err, then = fmt.Errorf("%w: %w", c.refused(), err), move
	case isAnswer(err):
		c.err = fmt.Errorf("%w: %w", c.refused(), err)
	case errors.Is(err, errReply):
		c.err = err
	default:
		c.err, c.unsure, then = fmt.Errorf("%w: %w", ErrNoAnswer, err), true, resend
	}
	return then
}

// movesFor is about how long a slot takes from one server to the other, if its keys are few.
const movesFor = time.Millisecond

// isMoving reports whether a slot is on its way to another server: some of its keys are there, and the
// operation's, which is new, nowhere. Nothing was carried out.
func isMoving(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "TRYAGAIN ") }

// reroute looks where the slots of a cluster are, on a goroutine of the client's, after a call without an
// answer: its primary may be dead, and another one in its place. The client itself looks when it is told MOVED, and once a minute.
func (s *Store) reroute(groups []group) {
	cluster, ok := s.o.Client.(*redis.ClusterClient)
	if !ok {
		return
	}
	for i := range groups {
		if err := groups[i].cmd.Err(); err != nil && !isAnswer(err) {
			cluster.ReloadState(context.Background())
			return
		}
	}
}

// isMissing reports whether a server lacks the function.
func isMissing(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Function not found")
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
