package memstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
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

const (
	lockTimeout = time.Second
	lockPause   = 20 * time.Millisecond
)

var errLocked = errors.New("another process has the file open; stop it, or give each its own journal")

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
	file, err := lockFile(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	found, damage := verify(file, info.Size())
	if damage != nil {
		// Under the lock, or two processes would replace each other's.
		return nil, damage, errors.Join(quarantine(path, damage, o), file.Close())
	}
	db, err := openBolt(path, file)
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

// openBolt gives bbolt the file that is locked and verified already. bbolt
// closes it, whether it fails or not.
func openBolt(path string, file *os.File) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bbolt: %v", p)
		}
	}()
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, PageSize: pageSize, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			if file != nil {
				return file, nil
			}
			return os.OpenFile(name, flag, mode)
		},
	})
}

// lockFile opens path and locks it as bbolt does, so that nobody changes it
// between the check and the use.
func lockFile(path string) (*os.File, error) {
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(lockPause) {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && samePath(file, path) {
			return file, nil
		}
		_ = file.Close()
		switch {
		case err != nil && !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, err
		case time.Now().After(deadline):
			return nil, errLocked
		}
	}
}

// samePath reports whether path still names the open file.
func samePath(file *os.File, path string) bool {
	a, errA := file.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// createJournal makes an empty journal under another name and moves it to path
// when it is whole, so that a crash never leaves half of one there. Unless it
// replaces what is there, a journal that another process made meanwhile stays.
func createJournal(path string, damaged int64, replace bool) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	name := tmp.Name()
	defer func() { _ = os.Remove(name) }()
	db, err := openBolt(name, tmp)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
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
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(name, path)
	} else if err = os.Link(name, path); errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	return syncDir(path)
}

func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// quarantine keeps a damaged journal under another name and puts a new one in
// its place. At no moment is there none, so a crash in between loses nothing.
func quarantine(path string, damage error, o JournalOptions) error {
	now := time.Now().UTC()
	base := path + ".damaged-" + now.Format("20060102T150405.000000Z")
	aside := base
	for i := 1; ; i++ {
		err := os.Link(path, aside)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		aside = fmt.Sprintf("%s-%d", base, i)
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
