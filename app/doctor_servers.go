package app

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/redisconn"
)

const rightsFix = "give the user the rights of the functions as well, for Redis asks inside them too: compare 'ACL GETUSER' with the lines in docs/stores.md"

// hole is one that is known, and the least versions without it, one for each line of releases that got a patch. Lines that
// are newer than all of these never had it; others have it still.
type hole struct {
	cves, what    string
	redis, valkey []string // nil: not affected, as far as is known
	source        string
	tls           bool // only where TLS is on
}

// holes are those that somebody who reaches Redis, or may run scripts or functions there, can use. As of 2026-11.
var holes = []hole{
	{
		"CVE-2025-49844, CVE-2025-46817, CVE-2025-46818, CVE-2025-46819", "a script can run code in Redis, or act as another user",
		[]string{"7.2.11", "7.4.6", "8.0.4", "8.2.2"}, []string{"7.2.11", "8.0.6", "8.1.4"},
		"release notes of Redis 8.2.2 and Valkey 8.1.4; in Debian 12 from 7.0.15-1~deb12u6", false,
	},
	{
		"CVE-2026-81934", "whoever reaches its TLS port can run code in Redis, without a password",
		[]string{"7.2.16", "7.4.11", "8.2.9", "8.4.6", "8.6.6", "8.8.2", "8.10.1"}, nil,
		"the CVE's record; in Debian 12 from 7.0.15-1~deb12u10", true,
	},
}

// open reports whether a version has it, as far as its number tells.
func (h *hole) open(valkey bool, version string) bool {
	fixed := h.redis
	if valkey {
		fixed = h.valkey
	}
	is, ok := numbers(version)
	if len(fixed) == 0 || !ok {
		return false
	}
	newest := []int{}
	for _, f := range fixed {
		has, _ := numbers(f)
		if slices.Equal(has[:2], is[:2]) {
			return is[2] < has[2]
		}
		newest = has
	}
	return slices.Compare(is[:2], newest[:2]) < 0
}

// numbers are the three of a version.
func numbers(version string) (n []int, ok bool) {
	for _, part := range strings.SplitN(version, ".", 3) {
		i, err := strconv.Atoi(part)
		if err != nil {
			return nil, false
		}
		n = append(n, i)
	}
	return n, len(n) == 3
}

// examineServers asks each server about itself. Where they are replicated, another one takes over.
func examineServers(ctx context.Context, client redis.UniversalClient, replicated bool, add func(string, storeFinding)) {
	one := func(ctx context.Context, c *redis.Client) (found []func()) {
		address := c.Options().Addr
		say := func(code, severity, says, evidence, fix string) {
			found = append(found, func() {
				add(code, storeFinding{Severity: severity, Object: address, Says: says, Evidence: evidence, Fix: fix})
			})
		}
		if info, err := redisconn.Info(ctx, c); err != nil {
			say(codePatches, "warn", "not checked: "+err.Error(), "", "")
			say(codeBehind, "warn", "not checked: "+err.Error(), "", "")
		} else {
			examineVersion(info, c.Options().TLSConfig != nil, say)
			examineReplication(info, replicated, say)
		}
		examineClock(ctx, c, say)
		return found
	}
	cluster, is := client.(*redis.ClusterClient)
	if !is {
		for _, say := range one(ctx, client.(*redis.Client)) { //nolint:forcetypeassert // redisconn makes these two
			say()
		}
		return
	}
	all := make(chan []func(), 1<<10) // servers are asked at once
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		found := one(ctx, c)
		coverage(ctx, c, func(severity, says, evidence, fix string) {
			found = append(found, func() {
				add(codeLost, storeFinding{Severity: severity, Object: c.Options().Addr, Says: says, Evidence: evidence, Fix: fix})
			})
		})
		if err := c.Do(ctx, "ASKING").Err(); err != nil && strings.HasPrefix(err.Error(), "NOPERM") {
			found = append(found, func() {
				add(codeRights, storeFinding{
					Severity: "warn", Object: c.Options().Addr, Says: "requests of slots that are being moved to another node would be decided without Redis",
					Evidence: err.Error(), Fix: "give the user +asking as well",
				})
			})
		}
		all <- found
		return nil
	})
	close(all)
	for found := range all {
		for _, say := range found {
			say()
		}
	}
	if err != nil {
		add(codePatches, storeFinding{Severity: "warn", Object: "cluster", Says: "not checked: " + err.Error()})
	}
}

