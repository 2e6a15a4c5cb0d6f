package profile

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/voicecore-ai/sluice/nearest"
)

// Problem is one thing that is wrong with values.
type Problem struct {
	// Source is the file, the profile or the assignment; empty for what only the whole shows.
	Source string
	// Path leads to the field, such as mesh.services[2].retries.perTry.
	Path string
	What string
	// Want is what would be right.
	Want string
}

func (p Problem) String() string {
	var b strings.Builder
	for _, part := range []string{p.Source, p.Path} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	return b.String() + p.What + "; " + p.Want
}

// Problems are all that is wrong with values, in the order of the fields.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// check finds fields of a tree that Values does not have, and values of the
// wrong kind. It turns what a shell or YAML makes a number of back into the text
// that the field wants, where that is safe.
func check(tree map[string]any, source string) Problems {
	c := checker{source: source}
	c.value(tree, reflect.TypeFor[Values](), "")
	return c.problems
}

type checker struct {
	source   string
	problems Problems
}

func (c *checker) wrong(path, what, want string) {
	c.problems = append(c.problems, Problem{c.source, path, what, want})
}

// value checks v, at path, against type t, and returns what to put in its place.
func (c *checker) value(v any, t reflect.Type, path string) any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if v == nil || t.Kind() == reflect.Interface {
		return v
	}
	if leaf, ok := leaves[t]; ok {
		text := fmt.Sprint(v)
		if isTree(v) || leaf.parse(text) != nil {
			c.wrong(path, quoted(v)+" is "+leaf.not, leaf.want)
		}
		return text
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			c.wrong(path, quoted(v)+" stands where fields are expected", "fields, each on a line of its own")
			return v
		}
		fields := fieldsOf(t)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			elem, known := fields[k]
			if t.Kind() == reflect.Map {
				elem, known = t.Elem(), true
			}
			if !known {
				c.wrong(join(path, k), "unknown field "+strconv.Quote(k), meant(k, fields))
				continue
			}
			m[k] = c.value(m[k], elem, join(path, k))
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			c.wrong(path, quoted(v)+" stands where a list is expected", "a list")
			return v
		}
		places := map[string]string{}
		for i := range list {
			place := path + "[" + strconv.Itoa(i) + "]"
			if m, ok := list[i].(map[string]any); ok && m["name"] != nil {
				name := quoted(m["name"]) // merging goes by names
				if first := places[name]; first != "" {
					c.wrong(place+".name", name+" is at "+first+" already", "each name once")
				}
				places[name] = place
			}
			list[i] = c.value(list[i], t.Elem(), place)
		}
	default:
		return c.scalar(v, t, path)
	}
	return v
}

func (c *checker) scalar(v any, t reflect.Type, path string) any {
	text := fmt.Sprint(v)
	switch t.Kind() {
	case reflect.String:
		if _, isFloat := v.(float64); isTree(v) || isFloat {
			c.wrong(path, quoted(v)+" is not a text", "a text; in quotes if it looks like a number")
		}
		return text
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			c.wrong(path, quoted(v)+" is neither true nor false", "true or false, without quotes")
		}
	case reflect.Int32, reflect.Uint32:
		_, ok := v.(int64)
		n, err := strconv.ParseInt(text, 10, 64)
		if !ok || err != nil || reflect.New(t).Elem().CanInt() && int64(int32(n)) != n || reflect.New(t).Elem().CanUint() && int64(uint32(n)) != n {
			c.wrong(path, quoted(v)+" is not a whole number that fits", "a whole number, without quotes")
		}
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if isTree(v) || err != nil {
			c.wrong(path, quoted(v)+" is not a number", "a number such as 0.1")
			return v
		}
		return f
	}
	return v
}

// leaves are types with a notation of their own.
var leaves = map[reflect.Type]struct {
	parse     func(string) error
	not, want string
}{
	reflect.TypeFor[metav1.Duration](): {
		func(s string) error { _, err := time.ParseDuration(s); return err },
		"not a length of time", "such as 250ms, 10s, 5m or 2160h",
	},
	reflect.TypeFor[resource.Quantity](): {
		func(s string) error { _, err := resource.ParseQuantity(s); return err },
		"not an amount", "such as 500m, 2, 128Mi or 4Gi",
	},
}

func isTree(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

func quoted(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// fieldsOf are a struct's fields by their names in YAML.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	if t.Kind() != reflect.Struct {
		return fields
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			maps.Copy(fields, fieldsOf(f.Type))
		} else {
			fields[name] = f.Type
		}
	}
	return fields
}

// meant says which field may have been meant.
func meant(field string, known map[string]reflect.Type) string {
	names := slices.Sorted(maps.Keys(known))
	if name := nearest.Name(field, names); name != "" {
		return "did you mean " + strconv.Quote(name) + "?"
	}
	return "the fields here are " + strings.Join(names, ", ")
}
