package memstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/voicecore-ai/sluice/boltfile"
)

// OnDamage says what durable limits do when their journal was damaged.
type OnDamage uint8

const (
	// Deny counts every durable limit without a newer record as used up when the
	// damage was found: none is exceeded, all are free again a window later.
	Deny OnDamage = iota
	// Forget starts from zero: up to one more limit is admitted. It also lifts an
	// earlier Deny.
	Forget
)

// JournalOptions are how a journal treats what it finds.
type JournalOptions struct {
	OnDamage OnDamage
	Log      *slog.Logger // nil: silent
}

// OpenJournal opens the journal at path, and makes one if there is none.
//
// A damaged file is renamed to path.damaged-<UTC time>, and a new journal
// starts as OnDamage says. A file that another process has open is an error
// after one second, and so is one that can't be read or made.
func OpenJournal(path string, o JournalOptions) (*Journal, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createJournal(path, 0, false); err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
	}
	for range 2 {
		j, damage, err := openJournal(path, o)
		if err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
		if damage == nil {
			go j.run()
			return j, nil
		}
	}
	return nil, fmt.Errorf("journal %s: %w", path, errors.New("a new journal is damaged at once; is the disk?"))
}

// openJournal opens the file at path. If that is damaged it puts a new one
// there, and says what the damage was.
func openJournal(path string, o JournalOptions) (j *Journal, damage, err error) {
	file, err := boltfile.Lock(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	found, damage := verify(file, info.Size())
	if boltfile.Unreadable(damage) {
		return nil, nil, errors.Join(damage, file.Close())
	}
	if damage != nil {
		// Under the lock, or two processes would replace each other's.
		return nil, damage, errors.Join(quarantine(path, damage, o), file.Close())
	}
	db, err := boltfile.Open(path, file)
	if err != nil {
		return nil, nil, err
	}
	if found.damaged != 0 && o.OnDamage == Forget {
		if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketHead).Delete(headDamaged) }); err != nil {
			return nil, nil, errors.Join(err, db.Close())
		}
		found.damaged = 0
	}
	return &Journal{
		path: path, log: o.Log, db: db, loaded: found, count: found.count, sum: found.sum,
		requests: make(chan *request, maxRequests), stop: make(chan struct{}), stopped: make(chan struct{}),
	}, nil, nil
}

// createJournal makes an empty journal. Unless it replaces what is there, a
// journal that another process made meanwhile stays.
func createJournal(path string, damaged int64, replace bool) error {
	return boltfile.Create(path, replace, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket(bucketCells)
			head, errHead := tx.CreateBucket(bucketHead)
			if err := errors.Join(err, errHead); err != nil {
				return err
			}
			if damaged != 0 {
				body := binary.BigEndian.AppendUint64(nil, uint64(damaged))
				if err := head.Put(headDamaged, sealHead(headDamaged, body)); err != nil {
					return err
				}
			}
			return putDigest(tx, 0, 0)
		})
	})
}

// quarantine keeps a damaged journal under another name and puts a new one in
// its place. At no moment is there none, so a crash in between loses nothing.
func quarantine(path string, damage error, o JournalOptions) error {
	now := time.Now()
	aside, err := boltfile.Aside(path, now)
	if err != nil {
		return err
	}
	mark, effect := now.UnixMicro(), "durable limits count as used up until a window has passed"
	hint := "to start them from zero, open the journal once with damage set to forget; or stop, put a backup in its place, and start"
	if o.OnDamage == Forget {
		mark, effect, hint = 0, "durable limits start from zero", "the damaged file is kept; nothing needs to be done"
	}
	o.Log.Error("the journal of durable limits is damaged and was put aside; "+effect,
		"path", path, "damage", damage, "aside", aside, "hint", hint)
	return createJournal(path, mark, true)
}
