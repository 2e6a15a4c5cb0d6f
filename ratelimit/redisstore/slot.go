package redisstore

// Slot is the slot of a Redis Cluster, of 16384, on which the cells of a shard lie; 0 on one server.
func (s *Store) Slot(shard uint64) int {
	if !s.cluster {
		return 0
	}
	var room [4]byte
	tag := appendTag(room[:0], shard)
	return int(crc16(tag[1:len(tag)-1]) % 16384)
}

// clusterPilots is how many ranges of slots a cluster is taken for: a primary has one, or a few.
const clusterPilots = 16

// pilot is that of a shard's slot.
func (s *Store) pilot(shard uint64) *pilot {
	return &s.pilots[s.Slot(shard)*len(s.pilots)/16384]
}

// crc16 is CRC-16/XMODEM, by which Redis Cluster spreads keys (its specification, appendix A).
func crc16(b []byte) (sum uint16) {
	for _, c := range b {
		sum ^= uint16(c) << 8
		for range 8 {
			if sum&0x8000 != 0 {
				sum = sum<<1 ^ 0x1021
			} else {
				sum <<= 1
			}
		}
	}
	return sum
}
