package app

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// grace is what a part has after the stop's time is over, so that one that hangs does not make
// those beneath it look as if they did.
const grace = time.Second

// teardown is what a stop has to undo, in the reverse of the order in which it was done:
// a part ends before what it stands on is closed.
type teardown struct{ steps []func(context.Context) error }

// add has step run at the stop.
func (t *teardown) add(step func(context.Context) error) { t.steps = append(t.steps, step) }

// start runs part in a goroutine of its own. The stop ends its context and waits for it, so
// that nothing of it happens later; a part that does not end in time is an error with its name.
// The channel gets the error of a part that ended by itself.
func (t *teardown) start(name string, failed chan<- error, part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := part(ctx)
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		if err != nil && ctx.Err() == nil {
			select {
			case failed <- err:
				err = nil
			default: // somebody else's is reported already
			}
		}
		ended <- err
	}()
	t.add(func(stop context.Context) error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-stop.Done():
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(grace):
			return fmt.Errorf("%s has not ended in time; it ends with the process", name)
		}
	})
}

// run undoes everything. What fails does not keep the rest.
func (t *teardown) run(ctx context.Context) (err error) {
	for i := len(t.steps) - 1; i >= 0; i-- {
		err = errors.Join(err, t.steps[i](ctx))
	}
	t.steps = nil
	return err
}
