package chart

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestWhatTheChartRefuses has each message once.
func TestWhatTheChartRefuses(t *testing.T) {
	one := []any{map[string]any{"podSelector": map[string]any{}}}
	for want, set := range map[string]map[string]any{
		// By the schema.
		"at '/replicas': maximum: got 2, want 1":                                     {"replicas": 2},
		"at '/autoscaling/enabled': value must be false":                             {"autoscaling.enabled": true},
		"at '': additional properties 'replica' not allowed":                         {"replica": 1},
		"at '/doors': additional properties 'peer' not allowed":                      {"doors.peer": "x"},
		"at '/replicas': got string, want integer":                                   {"replicas": "1"},
		"at '/replicas': minimum: got 0, want 1":                                     {"replicas": 0},
		"at '/store/type': value must be one of 'embedded', 'redis'":                 {"store.type": "valkey"},
		"at '/stage': value must be one of 'enforced', 'soft'":                       {"stage": "permissive"},
		"at '/settings': additional properties 'stage' not allowed":                  {"settings.stage": "soft"},
		"at '/tls/source': value must be one of 'istio', 'secret'":                   {"tls.source": "none"},
		"at '/doors/peers/0': 'me' does not match pattern":                           {"doors.peers": []any{"me"}},
		"at '/doors/peers': items at 0 and 1 are equal":                              {"doors.peers": []any{"spiffe://a/b", "spiffe://a/b"}},
		"at '/settings': additional properties 'grpc-listen' not allowed":            {"settings.grpc-listen": ":1"},
		"at '/settings/audit': got boolean, want string":                             {"settings.audit": true},
		"at '/settings/max-cells': minimum: got 10, want 1,000":                      {"settings.max-cells": 10},
		"at '/settings/audit-keep': '3' does not match pattern":                      {"settings.audit-keep": "3"},
		"at '/settings/otlp-endpoint': 'http://x:1' does not match pattern":          {"settings.otlp-endpoint": "http://x:1"},
		"at '/image/digest': 'sha256:1' does not match pattern":                      {"image.digest": "sha256:1"},
		"at '/persistence/accessMode': value must be one of 'ReadWriteOncePod'":      {"persistence.accessMode": "ReadWriteMany"},
		"at '/catalogue/files': additional properties 'plans.json' not allowed":      {"catalogue.files": map[string]any{"plans.json": "{}"}},
		"at '/networkPolicy/statusFrom/0': minProperties: got 0, want 1":             {"networkPolicy.statusFrom": []any{map[string]any{}}},
		"at '/networkPolicy/statusFrom/0/ipBlock': missing property 'cidr'":          {"networkPolicy.statusFrom": []any{map[string]any{"ipBlock": map[string]any{}}}},
		"at '/drain/timeoutSeconds': minimum: got 0, want 1":                         {"drain.timeoutSeconds": 0},
		"at '/topologySpreadConstraints/0': missing properties 'maxSkew'":            {"topologySpreadConstraints": []any{map[string]any{}}},
		"at '/tolerations/0/effect': value must be one of 'NoSchedule'":              {"tolerations": []any{map[string]any{"effect": "No"}}},
		"at '/fullnameOverride': 'Sluice' does not match pattern":                    {"fullnameOverride": "Sluice"},
		"at '/podLabels/a': got boolean, want string":                                {"podLabels": map[string]any{"a": true}},
		"at '': missing property 'image'":                                            {"image": nil},
		"at '/resources/limits': additional properties 'nvidia.com/gpu' not allowed": {"resources.limits": map[string]any{"nvidia.com/gpu": "1"}},

		// By templates/check.yaml, in a sentence.
		"store.redis.url: empty; name the Redis that the replicas share":                          {"store.type": "redis", "networkPolicy.redisTo": one},
		"store.redis.url: plain text to another pod or machine":                                   {"store.type": "redis", "store.redis.url": "redis://r", "networkPolicy.redisTo": one},
		"store.redis.existingSecret: empty, and store.redis.user can't prove itself":              {"store.type": "redis", "store.redis.url": "rediss://r", "store.redis.user": "u", "networkPolicy.redisTo": one},
		"clientCertificate: do nothing while the URL says plain text":                             {"store.type": "redis", "store.redis.url": "redis://r", "store.redis.plainText": true, "store.redis.tlsExistingSecret": "x", "networkPolicy.redisTo": one},
		"store.redis.tlsExistingSecret: empty, and clientCertificate wants tls.crt":               {"store.type": "redis", "store.redis.url": "rediss://r", "store.redis.clientCertificate": true, "networkPolicy.redisTo": one},
		"sentinelExistingSecret: do nothing while the URL names no Sentinel":                      {"store.type": "redis", "store.redis.url": "rediss://r", "store.redis.sentinelExistingSecret": "x", "networkPolicy.redisTo": one},
		"store.redis.sentinelExistingSecret: empty, and store.redis.sentinelUser can't prove":     {"store.type": "redis", "store.redis.url": "rediss+sentinel://r/m", "store.redis.sentinelUser": "x", "networkPolicy.redisTo": one},
		"networkPolicy.redisTo: empty, so sluiced could not reach Redis; say where it is":         {"store.type": "redis", "store.redis.url": "rediss://r"},
		"networkPolicy.redisPorts: 26380 of store.redis.url is not among them":                    {"store.type": "redis", "store.redis.url": "rediss+sentinel://[::1]:6379,s:26380/m", "networkPolicy.redisTo": one},
		"store.redis: does nothing while store.type is embedded":                                  {"store.redis.url": "rediss://r"},
		"at '/store/redis/url': 'redis://u:p@r' does not match pattern":                           {"store.redis.url": "redis://u:p@r"},
		"image.repository: empty, and nothing is published yet":                                   {"image.repository": ""},
		"secrets.existingSecret: empty, and no secret is a default; make one once: sluiced init":  {"secrets.existingSecret": ""},
		"doors.peers: empty, so no proxy could ask; list the SPIFFE ids":                          {"doors.peers": []any{}},
		"doors.edgePeers spiffe://a/b: not one of doors.peers":                                    {"doors.edgePeers": []any{"spiffe://a/b"}},
		"tls.existingSecret: empty; name a Secret with tls.crt, tls.key and ca.crt":               {"tls.source": "secret"},
		"tls.existingSecret: does nothing while tls.source is istio":                              {"tls.existingSecret": "x"},
		"api.exposed: the admin token would go over the network in the clear":                     {"api.exposed": true, "tls.source": "secret", "tls.existingSecret": "x", "networkPolicy.apiFrom": one},
		"catalogue: files and existingConfigMap; give one of them":                                {"catalogue.files": map[string]any{"a.yaml": "{}"}, "catalogue.existingConfigMap": "x"},
		"descriptors: files and existingConfigMap; give one of them":                              {"descriptors.files": map[string]any{"a.yaml": "{}"}, "descriptors.existingConfigMap": "x"},
		"networkPolicy.doorsFrom: empty, and no id of doors.peers names a namespace (/ns/…/sa/…)": {"doors.peers": []any{"spiffe://example.com/edge"}},
		"networkPolicy.statusFrom: empty, so the Prometheus of serviceMonitor could not scrape":   {"serviceMonitor.enabled": true},
		"networkPolicy.apiFrom: empty, so nobody could reach the API of api.exposed":              {"api.exposed": true},
		"networkPolicy.otlpTo: empty, so no span could reach settings.otlp-endpoint; say where":   {"settings.otlp-endpoint": "https://otel:4317"},
		"otlp.caExistingSecret: does nothing while settings.otlp-endpoint does not begin with":    {"otlp.caExistingSecret": "x"},
		"settings.otlp-endpoint: plain text to another pod or machine":                            {"settings.otlp-endpoint": "otel:4317", "networkPolicy.otlpTo": one},
	} {
		t.Run("it says "+want, func(t *testing.T) {
			rendered, err := render(load(t), with(values(t, "minimal"), set), false)
			if err == nil {
				t.Fatalf("%v was rendered, as %d files", set, len(rendered))
			}
			said := strings.Split(strings.TrimSpace(err.Error()), "\n")
			if !strings.Contains(err.Error(), want) {
				t.Errorf("it said\n%v", err)
			}
			if problems := len(slices.DeleteFunc(said, func(l string) bool { return !strings.HasPrefix(strings.TrimSpace(l), "- ") })); problems != 1 {
				t.Errorf("%d problems were named, want 1\n%v", problems, err)
			}
		})
	}
}

