package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	maxLanes = 4   // pipelines in flight
	maxBatch = 256 // calls in one
	maxTries = 4   // of one call: one answer in a hundred lost is one call in a hundred million
	// Of its time a call gives so much to the first try: a lost answer shows as a
	// broken connection at once, or not at all.
	firstTry = 3.0 / 5
)

// call is one call of the function.
type call struct {
	args     []any
	mode     int // index of the argument that begins with the mode
	deadline time.Time
	tries    int
	unsure   bool // a try had no answer, or one that another try followed, so it may have been charged
	done     chan struct{}

	// Under the pilot's mutex.
	reply string
	err   error
	left  bool // nobody waits for it any more
}

// newCall makes the arguments of FCALL: the parts of text that end there, the first few of them keys.
func newCall(text string, ends []int, keys int) *call {
	c := &call{args: make([]any, 0, 3+len(ends)), mode: 3 + keys, done: make(chan struct{})}
	c.args = append(c.args, "FCALL", functionName, keys)
	from := 0
	for _, to := range ends {
		c.args = append(c.args, text[from:to])
		from = to
	}
	return c
}

// again makes c one whose id may be known.
func (c *call) again() {
	if request := c.args[c.mode].(string); request[0]&^listed == fresh {
		c.args[c.mode] = string(rune(request[0]+careful)) + request[1:]
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

// call is the answer to c, within the store's timeout.
func (p *pilot) call(c *call) (string, error) {
	c.deadline = time.Now().Add(p.s.o.Timeout)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return "", ErrClosed
	}
	p.queue = append(p.queue, c)
	if p.lanes < maxLanes {
		p.lanes++
		p.flying.Go(p.lane)
	}
	p.mu.Unlock()

	timer := time.NewTimer(p.s.o.Timeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.reply, c.err
	case <-timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-c.done:
		return c.reply, c.err
	default:
	}
	c.left = true
	p.s.stats.timeouts.Add(1)
	if c.err != nil {
		return "", c.err
	}
	return "", fmt.Errorf("%w: %v have passed", ErrNoAnswer, p.s.o.Timeout)
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
		batch := p.board()
		if batch == nil {
			return
		}
		sent := time.Now()
		if p.land(batch, p.send(batch), sent) {
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
func (p *pilot) send(batch []*call) []*redis.StringCmd {
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
	cmds := make([]*redis.StringCmd, len(batch))
	pipe := p.s.o.Client.Pipeline()
	for i, c := range batch {
		var sends redis.Cmder
		cmds[i], sends = p.s.command(ctx, c)
		_ = pipe.Process(ctx, sends)
	}
	_, err := pipe.Exec(ctx)
	p.s.stats.commands.Add(int64(len(batch)))
	p.s.stats.pipelines.Add(1)
	if p.s.o.Observe != nil {
		p.s.o.Observe(len(batch), time.Since(start), err)
	}
	return cmds
}

// land gives each call its answer, or another try. It reports whether that one should wait a moment.
func (p *pilot) land(batch []*call, cmds []*redis.StringCmd, sent time.Time) (moving bool) {
	reloaded, tried := false, false
	for _, cmd := range cmds {
		if isMissing(cmd.Err()) && !tried {
			reloaded, tried = p.s.reload(sent), true
		}
	}
	p.s.reroute(cmds)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var again []*call
	for i, c := range batch {
		reply, err := cmds[i].Result()
		var refusal redis.Error
		switch {
		case err == nil:
			c.reply, c.err = reply, nil
		case isMissing(err):
			c.err = fmt.Errorf("%w: %w; run 'sluiced migrate'", c.refused(), err)
			if reloaded && c.tries < maxTries && !c.left && now.Before(c.deadline) {
				again = append(again, c)
				continue
			}
		case isMoving(err) && !c.left && now.Before(c.deadline):
			c.err = fmt.Errorf("%w: %w", c.refused(), err)
			again, moving = append(again, c), true
			continue
		case errors.As(err, &refusal):
			c.err = fmt.Errorf("%w: %w", c.refused(), err)
		default:
			c.err, c.unsure = fmt.Errorf("%w: %w", ErrNoAnswer, err), true
			if c.tries < maxTries && !c.left && now.Before(c.deadline) {
				c.again()
				p.s.stats.resends.Add(1)
				again = append(again, c)
				continue
			}
		}
		if c.err != nil {
			p.s.stats.errors.Add(1)
		}
		close(c.done)
	}
	p.queue = append(again, p.queue...)
	return moving
}

// movesFor is about how long a slot takes from one server to the other, if its keys are few.
const movesFor = time.Millisecond

// isMoving reports whether a slot is on its way to another server: some of its keys are there, and the
// operation's, which is new, nowhere. Nothing was carried out.
func isMoving(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "TRYAGAIN ") }

// reroute looks where the slots of a cluster are, on a goroutine of the client's, after a call without an
// answer: its primary may be dead, and another one in its place. The client itself looks when it is told MOVED, and once a minute.
func (s *Store) reroute(cmds []*redis.StringCmd) {
	cluster, ok := s.o.Client.(*redis.ClusterClient)
	if !ok {
		return
	}
	var refusal redis.Error
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.As(err, &refusal) {
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
