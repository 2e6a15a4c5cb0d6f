package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// sample makes a file with a bucket of several pages, one with a value longer
// than a page and one that lies inside its parent, and returns its content.
func sample(t testing.TB, entries int) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sample.db")
	err := Create(path, false, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			many, err := tx.CreateBucket([]byte("many"))
			for i := range entries {
				err = errors.Join(err, many.Put(fmt.Appendf(nil, "key-%06d", i), bytes.Repeat([]byte{byte(i)}, 40)))
			}
			long, errLong := tx.CreateBucket([]byte("long"))
			err = errors.Join(err, errLong, long.Put([]byte("one"), make([]byte, 3*PageSize)))
			small, errSmall := tx.CreateBucket([]byte("small"))
			return errors.Join(err, errSmall, small.Put([]byte("k"), []byte("v")))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func verifyBytes(b []byte) (buckets []string, entries int, err error) {
	err = Verify(bytes.NewReader(b), int64(len(b)), func(bucket, key, _ []byte) error {
		if key == nil {
			buckets = append(buckets, string(bucket))
		} else {
			entries++
		}
		return nil
	})
	return buckets, entries, err
}

func TestVerifySeesEveryBucketAndEntryInOrder(t *testing.T) {
	_, content := sample(t, 500)
	buckets, entries, err := verifyBytes(content)
	if err != nil || !slices.Equal(buckets, []string{"long", "many", "small"}) || entries != 502 {
		t.Errorf("%v, %d entries, %v", buckets, entries, err)
	}
}

// pages lists the pages of a kind: 1 for branches, 2 for leaves.
func pages(b []byte, kind uint16) (ids []int) {
	m, err := newestMeta(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil
	}
	v := verifier{r: bytes.NewReader(b), high: m.high, seen: map[uint64]bool{}}
	_ = v.walk(m.root, func(_ uint32, _, header []byte) error {
		return v.bucket(header, func(uint32, []byte, []byte) error { return nil })
	})
	for id := range v.seen {
		at := int(id) * PageSize
		if binary.NativeEndian.Uint64(b[at:]) == id && binary.NativeEndian.Uint16(b[at+8:]) == kind {
			ids = append(ids, int(id))
		}
	}
	slices.Sort(ids)
	return ids
}

func TestDamageIsNamed(t *testing.T) {
	path, content := sample(t, 500)
	m, err := newestMeta(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	branch, leaves := pages(content, branchPage)[0]*PageSize, pages(content, leafPage)
	last := leaves[len(leaves)-1] * PageSize
	ne := binary.NativeEndian
	for _, c := range []struct {
		says   string
		damage func(b []byte) []byte
	}{
		{"cut off: 0 bytes", func([]byte) []byte { return nil }},
		{"cut off: 12288 bytes", func(b []byte) []byte { return b[:3*PageSize] }},
		{fmt.Sprintf("cut off: %d pages of %d", m.high-1, m.high), func(b []byte) []byte { return b[:(m.high-1)*PageSize] }},
		{"neither of the two meta pages", func(b []byte) []byte { b[20] ^= 1; b[PageSize+20] ^= 1; return b }},
		{"is neither branch nor leaf", func(b []byte) []byte { ne.PutUint16(b[branch+8:], 7); return b }},
		{"says that it is another", func(b []byte) []byte { ne.PutUint64(b[branch:], 1<<40); return b }},
		{"goes beyond the file", func(b []byte) []byte { ne.PutUint32(b[last+12:], 1<<30); return b }},
		{"impossible count", func(b []byte) []byte { ne.PutUint16(b[branch+10:], 0); return b }},
		{"a leaf has an impossible count", func(b []byte) []byte { ne.PutUint16(b[last+10:], 0xffff); return b }},
		{"element out of the page", func(b []byte) []byte { ne.PutUint32(b[last+pageHead+4:], 1<<31); return b }},
		{"is used twice", func(b []byte) []byte { // the second child of the branch is the first once more
			copy(b[branch+pageHead+elementSize+8:][:8], b[branch+pageHead+8:])
			return b
		}},
		{"is not in the file", func(b []byte) []byte { ne.PutUint64(b[branch+pageHead+8:], m.high); return b }},
	} {
		t.Run("as: "+c.says, func(t *testing.T) {
			if _, _, err := verifyBytes(c.damage(bytes.Clone(content))); err == nil || !strings.Contains(err.Error(), c.says) || Unreadable(err) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("as: a bucket in a bucket, of a file that bbolt likes", func(t *testing.T) {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.Bucket([]byte("small")).CreateBucket([]byte("inner"))
			return err
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := verifyBytes(b); err == nil || !strings.Contains(err.Error(), "bucket in a bucket") {
			t.Errorf("%v", err)
		}
	})
}

// failing is a disk that can't be read.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: "sample.db", Err: errors.New("input/output error")}
}

func TestADiskThatCannotBeReadIsNotDamage(t *testing.T) {
	err := Verify(failing{}, 100*PageSize, nil)
	if err == nil || !Unreadable(err) {
		t.Errorf("%v", err)
	}
}

func TestAsideReplacesNothingAndLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	if err := os.WriteFile(path, []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", "-1", "-2"} {
		aside, err := Aside(path, noon)
		if err != nil || aside != path+".damaged-20261124T120000Z"+want {
			t.Errorf("%s, %v", aside, err)
		}
	}
	if content, err := os.ReadFile(path); string(content) != "bad" {
		t.Errorf("%q, %v", content, err)
	}
}

func TestCreateLeavesAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.db")
	empty := func(db *bbolt.DB) error { return nil }
	if err := Create(path, false, func(*bbolt.DB) error { return errors.New("the disk is full") }); err == nil {
		t.Error("no error")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := os.WriteFile(path, []byte("of another process"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, false, empty); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "of another process" {
		t.Error("a file that was there is gone")
	}
	if err := Create(path, true, empty); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); len(b) < 4*PageSize {
		t.Error("replace did not")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestALockedFileOpensAfterVerifyAndOnlyOnce(t *testing.T) {
	path, _ := sample(t, 10)
	file, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	db, err := Open(path, file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("lock of an open file: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if file, err = Lock(path); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	_ = file.Close()
}

// Whatever the bytes are, Verify ends, and does not panic; what it lets
// through bbolt can read and write.
func FuzzVerify(f *testing.F) {
	_, content := sample(f, 200)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		f.Add(rnd.Uint32(), byte(rnd.Uint32()), rnd.Uint32(), byte(rnd.Uint32()))
	}
	f.Fuzz(func(t *testing.T, at uint32, mask byte, at2 uint32, mask2 byte) {
		b := bytes.Clone(content)
		b[int(at)%len(b)] ^= mask
		b[int(at2)%len(b)] ^= mask2
		if _, _, err := verifyBytes(b); err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "c.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, file)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
				return errors.Join(bucket.Put([]byte("key-000050x"), []byte("new")), bucket.Delete([]byte("key-000000")))
			})
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := verifyBytes(after); err != nil {
			t.Fatalf("damaged by use: %v", err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	_, content := sample(b, 1_000_000)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, _, err := verifyBytes(content); err != nil {
			b.Fatal(err)
		}
	}
}
