package quota

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"reflect"
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
func (s *Snapshot) Account(id tenant.ID) *Account { return s.tenants[id] }

// Key is the API key with that digest.
func (s *Snapshot) Key(digest [32]byte) (Credential, bool) {
	c, ok := s.keys[digest]
	return c, ok
}

// SPIFFE is the account whose principals list id, byte for byte; nil if there is none.
func (s *Snapshot) SPIFFE(id string) *Account { return s.spiffe[id] }

// Compile checks c and makes a snapshot of it. cellKey keys the cells: the same
// key, tenant and name of a limit give the same cell, so a counter outlives
// every change of its limit. The error is Problems: all of them, up to 10 000.
func Compile(revision uint64, c Catalogue, cellKey [16]byte) (*Snapshot, error) {
	return CompileAfter(nil, revision, c, cellKey, Place.String)
}

// CompileAfter is Compile for a caller who knows better names for places, such as
// a file and a line, and who has the snapshot before (nil if not): rules and issuers that are
// as they were are taken from it, because conditions take long to compile.
// It costs about a microsecond for each limit of each tenant.
func CompileAfter(last *Snapshot, revision uint64, c Catalogue, cellKey [16]byte, name func(Place) string) (*Snapshot, error) {
	k := newCompiler(c, cellKey)
	k.name, k.out.Revision = name, revision
	for i := range c.Plans {
		k.plan(i, &c.Plans[i])
	}
	for i := range c.Tenants {
		k.tenant(i, &c.Tenants[i])
	}
	for i := range c.APIKeys {
		k.key(i, &c.APIKeys[i])
	}
	k.rules(last, c.Rules)
	k.issuers(last, c.Issuers)
	if len(k.problems) > 0 {
		return nil, k.problems
	}
	return k.out, nil
}

func newCompiler(c Catalogue, cellKey [16]byte) *compiler {
	return &compiler{
		out: &Snapshot{
			tenants: make(map[tenant.ID]*Account, len(c.Tenants)),
			keys:    make(map[[32]byte]Credential, len(c.APIKeys)),
			digests: make(map[string][32]byte, len(c.APIKeys)),
			spiffe:  make(map[string]*Account),
		},
		inner:      make(map[*ratelimit.Limit]bool),
		plans:      make(map[string][]*ratelimit.Limit, len(c.Plans)),
		planAt:     make(map[string]int, len(c.Plans)),
		tenantAt:   make(map[tenant.ID]int, len(c.Tenants)),
		keyAt:      make(map[string]int, len(c.APIKeys)),
		digestAt:   make(map[[32]byte]int, len(c.APIKeys)),
		principals: make(map[string]Place),
		mac:        hmac.New(sha256.New, cellKey[:]),
	}
}

