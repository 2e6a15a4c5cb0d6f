package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/tenant"
)

// cutter is a proxy that drops the connection when EXEC comes by, once armed.
type cutter struct {
	addr  string
	armed atomic.Bool
	early atomic.Bool // EXEC does not reach Redis; else it does, and its answer is dropped
	stay  atomic.Bool // whoever comes afterwards is dropped, too
	away  atomic.Bool
	cuts  atomic.Int64
}

func startCutter(t *testing.T, to string) *cutter {
	t.Helper()
	c := &cutter{}
	c.addr = redistest.Proxy(t, to, func() redistest.Piece {
		var cut atomic.Bool
		return func(b []byte, answers bool) (int, bool) {
			switch {
			case answers && cut.Load():
				c.away.Store(c.stay.Load())
				c.cuts.Add(1)
				return 0, true // it was done, and nobody is told
			case c.away.Load():
				return 0, true
			case !answers && strings.Contains(strings.ToLower(string(b)), "\r\nexec\r\n") && c.armed.CompareAndSwap(true, false):
				if c.early.Load() {
					c.away.Store(c.stay.Load())
					c.cuts.Add(1)
					return 0, true
				}
				cut.Store(true)
			}
			return len(b), false
		}
	})
	return c
}

// through is a catalogue behind the proxy. It follows nothing but when told to.
func (c *cutter) through(t *testing.T) *Catalog {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: c.addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	return open(t, Options{Redis: client, RedisPrefix: prefix})
}

// count makes acme count one more.
func count(e *Edit) error {
	now, _ := e.Tenants.Find("acme")
	n, err := strconv.Atoi(now.Value.DisplayName)
	now.Value.DisplayName = strconv.Itoa(n + 1)
	e.Tenants.Put(now.Value)
	return err
}

func counted(c *Catalog) string { return c.View().Tenants[0].Value.DisplayName }

// A change whose reply is lost is found in the feed by its stamp: it is neither made twice nor told to have failed.
func TestAChangeWhoseReplyIsLostIsMadeOnce(t *testing.T) {
	s := redistest.Start(t)
	must(t, Migrate(t.Context(), dial(t, s, redis.Options{}), prefix))
	proxy := startCutter(t, s.Addr)
	c := proxy.through(t)
	other := open(t, inRedis(t, s))
	must(t, c.Update(put(quota.Tenant{ID: "acme", DisplayName: "0"}), false))
	for i := range 20 {
		proxy.armed.Store(true)
		must(t, c.Update(count, false))
		must(t, other.Update(func(e *Edit) error { e.Plans.Put(quota.Plan{Name: fmt.Sprintf("p%d", i)}); return nil }, false))
	}
	if got := counted(c); got != "20" || proxy.cuts.Load() != 20 {
		t.Errorf("counted %s after %d lost replies", got, proxy.cuts.Load())
	}
}

// Where the answer is lost and Redis is away, nobody knows: that is what is said, and what is true is read before the next change.
func TestAnUnknownOutcomeIsSaidAndReadAgain(t *testing.T) {
	for name, early := range map[string]bool{"of a change that was made": false, "of a change that never came": true} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			must(t, Migrate(t.Context(), dial(t, s, redis.Options{}), prefix))
			proxy := startCutter(t, s.Addr)
			c, other := proxy.through(t), open(t, inRedis(t, s))
			must(t, c.Update(put(quota.Tenant{ID: "acme", DisplayName: "0"}), false))
			before := c.Snapshot()
			op := Operation{Key: [32]byte{1}, Now: start}
			once := func() ([]byte, bool, error) {
				return c.Once(op, func(e *Edit) ([]byte, error) { return []byte("counted"), count(e) })
			}
			proxy.early.Store(early)
			proxy.stay.Store(true)
			proxy.armed.Store(true)
			_, _, err := once()
			if !errors.Is(err, ErrUnknown) || errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("told: %v", err)
			}
			if err := c.Update(count, false); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("a change while Redis is away: %v", err)
			}
			if c.Snapshot() != before || proxy.cuts.Load() != 1 {
				t.Errorf("the snapshot changed, or nothing was cut: %d", proxy.cuts.Load())
			}
			proxy.away.Store(false)
			response, replayed, err := once()
			if err != nil || string(response) != "counted" || replayed == early {
				t.Errorf("again: %q, %v, %v", response, replayed, err)
			}
			must(t, c.Update(count, false))
			must(t, other.sync(t.Context()))
			if counted(c) != "2" || counted(other) != "2" {
				t.Errorf("counted %s here and %s there", counted(c), counted(other))
			}
		})
	}
}

