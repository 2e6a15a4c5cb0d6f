package loadtest

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// expectation is what lib/config.js reads.
type expectation struct {
	Wiring   string                  `json:"wiring"`
	Store    string                  `json:"store"`
	Replicas int                     `json:"replicas"`
	Tenants  map[string]*expectedFor `json:"tenants"`
}

type expectedFor struct {
	ID     string          `json:"id"`
	Key    string          `json:"key"`
	Limits []expectedLimit `json:"limits"`
}

type expectedLimit struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Limit     int64  `json:"limit"`
	WindowMS  int64  `json:"windowMs"`
	Burst     int64  `json:"burst,omitempty"`
	Durable   bool   `json:"durable"`
}

var algorithms = map[ratelimit.Algorithm]string{ratelimit.GCRA: "gcra", ratelimit.Hard: "hard", ratelimit.Fixed: "fixed"}

// expect compiles the catalogue in dir as the server does.
func expect(dir string) (e *expectation, err error) {
	c, err := catalog.Open(catalog.Options{Dir: dir})
	if err != nil {
		return nil, fmt.Errorf("reference catalogue %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	e = &expectation{Tenants: map[string]*expectedFor{}}
	snapshot := c.Snapshot()
	for _, entry := range c.View().Tenants {
		id := entry.Value.ID
		tenant := &expectedFor{ID: string(id)}
		for _, charge := range snapshot.Account(id).Charges {
			l := charge.Limit
			word, ok := algorithms[l.Algorithm]
			if !ok {
				return nil, fmt.Errorf("limit %s of tenant %s has an algorithm that no suite has bounds for; add them to lib/bounds.js, and its word here", l.Name, id)
			}
			tenant.Limits = append(tenant.Limits, expectedLimit{l.Name, word, l.Hits, l.Window.Milliseconds(), l.Burst, l.Durable})
		}
		e.Tenants[string(id)] = tenant
	}
	return e, nil
}

// makeKeys makes a data folder, and puts an API key for each tenant beside the catalogue's files.
func (e *expectation) makeKeys(data, catalogue string) error {
	if _, err := app.Init(data); err != nil {
		return err
	}
	text := "api_keys:\n"
	for id, tenant := range e.Tenants {
		tenant.Key = "slk_" + rand.Text()
		digest, err := app.KeyDigest(data, tenant.Key)
		if err != nil {
			return err
		}
		text += fmt.Sprintf("  - {id: %s, tenant: %s, digest: %q}\n", id, id, digest)
	}
	return os.WriteFile(filepath.Join(catalogue, "keys.yaml"), []byte(text), 0o600)
}

func (e *expectation) write(path string) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// descriptors is the same catalogue for the rate limit service, which has no tenants: a descriptor for each.
func (e *expectation) descriptors() string {
	var b strings.Builder
	b.WriteString("domain: demo\ndescriptors:\n")
	for _, id := range slices.Sorted(maps.Keys(e.Tenants)) {
		l := e.Tenants[id].Limits[0]
		fmt.Fprintf(&b, "  - key: user\n    value: %s\n    rate_limit: {unit: second, unit_multiplier: %d, requests_per_unit: %d, algorithm: %s", id, l.WindowMS/1000, l.Limit, l.Algorithm)
		if l.Burst > 0 {
			fmt.Fprintf(&b, ", burst: %d", l.Burst)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

var hits = regexp.MustCompile(`\b(limit|burst|requests_per_unit): (\d+)`)

// double makes every limit of the files in dir twice as high; "" has none.
func double(dir string) error {
	if dir == "" {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path) //nolint:gosec // a copy of the reference catalogue
		if err != nil {
			return err
		}
		twice := hits.ReplaceAllStringFunc(string(text), func(field string) string {
			name, n, _ := strings.Cut(field, ": ")
			value, _ := strconv.Atoi(n)
			return name + ": " + strconv.Itoa(2*value)
		})
		if err := os.WriteFile(path, []byte(twice), 0o600); err != nil {
			return err
		}
	}
	return nil
}
