package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	api "istio.io/api/networking/v1alpha3"

	// What is decoded strictly; the values of other types are read as they stand.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/json_to_metadata/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rate_limit_quota/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/voicecore-ai/sluice/installer/wiring"
)

// envoyFilter is an EnvoyFilter as istiod reads it.
type envoyFilter struct {
	object  *object
	spec    *api.EnvoyFilter
	err     error // why the spec can't be read
	patches []*patch
}

// patch is one of its changes.
type patch struct {
	field     string // spec.configPatches[n]
	to        api.EnvoyFilter_ApplyTo
	operation api.EnvoyFilter_Patch_Operation
	context   api.EnvoyFilter_PatchContext
	class     api.EnvoyFilter_Patch_FilterClass
	at        string // the sub-filter that it matches
	err       error  // why Envoy would refuse the value
	value     map[string]any
	configs   []config // every typed configuration in the value, outermost first
}

// config is a typed configuration.
type config struct {
	field  string // where in the object
	kind   string // the last word of its type, such as ExtAuthz
	fields map[string]any
}

func (f *envoyFilter) selector() map[string]string { return f.spec.GetWorkloadSelector().GetLabels() }

// readFilter reads an EnvoyFilter as far as it can be read.
func readFilter(o *object) *envoyFilter {
	out := &envoyFilter{object: o, spec: &api.EnvoyFilter{}}
	raw, err := json.Marshal(o.Object["spec"])
	if err == nil {
		err = protojson.Unmarshal(raw, out.spec)
	}
	if err != nil {
		out.err = err
		_ = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, out.spec)
	}
	for i, c := range out.spec.GetConfigPatches() {
		p := &patch{
			field: fmt.Sprintf("spec.configPatches[%d]", i), to: c.GetApplyTo(), operation: c.GetPatch().GetOperation(),
			context: c.GetMatch().GetContext(), class: c.GetPatch().GetFilterClass(),
			at: c.GetMatch().GetListener().GetFilterChain().GetFilter().GetSubFilter().GetName(),
		}
		p.value = c.GetPatch().GetValue().AsMap()
		if c.GetPatch().GetValue() != nil {
			p.read(c)
		}
		collect(p.value, p.field+".patch.value", &p.configs)
		out.patches = append(out.patches, p)
	}
	return out
}

// read decodes the value strictly, and keeps it with the names that the protos have, since istiod takes two spellings.
func (p *patch) read(c *api.EnvoyFilter_EnvoyConfigObjectPatch) {
	m, err := wiring.Decode(p.to, c.GetPatch().GetValue())
	switch {
	case errors.Is(err, wiring.ErrApplyTo):
		return
	case err != nil && strings.Contains(err.Error(), "unable to resolve"):
		return // a type that is not linked here; istiod may know it
	case err != nil:
		p.err = err
		return
	}
	p.err = wiring.Validate(p.to, p.operation, c.GetPatch().GetValue())
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return
	}
	var canonical map[string]any
	if json.Unmarshal(raw, &canonical) == nil {
		p.value = canonical
	}
}

// collect finds typed configurations in a value.
func collect(v any, field string, out *[]config) {
	switch v := v.(type) {
	case map[string]any:
		if url := text1(v, "@type"); url != "" {
			fields := v
			kind := url[strings.LastIndexByte(url, '.')+1:]
			if kind == "TypedStruct" { // a type that istiod need not know
				inner := text1(v, "type_url") + text1(v, "typeUrl")
				kind = inner[strings.LastIndexByte(inner, '.')+1:]
				fields, _ = v["value"].(map[string]any)
			}
			*out = append(*out, config{field: field, kind: kind, fields: fields})
		}
		for _, name := range sortedKeys(v) {
			collect(v[name], field+"."+name, out)
		}
	case []any:
		for i, item := range v {
			collect(item, fmt.Sprintf("%s[%d]", field, i), out)
		}
	}
}

// inserts reports whether the patch puts a new HTTP filter in.
func (p *patch) inserts() bool {
	switch p.operation {
	case api.EnvoyFilter_Patch_INSERT_BEFORE, api.EnvoyFilter_Patch_INSERT_AFTER, api.EnvoyFilter_Patch_INSERT_FIRST, api.EnvoyFilter_Patch_ADD:
		return p.to == api.EnvoyFilter_HTTP_FILTER
	}
	return false
}

// eachConfig visits every configuration of that kind in all EnvoyFilters.
func (w *world) eachConfig(kind string, visit func(o *object, p *patch, c config)) {
	for _, o := range w.objects {
		if o.filter == nil {
			continue
		}
		for _, p := range o.filter.patches {
			for _, c := range p.configs {
				if c.kind == kind {
					visit(o, p, c)
				}
			}
		}
	}
}
