package quota

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// label checks a name: the same rule as a tenant's id, because names meet in
// URLs, headers and file names.
func (k *compiler) label(at Place, name, what string) {
	if name == "" {
		k.problem(at, "is missing", "give it the "+what+" that others refer to")
		return
	}
	if _, err := tenant.ParseID(name); err != nil {
		k.problem(at, tenant.Quote(name)+" is no "+what, "1 to 63 of a-z, 0-9 and '-', first and last a letter or digit")
	}
}

// display checks what people read.
func (k *compiler) display(at Place, name string) {
	const most = 200
	if len(name) > most || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		k.problem(at.field("display_name"), tenant.Quote(name)+" can't be shown", "at most "+strconv.Itoa(most)+" bytes of UTF-8 on one line")
	}
}

// limits checks and compiles the limits of one plan or tenant. What it returns
// has no meaning once a problem was found.
func (k *compiler) limits(at Place, limits []Limit) []limit {
	if len(limits) == 0 {
		return nil
	}
	out := make([]limit, 0, len(limits))
	names := make(map[string]int, len(limits))
	for i := range limits {
		l := &limits[i]
		at.Limit = i
		k.label(at.field("name"), l.Name, "name")
		if first, ok := names[l.Name]; ok {
			earlier := at.field("name")
			earlier.Limit = first
			k.again(at.field("name"), l.Name, earlier, "each limit of a plan or tenant has its own name")
		} else {
			names[l.Name] = i
		}
		out = append(out, limit{k.limit(at, l), l.At == "service"})
	}
	return out
}

const wholeNumber = "a whole number from 0 (deny) to "

func (k *compiler) limit(at Place, l *Limit) *ratelimit.Limit {
	out := &ratelimit.Limit{
		Name: l.Name, Algorithm: algorithmOf(l.Algorithm), Hits: l.Limit, Window: l.Window,
		Shadow: l.Enforcement == "shadow", Durable: l.Window >= time.Minute, OutageSaid: l.OnOutage != "",
	}
	if l.Durable != nil {
		out.Durable = *l.Durable
	}
	if !out.OnOutage.Say(l.OnOutage, out.Durable) {
		k.problem(at.field("on_outage"), "there is no "+tenant.Quote(l.OnOutage)+" for an outage", "deny (the default of durable limits), local (the default of the others: this replica's share), or allow: no limit at all meanwhile")
	}
	if out.Algorithm == 0 {
		k.problem(at.field("algorithm"), "there is no algorithm "+tenant.Quote(l.Algorithm), "gcra (the default), hard or fixed")
	}
	most := ratelimit.MaxHits
	if out.Algorithm == ratelimit.Hard {
		most--
	}
	if l.Limit < 0 || l.Limit > most {
		k.problem(at.field("limit"), strconv.FormatInt(l.Limit, 10)+" is out of range", wholeNumber+strconv.FormatInt(most, 10)+ifHard(out.Algorithm))
	}
	switch {
	case l.Window == 0:
		k.problem(at.field("window"), "is missing", "how long the limit counts, such as 1s, 10m, 24h or 30d")
	case l.Window < ratelimit.MinWindow || l.Window > ratelimit.MaxWindow:
		k.problem(at.field("window"), l.Window.String()+" is out of range", "1s to 366d")
	case l.Window%time.Millisecond != 0:
		k.problem(at.field("window"), l.Window.String()+" is too fine", "whole milliseconds")
	}
	switch {
	case l.Burst != 0 && out.Algorithm != ratelimit.GCRA && out.Algorithm != 0:
		k.problem(at.field("burst"), "a "+l.Algorithm+" limit has no burst", "leave burst out, or use the algorithm gcra")
	case l.Burst < 0 || l.Burst > ratelimit.MaxHits:
		k.problem(at.field("burst"), strconv.FormatInt(l.Burst, 10)+" is out of range", "a whole number from 1 to "+strconv.FormatInt(ratelimit.MaxHits, 10))
	case out.Algorithm == ratelimit.GCRA:
		out.Burst = l.Burst
		if out.Burst == 0 {
			out.Burst = max(l.Limit, 1) // a limit of 0 denies whatever its burst
		}
	}
	if l.Enforcement != "" && l.Enforcement != "enforce" && l.Enforcement != "shadow" {
		k.problem(at.field("enforcement"), "there is no enforcement "+tenant.Quote(l.Enforcement), "enforce (the default), or shadow: count, never refuse")
	}
	if l.At != "" && l.At != "edge" && l.At != "service" {
		k.problem(at.field("at"), "a limit can't charge at "+tenant.Quote(l.At), "edge (the default): once, where the request comes in; or service: at each service too")
	}
	return out
}

