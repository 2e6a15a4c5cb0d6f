package catalog

import (
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
//
// The error is quota.Problems for an invalid catalogue, and wraps ErrReadOnly
// if a file owns what fn added. After an error of the disk the change does not
// hold, but may after a restart: nobody knows what the disk kept. With validateOnly everything is checked and
// nothing changes.
func (c *Catalog) Update(fn func(*Edit) error, validateOnly bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.update(fn, validateOnly, nil)
}

// Once is Update for a request with an id. The response that fn returns is kept
// for a day in the same transaction: a second call with the same operation
// changes nothing and returns it, with replayed true. It must not hold a secret.
// ErrReused means that the key came with another body before. What fails is not kept.
func (c *Catalog) Once(op Operation, fn func(*Edit) (response []byte, err error)) (response []byte, replayed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db != nil {
		body, kept, ok, err := c.db.recall(op.Key, op.Now)
		switch {
		case err != nil:
			return nil, false, err
		case ok && body != op.BodyHash:
			return nil, false, ErrReused
		case ok:
			return kept, true, nil
		}
	}
	record := &remembered{Operation: op}
	err = c.update(func(e *Edit) (err error) {
		record.response, err = fn(e)
		return err
	}, false, record)
	if err != nil {
		return nil, false, err
	}
	return record.response, false, nil
}

// Recall is the response to an operation of the last day.
func (c *Catalog) Recall(key [32]byte, now time.Time) (bodyHash [32]byte, response []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db == nil {
		return bodyHash, nil, false
	}
	bodyHash, response, ok, err := c.db.recall(key, now)
	if err != nil {
		c.log.Error("can't read the answers to earlier requests", "path", c.o.DB, "error", err)
		return [32]byte{}, nil, false
	}
	return bodyHash, response, ok
}

func (c *Catalog) update(fn func(*Edit) error, validateOnly bool, record *remembered) error {
	switch {
	case c.closed:
		return errClosed
	case c.db == nil:
		return fmt.Errorf("%w: there is no data file to keep entries in; declare them in the catalog folder", ErrReadOnly)
	}
	now := c.state.Load()
	e := newEdit(&now.files.view, now.own)
	e.Revision = c.revision + 1
	if err := fn(e); err != nil {
		return err
	}
	d := e.delta()
	if err := now.files.ownsNone(&d.put); err != nil {
		return err
	}
	next, err := c.after(now, &d)
	if err != nil || validateOnly {
		return err
	}
	changes, err := d.changes()
	if err != nil {
		return err
	}
	if err := c.db.save(step{e.Revision, changes, record}); err != nil {
		return err
	}
	c.publish(next)
	return nil
}