// coverage asks what a primary that is gone means for the slots of others. Whoever serves need not, and should not, have the right.
func coverage(ctx context.Context, c *redis.Client, say func(severity, says, evidence, fix string)) {
	const setting = "cluster-require-full-coverage"
	is, err := c.ConfigGet(ctx, setting).Result()
	switch {
	case err != nil && strings.HasPrefix(err.Error(), "NOPERM"):
		say("info", "this user may not read the setting, which is as it should be", "", "ask as another: 'redis-cli CONFIG GET "+setting+"' should say no")
	case err != nil:
		say("warn", "not checked: "+err.Error(), "", "")
	case is[setting] != "no":
		say("warn", "when one primary is gone for cluster-node-timeout, the cluster refuses all slots, and limits of all tenants mean what their on_outage says",
			setting+" "+is[setting], "'redis-cli CONFIG SET "+setting+" no' on every node, and the same in its redis.conf")
	}
}

func examineVersion(info map[string]string, encrypted bool, say func(code, severity, says, evidence, fix string)) {
	valkey := info["server_name"] == "valkey"
	name, version := "Redis", info["redis_version"]
	if valkey {
		name, version = "Valkey", info["valkey_version"]
	}
	for i := range holes {
		h := &holes[i]
		if h.tls && !encrypted || !h.open(valkey, version) {
			continue
		}
		fixed := h.redis
		if valkey {
			fixed = h.valkey
		}
		say(codePatches, "warn", h.cves+": "+h.what+", unless its distribution has mended it under this number", name+" "+version,
			"see the changelog of its package ("+h.source+"), or go to "+strings.Join(fixed, ", ")+" or newer")
	}
}

// farBehind is how many seconds a replica that is in sync may have said nothing for: it does once in one.
const farBehind = 10

// examineReplication asks what is lost if this server is.
func examineReplication(info map[string]string, replicated bool, say func(code, severity, says, evidence, fix string)) {
	if info["aof_enabled"] == "0" {
		say(codeBehind, "warn", "started again, it is empty or as old as its last snapshot, and so are its replicas then", "aof_enabled:0",
			"'redis-cli CONFIG SET appendonly yes' on every server, and the same in its redis.conf")
	}
	if replicated && info["connected_slaves"] == "0" {
		say(codeBehind, "warn", "it has no replica, so nobody can take over", "connected_slaves:0", "start one with 'replicaof', or see in its log why it is not connected")
	}
	for i := 0; info["slave"+strconv.Itoa(i)] != ""; i++ {
		is := info["slave"+strconv.Itoa(i)]
		_, state, _ := strings.Cut(is, "state=")
		_, lag, _ := strings.Cut(is, "lag=")
		if seconds, err := strconv.Atoi(lag); err != nil || seconds > farBehind || !strings.HasPrefix(state, "online,") {
			say(codeBehind, "warn", "a replica is not in sync: if it takes over, what it lacks is lost", is, "see in its log why, and wait for 'master_link_status:up' before this server may go down")
		}
	}
}

// farClock is from where on a difference matters: charges that are counted again are put into the fixed window that this machine's clock says.
const farClock = time.Second

func examineClock(ctx context.Context, c *redis.Client, say func(code, severity, says, evidence, fix string)) {
	var best, away time.Duration
	for i := range 5 {
		began := time.Now()
		there, err := c.Time(ctx).Result()
		took := time.Since(began)
		if err != nil {
			say(codeClock, "warn", "not checked: "+err.Error(), "", "")
			return
		}
		if i == 0 || took < best {
			best, away = took, there.Sub(began.Add(took/2))
		}
	}
	if away.Abs()-best/2 > farClock {
		say(codeClock, "warn", "its clock is not this machine's: limits go by Redis' clock, but what was admitted without it is counted in the window that this machine's clock says",
			fmt.Sprintf("%v ahead of this machine (negative: behind), within %v", away.Round(time.Millisecond), (best/2).Round(time.Microsecond)), "let NTP set both: 'timedatectl' says whether it does")
	}
}
