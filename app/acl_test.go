package app

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/voicecore-ai/sluice/await"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/redistest"
)

var aclLine = regexp.MustCompile(`(?m)^user (\S+) (on .*)$`)

// withUsers gives each server the users of docs/stores.md, and nobody else but root any right. It returns the files of their passwords, by name.
func withUsers(t *testing.T, servers ...*redistest.Server) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := aclLine.FindAllStringSubmatch(string(page), -1)
	if len(lines) != 2 {
		t.Fatalf("%d users on the page, want 2", len(lines))
	}
	passwords := map[string]string{}
	for _, s := range servers {
		c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2})
		if err := c.Do(t.Context(), "ACL", "SETUSER", "root", "on", "nopass", "~*", "&*", "+@all").Err(); err != nil { // who moves slots
			t.Fatal(err)
		}
		for _, l := range lines {
			command := []any{"ACL", "SETUSER", l[1]}
			for _, word := range strings.Fields(l[2]) {
				command = append(command, word)
				if secret, ok := strings.CutPrefix(word, ">"); ok && passwords[l[1]] == "" {
					passwords[l[1]] = filepath.Join(folder(t, "password", secret+"\n"), "password")
				}
			}
			if err := c.Do(t.Context(), command...).Err(); err != nil {
				t.Fatalf("%s: %v", l[0], err)
			}
		}
		if err := errors.Join(c.Do(t.Context(), "ACL", "SETUSER", "default", "off").Err(), c.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return passwords
}

// TestTheUsersOfThePageSuffice migrates, serves, edits and counts as the users that docs/stores.md shows.
func TestTheUsersOfThePageSuffice(t *testing.T) {
	alone, cluster := redistest.Start(t), redistest.Cluster(t)
	for url, servers := range map[string][]*redistest.Server{"redis://" + alone.Addr: {alone}, "redis+cluster://" + cluster[0].Addr: cluster} {
		kind, _, _ := strings.Cut(url, "://")
		t.Run("with a URL of "+kind, func(t *testing.T) {
			passwords := withUsers(t, servers...)
			migrator := []string{"--redis-url", url, "--redis-user", "sluice-migrate", "--redis-password-file", passwords["sluice-migrate"]}
			for range 2 {
				command(t, 0, append([]string{"migrate"}, migrator...)...)
			}
			secrets := secretsFolder(t)
			args := []string{"--redis-url", url, "--redis-user", "sluice", "--redis-password-file", passwords["sluice"], "--secrets", secrets}
			first, second := run(t, args...), run(t, args...)
			key := allowance(t, first, secrets)
			conn := dial(t, second)
			// The tenant may make three requests.
			var codes []int32
			await.That(t, "the other replica knows the tenant", func() bool {
				r := ask(t, conn, key)
				codes = append(codes, r.GetStatus().GetCode())
				return r.GetStatus().GetCode() == 0
			})
			for range 3 {
				codes = append(codes, ask(t, conn, key).GetStatus().GetCode())
			}
			if n := len(codes); codes[n-1] == 0 || codes[n-2] != 0 || codes[n-3] != 0 || codes[n-4] != 0 {
				t.Errorf("codes %v, want three times 0 and then another", codes)
			}
			out := command(t, 0, append([]string{"doctor"}, args...)...)
			if strings.Contains(out, "not checked") || !strings.Contains(out, "2 replicas") {
				t.Error(out)
			}
			if len(servers) > 1 {
				whileASlotMoves(t, first, servers)
			}
			second.stop(t)
			for _, s := range []*server{first, second} {
				if log := s.log.String(); strings.Contains(log, "NOPERM") {
					t.Errorf("a right is missing:\n%s", log)
				}
			}
			for what, c := range map[string][]any{"scripts": {"EVAL", "return 1", "0"}, "settings": {"CONFIG", "GET", "*"}, "other keys": {"GET", "other"}, "all keys": {"KEYS", "*"}, "an end of everything": {"FLUSHALL"}} {
				for name := range passwords {
					if err := as(t, servers[0], name, passwords[name]).Do(t.Context(), c...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
						t.Errorf("%s may do %s: %v", name, what, err)
					}
				}
			}
			if err := as(t, servers[0], "sluice", passwords["sluice"]).Do(t.Context(), "FUNCTION", "LOAD", "REPLACE", "#!lua name=x\n").Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
				t.Errorf("who serves may load functions: %v", err)
			}
		})
	}
}

