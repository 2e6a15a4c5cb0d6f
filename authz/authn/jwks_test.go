package authn_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

// idp publishes keys, or fails, slowly or at once.
type idp struct {
	mu      sync.Mutex
	body    map[string]string // by URL; none is a failure
	delay   time.Duration
	panics  bool
	fetches map[string]int
	inside  []bool // whether private addresses were allowed
}

func (i *idp) fetch(ctx context.Context, url string, allowPrivate bool) ([]byte, error) {
	i.mu.Lock()
	i.fetches[url]++
	i.inside = append(i.inside, allowPrivate)
	body, ok := i.body[url]
	delay, panics := i.delay, i.panics
	i.mu.Unlock()
	if panics {
		panic("a bug in a library")
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !ok {
		return nil, errors.New("connection refused")
	}
	return []byte(body), nil
}

func (i *idp) publish(url, body string) { i.set(func() { i.body[url] = body }) }

func (i *idp) set(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *idp) count(url string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches[url]
}

const (
	mainKeys  = "https://id.example.com/keys"
	claimKeys = "https://claim.example.com/keys"
)

// scene is an authenticator whose time is synctest's.
type scene struct {
	*idp
	t        *testing.T
	a        *authn.Authenticator
	sets     *authn.KeySets
	mu       sync.Mutex
	snapshot *quota.Snapshot
	n        int
}

// play runs f in a bubble with keys that Run keeps fresh.
func play(t *testing.T, start func(*idp), f func(*scene)) {
	synctest.Test(t, func(t *testing.T) {
		_, _ = p256(), other256() // made before the clock stands still
		s := &scene{idp: &idp{body: map[string]string{}, fetches: map[string]int{}}, t: t, snapshot: compile(t, 1, testIssuers())}
		start(s.idp)
		s.sets = authn.NewKeySets(authn.KeySetsOptions{Fetch: s.fetch, Issuers: func() *trust.Issuers {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.snapshot.Issuers
		}})
		s.a = authn.New(authn.Options{Pepper: pepper, KeySets: s.sets})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.sets.Run(ctx); close(done) }()
		synctest.Wait()
		f(s)
		stop()
		<-done
	})
}

// pass lets the bubble's time pass.
func (s *scene) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// token is good for an hour from the bubble's now. Each is another one.
func (s *scene) token(kid string, body m, key any) string {
	s.n++
	all := m{
		"exp": fmt.Sprint(time.Now().Add(time.Hour).Unix()), "iat": fmt.Sprint(time.Now().Unix()), "jti": fmt.Sprintf(`"%d"`, s.n),
	}
	for name, value := range body {
		all[name] = value
	}
	return sign(header(m{"kid": `"` + kid + `"`}), payload(all), "ES256", key)
}

func (s *scene) try(token string) error { return s.tryFor(s.t.Context(), token) }

func (s *scene) tryFor(ctx context.Context, token string) error {
	s.mu.Lock()
	snapshot := s.snapshot
	s.mu.Unlock()
	_, _, err := s.a.Identify(ctx, time.Now().UnixMicro(), snapshot, &authz.Credentials{Tokens: []string{token}})
	return err
}

func (s *scene) good(token string) {
	s.t.Helper()
	if err := s.try(token); err != nil {
		s.t.Errorf("refused: %v, %v", err, s.a.Refusals())
	}
}

func (s *scene) bad(token string) {
	s.t.Helper()
	if err := s.try(token); !errors.Is(err, authn.ErrBadCredential) {
		s.t.Errorf("got %v", err)
	}
}

func bothUp(i *idp) { i.body[mainKeys], i.body[claimKeys] = keyA, keyA }

var (
	keyA    = jwks(jwk("a", "", p256().Public()))
	keyB    = jwks(jwk("b", "", other256().Public()))
	keysAB  = jwks(jwk("a", "", p256().Public()), jwk("b", "", other256().Public()))
	keyAToo = jwks(jwk("a", "", other256().Public())) // another key under the old name
)

