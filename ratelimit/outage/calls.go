package outage

import (
	"errors"
	"fmt"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

var (
	errCrowded  = errors.New("outage: too many calls of the shared store are under way")
	errPanicked = errors.New("outage: the shared store panicked")
)

// calls are those of the shared store that are under way.
type calls struct {
	shared   Shared
	places   chan struct{}
	patience time.Duration // for a place
}

func newCalls(shared Shared, most int, budget time.Duration) *calls {
	return &calls{shared, make(chan struct{}, most), budget - PatienceOf(budget)}
}

// charge is the shared store's Charge, or errCrowded where nothing was sent.
func (c *calls) charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (admitted bool, err error) {
	if !c.enter() {
		return false, errCrowded
	}
	defer func() { <-c.places }()
	err = contained(func() (err error) {
		admitted, err = c.shared.Charge(op, charges, outcomes)
		return err
	})
	return admitted, err
}

// enter waits for a place; false if none was free in time.
func (c *calls) enter() bool {
	select {
	case c.places <- struct{}{}:
		return true
	default:
	}
	enough := time.NewTimer(c.patience)
	defer enough.Stop()
	select {
	case c.places <- struct{}{}:
		return true
	case <-enough.C:
		return false
	}
}

// contained is f's error, or what f panicked with.
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
