// Package istiodtest applies EnvoyFilters to a listener as istiod does, for
// tests that have a real Envoy and no istiod. It knows the operations that
// package wiring uses and refuses all others; testdata/ holds what istiod itself made.
package istiodtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	// What istiod puts into its listeners.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	api "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/wiring"
)

// Proxy is whose listener it is.
type Proxy struct {
	Labels  map[string]string
	Gateway bool
}

// Apply changes a listener, given and returned as JSON, by the EnvoyFilters among the objects that select the proxy.
func Apply(listener []byte, objects []*unstructured.Unstructured, p Proxy) ([]byte, error) {
	l := &listenerv3.Listener{}
	if err := protojson.Unmarshal(listener, l); err != nil {
		return nil, err
	}
	filters, err := selected(objects, p)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		for _, c := range f.GetConfigPatches() {
			value, err := wiring.Decode(c.GetApplyTo(), c.GetPatch().GetValue())
			if err != nil {
				return nil, err
			}
			if err := change(l, c, value); err != nil {
				return nil, err
			}
		}
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(l)
}

// selected are the filters of a proxy, in istiod's order.
func selected(objects []*unstructured.Unstructured, p Proxy) ([]*api.EnvoyFilter, error) {
	type named struct {
		name string
		spec *api.EnvoyFilter
	}
	var all []named
	for _, o := range objects {
		if o.GetKind() != "EnvoyFilter" {
			continue
		}
		raw, err := json.Marshal(o.Object["spec"])
		if err != nil {
			return nil, err
		}
		spec := &api.EnvoyFilter{}
		if err := protojson.Unmarshal(raw, spec); err != nil {
			return nil, err
		}
		takes := true
		for k, v := range spec.GetWorkloadSelector().GetLabels() {
			takes = takes && p.Labels[k] == v
		}
		if takes {
			all = append(all, named{o.GetName(), spec})
		}
	}
	slices.SortStableFunc(all, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.spec.GetPriority(), b.spec.GetPriority()), cmp.Compare(a.name, b.name))
	})
	out := make([]*api.EnvoyFilter, len(all))
	for i, f := range all {
		out[i] = f.spec
	}
	return out, nil
}

// change applies one patch.
func change(l *listenerv3.Listener, c *api.EnvoyFilter_EnvoyConfigObjectPatch, value proto.Message) error {
	if c.GetApplyTo() == api.EnvoyFilter_LISTENER {
		if c.GetPatch().GetOperation() != api.EnvoyFilter_Patch_MERGE {
			return fmt.Errorf("%s of a listener", c.GetPatch().GetOperation())
		}
		proto.Merge(l, value)
		return nil
	}
	at := c.GetMatch().GetListener().GetFilterChain().GetFilter()
	for _, chain := range l.GetFilterChains() {
		for _, filter := range chain.GetFilters() {
			if filter.GetName() != at.GetName() {
				continue
			}
			manager := &hcmv3.HttpConnectionManager{}
			if err := filter.GetTypedConfig().UnmarshalTo(manager); err != nil {
				return err
			}
			if err := changeManager(manager, c, at.GetSubFilter().GetName(), value); err != nil {
				return err
			}
			if err := filter.GetTypedConfig().MarshalFrom(manager); err != nil {
				return err
			}
		}
	}
	return nil
}

func changeManager(manager *hcmv3.HttpConnectionManager, c *api.EnvoyFilter_EnvoyConfigObjectPatch, at string, value proto.Message) error {
	operation := c.GetPatch().GetOperation()
	switch value := value.(type) {
	case *listenerv3.Filter:
		if operation != api.EnvoyFilter_Patch_MERGE {
			return fmt.Errorf("%s of a network filter", operation)
		}
		return mergeInto(manager, value.GetTypedConfig())
	case *hcmv3.HttpFilter:
		i := slices.IndexFunc(manager.GetHttpFilters(), func(f *hcmv3.HttpFilter) bool { return f.GetName() == at })
		if i < 0 {
			return nil // as istiod: it matches nothing and says nothing
		}
		if operation == api.EnvoyFilter_Patch_INSERT_BEFORE {
			manager.HttpFilters = slices.Insert(manager.HttpFilters, i, value)
			return nil
		}
		if operation != api.EnvoyFilter_Patch_MERGE {
			return fmt.Errorf("%s of an HTTP filter", operation)
		}
		had, err := manager.HttpFilters[i].GetTypedConfig().UnmarshalNew()
		if err != nil {
			return err
		}
		if err := mergeInto(had, value.GetTypedConfig()); err != nil {
			return err
		}
		return manager.HttpFilters[i].GetTypedConfig().MarshalFrom(had)
	}
	return fmt.Errorf("a patch of %s", c.GetApplyTo())
}

// mergeInto is proto's merge: fields are overwritten, lists appended to.
func mergeInto(m proto.Message, packed *anypb.Any) error {
	part, err := packed.UnmarshalNew()
	if err != nil {
		return err
	}
	proto.Merge(m, part)
	return nil
}
