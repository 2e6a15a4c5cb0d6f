package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

const merged = "in a sidecar that joins repeated headers"

func TestAttacksOnHeaders(t *testing.T) {
	joins := strings.Replace(deploy.Sidecar, "encode_raw_headers: true", "encode_raw_headers: false", 1)
	for _, w := range []wiring{{gateway, deploy.Demo}, {sidecar, deploy.Sidecar}, {plain, asSent()}, {merged, joins}, {extProc, unguarded(deploy.ExtProc)}} {
		t.Run(w.name, func(t *testing.T) {
			s := stage(t, w.config, stack.Options{})
			acme, umbrella := s.customer(t, "acme"), s.customer(t, "umbrella")
			calls := &quotav1.Rule_What{Methods: []string{"GET", "POST"}, Paths: []string{"/v1/calls/**"}}
			s.rule(t, "calls", &quotav1.Rule{What: calls})
			s.rule(t, "one-host", &quotav1.Rule{What: &quotav1.Rule_What{Hosts: []string{"api.example.com"}, Paths: []string{"/v1/host"}}})
			s.rule(t, "region", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/region"}}, When: `request.headers["x-region"] == "eu"`})
			s.rule(t, "anybody", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/people"}}})
			s.rule(t, "no-admin", &quotav1.Rule{Effect: "deny", What: &quotav1.Rule_What{Paths: []string{"/v1/people"}}, When: `request.headers["x-role"] == "admin"`})
			s.rule(t, "not-admin", &quotav1.Rule{What: &quotav1.Rule_What{Paths: []string{"/v1/staff"}}, When: `request.headers["x-role"] != "admin"`})
			s.run(t, slices.Concat(
				tenantHeaders(w.name, acme), headersInRules(w.name, acme), oddCredentials(acme, umbrella), forwarded(w.name, acme),
				hosts(acme), hopByHop(acme), tooMany(w.name, acme), smuggled(acme),
			))
			t.Run("H-14 where Envoy has no room for what Sluice writes, nothing passes", func(t *testing.T) {
				records := len(s.decisions(t))
				many := strings.TrimSuffix(strings.Repeat("x-a: 1\r\n", 90), "\r\n")
				e := s.observe(t, func() reply { return s.raw(t, http1("GET", "/v1/calls", acme, many)) })
				if e.status != http.StatusInternalServerError && e.status != http.StatusServiceUnavailable || e.asked != 1 || e.contacts != 0 {
					t.Errorf("status %d, sluiced asked %d times, upstream contacted %d times; want 500 or 503, 1, 0", e.status, e.asked, e.contacts)
				}
				s.settle(t, records+1)
			})
			t.Run("H-14 sluiced and Envoy are alive after all this", func(t *testing.T) {
				s.judge(t, passes, func() reply { return s.raw(t, http1("GET", "/v1/calls", acme)) })
			})
		})
	}
}

// tenantHeaders are sent with acme's key. What they say decides nothing, and the
// upstream gets acme once: every admission is checked for that.
func tenantHeaders(in, key string) (attacks []attack) {
	send := func(name string, want verdict, lines ...string) {
		attacks = append(attacks, attack{name: name, request: http1("GET", "/v1/calls", append([]string{key}, lines...)...), want: want})
	}
	send("H-01 two tenants", passes, "x-tenant-id: acme", "x-tenant-id: umbrella")
	send("H-01 two tenants, the caller's last", passes, "x-tenant-id: umbrella", "x-tenant-id: acme")
	send("H-02 two tenants in one value", passes, "x-tenant-id: acme,umbrella")
	send("H-02 one tenant twice in one value", passes, "x-tenant-id: acme, acme")
	for _, value := range []string{"", "\t", " ", "ten\u0430nt", "\xff\xfe", "UMBRELLA", "umbrella.", strings.Repeat("a", 8<<10)} {
		send("H-04 the tenant "+clip(value), passes, "x-tenant-id: "+value)
	}
	send("H-05 another tenant", passes, "x-tenant-id: umbrella")
	send("H-05 another tenant's plan, principal, decision and token", passes,
		"x-sluice-plan: umbrella", "x-sluice-principal: umbrella", "x-sluice-decision-id: 0123456789abcdef0123456789abcdef", "X-Sluice-Anything: umbrella")
	token := isNobody
	if in == gateway {
		token = passes // it is gone before sluiced could be asked about it
	}
	send("H-05 a tenant token that is none", token, "x-sluice-tenant-token: umbrella")
	for _, alias := range []string{
		"X-TENANT-ID", "x.tenant.id", "xTenantID", "x-tenant", "tenant", "tenant-id", "x-tenant-name", "x~tenant~id", "x!tenant!id", "x--tenant--id", "x-tenant-id.", "x'tenant|id", "x+sluice+plan",
	} {
		send("H-06 the alias "+alias, passes, alias+": umbrella")
	}
	underscore := byEnvoy
	if in == plain || in == extProc {
		underscore = passes
	}
	for _, alias := range []string{"X_Tenant_Id", "x-tenant_id", "x_sluice_plan", "_x-tenant-id"} {
		send("H-06 the alias "+alias, underscore, alias+": umbrella")
	}
	send("H-06 a blank after the name", byEnvoy, "x-tenant-id : umbrella")
	send("H-06 a name that is no token", byEnvoy, "x-tenant-id(: umbrella")
	send("H-06 a folded line, which is one value to Envoy", passes, "x-note: a", " x-tenant-id: umbrella")
	k := field2(key)
	attacks = append(attacks,
		attack{name: "H-04 a name in upper case by HTTP/2", fields: ask2("GET", "/v1/calls", k, field{"X-Tenant-Id", "umbrella"}), want: byEnvoy},
		attack{name: "H-06 a blank after the name by HTTP/2", fields: ask2("GET", "/v1/calls", k, field{"x-tenant-id ", "umbrella"}), want: byEnvoy},
		attack{name: "H-13 a value with a line break by HTTP/2", fields: ask2("GET", "/v1/calls", k, field{"x-note", "a\r\nx-tenant-id: umbrella"}), want: byEnvoy},
		attack{name: "H-13 a value with a line feed by HTTP/2", fields: ask2("GET", "/v1/calls", k, field{"x-note", "a\nx-tenant-id: umbrella"}), want: byEnvoy},
		attack{name: "H-13 a value with a carriage return by HTTP/1.1, which Envoy takes out", request: http1("GET", "/v1/calls", key, "x-note: a\rx-tenant-id: umbrella"), want: passes},
		attack{name: "H-13 a name with a line break by HTTP/2", fields: ask2("GET", "/v1/calls", k, field{"x-note: a\r\nx-tenant-id", "umbrella"}), want: byEnvoy},
		attack{name: "H-05 another tenant by HTTP/2", fields: ask2("GET", "/v1/calls", field{"x-tenant-id", "umbrella"}, k, field{"x.tenant.id", "umbrella"}), want: passes},
	)
	for _, line := range []string{"x-tenant-id: acme", "x-tenant-id: umbrella", "tenant: umbrella", "x-sluice-principal: umbrella"} {
		attacks = append(attacks, attack{name: "H-07 nobody who says " + line, request: http1("GET", "/v1/calls", line), want: isNobody})
	}
	return attacks
}

// headersInRules are read by conditions.
func headersInRules(in, key string) (attacks []attack) {
	failed := func(t *testing.T, e ending) {
		if !e.record.Failed {
			t.Errorf("the record does not say that the condition failed: %+v", e.record)
		}
	}
	send := func(name, path string, want verdict, check func(*testing.T, ending), lines ...string) {
		attacks = append(attacks, attack{name: name, request: http1("GET", path, append([]string{key}, lines...)...), want: want, check: check})
	}
	send("X-02 a header as the condition wants it", "/v1/region", passes, nil, "x-region: eu")
	send("X-02 another value than the condition wants", "/v1/region", isForbidden, nil, "x-region: us")
	send("X-02 a missing header in a rule that allows", "/v1/region", isForbidden, failed)
	send("X-02 a missing header in a rule that denies", "/v1/people", isForbidden, failed)
	send("X-02 a missing header in a rule that wants another value", "/v1/staff", isForbidden, failed)
	send("X-02 a header as the rule that denies has it", "/v1/people", isForbidden, nil, "x-role: admin")
	send("X-02 another value than the rule that denies has", "/v1/people", passes, nil, "x-role: user")
	send("H-01 a header twice", "/v1/region", isForbidden, failed, "x-region: eu", "x-region: us")
	send("H-01 a header twice with one value", "/v1/region", isForbidden, failed, "x-region: eu", "x-region: eu")
	send("H-01 a header twice in two cases", "/v1/region", isForbidden, failed, "x-region: eu", "X-Region: us")
	send("H-02 two values in one", "/v1/region", isForbidden, failed, "x-region: eu,eu")
	for _, path := range []string{"/v1/people", "/v1/staff"} {
		send("H-03 several roles on "+path, path, isForbidden, failed, "x-role: user,admin")
		send("H-03 several roles in two headers on "+path, path, isForbidden, failed, "x-role: user", "x-role: admin")
		if in == merged { // Envoy puts '!' for such bytes, and sluiced does not learn of it
			send("H-03 a role that is not UTF-8 on "+path, path, passes, nil, "x-role: adm\xe9n")
			continue
		}
		send("H-03 a role that is not UTF-8 on "+path, path, isForbidden, failed, "x-role: adm\xe9n")
	}
	send("H-04 a value in another case", "/v1/region", isForbidden, nil, "x-region: EU")
	send("H-04 an empty value", "/v1/region", isForbidden, nil, "x-region:")
	send("H-04 a homoglyph", "/v1/region", isForbidden, nil, "x-region: \u0435u")
	send("H-04 blanks around the value, which Envoy takes off", "/v1/region", passes, nil, "x-region: \t eu \t")
	return attacks
}

// oddCredentials are keys as no client sends them.
func oddCredentials(key, other string) (attacks []attack) {
	value := strings.TrimPrefix(key, "x-api-key: ")
	for _, c := range []struct {
		name  string
		want  verdict
		lines []string
	}{
		{"H-04 an empty key", isNobody, []string{"x-api-key:"}},
		{"H-04 a key with a blank in it", isNobody, []string{"x-api-key: " + value[:9] + " " + value[9:]}},
		{"H-04 a key in upper case", isNobody, []string{"x-api-key: " + strings.ToUpper(value)}},
		{"H-04 a key of 8 KiB", isNobody, []string{"x-api-key: " + value + strings.Repeat("A", 8<<10)}},
		{"H-04 a key and a dot", isNobody, []string{"x-api-key: " + value + "."}},
		{"H-01 two keys", isNobody, []string{key, other}},
		{"H-01 one key twice", isNobody, []string{key, key}},
		{"H-02 two keys in one value", isNobody, []string{key + "," + strings.TrimPrefix(other, "x-api-key: ")}},
	} {
		attacks = append(attacks, attack{name: c.name, request: http1("GET", "/v1/calls", c.lines...), want: c.want})
	}
	return attacks
}

// forwarded are headers that say where a request came from, or what a proxy did with it.
func forwarded(in, key string) (attacks []attack) {
	const evil = "evil.example.com"
	for _, name := range []string{
		"x-forwarded-uri", "x-forwarded-host", "x-forwarded-for", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-client-cert", "forwarded", "x-real-ip",
		"x-original-url", "x-rewrite-url", "x-original-host", "x-envoy-original-path", "x-envoy-internal", "x-envoy-auth-failure-mode-allowed",
		"x-envoy-decorator-operation", "x-envoy-original-dst-host", "x-envoy-auth-partial-body", "x-envoy-external-address",
	} {
		a := attack{name: "H-08 " + name + " changes nothing", request: http1("GET", "/v1/calls", key, name+": "+evil), want: passes}
		// In a mesh the gateway writes most of them, so a sidecar lets them pass. Which path or method is asked for nobody else may say.
		always := slices.Contains([]string{"x-original-url", "x-rewrite-url", "x-forwarded-client-cert", "x-envoy-internal"}, name)
		if in == gateway || always {
			a.name = "H-08 " + name + " does not reach the upstream"
			a.check = func(t *testing.T, e ending) {
				for _, h := range e.seen.headers {
					if strings.Contains(h.value, evil) {
						t.Errorf("the upstream saw %s: %s", h.name, h.value)
					}
				}
			}
		}
		attacks = append(attacks, a, attack{name: "H-08 " + name + " opens no other path", request: http1("GET", "/admin", key, name+": /v1/calls"), want: isForbidden})
	}
	for _, scheme := range []string{"https", "wss", "file"} {
		attacks = append(attacks, attack{name: "H-08 x-forwarded-proto " + scheme + " changes nothing", request: http1("GET", "/v1/calls", key, "x-forwarded-proto: "+scheme), want: passes})
	}
	return attacks
}

// hosts are authorities for a rule about api.example.com alone.
func hosts(key string) (attacks []attack) {
	send := func(name, host string, want verdict, more ...string) {
		lines := append([]string{"GET /v1/host HTTP/1.1", "host: " + host, "connection: close", key}, more...)
		attacks = append(attacks, attack{name: name, request: strings.Join(append(lines, "\r\n"), "\r\n"), want: want})
	}
	send("H-10 the host of the rule", "api.example.com", passes)
	send("H-10 the host with a port", "api.example.com:8443", passes)
	send("H-10 the host in upper case", "API.Example.COM", passes)
	send("H-10 another host", "evil.example.com", isForbidden)
	send("H-10 two hosts", "api.example.com", isMalformed, "host: evil.example.com")
	send("H-10 two hosts in one", "api.example.com,evil.example.com", isMalformed)
	send("H-10 user information", "api.example.com@evil.example.com", isMalformed)
	send("H-10 user information of the host", "evil@api.example.com", isMalformed)
	send("H-10 a dot at the end", "api.example.com.", isMalformed)
	send("H-10 a huge host", "api.example.com"+strings.Repeat("a", 4<<10), isMalformed)
	send("H-10 an IPv6 address", "[::1]:8080", isForbidden)
	send("H-10 an IPv6 address with a zone", "[fe80::1%eth0]", isMalformed)
	send("H-10 no host", "", isMalformed)
	send("H-10 a path in the host", "api.example.com/admin", byEnvoy)
	k := field2(key)
	authority := func(name string, want verdict, fields ...field) {
		attacks = append(attacks, attack{name: name, fields: append([]field{{":method", "GET"}, {":scheme", "http"}, {":path", "/v1/host"}}, append(fields, k)...), want: want})
	}
	authority("H-10 a Host that is not the :authority", isForbidden, field{":authority", "evil.example.com"}, field{"host", "api.example.com"})
	authority("H-10 the :authority of the rule and another Host, which nobody sees", passes, field{":authority", "api.example.com"}, field{"host", "evil.example.com"})
	authority("H-10 two :authority", byEnvoy, field{":authority", "api.example.com"}, field{":authority", "evil.example.com"})
	authority("H-10 a Host alone", passes, field{"host", "api.example.com"})
	authority("H-10 two Hosts", byEnvoy, field{"host", "api.example.com"}, field{"host", "evil.example.com"})
	return attacks
}

// hopByHop name headers that belong to the connection, which makes a proxy drop them.
func hopByHop(key string) (attacks []attack) {
	send := func(name, connection string, want verdict, more ...string) {
		lines := append([]string{"GET /v1/calls HTTP/1.1", "host: api.example.com", "connection: " + connection, key}, more...)
		attacks = append(attacks, attack{name: name, request: strings.Join(append(lines, "\r\n"), "\r\n"), want: want})
	}
	send("H-11 the tenant belongs to the connection", "close, x-tenant-id", passes)
	send("H-11 all that Sluice writes belongs to the connection", "close, x-sluice-plan, x-sluice-principal, x-sluice-decision-id", passes)
	send("H-11 the tenant that a client sent belongs to the connection", "close, x-tenant-id", passes, "x-tenant-id: umbrella")
	send("H-11 authorization belongs to the connection", "close, authorization", passes)
	return attacks
}

// tooMany and too large.
func tooMany(in, key string) []attack {
	reserved := isMalformed
	if in == gateway || in == merged {
		reserved = passes // they are gone before, or they are one
	}
	tooLarge := verdict{http.StatusRequestHeaderFieldsTooLarge, unasked}
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat("x-a: 1\r\n", n), "\r\n") }
	return []attack{
		{name: "H-14 80 headers more", request: http1("GET", "/v1/calls", key, many(80)), want: passes},
		{name: "H-14 200 headers", request: http1("GET", "/v1/calls", key, many(200)), want: tooLarge},
		{name: "H-14 10,000 headers", request: http1("GET", "/v1/calls", key, many(10_000)), want: tooLarge},
		{name: "H-14 a header of 1 MB", request: http1("GET", "/v1/calls", key, "x-a: "+strings.Repeat("a", 1<<20)), want: tooLarge},
		{name: "H-14 50 KiB of headers", request: http1("GET", "/v1/calls", key, "x-a: "+strings.Repeat("a", 50<<10)), want: passes},
		{name: "H-14 70 reserved headers", request: http1("GET", "/v1/calls", key, strings.TrimSuffix(strings.Repeat("tenant: a\r\n", 70), "\r\n")), want: reserved},
	}
}

