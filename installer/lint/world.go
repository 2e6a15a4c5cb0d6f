package lint

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// object is one Kubernetes object and what was read out of it.
type object struct {
	*unstructured.Unstructured
	waivers    map[string]string
	badWaivers []string
	filter     *envoyFilter // of an EnvoyFilter
}

func (o *object) String() string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// is reports whether the object is of a group and kind, in any version.
func (o *object) is(group, kind string) bool {
	return o.GetKind() == kind && o.GroupVersionKind().Group == group
}

// The groups of Istio's kinds.
const (
	networkingGroup = "networking.istio.io"
	securityGroup   = "security.istio.io"
)

// world is all objects, and what they say together.
type world struct {
	objects   []*object
	root      string
	complete  bool
	mesh      *object             // the ConfigMap with the mesh's configuration; nil if it is not among them
	providers map[string]provider // of the mesh's configuration
	doors     []door
}

// provider is an extension provider that authorizes.
type provider struct {
	name    string
	service string // a host, without a namespace before it
	port    int64
	fields  map[string]any
}

// door is a service that proxies ask.
type door struct {
	host      string // its name before the cluster's domain: service.namespace
	namespace string
	pods      map[string]string // labels of its pods
	service   *object           // nil if it is not among the objects
}

func newWorld(objects []*unstructured.Unstructured, o Options) *world {
	w := &world{root: o.RootNamespace, complete: o.Complete, providers: map[string]provider{}}
	for _, u := range objects {
		if u == nil {
			continue
		}
		item := &object{Unstructured: u}
		item.waivers, item.badWaivers = waivers(u.GetAnnotations()[Waive])
		w.objects = append(w.objects, item)
	}
	w.readMesh()
	if w.root == "" {
		w.root = "istio-system"
	}
	for _, item := range w.of(networkingGroup, "EnvoyFilter") {
		item.filter = readFilter(item)
	}
	w.findDoors()
	return w
}

// of are the objects of a group and kind.
func (w *world) of(group, kind string) (out []*object) {
	for _, o := range w.objects {
		if o.is(group, kind) {
			out = append(out, o)
		}
	}
	return out
}

