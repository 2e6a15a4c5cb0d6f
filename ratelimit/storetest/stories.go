package storetest

import (
	"math"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

const never = ratelimit.Never

func gcra(hits int64, window time.Duration, burst int64) *ratelimit.Limit {
	l := newLimit(ratelimit.GCRA, hits, window)
	l.Burst = burst
	return l
}

func hard(hits int64, window time.Duration) *ratelimit.Limit {
	return newLimit(ratelimit.Hard, hits, window)
}

func fixed(hits int64, window time.Duration) *ratelimit.Limit {
	return newLimit(ratelimit.Fixed, hits, window)
}

type outcome = ratelimit.Outcome

var stories = []story{
	{"gcra admits the burst, then the rate", gcra(10, time.Second, 5), []step{
		{hits: 1, n: 7, admitted: 5, want: &outcome{Over: true, ResetAfter: 500_000, RetryAfter: 100_000}},
		{at: 99_999, hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 400_001, RetryAfter: 1}},
		{at: 100_000, hits: 1, n: 2, admitted: 1},
		{at: 10 * second, hits: 1, n: 1, admitted: 1, want: &outcome{Remaining: 4, ResetAfter: 100_000}},
	}},
	{"gcra takes several hits or none", gcra(10, time.Second, 10), []step{
		{hits: 7, n: 1, admitted: 1, want: &outcome{Remaining: 3, ResetAfter: 700_000}},
		{hits: 4, n: 1, admitted: 0, want: &outcome{Over: true, Remaining: 3, ResetAfter: 700_000, RetryAfter: 100_000}},
		{hits: 3, n: 1, admitted: 1},
	}},
	{"gcra rounds against the caller", gcra(3, time.Second, 1), []step{
		{hits: 1, n: 1, admitted: 1, want: &outcome{ResetAfter: 333_334}},
		{at: 333_333, hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 1, RetryAfter: 1}},
		{at: 333_334, hits: 1, n: 1, admitted: 1},
	}},
	{"gcra raised holds at once", gcra(10, time.Second, 10), []step{
		{hits: 1, n: 20, admitted: 10},
		{limit: gcra(100, time.Second, 20), hits: 1, n: 20, admitted: 10},
		{at: 10_000, hits: 1, n: 2, admitted: 1},
	}},
	{"gcra lowered holds at once", gcra(100, time.Second, 100), []step{
		{hits: 1, n: 60, admitted: 60},
		{limit: gcra(10, time.Second, 10), hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 600_000, RetryAfter: 600_000}},
	}},
	{"hard admits the limit and frees it a window later", hard(60, time.Minute), []step{
		{hits: 1, n: 70, admitted: 60, want: &outcome{Over: true, ResetAfter: 60 * second, RetryAfter: 60 * second}},
		{at: 60*second - 1, hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 1, RetryAfter: 1}},
		{at: 60 * second, hits: 1, n: 70, admitted: 60},
	}},
	{"hard frees what was first first", hard(10, time.Minute), []step{
		{hits: 1, n: 5, admitted: 5},
		{at: 30 * second, hits: 1, n: 9, admitted: 5},
		{at: 30 * second, hits: 6, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 60 * second, RetryAfter: 60 * second}},
		{at: 30 * second, hits: 5, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 60 * second, RetryAfter: 30 * second}},
		{at: 60 * second, hits: 5, n: 1, admitted: 1},
	}},
	{"hard frees hits by 120ths of the limit", hard(240, time.Minute), []step{
		{hits: 1, n: 1, admitted: 1},
		{at: second, hits: 1, n: 2, admitted: 2},
		{at: 2 * second, hits: 1, n: 300, admitted: 237, want: &outcome{Over: true, ResetAfter: 60 * second, RetryAfter: 59 * second}},
		{at: 60 * second, hits: 1, n: 1, admitted: 0},
		{at: 61 * second, hits: 1, n: 9, admitted: 2, want: &outcome{Over: true, ResetAfter: 60 * second, RetryAfter: second}},
		{at: 62 * second, hits: 238, n: 1, admitted: 1},
	}},
	{"hard rounds against the caller", hard(1, time.Minute), []step{ // a tick is a millisecond
		{at: 1, hits: 1, n: 1, admitted: 1, want: &outcome{ResetAfter: 60*second + 999}},
		{at: 60 * second, hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 1000, RetryAfter: 1000}},
		{at: 60*second + 1000, hits: 1, n: 1, admitted: 1},
	}},
	{"hard raised and lowered keeps what was used", hard(10, time.Minute), []step{
		{hits: 1, n: 20, admitted: 10},
		{limit: hard(15, time.Minute), at: 10, hits: 1, n: 20, admitted: 5},
		{limit: hard(5, time.Minute), at: 20, hits: 1, n: 20, admitted: 0},
	}},
	{"hard raised counts what was used in larger parts", hard(120, time.Minute), []step{
		{hits: 1, n: 1, admitted: 1},
		{at: second, hits: 1, n: 200, admitted: 119},
		{limit: hard(240, time.Minute), at: 2 * second, hits: 1, n: 200, admitted: 120},
		{limit: hard(240, time.Minute), at: 60 * second, hits: 1, n: 1, admitted: 0},
		{limit: hard(240, time.Minute), at: 61 * second, hits: 1, n: 200, admitted: 120},
	}},
	{"hard lowered and raised again forgets nothing", hard(1200, time.Minute), []step{
		{hits: 1, n: 1200, admitted: 1200},
		{limit: hard(12, time.Minute), at: second, hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 59 * second, RetryAfter: 59 * second}},
		{limit: hard(1210, time.Minute), at: 2 * second, hits: 1, n: 20, admitted: 10},
		{limit: hard(12, time.Minute), at: 60 * second, hits: 1, n: 20, admitted: 1}, // one of the 1200 is counted with the 10
	}},
	{"hard with another window keeps what was used", hard(10, time.Minute), []step{
		{hits: 1, n: 20, admitted: 10},
		{limit: hard(10, 2*time.Minute), at: 50 * second, hits: 1, n: 1, admitted: 0, want: &outcome{Over: true, ResetAfter: 10 * second, RetryAfter: 10 * second}},
		{limit: hard(10, 10*time.Second), at: 50 * second, hits: 1, n: 1, admitted: 1},
	}},
	{"fixed counts from edge to edge", fixed(10, time.Minute), []step{
		{at: 59 * second, hits: 1, n: 20, admitted: 10, want: &outcome{Over: true, ResetAfter: second, RetryAfter: second}},
		{at: 60 * second, hits: 1, n: 20, admitted: 10},
	}},
	{"fixed raised and lowered keeps the count", fixed(10, time.Minute), []step{
		{hits: 1, n: 20, admitted: 10},
		{limit: fixed(15, time.Minute), hits: 1, n: 20, admitted: 5},
		{limit: fixed(3, time.Minute), hits: 1, n: 20, admitted: 0},
		{limit: fixed(3, time.Minute), at: 60 * second, hits: 1, n: 20, admitted: 3},
	}},
	{"fixed with a longer window carries the count", fixed(10, time.Minute), []step{
		{hits: 1, n: 8, admitted: 8},
		{limit: fixed(10, time.Hour), at: second, hits: 1, n: 20, admitted: 2},
		{at: 61 * second, hits: 1, n: 1, admitted: 0},
	}},
	{"fixed with a shorter window carries the count into one", fixed(10, time.Hour), []step{
		{hits: 1, n: 8, admitted: 8},
		{limit: fixed(10, time.Minute), at: second, hits: 1, n: 20, admitted: 2},
		{at: 60 * second, hits: 1, n: 20, admitted: 10},
	}},
	{"fixed takes hits back, not below nothing", fixed(10, time.Minute), []step{
		{hits: 1, n: 10, admitted: 10},
		{hits: -3, n: 1, admitted: 1, want: &outcome{Remaining: 3, ResetAfter: 60 * second}},
		{hits: 1, n: 10, admitted: 3},
		{hits: -100, n: 1, admitted: 1, want: &outcome{Remaining: 10}},
		{hits: math.MinInt64, n: 1, admitted: 1, want: &outcome{Remaining: 10}},
		{hits: 1, n: 20, admitted: 10},
	}},
	{"gcra takes nothing back", gcra(10, time.Minute, 10), []step{
		{hits: 1, n: 10, admitted: 10}, {hits: -5, n: 1, admitted: 1}, {hits: 1, n: 1, admitted: 0},
	}},
	{"hard takes nothing back", hard(10, time.Minute), []step{
		{hits: 1, n: 10, admitted: 10}, {hits: -5, n: 1, admitted: 1}, {hits: 1, n: 1, admitted: 0},
	}},
	{"hits of 0 look and change nothing", fixed(2, time.Minute), []step{
		{hits: 0, n: 10, admitted: 10, want: &outcome{Remaining: 2}},
		{hits: 1, n: 2, admitted: 2},
		{hits: 0, n: 10, admitted: 10, want: &outcome{ResetAfter: 60 * second}},
	}},
	{"gcra of 0 denies all", gcra(0, time.Minute, 10), []step{{hits: 1, n: 3, admitted: 0, want: &outcome{Over: true, RetryAfter: never}}}},
	{"hard of 0 denies all", hard(0, time.Minute), []step{{hits: 1, n: 3, admitted: 0, want: &outcome{Over: true, RetryAfter: never}}}},
	{"fixed of 0 denies all", fixed(0, time.Minute), []step{
		{hits: 1, n: 3, admitted: 0, want: &outcome{Over: true, RetryAfter: never}},
		{hits: 0, n: 1, admitted: 1},
	}},
	{"unlimited admits all", gcra(ratelimit.Unlimited, time.Minute, 1), []step{{hits: math.MaxInt64, n: 3, admitted: 3}}},
	{"gcra never fits more than the burst", gcra(10, time.Minute, 10), []step{
		{hits: math.MaxInt64, n: 2, admitted: 0, want: &outcome{Over: true, Remaining: 10, RetryAfter: never}},
		{hits: 11, n: 1, admitted: 0, want: &outcome{Over: true, Remaining: 10, RetryAfter: never}},
		{hits: 10, n: 1, admitted: 1},
	}},
	{"hard never fits more than the limit", hard(10, time.Minute), []step{
		{hits: math.MaxInt64, n: 2, admitted: 0, want: &outcome{Over: true, Remaining: 10, RetryAfter: never}},
		{hits: 10, n: 1, admitted: 1},
	}},
	{"fixed never fits more than the limit", fixed(10, time.Minute), []step{
		{hits: math.MaxInt64, n: 2, admitted: 0, want: &outcome{Over: true, Remaining: 10, RetryAfter: never}},
		{hits: 10, n: 1, admitted: 1},
	}},
	{"the largest gcra does not overflow", gcra(ratelimit.MaxHits, ratelimit.MaxWindow, ratelimit.MaxHits), []step{
		{hits: ratelimit.MaxHits, n: 2, admitted: 1}, {hits: 1, n: 1, admitted: 0},
	}},
	{"the slowest gcra does not overflow", gcra(1, ratelimit.MaxWindow, ratelimit.MaxHits), []step{
		{hits: ratelimit.MaxHits, n: 2, admitted: 1}, {hits: 1, n: 1, admitted: 0},
	}},
}
