package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Operation makes a change that is asked for twice happen once.
type Operation struct {
	Key      [32]byte // stands for the request id and whoever chose it
	BodyHash [32]byte // stands for everything else in the request
	Now      time.Time
}

var errClosed = errors.New("the catalogue is closed")

// Update changes the entries that the API owns. fn says how; whatever error it
// returns is returned as it is, and nothing changes. Otherwise the change is
// compiled, made durable and swapped in: it holds for the next request. Updates run one at a time.
// Where replicas share the entries, fn sees what all of them changed until now, and runs again if one of them was faster.
//
// The error is quota.Problems for an invalid catalogue, and wraps ErrReadOnly
// if a file owns what fn added, ErrUnavailable if Redis can't keep the change, and ErrUnknown if it is not
// known whether it does: after seconds, both. After an error of the disk the change does not
// hold, but may later: nobody knows what was kept. With validateOnly everything is checked and
// nothing changes.
func (c *Catalog) Update(fn func(*Edit) error, validateOnly bool) error {
	return c.update(fn, validateOnly, nil)
}

// Once is Update for a request with an id. The response that fn returns is kept
// for a day in the same transaction: a second call with the same operation
// changes nothing and returns it, with replayed true, on whichever replica. It must not hold a secret.
// ErrReused means that the key came with another body before. What fails is not kept.
func (c *Catalog) Once(op Operation, fn func(*Edit) (response []byte, err error)) (response []byte, replayed bool, err error) {
	record := &remembered{Operation: op}
	err = c.update(func(e *Edit) (err error) {
		record.response, err = fn(e)
		return err
	}, false, record)
	if replayed = errors.Is(err, errReplayed); err != nil && !replayed {
		return nil, false, err
	}
	return record.response, replayed, nil
}

// maxAttempts is how often an update is made anew because another replica was faster.
const maxAttempts = 20

func (c *Catalog) update(fn func(*Edit) error, validateOnly bool, record *remembered) error {
	if c.keeper == nil {
		return fmt.Errorf("%w: there is no data file to keep entries in; declare them in the catalog folder", ErrReadOnly)
	}
	ctx := context.Background()
	if c.shared != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*c.shared.patience())
		defer cancel()
	}
	if err := c.turn.take(ctx); err != nil {
		return fmt.Errorf("%w: other changes have waited for Redis for %v, and nothing was changed; try again", ErrUnavailable, 2*c.shared.patience())
	}
	defer c.turn.end()
	for attempt := range maxAttempts {
		if c.shared != nil {
			c.shared.pause(ctx, attempt)
			if err := c.catchUp(ctx); err != nil {
				return err
			}
		}
		if record != nil {
			if err := c.replay(ctx, record); err != nil {
				return err
			}
		}
		if err := c.try(ctx, fn, validateOnly, record); !errors.Is(err, errBehind) {
			return err
		}
	}
	return fmt.Errorf("%w: other replicas changed it %d times before this change could be written; try again", ErrUnavailable, maxAttempts)
}

// errReplayed says that the operation was done before.
var errReplayed = errors.New("done before")

// replay finds the answer to an operation that was done before.
func (c *Catalog) replay(ctx context.Context, record *remembered) error {
	body, kept, ok, err := c.keeper.recall(ctx, record.Key, record.Now)
	switch {
	case err != nil:
		return err
	case ok && body != record.BodyHash:
		return ErrReused
	case ok:
		record.response = kept
		return errReplayed
	}
	return nil
}

// try makes a change on what is known now; errBehind says that it isn't what is kept.
func (c *Catalog) try(ctx context.Context, fn func(*Edit) error, validateOnly bool, record *remembered) error {
	c.mu.Lock()
	now, own, revision, closed := c.state.Load(), c.own, c.newer(), c.closed
	c.mu.Unlock()
	if closed {
		return errClosed
	}
	e := newEdit(&now.files.view, own)
	e.Revision = revision
	if err := fn(e); err != nil {
		return err
	}
	d := e.delta()
	if err := now.files.ownsNone(&d.put); err != nil {
		return err
	}
	next, err := c.after(now, own, &d, revision)
	if err != nil || validateOnly {
		return err
	}
	changes, err := d.changes()
	if err != nil {
		return err
	}
	if err := c.keeper.save(ctx, step{revision: revision, changes: changes, answer: record}); err != nil {
		if errors.Is(err, ErrUnknown) {
			c.wake()
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() == now {
		c.publish(next)
		return nil
	}
	defer c.wake() // a file was changed meanwhile: the number is a new one
	if err := c.adopt(d.own, &d); err != nil {
		return fmt.Errorf("%w here: it was written, and is not valid beside a file of this replica that changed meanwhile: %v", ErrUnknown, err) //nolint:errorlint // that nothing was changed, as these problems otherwise say, is not so
	}
	return nil
}
