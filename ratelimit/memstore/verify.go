package memstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
)

// The journal is a bbolt file. bbolt maps it and trusts it: a damaged page is
// a panic, on a goroutine that nobody can recover, or a signal. So the whole
// file is read and checked here before bbolt sees it. Only the tree of the
// newest valid meta page counts, and there is no free list on disk to check.
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

var (
	bucketCells = []byte("cells")
	bucketHead  = []byte("head")
	headDigest  = []byte("digest")  // count 8, sum of the records' checksums 8, CRC 4
	headDamaged = []byte("damaged") // µs 8, CRC 4
)

// contents is what a journal file holds.
type contents struct {
	records []record
	count   uint64
	sum     uint64
	damaged int64 // when the journal before this one was damaged; 0: never
}

type meta struct {
	root, freelist, high, txid uint64
}

// verifier walks the tree of a file that may hold anything.
type verifier struct {
	r    io.ReaderAt
	high uint64
	seen map[uint64]bool
}

// verify reads a journal file whole. An error says what is damaged.
func verify(r io.ReaderAt, size int64) (contents, error) {
	var c contents
	m, err := newestMeta(r, size)
	if err != nil {
		return c, err
	}
	v := verifier{r: r, high: m.high, seen: map[uint64]bool{}}
	var digest []byte
	buckets := 0
	err = v.walk(m.root, func(flags uint32, name, value []byte) error {
		buckets++
		if flags != bucketFlag {
			return errors.New("the root holds something that is not a bucket")
		}
		switch {
		case bytes.Equal(name, bucketCells):
			return v.bucket(value, c.add)
		case bytes.Equal(name, bucketHead):
			return v.bucket(value, func(f uint32, k, val []byte) error {
				body, ok := openHead(k, val)
				ok = ok && f == 0
				switch {
				case ok && bytes.Equal(k, headDigest) && len(body) == 16:
					digest = bytes.Clone(body)
				case ok && bytes.Equal(k, headDamaged) && len(body) == 8:
					c.damaged = int64(binary.BigEndian.Uint64(body))
				default:
					return errors.New("the head is not what was written")
				}
				return nil
			})
		}
		return errors.New("an unknown bucket")
	})
	switch {
	case err != nil:
		return c, err
	case buckets != 2 || digest == nil:
		return c, errors.New("a bucket or the digest is missing")
	case binary.BigEndian.Uint64(digest) != c.count || binary.BigEndian.Uint64(digest[8:]) != c.sum:
		return c, fmt.Errorf("records are missing or from another time: %d there, %d expected", c.count, binary.BigEndian.Uint64(digest))
	}
	return c, nil
}

func (c *contents) add(flags uint32, k, v []byte) error {
	r, err := parseRecord(k, v)
	if err != nil || flags != 0 {
		return errRecord
	}
	c.records = append(c.records, r)
	c.count++
	c.sum += valueSum(v)
	return nil
}

// valueSum is the checksum that ends a record.
func valueSum(v []byte) uint64 { return uint64(binary.BigEndian.Uint32(v[len(v)-crcSize:])) }

func sealHead(k, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, body)
	return binary.BigEndian.AppendUint32(bytes.Clone(body), sum)
}

func openHead(k, v []byte) ([]byte, bool) {
	if len(v) < crcSize {
		return nil, false
	}
	body := v[:len(v)-crcSize]
	return body, bytes.Equal(sealHead(k, body), v)
}

// newestMeta is the meta page that bbolt would use.
func newestMeta(r io.ReaderAt, size int64) (best meta, err error) {
	if size < 4*pageSize {
		return best, fmt.Errorf("the file is cut off: %d bytes", size)
	}
	found := false
	for i := range int64(2) {
		var b [pageHead + metaSize]byte
		if _, err := r.ReadAt(b[:], i*pageSize); err != nil {
			return best, err
		}
		if m, ok := parseMeta(b[pageHead:]); ok && (!found || m.txid > best.txid) {
			best, found = m, true
		}
	}
	switch {
	case !found:
		return best, errors.New("neither of the two meta pages is valid")
	case best.high > uint64(size/pageSize):
		return best, fmt.Errorf("the file is cut off: %d pages of %d", size/pageSize, best.high)
	case best.freelist != noFreelist:
		return best, errors.New("the file has a free list, which no journal has")
	}
	return best, nil
}

