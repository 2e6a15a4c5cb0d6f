package runner

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// scenario is one that runs.
type scenario struct {
	run     *run
	config  scenarioConfig
	vus     []*vu // those that are there from the beginning
	more    []*vu // those made while it ran
	mu      sync.Mutex
	started time.Time
	next    atomic.Int64 // the number of the next iteration
}

// prepare makes the scenario's VUs.
func (r *run) prepare(c scenarioConfig) (*scenario, error) {
	s := &scenario{run: r, config: c}
	n := c.vus
	for _, stage := range c.stages {
		if c.executor == rampingVUs {
			n = max(n, stage.target)
		}
	}
	for range n {
		v, err := r.newVU(s)
		if err != nil {
			return nil, err
		}
		s.vus = append(s.vus, v)
	}
	return s, nil
}

// start runs it at its time, and returns when its last iteration has ended. Iterations start while soft lasts, and go on
// while hard does.
func (s *scenario) start(ctx context.Context, begin time.Time) {
	if !sleepUntil(ctx, begin.Add(s.config.startTime)) {
		return
	}
	s.started = time.Now()
	end := s.started.Add(s.config.duration)
	hard, cancel := context.WithDeadline(ctx, end.Add(s.config.gracefulStop))
	defer cancel()
	soft, cancelSoft := context.WithDeadline(hard, end)
	defer cancelSoft()
	switch s.config.executor {
	case constantArrivalRate, rampingArrivalRate:
		s.arrivals(hard)
	case perVUIterations, sharedIterations:
		s.iterations(soft, hard)
	case constantVUs:
		s.loops(soft, hard)
	case rampingVUs:
		s.ramp(soft, hard)
	}
}

func (s *scenario) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range append(s.vus, s.more...) {
		v.close()
	}
}

// progress is how much of the scenario's time is over, from 0 to 1.
func (s *scenario) progress() float64 {
	return min(1, float64(time.Since(s.started))/float64(s.config.duration))
}

// dropped counts iterations that were due and not started.
func (s *scenario) dropped(n int64) {
	if n > 0 {
		s.run.metrics.add(s.run.builtin.dropped, float64(n), &tagSet{own: map[string]string{"scenario": s.config.name}, up: &tagSet{own: s.config.tags}})
	}
}

// sleepUntil tells whether the time came before ctx ended.
func sleepUntil(ctx context.Context, at time.Time) bool {
	left := time.Until(at)
	if left <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// iterations is per-vu-iterations and shared-iterations.
func (s *scenario) iterations(soft, hard context.Context) {
	total := s.config.iterations
	if s.config.executor == perVUIterations {
		total *= s.config.vus
	}
	var running sync.WaitGroup
	for _, v := range s.vus {
		running.Go(func() {
			for i := int64(0); soft.Err() == nil; i++ {
				if s.config.executor == perVUIterations && i == s.config.iterations {
					return
				}
				n := s.next.Add(1) - 1
				if n >= total {
					s.next.Add(-1)
					return
				}
				v.iterate(hard, n)
			}
		})
	}
	running.Wait()
	s.dropped(total - s.next.Load())
}

// loops is constant-vus.
func (s *scenario) loops(soft, hard context.Context) {
	var running sync.WaitGroup
	for _, v := range s.vus {
		running.Go(func() { s.loop(soft, hard, v) })
	}
	running.Wait()
}

func (s *scenario) loop(soft, hard context.Context, v *vu) {
	for soft.Err() == nil {
		v.iterate(hard, s.next.Add(1)-1)
	}
}

// ramp is ramping-vus: at each moment as many loop as the line between two stages' targets says.
func (s *scenario) ramp(soft, hard context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan *vu, len(s.vus))
	for _, v := range s.vus {
		free <- v
	}
	var stops []func()
	grow := func() bool {
		var v *vu
		select {
		case v = <-free:
		case <-soft.Done():
			return false
		}
		own, stop := context.WithCancel(soft)
		until, cut := context.WithCancel(hard)
		stops = append(stops, func() {
			stop()
			time.AfterFunc(s.config.gracefulRampDown, cut)
		})
		running.Go(func() {
			defer cut()
			defer stop()
			s.loop(own, until, v)
			free <- v
		})
		return true
	}
	for range s.config.vus {
		grow()
	}
	from, at := s.config.vus, s.started
	for _, stage := range s.config.stages {
		for range abs(stage.target - from) {
			steps := abs(stage.target - from)
			done := abs(int64(len(stops)) - from)
			if !sleepUntil(soft, at.Add(time.Duration(float64(stage.duration)*float64(done+1)/float64(steps)))) {
				return
			}
			if stage.target > from {
				if !grow() {
					return
				}
				continue
			}
			stops[len(stops)-1]()
			stops = stops[:len(stops)-1]
		}
		from, at = stage.target, at.Add(stage.duration)
	}
	<-soft.Done()
}

func abs(n int64) int64 { return max(n, -n) }
