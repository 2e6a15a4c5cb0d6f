package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a part that takes a while to end, and says when it has.
func slow(took time.Duration, ended func()) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		<-time.After(took)
		ended()
		return nil
	}
}

func TestAStopWaitsForEveryPartInTheReverseOfTheirStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down teardown
		var order []string // written by the parts in turn: the race detector would see two at once
		failed := make(chan error, 1)
		down.add(func(context.Context) error { order = append(order, "file"); return nil })
		for _, name := range []string{"first", "second", "third"} {
			down.start(name, failed, slow(time.Second, func() { order = append(order, name) }))
		}
		begin := time.Now()
		if err := down.run(t.Context()); err != nil {
			t.Error(err)
		}
		if want := []string{"third", "second", "first", "file"}; !slices.Equal(order, want) {
			t.Errorf("they ended as %v, want %v", order, want)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("the stop took %v, and the parts 3 s one after the other", took)
		}
	})
}

func TestAPartThatDoesNotEndHoldsUpNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down teardown
		closed := false
		down.add(func(context.Context) error { closed = true; return nil })
		down.start("beneath", make(chan error, 1), slow(0, func() {}))
		down.start("stuck", make(chan error, 1), slow(time.Hour, func() {}))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		if err := down.run(ctx); err == nil || !strings.HasPrefix(err.Error(), "stuck has not ended in time") || strings.Contains(err.Error(), "beneath") {
			t.Errorf("got %v, want an error that names this part alone", err)
		}
		if took := time.Since(begin); took != 5*time.Second+grace || !closed {
			t.Errorf("after %v, and the file beneath is closed: %v", took, closed)
		}
		<-time.After(time.Hour) // the bubble wants it to end
	})
}

func TestWhatAPartEndsWithIsReportedOnce(t *testing.T) {
	broken := errors.New("broken")
	t.Run("by itself it is told at once, and the stop does not repeat it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var down teardown
			failed := make(chan error, 1)
			down.start("watch", failed, func(context.Context) error { return broken })
			if err := <-failed; !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "watch: ") {
				t.Errorf("got %v", err)
			}
			if err := down.run(t.Context()); err != nil {
				t.Errorf("the stop repeats %v", err)
			}
		})
	})
	t.Run("at the stop it is the stop's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var down teardown
			failed := make(chan error, 1)
			down.start("save", failed, func(ctx context.Context) error { <-ctx.Done(); return broken })
			if err := down.run(t.Context()); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			if len(failed) != 0 {
				t.Errorf("it is reported twice: %v", <-failed)
			}
		})
	})
	t.Run("a second failure that nobody waits for blocks nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var down teardown
			failed := make(chan error) // nobody reads it
			down.start("watch", failed, func(context.Context) error { return broken })
			synctest.Wait()
			if err := down.run(t.Context()); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
		})
	})
}
