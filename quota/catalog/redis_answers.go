package catalog

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// dropAnswers is how many old answers a write drops at most, so that none takes long. It adds one.
const dropAnswers = 10

func answerName(key [32]byte) string { return base64.RawURLEncoding.EncodeToString(key[:]) }

func (s *shared) answer(key [32]byte) string { return s.key("answer:" + answerName(key)) }

// oldAnswers are those that go when r comes. errBehind: r is there already.
func (s *shared) oldAnswers(ctx context.Context, tx *redis.Tx, r *remembered) (names []string, err error) {
	pipe := tx.Pipeline()
	there := pipe.Get(ctx, s.answer(r.Key))
	count := pipe.ZCard(ctx, s.key("answers"))
	oldest := pipe.ZRangeWithScores(ctx, s.key("answers"), 0, dropAnswers-1)
	_, _ = pipe.Exec(ctx) // each has its own error
	content, err := there.Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	if _, _, done, _ := decodeAnswer(content, r.Now); done {
		return nil, errBehind
	}
	if err := errors.Join(count.Err(), oldest.Err()); err != nil {
		return nil, s.foreign("answers", count.Err())
	}
	bound := float64(r.Now.Add(-keepAnswers).UnixMicro())
	more := count.Val() + 1 - int64(s.maxAnswers)
	for _, z := range oldest.Val() {
		name, ok := z.Member.(string)
		if ok && (z.Score < bound || int64(len(names)) < more) {
			names = append(names, name)
		}
	}
	return names, nil
}

// remember adds commands that keep r.
func (s *shared) remember(ctx context.Context, p redis.Pipeliner, r *remembered) {
	p.Set(ctx, s.answer(r.Key), r.encode(), keepAnswers)
	p.ZAdd(ctx, s.key("answers"), redis.Z{Score: float64(r.Now.UnixMicro()), Member: answerName(r.Key)})
	p.PExpire(ctx, s.key("answers"), keepAnswers)
}

// forget adds commands that drop answers.
func (s *shared) forget(ctx context.Context, p redis.Pipeliner, names []string) {
	for _, name := range names {
		p.Del(ctx, s.key("answer:"+name))
		p.ZRem(ctx, s.key("answers"), name)
	}
}

func (s *shared) recall(ctx context.Context, key [32]byte, now time.Time) (body [32]byte, response []byte, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	content, err := s.redis.Get(ctx, s.answer(key)).Bytes()
	if errors.Is(err, redis.Nil) {
		return body, nil, false, nil
	}
	if err != nil {
		return body, nil, false, s.unavailable(err)
	}
	body, response, ok, wrong := decodeAnswer(content, now)
	if wrong {
		return body, nil, false, s.explain(s.foreign(strings.TrimPrefix(s.answer(key), s.base), nil))
	}
	return body, response, ok, nil
}
