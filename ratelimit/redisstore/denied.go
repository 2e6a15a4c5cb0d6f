package redisstore

import (
	"context"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

type denials struct{}

func (d *denials) answer(charges []ratelimit.Charge, outcomes []ratelimit.Outcome, now time.Time) bool {
	return false
}
func (d *denials) generation(charges []ratelimit.Charge) uint64 { return 0 }
func (d *denials) remember(charges []ratelimit.Charge, outcomes []ratelimit.Outcome, sent time.Time, seen uint64) {
}
func (d *denials) listening() bool { return false }

func (s *Store) channel() string            { return s.o.Prefix + "freed" }
func (s *Store) listen(ctx context.Context) { <-ctx.Done() }
