package audit

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

func stranger(source string) *Entry {
	return &Entry{Time: time.Now().UnixMicro(), Class: authz.Required, Anonymous: true, Source: source, Method: "GET", Path: "/v1/calls", Reason: "unauthenticated"}
}

// totals are how many refusals of strangers are in a log singly, and in summaries.
func totals(t *testing.T, dir string) (single, summed, summaries int) {
	t.Helper()
	return totalsOf(t, dir, "unauthenticated")
}

func totalsOf(t *testing.T, dir, reason string) (single, summed, summaries int) {
	t.Helper()
	err := Search(os.DirFS(dir), Filter{Reason: reason}, func(r *Record, _ []byte) error {
		if r.Kind == "summary" {
			summaries++
			summed += int(r.Count)
		} else {
			single++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return single, summed, summaries
}

func TestStrangersAreCounted(t *testing.T) {
	t.Run("a few are recorded singly", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			for i := range 20 {
				_ = l.Record(stranger(fmt.Sprintf("203.0.113.%d", i)))
			}
			closeLog(t, l)
			if single, summed, _ := totals(t, o.Dir); single != 20 || summed != 0 {
				t.Errorf("%d singly, %d summed up", single, summed)
			}
		})
	})
	t.Run("many of one source become one summary a second, and others are not touched", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			for range 10 {
				for range 1000 {
					_ = l.Record(stranger("203.0.113.7"))
				}
				_ = l.Record(stranger("198.51.100.1"))
				time.Sleep(time.Second)
			}
			closeLog(t, l)
			single, summed, summaries := totals(t, o.Dir)
			if single+summed != 10_010 || single != 20+9*10+10 || summaries < 5 || summaries > 11 {
				t.Errorf("%d singly, %d in %d summaries", single, summed, summaries)
			}
			if int(l.Stats().Suppressed) != summed {
				t.Errorf("%d suppressed, %d summed up", l.Stats().Suppressed, summed)
			}
		})
	})
	t.Run("a flood from everywhere keeps its budget, is counted whole, and disturbs no one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			o.Sources = 500
			l := open(t, o)
			const seconds, each = 5, 3000
			for s := range seconds {
				for i := range each {
					_ = l.Record(stranger(fmt.Sprintf("10.%d.%d.1", s, i%256)))
					_ = l.Record(stranger(fmt.Sprintf("2001:db8:%x::1", i)))
				}
				record(t, l, entry(authz.Required))
				time.Sleep(time.Second)
			}
			synctest.Wait() // the writer forgets sources too
			if n := len(l.strangers.sources); n > o.Sources {
				t.Errorf("%d sources are remembered", n)
			}
			closeLog(t, l)
			single, summed, _ := totals(t, o.Dir)
			if single+summed != 2*seconds*each {
				t.Errorf("%d singly, %d summed up, of %d", single, summed, 2*seconds*each)
			}
			if n := l.Stats().Bytes; n > (seconds+1)*64<<10+seconds*2000 {
				t.Errorf("%d bytes were written in %d s", n, seconds)
			}
			if n := count(t, o.Dir, Filter{Reason: "admitted"}); n != seconds {
				t.Errorf("%d decisions, %d were recorded", n, seconds)
			}
			intact(t, o.Dir)
		})
	})
	t.Run("F-04 while the disk fails they wait in bounded memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			synctest.Wait()
			var f faults
			f.on(l)
			f.write.Store(true)
			_ = l.Record(entry(authz.Required))
			for i := range 100 {
				for range 100 {
					_ = l.Record(stranger(fmt.Sprintf("10.0.%d.1", i)))
				}
				time.Sleep(time.Second)
			}
			if n := len(l.strangers.ready.data); n > 2*64<<10 {
				t.Errorf("%d bytes wait", n)
			}
			f.write.Store(false)
			time.Sleep(2 * time.Second)
			closeLog(t, l)
			if single, summed, _ := totals(t, o.Dir); single+summed != 10_000 {
				t.Errorf("%d singly, %d summed up", single, summed)
			}
			intact(t, o.Dir)
		})
	})
	t.Run("they are never required, and a closed log counts them nowhere", func(t *testing.T) {
		o := options(t)
		l := open(t, o)
		_ = l.Record(stranger("bad\naddress"))
		closeLog(t, l)
		_ = l.Record(stranger("203.0.113.7"))
		err := Search(os.DirFS(o.Dir), Filter{Denied: true}, func(r *Record, text []byte) error {
			if r.Required || r.Source != "unknown" || strings.ContainsAny(string(text), "\n") {
				t.Errorf("%s", text)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// refusal is one of a caller who proved to be a tenant's.
func refusal(id tenant.ID, class authz.Class) *Entry {
	return &Entry{
		Time: time.Now().UnixMicro(), Class: class, Tenant: id, Principal: "k1", Scheme: authz.APIKey,
		Method: "GET", Path: "/v1/calls", Reason: "over_limit",
	}
}

func TestRefusalsOfATenantAreBounded(t *testing.T) {
	t.Run("a tenant that hammers is recorded singly up to its rate, then counted, and hides nobody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			const seconds, each = 5, 4000
			for range seconds {
				for range each {
					record(t, l, refusal("noisy", authz.BestEffort))
				}
				record(t, l, refusal("quiet", authz.BestEffort))
				time.Sleep(time.Second)
			}
			closeLog(t, l)
			single, summed, _ := totalsOf(t, o.Dir, "over_limit")
			if single+summed != seconds*(each+1) {
				t.Errorf("%d singly, %d summed up, of %d", single, summed, seconds*(each+1))
			}
			if n := count(t, o.Dir, Filter{Tenant: "quiet"}); n != seconds {
				t.Errorf("%d records of the quiet tenant, want %d", n, seconds)
			}
			if most := 200 + (seconds+1)*50 + seconds; single > most {
				t.Errorf("%d records singly, want at most %d", single, most)
			}
			intact(t, o.Dir)
		})
	})
	t.Run("a refusal by a rule that requires a record is always one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			for range 1000 {
				record(t, l, refusal("acme", authz.Required))
			}
			closeLog(t, l)
			if n := count(t, o.Dir, Filter{Tenant: "acme"}); n != 1000 {
				t.Errorf("%d records, want 1000", n)
			}
		})
	})
}

// What the soft stage kept from being a refusal floods no more than refusals do, and is found by the reason that it would have had.
func TestWhatTheSoftStageOverlooksIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options(t)
		l := open(t, o)
		for range 1000 {
			e := stranger("203.0.113.7")
			e.Allowed, e.Reason, e.ShadowReason = true, "admitted", "unauthenticated"
			_ = l.Record(e)
			e = entry(authz.BestEffort)
			e.Tenant, e.Allowed, e.Reason, e.ShadowReason = "acme", true, "admitted", "over_limit"
			_ = l.Record(e)
		}
		closeLog(t, l)
		for reason, burst := range map[string]int{"unauthenticated": 20, "over_limit": 200} {
			if single, summed, _ := totalsOf(t, o.Dir, reason); single != burst || single+summed != 1000 {
				t.Errorf("%s: %d singly, %d summed up", reason, single, summed)
			}
		}
		err := Search(os.DirFS(o.Dir), Filter{}, func(r *Record, _ []byte) error {
			if r.Allowed == nil || !*r.Allowed || r.Reason != "admitted" || r.Shadow == nil || *r.Shadow {
				t.Errorf("%+v", r)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		intact(t, o.Dir)
	})
}
