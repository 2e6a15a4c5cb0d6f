package catalog

import (
	"cmp"
	"encoding/json"
	"iter"
	"maps"
	"reflect"
	"slices"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/tenant"
)

// Edit is a change of the entries that the API owns, in the making. What it puts and
// deletes holds together or not at all.
type Edit struct {
	Revision uint64 // of the catalogue, if the change holds

	Plans   Entries[quota.Plan]
	Tenants Entries[quota.Tenant]
	APIKeys Entries[quota.APIKey]
	Rules   Entries[authz.Rule]
	Issuers Entries[trust.Issuer]
}

// Entries is one list of an Edit: what it was, with what is changed.
type Entries[T Listed] struct {
	list    *listOf[T]
	files   []*Entry[T]
	own     []*Entry[T]
	changed map[string]*Entry[T] // nil: deleted
}

// Find is the entry of that name or id, of a file or the API. It shares nothing with the catalogue.
func (e *Entries[T]) Find(name string) (Entry[T], bool) {
	found, changed := e.changed[name]
	if !changed {
		found = e.list.search(e.own, name)
	}
	if found == nil {
		found = e.list.search(e.files, name)
	}
	if found == nil {
		return Entry[T]{}, false
	}
	entry := *found
	e.list.isolate(&entry.Value)
	return entry, true
}

// Put adds an entry of the API, or replaces the one of its name.
func (e *Entries[T]) Put(value T) {
	e.list.isolate(&value)
	e.set(e.list.key(&value), &Entry[T]{value, Source{Origin: FromAPI}})
}

// Delete removes the API's entry of that name, if there is one.
func (e *Entries[T]) Delete(name string) { e.set(name, nil) }

func (e *Entries[T]) set(name string, entry *Entry[T]) {
	if e.changed == nil {
		e.changed = make(map[string]*Entry[T])
	}
	e.changed[name] = entry
}

// All is every entry, of files and the API, in no order. They must not be changed.
func (e *Entries[T]) All() iter.Seq[*Entry[T]] {
	return func(yield func(*Entry[T]) bool) {
		for _, entry := range e.files {
			if !yield(entry) {
				return
			}
		}
		for _, entry := range e.own {
			if _, changed := e.changed[e.list.key(&entry.Value)]; !changed && !yield(entry) {
				return
			}
		}
		for _, entry := range e.changed {
			if entry != nil && !yield(entry) {
				return
			}
		}
	}
}

// newEdit starts from the entries of files and those of the API.
func newEdit(files, own *View) *Edit {
	e := &Edit{}
	for _, l := range lists {
		l.begin(e, files, own)
	}
	return e
}

// delta is what a change comes to.
type delta struct {
	own  *View // the API's entries after it
	put  quota.Catalogue
	gone [listCount][]string
}

// delta finishes an edit. Entries that were put as they were are no change.
func (e *Edit) delta() delta {
	d := delta{own: &View{}}
	for at, l := range lists {
		l.finish(e, at, &d)
	}
	return d
}

// touches reports whether anything of that list changed.
func (d *delta) touches(name string) bool {
	at := listAt(name)
	return lists[at].count(&d.put)+len(d.gone[at]) > 0
}

// change is one entry that is new, different or gone, as keepers keep it.
type change struct {
	list    list
	name    string
	content []byte // JSON; nil: gone
}

// changes are all of them.
func (d *delta) changes() ([]change, error) {
	var all []change
	for at, l := range lists {
		for i := range l.count(&d.put) {
			content, err := l.content(&d.put, i)
			if err != nil {
				return nil, err
			}
			all = append(all, change{l, l.id(&d.put, i), content})
		}
		for _, name := range d.gone[at] {
			all = append(all, change{l, name, nil})
		}
	}
	return all, nil
}

// compiled is the change for the snapshot before; rules and issuers are all that there are after it.
func (d *delta) compiled(rules []authz.Rule, issuers []trust.Issuer) quota.Change {
	c := quota.Change{
		Plans: d.put.Plans, Tenants: d.put.Tenants, APIKeys: d.put.APIKeys, Rules: rules, Issuers: issuers,
		GonePlans: d.gone[listAt("plans")], GoneAPIKeys: d.gone[listAt("api_keys")],
	}
	for _, id := range d.gone[listAt("tenants")] {
		c.GoneTenants = append(c.GoneTenants, tenant.ID(id))
	}
	return c
}

func (l *listOf[T]) begin(e *Edit, files, own *View) {
	*l.edit(e) = Entries[T]{list: l, files: *l.out(files), own: *l.out(own)}
}

func (l *listOf[T]) finish(e *Edit, at int, d *delta) {
	entries := l.edit(e)
	names := slices.Sorted(maps.Keys(entries.changed))
	if len(names) == 0 {
		*l.out(d.own) = entries.own
		return
	}
	after := make([]*Entry[T], 0, len(entries.own)+len(names))
	rest := entries.own
	for _, name := range names {
		i, existed := l.where(rest, name)
		after = append(after, rest[:i]...)
		now := entries.changed[name]
		if rest = rest[i:]; existed {
			if now != nil && reflect.DeepEqual(now.Value, rest[0].Value) {
				now = rest[0]
			} else if now == nil {
				d.gone[at] = append(d.gone[at], name)
			}
			if now == rest[0] {
				after, rest = append(after, now), rest[1:]
				continue
			}
			rest = rest[1:]
		}
		if now != nil {
			after = append(after, now)
			*l.in(&d.put) = append(*l.in(&d.put), now.Value)
		}
	}
	*l.out(d.own) = append(after, rest...)
}

// apply changes an entry as a keeper kept it.
func (l *listOf[T]) apply(e *Edit, name string, content []byte) error {
	if content == nil {
		l.edit(e).Delete(name)
		return nil
	}
	var value T
	if err := json.Unmarshal(content, &value); err != nil {
		return err
	}
	l.edit(e).set(name, &Entry[T]{value, Source{Origin: FromAPI}})
	return nil
}

func (l *listOf[T]) putAll(e *Edit, entries *View) {
	for _, entry := range *l.out(entries) {
		l.edit(e).set(l.key(&entry.Value), entry)
	}
}

func (l *listOf[T]) content(c *quota.Catalogue, i int) ([]byte, error) {
	return json.Marshal((*l.in(c))[i])
}

// where is the place of a name in a sorted list, and whether it is there.
func (l *listOf[T]) where(entries []*Entry[T], name string) (int, bool) {
	return slices.BinarySearchFunc(entries, name, func(e *Entry[T], name string) int { return cmp.Compare(l.key(&e.Value), name) })
}

// search is the entry of that name in a sorted list; nil if there is none.
func (l *listOf[T]) search(entries []*Entry[T], name string) *Entry[T] {
	if i, ok := l.where(entries, name); ok {
		return entries[i]
	}
	return nil
}
