package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/outbound"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/telemetry/traffic"
)

// keepLastUsed is how often the times at which API keys were last used go to
// disk, where a crash finds them.
const keepLastUsed = time.Minute

// firstKeys is how long a start waits for the issuers' keys. Those that are not
// there by then are fetched while requests come.
const firstKeys = 5 * time.Second

// buildIdentity makes what turns credentials into principals.
func (a *App) buildIdentity(keys keys) error {
	client := outbound.New(outbound.Options{})
	a.keysets = authn.NewKeySets(authn.KeySetsOptions{
		Fetch: client.Get, Issuers: func() *trust.Issuers { return a.catalog.Snapshot().Issuers }, Log: a.log,
	})
	a.authn = authn.New(authn.Options{Pepper: keys.pepper, KeySets: a.keysets, XFCCForwarders: a.config.XFCCForwarders})
	if err := a.loadLastUsed(); err != nil {
		return err
	}
	a.traffic = traffic.New(traffic.Options{
		Tenants: a.config.MetricsTenants, Now: time.Now, Revision: func() uint64 { return a.catalog.Snapshot().Revision },
		Limits: func() iter.Seq2[string, *ratelimit.Limit] { return a.catalog.Snapshot().PlanLimits() },
	})
	a.gate = gate.New(gate.Options{
		Snapshot: a.catalog.Snapshot, Authenticator: a.authn, Store: a.store, Shared: a.shared != nil, IDKey: keys.decision,
		Tokens: token.New(token.Options{Secret: keys.token}), Audit: a.auditor(), Log: a.log,
		Edges: a.config.EdgePeers, Soft: a.config.Stage == soft, Observe: a.traffic.Observe,
	})
	return nil
}

func (a *App) lastUsedPath() string { return filepath.Join(a.config.Data, lastUsedFile) }

// loadLastUsed takes over what the process before has kept. It is no reason not
// to start: the times are for people.
func (a *App) loadLastUsed() error {
	text, err := os.ReadFile(a.lastUsedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return dataProblem(a.config.Data, err)
	}
	var all map[string]int64
	if err := json.Unmarshal(text, &all); err != nil {
		a.log.Warn("when API keys were last used is lost: the file is damaged, and written anew", "path", a.lastUsedPath(), "error", err)
		return nil
	}
	a.authn.ImportLastUsed(all)
	return nil
}

// saveLastUsed writes the times of keys that still exist.
func (a *App) saveLastUsed() error {
	snapshot := a.catalog.Snapshot()
	all := a.authn.ExportLastUsed(func(id string) bool { _, ok := snapshot.KeyOf(id); return ok })
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("when API keys were last used: %w", err)
	}
	tmp := a.lastUsedPath() + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return fmt.Errorf("when API keys were last used: %w", err)
	}
	if err := os.Rename(tmp, a.lastUsedPath()); err != nil {
		return fmt.Errorf("when API keys were last used: %w", err)
	}
	return nil
}

// keepTimes saves them until ctx ends, and once more then. Nobody else saves: two at once could
// leave the older times.
func (a *App) keepTimes(ctx context.Context) error {
	every(ctx, keepLastUsed, func(time.Time) {
		if err := a.saveLastUsed(); err != nil {
			a.log.Warn("not saved; it is tried again in a minute", "error", err)
		}
	})
	return a.saveLastUsed()
}
