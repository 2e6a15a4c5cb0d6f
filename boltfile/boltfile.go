// Package boltfile opens bbolt files that may hold anything. bbolt maps a file
// and trusts it: a damaged page is a panic, sometimes on a goroutine that nobody
// can recover, an endless descent, or a signal. So [Lock] takes the file, [Verify]
// reads all of it, and only then does [Open] give it to bbolt, under the same lock.
//
// It knows pages, trees and keys, and nothing of what is in the values: whoever
// writes them seals them, and keeps a digest over them, because a whole page of
// another time looks right. It does not repair; [Aside] keeps what is damaged and
// [Create] puts a new file in its place.
//
// Verify reads the file once, page by page, and holds a set of the pages seen:
// BenchmarkVerify walks 3 GB a second, so the disk is what one waits for.
package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// ErrLocked is what Lock says after a second of trying.
var ErrLocked = errors.New("another process has the file open; stop it, or give each its own data folder")

const (
	lockTimeout = time.Second
	lockPause   = 20 * time.Millisecond
)

// Lock opens the file at path and locks it as bbolt does, so that nobody changes
// it between Verify and Open. Closing it gives the lock back.
func Lock(path string) (*os.File, error) {
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
			return nil, ErrLocked
		}
	}
}

// samePath reports whether path still names the open file.
func samePath(file *os.File, path string) bool {
	a, errA := file.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// Open gives bbolt a file that is locked and verified, or new and empty. bbolt
// closes it, whether it fails or not.
func Open(path string, file *os.File) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bbolt: %v", p)
		}
	}()
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, PageSize: PageSize, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
		OpenFile: func(string, int, os.FileMode) (*os.File, error) { return file, nil },
	})
}

// Create makes a file under another name, lets fill write to it, and moves it
// to path when it is whole: a crash never leaves half of one there. Unless it
// replaces what is there, a file that another process made meanwhile stays.
func Create(path string, replace bool, fill func(*bbolt.DB) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	name := tmp.Name()
	defer func() { _ = os.Remove(name) }()
	db, err := Open(name, tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(db), db.Close()); err != nil {
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

// Aside gives the file at path a second name, path.damaged-<UTC time>, that
// nothing has yet, and returns it. The file keeps its own name until Create
// replaces it, so that at no moment there is none.
func Aside(path string, now time.Time) (string, error) {
	base := path + ".damaged-" + now.UTC().Format("20060102T150405Z")
	aside := base
	for i := 1; ; i++ {
		// A link, unlike a renaming, never replaces a file that is there.
		err := os.Link(path, aside)
		if err == nil {
			return aside, syncDir(path)
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
}

// syncDir makes the names in path's folder durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
