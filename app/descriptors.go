package app

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

// descriptorPoll is how often the descriptor folder is looked at: a few files,
// whose names, sizes and times are compared.
const descriptorPoll = time.Second

// watchDescriptors loads the descriptor files again when they change, until ctx
// ends. What can't be loaded changes nothing and is logged once.
func (a *App) watchDescriptors(ctx context.Context) {
	seen := fingerprint(a.config.RLSConfig)
	every(ctx, descriptorPoll, func(time.Time) {
		now := fingerprint(a.config.RLSConfig)
		if now == seen {
			return
		}
		seen = now
		config, err := rls.Load(a.config.RLSConfig)
		a.descriptorsRefused.Store(err != nil)
		if err != nil {
			a.log.Error("the descriptor files are refused; the ones before stay in force", "error", err)
			return
		}
		a.rls.SetConfig(config)
		a.described.Declare(config.Limits())
		a.log.Info("descriptor files loaded", "domains", config.Domains())
	})
}

// fingerprint changes when a file of the folder does. Links are followed, so a
// swapped link counts.
func fingerprint(dir string) [sha256.Size]byte {
	sum := sha256.New()
	entries, err := os.ReadDir(dir)
	_, _ = fmt.Fprintln(sum, err)
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil {
			_, _ = fmt.Fprintln(sum, e.Name(), err)
			continue
		}
		_, _ = fmt.Fprintln(sum, e.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
