package catalog

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

// Listed is an entry of one of the catalogue's lists.
type Listed interface {
	quota.Plan | quota.Tenant | quota.APIKey | authz.Rule | trust.Issuer
}

// list is one list of a catalogue: where it is, and what its entries are like.
// Everything else here works on the table of them.
type list interface {
	name() string // as YAML, the bbolt file and quota.Place spell it
	what() string // one entry, for people
	count(*quota.Catalogue) int
	id(c *quota.Catalogue, i int) string
	limits(c *quota.Catalogue, i int) []quota.Limit
	decode(*decoder, *yaml.Node, *quota.Catalogue)
	add(to, more *quota.Catalogue) // appends more's entries
	content(c *quota.Catalogue, i int) ([]byte, error)

	begin(e *Edit, files, own *View)
	apply(e *Edit, name string, content []byte) error
	putAll(e *Edit, entries *View)
	finish(e *Edit, at int, d *delta)

	sorted(s *fileSet, at int)                 // makes the list's part of s.view
	merge(files, own, v *View)                 // makes the list's part of v
	flatten(c *quota.Catalogue, entries *View) // appends entries
	place(entries *View, name string) int      // of the entry of that name
}

const listCount = 5

// lists is all of them.
var lists = [listCount]list{
	&listOf[quota.Plan]{
		as: "plans", one: "plan",
		in:      func(c *quota.Catalogue) *[]quota.Plan { return &c.Plans },
		out:     func(v *View) *[]*Entry[quota.Plan] { return &v.Plans },
		edit:    func(e *Edit) *Entries[quota.Plan] { return &e.Plans },
		key:     func(p *quota.Plan) string { return p.Name },
		hold:    func(p *quota.Plan) []quota.Limit { return p.Limits },
		read:    (*decoder).plan,
		isolate: func(p *quota.Plan) { p.Limits = cloneLimits(p.Limits) },
	},
	&listOf[quota.Tenant]{
		as: "tenants", one: "tenant",
		in:   func(c *quota.Catalogue) *[]quota.Tenant { return &c.Tenants },
		out:  func(v *View) *[]*Entry[quota.Tenant] { return &v.Tenants },
		edit: func(e *Edit) *Entries[quota.Tenant] { return &e.Tenants },
		key:  func(t *quota.Tenant) string { return string(t.ID) },
		hold: func(t *quota.Tenant) []quota.Limit { return t.Limits },
		read: (*decoder).tenant,
		isolate: func(t *quota.Tenant) {
			t.Limits = cloneLimits(t.Limits)
			cloneAll(&t.Principals)
		},
	},
	&listOf[quota.APIKey]{
		as: "api_keys", one: "API key",
		in:   func(c *quota.Catalogue) *[]quota.APIKey { return &c.APIKeys },
		out:  func(v *View) *[]*Entry[quota.APIKey] { return &v.APIKeys },
		edit: func(e *Edit) *Entries[quota.APIKey] { return &e.APIKeys },
		key:  func(k *quota.APIKey) string { return k.ID },
		read: (*decoder).key,
		isolate: func(k *quota.APIKey) {
			k.Expires = k.Expires.Round(0).UTC() // equal times have equal etags, wherever they come from
			cloneAll(&k.Scopes)
		},
	},
	&listOf[authz.Rule]{
		as: "rules", one: "rule",
		in:   func(c *quota.Catalogue) *[]authz.Rule { return &c.Rules },
		out:  func(v *View) *[]*Entry[authz.Rule] { return &v.Rules },
		edit: func(e *Edit) *Entries[authz.Rule] { return &e.Rules },
		key:  func(r *authz.Rule) string { return r.Name },
		read: (*decoder).rule,
		isolate: func(r *authz.Rule) {
			cloneAll(&r.Who.Tenants, &r.Who.Plans, &r.Who.Roles, &r.Who.Principals,
				&r.What.Services, &r.What.Hosts, &r.What.Methods, &r.What.Paths, &r.What.GRPC)
		},
	},
	&listOf[trust.Issuer]{
		as: "issuers", one: "issuer",
		in:      func(c *quota.Catalogue) *[]trust.Issuer { return &c.Issuers },
		out:     func(v *View) *[]*Entry[trust.Issuer] { return &v.Issuers },
		edit:    func(e *Edit) *Entries[trust.Issuer] { return &e.Issuers },
		key:     func(i *trust.Issuer) string { return i.Name },
		read:    (*decoder).issuer,
		isolate: func(i *trust.Issuer) { cloneAll(&i.Audiences, &i.Algorithms, &i.Types) },
	},
}

// listNames are the fields of a file's root.
func listNames() []string {
	names := make([]string, len(lists))
	for i, l := range lists {
		names[i] = l.name()
	}
	return names
}

// listAt is a list's place in the table; -1 for a name that is none.
func listAt(name string) int {
	return slices.IndexFunc(lists[:], func(l list) bool { return l.name() == name })
}

// listOf is the list of one type.
type listOf[T Listed] struct {
	as, one string
	in      func(*quota.Catalogue) *[]T
	out     func(*View) *[]*Entry[T]
	edit    func(*Edit) *Entries[T]
	key     func(*T) string
	hold    func(*T) []quota.Limit // nil: entries have no limits
	read    func(*decoder, *yaml.Node, quota.Place) T
	isolate func(*T) // makes a shallow copy of an entry share nothing that can be changed
}

func (l *listOf[T]) name() string                        { return l.as }
func (l *listOf[T]) what() string                        { return l.one }
func (l *listOf[T]) count(c *quota.Catalogue) int        { return len(*l.in(c)) }
func (l *listOf[T]) id(c *quota.Catalogue, i int) string { return l.key(&(*l.in(c))[i]) }

func (l *listOf[T]) limits(c *quota.Catalogue, i int) []quota.Limit {
	if l.hold == nil {
		return nil
	}
	return l.hold(&(*l.in(c))[i])
}

func (l *listOf[T]) decode(d *decoder, n *yaml.Node, c *quota.Catalogue) {
	*l.in(c) = items(d, n, quota.Place{List: l.as, Limit: -1, Item: -1}, l.read)
}

func (l *listOf[T]) add(to, more *quota.Catalogue) {
	*l.in(to) = append(*l.in(to), *l.in(more)...)
}

func cloneLimits(limits []quota.Limit) []quota.Limit {
	limits = slices.Clone(limits)
	for i, l := range limits {
		if l.Durable != nil {
			durable := *l.Durable
			limits[i].Durable = &durable
		}
	}
	return limits
}

func cloneAll(lists ...*[]string) {
	for _, l := range lists {
		*l = slices.Clone(*l)
	}
}
