package authz

import (
	"errors"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// object is an object of a JSON body. A condition can take a field of it and ask whether there is
// one, and nothing else: in CEL a map also has a size, and loops and "in" walk its
// keys, so {"tags": {"0": "admin"}} would pass a rule that denies who has "admin" among the
// tags. It is no map to CEL, so whatever way a condition gets at it, that is an error.
type object map[string]any

var objectType = types.NewOpaqueType("object")

var errObject = errors.New("an object of the body is used as a whole, where a list or a field of it is meant")

// Get implements traits.Indexer.
func (o object) Get(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key)
	}
	value, ok := o[string(name)]
	if !ok {
		return types.NewErr("no such key: %s", string(name))
	}
	return types.DefaultTypeAdapter.NativeToValue(value)
}

// IsSet implements traits.FieldTester, for has().
func (o object) IsSet(field ref.Val) ref.Val {
	name, ok := field.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(field)
	}
	_, ok = o[string(name)]
	return types.Bool(ok)
}

// Equal implements ref.Val.
func (o object) Equal(ref.Val) ref.Val { return types.WrapErr(errObject) }

// Type implements ref.Val.
func (o object) Type() ref.Type { return objectType }

// Value implements ref.Val.
func (o object) Value() any { return map[string]any(o) }

// ConvertToNative implements ref.Val.
func (o object) ConvertToNative(reflect.Type) (any, error) { return nil, errObject }

// ConvertToType implements ref.Val.
func (o object) ConvertToType(ref.Type) ref.Val { return types.WrapErr(errObject) }

var (
	_ traits.Indexer     = object{}
	_ traits.FieldTester = object{}
)
