//go:build race

package memstore

import "time"

// The race detector makes everything several times slower. Here it looks for
// races; 'make test-faults' runs the full volumes without it.
const (
	kills           = 100
	tornImages      = 100
	mutations       = 2_000
	mutatedOpens    = 100
	linearHistories = 10
	restartCells    = 10_000
	restartBudget   = time.Duration(0) // no time is promised
)