func TestJ01WithoutKeysNothingIsBelieved(t *testing.T) {
	play(t, func(i *idp) { i.body[claimKeys] = keyA }, func(s *scene) {
		s.bad(s.token("a", nil, p256()))
		if err := s.sets.Ready(s.t.Context()); err != nil {
			t.Errorf("one issuer that is down keeps the others out: %v", err)
		}
		s.good(s.token("a", m{"iss": `"https://claim.example.com"`, "org": `{"tenant":"acme"}`}, p256()))
		var names []string
		for _, status := range s.sets.Status() {
			names = append(names, status.Issuer)
			if status.Issuer == "realms" { // nobody has asked for one
				if status != (authn.KeySetStatus{Issuer: "realms", Realms: true}) {
					t.Errorf("%+v", status)
				}
			} else if down := status.Issuer == "main"; down != (status.Keys == 0) || down != (status.Sets == 0) || down != (status.Fetched == 0) || down != strings.Contains(status.Err, "refused") {
				t.Errorf("%+v", status)
			}
		}
		if want := []string{"claim", "main", "realms"}; !slices.Equal(names, want) {
			t.Errorf("the status is of %v, want %v", names, want)
		}
		if good, failed := s.sets.Fetches(); good != uint64(s.count(claimKeys)) || failed != uint64(s.count(mainKeys)) {
			t.Errorf("%d good and %d failed, and %d and %d were asked for", good, failed, s.count(claimKeys), s.count(mainKeys))
		}
		s.publish(mainKeys, keyA)
		s.pass(2 * authn.DefaultRefresh)
		s.good(s.token("a", nil, p256()))
	})
}

func TestJ01LastGoodKeysAreBelievedForADay(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		start := time.Now()
		kept := s.token("a", m{"exp": fmt.Sprint(start.Add(72 * time.Hour).Unix())}, p256())
		s.good(kept)
		s.set(func() { clear(s.body) })
		s.pass(authn.DefaultMaxAge - time.Minute)
		s.good(s.token("a", nil, p256()))
		s.good(kept)
		s.pass(time.Until(start.Add(authn.DefaultMaxAge)))
		s.bad(s.token("a", nil, p256()))
		s.bad(kept) // remembered or not
		s.publish(mainKeys, "<html>down for maintenance")
		s.pass(2 * authn.DefaultRefresh)
		s.bad(s.token("a", nil, p256()))
		s.publish(mainKeys, keyA)
		s.pass(2 * authn.DefaultRefresh)
		s.good(kept)
	})
}

func TestF14KeysAreRefreshedInTheBackgroundUpOrDown(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		s.pass(time.Hour)
		if n := s.count(mainKeys); n < 11 || n > 15 { // 12 intervals, give or take a tenth each
			t.Errorf("%d fetches in an hour", n)
		}
		s.set(func() { clear(s.body) })
		before := s.count(mainKeys)
		s.pass(time.Hour)
		if n := s.count(mainKeys) - before; n < 11 || n > 30 {
			t.Errorf("%d fetches in an hour of failures", n)
		}
	})
}

func TestF14J03NamesOfKeysThatNobodyPublishedCauseFewFetches(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		s.pass(time.Second)
		before, other := s.count(mainKeys), s.count(claimKeys)
		const tokens = 10_000 // distinct kids, over two minutes
		for i := range tokens {
			s.bad(s.token(fmt.Sprintf("k%d", i), nil, other256()))
			s.pass(12 * time.Millisecond)
		}
		if n := s.count(mainKeys) - before; n > 2*2+1 {
			t.Errorf("%d fetches in two minutes, want 2 a minute", n)
		}
		if n := s.count(claimKeys) - other; n > 1 {
			t.Errorf("%d fetches of another issuer's keys", n)
		}
		s.good(s.token("a", nil, p256()))
	})
}