// smuggled are two requests that might be read as one, or one as two.
func smuggled(key string) (attacks []attack) {
	const second = "GET /admin HTTP/1.1\r\nhost: api.example.com\r\n\r\n"
	send := func(name string, want verdict, body string, lines ...string) {
		attacks = append(attacks, attack{name: name, request: http1("POST", "/v1/calls", append([]string{key}, lines...)...) + body, want: want})
	}
	send("H-15 a length and chunks", byEnvoy, "0\r\n\r\n"+second, "content-length: 5", "transfer-encoding: chunked")
	send("H-15 two lengths", byEnvoy, "aaaa", "content-length: 4", "content-length: 0")
	send("H-15 a length of two", byEnvoy, "aaaa", "content-length: 4, 0")
	send("H-15 a length with a sign", byEnvoy, "aaaa", "content-length: +4")
	unknown := verdict{http.StatusNotImplemented, unasked}
	send("H-15 chunks of another name", unknown, "0\r\n\r\n"+second, "transfer-encoding: xchunked")
	send("H-15 chunks after another encoding", unknown, "0\r\n\r\n"+second, "transfer-encoding: identity, chunked")
	by2 := func(name string, want verdict, body string, fields ...field) {
		attacks = append(attacks, attack{name: "H-15 by HTTP/2, " + name, fields: append(ask2("POST", "/v1/calls", field2(key)), fields...), body: body, want: want})
	}
	by2("chunks", byEnvoy, "0\r\n\r\n"+second, field{"transfer-encoding", "chunked"})
	by2("a connection header", byEnvoy, "", field{"connection", "x-tenant-id"})
	by2("a pseudo-header that nobody knows", byEnvoy, "", field{":tenant", "umbrella"})
	by2("a path after the headers", byEnvoy, "", field{":path", "/admin"})
	by2("a second request, which is the body of the first", passes, second)
	attacks = append(attacks,
		attack{name: "H-15 bare line feeds, which Envoy takes for line ends and mends", request: strings.ReplaceAll(http1("GET", "/v1/calls", key), "\r\n", "\n"), want: passes},
		attack{name: "H-15 HTTP/1.0", request: strings.Replace(http1("GET", "/v1/calls", key), "HTTP/1.1", "HTTP/1.0", 1), want: verdict{http.StatusUpgradeRequired, unasked}},
		attack{name: "H-15 HTTP/0.9", request: "GET /v1/calls\r\n\r\n", want: verdict{http.StatusUpgradeRequired, unasked}},
	)
	send("H-16 a tenant in the trailers", passes, "4\r\naaaa\r\n0\r\nx-tenant-id: umbrella\r\nx-sluice-plan: umbrella\r\n\r\n", "transfer-encoding: chunked", "te: trailers", "trailer: x-tenant-id")
	return attacks
}
