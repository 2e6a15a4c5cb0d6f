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
// if a file owns what fn added, and ErrUnavailable if Redis can't keep the change. After an error of the disk, or of a
// connection that was lost in the middle, the change does not
// hold, but may later: nobody knows what was kept. With validateOnly everything is checked and
// nothing changes.
func (c *Catalog) Update(fn func(*Edit) error, validateOnly bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.update(fn, validateOnly, nil)
}

// Once is Update for a request with an id. The response that fn returns is kept
// for a day in the same transaction: a second call with the same operation
// changes nothing and returns it, with replayed true, on whichever replica. It must not hold a secret.
// ErrReused means that the key came with another body before. What fails is not kept.
func (c *Catalog) Once(op Operation, fn func(*Edit) (response []byte, err error)) (response []byte, replayed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
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

// Recall is the response to an operation of the last day.
func (c *Catalog) Recall(key [32]byte, now time.Time) (bodyHash [32]byte, response []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.keeper == nil {
		return bodyHash, nil, false
	}
	bodyHash, response, ok, err := c.keeper.recall(key, now)
	if err != nil {
		c.log.Error("can't read the answers to earlier requests", "error", err)
		return [32]byte{}, nil, false
	}
	return bodyHash, response, ok
}

// maxAttempts is how often an update is made anew because another replica was faster.
const maxAttempts = 20

func (c *Catalog) update(fn func(*Edit) error, validateOnly bool, record *remembered) error {
	switch {
	case c.closed:
		return errClosed
	case c.keeper == nil:
		return fmt.Errorf("%w: there is no data file to keep entries in; declare them in the catalog folder", ErrReadOnly)
	}
	for attempt := range maxAttempts {
		if c.shared != nil {
			c.shared.pause(attempt)
			if err := c.catchUp(context.Background()); err != nil {
				return err
			}
		}
		if record != nil {
			if err := c.replay(record); err != nil {
				return err
			}
		}
		if err := c.try(fn, validateOnly, record); !errors.Is(err, errBehind) {
			return err
		}
	}
	return fmt.Errorf("%w: other replicas changed it %d times before this change could be written; try again", ErrUnavailable, maxAttempts)
}

// errReplayed says that the operation was done before.
var errReplayed = errors.New("done before")

// replay finds the answer to an operation that was done before.
func (c *Catalog) replay(record *remembered) error {
	body, kept, ok, err := c.keeper.recall(record.Key, record.Now)
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
func (c *Catalog) try(fn func(*Edit) error, validateOnly bool, record *remembered) error {
	now := c.state.Load()
	e := newEdit(&now.files.view, c.own)
	e.Revision = c.newer()
	if err := fn(e); err != nil {
		return err
	}
	d := e.delta()
	if err := now.files.ownsNone(&d.put); err != nil {
		return err
	}
	next, err := c.after(now, &d, e.Revision)
	if err != nil || validateOnly {
		return err
	}
	changes, err := d.changes()
	if err != nil {
		return err
	}
	if err := c.keeper.save(step{e.Revision, changes, record}); err != nil {
		return err
	}
	c.publish(next)
	return nil
}
