package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// load reads every entry. It does so in small parts, because counters wait meanwhile, and then takes
// over what was changed while it did.
func (s *shared) load(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	for attempt := 1; ; attempt++ {
		own, err := s.tryLoad(ctx)
		if !errors.Is(err, errLonger) && !errors.Is(err, errLost) || attempt == loadAttempts {
			return own, s.explain(err)
		}
	}
}

func (s *shared) tryLoad(ctx context.Context) (*View, error) {
	from, err := s.head(ctx, s.redis)
	if err != nil {
		return nil, err
	}
	line, err := s.lineage(ctx, s.redis)
	if err != nil {
		return nil, err
	}
	e := newEdit(&View{}, &View{})
	for _, l := range lists {
		for cursor := uint64(0); ; {
			var page []string
			page, cursor, err = s.redis.HScan(ctx, s.key(l.name()), cursor, "", scanCount).Result()
			if err != nil {
				return nil, s.foreign(l.name(), err)
			}
			for i := 0; i+1 < len(page); i += 2 {
				if err := s.apply(e, l, page[i], []byte(page[i+1])); err != nil {
					return nil, err
				}
			}
			if cursor == 0 {
				break
			}
		}
	}
	now, err := s.replay(ctx, e, from)
	if errors.Is(err, errLost) { // whoever emptied the feed did not change what was read
		if again, wrong := s.head(ctx, s.redis); wrong == nil && again == from {
			now, err = from, nil
		}
	}
	if err != nil {
		return nil, err
	}
	s.know(now)
	s.line = line
	return e.delta().own, nil
}

// know notes that nothing is newer than at.
func (s *shared) know(at position) {
	s.at.Store(&at)
	s.confirmed.Store(time.Now().UnixNano())
}

func (s *shared) apply(e *Edit, l list, name string, content []byte) error {
	if err := l.apply(e, name, content); err != nil {
		return fmt.Errorf("the entry %q of %s can't be read (%w): restore the backup of Redis, or remove that entry and make it again", name, s.key(l.name()), err)
	}
	return nil
}

// replay changes e by what the feed has after from, and says where that ends. errLonger: the feed does not say all;
// errLost: from never was, as far as Redis knows.
func (s *shared) replay(ctx context.Context, e *Edit, from position) (position, error) {
	news, err := s.redis.XRange(ctx, s.key("feed"), streamID(from.revision), "+").Result()
	if err != nil {
		return from, s.foreign("feed", err)
	}
	if len(news) == 0 || news[0].ID != streamID(from.revision) || news[0].Values["stamp"] != from.stamp {
		return from, s.gap(ctx, from)
	}
	for _, n := range news[1:] {
		revision, err := revisionOf(n.ID)
		stamp, ok := n.Values["stamp"].(string)
		if err != nil || !ok {
			return from, s.foreign("feed", nil)
		}
		text, ok := n.Values["changes"].(string)
		if !ok {
			return from, errLonger
		}
		var changes []entry
		if err := json.Unmarshal([]byte(text), &changes); err != nil {
			return from, s.foreign("feed", nil)
		}
		for _, c := range changes {
			at := listAt(c.List)
			if at < 0 {
				return from, s.foreign("feed", nil)
			}
			content := []byte(c.Content)
			if string(content) == "null" {
				content = nil
			}
			if err := s.apply(e, lists[at], c.Name, content); err != nil {
				return from, err
			}
		}
		from = position{revision, stamp}
	}
	return from, nil
}

// gap says why a change is not in the feed: it was long ago, or Redis has lost it.
func (s *shared) gap(ctx context.Context, at position) error {
	oldest, err := s.redis.XRangeN(ctx, s.key("feed"), "-", "+", 1).Result()
	if err != nil {
		return err
	}
	if len(oldest) > 0 {
		revision, err := revisionOf(oldest[0].ID)
		if err != nil {
			return s.foreign("feed", nil)
		}
		if revision > at.revision {
			return errLonger
		}
	}
	return errLost
}

func revisionOf(streamID string) (uint64, error) {
	return strconv.ParseUint(strings.TrimSuffix(streamID, "-0"), 10, 64)
}

// news is what others changed.
type news struct {
	delta *delta // from what was known before; nil: everything was read again
	own   *View
}

