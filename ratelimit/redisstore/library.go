package redisstore

import (
	"context"
	"crypto/sha256"
	_ "embed" // the parts of the library
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Version is that of what cells, and what is remembered of operations, look like. It is part of the functions' names,
// and so is a digest of their text: two versions of sluiced run side by side, and
// no build ever replaces, or calls, another text than its own.
const Version = 2

var (
	//go:embed lua/arithmetic.lua
	arithmeticLua string
	//go:embed lua/gcra.lua
	gcraLua string
	//go:embed lua/fixed.lua
	fixedLua string
	//go:embed lua/hard.lua
	hardLua string
	//go:embed lua/operations.lua
	operationsLua string
	//go:embed lua/frame.lua
	frameLua string
	//go:embed lua/together.lua
	togetherLua string

	body         = strings.Join([]string{arithmeticLua, gcraLua, fixedLua, hardLua, operationsLua, frameLua, togetherLua}, "\n")
	functionName = nameFor(body)
	togetherName = functionName + "_together"
	helloName    = functionName + "_hello"
	library      = strings.Join([]string{
		"#!lua name=" + functionName, body,
		fmt.Sprintf("redis.register_function('%s', charge)", functionName),
		fmt.Sprintf("redis.register_function('%s', together)", togetherName),
		fmt.Sprintf("redis.register_function{function_name='%s', flags={'no-writes'}, callback=function() return %d end}", helloName, Version),
	}, "\n")
)

// nameFor is what the library with that text is called, and its function for one request.
func nameFor(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("sluice_%d_%x", Version, sum[:6])
}

// each calls f for every server that keeps cells.
func each(ctx context.Context, client redis.UniversalClient, f func(ctx context.Context, c *redis.Client) error) error {
	switch c := client.(type) {
	case *redis.ClusterClient:
		var asked atomic.Bool
		err := c.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			asked.Store(true)
			return f(ctx, c)
		})
		if err != nil && !asked.Load() { // the map of the cluster can't be had
			addrs := strings.Join(c.Options().Addrs, ", ")
			return reason(addrs, err)
		}
		return err
	case *redis.Client:
		return f(ctx, c)
	}
	return fmt.Errorf("redisstore: a %T is neither a client of one server nor of a cluster", client)
}

func load(ctx context.Context, client redis.UniversalClient) error {
	return each(ctx, client, func(ctx context.Context, c *redis.Client) error {
		return c.FunctionLoadReplace(ctx, library).Err()
	})
}

// reload loads functions that vanished under way (FUNCTION FLUSH, a new primary),
// if the user may. It reports whether they can be called again by who was sent then.
func (s *Store) reload(sent time.Time) bool {
	s.loading.Lock()
	defer s.loading.Unlock()
	switch {
	case s.loaded.After(sent): // by another lane
		return true
	case time.Since(s.unloaded) < time.Second:
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	if err := load(ctx, s.o.Client); err != nil {
		s.unloaded = time.Now()
		return false
	}
	s.loaded = time.Now()
	s.stats.reloads.Add(1)
	_ = s.o.Client.SetNX(ctx, s.o.marker(), markerWord+strconv.Itoa(Version), 0).Err() // a Redis that came back empty
	return true
}
