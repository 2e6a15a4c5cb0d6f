package quota

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"iter"
	"reflect"
	"runtime"
	"slices"
	"strconv"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// MaxLimitsPerTenant is the most limits that hold for one tenant, its plan's
// and its own together.
const MaxLimitsPerTenant = 16

// Account is the tenant's account; nil if there is no such tenant.
func (s *Snapshot) Account(id tenant.ID) *Account {
	a, _ := s.tenants.get(id)
	return a
}

// PlanLimits are the limits of all plans, with their plan's name, in no order. A tenant's own are not among them.
func (s *Snapshot) PlanLimits() iter.Seq2[string, *ratelimit.Limit] {
	return func(yield func(string, *ratelimit.Limit) bool) {
		for plan, limits := range s.plans.all() {
			for _, l := range limits {
				if !yield(plan, l.Limit) {
					return
				}
			}
		}
	}
}

// Key is the API key with that digest.
func (s *Snapshot) Key(digest [32]byte) (Credential, bool) {
	c, ok := s.keys.get(digest)
	if !ok {
		return Credential{}, false
	}
	c.Account = s.Account(c.tenant)
	return c, true
}

// SPIFFE is the account whose principals list id, byte for byte; nil if there is none.
func (s *Snapshot) SPIFFE(id string) *Account {
	owner, ok := s.spiffe.get(id)
	if !ok {
		return nil
	}
	return s.Account(owner)
}

// Compile checks c and makes a snapshot of it. cellKey keys the cells: the same
// key, tenant and name of a limit give the same cell, so a counter outlives
// every change of its limit. The error is Problems: all of them, up to 10 000.
func Compile(revision uint64, c Catalogue, cellKey [16]byte) (*Snapshot, error) {
	return CompileAfter(nil, revision, c, cellKey, Place.String)
}

// CompileAfter is Compile for a caller who knows better names for places, such as
// a file and a line, and who has the snapshot before (nil if not): rules and issuers that are
// as they were are taken from it, because conditions take long to compile.
// It costs about a microsecond for each limit of each tenant; where only a few entries
// changed, [Snapshot.Apply] costs next to nothing.
func CompileAfter(last *Snapshot, revision uint64, c Catalogue, cellKey [16]byte, name func(Place) string) (*Snapshot, error) {
	k := newCompiler(&Snapshot{cellKey: cellKey}, &c)
	k.name = name
	k.entries(&c)
	k.rules(last, c.Rules)
	k.issuers(last, c.Issuers)
	if len(k.problems) > 0 {
		return nil, k.problems
	}
	return k.snapshot(revision), nil
}

// newCompiler is a compiler that starts from what is in before, and expects more.
func newCompiler(before *Snapshot, more *Catalogue) *compiler {
	return &compiler{
		name:     Place.String,
		out:      Snapshot{cellKey: before.cellKey},
		plans:    before.plans.edit(len(more.Plans)),
		tenants:  before.tenants.edit(len(more.Tenants)),
		keys:     before.keys.edit(len(more.APIKeys)),
		digests:  before.digests.edit(len(more.APIKeys)),
		spiffe:   before.spiffe.edit(0),
		planAt:   make(map[string]int, len(more.Plans)),
		tenantAt: make(map[tenant.ID]int, len(more.Tenants)),
		keyAt:    make(map[string]int, len(more.APIKeys)),
		digestAt: make(map[[32]byte]int, len(more.APIKeys)),
		listedAt: make(map[string]Place),
		mac:      hmac.New(sha256.New, before.cellKey[:]),
	}
}

// compiler is one run of CompileAfter or Apply.
type compiler struct {
	name     func(Place) string
	out      Snapshot // its maps come last, from the drafts
	problems Problems

	plans   *draft[string, []limit]
	tenants *draft[tenant.ID, *Account]
	keys    *draft[[32]byte, Credential]
	digests *draft[string, [32]byte]
	spiffe  *draft[string, tenant.ID]

	// Where what must be unique stands.
	planAt   map[string]int
	tenantAt map[tenant.ID]int
	keyAt    map[string]int
	digestAt map[[32]byte]int
	listedAt map[string]Place // principals

	suggestion string // of plans

	mac hash.Hash
	buf []byte
	sum [sha256.Size]byte
}

