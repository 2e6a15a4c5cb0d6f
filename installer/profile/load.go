package profile

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

//go:embed profiles/*.yaml
var profiles embed.FS

// base is the profile under every other one.
const base = "default"

// Options say what values are made of. What comes later wins.
type Options struct {
	// Profile is the name of an embedded profile; empty is "default".
	Profile string
	// Files are YAML files of values, in order.
	Files []string
	// Sets are assignments as Helm's --set takes them, such as mesh.stage=soft or mesh.services[0].timeout=5s.
	Sets []string
}

// Names lists the embedded profiles, in alphabetical order.
func Names() (names []string) {
	files, err := fs.Glob(profiles, "profiles/*.yaml")
	if err != nil {
		panic(err) // only a bad pattern can fail
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(path.Base(f), ".yaml"))
	}
	return names
}

// Load makes values of a profile, files over it and assignments over those.
//
// Maps are merged field by field. A list whose elements have names, such as the
// services, is merged by name, a new name at its end; any other list is
// replaced. null takes away what lies below. What a service leaves out comes
// from mesh.serviceDefaults.
//
// A field that does not exist, a value of the wrong kind and whatever Validate
// finds are Problems, all of them in one error; nothing is ignored.
func Load(o Options) (*Values, error) {
	if o.Profile == "" {
		o.Profile = base
	}
	if !slices.Contains(Names(), o.Profile) {
		return nil, fmt.Errorf("there is no profile %q; one of %s", o.Profile, strings.Join(Names(), ", "))
	}
	tree := map[string]any{}
	layers := []string{base}
	if o.Profile != base {
		layers = append(layers, o.Profile)
	}
	var problems Problems
	for _, name := range layers {
		text, err := profiles.ReadFile("profiles/" + name + ".yaml")
		if err != nil {
			return nil, err
		}
		problems = append(problems, overlay(tree, "profile "+name, text)...)
	}
	for _, file := range o.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		problems = append(problems, overlay(tree, file, text)...)
	}
	for _, assignment := range o.Sets {
		source := "--set " + assignment
		if err := strvals.ParseInto(assignment, tree); err != nil {
			problems = append(problems, Problem{source, "", "is not an assignment: " + err.Error(), "a.b=value, a.list[0].b=value or a.list={x,y}"})
			continue
		}
		problems = append(problems, check(tree, source)...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	tree["profile"] = o.Profile
	v, err := decode(tree)
	if err != nil {
		return nil, err
	}
	if problems := v.Validate(); len(problems) > 0 {
		return nil, problems
	}
	return v, nil
}

// overlay puts one text of values over the tree, or says why it can't.
func overlay(tree map[string]any, source string, text []byte) Problems {
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Problems{{source, "", err.Error(), "YAML, each field once"}}
	}
	var layer any
	if err := json.UnmarshalCaseSensitivePreserveInts(asJSON, &layer); err != nil {
		return Problems{{source, "", err.Error(), "YAML"}}
	}
	fields, ok := layer.(map[string]any)
	if !ok && layer != nil {
		return Problems{{source, "", "is not a mapping", "fields such as mesh: and istio:"}}
	}
	if problems := check(fields, source); len(problems) > 0 {
		return problems
	}
	merge(tree, fields)
	return nil
}

// decode makes values of a tree that was checked.
func decode(tree map[string]any) (*Values, error) {
	if m, ok := tree["mesh"].(map[string]any); ok {
		defaults, _ := m["serviceDefaults"].(map[string]any)
		services, _ := m["services"].([]any)
		for i, s := range services {
			whole := clone(defaults).(map[string]any)
			if service, ok := s.(map[string]any); ok {
				merge(whole, service)
			}
			services[i] = whole
		}
		delete(m, "serviceDefaults")
	}
	text, err := yaml.Marshal(tree)
	if err != nil {
		return nil, err
	}
	v := new(Values)
	if err := yaml.UnmarshalStrict(text, v); err != nil {
		return nil, errors.Join(errors.New("values that were checked do not decode"), err)
	}
	return v, nil
}

// merge puts over on base, which it changes.
func merge(base, over map[string]any) {
	for k, v := range over {
		base[k] = merged(base[k], v)
	}
}

func merged(base, over any) any {
	switch over := over.(type) {
	case map[string]any:
		if base, ok := base.(map[string]any); ok {
			merge(base, over)
			return base
		}
	case []any:
		if base, ok := base.([]any); ok && named(base) && named(over) {
			for _, o := range over {
				name := o.(map[string]any)["name"]
				i := slices.IndexFunc(base, func(b any) bool { return b.(map[string]any)["name"] == name })
				if i < 0 {
					base = append(base, clone(o))
				} else {
					merge(base[i].(map[string]any), o.(map[string]any))
				}
			}
			return base
		}
	}
	return clone(over)
}

// named reports whether a list's elements are to be told apart by their names.
func named(list []any) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(v any) bool {
		m, ok := v.(map[string]any)
		name, _ := m["name"].(string)
		return !ok || name == ""
	})
}

// clone copies a tree, so that no two places of the values share a map.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for k, e := range v {
			c[k] = clone(e)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, e := range v {
			c[i] = clone(e)
		}
		return c
	}
	return v
}