// Redis carries out the other commands of a transaction when one fails: so it is looked before whether one would.
func TestAKeyOfAnotherProgramIsSeenBeforeAnythingIsWritten(t *testing.T) {
	for _, key := range []string{"feed", "tenants", "plans", "answers"} {
		t.Run(key, func(t *testing.T) {
			s := redistest.Start(t)
			client := dial(t, s, redis.Options{})
			c := open(t, inRedis(t, s))
			must(t, c.Update(put(quota.Tenant{ID: "acme", DisplayName: "0"}), false))
			before := c.Snapshot()
			must(t, client.Del(t.Context(), base+key).Err())
			must(t, client.Set(t.Context(), base+key, "not ours", 0).Err())
			had := content(t, client)
			op := Operation{Key: [32]byte{1}, Now: start}
			once := func() error {
				_, _, err := c.Once(op, func(e *Edit) ([]byte, error) { return []byte("counted"), count(e) })
				return err
			}
			for range 2 {
				err := once()
				if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "nothing was changed") ||
					!strings.Contains(err.Error(), "the key "+base+key+" is not what Sluice keeps there") {
					t.Errorf("told: %v", err)
				}
			}
			if got := content(t, client); got != had || c.Snapshot() != before {
				t.Errorf("there is now\n%s\nand was\n%s", got, had)
			}
			must(t, client.Del(t.Context(), base+key).Err())
			if err := once(); err != nil || counted(c) != "1" {
				t.Errorf("mended, it counted %s, %v", counted(c), err)
			}
		})
	}
}

// content is everything that Redis has of the catalogue.
func content(t *testing.T, c *redis.Client) string {
	t.Helper()
	names, err := c.Keys(t.Context(), base+"*").Result()
	must(t, err)
	slices.Sort(names)
	var all strings.Builder
	for _, n := range names {
		dump, err := c.Dump(t.Context(), n).Result()
		must(t, err)
		fmt.Fprintf(&all, "%s %x\n", n, dump)
	}
	return all.String()
}

// splitter is a connection that stops before EXEC, once armed: everything is queued, and nothing done.
type splitter struct {
	net.Conn
	armed *atomic.Bool
	then  func()
}

func (s splitter) Write(b []byte) (int, error) {
	at := strings.LastIndex(strings.ToLower(string(b)), "*1\r\n$4\r\nexec\r\n")
	if at <= 0 || !s.armed.CompareAndSwap(true, false) {
		return s.Conn.Write(b)
	}
	n, err := s.Conn.Write(b[:at])
	if err != nil {
		return n, err
	}
	s.then()
	m, err := s.Conn.Write(b[at:])
	return n + m, err
}

// A right that is taken between a command and EXEC is one of which Redis does the rest: then a part of the change is kept.
func TestAPartOfAChangeIsNotCalledNothing(t *testing.T) {
	s := redistest.Start(t)
	admin := dial(t, s, redis.Options{})
	must(t, Migrate(t.Context(), admin, prefix))
	var armed atomic.Bool
	o := user(t, s, "writer", aclUser...)
	rights := func(rule string) { must(t, admin.Do(t.Context(), "ACL", "SETUSER", "writer", rule).Err()) }
	o.Redis = redis.NewClient(&redis.Options{
		Addr: s.Addr, Username: "writer", Password: "secret", MaxRetries: -1,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return splitter{conn, &armed, func() {
				await.That(t, "everything is queued", func() bool {
					list, err := admin.ClientList(t.Context()).Result()
					return err == nil && strings.Count(list, " multi=-1 ") < strings.Count(list, " multi=")
				})
				rights("-xadd")
			}}, err
		},
	})
	t.Cleanup(func() { _ = o.Redis.Close() })
	c, other := open(t, o), startReplica(t, inRedis(t, s))
	must(t, c.Update(put(quota.Tenant{ID: "acme", DisplayName: "0"}), false))
	await.That(t, "the tenant", other.has("acme"))
	before, revision := c.Snapshot(), other.Snapshot().Revision

	op := Operation{Key: [32]byte{1}, Now: start}
	calls := 0
	once := func() ([]byte, bool, error) {
		return c.Once(op, func(e *Edit) ([]byte, error) { calls++; return []byte("counted"), count(e) })
	}
	armed.Store(true)
	_, _, err := once()
	if !errors.Is(err, ErrUnknown) || strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), "NOPERM") {
		t.Fatalf("told: %v", err)
	}
	for range 2 { // Redis says of a transaction that it is not done, and of its command why
		if err := c.Update(count, false); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "'xadd' command") {
			t.Errorf("the next change: %v", err)
		}
	}
	if c.Snapshot() != before {
		t.Error("what was not read again decides")
	}
	// Should the writer die now, the other has read what is there, and not what the feed says.
	await.That(t, "what was done, on the other replica", func() bool { return counted(other.Catalog) == "1" && other.Snapshot().Revision == revision+1 })
	rights("+xadd")
	must(t, c.sync(t.Context()))
	if counted(c) != "1" { // the hash of tenants has it
		t.Errorf("counted %s", counted(c))
	}
	if _, replayed, err := once(); err != nil || replayed || calls != 2 { // the answer, too, was a part of what is in doubt
		t.Errorf("the operation again: replayed %v, called %d times, %v", replayed, calls, err)
	}
	await.That(t, "the same on the other replica", func() bool {
		return counted(other.Catalog) == "2" && other.Snapshot().Revision == c.Snapshot().Revision
	})
}

