package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/grafana/sobek"
	"github.com/grafana/sobek/parser"
)

// bundle is a script and all it imports, parsed once for every VU.
type bundle struct {
	mu      sync.Mutex // one VU at a time reads the script
	path    string
	main    *sobek.SourceTextModuleRecord
	files   map[string]*sobek.SourceTextModuleRecord // by absolute path
	paths   map[sobek.ModuleRecord]string
	sources map[string]string
	native  map[string]*nativeModule
	reading *vu // the one that holds mu
}

func newBundle(script string) (*bundle, error) {
	path, err := filepath.Abs(script)
	if err != nil {
		return nil, err
	}
	b := &bundle{
		path: path, files: map[string]*sobek.SourceTextModuleRecord{}, paths: map[sobek.ModuleRecord]string{},
		sources: map[string]string{}, native: map[string]*nativeModule{},
	}
	for _, m := range nativeModules() {
		m.bundle = b
		b.native[m.name] = m
	}
	if b.main, err = b.load(path); err != nil {
		return nil, err
	}
	if err := b.main.Link(); err != nil {
		return nil, fmt.Errorf("%s: %w", script, err)
	}
	return b, nil
}

// load parses a file, once.
func (b *bundle) load(path string) (*sobek.SourceTextModuleRecord, error) {
	if m := b.files[path]; m != nil {
		return m, nil
	}
	source, err := os.ReadFile(path) //nolint:gosec // the script that one asked to run
	if err != nil {
		return nil, err
	}
	m, err := sobek.ParseModule(path, string(source), b.resolve, parser.WithDisableSourceMaps)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	b.files[path], b.paths[m], b.sources[path] = m, path, string(source)
	return m, nil
}

// resolve finds what a module imports: a file beside it, or one of ours.
func (b *bundle) resolve(from any, specifier string) (sobek.ModuleRecord, error) {
	record, _ := from.(sobek.ModuleRecord)
	importer := b.paths[record]
	at := func() string { return fmt.Sprintf("%s:%d", importer, lineOf(b.sources[importer], specifier)) }
	switch {
	case strings.HasPrefix(specifier, "./"), strings.HasPrefix(specifier, "../"), filepath.IsAbs(specifier):
		path := specifier
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(importer), path)
		}
		m, err := b.load(path)
		if err != nil {
			return nil, fmt.Errorf("%s: import of %s: %w", at(), specifier, err)
		}
		return m, nil
	case b.native[specifier] != nil:
		return b.native[specifier], nil
	}
	names := make([]string, 0, len(b.native))
	for name := range b.native {
		names = append(names, name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%s: there is no module %q here; this runner has %s, and files by a path that begins with ./ or ../", at(), specifier, strings.Join(names, ", "))
}

// lineOf is the first line that has a text in quotes, or 1.
func lineOf(source, text string) int {
	for i, line := range strings.Split(source, "\n") {
		if strings.Contains(line, "'"+text+"'") || strings.Contains(line, `"`+text+`"`) {
			return i + 1
		}
	}
	return 1
}

// nativeModule is a module that is written in Go. Its record is shared by all VUs, its instance is a VU's own.
type nativeModule struct {
	name    string
	exports []string
	build   func(*vu) map[string]any
	bundle  *bundle
}

func nativeModules() []*nativeModule {
	return []*nativeModule{
		{name: "k6", exports: []string{"check", "fail", "group", "randomSeed", "sleep"}, build: (*vu).moduleK6},
		{name: "k6/http", exports: httpExports, build: (*vu).moduleHTTP},
		{name: "k6/metrics", exports: []string{"Counter", "Gauge", "Rate", "Trend"}, build: (*vu).moduleMetrics},
		{name: "k6/execution", exports: []string{"instance", "scenario", "test", "vu"}, build: (*vu).moduleExecution},
		{name: "k6/net/grpc", exports: append(sortedKeys(statuses), "Client"), build: (*vu).moduleGRPC},
		{name: "k6/data", exports: []string{"SharedArray"}, build: (*vu).moduleData},
	}
}

// Link has nothing to do.
func (m *nativeModule) Link() error { return nil }

// GetExportedNames gives all names but the default's.
func (m *nativeModule) GetExportedNames(callback func([]string), _ ...sobek.ModuleRecord) bool {
	callback(append(slices.Clone(m.exports), "default"))
	return true
}

// ResolveExport finds an exported name.
func (m *nativeModule) ResolveExport(name string, _ ...sobek.ResolveSetElement) (*sobek.ResolvedBinding, bool) {
	if name != "default" && !slices.Contains(m.exports, name) {
		return nil, false
	}
	return &sobek.ResolvedBinding{Module: m, BindingName: name}, false
}

// Evaluate makes the instance of the VU that reads the script.
func (m *nativeModule) Evaluate(rt *sobek.Runtime) *sobek.Promise {
	p, resolve, _ := rt.NewPromise()
	v := m.bundle.reading
	values := map[string]sobek.Value{}
	for name, value := range m.build(v) {
		values[name] = rt.ToValue(value)
	}
	values["default"] = v.strict(m.name, values)
	_ = resolve(nativeInstance(values))
	return p
}

type nativeInstance map[string]sobek.Value

// GetBindingValue is the value of an exported name.
func (i nativeInstance) GetBindingValue(name string) sobek.Value { return i[name] }

// strict is an object that has these members, and throws where another is asked for.
func (v *vu) strict(name string, members map[string]sobek.Value) *sobek.Object {
	return v.rt.NewDynamicObject(&strictObject{v: v, name: name, members: members})
}

// askedByTheLanguage are members that every object is asked for, and has from its prototype or not at all.
var askedByTheLanguage = []string{"constructor", "default", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "then", "toJSON", "toLocaleString", "toString", "valueOf"}

type strictObject struct {
	v       *vu
	name    string
	members map[string]sobek.Value
	get     func(key string) sobek.Value // of members that change, or nil
}

// Get is a member; an unknown one ends the run.
func (o *strictObject) Get(key string) sobek.Value {
	if value, ok := o.members[key]; ok {
		if value == nil {
			return o.get(key)
		}
		return value
	}
	if slices.Contains(askedByTheLanguage, key) {
		return nil
	}
	o.v.unsupported(fmt.Sprintf("%s has no member %q in this runner; it has %s", o.name, key, strings.Join(o.Keys(), ", ")))
	return nil
}

// Set refuses.
func (o *strictObject) Set(string, sobek.Value) bool { return false }

// Has tells whether there is such a member.
func (o *strictObject) Has(key string) bool { _, ok := o.members[key]; return ok }

// Delete refuses.
func (o *strictObject) Delete(string) bool { return false }

// Keys are all members, in order.
func (o *strictObject) Keys() []string {
	keys := make([]string, 0, len(o.members))
	for key := range o.members {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
