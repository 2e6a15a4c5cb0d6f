package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/voicecore-ai/sluice/boltfile"
)

var (
	errNewer = errors.New("the file was written by a newer version; start that version, or restore the backup from before it")
	errOlder = errors.New("the file was written by a version from before the first release, whose format is not read any more; move it away, start, and make its entries again through the API")
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
		log.Error("the file of what was made through the API is damaged and was set aside; only the entries of the catalog folder hold",
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
	h, err := boltfile.Lock(path)
	if err != nil {
		return nil, k, nil, err
	}
	info, err := h.Stat()
	if err != nil {
		return nil, k, nil, errors.Join(err, h.Close())
	}
	k, err = load(h, info.Size())
	if err != nil {
		if boltfile.Unreadable(err) || errors.Is(err, errNewer) || errors.Is(err, errOlder) {
			return nil, k, nil, errors.Join(err, h.Close())
		}
		return nil, kept{}, err, h.Close()
	}
	db, err := boltfile.Open(path, h)
	if err != nil {
		return nil, k, nil, err
	}
	return &store{db: db, answers: k.answers, maxAnswers: maxAnswers, count: k.count, sum: k.sum}, k, nil, nil
}

// load reads and checks a whole file.
func load(h *os.File, size int64) (k kept, err error) {
	var written uint64 // the file's format
	var digest []byte
	buckets, order := 0, 0
	entries := newEdit(&View{}, &View{})
	err = boltfile.Verify(h, size, func(bucket, key, value []byte) error {
		if key == nil {
			if !slices.ContainsFunc(allBuckets(), func(b []byte) bool { return bytes.Equal(b, bucket) }) {
				return fmt.Errorf("there is an unknown part %q", bucket)
			}
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
				if written = binary.BigEndian.Uint64(body); written > format {
					return errNewer
				} else if written < format {
					return errOlder
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
		return restore(entries, bucket, key, body)
	})
	switch {
	case err != nil:
		return k, err
	case written == 0 || len(digest) != 16 || buckets != len(lists)+3 || order != k.answers:
		return k, errors.New("parts of the file are missing")
	case binary.BigEndian.Uint64(digest) != k.count || binary.BigEndian.Uint64(digest[8:]) != k.sum:
		return k, fmt.Errorf("entries are missing or from another time: %d there, %d expected", k.count, binary.BigEndian.Uint64(digest))
	}
	k.own = entries.delta().own
	return k, nil
}

func restore(e *Edit, bucket, key, body []byte) error {
	at := listAt(string(bucket))
	if at < 0 {
		return fmt.Errorf("there is an unknown part %q", bucket)
	}
	if err := lists[at].apply(e, string(key), body); err != nil {
		return fmt.Errorf("the entry %q of %s: %w", key, bucket, err)
	}
	return nil
}

// allBuckets are the parts of a file.
func allBuckets() [][]byte {
	all := [][]byte{bucketHead, bucketAnswers, bucketByTime}
	for _, l := range lists {
		all = append(all, []byte(l.name()))
	}
	return all
}

func createStore(path string) error {
	return boltfile.Create(path, false, func(db *bbolt.DB) error {
		s := &store{db: db}
		return s.write(func(w *writer) error {
			for _, b := range allBuckets() {
				if _, err := w.tx.CreateBucket(b); err != nil {
					return err
				}
			}
			version := binary.BigEndian.AppendUint64(nil, format)
			return errors.Join(w.revision(0), w.tx.Bucket(bucketHead).Put(headFormat, seal(headFormat, version)))
		})
	})
}

// setAside renames a damaged file to a name that nothing has yet.
func setAside(path string, now time.Time) (aside string, err error) {
	if aside, err = boltfile.Aside(path, now); err != nil {
		return "", err
	}
	return aside, os.Remove(path)
}
