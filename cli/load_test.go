package cli

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// limiter is a service behind a fixed limit, which may be slow and may miscount.
type limiter struct {
	rate  int
	delay func(n int) time.Duration // before the n-th request meets the limit

	mu      sync.Mutex
	n       int
	windows map[int64]int
}

type timeoutError struct{ error }

func (timeoutError) Timeout() bool { return true }

func (l *limiter) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	l.n++
	n := l.n
	l.mu.Unlock()
	<-time.After(l.delay(n))
	if l.delay(n) >= patience {
		return nil, timeoutError{errors.New("timeout")}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().Unix()
	l.windows[now]++
	status := http.StatusOK
	if l.windows[now] > l.rate {
		status = http.StatusTooManyRequests
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

func TestOnlyLateAnswersAreSentAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		rate     int // what the service does; the plan says 20
		delay    func(n int) time.Duration
		wrong    int // rows
		repeated int
		err      string
	}{
		{"a service in time counts at once", 20, func(int) time.Duration { return 5 * time.Millisecond }, 0, 0, ""},
		{"answers that are late and right count", 20, func(n int) time.Duration {
			if n == 1 {
				return 300 * time.Millisecond
			}
			return 0
		}, 0, 0, ""},
		{"a request that slips into the next second is sent again", 20, func(n int) time.Duration {
			if n == 60 { // the last of a second, of the phase at 1×
				return 500 * time.Millisecond
			}
			return 0
		}, 0, 1, ""},
		{"an answer that never comes is sent again", 20, func(n int) time.Duration {
			if n == 7 {
				return patience
			}
			return 0
		}, 0, 1, ""},
		{"a service that admits one too many in time is wrong", 21, func(int) time.Duration { return 0 }, 1, 0, ""},
		{"a service that is always late is an error", 20, func(n int) time.Duration { return 900 * time.Millisecond }, 0, tries - 1, "too busy to show it: answers came up to 900ms late"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &limiter{rate: c.rate, delay: c.delay, windows: map[int64]int{}}
				var out bytes.Buffer
				d := &demo{out: &out}
				umbrella := &customer{tenant: "umbrella", rate: 20}
				rows, err := d.drive(t.Context(), &http.Client{Transport: l}, "http://demo", []*customer{umbrella})
				if c.err != "" {
					if err == nil || !strings.Contains(err.Error(), c.err) {
						t.Errorf("%v, want %q", err, c.err)
					}
				} else if err != nil {
					t.Fatal(err)
				}
				wrong := 0
				for _, r := range rows {
					if !r.fits() {
						wrong++
					}
				}
				if wrong != c.wrong || d.repeated != c.repeated {
					t.Errorf("%d rows wrong, %d phases again, want %d and %d\n%s", wrong, d.repeated, c.wrong, c.repeated, out.String())
				}
				admitted := 0
				for _, n := range l.windows {
					admitted += min(n, c.rate)
				}
				if umbrella.admitted != admitted {
					t.Errorf("%d admissions counted over all tries, want %d", umbrella.admitted, admitted)
				}
			})
		})
	}
}