// Who has gone waits for nothing, and leaves the room to wait to others.
func TestJ07ACallerThatHasGoneWaitsForNoKeys(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		s.pass(time.Second)
		s.set(func() { s.delay = 100 * time.Millisecond })
		s.publish(mainKeys, keysAB)
		gone, cancel := context.WithTimeout(s.t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		var all sync.WaitGroup
		for range 64 { // as many as may wait
			token := s.token("b", nil, other256())
			all.Go(func() {
				if err := s.tryFor(gone, token); !errors.Is(err, authn.ErrBadCredential) || time.Since(start) != 10*time.Millisecond {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			})
		}
		all.Wait()
		s.good(s.token("b", nil, other256()))
		if d := time.Since(start); d != 100*time.Millisecond || s.count(mainKeys) != 2 {
			t.Errorf("another caller had the key after %v, by %d fetches; want 100ms, and 2: one at the start", d, s.count(mainKeys))
		}
	})
}

func TestB9DistinctKidsNeedNoMemory(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		for i := range 1_200 {
			s.pass(authn.DefaultCoolDown)
			s.bad(s.token(fmt.Sprintf("k%d", i), nil, other256()))
		}
		if sources, missing := s.sets.Sources(); sources != 2 || missing > 2*1024 {
			t.Errorf("%d sets, %d names of missing keys", sources, missing)
		}
		if n := s.a.Remembered(); n != 0 {
			t.Errorf("%d bad tokens are remembered as good", n)
		}
	})
}

func TestJ10Rotation(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		old := s.token("a", nil, p256())
		s.good(old)
		s.pass(10 * time.Second)
		s.publish(mainKeys, keysAB)
		s.good(s.token("b", nil, other256())) // in the same second
		s.good(old)

		s.publish(mainKeys, keyB)
		s.pass(2 * authn.DefaultRefresh)
		s.bad(old) // remembered, but its key was withdrawn
		s.bad(s.token("a", nil, p256()))
		s.good(s.token("b", nil, other256()))
	})
}

func TestJ10ANewKeyIsFoundWhileKidsAreMadeUp(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		s.pass(time.Second)
		s.bad(s.token("made-up", nil, other256())) // takes the fetch of this cool-down
		s.publish(mainKeys, keysAB)
		s.bad(s.token("b", nil, other256()))
		s.pass(authn.DefaultCoolDown)
		s.good(s.token("b", nil, other256()))
	})
}

func TestAKeyReplacedUnderItsNameEndsWhatItVerified(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		old := s.token("a", nil, p256())
		s.good(old)
		s.publish(mainKeys, keyAToo)
		s.pass(2 * authn.DefaultRefresh)
		s.bad(old)
		s.good(s.token("a", nil, other256()))
	})
}

func TestAKidThatIsMissingAsksOnlyOnce(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		s.pass(time.Second)
		before := s.count(mainKeys)
		for range 3 {
			s.bad(s.token("gone", nil, other256()))
			s.pass(authn.DefaultCoolDown - time.Millisecond)
		}
		if n := s.count(mainKeys) - before; n != 1 {
			t.Errorf("%d fetches for one name", n)
		}
	})
}

func TestJ07ASlowIssuerDelaysNobodyForLong(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		s.pass(time.Second)
		s.set(func() { s.delay = time.Minute })
		tokens := make([]string, 200)
		for i := range tokens {
			tokens[i] = s.token("slow", nil, other256())
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		waited := map[time.Duration]int{}
		start := time.Now()
		for _, token := range tokens {
			wg.Go(func() {
				s.bad(token)
				mu.Lock()
				waited[time.Since(start)]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if waited[0] != 200-64 || waited[authn.DefaultWait] != 64 {
			t.Errorf("waited: %v", waited)
		}
		s.good(s.token("a", nil, p256())) // a known key waits for nothing
		if d := time.Since(start); d > authn.DefaultWait {
			t.Errorf("a known key waited until %v", d)
		}
		s.good(s.token("a", m{"iss": `"https://claim.example.com"`, "org": `{"tenant":"acme"}`}, p256()))
	})
}

func TestARefreshForgetsNoToken(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		kept := s.token("a", nil, p256())
		s.good(kept)
		s.publish(mainKeys, keysAB)
		s.pass(2 * authn.DefaultRefresh)
		for range 500 { // spends what sources without an address may waste, so nothing new is verified
			s.bad(s.token("a", nil, other256()))
		}
		if err := s.try(s.token("a", nil, p256())); !errors.Is(err, authn.ErrTooManyBad) {
			t.Fatalf("a new token: %v", err)
		}
		s.good(kept)
	})
}