// pull asks what others changed since own; nil if nothing.
func (s *shared) pull(ctx context.Context, own *View) (*news, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	known := *s.at.Load()
	head, err := s.head(ctx, s.redis)
	switch {
	case errors.Is(err, errNoHead), err == nil && head.revision == 1 && known.revision > 1:
		return s.giveBack(ctx, own, known)
	case err != nil:
		return nil, s.unavailable(err)
	case head == known && !s.doubt.Load():
		s.confirmed.Store(time.Now().UnixNano())
		return nil, nil
	}
	line, err := s.lineage(ctx, s.redis)
	if err != nil {
		return nil, s.unavailable(err)
	}
	if s.line.outranks(known, line) {
		return s.giveBack(ctx, own, known)
	}
	if s.doubt.Load() {
		return s.clear(ctx)
	}
	e := newEdit(&View{}, own)
	now, err := s.replay(ctx, e, known)
	if err == nil && now.revision < head.revision { // of the newest change the feed got nothing
		err = errLonger
	}
	if err == nil {
		d := e.delta()
		s.know(now)
		return &news{delta: &d, own: d.own}, nil
	}
	lost := errors.Is(err, errLost)
	if !lost && !errors.Is(err, errLonger) {
		return nil, s.unavailable(err)
	}
	whole, err := s.load(ctx)
	if err != nil {
		return nil, s.unavailable(err)
	}
	if lost {
		s.log.Error("Redis has lost changes of the catalogue, as a failover can; what Redis has now holds",
			"known", known.revision, "redis", head.revision, "hint", "compare the entries with what was changed last, and make those changes again")
	}
	return &news{own: whole}, nil
}

// clear is pull after a change of which Redis did a part: what Redis has is read whole, and whoever follows is made to do the same.
func (s *shared) clear(ctx context.Context) (*news, error) {
	for range loadAttempts {
		whole, err := s.load(ctx)
		if err != nil {
			return nil, s.unavailable(err)
		}
		revision := s.at.Load().revision + 1
		if err = s.save(ctx, step{revision: revision, whole: true, forget: s.doubtful}); err == nil {
			s.settled()
			s.log.Error("Redis did a part of a change and refused the rest; what it has now holds", "revision", revision, "hint", "compare the entries with what was changed last")
			return &news{own: whole}, nil
		}
		if !errors.Is(err, errBehind) {
			return nil, s.unavailable(fmt.Errorf("what is left of a change before can't be told to all: %v", err)) //nolint:errorlint // how the change before ended is not how this one does
		}
	}
	return nil, s.unavailable(errBehind)
}

// settled says that what is known is true again.
func (s *shared) settled() {
	s.doubtful = nil
	s.doubt.Store(false)
}

// giveBack is pull where Redis has less than this process knows.
func (s *shared) giveBack(ctx context.Context, own *View, known position) (*news, error) {
	wrote, err := s.restore(ctx, own, known)
	if err != nil || !wrote {
		return nil, s.unavailable(err)
	}
	return &news{delta: &delta{own: own}, own: own}, nil
}

// restore writes what this process knows to a Redis that has lost everything: started again without its data, or with a
// catalogue that was made empty since, or that got an older state back from a replica that had been cut off. Of several replicas one does.
func (s *shared) restore(ctx context.Context, own *View, known position) (wrote bool, err error) {
	next := position{known.revision + 1, newStamp()}
	line := lineage{stamp: next.stamp, parent: s.line.stamp, from: known.revision}
	e := newEdit(&View{}, &View{})
	for _, l := range lists {
		l.putAll(e, own)
	}
	d := e.delta()
	changes, err := d.changes()
	if err != nil {
		return false, err
	}
	err = s.redis.Watch(ctx, func(tx *redis.Tx) error {
		head, err := s.head(ctx, tx)
		if err != nil && !errors.Is(err, errNoHead) {
			return err
		}
		if err == nil && head.revision > 1 {
			there, err := s.lineage(ctx, tx)
			if err != nil {
				return err
			}
			if !s.line.outranks(known, there) {
				return redis.TxFailedErr
			}
			if s.line.parent == there.parent && s.line.from > there.from { // its own restoration was written over
				line.parent, line.from = s.line.parent, s.line.from
			}
			next.revision = max(next.revision, head.revision+1)
		}
		sent, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			for _, l := range lists {
				p.Del(ctx, s.key(l.name()))
			}
			p.Del(ctx, s.key("feed"))
			s.write(ctx, p, changes)
			s.step(ctx, p, next, step{changes: changes})
			p.HSet(ctx, s.key("head"), "restored", line.String())
			p.Publish(ctx, s.key("changed"), next.String())
			return nil
		})
		return why(sent, err)
	}, s.key("head"))
	if errors.Is(err, redis.TxFailedErr) { // another was faster: what it wrote is taken over next
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.know(next)
	s.line = line
	s.settled()
	s.log.Error("Redis had lost the catalogue, or had an older one; this replica wrote back what it knew",
		"revision", next.revision, "entries", len(changes), "hint", "let Redis write to disk (appendonly yes); to begin anew on purpose, stop every replica first")
	return true, nil
}
