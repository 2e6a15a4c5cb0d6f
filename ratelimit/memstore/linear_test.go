package memstore

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// linearCells are as many limits as a tenant has, one of each algorithm.
const linearCells = 3

var linearLimits = [linearCells]int64{600, 900, 1200}

type (
	linearInput struct {
		tenant int
		hits   [linearCells]int64 // per cell; -1: not in the request
	}
	linearOutput struct {
		admitted  bool
		remaining [linearCells]int64
	}
)

// linearModel is the store at one instant: counters of a tenant that are
// charged together or not at all. Tenants know nothing of each other.
var linearModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		tenants := map[int][]porcupine.Operation{}
		for _, op := range history {
			tenant := op.Input.(linearInput).tenant
			tenants[tenant] = append(tenants[tenant], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range tenants {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return [linearCells]int64{} },
	Step: func(state, input, output any) (bool, any) {
		used, hits, out := state.([linearCells]int64), input.(linearInput).hits, output.(linearOutput)
		next, admitted := used, true
		for i, h := range hits {
			if h > 0 {
				next[i] += h
				admitted = admitted && next[i] <= linearLimits[i]
			}
		}
		if !admitted {
			next = used
		}
		for i, h := range hits {
			if h >= 0 && out.remaining[i] != linearLimits[i]-next[i] {
				return false, used
			}
		}
		return admitted == out.admitted, next
	},
}

// linearHistory charges random sets of tenants' cells from several goroutines.
func linearHistory(s *Store, seed uint64, durable bool, operations int) ([]porcupine.Operation, error) {
	const clients = 4
	tenants := 1 + int(seed%4)
	limits := [linearCells]*ratelimit.Limit{}
	for i := range limits {
		limits[i] = testLimit(algorithms[i], linearLimits[i], 24*time.Hour)
		limits[i].Durable = durable
	}
	var clock atomic.Int64
	var wg sync.WaitGroup
	histories, failures := make([][]porcupine.Operation, clients), make([]error, clients)
	for client := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(client)))
			history := make([]porcupine.Operation, 0, operations/clients)
			for range operations / clients {
				input := linearInput{tenant: rnd.IntN(tenants), hits: [linearCells]int64{-1, -1, -1}}
				var charges []ratelimit.Charge
				var which []int
				for _, i := range rnd.Perm(linearCells)[:1+rnd.IntN(linearCells)] {
					input.hits[i] = rnd.Int64N(3)
					cell := (seed*4+uint64(input.tenant))*linearCells + uint64(i)
					charges = append(charges, one(limits[i], cell, input.hits[i])...)
					which = append(which, i)
				}
				outcomes := make([]ratelimit.Outcome, len(charges))
				called := clock.Add(1)
				admitted, err := s.Charge(ratelimit.Operation{Now: base}, charges, outcomes)
				returned := clock.Add(1)
				if err != nil {
					failures[client] = err
					return
				}
				out := linearOutput{admitted: admitted}
				for k, i := range which {
					out.remaining[i] = outcomes[k].Remaining
				}
				history = append(history, porcupine.Operation{
					ClientId: client, Input: input, Call: called, Output: out, Return: returned,
				})
			}
			histories[client] = history
		})
	}
	wg.Wait()
	var all []porcupine.Operation
	for client, h := range histories {
		if failures[client] != nil {
			return nil, failures[client]
		}
		all = append(all, h...)
	}
	return all, nil
}

// TestF23Linearizable checks histories of the store, each by itself, several
// at a time so that they share its locks and its commits.
func TestF23Linearizable(t *testing.T) {
	const operations = 10_000
	for _, durable := range []bool{false, true} {
		name, together := "counters in memory are linearizable", 8
		if durable {
			name, together = "counters in a journal are linearizable", 32
		}
		t.Run(name, func(t *testing.T) {
			var o Options
			if durable {
				o.Journal = openTestJournal(t, journalPath(t))
			}
			s := New(o)
			var linearizable, charges atomic.Int64
			inParallel(together, linearHistories, func(seed int) {
				history, err := linearHistory(s, uint64(seed), durable, operations)
				if err != nil {
					t.Error(err)
					return
				}
				charges.Add(int64(len(history)))
				if got := porcupine.CheckOperationsTimeout(linearModel, history, 10*time.Minute); got != porcupine.Ok {
					t.Errorf("history %d of %d operations: %v", seed, len(history), got)
					return
				}
				linearizable.Add(1)
			})
			t.Logf("%d of %d histories linearizable, %d operations", linearizable.Load(), linearHistories, charges.Load())
			if durable {
				t.Logf("%+v", s.journal.Stats())
			}
		})
	}
}

// inParallel calls f with every number below n, from that many goroutines.
func inParallel(goroutines, n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
