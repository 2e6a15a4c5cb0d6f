package app

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/redistest"
)

func TestThePageExplainsEveryCheckOfTheStore(t *testing.T) {
	page, err := os.ReadFile("../docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range storeChecks {
		if !strings.Contains(string(page), "\n### "+c.code+"\n"+c.title+"\n") {
			t.Errorf("docs/stores.md has no %s that says %q", c.code, c.title)
		}
	}
	if n := strings.Count(string(page), "\n### SR"); n != len(storeChecks) {
		t.Errorf("%d checks on the page, %d are asked", n, len(storeChecks))
	}
}

func TestHolesAreKnownByVersion(t *testing.T) {
	lua, tls := &holes[0], &holes[1]
	for _, c := range []struct {
		hole    *hole
		valkey  bool
		version string
		open    bool
	}{
		{lua, false, "7.0.15", true}, {lua, false, "7.2.10", true}, {lua, false, "7.2.11", false}, {lua, false, "7.4.5", true}, {lua, false, "7.4.6", false},
		{lua, false, "8.0.3", true}, {lua, false, "8.2.2", false}, {lua, false, "8.2.10", false}, {lua, false, "8.4.0", false}, {lua, false, "255.255.255", false}, {lua, false, "unknown", false},
		{lua, true, "7.2.10", true}, {lua, true, "8.1.4", false}, {lua, true, "8.0.5", true}, {lua, true, "9.0.0", false},
		{tls, false, "8.0.4", true}, {tls, false, "7.4.11", false}, {tls, false, "8.10.1", false}, {tls, false, "8.10.0", true}, {tls, true, "7.2.11", false},
	} {
		if got := c.hole.open(c.valkey, c.version); got != c.open {
			t.Errorf("%s, Valkey %v, %s: open is %v", c.hole.cves, c.valkey, c.version, got)
		}
	}
	for i := range holes {
		if sorted := slices.IsSortedFunc(holes[i].redis, func(a, b string) int {
			x, _ := numbers(a)
			y, _ := numbers(b)
			return slices.Compare(x, y)
		}); !sorted || holes[i].source == "" {
			t.Errorf("%s: not sorted, or without a source", holes[i].cves)
		}
	}
}

// Redis asks for rights inside the functions, too: of who may call them and no more every request would fail.
func TestRightsThatTheFunctionsLackAreFound(t *testing.T) {
	r, cluster := newRedis(t), redistest.Cluster(t)
	command(t, 0, "migrate", "--redis-url", "redis+cluster://"+cluster[0].Addr)
	secrets := secretsFolder(t)
	for url, servers := range map[string][]*redistest.Server{"redis://" + r.Addr: {r}, "redis+cluster://" + cluster[0].Addr: cluster} {
		for _, denied := range []string{"mget", "set", "publish"} {
			t.Run(denied+" is denied at "+url, func(t *testing.T) {
				for _, s := range servers {
					c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2})
					if err := errors.Join(c.Do(t.Context(), "ACL", "SETUSER", "default", "+@all", "-"+denied).Err(), c.Close()); err != nil {
						t.Fatal(err)
					}
				}
				out := command(t, exitFailed, "doctor", "--redis-url", url, "--secrets", secrets)
				if !strings.Contains(out, "FAIL  "+codeRights) || !strings.Contains(out, rightsFix) || !strings.Contains(out, "14 checks: 1 failed") {
					t.Error(out)
				}
				if err := refused(t, "--redis-url", url, "--secrets", secrets); !strings.Contains(err.Error(), rightsFix) {
					t.Errorf("serve: %v", err)
				}
			})
		}
	}
	t.Run("asking is denied, which matters while slots move", func(t *testing.T) {
		for _, s := range cluster {
			c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2})
			if err := errors.Join(c.Do(t.Context(), "ACL", "SETUSER", "default", "+@all", "-asking").Err(), c.Close()); err != nil {
				t.Fatal(err)
			}
		}
		out := command(t, 0, "doctor", "--redis-url", "redis+cluster://"+cluster[0].Addr, "--secrets", secrets)
		if !strings.Contains(out, "warn  "+codeRights) || strings.Count(out, "give the user +asking as well") != len(cluster) {
			t.Error(out)
		}
	})
}

// unreplicated is the evidence that another server can't take over.
func unreplicated(t *testing.T, s *redistest.Server, replicated bool) (evidence []string) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2})
	defer func() { _ = c.Close() }()
	info, err := redisconn.Info(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	examineReplication(info, replicated, func(code, severity, _, seen, fix string) {
		if evidence = append(evidence, seen); code != codeBehind || severity != "warn" || fix == "" {
			t.Error(code, severity, fix)
		}
	})
	return evidence
}

