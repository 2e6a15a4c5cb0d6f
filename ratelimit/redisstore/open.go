package redisstore

import "context"

// Migrate puts the functions onto every server.
func Migrate(ctx context.Context, o Options) error { return load(ctx, o.Client) }

// Open returns a store.
func Open(_ context.Context, o Options) (*Store, error) { return newStore(o), nil }
