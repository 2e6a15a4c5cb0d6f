package catalog

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/tenant"
)

func TestWhatIsNotOursInRedisIsRefused(t *testing.T) {
	s := redistest.Start(t)
	client := dial(t, s, redis.Options{})
	ctx := t.Context()
	head := func(values ...any) func() error {
		return func() error { return client.HSet(ctx, base+"head", values...).Err() }
	}
	const other = " is not what Sluice keeps there: another program uses this prefix; choose another prefix, or remove that key if nobody needs it"
	for _, c := range []struct {
		name string
		lay  func() error
		want string // of Open
		make string // of Migrate; "" if it is the same, "-" if it makes the catalogue
	}{
		{"nothing", func() error { return nil }, "there is no catalogue; restore the backup of Redis, or make an empty catalogue with 'sluiced migrate'", "-"},
		{"a newer format", head("format", 2, "revision", 5, "stamp", "x"), "it has format 2, and this version knows 1; start the version that wrote it, or restore the backup from before it", ""},
		{"another program's hash", head("format", "pdf"), "the key " + base + "head" + other, ""},
		{"a head without a revision", head("format", 1, "stamp", "x"), "the key " + base + "head" + other, ""},
		{"another program's text", func() error { return client.Set(ctx, base+"head", "x", 0).Err() }, "the key " + base + "head" + other, ""},
		{"lists without a head", func() error { return client.HSet(ctx, base+"plans", "x", "y").Err() },
			"there is no catalogue; restore the backup of Redis, or make an empty catalogue with 'sluiced migrate'", "the key " + base + "plans" + other},
		{"a list that is a text", func() error {
			return errors.Join(Migrate(ctx, client, prefix), client.Set(ctx, base+"plans", "x", 0).Err())
		}, "the key " + base + "plans" + other, "-"},
		{"an entry that is none", func() error {
			return errors.Join(Migrate(ctx, client, prefix), client.HSet(ctx, base+"plans", "gold", "{").Err())
		}, `the entry "gold" of ` + base + `plans can't be read (unexpected end of JSON input): restore the backup of Redis, or remove that entry and make it again`, "-"},
		{"a feed that is none", func() error {
			return errors.Join(Migrate(ctx, client, prefix), client.Del(ctx, base+"feed").Err(), client.Set(ctx, base+"feed", "x", 0).Err())
		}, "the key " + base + "feed" + other, "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, client.FlushAll(ctx).Err())
			must(t, c.lay())
			of := "catalogue in Redis under " + strings.TrimSuffix(base, ":") + ": "
			if _, err := Open(Options{Redis: client, RedisPrefix: prefix}); err == nil || err.Error() != of+c.want {
				t.Errorf("opened: %v\nwant    %s", err, of+c.want)
			}
			want := c.make
			if want == "" {
				want = c.want
			}
			if err := Migrate(ctx, client, prefix); want == "-" && err != nil || want != "-" && (err == nil || err.Error() != of+want) {
				t.Errorf("migrated: %v\nwant     %s", err, of+want)
			}
		})
	}
	t.Run("a server that is not there", func(t *testing.T) {
		s.Kill()
		var wrong *net.OpError
		if _, err := Open(Options{Redis: client, RedisPrefix: prefix}); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "under "+prefix) {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("two keepers", func(t *testing.T) {
		if _, err := Open(Options{Redis: client, DB: "x"}); err == nil {
			t.Error("opened")
		}
	})
}

// aclUser is what docs/stores.md gives the server's user for the catalogue.
var aclUser = []string{
	"on", ">secret", "resetkeys", "resetchannels", "-@all", "~" + base + "*", "&" + base + "*",
	"+hello", "+ping", "+hmget", "+hscan", "+hset", "+hdel", "+del", "+xadd", "+xrange", "+get", "+set", "+zadd", "+zrem", "+zcard", "+zrange", "+pexpire", "+publish", "+subscribe", "+unsubscribe", "+watch", "+unwatch", "+multi", "+exec",
}

// user makes one who logs in with those rights.
func user(t *testing.T, s *redistest.Server, name string, rights ...string) Options {
	t.Helper()
	admin := dial(t, s, redis.Options{})
	args := []any{"ACL", "SETUSER", name}
	for _, r := range rights {
		args = append(args, r)
	}
	must(t, admin.Do(t.Context(), args...).Err())
	return Options{Redis: dial(t, s, redis.Options{Username: name, Password: "secret"}), RedisPrefix: prefix}
}

func TestAReplicaThatHearsNothingAsks(t *testing.T) {
	s := redistest.Start(t)
	all := replicas(t, s, 1)
	deaf := startReplica(t, user(t, s, "deaf", append(slices.Clone(aclUser), "-subscribe")...))
	for i := range 5 {
		id := tenant.ID(fmt.Sprintf("t%d", i))
		must(t, all[0].Update(put(quota.Tenant{ID: id}), false))
		await.That(t, "the tenant", deaf.has(id))
	}
}

func TestTheRightsOfTheDocsAreEnough(t *testing.T) {
	text, err := os.ReadFile("../../docs/stores.md")
	must(t, err)
	line := "~sluice:{catalog}:* &sluice:{catalog}:* " + strings.Join(aclUser[slices.Index(aclUser, "+hmget"):], " ") + "\n"
	if !strings.Contains(string(text), line) {
		t.Errorf("docs/stores.md does not have: %s", line)
	}
	s := redistest.Start(t)
	must(t, Migrate(t.Context(), user(t, s, "migrate", "on", ">secret", "resetchannels", "-@all", "~"+base+"*", "+hello",
		"+watch", "+unwatch", "+multi", "+exec", "+hset", "+hmget", "+hlen", "+xadd", "+xlen").Redis, prefix))
	o := user(t, s, "sluice", aclUser...)
	all := []replica{startReplica(t, o), startReplica(t, user(t, s, "sluice"))}
	must(t, all[0].Update(addAcme, false))
	_, _, err = all[0].Once(Operation{Now: start}, func(e *Edit) ([]byte, error) { e.APIKeys.Delete("k1"); return []byte("x"), nil })
	must(t, err)
	same(t, all)
	if logged := all[0].log.String() + all[1].log.String(); logged != "" {
		t.Errorf("logged: %s", logged)
	}
	s.Restart()
	user(t, s, "sluice", aclUser...)
	await.That(t, "what was lost, written back", func() bool { return all[0].Update(put(quota.Tenant{ID: "beta"}), false) == nil })
	same(t, all)
}
