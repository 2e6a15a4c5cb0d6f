package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// everywhere are the ConfigMaps that istiod puts into every namespace.
var everywhere = []string{"istio-ca-root-cert", "istio-ca-crl"}

// injected refuses while Pods have a sidecar that is not of the mesh's own workloads.
func (c *Cluster) injected(ctx context.Context, objects []ref, o *UninstallOptions) error {
	if o.Force {
		return nil
	}
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "PodList"})
	if err := c.client.List(ctx, pods); err != nil {
		return fmt.Errorf("looking for Pods with a sidecar: %w", err)
	}
	own, err := c.ownPods(ctx, objects)
	if err != nil {
		return err
	}
	var found []string
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Annotations["sidecar.istio.io/status"] != "" && !own(p.Namespace, p.Labels) {
			found = append(found, p.Namespace+"/"+p.Name)
		}
	}
	if len(found) == 0 {
		return nil
	}
	shown := found[:min(len(found), 10)]
	if len(found) > len(shown) {
		shown = append(slices.Clone(shown), fmt.Sprintf("and %d more", len(found)-len(shown)))
	}
	return fmt.Errorf("%w: %d Pods still have a sidecar, which nobody would configure or give certificates any more:\n%s\nrestart them without injection first, or say --force",
		ErrRefused, len(found), lines(shown))
}

// ownPods tells the Pods of the mesh's own workloads: gateways and Sluice itself.
func (c *Cluster) ownPods(ctx context.Context, objects []ref) (func(namespace string, l map[string]string) bool, error) {
	selectors := map[string][]labels.Selector{}
	for _, r := range objects {
		if r.Group != "apps" {
			continue
		}
		live := r.empty()
		err := c.client.Get(ctx, client.ObjectKeyFromObject(live), live)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", r, err)
		}
		match, _, _ := unstructured.NestedStringMap(live.Object, "spec", "selector", "matchLabels")
		if len(match) > 0 {
			selectors[r.Namespace] = append(selectors[r.Namespace], labels.SelectorFromSet(match))
		}
	}
	return func(namespace string, l map[string]string) bool {
		return slices.ContainsFunc(selectors[namespace], func(s labels.Selector) bool { return s.Matches(labels.Set(l)) })
	}, nil
}

// strangers looks for objects that others made of the CRDs that are to go.
func (c *Cluster) strangers(ctx context.Context, r *Removal, id string, o *UninstallOptions) error {
	var found []string
	for _, crd := range r.crds {
		live := crd.empty()
		if err := c.client.Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
			return fmt.Errorf("reading %s: %w", crd, err)
		}
		all, err := c.instances(ctx, live)
		if err != nil {
			return err
		}
		for i := range all {
			if all[i].GetLabels()[labelPartOf] != id {
				found = append(found, refOf(&all[i], "").String())
			}
		}
	}
	if len(found) == 0 || o.Force {
		return nil
	}
	return fmt.Errorf("%w: with their definitions, %d objects that are not of the mesh would be lost:\n%s\nsave and delete them first, keep the definitions (without --crds), or say --force",
		ErrRefused, len(found), lines(found[:min(len(found), 20)]))
}

func (c *Cluster) instances(ctx context.Context, crd *unstructured.Unstructured) ([]unstructured.Unstructured, error) {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, item := range versions {
		v, _ := item.(map[string]any)
		if v["served"] != true {
			continue
		}
		all := &unstructured.UnstructuredList{}
		all.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: fmt.Sprint(v["name"]), Kind: kind})
		err := c.client.List(ctx, all)
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing each %s: %w", kind, err)
		}
		return all.Items, nil
	}
	return nil, nil
}

// leftovers lists what istiod made by itself and nobody deletes.
func (c *Cluster) leftovers(ctx context.Context, namespace string, r *Removal) error {
	gone := map[string]bool{}
	for _, s := range r.spaces {
		gone[s.Name] = true
	}
	if !gone[namespace] {
		for _, name := range []string{"istio-ca-secret", "cacerts"} {
			s := &metav1.PartialObjectMetadata{}
			s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
			err := c.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, s)
			if err == nil {
				r.leave("Secret "+namespace+"/"+name, "it is the key of the mesh's authority: without it, a new installation trusts no old certificate")
			} else if !apierrors.IsNotFound(err) {
				return fmt.Errorf("reading Secret %s/%s: %w", namespace, name, err)
			}
		}
		maps := &metav1.PartialObjectMetadataList{}
		maps.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
		if err := c.client.List(ctx, maps, client.InNamespace(namespace)); err != nil {
			return fmt.Errorf("listing the ConfigMaps of %s: %w", namespace, err)
		}
		for i := range maps.Items {
			m := &maps.Items[i]
			if m.Labels[labelPartOf] == "" && strings.HasPrefix(m.Name, "istio-") && !slices.Contains(everywhere, m.Name) {
				r.leave("ConfigMap "+namespace+"/"+m.Name, "istiod made it to elect a leader; it goes with the namespace")
			}
		}
	}
	for _, set := range r.rest {
		if set.Kind != "StatefulSet" || gone[set.Namespace] {
			continue
		}
		claims := &metav1.PartialObjectMetadataList{}
		claims.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaimList"))
		if err := c.client.List(ctx, claims, client.InNamespace(set.Namespace)); err != nil {
			return fmt.Errorf("listing the PersistentVolumeClaims of %s: %w", set.Namespace, err)
		}
		for i := range claims.Items {
			if name := claims.Items[i].Name; strings.Contains(name, "-"+set.Name+"-") {
				r.leave("PersistentVolumeClaim "+set.Namespace+"/"+name, "it holds what %s has recorded; kubectl delete takes it away for good", set.Name)
			}
		}
	}
	for _, name := range everywhere {
		all := &metav1.PartialObjectMetadataList{}
		all.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
		if err := c.client.List(ctx, all, client.MatchingFields{"metadata.name": name}); err != nil {
			return fmt.Errorf("listing the ConfigMaps %s: %w", name, err)
		}
		var with []string
		for i := range all.Items {
			if in := all.Items[i].Namespace; !gone[in] {
				with = append(with, in)
			}
		}
		if len(with) > 0 {
			r.leave("ConfigMap "+name, "istiod put it into %s; another istiod may need it", strings.Join(with, ", "))
		}
	}
	return nil
}
