//go:build race

package authz_test

// The race detector makes a sync.Pool forget at random.
const poolsForget = true
