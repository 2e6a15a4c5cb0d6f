//go:build race

package rls

// slow is how much longer things may take under the race detector.
const slow = 50