// waivers reads lines of CODE: reason.
func waivers(text string) (out map[string]string, bad []string) {
	out = map[string]string{}
	for line := range strings.SplitSeq(strings.ReplaceAll(text, ";", "\n"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		code, reason, ok := strings.Cut(line, ":")
		code, reason = strings.TrimSpace(code), strings.TrimSpace(reason)
		if !ok || reason == "" || !known(code) {
			bad = append(bad, line)
			continue
		}
		out[code] = reason
	}
	return out, bad
}

// readMesh finds istiod's configuration: a ConfigMap named istio, or istio-REVISION, with a key mesh.
func (w *world) readMesh() {
	for _, o := range w.of("", "ConfigMap") {
		text, found, _ := unstructured.NestedString(o.Object, "data", "mesh")
		if !found || o.GetName() != "istio" && !strings.HasPrefix(o.GetName(), "istio-") {
			continue
		}
		var mesh map[string]any
		if yaml.Unmarshal([]byte(text), &mesh) != nil {
			continue
		}
		w.mesh = o
		if w.root == "" {
			w.root, _, _ = unstructured.NestedString(mesh, "rootNamespace")
		}
		list, _ := mesh["extensionProviders"].([]any)
		for _, item := range list {
			entry, _ := item.(map[string]any)
			name := text1(entry, "name")
			for _, kind := range []string{"envoyExtAuthzGrpc", "envoyExtAuthzHttp"} {
				fields, ok := entry[kind].(map[string]any)
				if !ok {
					continue
				}
				service := text1(fields, "service")
				if _, after, ok := strings.Cut(service, "/"); ok {
					service = after
				}
				w.providers[name] = provider{name: name, service: service, port: number(fields["port"]), fields: fields}
			}
		}
	}
}

// doorName is what Sluice's chart calls its Service, its pods and itself.
const (
	doorName  = "sluice"
	nameLabel = "app.kubernetes.io/name"
)

// findDoors finds Sluice: by its Service, and by what the providers name.
func (w *world) findDoors() {
	add := func(d door) {
		if !slices.ContainsFunc(w.doors, func(have door) bool { return have.host == d.host }) {
			w.doors = append(w.doors, d)
		}
	}
	for _, s := range w.of("", "Service") {
		if s.GetName() == doorName || s.GetLabels()[nameLabel] == doorName {
			add(w.doorOf(s))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.providers)) {
		host := w.providers[name].service
		service, rest, ok := strings.Cut(host, ".")
		namespace, _, _ := strings.Cut(rest, ".")
		if !ok {
			continue
		}
		found := false
		for _, s := range w.of("", "Service") {
			if s.GetName() == service && s.GetNamespace() == namespace {
				add(w.doorOf(s))
				found = true
			}
		}
		if !found {
			add(door{host: service + "." + namespace, namespace: namespace})
		}
	}
}

func (w *world) doorOf(s *object) door {
	labels, _, _ := unstructured.NestedStringMap(s.Object, "spec", "selector")
	d := door{host: s.GetName() + "." + s.GetNamespace(), namespace: s.GetNamespace(), pods: labels, service: s}
	// A selector names some of the labels; the pods themselves have more.
	for _, o := range w.objects {
		if o.GetNamespace() != d.namespace || len(labels) == 0 {
			continue
		}
		if all := podLabels(o); len(all) > 0 && within(labels, all) {
			d.pods = all
		}
	}
	return d
}

// isDoor reports whether a host is a door's, however much of its domain it spells out.
func (w *world) isDoor(host, from string) bool {
	for _, d := range w.doors {
		if host == d.host || strings.HasPrefix(host, d.host+".") {
			return true
		}
		service, _, _ := strings.Cut(d.host, ".")
		if host == service && from == d.namespace {
			return true
		}
	}
	// Of a single file nobody knows the Service; ours is known by name.
	return strings.HasPrefix(host, doorName+".")
}

// podLabels are the labels of the pods that an object is or makes.
func podLabels(o *object) map[string]string {
	switch o.GetKind() {
	case "Pod":
		return o.GetLabels()
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet":
		labels, _, _ := unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "labels")
		return labels
	}
	return nil
}

// podAnnotations are those of the pods that an object is or makes, and where they stand.
func podAnnotations(o *object) (annotations map[string]string, at string) {
	switch o.GetKind() {
	case "Pod":
		return o.GetAnnotations(), "metadata.annotations"
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet":
		annotations, _, _ = unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "annotations")
		return annotations, "spec.template.metadata.annotations"
	}
	return nil, ""
}

// within reports whether every label of part is in whole: a selector of part selects it.
func within(part, whole map[string]string) bool {
	for k, v := range part {
		if whole[k] != v {
			return false
		}
	}
	return true
}

// overlap reports whether two selectors in two namespaces may select one pod, as far as they say.
func (w *world) overlap(a, b *object, one, two map[string]string) bool {
	if a.GetNamespace() != b.GetNamespace() && a.GetNamespace() != w.root && b.GetNamespace() != w.root {
		return false
	}
	return within(one, two) || within(two, one)
}

// text1 is a string field.
func text1(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

// number is a whole number as JSON or YAML gave it.
func number(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case int:
		return int64(n)
	case float64:
		return int64(n)
	}
	return 0
}

// dig is what stands at a path of a value, with both spellings of each name; nil if nothing does.
func dig(v any, path ...string) any {
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		if v, ok = m[name]; !ok {
			v = m[camel(name)]
		}
	}
	return v
}

// camel is the JSON spelling of a proto's name.
func camel(name string) string {
	words := strings.Split(name, "_")
	for i, word := range words[1:] {
		if word != "" {
			words[i+1] = strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return strings.Join(words, "")
}

// spec is an object's spec.
func spec(o *object) map[string]any {
	m, _ := o.Object["spec"].(map[string]any)
	return m
}

// matchLabels is the selector of a policy.
func matchLabels(o *object) map[string]string {
	labels, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	return labels
}

// targeted reports whether a policy is attached by reference, not by labels.
func targeted(o *object) bool { return spec(o)["targetRefs"] != nil || spec(o)["targetRef"] != nil }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
