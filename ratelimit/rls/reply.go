package rls

import (
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// Codes of RateLimitResponse.
const (
	codeOK   = 1
	codeOver = 2
)

// Tags of one byte: number << 3 | wire type.
const (
	tagOverallCode = 1<<3 | byte(protowire.VarintType)
	tagStatus      = 2<<3 | byte(protowire.BytesType)
	tagHeader      = 3<<3 | byte(protowire.BytesType)
	tagMetadata    = 6<<3 | byte(protowire.BytesType)

	tagCode      = 1<<3 | byte(protowire.VarintType)
	tagRemaining = 3<<3 | byte(protowire.VarintType)
	tagReset     = 4<<3 | byte(protowire.BytesType)

	tagSeconds     = 1<<3 | byte(protowire.VarintType)
	tagHeaderKey   = 1<<3 | byte(protowire.BytesType)
	tagHeaderValue = 2<<3 | byte(protowire.BytesType)

	// Of google.protobuf.Struct.
	tagFields      = 1<<3 | byte(protowire.BytesType)
	tagEntryKey    = 1<<3 | byte(protowire.BytesType)
	tagEntryValue  = 2<<3 | byte(protowire.BytesType)
	tagValueString = 3<<3 | byte(protowire.BytesType)
)

// status is the answer to one descriptor.
type status struct {
	over      bool
	limit     []byte // encoded current_limit; nil if no limit was met
	remaining uint32
	reset     int64 // seconds; only with a limit
}

func appendOverall(b []byte, over bool) []byte {
	if over {
		return append(b, tagOverallCode, codeOver)
	}
	return append(b, tagOverallCode, codeOK)
}

func appendStatus(b []byte, s *status) []byte {
	size := 2 + len(s.limit)
	if s.remaining > 0 {
		size += 1 + protowire.SizeVarint(uint64(s.remaining))
	}
	seconds := 0
	if s.limit != nil {
		if s.reset > 0 {
			seconds = 1 + protowire.SizeVarint(uint64(s.reset))
		}
		size += 2 + seconds
	}
	b = protowire.AppendVarint(append(b, tagStatus), uint64(size))
	code := byte(codeOK)
	if s.over {
		code = codeOver
	}
	b = append(b, tagCode, code)
	b = append(b, s.limit...)
	if s.remaining > 0 {
		b = protowire.AppendVarint(append(b, tagRemaining), uint64(s.remaining))
	}
	if s.limit != nil {
		b = append(b, tagReset, byte(seconds))
		if seconds > 0 {
			b = protowire.AppendVarint(append(b, tagSeconds), uint64(s.reset))
		}
	}
	return b
}

func appendHeader(b []byte, name string, value int64) []byte {
	var digits [20]byte
	v := strconv.AppendInt(digits[:0], value, 10)
	b = append(b, tagHeader, byte(2+len(name)+2+len(v))) // names are short: one byte of length
	b = append(append(b, tagHeaderKey, byte(len(name))), name...)
	return append(append(b, tagHeaderValue, byte(len(v))), v...)
}

// appendHeaders writes the RateLimit fields of the limit that has the least
// left, under the names that envoyproxy/ratelimit gives them.
func appendHeaders(b []byte, least *status, perUnit uint32) []byte {
	b = appendHeader(b, "RateLimit-Limit", int64(perUnit))
	b = appendHeader(b, "RateLimit-Remaining", int64(least.remaining))
	return appendHeader(b, "RateLimit-Reset", least.reset)
}

// degraded is a header, for the caller, and the same as dynamic metadata, for Envoy's access log.
var degraded = func() []byte {
	name, meta := tenant.DegradedHeader, tenant.MetadataDegraded
	header := appendText(appendText(nil, tagHeaderKey, name), tagHeaderValue, "true")
	entry := appendText(appendText(nil, tagEntryKey, meta), tagEntryValue, string(appendText(nil, tagValueString, "true")))
	fields := appendText(nil, tagFields, string(entry))
	return appendText(appendText(nil, tagHeader, string(header)), tagMetadata, string(fields))
}()

// appendDegraded marks an answer that the shared store has no part in.
func appendDegraded(b []byte) []byte { return append(b, degraded...) }

func appendText(b []byte, tag byte, text string) []byte {
	return append(protowire.AppendVarint(append(b, tag), uint64(len(text))), text...)
}

func clampRemaining(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// resetSeconds rounds up, because Envoy drops the fraction. An aligned window
// ends even when nothing is in it.
func resetSeconds(l *ratelimit.Limit, o *ratelimit.Outcome, now int64) int64 {
	µs := o.ResetAfter
	if µs == 0 && l.Algorithm == ratelimit.Fixed {
		w := l.Window.Microseconds()
		if r := now % w; r >= 0 {
			µs = w - r
		}
	}
	return min((µs/1_000_000)+min(µs%1_000_000, 1), maxSeconds)
}

// maxSeconds is the longest google.protobuf.Duration.
const maxSeconds = 315_576_000_000
