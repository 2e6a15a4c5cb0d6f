package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt maps its file and trusts it: a damaged page is a panic, sometimes on a
// goroutine that nobody can recover, an endless descent, or a signal. So the
// whole file is read and checked here before bbolt sees it. Only the tree of the
// newest valid meta page counts; a free list is not written (NoFreelistSync).
const (
	pageSize     = 4096
	pageHead     = 16
	elementSize  = 16
	metaMagic    = 0xED0CDAED
	metaVersion  = 2
	metaSize     = 64
	noFreelist   = ^uint64(0)
	branchPage   = 1
	leafPage     = 2
	bucketFlag   = 1
	maxTreeDepth = 32
)

// boltReader walks the tree of a file that may hold anything.
type boltReader struct {
	r    io.ReaderAt
	high uint64 // pages in the file, as its meta page says
	seen map[uint64]bool
}

// visit gets a bucket's name alone, then its entries. The slices are only lent.
type visit func(bucket, key, value []byte) error

// readBolt calls fn for each bucket and entry, in order. An error of its own
// says what is damaged.
func readBolt(r io.ReaderAt, size int64, fn visit) error {
	root, high, err := newestMeta(r, size)
	if err != nil {
		return err
	}
	b := &boltReader{r: r, high: high, seen: map[uint64]bool{}}
	return b.tree(root, func(flags uint32, name, header []byte) error {
		if flags != bucketFlag {
			return errors.New("the root holds something that is not a bucket")
		}
		name = bytes.Clone(name)
		if err := fn(name, nil, nil); err != nil {
			return err
		}
		return b.bucket(header, func(flags uint32, k, v []byte) error {
			if flags != 0 {
				return errors.New("there is a bucket in a bucket")
			}
			return fn(name, k, v)
		})
	})
}

// newestMeta is the root and the size in pages that bbolt would use.
func newestMeta(r io.ReaderAt, size int64) (root, high uint64, err error) {
	if size < 4*pageSize {
		return 0, 0, fmt.Errorf("the file is cut off: %d bytes", size)
	}
	ne := binary.NativeEndian
	var best []byte
	for i := range int64(2) {
		m := make([]byte, metaSize)
		if _, err := r.ReadAt(m, i*pageSize+pageHead); err != nil {
			return 0, 0, err
		}
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaSize-8])
		valid := ne.Uint32(m) == metaMagic && ne.Uint32(m[4:]) == metaVersion &&
			ne.Uint32(m[8:]) == pageSize && ne.Uint64(m[metaSize-8:]) == sum.Sum64()
		if valid && (best == nil || ne.Uint64(m[48:]) > ne.Uint64(best[48:])) {
			best = m
		}
	}
	if best == nil {
		return 0, 0, errors.New("neither of the two meta pages is valid")
	}
	root, high = ne.Uint64(best[16:]), ne.Uint64(best[40:])
	switch {
	case high > uint64(size/pageSize):
		return 0, 0, fmt.Errorf("the file is cut off: %d pages of %d", size/pageSize, high)
	case ne.Uint64(best[32:]) != noFreelist:
		return 0, 0, errors.New("the file has a free list, which no file of this kind has")
	}
	return root, high, nil
}

type visitElement func(flags uint32, key, value []byte) error

// bucket walks a bucket by its header: the root page, or 0 and the page itself.
func (b *boltReader) bucket(header []byte, fn visitElement) error {
	if len(header) < 16 {
		return errors.New("a bucket has no header")
	}
	if root := binary.NativeEndian.Uint64(header); root != 0 {
		return b.tree(root, fn)
	}
	page := header[16:]
	if len(page) < pageHead || binary.NativeEndian.Uint16(page[8:]) != leafPage {
		return errors.New("a small bucket is not a leaf")
	}
	return leaf(page, fn)
}

// tree walks a tree and checks that keys ascend throughout.
func (b *boltReader) tree(root uint64, fn visitElement) error {
	var last []byte
	some := false
	return b.page(root, maxTreeDepth, nil, func(flags uint32, k, v []byte) error {
		if some && bytes.Compare(last, k) >= 0 {
			return errors.New("keys are out of order")
		}
		last, some = append(last[:0], k...), true
		return fn(flags, k, v)
	})
}

