package api

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// unwritable are fields that a mask may name, because a caller sends back what
// it got (AIP-203), but that planIn and tenantIn don't read.
var unwritable = []protoreflect.Name{"name", "origin", "etag"}

// merge writes the fields of src that mask names into dst, whole (AIP-134): an empty
// mask means every field that is set in src, "*" means all of them.
func merge(dst, src proto.Message, mask *fieldmaskpb.FieldMask) error {
	from, to := src.ProtoReflect(), dst.ProtoReflect()
	fields := to.Descriptor().Fields()
	var v violations
	var take []protoreflect.FieldDescriptor
	everything := slices.Equal(mask.GetPaths(), []string{"*"})
	if len(mask.GetPaths()) == 0 || everything {
		for i := range fields.Len() {
			if f := fields.Get(i); everything || from.Has(f) {
				take = append(take, f)
			}
		}
	} else {
		for _, path := range mask.GetPaths() {
			f := fields.ByName(protoreflect.Name(path))
			if f == nil {
				f = fields.ByJSONName(path)
			}
			if f == nil {
				v.add("update_mask", "no field "+quote(path)+"; name whole fields: "+names(fields))
				continue
			}
			take = append(take, f)
		}
	}
	if err := v.err(); err != nil {
		return err
	}
	for _, f := range take {
		if from.Has(f) {
			to.Set(f, from.Get(f))
		} else {
			to.Clear(f)
		}
	}
	return nil
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
