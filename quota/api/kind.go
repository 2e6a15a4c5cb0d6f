package api

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/tenant"
)

// resource is a message that stands for an entry of the catalogue.
type resource interface {
	proto.Message
	GetName() string
	GetEtag() string
}

// kind is one kind of resource under an id of the caller's choice: how entries T
// of the catalogue and messages R of the API become each other.
type kind[T catalog.Listed, R resource] struct {
	naming
	list   func(*catalog.Edit) *catalog.Entries[T]
	view   func(catalog.View) []*catalog.Entry[T]
	id     func(T) string
	limits func(T) []quota.Limit // nil: it has none
	in     func(id string, r R, v *violations) T
	out    func(T, quotav1.Origin) R
}

// edit is one call that may change the catalogue.
type edit struct {
	s   *server
	act *Act
	r   mutation
}

// at is the API's own entry, or why the caller can't change it.
func (k *kind[T, R]) at(c *catalog.Edit, id string) (value T, err error) {
	e, ok := k.list(c).Find(id)
	return e.Value, mutable(ok, e.Source, k.name(id))
}

func (k *kind[T, R]) entry(id string, r R) (T, error) {
	var v violations
	entry := k.in(id, r, &v)
	return entry, v.err()
}

func (k *kind[T, R]) limitsOf(entry T) []quota.Limit {
	if k.limits == nil {
		return nil
	}
	return k.limits(entry)
}

func create[T catalog.Listed, R resource](e edit, k *kind[T, R], id string, from R) (none R, err error) {
	if _, err := tenant.ParseID(id); err != nil {
		return none, invalid(k.field+"_id", "no id of "+k.noun+"; write 1 to 63 of a-z, 0-9 and '-', a letter or digit first and last")
	}
	e.act.Resource = k.name(id)
	entry, err := k.entry(id, from)
	if err != nil {
		return none, err
	}
	what := k.subject(id)
	what.limits = k.limitsOf(entry)
	return change(e, what, func(c *catalog.Edit) (R, error) {
		if _, ok := k.list(c).Find(id); ok {
			return none, exists(k.name(id))
		}
		k.list(c).Put(entry)
		return k.out(entry, quotav1.Origin_ORIGIN_API), nil
	})
}

func get[T catalog.Listed, R resource](s *server, k *kind[T, R], name string) (none R, err error) {
	id, err := k.parse("name", name)
	if err != nil {
		return none, err
	}
	e, ok := byID(k.view(s.catalog.View()), id, k.id)
	if !ok {
		return none, notFound(name)
	}
	return k.out(e.Value, origin(e.Origin)), nil
}

func pageOf[T catalog.Listed, R resource](s *server, k *kind[T, R], r page) (all []R, next string, err error) {
	items, next, err := cut(s.pages, k.collection, k.view(s.catalog.View()), func(e *catalog.Entry[T]) string { return k.id(e.Value) }, r)
	for _, e := range items {
		all = append(all, k.out(e.Value, origin(e.Origin)))
	}
	return all, next, err
}

func update[T catalog.Listed, R resource](e edit, k *kind[T, R], from R, mask *fieldmaskpb.FieldMask) (none R, err error) {
	id, err := k.parse(k.field+".name", from.GetName())
	if err != nil {
		return none, err
	}
	e.act.Resource = k.name(id)
	what := k.subject(id)
	return change(e, what, func(c *catalog.Edit) (R, error) {
		before, err := k.at(c, id)
		if err != nil {
			return none, err
		}
		now := k.out(before, quotav1.Origin_ORIGIN_API)
		if err := fresh(now.GetName(), from.GetEtag(), now.GetEtag()); err != nil {
			return none, err
		}
		if err := merge(now, from, mask); err != nil {
			return none, err
		}
		entry, err := k.entry(id, now)
		if err != nil {
			return none, err
		}
		k.list(c).Put(entry)
		what.limits = k.limitsOf(entry)
		return k.out(entry, quotav1.Origin_ORIGIN_API), nil
	})
}

// named is a request that names what it removes.
type named interface {
	mutation
	GetName() string
	GetEtag() string
}

// remove deletes what r names. before may refuse, or remove what hangs on it first.
func remove[T catalog.Listed, R resource](e edit, k *kind[T, R], r named, before func(c *catalog.Edit, id string) error) (*emptypb.Empty, error) {
	id, err := k.parse("name", r.GetName())
	if err != nil {
		return nil, err
	}
	e.act.Resource = k.name(id)
	return change(e, &subject{path: k.subject(id).path}, func(c *catalog.Edit) (*emptypb.Empty, error) {
		now, err := k.at(c, id)
		if err != nil {
			return nil, err
		}
		if err := fresh(r.GetName(), r.GetEtag(), catalog.ETag(now)); err != nil {
			return nil, err
		}
		if before != nil {
			if err := before(c, id); err != nil {
				return nil, err
			}
		}
		k.list(c).Delete(id)
		return &emptypb.Empty{}, nil
	})
}
