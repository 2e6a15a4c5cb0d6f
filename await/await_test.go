package await

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		later := func() bool { return time.Since(began) >= time.Second }
		if took := Within(t, time.Second, "a second has passed", later); took != time.Second {
			t.Errorf("it took %v", took)
		}
		if took := Within(t, 0, "it holds already", later); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// failing is a test that may fail.
type failing struct {
	testing.TB
	said string
}

func (*failing) Helper() {}

func (f *failing) Fatalf(format string, _ ...any) { f.said = format; panic(f) }

func TestWhatNeverHoldsFailsTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{}
		defer func() {
			if recover() != f || f.said == "" {
				t.Error("nothing failed")
			}
		}()
		That(f, "never", func() bool { return false })
	})
}
