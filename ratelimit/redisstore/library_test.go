package redisstore

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// Who changes the functions' text changes this line, and asks whether builds with the
// former text, which go on beside it, read the same cells alike. If not, Version goes up.
func TestTheTextIsTheOneThatWasReviewed(t *testing.T) {
	const want = "sluice_2_e332a69742e4"
	if functionName != want {
		t.Errorf("the functions are called %s, want %s: their text has changed", functionName, want)
	}
}

// other loads what another build of the same version would: functions that answer nonsense.
func other(t *testing.T, c redis.UniversalClient) (name string) {
	t.Helper()
	name = nameFor(body + "\n-- another build")
	text := strings.ReplaceAll("#!lua name=NAME\nredis.register_function('NAME', function() return 'other' end)\n"+
		"redis.register_function{function_name='NAME_hello', flags={'no-writes'}, callback=function() return 1 end}", "NAME", name)
	if err := c.FunctionLoadReplace(context.Background(), text).Err(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOpenRefusesAnotherBuildsText(t *testing.T) {
	ctx := context.Background()
	c := connect(t, redistest.Start(t).Addr)
	o := Options{Client: c}
	if err := Migrate(ctx, o); err != nil {
		t.Fatal(err)
	}
	c.FunctionFlush(ctx)
	other(t, c)
	err := tryOpen(o)
	if err == nil || !strings.Contains(err.Error(), functionName) || !strings.Contains(err.Error(), "another build's") || !strings.Contains(err.Error(), "run 'sluiced migrate'") {
		t.Errorf("only another build's functions: %v", err)
	}
}

func TestTwoTextsOfAVersionRunSideBySide(t *testing.T) {
	ctx := context.Background()
	c := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: c})
	name := other(t, c)
	l := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour)
	if _, err := chargeOne(s, cellOf(1), l, 3); err != nil {
		t.Errorf("beside another text: %v", err)
	}
	if err := c.FunctionDelete(ctx, functionName).Err(); err != nil {
		t.Fatal(err)
	}
	if o, err := chargeOne(s, cellOf(1), l, 1); err != nil || o.Remaining != 6 || s.Stats().Reloads != 1 {
		t.Errorf("after its own text vanished: %+v, %v, loaded again %d times, want 6 left and once", o, err, s.Stats().Reloads)
	}
	if got, err := c.FCall(ctx, name, nil).Text(); err != nil || got != "other" {
		t.Errorf("the other text answers %q, %v: it was replaced", got, err)
	}
}
