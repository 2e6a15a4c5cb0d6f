//go:build race

package memstore

import "time"

// The race detector makes everything several times slower.
const (
	restartCells  = 10_000
	restartBudget = 10 * time.Second
	mutations     = 2_000
	mutatedOpens  = 100
)
