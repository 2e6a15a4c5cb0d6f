package authz

import (
	"slices"

	"github.com/voicecore-ai/sluice/tenant"
)

// index finds the rules that can match a request by its tenant and by the head
// of its path, so that other tenants' rules and other resources' cost nothing.
type index struct {
	tenants map[tenant.ID]*bucket
	any     bucket // rules for every tenant
}

// bucket holds rules by head. A rule is in one bucket, or in one for each of its
// tenants, and under no two heads of one path, so a request meets it once.
type bucket struct {
	all   []int32 // whatever the path
	heads map[string][]int32
}

func (x *index) empty() bool {
	return len(x.tenants) == 0 && len(x.any.all) == 0 && len(x.any.heads) == 0
}

// maxEntries is how many entries one rule may have before it is filed without
// its heads: tenants times heads would otherwise be 65,536.
const maxEntries = 512

func (x *index) add(i int32, rule *compiled) {
	heads := rule.what.heads()
	if rule.who.tenants == nil {
		x.any.add(i, heads)
		return
	}
	if len(heads)*len(rule.who.tenants) > maxEntries {
		heads = []string{""}
	}
	if x.tenants == nil {
		x.tenants = map[tenant.ID]*bucket{}
	}
	for _, id := range rule.who.tenants {
		b := x.tenants[tenant.ID(id)]
		if b == nil {
			b = &bucket{}
			x.tenants[tenant.ID(id)] = b
		}
		b.add(i, heads)
	}
}

func (b *bucket) add(i int32, heads []string) {
	for _, head := range heads {
		if head == "" {
			b.all = appendOnce(b.all, i)
			continue
		}
		if b.heads == nil {
			b.heads = map[string][]int32{}
		}
		b.heads[head] = appendOnce(b.heads[head], i)
	}
}

// fewRules is how many of a bucket are asked one after the other rather than found by head: with a
// thousand tenants a look into a map of each is a memory access more than the rule costs.
const fewRules = 4

// settle is called when every rule is in.
func (x *index) settle() {
	for _, b := range x.tenants {
		b.settle()
	}
	x.any.settle()
}

func (b *bucket) settle() {
	rules := slices.Clone(b.all)
	for _, under := range b.heads {
		rules = append(rules, under...)
	}
	slices.Sort(rules)
	if rules = slices.Compact(rules); len(rules) <= fewRules {
		b.all, b.heads = rules, nil
	}
}

// appendOnce keeps a tenant that a rule lists twice from meeting it twice.
func appendOnce(rules []int32, i int32) []int32 {
	if n := len(rules); n > 0 && rules[n-1] == i {
		return rules
	}
	return append(rules, i)
}

// appendHead appends the first two segments of a folded path in lower case; first is
// the length of the first alone, 0 for what is no path.
func appendHead(b []byte, path string) (head []byte, first int) {
	if path == "" || path[0] != '/' {
		return b, 0
	}
	for i := range len(path) {
		if c := path[i]; c == '/' && i > 0 {
			if first > 0 {
				break
			}
			first = i
		}
		b = append(b, lower(path[i]))
	}
	if first == 0 {
		first = len(b)
	}
	return b, first
}
