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
		k.problem(at, quote(name)+" is no "+what, "1 to 63 of a-z, 0-9 and '-', first and last a letter or digit")
	}
}

// display checks what people read.
func (k *compiler) display(at Place, name string) {
	const most = 200
	if len(name) > most || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		k.problem(at.field("display_name"), quote(name)+" can't be shown", "at most "+strconv.Itoa(most)+" bytes of UTF-8 on one line")
	}
}

// limits checks and compiles the limits of one plan or tenant. What it returns
// has no meaning once a problem was found.
func (k *compiler) limits(at Place, limits []Limit) []*ratelimit.Limit {
	if len(limits) == 0 {
		return nil
	}
	out := make([]*ratelimit.Limit, 0, len(limits))
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
		out = append(out, k.limit(at, l))
	}
	return out
}

const wholeNumber = "a whole number from 0 (deny) to "

func (k *compiler) limit(at Place, l *Limit) *ratelimit.Limit {
	out := &ratelimit.Limit{
		Name: l.Name, Algorithm: algorithmOf(l.Algorithm), Hits: l.Limit, Window: l.Window,
		Shadow: l.Enforcement == "shadow", Durable: l.Window >= time.Minute,
	}
	if l.Durable != nil {
		out.Durable = *l.Durable
	}
	if out.Algorithm == 0 {
		k.problem(at.field("algorithm"), "there is no algorithm "+quote(l.Algorithm), "gcra (the default), hard or fixed")
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
		k.problem(at.field("enforcement"), "there is no enforcement "+quote(l.Enforcement), "enforce (the default), or shadow: count, never refuse")
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

// suggestPlan says which plans there are, as long as that fits on a line.
func (k *compiler) suggestPlan() string {
	const most = 8
	names := make([]string, 0, len(k.plans))
	for name := range k.plans {
		if name != "" {
			names = append(names, quote(name))
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

const maxSPIFFE = 2048

// wrongSPIFFE says what is wrong with a SPIFFE id that names a workload
// (SPIFFE-ID specification, section 2); "" if nothing is.
func wrongSPIFFE(id string) string {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return "does not begin with spiffe://"
	}
	if len(id) > maxSPIFFE {
		return "is longer than " + strconv.Itoa(maxSPIFFE) + " bytes"
	}
	domain, path, _ := strings.Cut(rest, "/")
	if domain == "" || len(domain) > 255 || !only(domain, func(c byte) bool { return lower(c) || digit(c) || c == '.' || c == '-' || c == '_' }) {
		return "has no trust domain of a-z, 0-9, '.', '-' and '_'"
	}
	if path == "" {
		return "has no path"
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "has a path with an empty or relative segment"
		}
		if !only(segment, func(c byte) bool { return lower(c|0x20) || digit(c) || c == '.' || c == '-' || c == '_' }) {
			return "has a path with other characters than letters, digits, '.', '-' and '_'"
		}
	}
	return ""
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func digit(c byte) bool { return c >= '0' && c <= '9' }
