package api

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
)

func quote(s string) string { return strconv.Quote(s) }

func limitsOut(limits []quota.Limit) []*quotav1.Limit {
	out := make([]*quotav1.Limit, len(limits))
	for i, l := range limits {
		out[i] = &quotav1.Limit{
			Name:        l.Name,
			Algorithm:   l.Algorithm,
			Limit:       l.Limit,
			Window:      durationpb.New(l.Window),
			Burst:       l.Burst,
			Enforcement: l.Enforcement,
			Durable:     l.Durable,
			At:          l.At,
			OnOutage:    l.OnOutage,
		}
	}
	return out
}

// limitsIn reads limits; what they may say is checked where the catalogue is compiled.
func limitsIn(field string, limits []*quotav1.Limit, v *violations) []quota.Limit {
	if len(limits) == 0 {
		return nil
	}
	in := make([]quota.Limit, len(limits))
	for i, l := range limits {
		if w := l.GetWindow(); w != nil && w.CheckValid() != nil {
			v.add(field+"["+strconv.Itoa(i)+"].window", "no duration; write one like '60s'")
		}
		in[i] = quota.Limit{
			Name:        l.GetName(),
			Algorithm:   l.GetAlgorithm(),
			Limit:       l.GetLimit(),
			Window:      l.GetWindow().AsDuration(),
			Burst:       l.GetBurst(),
			Enforcement: l.GetEnforcement(),
			At:          l.GetAt(),
			OnOutage:    l.GetOnOutage(),
		}
		if l.Durable != nil {
			in[i].Durable = proto.Bool(l.GetDurable())
		}
	}
	return in
}

// timestamp is nil for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