func TestAllThatIsMissingIsNamedAtOnce(t *testing.T) {
	_, err := render(load(t), nil, false)
	for _, want := range []string{"these values do not do:", "image.repository:", "secrets.existingSecret:", "doors.peers:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not %q in\n%v", want, err)
		}
	}
}

// schemaOf is what values.schema.json says.
func schemaOf(t *testing.T) map[string]any {
	t.Helper()
	text, err := FS.ReadFile("values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// properties are the names below a value, as the schema has them.
func properties(t *testing.T, name string) []string {
	t.Helper()
	below := schemaOf(t)["properties"].(map[string]any)[name].(map[string]any)["properties"].(map[string]any)
	return slices.Sorted(maps.Keys(below))
}

// TestTheSchemaIsClosed: a misspelt value is refused wherever it is. Open are maps of
// texts, such as labels, and "global", which Helm itself puts there.
func TestTheSchemaIsClosed(t *testing.T) {
	var open []string
	var walk func(at string, node any)
	walk = func(at string, node any) {
		switch n := node.(type) {
		case map[string]any:
			if n["type"] == "object" {
				switch more := n["additionalProperties"].(type) {
				case bool:
					if more {
						open = append(open, at)
					}
				case map[string]any:
					if more["type"] != "string" {
						open = append(open, at)
					}
				default:
					open = append(open, at)
				}
			}
			for _, key := range slices.Sorted(maps.Keys(n)) {
				walk(at+"/"+key, n[key])
			}
		case []any:
			for i, item := range n {
				walk(fmt.Sprintf("%s/%d", at, i), item)
			}
		}
	}
	walk("", schemaOf(t))
	if !slices.Equal(open, []string{"/properties/global"}) {
		t.Errorf("open: %q", open)
	}
}