// A change of a file waits for no answer of Redis, and what a change through the API wrote meanwhile is taken over beside it.
func TestAFileHoldsWhileAWriteHangs(t *testing.T) {
	s := redistest.Start(t)
	must(t, Migrate(t.Context(), dial(t, s, redis.Options{}), prefix))
	dir := t.TempDir()
	client := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, ContextTimeoutEnabled: true, ReadTimeout: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	o := Options{Redis: client, RedisPrefix: prefix}
	c := startReplica(t, o.in(dir))
	must(t, c.Update(put(), false))
	hang := func(id tenant.ID, patience time.Duration) (done chan error) { // which is that with a Redis that is frozen: before, the machine may be busy
		done, frozen := make(chan error, 1), make(chan struct{})
		c.patience(t, time.Minute)
		go func() {
			done <- c.Update(func(e *Edit) error {
				s.Freeze()
				c.shared.time.Store(int64(patience))
				close(frozen)
				return put(quota.Tenant{ID: id})(e)
			}, false)
		}()
		select {
		case <-frozen:
		case err := <-done:
			t.Fatalf("the write ended before it could hang: %v", err)
		}
		return done
	}
	t.Run("and both hold in the end", func(t *testing.T) {
		done := hang("acme", time.Minute)
		write(t, dir, "a.yaml", "plans: [{name: filed}]\ntenants: [{id: paper, plan: filed}]")
		await.That(t, "the file", c.has("paper"))
		select {
		case err := <-done:
			t.Errorf("the write did not hang: %v", err)
		default:
		}
		s.Thaw()
		must(t, <-done)
		if !c.has("acme")() || !c.has("paper")() {
			t.Error("one of the two does not hold")
		}
		await.That(t, "the number that both have, in Redis", func() bool {
			other := open(t, inRedis(t, s))
			return other.Snapshot().Revision == c.Snapshot().Revision && other.Snapshot().Account("acme") != nil
		})
	})
	t.Run("and if they do not fit, the writer is told", func(t *testing.T) {
		done := hang("barred", time.Minute)
		write(t, dir, "b.yaml", "tenants: [{id: barred, plan: filed, suspended: true}]")
		await.That(t, "the file", c.has("barred"))
		s.Thaw()
		if err := <-done; !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "it was written, and is not valid beside a file") {
			t.Errorf("told: %v", err)
		}
		if _, _, refused := c.Shared(); refused == nil || !c.Snapshot().Account("barred").Suspended {
			t.Errorf("refused %v, %+v", refused, c.Snapshot().Account("barred"))
		}
		must(t, open(t, inRedis(t, s)).Update(func(e *Edit) error { e.Tenants.Delete("barred"); return nil }, false))
		await.That(t, "peace", func() bool { _, _, refused := c.Shared(); return refused == nil })
	})
	t.Run("which ends by itself", func(t *testing.T) {
		done := hang("late", 2*time.Second)
		waited := c.Update(put(quota.Tenant{ID: "later"}), false) // behind the other
		for _, err := range []error{<-done, waited} {
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("told: %v", err)
			}
		}
		s.Thaw()
		must(t, open(t, inRedis(t, s)).Update(put(quota.Tenant{ID: "last"}), false))
		await.That(t, "what is changed next", c.has("last"))
		if c.has("late")() || c.has("later")() {
			t.Error("what was refused holds")
		}
	})
}

// patience says how long Redis may take for an answer.
func (r replica) patience(t *testing.T, d time.Duration) {
	t.Helper()
	must(t, r.turn.take(t.Context()))
	defer r.turn.end()
	r.shared.time.Store(int64(d))
}

func TestAnswersInRedisAreBounded(t *testing.T) {
	s := redistest.Start(t)
	client := dial(t, s, redis.Options{})
	c := open(t, inRedis(t, s))
	c.shared.maxAnswers = 3
	once := func(i byte, at time.Time) {
		t.Helper()
		_, _, err := c.Once(Operation{Key: [32]byte{i}, Now: at}, func(*Edit) ([]byte, error) { return fmt.Appendf(nil, "[%d]", i), nil })
		must(t, err)
	}
	kept := func() (all string) {
		t.Helper()
		for i := range byte(10) {
			_, response, ok, err := c.keeper.recall(t.Context(), [32]byte{i}, start)
			if must(t, err); ok {
				all += string(response)
			}
		}
		names, err := client.Keys(t.Context(), base+"answer:*").Result()
		must(t, err)
		listed, err := client.ZCard(t.Context(), base+"answers").Result()
		if must(t, err); int(listed) != len(names) {
			t.Errorf("%d answers, and %d listed", len(names), listed)
		}
		return all
	}
	for i := range byte(9) {
		once(i, start.Add(time.Duration(i)*time.Millisecond))
	}
	if got := kept(); got != "[6][7][8]" {
		t.Errorf("kept %s", got)
	}
	once(9, start.Add(25*time.Hour)) // the others are too old
	if got := kept(); got != "[9]" {
		t.Errorf("a day later kept %s", got)
	}
	if ttl, err := client.TTL(t.Context(), base+"answers").Result(); err != nil || ttl <= 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("the list of answers is kept for %v, %v", ttl, err)
	}
}
