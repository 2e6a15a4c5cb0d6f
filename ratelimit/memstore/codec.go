package memstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// A record in the journal, big endian:
//
//	key    hi 8, lo 8
//	value  version 1, algorithm 1, shard 8, expires 8, at 8, level 8,
//	       Hard only: tick 8, last 8, size 4, fill 4, segments 1,
//	       and the stamp of each segment 2, the oldest first;
//	       CRC-32C of key and all of this 4
const (
	recordVersion = 2 // 1 counted Hard by sub-windows
	recordHead    = 2 + 8 + 3*8
	ringHead      = 2*8 + 2*4 + 1
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
		b = appendRing(b, ring)
	}
	return binary.BigEndian.AppendUint32(b, recordSum(r.key, b[start:]))
}

func appendRing(b []byte, r *ratelimit.Ring) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Tick))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Last))
	b = binary.BigEndian.AppendUint32(b, r.Size)
	b = binary.BigEndian.AppendUint32(b, r.Fill)
	b = append(b, r.Len)
	for i := range int(r.Len) {
		b = binary.BigEndian.AppendUint16(b, r.Stamp[(int(r.First)+i)%len(r.Stamp)])
	}
	return b
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

// parseRing reads a ring of that many hits. Its hits are counted anew from
// here on, which matters to nobody: what is read becomes state and record both.
func parseRing(b []byte, level int64) (*ratelimit.Ring, []byte, bool) {
	if len(b) < ringHead {
		return nil, nil, false
	}
	r := &ratelimit.Ring{
		Tick: int64(binary.BigEndian.Uint64(b)), Last: int64(binary.BigEndian.Uint64(b[8:])),
		Size: binary.BigEndian.Uint32(b[16:]), Fill: binary.BigEndian.Uint32(b[20:]), Len: b[24],
	}
	b = b[ringHead:]
	n := int(r.Len)
	if n == 0 || n > len(r.Stamp) || len(b) < 2*n || r.Tick <= 0 || r.Fill == 0 || r.Fill > r.Size ||
		r.Last > math.MaxInt64/r.Tick || r.Last < math.MinInt64/r.Tick || level != int64(r.Size)*int64(n-1)+int64(r.Fill) {
		return nil, nil, false
	}
	age := uint16(math.MaxUint16) // of a segment, in ticks before the newest; it falls
	for i := range n {
		r.Stamp[i] = binary.BigEndian.Uint16(b[2*i:])
		next := uint16(r.Last) - r.Stamp[i]
		if next > age {
			return nil, nil, false
		}
		age = next
	}
	return r, b[2*n:], age == 0
}
