package main

// The metrics of Sluice are in docs/reference/metrics.md. Those of Envoy are as its /stats/prometheus names them, in
// Istio's proxies too, but that a cluster's label is cluster_name there.

var job = variable{"job", "sluice_stage", "job"}

var boards = []board{
	{name: "overview", title: "Sluice / Overview", variables: []variable{job}, panels: []panel{
		{title: "Replicas up", says: "Servers that Prometheus reaches.", single: true, unit: "short", queries: []query{{`count(up{job=~"$job"} == 1)`, ""}}},
		{title: "Decisions a second", says: "All doors of all replicas.", single: true, unit: "reqps", queries: []query{{`sum(rate(sluice_decisions_total{job=~"$job"}[$__rate_interval]))`, ""}}},
		{title: "Refused because of us", says: "The share of requests that got 503. Should be 0.", single: true, unit: "percentunit", queries: []query{
			{`sum(rate(sluice_decisions_total{job=~"$job", reason=~"internal|unavailable"}[$__rate_interval])) / sum(rate(sluice_decisions_total{job=~"$job"}[$__rate_interval]))`, ""},
		}},
		{title: "Soft stage", says: "1 while nothing is protected.", single: true, unit: "short", queries: []query{{`max(sluice_stage{job=~"$job", stage="soft"})`, ""}}},
		{title: "Decisions by reason", says: "Admitted, or why not. internal and unavailable are our fault; the rest is the caller's, a rule's or a limit's.", unit: "reqps", queries: []query{{`sum by (reason) (rate(sluice_decisions_total{job=~"$job"}[$__rate_interval]))`, "{{reason}}"}}},
		{title: "Time of decisions", says: "Without the transport. A dot is a request whose trace is known: it leads there.", unit: "s", queries: []query{
			{`histogram_quantile(0.5, sum by (le) (rate(sluice_decision_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "half"},
			{`histogram_quantile(0.99, sum by (le) (rate(sluice_decision_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "99 of 100"},
		}},
		{title: "Tenants that ask most", says: "_others are the tenants without series of their own, _none the requests that prove no tenant.", unit: "reqps", queries: []query{{`topk(10, sum by (tenant) (rate(sluice_tenant_requests_total{job=~"$job"}[$__rate_interval])))`, "{{tenant}}"}}},
		{title: "Tenants over a limit", says: "Who is refused most by limits.", unit: "reqps", queries: []query{{`topk(10, sum by (tenant) (rate(sluice_tenant_requests_total{job=~"$job", outcome="over_limit"}[$__rate_interval])))`, "{{tenant}}"}}},
		{title: "What became of requests", says: "From Envoy's access log.", unit: "reqps", queries: []query{{`sum by (protocol, class) (rate(sluice_requests_total{job=~"$job"}[$__rate_interval]))`, "{{protocol}} {{class}}"}}},
		{title: "What ending shadow and the soft stage would change", says: "Requests that passed and would be refused. Look at the audit log for whose they are before you enforce.", unit: "reqps", queries: []query{
			{`sum(rate(sluice_decisions_shadowed_total{job=~"$job"}[$__rate_interval]))`, "all"},
			{`sum by (reason) (rate(sluice_decisions_soft_total{job=~"$job"}[$__rate_interval]))`, "soft: {{reason}}"},
		}},
		{title: "CPU", says: "Cores that each replica uses.", unit: "short", queries: []query{{`rate(process_cpu_seconds_total{job=~"$job"}[$__rate_interval])`, "{{instance}}"}}},
		{title: "Memory", says: "What each replica holds.", unit: "bytes", queries: []query{{`process_resident_memory_bytes{job=~"$job"}`, "{{instance}}"}}},
		{title: "Catalogue", says: "The revision in force, and files that can't be.", unit: "short", queries: []query{
			{`sluice_catalog_revision{job=~"$job"}`, "revision of {{instance}}"}, {`sluice_files_refused{job=~"$job"}`, "{{setting}} refused by {{instance}}"},
		}},
		{title: "Audit log", says: "Records that were written, and entries without one: dropped are counted in a gap, suppressed in a summary. failing is 1 while nothing can be written.", unit: "short", queries: []query{
			{`sum(rate(sluice_audit_records_total{job=~"$job"}[$__rate_interval]))`, "records a second"}, {`sum by (how) (rate(sluice_audit_missing_total{job=~"$job"}[$__rate_interval]))`, "{{how}}"},
			{`max(sluice_audit_failing{job=~"$job"})`, "failing"},
		}},
	}},
	{name: "tenant", title: "Sluice / One tenant", variables: []variable{job, {"tenant", "sluice_tenant_requests_total", "tenant"}}, panels: []panel{
		{title: "Requests a second", says: "All that the tenant asks, admitted or not.", single: true, unit: "reqps", queries: []query{{`sum(rate(sluice_tenant_requests_total{job=~"$job", tenant="$tenant"}[$__rate_interval]))`, ""}}},
		{title: "Refused", says: "The share that was not admitted, whatever the reason.", single: true, unit: "percentunit", queries: []query{
			{`sum(rate(sluice_tenant_requests_total{job=~"$job", tenant="$tenant", outcome!="allowed"}[$__rate_interval])) / sum(rate(sluice_tenant_requests_total{job=~"$job", tenant="$tenant"}[$__rate_interval]))`, ""},
		}},
		{title: "Least left of a limit", says: "Of the limit that is nearest to its end, when the tenant last asked.", single: true, unit: "percentunit", queries: []query{{`min(sluice_tenant_limit_remaining_ratio{job=~"$job", tenant="$tenant"})`, ""}}},
		{title: "Share of all requests", says: "Of what all tenants ask.", single: true, unit: "percentunit", queries: []query{
			{`sum(rate(sluice_tenant_requests_total{job=~"$job", tenant="$tenant"}[$__rate_interval])) / sum(rate(sluice_tenant_requests_total{job=~"$job"}[$__rate_interval]))`, ""},
		}},
		{title: "Requests by outcome", says: "over_limit is a limit, denied who asks or a rule, failed our fault.", unit: "reqps", queries: []query{{`sum by (outcome) (rate(sluice_tenant_requests_total{job=~"$job", tenant="$tenant"}[$__rate_interval]))`, "{{outcome}}"}}},
		{title: "Left of limits", says: "When the tenant last asked; 1 is the whole.", unit: "percentunit", queries: []query{
			{`min by (limit) (sluice_tenant_limit_remaining_ratio{job=~"$job", tenant="$tenant"})`, "{{limit}}"},
		}},
	}},
	{name: "limits", title: "Sluice / Limits near exhaustion", variables: []variable{job}, panels: []panel{
		{title: "Tenants with the least left", says: "Of those that ask most; 1 is the whole limit.", unit: "percentunit", queries: []query{
			{`bottomk(15, min by (tenant, limit) (sluice_tenant_limit_remaining_ratio{job=~"$job"}))`, "{{tenant}}: {{limit}}"},
		}},
		{title: "Share that limits refuse", says: "The fifteen that refuse most. A limit that refuses half is too small, or somebody is in a loop.", unit: "percentunit", queries: []query{
			{`topk(15, sum by (plan, limit) (rate(sluice_limit_decisions_total{job=~"$job", outcome="refused"}[$__rate_interval])) / sum by (plan, limit) (rate(sluice_limit_decisions_total{job=~"$job"}[$__rate_interval])))`, "{{plan}}: {{limit}}"},
		}},
		{title: "Allowed by limits", says: "Requests that a limit covered and no other refused.", unit: "reqps", queries: []query{{`sum by (plan, limit) (rate(sluice_limit_decisions_total{job=~"$job", outcome="allowed"}[$__rate_interval]))`, "{{plan}}: {{limit}}"}}},
		{title: "Refused by limits", says: "Requests that got 429 because of it.", unit: "reqps", queries: []query{{`sum by (plan, limit) (rate(sluice_limit_decisions_total{job=~"$job", outcome="refused"}[$__rate_interval]))`, "{{plan}}: {{limit}}"}}},
		{title: "Allowed in shadow though over the limit", says: "What enforcing it would refuse.", unit: "reqps", queries: []query{{`sum by (plan, limit) (rate(sluice_limit_decisions_total{job=~"$job", outcome="shadowed"}[$__rate_interval]))`, "{{plan}}: {{limit}}"}}},
		{title: "Limits as configured", says: "Hits a second that each admits of each tenant, over its window.", unit: "reqps", queries: []query{
			{`max by (plan, limit) (sluice_limit_configured{job=~"$job"} / sluice_limit_window_seconds{job=~"$job"})`, "{{plan}}: {{limit}}"},
		}},
		{title: "Allowed by limits of descriptor files", says: "Of the rate limit service, by the place in the files; override are limits that came with requests.", unit: "reqps", queries: []query{
			{`sum by (limit) (rate(sluice_rls_limit_decisions_total{job=~"$job", outcome="allowed"}[$__rate_interval]))`, "{{limit}}"},
		}},
		{title: "Refused by limits of descriptor files", says: "Of the rate limit service. shadow is what enforcing would refuse.", unit: "reqps", queries: []query{
			{`sum by (limit) (rate(sluice_rls_limit_decisions_total{job=~"$job", outcome="refused"}[$__rate_interval]))`, "{{limit}}"},
			{`sum by (limit) (rate(sluice_rls_limit_decisions_total{job=~"$job", outcome="shadowed"}[$__rate_interval]))`, "shadow: {{limit}}"},
		}},
		{title: "Limits of descriptor files as configured", says: "Hits a second that each admits of each value, over its window.", unit: "reqps", queries: []query{
			{`max by (limit) (sluice_rls_limit_configured{job=~"$job"} / sluice_rls_limit_window_seconds{job=~"$job"})`, "{{limit}}"},
		}},
	}},
	{name: "doors", title: "Sluice / Doors", variables: []variable{job}, panels: []panel{
		{title: "Decisions by door", says: "A door is a protocol of Envoy's: ext_authz, ext_proc, rls.", unit: "reqps", queries: []query{{`sum by (door, decision) (rate(sluice_decision_seconds_count{job=~"$job"}[$__rate_interval]))`, "{{door}} {{decision}}"}}},
		{title: "Time of decisions by door, 99 of 100", says: "Without the transport.", unit: "s", queries: []query{{`histogram_quantile(0.99, sum by (le, door) (rate(sluice_decision_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "{{door}}"}}},
		{title: "ext_authz as Envoy sees it", says: "no answer is what failure_mode_allow decides about; should be 0.", unit: "reqps", queries: []query{
			{`sum(rate(envoy_cluster_ext_authz_ok[$__rate_interval]))`, "allowed"}, {`sum(rate(envoy_cluster_ext_authz_denied[$__rate_interval]))`, "denied"},
			{`sum(rate(envoy_cluster_ext_authz_error[$__rate_interval]))`, "no answer"},
		}},
		{title: "Envoy's calls of Sluice, 99 of 100", says: "With the network. The access log's stream is not among them.", unit: "ms", queries: []query{
			{`histogram_quantile(0.99, sum by (le) (rate(envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=~".*sluice.*"}[$__rate_interval]) or rate(envoy_cluster_upstream_rq_time_bucket{cluster_name=~".*sluice.*"}[$__rate_interval])))`, ""},
		}},
		{title: "Access log", says: "missing: Envoy did not ask.", unit: "reqps", queries: []query{
			{`sum by (result) (rate(sluice_access_log_entries_total{job=~"$job"}[$__rate_interval]))`, "{{result}}"}, {`sum(rate(sluice_access_log_dropped_total{job=~"$job"}[$__rate_interval]))`, "dropped"},
		}},
		{title: "Rate limit service", says: "Calls by what was answered. unknown_domain: no file has the domain that Envoy asks about.", unit: "reqps", queries: []query{{`sum by (result) (rate(sluice_rls_calls_total{job=~"$job"}[$__rate_interval]))`, "{{result}}"}}},
		{title: "Streams under way", says: "Requests that ext_proc admitted and that last.", unit: "short", queries: []query{{`sum(sluice_streams_live{job=~"$job"})`, "streams"}}},
		{title: "Streams that were ended", says: "Before their time, by why. left open by Envoy should be 0.", unit: "reqps", queries: []query{
			{`sum by (reason) (rate(sluice_streams_ended_total{job=~"$job"}[$__rate_interval]))`, "{{reason}}"}, {`sum(rate(sluice_streams_stuck_total{job=~"$job"}[$__rate_interval]))`, "left open by Envoy"},
		}},
		{title: "Asking for all streams", says: "How long the last pass over all running streams took; a suspension takes that longer to hold for them.", unit: "s", queries: []query{{`max by (asked) (sluice_streams_sweep_seconds{job=~"$job"})`, "{{asked}}"}}},
		{title: "Panics", says: "Should be 0.", unit: "short", queries: []query{{`sum by (part) (increase(sluice_panics_total{job=~"$job"}[$__rate_interval]))`, "{{part}}"}}},
	}},
	{name: "store", title: "Sluice / Store", variables: []variable{job}, panels: []panel{
		{title: "Counters in memory", says: "As a share of --max-cells; beyond it requests are refused.", unit: "percentunit", queries: []query{
			{`sluice_store_cells{job=~"$job"} / sluice_store_cells_max{job=~"$job"}`, "{{instance}}"},
		}},
		{title: "Journal", says: "What makes durable limits survive a crash. commits that failed, and failing, should be 0.", unit: "ops", queries: []query{
			{`sum(rate(sluice_journal_records_total{job=~"$job"}[$__rate_interval]))`, "records"}, {`sum(rate(sluice_journal_fsyncs_total{job=~"$job"}[$__rate_interval]))`, "commits"},
			{`sum(rate(sluice_journal_errors_total{job=~"$job"}[$__rate_interval]))`, "commits that failed"}, {`max(sluice_journal_failing{job=~"$job"})`, "failing"},
		}},
		{title: "Round trips to Redis", says: "That charged. Above --redis-timeout a request is answered without Redis.", unit: "s", queries: []query{
			{`histogram_quantile(0.5, sum by (le) (rate(sluice_store_round_trip_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "half"},
			{`histogram_quantile(0.99, sum by (le) (rate(sluice_store_round_trip_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "99 of 100"},
		}},
		{title: "Calls of Redis", says: "Requests that meet share a round trip, so there are fewer of those than calls.", unit: "ops", queries: []query{
			{`sum by (result) (rate(sluice_store_round_trip_seconds_count{job=~"$job"}[$__rate_interval]))`, "round trips: {{result}}"},
			{`sum(rate(sluice_store_commands_total{job=~"$job"}[$__rate_interval]))`, "calls of a function"}, {`sum(rate(sluice_store_denied_hits_total{job=~"$job"}[$__rate_interval]))`, "refused without a call"},
		}},
		{title: "Calls that came to nothing", says: "silent: no answer in time; refused: Redis can't count now; crowded: too many under way. Should be 0.", unit: "ops", queries: []query{
			{`sum by (how) (rate(sluice_store_failures_total{job=~"$job"}[$__rate_interval]))`, "{{how}}"}, {`sum(rate(sluice_store_resent_total{job=~"$job"}[$__rate_interval]))`, "sent again"},
		}},
		{title: "Answers without Redis", says: "By what their limits say for an outage. Should be 0.", unit: "reqps", queries: []query{{`sum by (on_outage) (rate(sluice_store_degraded_total{job=~"$job"}[$__rate_interval]))`, "{{on_outage}}"}}},
		{title: "Outage", says: "Replicas that have stopped asking Redis or have seen that it may throw counters away, what it has not counted yet, and what it never will. Should be 0.", unit: "short", queries: []query{
			{`max by (instance) (sluice_store_breaker_open{job=~"$job"})`, "{{instance}} does not ask"}, {`max(sluice_store_unfit{job=~"$job"})`, "Redis is unfit"}, {`sum(sluice_store_journal_operations{job=~"$job"})`, "admissions to be counted yet"},
			{`sum by (kind) (increase(sluice_store_journal_dropped_total{job=~"$job"}[$__rate_interval]))`, "lost: {{kind}}"},
		}},
		{title: "Replicas", says: "As each sees them. They differ where replicas do not share a store.", unit: "short", queries: []query{{`sluice_replicas{job=~"$job"}`, "{{instance}}"}}},
	}},
	{name: "mesh", title: "Sluice / Mesh security", variables: []variable{job}, panels: []panel{
		{title: "Certificates of proxies, the shortest time left", says: "Of a namespace's pods. It saws: down, and up at each renewal; a line that only falls ends in an outage.", unit: "s", queries: []query{{`min by (namespace) (istio_agent_cert_expiry_seconds{resource_name="default"})`, "{{namespace}}"}}},
		{title: "Root certificate, time left", says: "Nothing that istiod signs outlives it.", unit: "s", queries: []query{{`min(citadel_server_root_cert_expiry_seconds)`, "root"}}},
		{title: "Certificate of the doors, time left", says: "With --tls-cert. At the end no proxy can ask.", unit: "s", queries: []query{{`sluice_tls_certificate_expiry_timestamp_seconds{job=~"$job"} - time()`, "{{instance}}"}}},
		{title: "Age of issuers' keys", says: "After a day tokens are refused.", unit: "s", queries: []query{{`max by (issuer) (time() - sluice_jwks_fetched_timestamp_seconds{job=~"$job"})`, "{{issuer}}"}}},
		{title: "Requests by mutual TLS", says: "none are requests in plain text; in a strict mesh there are none.", unit: "reqps", queries: []query{
			{`sum by (connection_security_policy) (rate(istio_requests_total{reporter="destination"}[$__rate_interval]))`, "{{connection_security_policy}}"},
		}},
		{title: "Refused in the mesh by code", says: "401 and 403 are identity and rules, 429 limits, 503 no endpoint, an open breaker, or Sluice's own fault.", unit: "reqps", queries: []query{{`sum by (response_code) (rate(istio_requests_total{reporter="destination", response_code=~"401|403|429|503"}[$__rate_interval]))`, "{{response_code}}"}}},
		{title: "Credentials refused, by what was wrong", says: "What callers are not told. A rise of one kind is a client that was changed, or somebody who tries.", unit: "reqps", queries: []query{{`sum by (reason) (rate(sluice_credentials_refused_total{job=~"$job"}[$__rate_interval])) > 0`, "{{reason}}"}}},
		{title: "Refused by identity and rules", says: "Requests that got 400, 401 or 403.", unit: "reqps", queries: []query{{`sum by (reason) (rate(sluice_decisions_total{job=~"$job", reason=~"unauthenticated|forbidden|suspended|malformed"}[$__rate_interval]))`, "{{reason}}"}}},
		{title: "Proxies that refuse configuration", says: "They keep what they had. Should be 0; sluice mesh verify names them.", unit: "short", queries: []query{{`sum by (type) (increase(pilot_total_xds_rejects[$__rate_interval]))`, "{{type}}"}}},
		{title: "Handshakes that failed", says: "At listeners with TLS: broken off, or with a certificate of another authority.", unit: "ops", queries: []query{{`sum(rate(envoy_listener_ssl_connection_error[$__rate_interval]))`, "connections"}, {`sum(rate(envoy_listener_ssl_fail_verify_error[$__rate_interval]))`, "certificates not trusted"}}},
	}},
	{name: "breakers", title: "Sluice / Circuit breakers", panels: []panel{
		{title: "Breakers that are open", says: "1 while a cluster takes no more.", unit: "short", queries: []query{
			{`max by (envoy_cluster_name, cluster_name) (envoy_cluster_circuit_breakers_default_rq_open)`, "requests: {{envoy_cluster_name}}{{cluster_name}}"},
			{`max by (envoy_cluster_name, cluster_name) (envoy_cluster_circuit_breakers_default_rq_pending_open)`, "pending: {{envoy_cluster_name}}{{cluster_name}}"},
			{`max by (envoy_cluster_name, cluster_name) (envoy_cluster_circuit_breakers_default_cx_open)`, "connections: {{envoy_cluster_name}}{{cluster_name}}"},
			{`max by (envoy_cluster_name, cluster_name) (envoy_cluster_circuit_breakers_default_rq_retry_open)`, "retries: {{envoy_cluster_name}}{{cluster_name}}"},
		}},
		{title: "Refused by breakers", says: "With the flag UO in the access log.", unit: "reqps", queries: []query{
			{`sum by (envoy_cluster_name, cluster_name) (rate(envoy_cluster_upstream_rq_pending_overflow[$__rate_interval]))`, "pending: {{envoy_cluster_name}}{{cluster_name}}"},
			{`sum by (envoy_cluster_name, cluster_name) (rate(envoy_cluster_upstream_cx_overflow[$__rate_interval]))`, "connections: {{envoy_cluster_name}}{{cluster_name}}"},
			{`sum by (envoy_cluster_name, cluster_name) (rate(envoy_cluster_upstream_rq_retry_overflow[$__rate_interval]))`, "retries: {{envoy_cluster_name}}{{cluster_name}}"},
		}},
		{title: "Requests under way", says: "By the cluster that they go to.", unit: "short", queries: []query{{`sum by (envoy_cluster_name, cluster_name) (envoy_cluster_upstream_rq_active)`, "{{envoy_cluster_name}}{{cluster_name}}"}}},
		{title: "Requests that wait for a connection", says: "Waiting here is time that callers see.", unit: "short", queries: []query{{`sum by (envoy_cluster_name, cluster_name) (envoy_cluster_upstream_rq_pending_active)`, "{{envoy_cluster_name}}{{cluster_name}}"}}},
		{title: "Endpoints taken out", says: "By outlier detection, for answering with errors in a row.", unit: "short", queries: []query{{`max by (envoy_cluster_name, cluster_name) (envoy_cluster_outlier_detection_ejections_active)`, "{{envoy_cluster_name}}{{cluster_name}}"}}},
		{title: "Healthy endpoints", says: "As a share of all that a cluster has.", unit: "percentunit", queries: []query{
			{`sum by (envoy_cluster_name, cluster_name) (envoy_cluster_membership_healthy) / sum by (envoy_cluster_name, cluster_name) (envoy_cluster_membership_total)`, "{{envoy_cluster_name}}{{cluster_name}}"},
		}},
		{title: "Time-outs and connections that failed", says: "A service that is slow, or not there.", unit: "reqps", queries: []query{
			{`sum by (envoy_cluster_name, cluster_name) (rate(envoy_cluster_upstream_rq_timeout[$__rate_interval]))`, "time-outs: {{envoy_cluster_name}}{{cluster_name}}"},
			{`sum by (envoy_cluster_name, cluster_name) (rate(envoy_cluster_upstream_cx_connect_fail[$__rate_interval]))`, "connections: {{envoy_cluster_name}}{{cluster_name}}"},
		}},
		{title: "Retries", says: "Each is one more request for a service in trouble.", unit: "reqps", queries: []query{{`sum by (envoy_cluster_name, cluster_name) (rate(envoy_cluster_upstream_rq_retry[$__rate_interval]))`, "{{envoy_cluster_name}}{{cluster_name}}"}}},
	}},
}
