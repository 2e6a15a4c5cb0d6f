package api

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// algorithmNames are the catalogue's words.
var algorithmNames = map[ratelimit.Algorithm]string{
	ratelimit.GCRA:  "gcra",
	ratelimit.Hard:  "hard",
	ratelimit.Fixed: "fixed",
}

func (s *server) getUsage(r *quotav1.GetUsageRequest, _ *Act) (*quotav1.Usage, error) {
	of, err := parseUsage("name", r.GetName())
	if err != nil {
		return nil, err
	}
	account := s.catalog.Snapshot().Account(of)
	if account == nil {
		return nil, notFound(tenantName(of))
	}
	now := s.now().Truncate(time.Microsecond) // counters know no shorter time, and a window ends on a whole one
	charges := slices.Clone(account.Charges)
	for i := range charges {
		charges[i].Hits = 0 // look, don't charge
	}
	outcomes := make([]ratelimit.Outcome, len(charges))
	if _, err := s.store.Charge(ratelimit.Operation{Now: now.UnixMicro()}, charges, outcomes); err != nil {
		s.log.Warn("quota API: usage can't be read", "tenant", of, "error", err)
		return nil, unreadable()
	}
	for i := range outcomes {
		if outcomes[i].Degraded { // a replica's share is no answer to what the tenant has used
			return nil, unreadable()
		}
	}
	answer := &quotav1.Usage{Name: r.GetName(), Plan: planNames.name(account.Plan), ReadTime: timestamppb.New(now)}
	for i := range charges {
		answer.Limits = append(answer.Limits, limitUsage(charges[i].Limit, outcomes[i], now))
	}
	slices.SortStableFunc(answer.Limits, func(a, b *quotav1.LimitUsage) int {
		return cmp.Or(cmp.Compare(b.GetRatio(), a.GetRatio()), cmp.Compare(a.GetLimitName(), b.GetLimitName()))
	})
	return answer, nil
}

func unreadable() error {
	return fail(codes.Unavailable, "STORE_UNAVAILABLE", "usage can't be read right now; try again", retryInfo(time.Second))
}

func limitUsage(l *ratelimit.Limit, o ratelimit.Outcome, now time.Time) *quotav1.LimitUsage {
	u := &quotav1.LimitUsage{
		LimitName: l.Name,
		Algorithm: algorithmNames[l.Algorithm],
		Limit:     l.Hits,
		Window:    durationpb.New(l.Window),
		Capacity:  l.Hits,
		Shadow:    l.Shadow,
	}
	switch {
	case l.Hits == ratelimit.Unlimited:
		u.Remaining = ratelimit.Unlimited
		return u
	case l.Hits == 0:
		u.Ratio = 1
		return u
	case l.Algorithm == ratelimit.GCRA:
		u.Capacity = l.Burst
	}
	u.Remaining = min(max(o.Remaining, 0), u.GetCapacity())
	u.Used = u.GetCapacity() - u.GetRemaining()
	u.Ratio = float64(u.GetUsed()) / float64(u.GetCapacity())
	u.ResetTime = timestamppb.New(now.Add(time.Duration(o.ResetAfter) * time.Microsecond))
	return u
}
