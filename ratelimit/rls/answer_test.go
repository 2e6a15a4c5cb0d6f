package rls

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// broken is a store that fails.
type broken struct{}

func (broken) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	return false, errors.New("the store is gone")
}

func TestWhatACallCameToIsTold(t *testing.T) {
	const secret = "whatever-the-caller-sent"
	for _, c := range []struct {
		name   string
		change func(*Options)
		asks   []*ratelimitv3.RateLimitRequest
		want   string
	}{
		{"what passes, and what it met", nil, []*ratelimitv3.RateLimitRequest{ask("messaging", []string{"path", "/api/" + secret}, []string{"free", secret})},
			"ok true messaging [messaging.path_/api/* messaging.free] "},
		{"which limit refused", nil, []*ratelimitv3.RateLimitRequest{ask("messaging", []string{"kind", secret}, []string{"banned", secret})},
			"over_limit false messaging [messaging.kind messaging.banned] messaging.banned"},
		{"no limit of those in shadow as one that refused", nil, []*ratelimitv3.RateLimitRequest{ask("messaging", []string{"watched", secret}), ask("messaging", []string{"watched", secret})},
			"ok true messaging [messaging.watched] "},
		{"no value where the metric has them", nil, []*ratelimitv3.RateLimitRequest{ask("extensions", []string{"detailed", secret})},
			"ok true extensions [extensions.detailed] "},
		{"no domain that no file describes", nil, []*ratelimitv3.RateLimitRequest{ask(secret, []string{"kind", secret})},
			"unknown_domain true  [] "},
		{"that one where it is refused", func(o *Options) { o.UnknownDomain = Deny }, []*ratelimitv3.RateLimitRequest{ask(secret, []string{"kind", secret})},
			"unknown_domain false  [] "},
		{"nothing of what can't be counted", nil, []*ratelimitv3.RateLimitRequest{ask("messaging", []string{"", secret})},
			"malformed false  [] "},
		{"a store that fails", func(o *Options) { o.Gate = broken{} }, []*ratelimitv3.RateLimitRequest{ask("messaging", []string{"kind", secret})},
			"store_failed false messaging [messaging.kind] "},
		{"at most as many limits as are wanted", nil, []*ratelimitv3.RateLimitRequest{ask("messaging", []string{"kind", "a"}, []string{"kind", "b"}, []string{"kind", "c"}, []string{"banned", "d"})},
			"over_limit false messaging [messaging.kind messaging.kind messaging.kind] messaging.banned"},
	} {
		t.Run(c.name+" is told", func(t *testing.T) {
			var told []string
			f := open(t, func(o *Options) {
				if c.change != nil {
					c.change(o)
				}
				o.Observe = func(_ context.Context, began time.Time, a Answer) {
					names, refused := a.Limits(3)
					told = append(told, fmt.Sprintf("%s %t %s %v %s", a.Result(), a.Passes(), a.Domain(), names, refused))
					if began.IsZero() {
						t.Error("it never began")
					}
				}
			})
			for _, m := range c.asks {
				f.ask(m)
			}
			if len(told) != len(c.asks) || told[len(told)-1] != c.want || strings.Contains(fmt.Sprint(told), secret) {
				t.Errorf("told %q, want the last to be %q", told, c.want)
			}
		})
	}
}
