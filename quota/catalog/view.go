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

// Source is where an entry comes from, and a fingerprint of what it says.
type Source struct {
	Origin Origin
	Path   string // of the file, relative to the folder; "" for the API
	ETag   string // hex digest of the content: equal entries have equal ones
}

// Entry is an entry and its source.
type Entry[T Listed] struct {
	Value T
	Source
}

// View is the merged catalogue, each list sorted by name or id. It is shared
// and must not be changed.
type View struct {
	Revision uint64
	Plans    []Entry[quota.Plan]
	Tenants  []Entry[quota.Tenant]
	APIKeys  []Entry[quota.APIKey]
	Rules    []Entry[authz.Rule]
	Issuers  []Entry[trust.Issuer]
}

// ETag is the digest of an entry that View gives.
func ETag[T Listed](entry T) string {
	content, err := json.Marshal(entry)
	if err != nil {
		panic(err) // plain structs of strings, numbers and checked times
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:12])
}

func (m *merged) view() View {
	v := View{Revision: m.revision}
	for at, l := range lists {
		l.view(m, at, &v)
	}
	return v
}

// view makes the list's part of a view; at is the list's place in the table.
func (l *listOf[T]) view(m *merged, at int, v *View) {
	all := *l.in(&m.all)
	out := make([]Entry[T], len(all))
	for i, e := range all {
		out[i] = Entry[T]{e, Source{Origin: FromAPI, ETag: ETag(e)}}
		if f, _ := m.files.owner(at, i); f != nil {
			out[i].Origin, out[i].Path = FromFile, f.path
		}
	}
	slices.SortFunc(out, func(a, b Entry[T]) int { return cmp.Compare(l.key(&a.Value), l.key(&b.Value)) })
	*l.out(v) = out
}
