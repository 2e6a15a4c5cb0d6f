// Package await lets a test wait for what other goroutines and processes bring about. It is
// not for what a clock brings about: that runs under testing/synctest. It asks every few milliseconds.
package await

import (
	"testing"
	"time"
)

const (
	patience = time.Minute // longer than a machine stalls that is busy with something else
	pause    = 5 * time.Millisecond
)

// That waits until holds, and fails the test if that takes longer than any machine should need.
func That(t testing.TB, what string, holds func() bool) {
	t.Helper()
	Within(t, patience, what, holds)
}

// Within waits until holds, for which there is a bound that users are told, and says how long that took.
func Within(t testing.TB, most time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	for began := time.Now(); ; <-time.After(pause) {
		if holds() {
			return time.Since(began)
		}
		if time.Since(began) > most {
			t.Fatalf("not within %v: %s", most, what)
		}
	}
}
