//go:build !race

package memstore

import "time"

// What the race detector is too slow for.
const (
	restartCells  = 100_000
	restartBudget = time.Second
	mutations     = 10_000
	mutatedOpens  = 400
)