func TestAFetchUnderWayBringsNothingBack(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		kept := s.token("a", nil, p256())
		s.good(kept)
		s.pass(time.Minute)
		s.set(func() { s.delay = 2 * time.Second })
		s.bad(s.token("unknown", nil, p256())) // a fetch begins
		without := compile(t, 2, testIssuers()[1:])
		with := s.snapshot
		s.mu.Lock()
		s.snapshot = without
		s.mu.Unlock()
		s.pass(10 * time.Second) // its issuer is removed, then the fetch ends
		s.set(func() { clear(s.body) })
		s.mu.Lock()
		s.snapshot = with
		s.mu.Unlock()
		s.bad(kept)
	})
}

func TestF02APanicInAFetchIsAFailure(t *testing.T) {
	play(t, func(i *idp) { bothUp(i); i.panics = true }, func(s *scene) {
		s.bad(s.token("a", nil, p256()))
		s.set(func() { s.panics = false })
		s.pass(time.Minute)
		s.good(s.token("a", nil, p256()))
	})
}

func TestKeysOfARealmAreFetchedForItsTenantOnly(t *testing.T) {
	const keys = "https://id.example.com/realms/acme/keys"
	realm := func(s *scene, id string) string {
		return s.token("a", m{"iss": `"https://id.example.com/realms/` + id + `"`}, p256())
	}
	play(t, func(i *idp) { bothUp(i); i.body[keys] = keyA }, func(s *scene) {
		if s.count(keys) != 0 {
			t.Error("a realm is fetched before anybody asks")
		}
		for i := range 100 {
			s.bad(realm(s, fmt.Sprintf("stranger-%d", i)))
		}
		if sources, _ := s.sets.Sources(); sources != 2 {
			t.Errorf("%d sets of keys", sources)
		}
		s.good(realm(s, "acme"))
		if sources, _ := s.sets.Sources(); sources != 3 {
			t.Errorf("%d sets of keys", sources)
		}
		s.pass(authn.DefaultMaxAge + time.Minute) // nobody uses it
		if sources, _ := s.sets.Sources(); sources != 2 {
			t.Errorf("%d sets of keys after a day", sources)
		}
		s.good(realm(s, "acme"))
	})
}

func TestARealmThatNoGoodTokenNamesIsNotFetchedForLong(t *testing.T) {
	const keys = "https://id.example.com/realms/acme/keys"
	play(t, func(i *idp) { bothUp(i); i.body[keys] = keyA }, func(s *scene) {
		iss := m{"iss": `"https://id.example.com/realms/acme"`}
		s.bad(s.token("a", iss, other256()))
		if sources, _ := s.sets.Sources(); sources != 3 {
			t.Errorf("%d sets of keys, want that of the realm too", sources)
		}
		s.pass(2*authn.DefaultRefresh - time.Minute)
		s.bad(s.token("a", iss, other256())) // naming it again keeps nothing
		s.pass(2 * time.Minute)
		if sources, _ := s.sets.Sources(); sources != 2 {
			t.Errorf("%d sets of keys after ten minutes of bad tokens", sources)
		}
		s.good(s.token("a", iss, p256()))
		s.pass(authn.DefaultMaxAge - time.Minute)
		if sources, _ := s.sets.Sources(); sources != 3 {
			t.Errorf("%d sets of keys within a day of a good token", sources)
		}
	})
}

