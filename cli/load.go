package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

const (
	phaseSeconds = 4                      // how long each of the three phases takes
	spread       = 800 * time.Millisecond // requests are offered in the first part of each second,
	slack        = time.Second - spread   // and one that is answered later than this may have met the next window
	patience     = 5 * time.Second        // for one answer
	tries        = 5                      // of one phase
)

// row is one phase of one tenant.
type row struct {
	*customer
	factor   string
	sent     int
	status   map[int]int
	refused  http.Header // of one 429
	low      int         // fewest 200s that the plan allows
	high     int         // most
	late     time.Duration
	firstErr error
}

// counts are the 200s, the 429s, and what should not be there.
func (r *row) counts() (ok, limited, other int) {
	ok, limited = r.status[http.StatusOK], r.status[http.StatusTooManyRequests]
	return ok, limited, r.sent - ok - limited
}

// fits reports whether the answers are what the plan says.
func (r *row) fits() bool {
	ok, _, other := r.counts()
	return other == 0 && r.low <= ok && ok <= r.high
}

type phase struct {
	name     string
	num, den int
}

// drive sends three phases for both tenants side by side. Each phase starts on a
// second of the wall clock, with every bucket full again.
//
// A machine that is busy with something else answers late, some requests meet
// the window after theirs, and the counts say nothing about the plan: such a
// phase is sent again. Counts that are wrong though all came in time stay wrong.
func (d *demo) drive(ctx context.Context, client *http.Client, url string, tenants []*customer) (rows []*row, err error) {
	for _, p := range []phase{{"0.5×", 1, 2}, {"1×", 1, 1}, {"5×", 5, 1}} {
		d.say("sending %s of each limit for %d s …", p.name, phaseSeconds)
		for try := 1; ; try++ {
			sent, err := send(ctx, client, url, p, tenants)
			if err != nil {
				return nil, err
			}
			late := slices.MaxFunc(sent, func(a, b *row) int { return cmp.Compare(a.late, b.late) }).late
			if late <= slack || !slices.ContainsFunc(sent, func(r *row) bool { return !r.fits() }) {
				rows = append(rows, sent...)
				break
			}
			if try == tries {
				return nil, fmt.Errorf("this machine is too busy to show it: answers came up to %v late, and more than %v blurs the edges of seconds; try again when it is idle",
					late.Round(time.Millisecond), slack)
			}
			d.repeated++
			d.say("  … answers came up to %v late, so the counts say nothing; once more", late.Round(time.Millisecond))
		}
	}
	slices.SortStableFunc(rows, func(a, b *row) int { return cmp.Compare(a.tenant, b.tenant) })
	return rows, nil
}

// send sends one phase for all tenants side by side.
func send(ctx context.Context, client *http.Client, url string, p phase, tenants []*customer) (rows []*row, err error) {
	done := make(chan *row, len(tenants))
	start := time.Now().Truncate(time.Second).Add(2 * time.Second)
	for _, c := range tenants {
		r := &row{customer: c, factor: p.name, status: map[int]int{}}
		rows = append(rows, r)
		go func() {
			r.send(ctx, client, url, start, c.rate*p.num/p.den)
			done <- r
		}()
	}
	for range tenants {
		r := <-done
		if r.firstErr != nil {
			err = fmt.Errorf("request of %s through Envoy: %w", r.tenant, r.firstErr)
		}
		ok, _, other := r.counts()
		r.admitted += ok
		r.unknown += other
	}
	return rows, errors.Join(err, ctx.Err())
}

// send offers perSecond requests in the first part of each second, and works
// out what the plan admits of them.
func (r *row) send(ctx context.Context, client *http.Client, url string, start time.Time, perSecond int) {
	type answer struct {
		status int
		header http.Header
		late   time.Duration
		err    error
	}
	r.sent = perSecond * phaseSeconds
	answers := make(chan answer, r.sent)
	for i := range r.sent {
		due := start.Add(time.Duration(i/perSecond)*time.Second + time.Duration(i%perSecond)*spread/time.Duration(perSecond))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return
		}
		go func() {
			status, header, err := get(ctx, client, url, r.key)
			answers <- answer{status, header, time.Since(due), err}
		}()
	}
	for range r.sent {
		a := <-answers
		r.late = max(r.late, a.late)
		if a.err != nil && !isTimeout(a.err) {
			r.firstErr = a.err
			continue
		}
		r.status[a.status]++
		if a.status == http.StatusTooManyRequests && r.refused == nil {
			r.refused = a.header
		}
	}
	r.expect(time.Since(start))
}

// isTimeout tells an answer that never came from an error that would come again.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// expect computes the bounds from the plan alone: an aligned window admits its
// limit, GCRA admits burst + rate·τ over the time τ that the phase took.
func (r *row) expect(took time.Duration) {
	covered := r.rate * phaseSeconds
	if r.sent <= covered {
		r.low, r.high = r.sent, r.sent
		return
	}
	if r.burst == 0 {
		r.low, r.high = covered, covered
		return
	}
	offered := (phaseSeconds-1)*time.Second + spread
	r.high = r.burst + int(float64(r.rate)*took.Seconds())
	r.low = (r.burst + int(float64(r.rate)*offered.Seconds())) * 98 / 100
}

func get(ctx context.Context, client *http.Client, url, key string) (int, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/calls", nil)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("x-api-key", key)
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Header, errors.Join(err, response.Body.Close())
}
