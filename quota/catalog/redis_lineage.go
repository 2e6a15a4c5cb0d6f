package catalog

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// lineage says which restoration a catalogue descends from; zero if Redis never lost it. Numbers of different
// lineages can't be compared, but the numbers at which they left the same parent can.
type lineage struct {
	stamp  string // of the restoration
	parent string // the lineage that was lost
	from   uint64 // the newest change of the parent that the restoring replica knew
}

// outranks reports whether who knows the change known of l has more of what was lost than other was restored from.
func (l lineage) outranks(known position, other lineage) bool {
	switch {
	case other == l || other.stamp == "":
		return false
	case other.parent == l.stamp:
		return known.revision > other.from
	default:
		return l.stamp != "" && l.parent == other.parent && l.from > other.from
	}
}

func (l lineage) String() string { return fmt.Sprintf("%d %s %s", l.from, l.stamp, l.parent) }

// lineage is that of what Redis has.
func (s *shared) lineage(ctx context.Context, c redis.Cmdable) (lineage, error) {
	values, err := c.HMGet(ctx, s.key("head"), "restored").Result()
	if err != nil {
		return lineage{}, s.foreign("head", err)
	}
	text, ok := values[0].(string)
	if !ok {
		return lineage{}, nil
	}
	var l lineage
	if n, _ := fmt.Sscan(text, &l.from, &l.stamp, &l.parent); n < 2 { // a parent that never was restored has no name
		return lineage{}, s.foreign("head", nil)
	}
	return l, nil
}