func ifHard(a ratelimit.Algorithm) string {
	if a == ratelimit.Hard {
		return " for a hard limit"
	}
	return ""
}

// algorithmOf is 0 for a name that is none.
func algorithmOf(name string) ratelimit.Algorithm {
	switch name {
	case "", "gcra":
		return ratelimit.GCRA
	case "hard":
		return ratelimit.Hard
	case "fixed":
		return ratelimit.Fixed
	}
	return 0
}

// suggestPlan says which plans there are, as long as that fits on a line. By then all of them are known.
func (k *compiler) suggestPlan() string {
	if k.suggestion == "" {
		k.suggestion = k.listPlans()
	}
	return k.suggestion
}

func (k *compiler) listPlans() string {
	const most = 8
	var names []string
	for name := range k.plans.all() {
		if name != "" {
			names = append(names, tenant.Quote(name))
		}
	}
	if len(names) == 0 {
		return "declare it under plans"
	}
	if len(names) > most {
		return "the name of one of the " + strconv.Itoa(len(names)) + " plans"
	}
	slices.Sort(names)
	return "one of the plans " + strings.Join(names, ", ")
}

func (k *compiler) authorization(at Place, word string) {
	if word != "" && word != "enforce" && word != "shadow" {
		k.problem(at.field("authorization"), "there is no authorization "+tenant.Quote(word), "enforce (the default), or shadow: record what rules refuse and let it pass")
	}
}

// Bounds of an API key's scopes.
const (
	maxScopes = 64
	maxScope  = 128
)

// scopes checks words that travel in a list in one header.
func (k *compiler) scopes(at Place, scopes []string) {
	if len(scopes) > maxScopes {
		k.problem(at, "the key has "+strconv.Itoa(len(scopes))+" scopes", "at most "+strconv.Itoa(maxScopes))
	}
	for i, s := range scopes {
		if s == "" || len(s) > maxScope || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ',' }) {
			at.Item = i
			k.problem(at, tenant.Quote(s)+" is no scope", "1 to "+strconv.Itoa(maxScope)+" visible ASCII characters without spaces and commas, such as calls:write")
		}
	}
}

// known checks that each of these names is that of an entry.
func (k *compiler) known(at Place, names []string, check func(Place, string)) {
	for i, name := range names {
		at.Item = i
		check(at, name)
	}
}

// noTenant and noPlan report a name that nobody has. What can't be a name is
// reported where rules and issuers are compiled, and not twice.
func (k *compiler) noTenant(at Place, id string) {
	if _, err := tenant.ParseID(id); err != nil {
		return
	}
	if _, ok := k.tenants.get(tenant.ID(id)); !ok {
		k.lacksTenant(at, id)
	}
}

func (k *compiler) noPlan(at Place, name string) {
	if _, err := tenant.ParseID(name); err != nil {
		return
	}
	if _, ok := k.plans.get(name); !ok {
		k.problem(at, "there is no plan "+tenant.Quote(name), k.suggestPlan())
	}
}

func parseDigest(s string) (digest [32]byte, wrong string) {
	if s == "" {
		return digest, "is missing"
	}
	if len(s) != hex.EncodedLen(len(digest)) { // never shown: it may be the key itself
		return digest, "is " + strconv.Itoa(len(s)) + " characters long"
	}
	if _, err := hex.Decode(digest[:], []byte(s)); err != nil {
		return digest, "is not hexadecimal"
	}
	return digest, ""
}
