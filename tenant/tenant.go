// Package tenant holds the words that every other package shares about a
// tenant: its id, and the names under which its identity travels in headers
// and metadata. It is a leaf: it imports nothing of Sluice.
//
// It does not know plans, limits or credentials (package quota does).
package tenant

import (
	"errors"
	"strings"
)

// Header is the one request header that carries the tenant to an upstream.
// Sluice removes every spelling of it that a client sent and writes it once.
const Header = "x-tenant-id"

// PrincipalHeader and PlanHeader tell the upstream who called and on which
// plan. They are guarded like Header.
const (
	PrincipalHeader = "x-sluice-principal"
	PlanHeader      = "x-sluice-plan"
	DecisionHeader  = "x-sluice-decision-id"
)

// DegradedHeader is on the responses to requests whose limits were judged without the store
// that replicas share, by what each limit's on_outage says.
const DegradedHeader = "x-sluice-degraded"

// TokenHeader carries the signed tenant token from one hop of a request to the
// next. It is guarded like Header.
const TokenHeader = "x-sluice-tenant-token" //nolint:gosec // a name, no secret

// ServiceMetadata is the gRPC metadata by which a route tells the ext_proc door which
// service it leads to. Only the operator sets it, in Envoy's configuration.
const ServiceMetadata = "x-sluice-service"

// MetadataNamespace is where Envoy files the dynamic metadata of an ext_authz
// answer, whatever the filter is called (measured on Envoy 1.40).
const MetadataNamespace = "envoy.filters.http.ext_authz"

// Keys within MetadataNamespace.
const (
	MetadataDecision  = "sluice_decision_id"
	MetadataTenant    = "sluice_tenant"
	MetadataPlan      = "sluice_plan"
	MetadataPrincipal = "sluice_principal"
	MetadataProof     = "sluice_proof"    // gate.Decision.AppendProof
	MetadataDegraded  = "sluice_degraded" // as DegradedHeader
)

// MaxIDLength is the longest tenant id, in bytes.
const MaxIDLength = 63

// ID is a tenant's name: 1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'
// (a DNS label, RFC 1123). Only ParseID makes one from outside input.
type ID string

// ErrID says that a string is no tenant id.
var ErrID = errors.New("a tenant id is 1 to 63 of a-z, 0-9 and '-', and starts and ends with a letter or digit")

// ParseID checks s and returns it as an ID, or ErrID.
func ParseID(s string) (ID, error) {
	if s == "" || len(s) > MaxIDLength || s[0] == '-' || s[len(s)-1] == '-' {
		return "", ErrID
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return "", ErrID
		}
	}
	return ID(s), nil
}

// reserved are the names that only Sluice may write, folded, beside all that begin with ours.
var reserved = [...]string{"xtenantid", "xtenant", "tenantid", "tenant", "xtenantname", "tenantname"}

const ours = "xsluice"

// folded is as long as the longest name that is looked up whole.
const folded = len("xtenantname")

// IsReservedHeader reports whether a header name is a spelling of one that
// only Sluice may write. Case and marks do not count, because some upstream folds
// each of them (CGI, WSGI and PHP '-', '_' and '.'; lighttpd all): X_Tenant_Id,
// x.tenant.id, x~tenant!id and xTenantID are all one name. It allocates nothing.
func IsReservedHeader(name string) bool {
	var f [folded]byte
	n, longer := 0, false
	for i := 0; i < len(name) && !longer; i++ {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case (c < 'a' || c > 'z') && (c < '0' || c > '9'):
			continue
		}
		if n == len(f) {
			longer = true
			break
		}
		f[n] = c
		n++
	}
	if n >= len(ours) && string(f[:len(ours)]) == ours {
		return true
	}
	if longer {
		return false
	}
	for _, name := range reserved {
		if string(f[:n]) == name {
			return true
		}
	}
	return false
}

// ReservedPatterns is IsReservedHeader as regular expressions (RE2) over the whole of a name in
// lower case, for a proxy that removes such headers before Sluice is asked. There are
// several because Envoy takes none whose program is longer than 100 instructions.
func ReservedPatterns() []string {
	return append(patterns(reserved[:]...), marks+spaced(ours)+".*")
}

// HopPatterns is ReservedPatterns without TokenHeader, which a service behind the edge
// brings along: of the names that begin with ours only those that Sluice writes.
func HopPatterns() []string {
	return append(patterns(reserved[:]...), patterns(fold(PrincipalHeader), fold(PlanHeader), fold(DecisionHeader))...)
}

func fold(name string) string { return strings.ReplaceAll(name, "-", "") }

// marks are what folding drops.
const marks = "[^a-z0-9]*"

// spaced matches name with marks between its letters.
func spaced(name string) string { return strings.Join(strings.Split(name, ""), marks) }

// patterns match what folds to one of the names each.
func patterns(names ...string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = marks + spaced(name) + marks
	}
	return out
}
