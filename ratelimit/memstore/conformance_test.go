package memstore

import (
	"path/filepath"
	"testing"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/storetest"
)

func openTestJournal(t testing.TB, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path, JournalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// durableStore makes every limit durable, so that the suite runs through the journal.
type durableStore struct{ *Store }

func (d durableStore) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	mine := append([]ratelimit.Charge{}, charges...)
	for i := range mine {
		l := *mine[i].Limit
		l.Durable = true
		mine[i].Limit = &l
	}
	return d.Store.Charge(op, mine, outcomes)
}

func TestConformance(t *testing.T) {
	t.Run("in memory", func(t *testing.T) {
		storetest.Run(t, func(*testing.T) ratelimit.Store { return New(Options{}) })
	})
	t.Run("with a journal", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) ratelimit.Store {
			return durableStore{New(Options{Journal: openTestJournal(t, filepath.Join(t.TempDir(), "journal"))})}
		})
	})
}
