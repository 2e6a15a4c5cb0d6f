package api

import (
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// B17: a request id stands for one request.
func TestARequestIDStandsForOneRequest(t *testing.T) {
	w := newWorld(t, "")
	create := func(id, plan string, n int64) (*quotav1.Plan, error) {
		return w.CreatePlan(signed(t), &quotav1.CreatePlanRequest{RequestId: id, PlanId: plan, Plan: &quotav1.Plan{Limits: []*quotav1.Limit{limit("hourly", n)}}})
	}
	first, err := create("r1", "gold", 5)
	must(t, err)

	t.Run("a retry gets the first answer", func(t *testing.T) {
		again, err := create("r1", "gold", 5)
		must(t, err)
		if !proto.Equal(first, again) {
			t.Errorf("got %v, want %v", again, first)
		}
	})
	t.Run("even after the resource changed", func(t *testing.T) {
		_, err := w.UpdatePlan(signed(t), &quotav1.UpdatePlanRequest{Plan: &quotav1.Plan{Name: "plans/gold", DisplayName: "Gold"}})
		must(t, err)
		again, err := create("r1", "gold", 5)
		must(t, err)
		if !proto.Equal(first, again) {
			t.Errorf("got %v, want %v", again, first)
		}
	})
	t.Run("another body under it is refused and told nothing", func(t *testing.T) {
		_, err := create("r1", "gold", 6)
		wantFields(t, refused(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED"), "request_id")
		if strings.Contains(err.Error(), "gold") {
			t.Errorf("the refusal says what the first request was: %v", err)
		}
		_, err = create("r1", "silver", 5)
		refused(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	})
	t.Run("another method under it is refused", func(t *testing.T) {
		_, err := w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: "plans/gold", RequestId: "r1"})
		refused(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	})
	t.Run("a refused request leaves its id free", func(t *testing.T) {
		_, err := create("r2", "bad", -1)
		refused(t, err, codes.InvalidArgument, "INVALID_FIELD")
		_, err = create("r2", "good", 1)
		must(t, err)
	})
	t.Run("a deletion is answered twice", func(t *testing.T) {
		for range 2 {
			_, err := w.DeletePlan(signed(t), &quotav1.DeletePlanRequest{Name: "plans/good", RequestId: "r3"})
			must(t, err)
		}
	})
	t.Run("an id that no one would choose is refused", func(t *testing.T) {
		for _, id := range []string{" ", "a/b", "ä", "a\x00", strings.Repeat("a", 65)} {
			_, err := create(id, "gold", 5)
			wantFields(t, refused(t, err, codes.InvalidArgument, "INVALID_FIELD"), "request_id")
		}
	})
	t.Run("after more than a day it is forgotten", func(t *testing.T) {
		w.now = w.now.Add(25 * time.Hour)
		_, err := create("r1", "gold", 5)
		refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
	})
}

func TestARetryDoesNotShowASecretTwice(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	r := &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", RequestId: "once"}
	made, err := w.CreateApiKey(signed(t), r)
	must(t, err)
	_, err = w.CreateApiKey(signed(t), r)
	refused(t, err, codes.AlreadyExists, "SECRET_SHOWN_BEFORE")
	if !strings.Contains(err.Error(), made.GetApiKey().GetName()) {
		t.Errorf("%v doesn't name the key", err)
	}
	secret := made.GetSecret()[len("slk_12345678_"):]
	if strings.Contains(err.Error(), secret) {
		t.Error("the retry shows the secret")
	}
	list, err := w.ListApiKeys(signed(t), &quotav1.ListApiKeysRequest{Parent: "tenants/acme"})
	must(t, err)
	if len(list.GetApiKeys()) != 1 {
		t.Errorf("%d keys after one request and its retry", len(list.GetApiKeys()))
	}
}

func TestTheMethodIsPartOfTheRequest(t *testing.T) {
	r := &quotav1.DeletePlanRequest{Name: "plans/gold"}
	one, err := bodyHash("/a/B", r)
	must(t, err)
	other, err := bodyHash("/a/C", r)
	must(t, err)
	again, err := bodyHash("/a/B", r)
	must(t, err)
	if one == other || one != again {
		t.Errorf("hashes %x, %x and %x", one, other, again)
	}
}

func TestConcurrentRetriesMakeOneKey(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t)
	var group sync.WaitGroup
	secrets := make([]string, 16)
	for i := range secrets {
		group.Go(func() {
			made, err := w.CreateApiKey(signed(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", RequestId: "once"})
			if err == nil {
				secrets[i] = made.GetSecret()
			}
		})
	}
	group.Wait()
	shown := 0
	for _, s := range secrets {
		if s != "" {
			shown++
		}
	}
	if shown != 1 {
		t.Errorf("%d secrets shown, want 1", shown)
	}
}