func TestAnIssuerThatIsRemovedOrChanged(t *testing.T) {
	play(t, bothUp, func(s *scene) {
		kept := s.token("a", nil, p256())
		s.good(kept)
		change := func(f func([]trust.Issuer) []trust.Issuer) {
			next := compile(t, s.snapshot.Revision+1, f(testIssuers()))
			s.mu.Lock()
			s.snapshot = next
			s.mu.Unlock()
		}
		verified := func() uint64 { return uint64(s.a.Remembered()) }
		n := verified()
		change(func(i []trust.Issuer) []trust.Issuer { return i }) // the same once more
		s.good(kept)
		if verified() != n {
			t.Error("a new revision of the same issuers forgets tokens")
		}
		change(func(i []trust.Issuer) []trust.Issuer { i[0].Audiences = []string{"other"}; return i })
		s.bad(kept)
		change(func(i []trust.Issuer) []trust.Issuer { i[0].Tenant = "umbrella"; return i })
		_, account, err := s.a.Identify(s.t.Context(), time.Now().UnixMicro(), s.snapshot, &authz.Credentials{Tokens: []string{kept}})
		if err != nil || account.Tenant != "umbrella" {
			t.Errorf("after the issuer's tenant changed: %v, %v", account, err)
		}
		change(func(i []trust.Issuer) []trust.Issuer { return i[1:] })
		s.bad(kept)
		s.pass(2 * time.Second)
		if sources, _ := s.sets.Sources(); sources != 1 {
			t.Errorf("%d sets of keys", sources)
		}
		change(func(i []trust.Issuer) []trust.Issuer { i[0].AllowPrivate = true; return i })
		s.good(kept)
		if !s.inside[len(s.inside)-1] {
			t.Error("the leave to ask a private address is not passed on")
		}
	})
}

// The sweep reads the issuers, and before it goes on they change and a request brings a token of the new one.
func TestASweepKeepsTheKeysOfAnIssuerThatComesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &idp{body: map[string]string{mainKeys: keyA}, fetches: map[string]int{}}
		token := sign(header(m{"kid": `"a"`}), payload(m{"iat": "", "exp": fmt.Sprint(time.Now().Add(time.Hour).Unix())}), "ES256", p256())
		before, after := compile(t, 1, testIssuers()[1:]), compile(t, 2, testIssuers())
		var a *authn.Authenticator
		present := func() error {
			_, _, err := a.Identify(t.Context(), time.Now().UnixMicro(), after, &authz.Credentials{Tokens: []string{token}})
			return err
		}
		asked := 0
		sets := authn.NewKeySets(authn.KeySetsOptions{Fetch: i.fetch, Issuers: func() *trust.Issuers {
			if asked++; asked > 1 {
				return after.Issuers
			}
			if err := present(); err != nil {
				t.Errorf("within the sweep: %v", err)
			}
			return before.Issuers
		}})
		a = authn.New(authn.Options{Pepper: pepper, KeySets: sets})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { sets.Run(ctx); close(done) }()
		synctest.Wait()
		if err := present(); err != nil {
			t.Errorf("after the sweep: %v", err)
		}
		if n := i.count(mainKeys); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
		stop()
		<-done
	})
}

func TestF09AClockThatIsSetBack(t *testing.T) {
	var mu sync.Mutex
	clock := time.UnixMicro(now)
	set := func(d time.Duration) int64 {
		mu.Lock()
		defer mu.Unlock()
		clock = clock.Add(d)
		return clock.UnixMicro()
	}
	i := &idp{body: map[string]string{}, fetches: map[string]int{}}
	bothUp(i)
	snapshot := compile(t, 1, testIssuers())
	sets := authn.NewKeySets(authn.KeySetsOptions{
		Fetch: i.fetch, Issuers: func() *trust.Issuers { return snapshot.Issuers }, Wait: time.Minute,
		Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return clock },
	})
	a := authn.New(authn.Options{Pepper: pepper, KeySets: sets})
	try := func(at int64, kid string, key any) error {
		c := authz.Credentials{Tokens: []string{sign(header(m{"kid": `"` + kid + `"`}), payload(m{"iat": "", "exp": "1900000000"}), "ES256", key)}}
		_, _, err := a.Identify(t.Context(), at, snapshot, &c)
		return err
	}
	if err := try(now, "a", p256()); err != nil {
		t.Fatal(err)
	}
	_ = try(set(31*time.Second), "unknown", p256()) // takes a fetch
	i.publish(mainKeys, keysAB)
	if err := try(set(-time.Hour), "b", other256()); err != nil {
		t.Errorf("after an hour back a new key is not found: %v", err)
	}
	if err := try(set(2*time.Hour), "a", p256()); err != nil {
		t.Errorf("after an hour ahead: %v", err)
	}
}

