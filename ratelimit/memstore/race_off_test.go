//go:build !race

package memstore

import "time"

const restartBudget = time.Second
