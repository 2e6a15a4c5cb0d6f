package rls

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// All ways to cut one text at its separators into keys and values collide when
// the parts are joined with that separator again; here none may. -short takes 1e5.
func TestDescriptorsBuiltToCollideDoNot(t *testing.T) {
	sets := 1_000_000
	if testing.Short() || slow > 1 {
		sets = 100_000
	}
	h := newHasher([16]byte{7})
	limit := &ratelimit.Limit{Algorithm: ratelimit.Fixed, Window: 1}
	seen := make(map[[16]byte]struct{}, sets)
	var key []byte
	n := 0
	for _, sep := range []string{"_", ".", ":", "|", "/", "\x00", ",", "\x01\x01"} {
		atoms := []string{"a", sep, "b", sep, "a", sep, sep, "b", sep, "a", sep, "b", "a", sep, "b", sep, sep}
		for mask := uint32(0); mask < 1<<(len(atoms)-1) && n < sets; mask++ {
			// Bit i cuts after atom i; parts go to domain, key, value, key, value ...
			var parts []string
			from := 0
			for i := range atoms {
				if i == len(atoms)-1 || mask>>i&1 == 1 {
					parts = append(parts, strings.Join(atoms[from:i+1], ""))
					from = i + 1
				}
			}
			for _, tail := range [][]string{nil, {""}} { // a value that is empty, and one that is not there
				texts := append(parts[:len(parts):len(parts)], tail...)
				if len(texts)%2 == 0 {
					continue
				}
				key = appendSized(key[:0], texts[0])
				first := 0
				for i := 1; i+1 < len(texts); i += 2 {
					key = appendEntry(key, tagValue, []byte(texts[i]), texts[i+1])
					if i == 1 {
						first = len(key)
					}
				}
				var cell ratelimit.Cell
				cell, key = h.cell(key, first, limit)
				if _, twice := seen[cell.Key]; twice {
					t.Fatalf("%q collides", texts)
				}
				seen[cell.Key] = struct{}{}
				n++
			}
		}
	}
	if n < min(sets, 500_000) {
		t.Errorf("only %d sets", n)
	}
}

func TestAnotherKeyIsAnotherCellAndAnotherShard(t *testing.T) {
	limit := &ratelimit.Limit{Algorithm: ratelimit.Fixed, Window: 1}
	key := appendEntry(appendSized(nil, "d"), tagValue, []byte("k"), "v")
	cell := func(hash byte, l *ratelimit.Limit) ratelimit.Cell {
		c, _ := newHasher([16]byte{hash}).cell(key[:len(key):len(key)], len(key), l)
		return c
	}
	a, b := cell(1, limit), cell(2, limit)
	if a.Key == b.Key || a.Shard == b.Shard {
		t.Error("the hash has no key")
	}
	if other := cell(1, &ratelimit.Limit{Algorithm: ratelimit.GCRA, Window: 1}); other.Key == a.Key || other.Shard != a.Shard {
		t.Error("the algorithm is part of the cell and not of the shard")
	}
	if other := cell(1, &ratelimit.Limit{Algorithm: ratelimit.Fixed, Window: 2}); other.Key == a.Key || other.Shard != a.Shard {
		t.Error("the window is part of the cell and not of the shard")
	}
	if shared := appendEntry(appendSized(nil, "d"), tagPattern, []byte("k"), "v"); string(shared) == string(key) {
		t.Error("a shared pattern is a value")
	}
}