// compiler is one run of CompileAfter.
type compiler struct {
	name     func(Place) string
	out      *Snapshot
	problems Problems

	inner      map[*ratelimit.Limit]bool // those that charge at each service
	plans      map[string][]*ratelimit.Limit
	planAt     map[string]int
	tenantAt   map[tenant.ID]int
	keyAt      map[string]int
	digestAt   map[[32]byte]int
	principals map[string]Place

	mac hash.Hash
	buf []byte
	sum [sha256.Size]byte
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
	if _, ok := k.plans[p.Name]; !ok {
		k.plans[p.Name] = limits
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
	a := &Account{Tenant: t.ID, Plan: t.Plan, Suspended: t.Suspended, Shadow: t.Authorization == "shadow"}
	k.authorization(at, t.Authorization)
	base, ok := k.plans[t.Plan]
	switch {
	case t.Plan == "":
		k.problem(at.field("plan"), "is missing", "the name of one of the plans")
	case !ok:
		k.problem(at.field("plan"), "there is no plan "+tenant.Quote(t.Plan), k.suggestPlan())
	}
	limits := merge(base, k.limits(at, t.Limits))
	if len(limits) > MaxLimitsPerTenant && len(base) <= MaxLimitsPerTenant {
		k.problem(at.field("limits"), "with its plan's, the tenant has "+strconv.Itoa(len(limits))+" limits", "at most "+strconv.Itoa(MaxLimitsPerTenant))
	}
	a.Charges = k.charges(t.ID, limits)
	a.Inner = k.innerOf(a.Charges)
	for j, p := range t.Principals {
		here := at.field("principals")
		here.Item = j
		if wrong := trust.CheckSPIFFE(p); wrong != "" {
			k.problem(here, tenant.Quote(p)+" "+wrong, "a SPIFFE id such as spiffe://cluster.local/ns/acme/sa/app")
			continue
		}
		if first, ok := k.principals[p]; ok {
			k.again(here, p, first, "a principal is listed once and belongs to one tenant")
			continue
		}
		k.principals[p] = here
		k.out.spiffe[p] = a
	}
	if _, ok := k.out.tenants[t.ID]; !ok {
		k.out.tenants[t.ID] = a
	}
}

// merge is base with the limits of the same name replaced in place, and the
// others of own added.
func merge(base, own []*ratelimit.Limit) []*ratelimit.Limit {
	if len(own) == 0 {
		return base
	}
	all := make([]*ratelimit.Limit, len(base), len(base)+len(own))
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

// charges gives each limit its cell. The cell depends on names only; the first
// half of its key is the tenant's, so that a tenant's cells are neighbours.
func (k *compiler) charges(id tenant.ID, limits []*ratelimit.Limit) []ratelimit.Charge {
	if len(limits) == 0 {
		return nil
	}
	k.hash(labelShard, string(id), "")
	shard := binary.BigEndian.Uint64(k.sum[:8])
	home := [8]byte(k.sum[8:16])
	charges := make([]ratelimit.Charge, len(limits))
	for i, l := range limits {
		k.hash(labelCell, string(id), l.Name)
		charges[i] = ratelimit.Charge{Limit: l, Hits: 1}
		charges[i].Cell.Shard = shard
		copy(charges[i].Cell.Key[:8], home[:])
		copy(charges[i].Cell.Key[8:], k.sum[:8])
	}
	return charges
}

// innerOf is those of the charges that an inner hop makes.
func (k *compiler) innerOf(charges []ratelimit.Charge) (inner []ratelimit.Charge) {
	if len(k.inner) == 0 {
		return nil
	}
	for _, c := range charges {
		if k.inner[c.Limit] {
			inner = append(inner, c)
		}
	}
	return inner
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
	account := k.out.tenants[key.Tenant]
	switch {
	case key.Tenant == "":
		k.problem(at.field("tenant"), "is missing", "the id of one of the tenants")
	case account == nil:
		k.problem(at.field("tenant"), "there is no tenant "+tenant.Quote(string(key.Tenant)), "the id of one of the tenants")
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
	if first, ok := k.digestAt[digest]; ok {
		k.again(at.field("digest"), key.Digest, at.entry(first).field("digest"), "a key belongs to one tenant and is listed once")
		return
	}
	k.digestAt[digest] = i
	k.out.digests[key.ID] = digest
	voucher := sha256.Sum256(digest[:]) // services see it in tenant tokens: not a part of the digest
	k.out.keys[digest] = Credential{
		ID: key.ID, Digest: digest, Voucher: [16]byte(voucher[:16]), Expires: key.Expires, Account: account, Scopes: key.Scopes,
	}
}

// rules compiles rules, and checks what only the catalogue knows: whom they name.
func (k *compiler) rules(last *Snapshot, rules []authz.Rule) {
	for i := range rules {
		at := Place{List: "rules", Index: i, Limit: -1, Item: -1}
		k.known(at.field("who.tenants"), rules[i].Who.Tenants, k.noTenant)
		k.known(at.field("who.plans"), rules[i].Who.Plans, k.noPlan)
	}
	if k.out.rules = rules; last != nil && reflect.DeepEqual(rules, last.rules) {
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
	if k.out.issuers = issuers; last != nil && reflect.DeepEqual(issuers, last.issuers) {
		k.out.Issuers = last.Issuers
		return
	}
	var problems []authz.Problem
	k.out.Issuers, problems = trust.Compile(issuers)
	k.adopt("issuers", problems)
}

// adopt makes problems of package authz the catalogue's.
func (k *compiler) adopt(list string, problems []authz.Problem) {
	for _, p := range problems {
		k.problem(Place{List: list, Index: p.Index, Limit: -1, Field: p.Field, Item: p.Item}, p.Wrong, p.Right)
	}
}

func (p Place) field(name string) Place { p.Field = name; return p }
func (p Place) entry(index int) Place   { p.Index = index; return p }
