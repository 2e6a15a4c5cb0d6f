package catalog

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

// merged is the files' entries, in the order of the files, and then the API's.
type merged struct {
	revision uint64
	files    *fileSet
	own      quota.Catalogue
	all      quota.Catalogue
}

func merge(files *fileSet, own quota.Catalogue) *merged {
	return &merged{files: files, own: own, all: quota.Catalogue{
		Plans:   join(files.all.Plans, own.Plans),
		Tenants: join(files.all.Tenants, own.Tenants),
		APIKeys: join(files.all.APIKeys, own.APIKeys),
	}}
}

func join[T any](a, b []T) []T {
	return append(append(make([]T, 0, len(a)+len(b)), a...), b...)
}

func (m *merged) source(list string, i int, etag string) Source {
	if f, _ := m.files.owner(list, i); f != nil {
		return Source{Origin: FromFile, Path: f.path, ETag: etag}
	}
	return Source{Origin: FromAPI, ETag: etag}
}

// name is how a problem calls a place: by file and line, or by names where the
// API owns the entry.
func (m *merged) name(p quota.Place) string {
	if f, local := m.files.owner(p.List, p.Index); f != nil {
		p.Index = local
		return f.at(f.line(p)) + ": " + p.String()
	}
	p.Index -= m.files.count(p.List)
	entry, limits := m.entry(p)
	if _, err := tenant.ParseID(entry); err != nil {
		entry = strconv.Itoa(p.Index)
	}
	limit := strconv.Itoa(p.Limit)
	if p.Limit >= 0 && p.Limit < len(limits) && unique(limits, p.Limit) {
		limit = limits[p.Limit].Name
	}
	return p.Within(entry, limit)
}

// entry is the name of an entry of the API, and its limits.
func (m *merged) entry(p quota.Place) (string, []quota.Limit) {
	switch p.List {
	case "plans":
		return m.own.Plans[p.Index].Name, m.own.Plans[p.Index].Limits
	case "tenants":
		return string(m.own.Tenants[p.Index].ID), m.own.Tenants[p.Index].Limits
	default:
		return m.own.APIKeys[p.Index].ID, nil
	}
}

// unique reports whether the name of a limit stands for it alone.
func unique(limits []quota.Limit, at int) bool {
	for i, l := range limits {
		if i != at && l.Name == limits[at].Name {
			return false
		}
	}
	_, err := tenant.ParseID(limits[at].Name)
	return err == nil
}

// count is how many entries of a list the files have.
func (s *fileSet) count(list string) int {
	switch list {
	case "plans":
		return len(s.all.Plans)
	case "tenants":
		return len(s.all.Tenants)
	default:
		return len(s.all.APIKeys)
	}
}

// owner is the file that holds entry i of a merged list, and the entry's place
// in it; nil if the API owns it.
func (s *fileSet) owner(list string, i int) (*file, int) {
	if i >= s.count(list) {
		return nil, 0
	}
	n := sort.Search(len(s.files), func(n int) bool { return s.files[n].first(list) > i }) - 1
	return s.files[n], i - s.files[n].first(list)
}

// first is the place of the file's first entry in a merged list.
func (f *file) first(list string) int {
	switch list {
	case "plans":
		return f.plans
	case "tenants":
		return f.tenants
	default:
		return f.keys
	}
}

// ownsNone is an error if a file owns an entry that own has too.
func (s *fileSet) ownsNone(own quota.Catalogue) error {
	refuse := func(list, what, name string, i int) error {
		f, local := s.owner(list, i)
		line := f.line(quota.Place{List: list, Index: local, Limit: -1, Item: -1})
		return fmt.Errorf("%w: %s %q is declared in %s; change it there", ErrReadOnly, what, name, f.at(line))
	}
	for _, p := range own.Plans {
		if i, ok := s.planAt[p.Name]; ok {
			return refuse("plans", "plan", p.Name, i)
		}
	}
	for _, t := range own.Tenants {
		if i, ok := s.tenantAt[t.ID]; ok {
			return refuse("tenants", "tenant", string(t.ID), i)
		}
	}
	for _, k := range own.APIKeys {
		if i, ok := s.keyAt[k.ID]; ok {
			return refuse("api_keys", "API key", k.ID, i)
		}
	}
	return nil
}
