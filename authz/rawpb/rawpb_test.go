package rawpb_test

import (
	"bytes"
	"sync"
	"testing"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that a server has by default
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/voicecore-ai/sluice/authz/rawpb"
)

func TestBytesPassThroughTheDefaultCodec(t *testing.T) {
	codec := encoding.GetCodecV2("proto")
	for _, size := range []int{0, 1, 1023, 1024, 5000} { // the codec pools buffers from 1024 on
		want := bytes.Repeat([]byte{0xff}, size) // no protobuf, no UTF-8
		sent, err := codec.Marshal(rawpb.New(want))
		if err != nil {
			t.Fatal(err)
		}
		got := rawpb.New([]byte("left from before"))
		if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(sent.Materialize())}, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes, want) {
			t.Errorf("%d bytes came as %d", size, len(got.Bytes))
		}
	}
}

func TestMessagesShareNothing(t *testing.T) {
	codec := encoding.GetCodecV2("proto")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				r := rawpb.New(nil)
				if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer("abc")}, r); err != nil || string(r.Bytes) != "abc" {
					t.Errorf("%q: %v", r.Bytes, err)
				}
				r.ProtoReflect().SetUnknown([]byte{1})
			}
		})
	}
	all.Wait()
}

func TestReflectionSeesNothing(t *testing.T) {
	for _, m := range []*rawpb.Raw{rawpb.New([]byte("secret")), {Bytes: []byte("secret")}} {
		r := m.ProtoReflect()
		if r.Descriptor().Fields().Len() != 0 || len(r.GetUnknown()) != 0 || !r.IsValid() {
			t.Error("reflection sees the bytes")
		}
	}
}

func TestOpenAndCloseNestAsProtobufDoes(t *testing.T) {
	for _, size := range []int{0, 1, 100, 127, 128, 16383, 16384, 100_000} {
		s := string(bytes.Repeat([]byte{'x'}, size))
		b, entry := rawpb.Open([]byte{}, 1)
		b = rawpb.AppendString(b, 1, "key")
		b, value := rawpb.Open(b, 2)
		b = rawpb.AppendString(b, 3, s)
		b = rawpb.Close(b, value)
		b = rawpb.Close(b, entry)
		got := new(structpb.Struct)
		if err := proto.Unmarshal(b, got); err != nil {
			t.Fatal(err)
		}
		if got.Fields["key"].GetStringValue() != s {
			t.Errorf("%d bytes are not there", size)
		}
	}
}

func FuzzWalk(f *testing.F) {
	f.Add([]byte{0x0a, 1, 'a', 0x10, 5, 0x1d, 1, 2, 3, 4})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := rawpb.Walk(b)
		total := 0
		for _, value, ok := w.Next(); ok; _, value, ok = w.Next() {
			total += len(value)
		}
		if total > len(b) {
			t.Error("more than there is")
		}
		valid := true
		for rest := b; len(rest) > 0; {
			_, _, n := protowire.ConsumeField(rest)
			if n < 0 {
				valid = false
				break
			}
			rest = rest[n:]
		}
		if valid == w.Bad() {
			t.Errorf("bad is %v", w.Bad())
		}
	})
}
