package rls

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/voicecore-ai/sluice/authz/rawpb"
)

// Codec is for grpc.ForceServerCodecV2: it hands encoded messages to and from
// doors that decode themselves and leaves every other message to grpc-go's own
// codec. Without it a Door works the same and costs more.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(*rawpb.Raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw.Bytes)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	raw, ok := v.(*rawpb.Raw)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	raw.Bytes = raw.Bytes[:0]
	for _, b := range data {
		raw.Bytes = append(raw.Bytes, b.ReadOnlyData()...)
	}
	return nil
}
