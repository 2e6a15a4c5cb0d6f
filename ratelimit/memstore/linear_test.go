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

// linearCells are as many limits as a history knows, one of each algorithm.
const linearCells = 3

var linearLimits = [linearCells]int64{60, 90, 120}

type (
	linearInput  [linearCells]int64 // hits per cell; -1: not in the request
	linearOutput struct {
		admitted  bool
		remaining [linearCells]int64
	}
)

// linearModel is the store at one instant: counters that are charged together
// or not at all.
var linearModel = porcupine.Model{
	Init: func() any { return [linearCells]int64{} },
	Step: func(state, input, output any) (bool, any) {
		used, hits, out := state.([linearCells]int64), input.(linearInput), output.(linearOutput)
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

// linearHistory charges random sets of the cells from several goroutines.
func linearHistory(t *testing.T, s *Store, seed uint64, durable bool, each int) []porcupine.Operation {
	const clients = 4
	limits := [linearCells]*ratelimit.Limit{}
	for i := range limits {
		limits[i] = testLimit(algorithms[i], linearLimits[i], 24*time.Hour)
		limits[i].Durable = durable
	}
	var clock atomic.Int64
	var wg sync.WaitGroup
	histories := make([][]porcupine.Operation, clients)
	for client := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(client)))
			for range each {
				input := linearInput{-1, -1, -1}
				var charges []ratelimit.Charge
				var which []int
				for _, i := range rnd.Perm(linearCells)[:1+rnd.IntN(linearCells)] {
					input[i] = rnd.Int64N(3)
					charges = append(charges, one(limits[i], seed*linearCells+uint64(i), input[i])...)
					which = append(which, i)
				}
				outcomes := make([]ratelimit.Outcome, len(charges))
				called := clock.Add(1)
				admitted, err := s.Charge(base, charges, outcomes)
				returned := clock.Add(1)
				if err != nil {
					t.Error(err)
					return
				}
				out := linearOutput{admitted: admitted}
				for k, i := range which {
					out.remaining[i] = outcomes[k].Remaining
				}
				histories[client] = append(histories[client], porcupine.Operation{
					ClientId: client, Input: input, Call: called, Output: out, Return: returned,
				})
			}
		})
	}
	wg.Wait()
	var all []porcupine.Operation
	for _, h := range histories {
		all = append(all, h...)
	}
	return all
}

func TestF23Linearizable(t *testing.T) {
	for _, durable := range []bool{false, true} {
		name, histories, each := "memory", 40, 250
		if durable {
			name, histories, each = "journal", 15, 100
		}
		t.Run(name, func(t *testing.T) {
			o := Options{}
			if durable {
				o.Journal = openTestJournal(t, journalPath(t))
			}
			s := New(o)
			for seed := range histories {
				history := linearHistory(t, s, uint64(seed), durable, each)
				if got := porcupine.CheckOperationsTimeout(linearModel, history, 10*time.Second); got != porcupine.Ok {
					t.Fatalf("history %d of %d operations: %v", seed, len(history), got)
				}
			}
		})
	}
}
