package catalog

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

func answerName(key [32]byte) string { return base64.RawURLEncoding.EncodeToString(key[:]) }

func (s *shared) answer(key [32]byte) string { return s.key("answer:" + answerName(key)) }

// oldAnswers is errBehind if r is there already.
func (s *shared) oldAnswers(ctx context.Context, tx *redis.Tx, r *remembered) (names []string, err error) {
	content, err := tx.Get(ctx, s.answer(r.Key)).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	if _, _, done, _ := decodeAnswer(content, r.Now); done {
		return nil, errBehind
	}
	return nil, nil
}

// remember adds commands that keep r.
func (s *shared) remember(ctx context.Context, p redis.Pipeliner, r *remembered) {
	p.Set(ctx, s.answer(r.Key), r.encode(), keepAnswers)
}

// forget adds commands that drop answers.
func (s *shared) forget(ctx context.Context, p redis.Pipeliner, names []string) {
	for _, name := range names {
		p.Del(ctx, s.key("answer:"+name))
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
