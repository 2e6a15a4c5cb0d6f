package runner

import (
	"context"
	"math"
	"sync"
	"time"
)

// arrivals is constant-arrival-rate and ramping-arrival-rate: each iteration has a time at which it starts, counted from
// the scenario's start, whatever those before it do. One that is due while no VU is free is dropped, and counted.
func (s *scenario) arrivals(hard context.Context) {
	free := make(chan *vu, s.config.maxVUs)
	for _, v := range s.vus {
		free <- v
	}
	var running sync.WaitGroup
	defer running.Wait()
	made := s.config.vus
	for due := range s.schedule {
		if !sleepUntil(hard, s.started.Add(due)) {
			if s.run.ctx.Err() != nil {
				return // the rest is not due
			}
			s.dropped(1)
			continue
		}
		select {
		case v := <-free:
			n := s.next.Add(1) - 1
			running.Go(func() {
				v.iterate(hard, n)
				free <- v
			})
		default:
			s.dropped(1)
			if made < s.config.maxVUs {
				made++
				running.Go(func() { s.another(free) })
			}
		}
	}
}

// another makes a VU for iterations to come.
func (s *scenario) another(free chan<- *vu) {
	v, err := s.run.newVU(s)
	if err != nil { // the others could
		s.run.log.print("error", err.Error())
		return
	}
	s.mu.Lock()
	s.more = append(s.more, v)
	s.mu.Unlock()
	free <- v
}

// schedule yields when each iteration is due, from the start of the scenario. No rounding adds up.
func (s *scenario) schedule(yield func(time.Duration) bool) {
	if s.config.executor == constantArrivalRate {
		per, rate := s.config.timeUnit, time.Duration(s.config.rate)
		for i := time.Duration(0); ; i++ {
			due := i/rate*per + i%rate*per/rate
			if due >= s.config.duration || !yield(due) {
				return
			}
		}
	}
	unit := s.config.timeUnit.Seconds()
	from := float64(s.config.rate) / unit
	begin, before, n := 0.0, 0.0, 0.0 // of the stage: its start, and what is due by then
	for _, stage := range s.config.stages {
		to, seconds := float64(stage.target)/unit, stage.duration.Seconds()
		all := (from + to) / 2 * seconds
		for ; n < before+all-1e-9; n++ {
			if !yield(time.Duration((begin + after(n-before, from, to, seconds)) * float64(time.Second))) {
				return
			}
		}
		begin, before, from = begin+seconds, before+all, to
	}
}

// after is when the integral of a rate that goes from one value to another within some seconds reaches n.
func after(n, from, to, seconds float64) float64 {
	if n <= 0 {
		return 0
	}
	return 2 * n / (from + math.Sqrt(max(0, from*from+2*n*(to-from)/seconds)))
}