// page walks a page; no key below it may be less than least.
func (b *boltReader) page(id uint64, depth int, least []byte, fn visitElement) error {
	page, err := b.read(id)
	if err != nil {
		return err
	}
	if depth == 0 {
		return errors.New("the tree is too deep")
	}
	ne := binary.NativeEndian
	switch ne.Uint16(page[8:]) {
	case leafPage:
		return leaf(page, func(flags uint32, k, v []byte) error {
			if bytes.Compare(k, least) < 0 {
				return fmt.Errorf("page %d has a key that belongs elsewhere", id)
			}
			return fn(flags, k, v)
		})
	case branchPage:
	default:
		return fmt.Errorf("page %d is neither branch nor leaf", id)
	}
	n := int(ne.Uint16(page[10:]))
	if n == 0 || pageHead+n*elementSize > len(page) {
		return fmt.Errorf("page %d has an impossible count", id)
	}
	var last []byte
	for i := range n {
		e := page[pageHead+i*elementSize:]
		k, ok := part(e, ne.Uint32(e), uint64(ne.Uint32(e[4:])))
		if !ok || bytes.Compare(k, least) < 0 || i > 0 && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("page %d has a key out of order or out of the page", id)
		}
		last = k
		if err := b.page(ne.Uint64(e[8:]), depth-1, k, b.below(page, i, n, fn)); err != nil {
			return err
		}
	}
	return nil
}

// below checks that what hangs on element i of a branch is less than element i+1.
func (b *boltReader) below(page []byte, i, n int, fn visitElement) visitElement {
	if i+1 == n {
		return fn
	}
	e := page[pageHead+(i+1)*elementSize:]
	next, ok := part(e, binary.NativeEndian.Uint32(e), uint64(binary.NativeEndian.Uint32(e[4:])))
	return func(flags uint32, k, v []byte) error {
		if !ok || bytes.Compare(k, next) >= 0 {
			return errors.New("a key is beyond its branch")
		}
		return fn(flags, k, v)
	}
}

func leaf(page []byte, fn visitElement) error {
	ne := binary.NativeEndian
	n := int(ne.Uint16(page[10:]))
	if pageHead+n*elementSize > len(page) {
		return errors.New("a leaf has an impossible count")
	}
	for i := range n {
		e := page[pageHead+i*elementSize:]
		pos, ksize, vsize := ne.Uint32(e[4:]), uint64(ne.Uint32(e[8:])), uint64(ne.Uint32(e[12:]))
		kv, ok := part(e, pos, ksize+vsize)
		if !ok {
			return errors.New("a leaf has an element out of the page")
		}
		if err := fn(ne.Uint32(e), kv[:ksize:ksize], kv[ksize:]); err != nil {
			return err
		}
	}
	return nil
}

// part is the n bytes at pos of e, if they are there.
func part(e []byte, pos uint32, n uint64) ([]byte, bool) {
	if uint64(pos) > uint64(len(e)) || n > uint64(len(e))-uint64(pos) {
		return nil, false
	}
	return e[pos : uint64(pos)+n], true
}

// read returns a page with its overflow. Each page may be read once, so no
// circle and no sharing gets through.
func (b *boltReader) read(id uint64) ([]byte, error) {
	if id < 2 || id >= b.high {
		return nil, fmt.Errorf("page %d is not in the file", id)
	}
	page := make([]byte, pageSize)
	if _, err := b.r.ReadAt(page, int64(id)*pageSize); err != nil {
		return nil, err
	}
	if binary.NativeEndian.Uint64(page) != id {
		return nil, fmt.Errorf("page %d says that it is another", id)
	}
	more := uint64(binary.NativeEndian.Uint32(page[12:]))
	if more >= b.high-id {
		return nil, fmt.Errorf("page %d goes beyond the file", id)
	}
	for i := range more + 1 {
		if b.seen[id+i] {
			return nil, fmt.Errorf("page %d is used twice", id+i)
		}
		b.seen[id+i] = true
	}
	if more == 0 {
		return page, nil
	}
	page = make([]byte, (more+1)*pageSize)
	_, err := b.r.ReadAt(page, int64(id)*pageSize)
	return page, err
}
