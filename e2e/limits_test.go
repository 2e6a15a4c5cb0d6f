package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/voicecore-ai/sluice/cli/stack"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

func TestLimitsThroughEnvoy(t *testing.T) {
	w := start(t, stack.Options{})

	t.Run("hard 100 per 10 s offered 5 times never admits 101 in a trailing window and at least 98 in each", func(t *testing.T) {
		key := w.tenant(t, "hard-ten", limit("per-ten", hard, 100, 10*time.Second))
		const perSecond, windows = 50, 2
		w.get(t.Context(), "nobody's key") // so that connections are there
		begin, during := time.Now(), windows*10*time.Second+500*time.Millisecond
		shots := w.offer(t, key, begin, perSecond, during)
		admitted := tally(t, shots)
		if peak := most(admitted, 10*time.Second); peak > 100 {
			t.Errorf("%d admitted in a trailing 10 s, want at most 100", peak)
		}
		// When the server met a request can't be seen from here, only that it was
		// between when that was due and its answer. A window that is longer by the
		// longest such time at both ends holds for certain what the server admitted
		// in the 10 s in its middle.
		jitter := late(shots)
		window, end := 10*time.Second+2*jitter, begin.Add(during)
		if n := least(admitted, window, end); n < 98 {
			t.Errorf("%d admitted in a trailing %v, want at least 98 in each", n, window)
		}
		t.Logf("%d admitted in %v; most in a trailing 10 s: %d; least: %d, in %v: %d", len(admitted), during,
			most(admitted, 10*time.Second), least(admitted, 10*time.Second, end), window, least(admitted, window, end))
	})

	t.Run("a burst of 2000 per s across the edge of a second never gets 101 past hard 100 per s", func(t *testing.T) {
		key := w.tenant(t, "hard-edge", limit("per-second", hard, 100, time.Second))
		admitted := tally(t, w.offer(t, key, nextSecond(0).Add(-200*time.Millisecond), 2000, 400*time.Millisecond))
		if peak := most(admitted, time.Second); peak > 100 || len(admitted) < 100 { // all 100 in one second, unless the machine took longer
			t.Errorf("%d admitted in one second, and %d in all, want exactly 100", peak, len(admitted))
		}
	})

	t.Run("fixed 100 per s and 1000 per min together admit 900 of 500 per s for 9 s", func(t *testing.T) {
		key := w.tenant(t, "fixed-two", limit("per-second", fixed, 100, time.Second), limit("per-minute", fixed, 1000, time.Minute))
		at := nextSecond(9 * time.Second)
		wait(t, time.Until(at))
		shots := w.offer(t, key, at, 500, 8900*time.Millisecond)
		// 900, unless requests were late: then a second may have met fewer than a hundred, or a tenth one more, and the last may
		// have met another minute, which has another thousand.
		type bounds struct{ least, most int }
		minutes, admitted := map[time.Time]bounds{}, len(tally(t, shots))
		for from := at; from.Before(at.Add(8900*time.Millisecond + late(shots))); from = from.Add(time.Second) {
			to, surely, perhaps := from.Add(time.Second), 0, 0
			for _, s := range shots {
				if !s.sent.Before(from) && s.got.Before(to) {
					surely++
				}
				if s.sent.Before(to) && !s.got.Before(from) {
					perhaps++
				}
			}
			b := minutes[from.Truncate(time.Minute)]
			minutes[from.Truncate(time.Minute)] = bounds{min(b.least+min(surely, 100), 1000), min(b.most+min(perhaps, 100), 1000)}
		}
		least, most := 0, 0
		for _, b := range minutes {
			least, most = least+b.least, most+b.most
		}
		if admitted < least || admitted > most {
			t.Errorf("%d admitted, want %d to %d: a request refused by one limit must cost the other nothing", admitted, least, most)
		}
		t.Logf("%d admitted, of %d to %d that may be", admitted, least, most)
	})

	t.Run("gcra stays within burst + rate·τ and uses it", func(t *testing.T) {
		key := w.tenant(t, "gcra", limit("per-second", gcra, 50, time.Second))
		begin := time.Now()
		shots := w.offer(t, key, begin, 250, 3*time.Second)
		admitted := tally(t, shots)
		last := slices.MaxFunc(admitted, func(a, b shot) int { return a.got.Compare(b.got) }).got.Sub(begin).Seconds()
		if bound := 50 + 50*last; float64(len(admitted)) > bound {
			t.Errorf("%d admitted in %.3f s, bound %.1f", len(admitted), last, bound)
		}
		early := 0
		for _, s := range shots {
			if s.status == http.StatusTooManyRequests && !usedUp(admitted, s, 50, 50) {
				early++
			}
		}
		if early > 0 || len(admitted) < 50 {
			t.Errorf("%d admitted, and %d refused while there was something left", len(admitted), early)
		}
	})

	t.Run("64 connections on one hot tenant admit exactly the limit", func(t *testing.T) {
		key := w.tenant(t, "hot", limit("ever", fixed, 500, ever))
		shots := make(chan shot, 64*25)
		for range 64 {
			go func() {
				for range 25 {
					shots <- w.get(t.Context(), key)
				}
			}()
		}
		var all []shot
		for range 64 * 25 {
			all = append(all, <-shots)
		}
		if n := len(tally(t, all)); n != 500 {
			t.Errorf("%d admitted, want exactly 500", n)
		}
	})

	t.Run("a tenant at 50 times its limit costs another no refusal", func(t *testing.T) {
		noisy := w.tenant(t, "noisy", limit("per-second", gcra, 10, time.Second))
		quiet := w.tenant(t, "quiet", limit("per-second", gcra, 100, time.Second)) // which holds its 75 even if a machine that stalls sends them at once
		done := make(chan []shot)
		go func() { done <- w.offer(t, noisy, time.Now(), 500, 3*time.Second) }()
		if n := len(tally(t, w.offer(t, quiet, time.Now(), 25, 3*time.Second))); n != 75 {
			t.Errorf("the quiet tenant got %d of 75 through", n)
		}
		tally(t, <-done)
	})

	t.Run("a limit raised or lowered by API holds for the next request in the middle of a window", func(t *testing.T) {
		key := w.tenant(t, "changing", limit("ever", fixed, 3, ever))
		statuses := func(n int) (ok int) {
			for range n {
				if w.get(t.Context(), key).status == http.StatusOK {
					ok++
				}
			}
			return ok
		}
		set := func(n int64) {
			t.Helper()
			_, err := w.quota.UpdatePlan(w.admin(t), &quotav1.UpdatePlanRequest{
				Plan:       &quotav1.Plan{Name: "plans/changing", Limits: []*quotav1.Limit{limit("ever", fixed, n, ever)}},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"limits"}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if n := statuses(5); n != 3 {
			t.Errorf("limit 3: %d admitted", n)
		}
		set(5)
		if n := statuses(5); n != 2 {
			t.Errorf("raised from 3 to 5 after 3: %d more admitted, want 2", n)
		}
		set(4)
		if n := statuses(3); n != 0 {
			t.Errorf("lowered below what was used: %d admitted, want 0", n)
		}
		set(7)
		if n := statuses(5); n != 2 {
			t.Errorf("raised from 5 used to 7: %d admitted, want 2", n)
		}
	})
}

// usedUp reports whether a bucket that holds burst and gets perSecond can have been empty when a request was refused: from some
// admission on, as many were admitted as it held then and has got since, but for one. When the server met a request can't be seen
// from here, only that it was between when that left and its answer, so where that is long it can have been.
func usedUp(admitted []shot, refused shot, burst, perSecond float64) bool {
	for _, first := range admitted {
		used := 0
		for _, a := range admitted {
			if !a.got.Before(first.sent) && !a.sent.After(refused.got) {
				used++
			}
		}
		if got := max(refused.sent.Sub(first.got).Seconds(), 0) * perSecond; float64(used) > burst+got-2 { // one, and one for rounding
			return true
		}
	}
	return false
}

func TestKillNineNeverAdmitsMoreThanTheQuota(t *testing.T) {
	const quota, kills = 2000, 50
	w := start(t, stack.Options{})
	key := w.tenant(t, "durable", limit("ever", fixed, quota, ever))
	admitted := 0
	for range kills {
		answers := make(chan shot, 64)
		for range 64 {
			go func() { answers <- w.get(t.Context(), key) }()
		}
		for i := range 64 {
			if a := <-answers; a.status == http.StatusOK {
				admitted++
			}
			if i == 20 { // in the middle of the load
				if err := w.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		begin := time.Now()
		if err := w.StartSluiced(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("restart took %v", took)
		}
	}
	for range quota + 1 {
		s := w.get(t.Context(), key)
		if s.status == http.StatusTooManyRequests {
			break
		}
		if s.status == http.StatusOK {
			admitted++
		}
	}
	const block = quota / 100
	if admitted > quota {
		t.Errorf("%d admitted, want at most %d", admitted, quota)
	}
	if least := quota - kills*(block+64); admitted < least { // a block, and what was in flight, for each kill
		t.Errorf("%d admitted, want at least %d: more than a block was lost to a kill", admitted, least)
	}
	t.Logf("%d of %d admitted over %d kills", admitted, quota, kills)
}
