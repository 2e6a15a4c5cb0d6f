package gate

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// operation is the charge of one request. On a store that replicas share it has an id, the same on each of
// them, so that an Envoy that asks again after an answer was lost is charged once. Envoy's number of the
// stream makes it, and not x-request-id: that one a client may choose, and all requests that share it would
// cost one. It counts beside the peer, so that no peer can make another's request free.
func (g *Gate) operation(now int64, r *Request) ratelimit.Operation {
	op := ratelimit.Operation{Now: now}
	if !g.o.Shared || r.Stream == "" {
		return op
	}
	var room [256]byte // enough for most names
	b := binary.BigEndian.AppendUint32(room[:0], uint32(len(r.Peer)))
	sum := sha256.Sum256(append(append(b, r.Peer...), r.Stream...))
	op.ID = [16]byte(sum[:16])
	return op
}