// What is worth a warning is found, on servers that have it.
func TestDoctorWarnsOfServers(t *testing.T) {
	for _, c := range []struct {
		coverage string
		warns    bool
	}{{"yes", true}, {"no", false}} {
		t.Run("cluster-require-full-coverage "+c.coverage, func(t *testing.T) {
			url := "redis+cluster://" + redistest.Cluster(t, "--cluster-require-full-coverage", c.coverage)[0].Addr
			command(t, 0, "migrate", "--redis-url", url)
			out := command(t, 0, "doctor", "--redis-url", url, "--secrets", secretsFolder(t))
			if got := strings.Contains(out, "warn  "+codeLost); got != c.warns || strings.Contains(out, "warn  "+codeClock) {
				t.Error(out)
			}
		})
	}
	for _, c := range []struct {
		name       string
		args       []string
		replicated bool
		warns      []string
	}{
		{"alone, and without a disk", nil, false, []string{"aof_enabled:0"}},
		{"alone, with one", []string{"--appendonly", "yes"}, false, nil},
		{"without a replica", []string{"--appendonly", "yes"}, true, []string{"connected_slaves:0"}},
	} {
		t.Run("a server "+c.name, func(t *testing.T) {
			if got := unreplicated(t, redistest.Start(t, c.args...), c.replicated); !slices.Equal(got, c.warns) {
				t.Errorf("%q, want %q", got, c.warns)
			}
		})
	}
	t.Run("a replica that is in sync, and one that is not yet", func(t *testing.T) {
		for delay, waits := range map[string]bool{"3600": true, "0": false} {
			s := redistest.Start(t, "--appendonly", "yes", "--repl-diskless-sync-delay", delay)
			host, port, _ := net.SplitHostPort(s.Addr)
			redistest.Start(t, "--replicaof", host, port)
			want := func(got []string) bool {
				return !waits && len(got) == 0 || waits && len(got) == 1 && strings.Contains(got[0], "state=wait_bgsave")
			}
			await.That(t, "what is said of it, after a delay of "+delay, func() bool { return want(unreplicated(t, s, true)) })
		}
	})
	t.Run("a clock that is an hour off, and one that is not", func(t *testing.T) {
		server := redistest.Start(t)
		for off, want := range map[time.Duration]int{0: 0, 500 * time.Millisecond: 0, time.Hour: 1, -time.Hour: 1} {
			c := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2})
			t.Cleanup(func() { _ = c.Close() })
			c.AddHook(ahead(off))
			var found int
			examineClock(t.Context(), c, func(code, severity, _, _, fix string) {
				if found++; code != codeClock || severity != "warn" || fix == "" {
					t.Error(code, severity, fix)
				}
			})
			if found != want {
				t.Errorf("%v ahead: %d warnings, want %d", off, found, want)
			}
		}
	})
}

// ahead makes TIME answer by another clock; a real server can't be told to.
type ahead time.Duration

func (ahead) DialHook(next redis.DialHook) redis.DialHook { return next }
func (ahead) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (off ahead) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if c, ok := cmd.(*redis.TimeCmd); ok {
			c.SetVal(c.Val().Add(time.Duration(off)))
		}
		return err
	}
}

func TestDoctorOfTheStore(t *testing.T) {
	r, secrets := newRedis(t), secretsFolder(t)
	at := []string{"--redis-url", "redis://" + r.Addr, "--secrets", secrets}
	t.Run("all holds", func(t *testing.T) {
		out := command(t, 0, append([]string{"doctor"}, at...)...)
		for _, c := range storeChecks {
			if !strings.Contains(out, c.code+"  "+c.title) {
				t.Errorf("no word of %s in:\n%s", c.code, out)
			}
		}
	})
	t.Run("a secret that is not the others'", func(t *testing.T) {
		onRedis(t, r, "--secrets", secrets)
		out := command(t, exitFailed, "doctor", "-o", "json", "--redis-url", "redis://"+r.Addr, "--secrets", secretsFolder(t))
		if !strings.Contains(out, `"severity": "fail"`) || !strings.Contains(out, codeSecret) {
			t.Error(out)
		}
	})
	t.Run("what can't be asked is skipped", func(t *testing.T) {
		r.Kill()
		out := command(t, exitFailed, append([]string{"doctor"}, at...)...)
		for _, want := range []string{"FAIL  SR101", "nobody listens there", "-     SR111", "-     SR141", "14 checks: 1 failed"} {
			if !strings.Contains(out, want) {
				t.Errorf("no word of %q in:\n%s", want, out)
			}
		}
	})
	t.Run("without a URL there is nothing to ask", func(t *testing.T) {
		if out := command(t, 1, "doctor"); !strings.Contains(out, "redis-url: empty") {
			t.Error(out)
		}
	})
}
