// Package rawpb lets a door read and write protobuf bytes itself, through
// whatever codec the gRPC server has, so that input which the generated types
// refuse gets a decision instead of a gRPC error. Envoy's C++ runtime sends a
// string that is not UTF-8; the Go runtime fails the whole message for it, and
// a client can put such bytes in a path.
//
// It is not a protobuf library: it knows tags and lengths, no descriptors.
// Receiving a message costs one copy into a buffer that is reused, sending one costs none.
package rawpb

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Raw is a [google.golang.org/protobuf/proto.Message] whose encoding is Bytes.
// Unmarshalling never fails. To reflection, and so to a log or an interceptor,
// it is an empty message: what it carries can't leak that way.
type Raw struct {
	protoreflect.Message
	Bytes []byte
}

var (
	empty   = new(emptypb.Empty).ProtoReflect()
	methods = protoiface.Methods{
		// No Size: with it, proto.Marshal would allocate a buffer and copy.
		Marshal: func(in protoiface.MarshalInput) (protoiface.MarshalOutput, error) {
			r := in.Message.(*Raw) //nolint:errcheck // only a Raw has these methods
			if cap(in.Buf) == 0 {
				return protoiface.MarshalOutput{Buf: r.Bytes}, nil
			}
			return protoiface.MarshalOutput{Buf: append(in.Buf, r.Bytes...)}, nil
		},
		Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
			r := in.Message.(*Raw) //nolint:errcheck // only a Raw has these methods
			r.Bytes = append(r.Bytes[:0], in.Buf...)
			return protoiface.UnmarshalOutput{Flags: protoiface.UnmarshalInitialized}, nil
		},
		CheckInitialized: func(protoiface.CheckInitializedInput) (protoiface.CheckInitializedOutput, error) {
			return protoiface.CheckInitializedOutput{}, nil
		},
	}
)

// New returns a message with that encoding. It keeps b.
func New(b []byte) *Raw { return &Raw{Message: empty, Bytes: b} }

// ProtoReflect makes r a proto.Message.
func (r *Raw) ProtoReflect() protoreflect.Message {
	if r.Message == nil {
		r.Message = empty
	}
	return r
}

// Interface is r itself: the runtime resets what this returns before it
// unmarshals, and the empty message is shared.
func (r *Raw) Interface() protoreflect.ProtoMessage { return r }

// SetUnknown keeps the shared empty message empty.
func (*Raw) SetUnknown(protoreflect.RawFields) {}

// ProtoMethods is how the protobuf runtime finds the methods above.
func (*Raw) ProtoMethods() *protoiface.Methods { return &methods }

// Reset empties r and keeps its buffer.
func (r *Raw) Reset() { r.Bytes = r.Bytes[:0] }

// Fields walks the fields of one encoded message. The zero value is an empty one.
type Fields struct {
	rest []byte
	bad  bool
}

// Walk starts at the first field of message.
func Walk(message []byte) Fields { return Fields{rest: message} }

// Next returns the next field that has a length (a string, bytes or a message),
// as a slice of the message. Others are skipped. ok is false at the end.
func (f *Fields) Next() (number protowire.Number, value []byte, ok bool) {
	for len(f.rest) > 0 && !f.bad {
		number, wire, n := protowire.ConsumeTag(f.rest)
		if n < 0 {
			f.bad = true
			break
		}
		f.rest = f.rest[n:]
		if wire == protowire.BytesType {
			value, n = protowire.ConsumeBytes(f.rest)
		} else {
			n = protowire.ConsumeFieldValue(number, wire, f.rest)
		}
		if n < 0 {
			f.bad = true
			break
		}
		f.rest = f.rest[n:]
		if wire == protowire.BytesType {
			return number, value, true
		}
	}
	return 0, nil, false
}

// Bad reports that the walk ended at bytes that are no protobuf.
func (f *Fields) Bad() bool { return f.bad }

// Open starts an embedded message; Close ends it at the mark that Open returned.
func Open(b []byte, number protowire.Number) (opened []byte, mark int) {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return b, len(b)
}

// Close writes the length of what was appended since mark in front of it.
func Close(b []byte, mark int) []byte {
	var room [10]byte
	n := len(b) - mark
	b = append(b, room[:protowire.SizeVarint(uint64(n))]...)
	copy(b[len(b)-n:], b[mark:mark+n])
	protowire.AppendVarint(b[:mark], uint64(n))
	return b
}

// AppendString appends a string or bytes field.
func AppendString[T string | []byte](b []byte, number protowire.Number, s T) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(s)))
	return append(b, s...)
}

// AppendUint appends a varint field.
func AppendUint(b []byte, number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}
