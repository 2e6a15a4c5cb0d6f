package outage

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

var (
	errTimeout  = errors.New("outage: the shared store did not answer within the budget")
	errCrowded  = errors.New("outage: too many calls of the shared store are under way")
	errPanicked = errors.New("outage: the shared store panicked")
)

// idleFor is how long a goroutine without a call stays.
const idleFor = 2 * time.Second

// calls makes calls that can be given up. Each runs on a goroutine of its own while it
// lasts; these are kept for the next ones, and end when there is nothing to do. What a call reads and
// writes is its own, so that one which was given up harms nobody when it ends at last.
type calls struct {
	shared Shared
	most   int64
	made   atomic.Int64 // goroutines
	work   chan *call
	spare  sync.Pool
	quit   <-chan struct{}
}

type call struct {
	op       ratelimit.Operation
	charges  []ratelimit.Charge
	outcomes []ratelimit.Outcome
	admitted bool
	err      error
	over     atomic.Bool // somebody has taken leave: the caller, or the goroutine that is done
	done     chan struct{}
	timer    *time.Timer
}

func newCalls(shared Shared, most int64, quit <-chan struct{}) *calls {
	c := &calls{shared: shared, most: most, work: make(chan *call), quit: quit}
	c.spare.New = func() any {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return &call{done: make(chan struct{}, 1), timer: t}
	}
	return c
}

// charge is the shared store's Charge, or errTimeout, or errCrowded where nothing was sent.
func (c *calls) charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome, budget time.Duration) (bool, error) {
	k := c.spare.Get().(*call) //nolint:errcheck // the pool holds nothing else
	k.op, k.charges = op, append(k.charges[:0], charges...)
	if cap(k.outcomes) < len(charges) {
		k.outcomes = make([]ratelimit.Outcome, len(charges))
	}
	k.outcomes = k.outcomes[:len(charges)]
	clear(k.outcomes)
	k.over.Store(false)
	k.timer.Reset(budget)
	if !c.hand(k) {
		c.spare.Put(k)
		return false, errCrowded
	}
	select {
	case <-k.done:
	case <-k.timer.C:
		if k.over.CompareAndSwap(false, true) {
			return false, errTimeout
		}
		<-k.done
	}
	k.timer.Stop()
	admitted, err := k.admitted, k.err
	copy(outcomes, k.outcomes)
	c.spare.Put(k)
	return admitted, err
}

// hand gives k to a goroutine; false if none was free in time.
func (c *calls) hand(k *call) bool {
	select {
	case c.work <- k:
		return true
	default:
	}
	if c.made.Add(1) <= c.most {
		go c.serve(k)
		return true
	}
	c.made.Add(-1)
	select {
	case c.work <- k:
		return true
	case <-k.timer.C:
		return false
	}
}

func (c *calls) serve(k *call) {
	defer c.made.Add(-1)
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		c.run(k)
		if k.over.CompareAndSwap(false, true) {
			k.done <- struct{}{}
		} else {
			c.spare.Put(k) // it was given up: nobody else has it
		}
		idle.Reset(idleFor)
		select {
		case k = <-c.work:
		case <-idle.C:
			return
		case <-c.quit:
			return
		}
	}
}

func (c *calls) run(k *call) {
	k.admitted = false
	k.err = contained(func() (err error) {
		k.admitted, err = c.shared.Charge(k.op, k.charges, k.outcomes)
		return err
	})
}

// contained is f's error, or what f panicked with: on a goroutine of its own nobody else would contain it.
func contained(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return f()
}

// ask runs f on a goroutine that may be left behind.
func ask(f func() error) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- contained(f) }()
	return answer
}
