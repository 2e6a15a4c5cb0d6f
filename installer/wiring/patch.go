package wiring

import (
	"errors"
	"fmt"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	api "istio.io/api/networking/v1alpha3"
)

func networkFilter(name string, config *anypb.Any) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}
}

// encode is a message as the value of a patch.
func encode(m proto.Message) (*structpb.Struct, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	out := &structpb.Struct{}
	return out, protojson.Unmarshal(raw, out)
}

// ErrApplyTo says that values of that kind are not read here.
var ErrApplyTo = errors.New("no values of this kind are read")

// Decode reads the value of a patch as Envoy's own type, strictly: a field that
// the type does not have is an error here, where istiod only warns and Envoy then refuses the
// listener. A type that this package does not know is an error that says so.
func Decode(to api.EnvoyFilter_ApplyTo, value *structpb.Struct) (proto.Message, error) {
	var out proto.Message
	switch to {
	case api.EnvoyFilter_LISTENER:
		out = &listenerv3.Listener{}
	case api.EnvoyFilter_FILTER_CHAIN:
		out = &listenerv3.FilterChain{}
	case api.EnvoyFilter_LISTENER_FILTER:
		out = &listenerv3.ListenerFilter{}
	case api.EnvoyFilter_NETWORK_FILTER:
		out = &listenerv3.Filter{}
	case api.EnvoyFilter_HTTP_FILTER:
		out = &hcmv3.HttpFilter{}
	case api.EnvoyFilter_ROUTE_CONFIGURATION:
		out = &routev3.RouteConfiguration{}
	case api.EnvoyFilter_VIRTUAL_HOST:
		out = &routev3.VirtualHost{}
	case api.EnvoyFilter_HTTP_ROUTE:
		out = &routev3.Route{}
	default:
		return nil, fmt.Errorf("%w: %s", ErrApplyTo, to)
	}
	raw, err := protojson.Marshal(value)
	if err != nil {
		return nil, err
	}
	return out, protojson.Unmarshal(raw, out)
}

// Validate decodes the value of a patch and applies Envoy's own rules to it, and
// to every configuration that is packed in it. What a MERGE leaves out is filled in as istiod would.
func Validate(to api.EnvoyFilter_ApplyTo, operation api.EnvoyFilter_Patch_Operation, value *structpb.Struct) error {
	m, err := Decode(to, value)
	if err != nil {
		return err
	}
	partial := operation == api.EnvoyFilter_Patch_MERGE
	return errors.Join(validate(m.ProtoReflect(), partial)...)
}

// validate walks a message: each that is packed in an Any is judged whole, with what it has beneath.
func validate(m protoreflect.Message, partial bool) (problems []error) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			return []error{err}
		}
		whole := true
		if partial {
			inner, whole = complete(inner)
		}
		if whole {
			problems = judge(inner)
		}
		return append(problems, validate(inner.ProtoReflect(), false)...)
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
					problems = append(problems, validate(value.Message(), partial)...)
					return true
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				problems = append(problems, validate(value.List().Get(i).Message(), partial)...)
			}
		default:
			problems = append(problems, validate(value.Message(), partial)...)
		}
		return true
	})
	return problems
}

// judge applies the rules that Envoy's protos state.
func judge(m proto.Message) []error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return []error{err}
		}
	}
	return nil
}

// complete adds to a partial message what its type requires and istiod has there; not
// whole if that is not known of the type, which then can't be judged.
func complete(m proto.Message) (out proto.Message, whole bool) {
	var base proto.Message
	switch m.(type) {
	case *hcmv3.HttpConnectionManager:
		base = &hcmv3.HttpConnectionManager{
			StatPrefix:     "istiod",
			RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{}},
		}
	case *authzv3.ExtAuthz:
		base = &authzv3.ExtAuthz{}
	default:
		return m, false
	}
	proto.Merge(base, m)
	return base, true
}