func parseMeta(b []byte) (m meta, ok bool) {
	ne := binary.NativeEndian
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if ne.Uint32(b) != metaMagic || ne.Uint32(b[4:]) != metaVersion ||
		ne.Uint32(b[8:]) != pageSize || ne.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return m, false
	}
	return meta{root: ne.Uint64(b[16:]), freelist: ne.Uint64(b[32:]), high: ne.Uint64(b[40:]), txid: ne.Uint64(b[48:])}, true
}

type visit func(flags uint32, key, value []byte) error

// bucket walks a bucket by its header: the root page, or 0 and the page itself.
func (v *verifier) bucket(value []byte, fn visit) error {
	if len(value) < 16 {
		return errors.New("a bucket without a header")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return v.walk(root, fn)
	}
	page := value[16:]
	if len(page) < pageHead || binary.NativeEndian.Uint16(page[8:]) != leafPage {
		return errors.New("an inline bucket without a leaf")
	}
	return leaf(page, &order{}, fn)
}

func (v *verifier) walk(id uint64, fn visit) error {
	return v.page(id, maxTreeDepth, &order{}, fn)
}

// order checks that keys ascend over all leaves, and that each lies in the
// range that the branches above promise.
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

func (v *verifier) page(id uint64, depth int, o *order, fn visit) error {
	page, err := v.read(id)
	if err != nil {
		return err
	}
	if depth == 0 {
		return errors.New("the tree is too deep")
	}
	switch binary.NativeEndian.Uint16(page[8:]) {
	case leafPage:
		return leaf(page, o, fn)
	case branchPage:
	default:
		return fmt.Errorf("page %d is neither branch nor leaf", id)
	}
	n := int(binary.NativeEndian.Uint16(page[10:]))
	if n == 0 || pageHead+n*elementSize > len(page) {
		return fmt.Errorf("page %d has an impossible count", id)
	}
	var last []byte
	for i := range n {
		at := pageHead + i*elementSize
		e := page[at:]
		k, ok := part(e, binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]))
		if !ok || i > 0 && (bytes.Compare(last, k) >= 0 || o.any && bytes.Compare(o.last, k) >= 0) {
			return fmt.Errorf("page %d has a key out of order or out of the page", id)
		}
		last = k
		first := firstKey{want: k}
		if err := v.page(binary.NativeEndian.Uint64(e[8:]), depth-1, o, first.check(fn)); err != nil {
			return err
		}
	}
	return nil
}

// firstKey checks that a branch's key is the first key below it. A lower one
// would find everything, but bbolt replaces entries by that key and would
// leave the old one there.
type firstKey struct {
	want []byte
	done bool
}

func (f *firstKey) check(fn visit) visit {
	return func(flags uint32, k, v []byte) error {
		if !f.done && !bytes.Equal(f.want, k) {
			return errors.New("a branch's key is not the first of its leaves")
		}
		f.done = true
		return fn(flags, k, v)
	}
}

func leaf(page []byte, o *order, fn visit) error {
	ne := binary.NativeEndian
	n := int(ne.Uint16(page[10:]))
	if pageHead+n*elementSize > len(page) {
		return errors.New("a leaf has an impossible count")
	}
	for i := range n {
		e := page[pageHead+i*elementSize:]
		pos, ksize, vsize := ne.Uint32(e[4:]), ne.Uint32(e[8:]), ne.Uint32(e[12:])
		kv, ok := part(e, pos, uint64(ksize)+uint64(vsize))
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
func part[N uint32 | uint64](e []byte, pos uint32, n N) ([]byte, bool) {
	if uint64(pos) > uint64(len(e)) || uint64(n) > uint64(len(e))-uint64(pos) {
		return nil, false
	}
	return e[pos : uint64(pos)+uint64(n)], true
}

// read returns a page with its overflow, each page once.
func (v *verifier) read(id uint64) ([]byte, error) {
	if id < 2 || id >= v.high {
		return nil, fmt.Errorf("page %d is not in the file", id)
	}
	page := make([]byte, pageSize)
	if _, err := v.r.ReadAt(page, int64(id)*pageSize); err != nil {
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
	page = make([]byte, (more+1)*pageSize)
	_, err := v.r.ReadAt(page, int64(id)*pageSize)
	return page, err
}
