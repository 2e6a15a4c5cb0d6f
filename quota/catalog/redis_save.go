package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

func (s *shared) save(ctx context.Context, p step) error {
	if err := p.answer.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	before, next := *s.at.Load(), position{p.revision, newStamp()}
	keys := []string{s.key("head"), s.key("feed"), s.key("answers")}
	for _, l := range lists {
		keys = append(keys, s.key(l.name()))
	}
	if p.answer != nil {
		keys = append(keys, s.answer(p.answer.Key))
	}
	var sent []redis.Cmder
	err := s.redis.Watch(ctx, func(tx *redis.Tx) error {
		now, err := s.head(ctx, tx)
		switch {
		case errors.Is(err, errNoHead), err == nil && now != before:
			return errBehind
		case err != nil:
			return err
		}
		if err := s.ours(ctx, tx, now); err != nil {
			return err
		}
		var old []string
		if p.answer != nil {
			if old, err = s.oldAnswers(ctx, tx, p.answer); err != nil {
				return err
			}
		}
		pipe := tx.TxPipeline()
		s.write(ctx, pipe, p.changes)
		s.step(ctx, pipe, next, p)
		pipe.Publish(ctx, s.key("changed"), next.String())
		s.forget(ctx, pipe, old)
		for _, key := range p.forget {
			s.forget(ctx, pipe, []string{answerName(key)})
		}
		if p.answer != nil {
			s.remember(ctx, pipe, p.answer)
		}
		sent, err = pipe.Exec(ctx)
		return err
	}, keys...)
	return s.outcome(ctx, p, before, next, sent, err)
}

// ours looks whether what a change writes is of its kind, before anything is sent: Redis carries out the other commands of a
// transaction where one fails. Who calls it watches the keys.
func (s *shared) ours(ctx context.Context, tx *redis.Tx, head position) error {
	pipe := tx.Pipeline()
	kinds := make([]*redis.SliceCmd, len(lists))
	for i, l := range lists {
		kinds[i] = pipe.HMGet(ctx, s.key(l.name()), "")
	}
	feed := pipe.XRangeN(ctx, s.key("feed"), streamID(head.revision), "+", 2)
	answers := pipe.ZCard(ctx, s.key("answers"))
	_, _ = pipe.Exec(ctx) // each has its own error
	for i, l := range lists {
		if err := kinds[i].Err(); err != nil {
			return s.foreign(l.name(), err)
		}
	}
	switch news, err := feed.Result(); {
	case err != nil:
		return s.foreign("feed", err)
	case len(news) > 1:
		if now, err := s.head(ctx, tx); err != nil || now != head { // another was faster
			return errors.Join(errBehind, err)
		}
		return s.foreign("feed", nil)
	}
	if err := answers.Err(); err != nil {
		return s.foreign("answers", err)
	}
	return nil
}

// why is what Redis said to the command for which it did none. Of the whole it says no more than that.
func why(sent []redis.Cmder, err error) error {
	for _, c := range sent {
		if said := c.Err(); said != nil && isAborted(err) && !isAborted(said) {
			return said
		}
	}
	return err
}

func isAborted(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "EXECABORT") }

// outcome says how a change ended: sent is nil if it was not.
func (s *shared) outcome(ctx context.Context, p step, before, next position, sent []redis.Cmder, err error) error {
	var said redis.Error // by Redis, in place of doing it
	switch {
	case err == nil:
	case errors.Is(err, redis.TxFailedErr), errors.Is(err, errBehind):
		return errBehind
	case sent == nil, isAborted(err):
		return s.unavailable(why(sent, err))
	case errors.As(err, &said): // to one command; the others were carried out
		if p.answer != nil {
			s.doubtful = append(s.doubtful, p.answer.Key)
		}
		s.doubt.Store(true)
		return fmt.Errorf("%w: Redis refused a part of it and did the rest; everything is read again before anything else is changed, so look before you repeat it: %w", ErrUnknown, s.explain(err))
	default: // the answer was lost
		landed, unknown := s.landed(ctx, before, next)
		if !landed {
			return fmt.Errorf("%w: the answer of Redis was lost; look before you repeat it: %w", ErrUnknown, s.explain(errors.Join(err, unknown)))
		}
	}
	s.know(next)
	return nil
}

// landed reports whether the change from before to next is in the feed.
func (s *shared) landed(ctx context.Context, before, next position) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience())
	defer cancel()
	entries, err := s.redis.XRange(ctx, s.key("feed"), streamID(before.revision), "+").Result()
	for _, e := range entries {
		if e.Values["stamp"] == next.stamp {
			return true, nil
		}
	}
	return false, err
}

// write adds commands that write entries.
func (s *shared) write(ctx context.Context, p redis.Pipeliner, changes []change) {
	for _, l := range lists {
		var put []any
		var gone []string
		flush := func(most int) {
			if len(put) > most {
				p.HSet(ctx, s.key(l.name()), put...)
				put = nil
			}
			if len(gone) > most {
				p.HDel(ctx, s.key(l.name()), gone...)
				gone = nil
			}
		}
		for _, c := range changes {
			switch {
			case c.list != l:
				continue
			case c.content == nil:
				gone = append(gone, c.name)
			default:
				put = append(put, c.name, c.content)
			}
			flush(2 * writeCount)
		}
		flush(0)
	}
}

// step adds commands that make next the newest change.
func (s *shared) step(ctx context.Context, pipe redis.Pipeliner, next position, p step) {
	all := make([]entry, len(p.changes))
	size := 0
	for i, c := range p.changes {
		all[i] = entry{c.list.name(), c.name, c.content}
		size += len(c.name) + len(c.content) + 64
	}
	values := []any{"stamp", next.stamp}
	if size <= maxInFeed && !p.whole {
		text, err := json.Marshal(all)
		if err != nil {
			panic(err) // names and what was marshalled before
		}
		values = append(values, "changes", text)
	}
	pipe.HSet(ctx, s.key("head"), "format", sharedFormat, "revision", next.revision, "stamp", next.stamp)
	pipe.XAdd(ctx, &redis.XAddArgs{Stream: s.key("feed"), MaxLen: feedLength, Approx: true, ID: streamID(next.revision), Values: values})
}

func (p position) String() string { return strconv.FormatUint(p.revision, 10) + " " + p.stamp }

func streamID(revision uint64) string { return strconv.FormatUint(revision, 10) + "-0" }
