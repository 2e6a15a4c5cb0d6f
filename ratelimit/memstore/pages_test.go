package memstore

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/voicecore-ai/sluice/boltfile"
)

// What tests that damage a journal know of bbolt's pages.
const (
	pageSize = boltfile.PageSize
	pageHead = 16
	metaSize = 64
)

// usedBytes is how much of a journal bbolt uses; the rest is allocated in advance.
func usedBytes(t *testing.T, file []byte) (n int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.View(func(tx *bbolt.Tx) error { n = int(tx.Size()); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

// readPages notes which pages are read.
type readPages struct {
	io.ReaderAt
	seen map[int64]bool
}

func (r readPages) ReadAt(b []byte, at int64) (int, error) {
	for i := at / pageSize; i*pageSize < at+int64(len(b)); i++ {
		r.seen[i] = true
	}
	return r.ReaderAt.ReadAt(b, at)
}