// limit is a compiled limit and whether it charges at each service.
type limit struct {
	*ratelimit.Limit
	inner bool
}

// entries compiles the lists that grow with the number of customers.
func (k *compiler) entries(c *Catalogue) {
	for i := range c.Plans {
		k.plan(i, &c.Plans[i])
	}
	for i := range c.Tenants {
		k.yield(i)
		k.tenant(i, &c.Tenants[i])
	}
	for i := range c.APIKeys {
		k.yield(i)
		k.key(i, &c.APIKeys[i])
	}
}

// yield lets requests come in between where there is one processor: the scheduler itself would only after 10 ms.
func (*compiler) yield(i int) {
	if i%256 == 255 {
		runtime.Gosched()
	}
}

// snapshot is what was compiled.
func (k *compiler) snapshot(revision uint64) *Snapshot {
	s := &k.out
	s.Revision, s.plans, s.tenants, s.keys, s.digests, s.spiffe = revision, k.plans.shards, k.tenants.shards, k.keys.shards, k.digests.shards, k.spiffe.shards
	return s
}

// maxProblems bounds the memory that a catalogue of aliases to aliases can ask for.
const maxProblems = 10_000

func (k *compiler) problem(at Place, wrong, right string) {
	if len(k.problems) >= maxProblems {
		return
	}
	k.problems = append(k.problems, Problem{Path: k.name(at), Wrong: wrong, Right: right})
}

// again reports that a value which must be unique is taken.
func (k *compiler) again(at Place, value string, first Place, right string) {
	if len(k.problems) >= maxProblems {
		return
	}
	k.problem(at, tenant.Quote(value)+" is already at "+k.name(first), right)
}

func (k *compiler) plan(i int, p *Plan) {
	at := Place{List: "plans", Index: i, Limit: -1, Item: -1}
	k.label(at.field("name"), p.Name, "name")
	k.display(at, p.DisplayName)
	if first, ok := k.planAt[p.Name]; ok {
		k.again(at.field("name"), p.Name, at.entry(first).field("name"), "each plan has its own name: rename or delete one of the two")
	} else {
		k.planAt[p.Name] = i
	}
	limits := k.limits(at, p.Limits)
	if len(p.Limits) > MaxLimitsPerTenant {
		k.problem(at.field("limits"), "the plan has "+strconv.Itoa(len(p.Limits))+" limits", "at most "+strconv.Itoa(MaxLimitsPerTenant))
	}
	if _, ok := k.plans.get(p.Name); !ok {
		k.plans.put(p.Name, limits)
	}
}

func (k *compiler) tenant(i int, t *Tenant) {
	at := Place{List: "tenants", Index: i, Limit: -1, Item: -1}
	k.label(at.field("id"), string(t.ID), "id")
	k.display(at, t.DisplayName)
	if first, ok := k.tenantAt[t.ID]; ok {
		k.again(at.field("id"), string(t.ID), at.entry(first).field("id"), "each tenant has its own id: rename or delete one of the two")
	} else {
		k.tenantAt[t.ID] = i
	}
	a := &Account{
		Tenant: t.ID, Plan: t.Plan, Suspended: t.Suspended, Shadow: t.Authorization == "shadow",
		own: k.limits(at, t.Limits), principals: t.Principals,
	}
	k.authorization(at, t.Authorization)
	base, ok := k.plans.get(t.Plan)
	switch {
	case t.Plan == "":
		k.problem(at.field("plan"), "is missing", "the name of one of the plans")
	case !ok:
		k.lacksPlan(at, t.Plan)
	}
	if !k.charge(a, base, nil) {
		k.tooMany(at, len(a.Charges))
	}
	for j, p := range t.Principals {
		here := at.field("principals")
		here.Item = j
		if wrong := trust.CheckSPIFFE(p); wrong != "" {
			k.problem(here, tenant.Quote(p)+" "+wrong, "a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app")
			continue
		}
		if _, taken := k.spiffe.get(p); taken {
			k.again(here, p, k.listed(p), "a principal is listed once and belongs to one tenant")
			continue
		}
		k.listedAt[p] = here
		k.spiffe.put(p, t.ID)
	}
	if _, ok := k.tenants.get(t.ID); !ok {
		k.tenants.put(t.ID, a)
	}
}