func TestReadyWaitsForTheFirstFetch(t *testing.T) {
	play(t, func(i *idp) { bothUp(i); i.delay = time.Second }, func(s *scene) {
		ctx, cancel := context.WithTimeout(s.t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := s.sets.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), ".example.com/keys") {
			t.Errorf("got %v", err)
		}
		if err := s.sets.Ready(s.t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestNewKeySetsWantsWhatItNeeds(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("key sets without a way to fetch")
		}
	}()
	authn.NewKeySets(authn.KeySetsOptions{})
}

func TestTheStatusOfRealmsIsThatOfTheOldestOneThatWasEverFetched(t *testing.T) {
	const acme, umbrella = "https://id.example.com/realms/acme/keys", "https://id.example.com/realms/umbrella/keys"
	play(t, bothUp, func(s *scene) {
		realm := func(id string) string {
			return s.token("a", m{"iss": `"https://id.example.com/realms/` + id + `"`}, p256())
		}
		status := func() authn.KeySetStatus {
			return s.sets.Status()[2]
		}
		s.publish(acme, keyA)
		begin := time.Now().UnixMicro()
		s.good(realm("acme"))
		s.bad(realm("umbrella")) // is down, or made up
		if want := (authn.KeySetStatus{Issuer: "realms", Realms: true, Sets: 1, Keys: 1, Fetched: begin}); status() != want {
			t.Errorf("got %+v, want %+v", status(), want)
		}
		s.publish(umbrella, keyA)
		s.pass(2 * authn.DefaultRefresh)
		s.good(realm("umbrella"))
		s.set(func() { delete(s.body, acme) })
		s.pass(time.Hour)
		got := status()
		if age := time.Now().UnixMicro() - got.Fetched; got.Sets != 2 || got.Keys != 2 || age < time.Hour.Microseconds() || !strings.Contains(got.Err, "refused") {
			t.Errorf("one of two has been down for an hour: %+v", got)
		}
	})
}

func TestRunEndsWhenNoFetchIsUnderWayAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under, ended := make(chan struct{}), 0
		snapshot := compile(t, 1, testIssuers())
		sets := authn.NewKeySets(authn.KeySetsOptions{
			Issuers: func() *trust.Issuers { return snapshot.Issuers },
			Fetch: func(ctx context.Context, url string, _ bool) ([]byte, error) {
				if url != mainKeys {
					return nil, errors.New("connection refused")
				}
				close(under)
				<-ctx.Done()
				<-time.After(time.Minute) // to close what it opened
				ended++                   // the race detector would see that nobody waited
				return nil, ctx.Err()
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { sets.Run(ctx); close(done) }()
		<-under
		stop()
		<-done
		if ended != 1 {
			t.Error("Run has ended before its fetch")
		}
		a := authn.New(authn.Options{Pepper: pepper, KeySets: sets})
		late := sign(header(m{"kid": `"a"`}), payload(m{"exp": fmt.Sprint(time.Now().Add(time.Hour).Unix()), "iat": fmt.Sprint(time.Now().Unix())}), "ES256", p256())
		if _, _, err := a.Identify(t.Context(), time.Now().UnixMicro(), snapshot, &authz.Credentials{Tokens: []string{late}}); !errors.Is(err, authn.ErrBadCredential) {
			t.Errorf("a request that came too late: %v", err)
		}
		if n := a.Refusals()["token_key"]; n != 1 {
			t.Errorf("it is refused for another reason than that there is no key: %v", a.Refusals())
		}
	})
}
