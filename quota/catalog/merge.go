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
	files  *fileSet
	all    quota.Catalogue
	change *delta // nil: all has every list; else it has rules and issuers, and the others are called by names
}

func merge(files *fileSet, own *View) *merged {
	m := &merged{files: files}
	for _, l := range lists {
		l.add(&m.all, &files.all)
		l.flatten(&m.all, own)
	}
	return m
}

// name is how a problem calls a place: by file and line, or by names where the
// API owns the entry. A list as a whole may be of several files and the API.
func (m *merged) name(p quota.Place) string {
	if p.Index < 0 {
		return p.String()
	}
	at := listAt(p.List)
	l := lists[at]
	if m.change != nil && l.count(&m.all) == 0 {
		return m.changed(at, p)
	}
	if f, local := m.files.owner(at, p.Index); f != nil {
		p.Index = local
		return f.at(f.line(p)) + ": " + p.String()
	}
	return placed(p, l.id(&m.all, p.Index), p.Index-l.count(&m.files.all), l.limits(&m.all, p.Index))
}

// changed is name where all that is known of an entry is what it is called.
func (m *merged) changed(at int, p quota.Place) string {
	l := lists[at]
	if i, ok := m.files.at[at][p.Entry]; ok {
		f, local := m.files.owner(at, i)
		p.Index = local
		return f.at(f.line(p)) + ": " + p.String()
	}
	var limits []quota.Limit
	if p.Limit >= 0 {
		limits = l.limits(&m.change.put, p.Index)
	}
	return placed(p, p.Entry, l.place(m.change.own, p.Entry), limits)
}

// placed calls a place by the names of its entry and its limit, as far as they have one, and are no other's.
func placed(p quota.Place, entry string, index int, limits []quota.Limit) string {
	if _, err := tenant.ParseID(entry); err != nil {
		entry = strconv.Itoa(index)
	}
	limit := strconv.Itoa(p.Limit)
	if p.Limit >= 0 && p.Limit < len(limits) && unique(limits, p.Limit) {
		limit = limits[p.Limit].Name
	}
	return p.Within(entry, limit)
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

// owner is the file that holds entry i of a merged list, and the entry's place
// in it; nil if the API owns it.
func (s *fileSet) owner(list, i int) (*file, int) {
	if i >= lists[list].count(&s.all) {
		return nil, 0
	}
	n := sort.Search(len(s.files), func(n int) bool { return s.files[n].first[list] > i }) - 1
	return s.files[n], i - s.files[n].first[list]
}

// ownsNone is an error if a file owns an entry that the API would put.
func (s *fileSet) ownsNone(put *quota.Catalogue) error {
	for at, l := range lists {
		for i := range l.count(put) {
			name := l.id(put, i)
			j, ok := s.at[at][name]
			if !ok {
				continue
			}
			f, local := s.owner(at, j)
			line := f.line(quota.Place{List: l.name(), Index: local, Limit: -1, Item: -1})
			return fmt.Errorf("%w: %s %q is declared in %s; change it there", ErrReadOnly, l.what(), name, f.at(line))
		}
	}
	return nil
}
