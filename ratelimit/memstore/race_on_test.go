//go:build race

package memstore

import "time"

// The race detector makes everything several times slower.
const restartBudget = 10 * time.Second
