package catalog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrUnavailable says that the entries of the API are kept in Redis, and Redis can't be asked to keep a change.
var ErrUnavailable = errors.New("the catalogue can't be changed now")

// ErrUnknown says that nobody can tell yet whether a change holds: Redis did not answer after it was sent, or did a part of it.
// What is true is read again before anything else is changed.
var ErrUnknown = errors.New("it is not known whether the change holds")

// errBehind says that somebody else made a step meanwhile: the change must be made anew on what is there now.
var errBehind = errors.New("the catalogue was changed elsewhere meanwhile")

// keeper keeps the entries that the API owns: a file, or Redis for several replicas. Who calls it has the turn.
type keeper interface {
	// save makes a step from what is kept now durable, whole or not at all.
	save(ctx context.Context, p step) error
	// recall finds an answer that is not older than a day.
	recall(ctx context.Context, key [32]byte, now time.Time) (body [32]byte, response []byte, ok bool, err error)
}

// step is what one transaction keeps.
type step struct {
	revision uint64 // of the catalogue after it
	changes  []change
	answer   *remembered // nil if there is none
	whole    bool        // whoever follows must read everything again
	forget   [][32]byte  // answers that may be false
}

// turn is a lock that can be waited for in vain.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) end() { <-t }

// Bounds of the answers that are kept.
const (
	keepAnswers = 24 * time.Hour
	maxAnswers  = 100_000
	maxAnswer   = 64 << 10
)

// remembered is an operation with its answer.
type remembered struct {
	Operation
	response []byte
}

// check is nil if the answer is one to keep.
func (r *remembered) check() error {
	if r != nil && len(r.response) > maxAnswer {
		return fmt.Errorf("the answer to the operation has %d bytes, more than %d", len(r.response), maxAnswer)
	}
	return nil
}

// answerHead is the length of what stands before an answer: body hash 32, Unix µs 8.
const answerHead = 40

func (r *remembered) encode() []byte {
	at := binary.BigEndian.AppendUint64(append([]byte(nil), r.BodyHash[:]...), uint64(r.Now.UnixMicro()))
	return append(at, r.response...)
}

// decodeAnswer is the answer in b, if it is not older than a day. wrong: b is none.
func decodeAnswer(b []byte, now time.Time) (body [32]byte, response []byte, ok, wrong bool) {
	if len(b) < answerHead {
		return body, nil, false, true
	}
	if now.Sub(time.UnixMicro(int64(binary.BigEndian.Uint64(b[32:])))) > keepAnswers {
		return body, nil, false, false
	}
	copy(body[:], b)
	return body, append([]byte(nil), b[answerHead:]...), true, false
}