// charge gives a what it is charged on a plan of base. before has its cells, as far as it had these limits; nil if not.
// ok is false if these are too many, and the plan alone has not too many.
func (k *compiler) charge(a *Account, base []limit, before []ratelimit.Charge) (ok bool) {
	limits := merge(base, a.own)
	a.Charges, a.Inner = k.charges(a.Tenant, limits, before)
	return len(limits) <= MaxLimitsPerTenant || len(base) > MaxLimitsPerTenant
}

func (k *compiler) tooMany(at Place, limits int) {
	k.problem(at.field("limits"), "with its plan's, the tenant has "+strconv.Itoa(limits)+" limits", "at most "+strconv.Itoa(MaxLimitsPerTenant))
}

func (k *compiler) lacksPlan(at Place, name string) {
	if len(k.problems) < maxProblems {
		k.problem(at.field("plan"), "there is no plan "+tenant.Quote(name), k.suggestPlan())
	}
}

func (k *compiler) lacksTenant(at Place, id string) {
	k.problem(at, "there is no tenant "+tenant.Quote(id), "the id of one of the tenants")
}

// listed is where a principal that is taken stands.
func (k *compiler) listed(principal string) Place {
	if at, ok := k.listedAt[principal]; ok {
		return at
	}
	owner, _ := k.spiffe.get(principal)
	at := Place{List: "tenants", Entry: string(owner), Limit: -1, Field: "principals"}
	if a, ok := k.tenants.get(owner); ok {
		at.Item = slices.Index(a.principals, principal)
	}
	return at
}

// merge is base with the limits of the same name replaced in place, and the
// others of own added.
func merge(base, own []limit) []limit {
	if len(own) == 0 {
		return base
	}
	all := make([]limit, len(base), len(base)+len(own))
	copy(all, base)
next:
	for _, l := range own {
		for i, b := range base {
			if b.Name == l.Name {
				all[i] = l
				continue next
			}
		}
		all = append(all, l)
	}
	return all
}

// Labels keep the two uses of the key apart.
const (
	labelCell  = 1
	labelShard = 2
)

// charges gives each limit its cell, and says which charges an inner hop makes. The cell depends on names only; the
// first half of its key is the tenant's, so that a tenant's cells are neighbours. Those in before are not made again.
func (k *compiler) charges(id tenant.ID, limits []limit, before []ratelimit.Charge) (charges, inner []ratelimit.Charge) {
	if len(limits) == 0 {
		return nil, nil
	}
	charges = make([]ratelimit.Charge, len(limits))
	var home *ratelimit.Cell // the shard and the first half of the key
	for i, l := range limits {
		charges[i] = ratelimit.Charge{Limit: l.Limit, Hits: 1}
		cell := &charges[i].Cell
		if j := find(before, l.Name, i); j >= 0 {
			*cell, home = before[j].Cell, &before[j].Cell
		} else {
			if home == nil {
				k.hash(labelShard, string(id), "")
				home = &ratelimit.Cell{Shard: binary.BigEndian.Uint64(k.sum[:8])}
				copy(home.Key[:8], k.sum[8:16])
			}
			*cell = *home
			k.hash(labelCell, string(id), l.Name)
			copy(cell.Key[8:], k.sum[:8])
		}
		if l.inner {
			inner = append(inner, charges[i])
		}
	}
	return charges, inner
}

// find is the place of a limit in charges, which is likely the one given; -1 if it is not there.
func find(charges []ratelimit.Charge, name string, likely int) int {
	if likely < len(charges) && charges[likely].Limit.Name == name {
		return likely
	}
	return slices.IndexFunc(charges, func(c ratelimit.Charge) bool { return c.Limit.Name == name })
}

// hash leaves the keyed hash of a and b, each behind its length, in k.sum.
func (k *compiler) hash(label byte, a, b string) {
	k.buf = append(k.buf[:0], label)
	k.buf = append(binary.BigEndian.AppendUint32(k.buf, uint32(len(a))), a...)
	k.buf = append(binary.BigEndian.AppendUint32(k.buf, uint32(len(b))), b...)
	k.mac.Reset()
	k.mac.Write(k.buf)
	k.mac.Sum(k.sum[:0])
}

