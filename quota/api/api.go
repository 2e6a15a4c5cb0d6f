// Package api is the quota API: plans, tenants, API keys, rules, issuers and usage over
// gRPC, and over REST from the same definition. [New] makes a [Service], Register puts
// it on a gRPC server, Handler is its REST form and /openapi.json.
//
// Each call goes through one guard, whichever way it came: a panic becomes
// INTERNAL, a method that the table of roles does not name is denied, the admin
// token is compared in constant time, and x/time/rate bounds what one process
// answers. The guard is inside the server, so no wiring can leave it out.
//
// It is not on the path of a request that is being admitted. A read costs a copy of
// one page, the first read after a change also a sort of the catalogue; a change
// costs what [catalog.Catalog.Update] does.
package api

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// Options are what a service is made of; every field up to Log is required.
type Options struct {
	Catalog          *catalog.Catalog
	Store            ratelimit.Store // where usage is looked up; never charged
	Pepper           [32]byte        // of API key digests; page tokens are MAC'd under a key derived from it
	AdminTokenDigest [32]byte        // SHA-256 of the admin token; the token itself must have 256 random bits
	Now              func() time.Time
	Log              *slog.Logger

	// LastUsed is when an API key was last accepted, Unix µs; 0 if it is not known. Nil: never known.
	LastUsed func(keyID string) int64
	// Audit gets every change that was made or refused, after it, and every refused
	// authentication, however many there are: bounding those is its part. It is called by the
	// calls' goroutines, which wait for it. A request that could not be decoded is no change. Nil: none.
	Audit func(Act)
}

// knownTokens are what a script hashes when its variable is empty, and what
// people write who mean to change it later.
var knownTokens = []string{
	"", "\n", " ", "admin", "changeme", "change-me", "default", "password", "secret", "sla_", "sluice", "test", "token", "null", "undefined",
	"admin\n", "changeme\n", "password\n", "secret\n", "token\n",
}

// Service is the quota API. It is safe for concurrent use.
type Service struct{ server *server }

// New returns a service, or an error that names every option that is missing.
func New(o Options) (*Service, error) {
	var problems []error
	missing := func(is bool, name string) {
		if is {
			problems = append(problems, fmt.Errorf("quota API: option %s is missing", name))
		}
	}
	missing(o.Catalog == nil, "Catalog")
	missing(o.Store == nil, "Store")
	missing(o.Pepper == [32]byte{}, "Pepper")
	missing(o.AdminTokenDigest == [32]byte{}, "AdminTokenDigest")
	missing(o.Now == nil, "Now")
	missing(o.Log == nil, "Log")
	if slices.ContainsFunc(knownTokens, func(t string) bool { return o.AdminTokenDigest == sha256.Sum256([]byte(t)) }) {
		problems = append(problems, errors.New("quota API: the admin token is empty or a word that everybody tries; take 256 random bits"))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	pageKey, err := hkdf.Key(sha256.New, o.Pepper[:], nil, "sluice quota api page tokens v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("quota API: key of page tokens: %w", err)
	}
	return &Service{server: &server{
		guard:   newGuard(o),
		catalog: o.Catalog,
		store:   o.Store,
		pepper:  o.Pepper,
		pages:   pager{key: pageKey},
		used:    o.LastUsed,
		now:     o.Now,
		log:     o.Log,
	}}, nil
}

// Register puts the API on a gRPC server. It needs no interceptor: the guard is inside.
func (s *Service) Register(r grpc.ServiceRegistrar) { quotav1.RegisterQuotaServiceServer(r, s.server) }
