package check

import (
	"fmt"
	"strings"
)

// release is a minor version and what its patches mended, oldest first. Each
// advisory says where it is published, and stands here because what it lets happen
// undoes a decision or ends a proxy that asks for one.
type release struct {
	major, minor int
	advisories   []advisory
}

type advisory struct {
	fixed  int    // the patch that has the mend
	ids    string // as the source names them
	about  string
	source string
}

const (
	istioBulletin = "https://istio.io/latest/news/security/istio-security-"
	istioRelease  = "https://istio.io/latest/news/releases/"
	envoyRelease  = "https://github.com/envoyproxy/envoy/releases/tag/v"
)

// What several releases share.
const (
	headersJoined = "RBAC joins the values of a repeated header, and publicly known keys stand in for a JWKS that can't be fetched"
	dotsAsRegex   = "a dot in an AuthorizationPolicy's serviceAccounts matches any letter"
	cookies       = "cookies of HTTP/2 requests exhaust a proxy's memory"
	crashes       = "ext_authz and ext_proc crash, names in certificates are cut at a NUL"
	crashIDs      = "CVE-2026-47205, CVE-2026-47207, CVE-2026-47778, CVE-2026-48042"
	paths         = "policies are passed by with path parameters and bytes that are no UTF-8, ext_authz ends the proxy on CONNECT, an upgrade poisons others' answers, an EnvoyFilter can stop istiod"
	pathIDs       = "CVE-2026-73511, CVE-2026-73547, CVE-2026-73548, CVE-2026-73551, CVE-2026-73552, CVE-2026-73553, CVE-2026-50572"
)

// istioReleases are those that Istio maintains.
var istioReleases = []release{
	{1, 29, []advisory{
		{1, "CVE-2026-26308, CVE-2026-31837", headersJoined, istioBulletin + "2026-001/"},
		{2, "CVE-2026-39350", dotsAsRegex, istioBulletin + "2026-003/"},
		{4, "CVE-2026-47774", cookies, istioBulletin + "2026-004/"},
		{6, crashIDs, crashes, istioBulletin + "2026-005/"},
		{7, pathIDs, paths, istioRelease + "1.29.x/announcing-1.29.7/"},
	}},
	{1, 30, []advisory{
		{1, "CVE-2026-47774", cookies, istioBulletin + "2026-004/"},
		{3, crashIDs, crashes, istioBulletin + "2026-005/"},
		{4, pathIDs, paths, istioRelease + "1.30.x/announcing-1.30.4/"},
	}},
	{1, 31, []advisory{
		{1, "GHSA-qm8v-g4f9-qhjx", "a sidecar sends plain text where the authority of a BackendTLSPolicy is missing, and an annotation can add fields to an injected pod", istioRelease + "1.31.x/announcing-1.31.1/"},
	}},
}

// envoyReleases are for proxies that are not Istio's build, whose version says nothing of its patches.
var envoyReleases = []release{
	{1, 37, []advisory{{5, crashIDs, crashes, envoyRelease + "1.37.5"}, {6, pathIDs, paths, envoyRelease + "1.37.6"}}},
	{1, 38, []advisory{{4, pathIDs, paths, envoyRelease + "1.38.4"}}},
}

// unpatched judges a version by a table: what it lacks, and in Fix the version that
// has it. A version that is newer than the table is taken for patched, one that is older than it for not.
func unpatched(version string, table []release) (f Finding, bad bool) {
	v, ok := parseVersion(version)
	if !ok {
		return Finding{Severity: Warn, Says: fmt.Sprintf("nobody can say what %q is patched against", version), Fix: latest(table)}, true
	}
	for _, r := range table {
		if r.major != v.major || r.minor != v.minor {
			continue
		}
		var lacks, from []string
		need := 0
		for _, a := range r.advisories {
			if v.patch < a.fixed {
				lacks, from, need = append(lacks, a.about+" ("+a.ids+")"), append(from, a.source), a.fixed
			}
		}
		if need == 0 {
			return Finding{}, false
		}
		return Finding{
			Says: fmt.Sprintf("%s lacks mends: %s", version, strings.Join(lacks, "; ")), Evidence: strings.Join(from, " "),
			Fix: semver{r.major, r.minor, need}.String(),
		}, true
	}
	oldest := table[0]
	if v.major < oldest.major || v.major == oldest.major && v.minor < oldest.minor {
		return Finding{Says: fmt.Sprintf("%s is no longer maintained: what is found in it stays", version), Fix: latest(table)}, true
	}
	return Finding{}, false
}

// latest is the patched version of the table's newest release.
func latest(table []release) string {
	r := table[len(table)-1]
	return semver{r.major, r.minor, r.advisories[len(r.advisories)-1].fixed}.String()
}