func (k *compiler) key(i int, key *APIKey) {
	at := Place{List: "api_keys", Index: i, Limit: -1, Item: -1}
	k.label(at.field("id"), key.ID, "id")
	if first, ok := k.keyAt[key.ID]; ok {
		k.again(at.field("id"), key.ID, at.entry(first).field("id"), "each key has its own id: rename or delete one of the two")
	} else {
		k.keyAt[key.ID] = i
	}
	_, exists := k.tenants.get(key.Tenant)
	switch {
	case key.Tenant == "":
		k.problem(at.field("tenant"), "is missing", "the id of one of the tenants")
	case !exists:
		k.lacksTenant(at.field("tenant"), string(key.Tenant))
	}
	if y := key.Expires.UTC().Year(); !key.Expires.IsZero() && (y < 1970 || y > 9999) {
		k.problem(at.field("expires"), "the year "+strconv.Itoa(y)+" is out of range", "a time from 1970 to 9999; leave it out for never")
	}
	k.scopes(at.field("scopes"), key.Scopes)
	digest, wrong := parseDigest(key.Digest)
	if wrong != "" {
		k.problem(at.field("digest"), wrong, "64 hexadecimal digits, as 'sluice' prints them: never the key itself")
		return
	}
	if first, taken := k.keys.get(digest); taken {
		earlier := Place{List: at.List, Entry: first.ID, Limit: -1, Item: -1, Field: "digest"}
		if i, ok := k.digestAt[digest]; ok {
			earlier = at.entry(i).field("digest")
		}
		k.again(at.field("digest"), key.Digest, earlier, "a key belongs to one tenant and is listed once")
		return
	}
	k.digestAt[digest] = i
	k.digests.put(key.ID, digest)
	voucher := sha256.Sum256(digest[:]) // services see it in tenant tokens: not a part of the digest
	k.keys.put(digest, Credential{
		ID: key.ID, Digest: digest, Voucher: [16]byte(voucher[:16]), Expires: key.Expires, Scopes: key.Scopes, tenant: key.Tenant,
	})
}

// rules compiles rules, and checks what only the catalogue knows: whom they name.
func (k *compiler) rules(last *Snapshot, rules []authz.Rule) {
	for i := range rules {
		at := Place{List: "rules", Index: i, Limit: -1, Item: -1}
		k.known(at.field("who.tenants"), rules[i].Who.Tenants, k.noTenant)
		k.known(at.field("who.plans"), rules[i].Who.Plans, k.noPlan)
	}
	if k.out.rules = rules; last != nil && unchanged(rules, last.rules) {
		k.out.Rules = last.Rules
		return
	}
	var problems []authz.Problem
	k.out.Rules, problems = authz.Compile(rules)
	k.adopt("rules", problems)
}

// issuers does the same for issuers.
func (k *compiler) issuers(last *Snapshot, issuers []trust.Issuer) {
	for i := range issuers {
		if id := issuers[i].Tenant; id != "" {
			k.noTenant(Place{List: "issuers", Index: i, Limit: -1, Item: -1, Field: "tenant"}, id)
		}
	}
	if k.out.issuers = issuers; last != nil && unchanged(issuers, last.issuers) {
		k.out.Issuers = last.Issuers
		return
	}
	var problems []authz.Problem
	k.out.Issuers, problems = trust.Compile(issuers)
	k.adopt("issuers", problems)
}

// unchanged compares two lists; it costs nothing where they are one and the same.
func unchanged[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || reflect.DeepEqual(a, b))
}

// adopt makes problems of package authz the catalogue's.
func (k *compiler) adopt(list string, problems []authz.Problem) {
	for _, p := range problems {
		k.problem(Place{List: list, Index: p.Index, Limit: -1, Field: p.Field, Item: p.Item}, p.Wrong, p.Right)
	}
}

func (p Place) field(name string) Place { p.Field = name; return p }
func (p Place) entry(index int) Place   { p.Index = index; return p }
