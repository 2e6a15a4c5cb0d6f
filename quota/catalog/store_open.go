package catalog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/voicecore-ai/sluice/quota"
)

const (
	lockTimeout = time.Second
	lockPause   = 20 * time.Millisecond
)

var (
	errLocked = errors.New("another process has the file open; stop it, or give each its own data folder")
	errNewer  = errors.New("the file was written by a newer version; start that version, or restore the backup from before it")
)

// openStore opens the file at path, and makes one if there is none. A damaged
// one is renamed to path.damaged-<UTC time>, and an empty one takes its place.
func openStore(path string, log *slog.Logger) (*store, kept, error) {
	s, k, damage, err := tryStore(path)
	if damage != nil {
		aside, moved := setAside(path, time.Now())
		if moved != nil {
			return nil, k, fmt.Errorf("catalogue file %s is damaged (%w) and can't be set aside: %w", path, damage, moved)
		}
		log.Error("the file of the plans, tenants and keys that were made through the API is damaged and was set aside; only the entries of the catalog folder hold",
			"path", path, "damage", damage, "aside", aside,
			"hint", "stop, put a backup in the place of path, and start; or make the entries again through the API. The damaged file is kept.")
		s, k, damage, err = tryStore(path)
	}
	if err = errors.Join(err, damage); err != nil {
		return nil, k, fmt.Errorf("catalogue file %s: %w", path, err)
	}
	return s, k, nil
}

// tryStore returns an open file with what it holds, or what is damaged about
// it, or another error.
func tryStore(path string) (s *store, k kept, damage, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createStore(path); err != nil {
			return nil, k, nil, err
		}
	}
	h, err := lockFile(path)
	if err != nil {
		return nil, k, nil, err
	}
	info, err := h.Stat()
	if err != nil {
		return nil, k, nil, errors.Join(err, h.Close())
	}
	k, err = load(h, info.Size())
	if err != nil {
		var io *fs.PathError // the disk, not the content
		if errors.As(err, &io) || errors.Is(err, errNewer) {
			return nil, k, nil, errors.Join(err, h.Close())
		}
		return nil, kept{}, err, h.Close()
	}
	db, err := openBolt(path, h)
	if err != nil {
		return nil, k, nil, err
	}
	return &store{db: db, answers: k.answers, maxAnswers: maxAnswers, count: k.count, sum: k.sum}, k, nil, nil
}

// load reads and checks a whole file.
func load(h *os.File, size int64) (k kept, err error) {
	var format uint64
	var digest []byte
	buckets, order := 0, 0
	err = readBolt(h, size, func(bucket, key, value []byte) error {
		if key == nil {
			buckets++
			return nil
		}
		body, ok := unseal(key, value)
		if !ok {
			return fmt.Errorf("the entry %q of %s has a wrong checksum", key, bucket)
		}
		switch {
		case bytes.Equal(bucket, bucketHead):
			switch {
			case bytes.Equal(key, headFormat) && len(body) == 8:
				if format = binary.BigEndian.Uint64(body); format > 1 {
					return errNewer
				}
			case bytes.Equal(key, headRevision) && len(body) == 8:
				k.revision = binary.BigEndian.Uint64(body)
			case bytes.Equal(key, headDigest) && len(body) == 16:
				digest = bytes.Clone(body)
			}
			return nil
		case bytes.Equal(bucket, bucketAnswers):
			k.answers++
			return nil
		case bytes.Equal(bucket, bucketByTime):
			order++
			return nil
		}
		k.count++
		k.sum += uint64(checksum(value))
		return k.entry(bucket, key, body)
	})
	switch {
	case err != nil:
		return k, err
	case format == 0 || len(digest) != 16 || buckets != len(allBuckets) || order != k.answers:
		return k, errors.New("parts of the file are missing")
	case binary.BigEndian.Uint64(digest) != k.count || binary.BigEndian.Uint64(digest[8:]) != k.sum:
		return k, fmt.Errorf("entries are missing or from another time: %d there, %d expected", k.count, binary.BigEndian.Uint64(digest))
	}
	return k, nil
}

func (k *kept) entry(bucket, key, body []byte) error {
	var err error
	c := &k.catalogue
	switch {
	case bytes.Equal(bucket, bucketPlans):
		var p quota.Plan
		err = json.Unmarshal(body, &p)
		c.Plans = append(c.Plans, p)
	case bytes.Equal(bucket, bucketTenants):
		var t quota.Tenant
		err = json.Unmarshal(body, &t)
		c.Tenants = append(c.Tenants, t)
	case bytes.Equal(bucket, bucketKeys):
		var a quota.APIKey
		err = json.Unmarshal(body, &a)
		c.APIKeys = append(c.APIKeys, a)
	default:
		return fmt.Errorf("there is an unknown part %q", bucket)
	}
	if err != nil {
		return fmt.Errorf("the entry %q of %s: %w", key, bucket, err)
	}
	return nil
}

var allBuckets = [][]byte{bucketHead, bucketPlans, bucketTenants, bucketKeys, bucketAnswers, bucketByTime}

// openBolt gives bbolt the file that is locked and checked already; bbolt
// closes it, whether it fails or not.
func openBolt(path string, h *os.File) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bbolt: %v", p)
		}
	}()
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, PageSize: pageSize, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
		OpenFile: func(string, int, os.FileMode) (*os.File, error) { return h, nil },
	})
}

// lockFile opens path and locks it as bbolt does, so that nobody changes it
// between the check and the use.
func lockFile(path string) (*os.File, error) {
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(lockPause) {
		h, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(h.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && samePath(h, path) {
			return h, nil
		}
		_ = h.Close()
		switch {
		case err != nil && !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, err
		case time.Now().After(deadline):
			return nil, errLocked
		}
	}
}

// samePath reports whether path still names the open file.
func samePath(h *os.File, path string) bool {
	a, errA := h.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// createStore makes an empty file under another name and links it to path when
// it is whole: a crash never leaves half of one there, and a file that is there
// by then stays.
func createStore(path string) error {
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
	s := &store{db: db}
	err = s.write(func(w *writer) error {
		for _, b := range allBuckets {
			if _, err := w.tx.CreateBucket(b); err != nil {
				return err
			}
		}
		version := binary.BigEndian.AppendUint64(nil, format)
		return errors.Join(w.revision(0), w.tx.Bucket(bucketHead).Put(headFormat, seal(headFormat, version)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(name, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(path)
}

// setAside renames a damaged file to a name that nothing has yet.
func setAside(path string, now time.Time) (aside string, err error) {
	base := path + ".damaged-" + now.UTC().Format("20060102T150405Z")
	aside = base
	for i := 1; ; i++ {
		// A link, unlike a renaming, never replaces a file that is there.
		err := os.Link(path, aside)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
	return aside, errors.Join(os.Remove(path), syncDir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
