package memstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/voicecore-ai/sluice/boltfile"
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

// verify reads a journal file whole. An error says what is damaged.
func verify(r io.ReaderAt, size int64) (contents, error) {
	var c contents
	var digest []byte
	buckets := 0
	err := boltfile.Verify(r, size, func(bucket, k, v []byte) error {
		cells := bytes.Equal(bucket, bucketCells)
		switch {
		case !cells && !bytes.Equal(bucket, bucketHead):
			return errors.New("an unknown bucket")
		case k == nil:
			buckets++
			return nil
		case cells:
			return c.add(k, v)
		}
		body, ok := openHead(k, v)
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

func (c *contents) add(k, v []byte) error {
	r, err := parseRecord(k, v)
	if err != nil {
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
