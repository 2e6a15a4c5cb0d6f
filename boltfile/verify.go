package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
)

// PageSize is that of every file, whatever the machine's is.
const PageSize = 4096

const (
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

// Visit gets a bucket's name alone, with a nil key, then its entries in order.
// The slices are lent until it returns; its error ends Verify.
type Visit func(bucket, key, value []byte) error

// Verify reads a whole file as bbolt would, by the newest valid meta page, and
// calls fn for each bucket and entry. It fails on a page that is not what its
// place in the tree says, that is used twice or that lies beyond the end, on keys
// out of order, on buckets in buckets, and on a free list, which Open never
// writes. An error says what is damaged, unless it is [Unreadable].
func Verify(r io.ReaderAt, size int64, fn Visit) error {
	m, err := newestMeta(r, size)
	if err != nil {
		return err
	}
	v := verifier{r: r, high: m.high, seen: map[uint64]bool{}}
	return v.walk(m.root, func(flags uint32, name, header []byte) error {
		if flags != bucketFlag {
			return errors.New("the root holds something that is not a bucket")
		}
		name = bytes.Clone(name)
		if err := fn(name, nil, nil); err != nil {
			return err
		}
		return v.bucket(header, func(flags uint32, key, value []byte) error {
			if flags != 0 {
				return errors.New("there is a bucket in a bucket")
			}
			return fn(name, key, value)
		})
	})
}

// Unreadable reports whether an error of Verify is the disk's: nothing is known
// of the content then, and it must not be given up for damaged.
func Unreadable(err error) bool {
	var disk *fs.PathError
	return errors.As(err, &disk)
}

type meta struct {
	root, freelist, high, txid uint64
}

// newestMeta is the meta page that bbolt would use.
func newestMeta(r io.ReaderAt, size int64) (best meta, err error) {
	if size < 4*PageSize {
		return best, fmt.Errorf("the file is cut off: %d bytes", size)
	}
	found := false
	for i := range int64(2) {
		var b [metaSize]byte
		if _, err := r.ReadAt(b[:], i*PageSize+pageHead); err != nil {
			return best, err
		}
		if m, ok := parseMeta(b[:]); ok && (!found || m.txid > best.txid) {
			best, found = m, true
		}
	}
	switch {
	case !found:
		return best, errors.New("neither of the two meta pages is valid")
	case best.high > uint64(size/PageSize):
		return best, fmt.Errorf("the file is cut off: %d pages of %d", size/PageSize, best.high)
	case best.freelist != noFreelist:
		return best, errors.New("the file has a free list, which no file of this kind has")
	}
	return best, nil
}

func parseMeta(b []byte) (m meta, ok bool) {
	ne := binary.NativeEndian
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if ne.Uint32(b) != metaMagic || ne.Uint32(b[4:]) != metaVersion ||
		ne.Uint32(b[8:]) != PageSize || ne.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return m, false
	}
	return meta{root: ne.Uint64(b[16:]), freelist: ne.Uint64(b[32:]), high: ne.Uint64(b[40:]), txid: ne.Uint64(b[48:])}, true
}

// verifier walks the trees of a file that may hold anything.
type verifier struct {
	r    io.ReaderAt
	high uint64 // pages in the file, as its meta page says
	seen map[uint64]bool
}

type visitElement func(flags uint32, key, value []byte) error

// bucket walks a bucket by its header: the root page, or 0 and the page itself.
func (v *verifier) bucket(header []byte, fn visitElement) error {
	if len(header) < 16 {
		return errors.New("a bucket has no header")
	}
	if root := binary.NativeEndian.Uint64(header); root != 0 {
		return v.walk(root, fn)
	}
	page := header[16:]
	if len(page) < pageHead || binary.NativeEndian.Uint16(page[8:]) != leafPage {
		return errors.New("a small bucket is not a leaf")
	}
	return leaf(page, &order{}, fn)
}

func (v *verifier) walk(root uint64, fn visitElement) error {
	return v.page(root, maxTreeDepth, &order{}, fn)
}

// order checks that keys ascend over all leaves of a tree.
type order struct {
	last []byte
	any  bool
}

func (o *order) next(k []byte) error {
	if o.any && bytes.Compare(o.last, k) >= 0 {
		return errors.New("keys are out of order")
	}
	o.last, o.any = append(o.last[:0], k...), true
	return nil
}

func (v *verifier) page(id uint64, depth int, o *order, fn visitElement) error {
	page, err := v.read(id)
	if err != nil {
		return err
	}
	if depth == 0 {
		return errors.New("the tree is too deep")
	}
	ne := binary.NativeEndian
	switch ne.Uint16(page[8:]) {
	case leafPage:
		return leaf(page, o, fn)
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
		if !ok || i > 0 && (bytes.Compare(last, k) >= 0 || o.any && bytes.Compare(o.last, k) >= 0) {
			return fmt.Errorf("page %d has a key out of order or out of the page", id)
		}
		last = k
		first := firstKey{want: k}
		if err := v.page(ne.Uint64(e[8:]), depth-1, o, first.check(fn)); err != nil {
			return err
		}
	}
	return nil
}

// firstKey checks that a branch's key is the first key below it. With a lower
// one everything would be found, but bbolt replaces entries by that key and
// would leave the old one there.
type firstKey struct {
	want []byte
	done bool
}

func (f *firstKey) check(fn visitElement) visitElement {
	return func(flags uint32, k, v []byte) error {
		if !f.done && !bytes.Equal(f.want, k) {
			return errors.New("a branch's key is not the first of its leaves")
		}
		f.done = true
		return fn(flags, k, v)
	}
}

func leaf(page []byte, o *order, fn visitElement) error {
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
		k := kv[:ksize:ksize]
		if err := o.next(k); err != nil {
			return err
		}
		if err := fn(ne.Uint32(e), k, kv[ksize:]); err != nil {
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
func (v *verifier) read(id uint64) ([]byte, error) {
	if id < 2 || id >= v.high {
		return nil, fmt.Errorf("page %d is not in the file", id)
	}
	page := make([]byte, PageSize)
	if _, err := v.r.ReadAt(page, int64(id)*PageSize); err != nil {
		return nil, err
	}
	if binary.NativeEndian.Uint64(page) != id {
		return nil, fmt.Errorf("page %d says that it is another", id)
	}
	more := uint64(binary.NativeEndian.Uint32(page[12:]))
	if more >= v.high-id {
		return nil, fmt.Errorf("page %d goes beyond the file", id)
	}
	for i := range more + 1 {
		if v.seen[id+i] {
			return nil, fmt.Errorf("page %d is used twice", id+i)
		}
		v.seen[id+i] = true
	}
	if more == 0 {
		return page, nil
	}
	page = make([]byte, (more+1)*PageSize)
	_, err := v.r.ReadAt(page, int64(id)*PageSize)
	return page, err
}