// whileASlotMoves charges a counter of a slot that is on its way to another node, as when an operator spreads a cluster anew: it
// has to wait for the slot, and can only where it may ask that node.
func whileASlotMoves(t *testing.T, s *server, servers []*redistest.Server) {
	t.Helper()
	options, err := s.config.Redis.options()
	if err != nil {
		t.Fatal(err)
	}
	client, err := redisconn.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	o := s.config.Redis.store(client)
	o.Timeout = time.Minute
	counters, err := redisstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = counters.Close() })
	shard := uint64(1000)             // no doctor's
	for counters.Slot(shard) > 5000 { // the first server's
		shard++
	}
	var nodes []*redis.Client
	var ids []string
	for _, server := range servers {
		c := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2, Username: "root", Password: "any"})
		t.Cleanup(func() { _ = c.Close() })
		id, err := c.ClusterMyID(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		nodes, ids = append(nodes, c), append(ids, id)
	}
	move := func(node int, how, id string) {
		if err := nodes[node].Do(t.Context(), "CLUSTER", "SETSLOT", counters.Slot(shard), how, id).Err(); err != nil {
			t.Error(err)
		}
	}
	move(1, "IMPORTING", ids[0])
	move(0, "MIGRATING", ids[1])
	answer := make(chan error, 1)
	go func() {
		limit := &ratelimit.Limit{Name: "l", Algorithm: ratelimit.Fixed, Hits: 1, Window: 366 * 24 * time.Hour}
		charge := []ratelimit.Charge{{Limit: limit, Hits: 1, Cell: ratelimit.Cell{Key: [16]byte{1, 2, 3}, Shard: shard}}}
		ok, err := counters.Charge(ratelimit.Operation{}, charge, make([]ratelimit.Outcome, 1))
		if !ok && err == nil {
			err = errors.New("it is refused")
		}
		answer <- err
	}()
	asked := regexp.MustCompile(`cmdstat_asking:calls=\d\d`)
	await.That(t, "the other node is asked ten times", func() bool {
		return len(answer) > 0 || asked.MatchString(nodes[1].Info(t.Context(), "commandstats").Val())
	})
	for i := range nodes {
		move(len(nodes)-1-i, "NODE", ids[1])
	}
	if err := <-answer; err != nil {
		t.Errorf("a request of a slot that moves: %v", err)
	}
}

func as(t *testing.T, s *redistest.Server, user, passwordFile string) *redis.Client {
	t.Helper()
	secret, err := os.ReadFile(passwordFile)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, Username: user, Password: strings.TrimSpace(string(secret)), MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// allowance makes a tenant of three requests through the API of a replica, and returns its key.
func allowance(t *testing.T, s *server, secrets string) string {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(secrets, adminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+strings.TrimSpace(string(token))), time.Minute)
	defer cancel()
	quota := quotav1.NewQuotaServiceClient(dial(t, s))
	limits := []*quotav1.Limit{{Name: "ever", Algorithm: "fixed", Limit: 3, Window: durationpb.New(366 * 24 * time.Hour)}}
	_, errRule := quota.CreateRule(ctx, &quotav1.CreateRuleRequest{RuleId: "may", Rule: &quotav1.Rule{Effect: "allow"}})
	_, errPlan := quota.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "p", Plan: &quotav1.Plan{Limits: limits}, RequestId: "made-once"})
	_, errTenant := quota.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: "t", Tenant: &quotav1.Tenant{Plan: "plans/p"}})
	created, err := quota.CreateApiKey(ctx, &quotav1.CreateApiKeyRequest{Parent: "tenants/t"})
	_, errDelete := quota.DeleteRule(ctx, &quotav1.DeleteRuleRequest{Name: "rules/none"})
	if err := errors.Join(errRule, errPlan, errTenant, err); err != nil || errDelete == nil {
		t.Fatal(err, errDelete)
	}
	return created.GetSecret()
}

func ask(t *testing.T, conn *grpc.ClientConn, key string) *authv3.CheckResponse {
	t.Helper()
	r, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/v1/calls", Host: "api.example.com", HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: ":method", RawValue: []byte("GET")}, {Key: ":path", RawValue: []byte("/v1/calls")},
				{Key: ":authority", RawValue: []byte("api.example.com")}, {Key: "x-api-key", RawValue: []byte(key)},
			}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if code := r.GetDeniedResponse().GetStatus().GetCode(); code == http.StatusServiceUnavailable {
		t.Fatalf("%v", r)
	}
	return r
}
