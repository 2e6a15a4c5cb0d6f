package memstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// A record in the journal, big endian:
//
//	key    hi 8, lo 8
//	value  version 1, algorithm 1, shard 8, expires 8, at 8, level 8,
//	       Hard only: width 8, sub 8, 61 counts as uvarints;
//	       CRC-32C of key and all of this 4
const (
	recordVersion = 1
	recordHead    = 2 + 8 + 3*8
	crcSize       = 4
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errRecord  = errors.New("a record does not have the checksum or the form that it was written with")
)

func (k key) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, k.hi), k.lo)
}

func parseKey(b []byte) (key, bool) {
	if len(b) != 16 {
		return key{}, false
	}
	return key{hi: binary.BigEndian.Uint64(b), lo: binary.BigEndian.Uint64(b[8:])}, true
}

func appendRecord(b []byte, r *record) []byte {
	start := len(b)
	b = append(b, recordVersion, byte(r.alg))
	b = binary.BigEndian.AppendUint64(b, r.shard)
	for _, v := range []int64{r.state.Expires, r.state.At, r.state.Level} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	if ring := r.state.Ring; ring != nil {
		b = binary.BigEndian.AppendUint64(b, uint64(ring.Width))
		b = binary.BigEndian.AppendUint64(b, uint64(ring.Sub))
		for _, n := range ring.Count {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	return binary.BigEndian.AppendUint32(b, recordSum(r.key, b[start:]))
}

func recordSum(k key, body []byte) uint32 {
	var buf [16]byte
	return crc32.Update(crc32.Checksum(k.append(buf[:0]), castagnoli), castagnoli, body)
}

// parseRecord reads a record back. Only what appendRecord wrote is accepted.
func parseRecord(kb, v []byte) (r record, err error) {
	k, ok := parseKey(kb)
	if !ok || k == (key{}) || len(v) < recordHead+crcSize {
		return r, errRecord
	}
	body, sum := v[:len(v)-crcSize], binary.BigEndian.Uint32(v[len(v)-crcSize:])
	if recordSum(k, body) != sum || body[0] != recordVersion {
		return r, errRecord
	}
	r.key, r.alg, r.shard = k, ratelimit.Algorithm(body[1]), binary.BigEndian.Uint64(body[2:])
	r.state.Expires = int64(binary.BigEndian.Uint64(body[10:]))
	r.state.At = int64(binary.BigEndian.Uint64(body[18:]))
	r.state.Level = int64(binary.BigEndian.Uint64(body[26:]))
	if r.state.Level < 0 || r.alg < ratelimit.GCRA || r.alg > ratelimit.Fixed {
		return r, errRecord
	}
	rest := body[recordHead:]
	if r.alg == ratelimit.Hard {
		if r.state.Ring, rest, ok = parseRing(rest, r.state.Level); !ok {
			return r, errRecord
		}
	}
	if len(rest) != 0 {
		return r, errRecord
	}
	return r, nil
}

func parseRing(b []byte, level int64) (*ratelimit.Ring, []byte, bool) {
	if len(b) < 16 {
		return nil, nil, false
	}
	ring := &ratelimit.Ring{Width: int64(binary.BigEndian.Uint64(b)), Sub: int64(binary.BigEndian.Uint64(b[8:]))}
	b = b[16:]
	for i := range ring.Count {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<32-1 {
			return nil, nil, false
		}
		ring.Count[i], b = uint32(v), b[n:]
		level -= int64(v)
	}
	return ring, b, level == 0 && ring.Width > 0
}
