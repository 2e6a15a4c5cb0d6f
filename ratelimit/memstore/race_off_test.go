//go:build !race

package memstore

import "time"

// The volumes of the fault tests. 'make test-faults' runs them.
const (
	kills           = 1000
	tornImages      = 200
	mutations       = 10_000
	mutatedOpens    = 400
	linearHistories = 100
	restartCells    = 100_000
	restartBudget   = time.Second
)
