package api

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// unwritable are fields that a mask may name, because a caller sends back what
// it got (AIP-203), but that none may set.
var unwritable = []protoreflect.Name{"name", "origin", "etag", "allow_private"}

// merge writes the fields of src that mask names into dst, whole (AIP-134): an empty
// mask means every field that is set in src, "*" means all of them. A path may go
// into a message, as a PATCH by REST has it ("who.tenants"), but not into a list.
func merge(dst, src proto.Message, mask *fieldmaskpb.FieldMask) error {
	from, to := src.ProtoReflect(), dst.ProtoReflect()
	fields := to.Descriptor().Fields()
	everything := slices.Equal(mask.GetPaths(), []string{"*"})
	if len(mask.GetPaths()) == 0 || everything {
		for i := range fields.Len() {
			if f := fields.Get(i); everything || from.Has(f) {
				take(to, from, f)
			}
		}
		return nil
	}
	var v violations
	for _, path := range mask.GetPaths() {
		steps := walk(fields, path)
		if steps == nil {
			v.add("update_mask", "no field "+quote(path)+"; name whole fields: "+names(fields))
			continue
		}
		from, to := from, to
		last := len(steps) - 1
		for _, f := range steps[:last] {
			from, to = from.Get(f).Message(), to.Mutable(f).Message()
		}
		take(to, from, steps[last])
	}
	return v.err()
}

// take makes one field of to what it is in from.
func take(to, from protoreflect.Message, f protoreflect.FieldDescriptor) {
	if from.Has(f) {
		to.Set(f, from.Get(f))
	} else {
		to.Clear(f)
	}
}

// walk is the fields along a path; nil if there is no such path.
func walk(fields protoreflect.FieldDescriptors, path string) (steps []protoreflect.FieldDescriptor) {
	for name := range strings.SplitSeq(path, ".") {
		if fields == nil {
			return nil
		}
		f := fields.ByName(protoreflect.Name(name))
		if f == nil {
			f = fields.ByJSONName(name)
		}
		if f == nil {
			return nil
		}
		steps, fields = append(steps, f), nil
		if f.Message() != nil && !f.IsList() && !f.IsMap() {
			fields = f.Message().Fields()
		}
	}
	return steps
}

func names(fields protoreflect.FieldDescriptors) string {
	var all []string
	for i := range fields.Len() {
		if name := fields.Get(i).Name(); !slices.Contains(unwritable, name) {
			all = append(all, string(name))
		}
	}
	return strings.Join(all, ", ")
}
