package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

// Origin says who owns an entry.
type Origin string

// The origins.
const (
	FromFile Origin = "file" // read-only here: change the file
	FromAPI  Origin = "api"
)

// Source is where an entry comes from.
type Source struct {
	Origin Origin
	Path   string // of the file, relative to the folder; "" for the API
}

// Entry is an entry and its source.
type Entry[T Listed] struct {
	Value T
	Source
}

// View is the entries of a catalogue, each list sorted by name or id. It is shared
// and must not be changed.
type View struct {
	Revision uint64
	Plans    []*Entry[quota.Plan]
	Tenants  []*Entry[quota.Tenant]
	APIKeys  []*Entry[quota.APIKey]
	Rules    []*Entry[authz.Rule]
	Issuers  []*Entry[trust.Issuer]
}

// ETag is a hex digest of what an entry says: equal entries have equal ones.
func ETag[T Listed](entry T) string {
	content, err := json.Marshal(entry)
	if err != nil {
		panic(err) // plain structs of strings, numbers and checked times
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:12])
}

// merge is the entries of files and the API together.
func (s *fileSet) merge(revision uint64, own *View) View {
	v := View{Revision: revision}
	for _, l := range lists {
		l.merge(&s.view, own, &v)
	}
	return v
}

func (l *listOf[T]) sorted(s *fileSet, at int) {
	all := *l.in(&s.all)
	out := make([]*Entry[T], len(all))
	for i := range all {
		f, _ := s.owner(at, i)
		out[i] = &Entry[T]{all[i], Source{Origin: FromFile, Path: f.path}}
	}
	slices.SortFunc(out, func(a, b *Entry[T]) int { return cmp.Compare(l.key(&a.Value), l.key(&b.Value)) })
	*l.out(&s.view) = out
}

func (l *listOf[T]) merge(files, own, v *View) {
	a, b := *l.out(files), *l.out(own)
	if len(a) == 0 {
		*l.out(v) = b
		return
	}
	out := make([]*Entry[T], 0, len(a)+len(b))
	for _, e := range a {
		i, _ := l.where(b, l.key(&e.Value))
		out, b = append(append(out, b[:i]...), e), b[i:]
	}
	*l.out(v) = append(out, b...)
}

func (l *listOf[T]) flatten(c *quota.Catalogue, entries *View) {
	to := l.in(c)
	*to = slices.Grow(*to, len(*l.out(entries)))
	for _, e := range *l.out(entries) {
		*to = append(*to, e.Value)
	}
}

func (l *listOf[T]) place(entries *View, name string) int {
	i, _ := l.where(*l.out(entries), name)
	return i
}
