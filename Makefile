# Everything a developer or CI runs. 'make' alone lists it.
# Needs Go, git and Python 3; other tools are installed under .tools/, keyed by version, but for redis-server.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# The end-to-end tests measure time: nothing may run beside them.
.NOTPARALLEL:

GOLANGCI_LINT_VERSION := v2.15.0
BUF_VERSION := v1.75.0
GOVULNCHECK_VERSION := v1.9.0
# Raise it when you touch dependencies; 'make vuln VULNDB_VERSION=latest' asks for today's.
VULNDB_VERSION := v0.0.0-20261105234957-e22db6528018
GOTESTSUM_VERSION := v1.13.0
# The plug-ins' versions are those of the libraries that the generated code links.
PROTOC_GEN_GO_VERSION := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
GRPC_GATEWAY_VERSION := v2.33.0

TOOLS := $(CURDIR)/.tools/bin
ENVOY := $(TOOLS)/envoy
MESH_TOOLS := $(CURDIR)/.tools/mesh/bin
OBSERVE_TOOLS := $(CURDIR)/.tools/observe/bin
PEERS := $(CURDIR)/.tools/peers/bin
export PATH := $(TOOLS):$(PATH)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# No VCS stamp and no paths of this machine: the same commit gives the same bytes.
BUILD_FLAGS := -trimpath -buildvcs=false -ldflags '-s -w -X github.com/voicecore-ai/sluice/app.Version=$(VERSION)'
# Assigned in the shell, so that a failing 'go list' ends the recipe.
UNIT_PACKAGES := packages=$$(go list ./...); packages=$$(grep -v '/sluice/e2e' <<<"$$packages");

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build envoy $(if $(filter redis,$(STORE)),redis-server) $(if $(OBSERVE),observe-tools) ## Two tenants through a real Envoy, on this machine (KEEP=1 leaves it running; STORE=redis: two replicas on a Redis; OBSERVE=1: Prometheus and Jaeger beside it)
	@case '$(STORE)' in ''|memory|redis) ;; *) echo "STORE=$(STORE): one of memory, redis" >&2; exit 2 ;; esac
	@bin/sluice demo --envoy $(ENVOY) $(if $(KEEP),--keep) $(if $(filter redis,$(STORE)),--redis-server redis-server) \
		$(if $(OBSERVE),--prometheus $(OBSERVE_TOOLS)/prometheus --jaeger $(OBSERVE_TOOLS)/jaeger)

.PHONY: test
test: test-unit test-faults test-e2e ## All tests: unit and conformance with the race detector, faults, then end to end

.PHONY: test-unit
test-unit: need-go need-cc gotestsum redis-server ## Unit, architecture and conformance tests with the race detector; fuzz seeds run as tests
	@echo "==> unit and conformance tests, with the race detector"
	@$(UNIT_PACKAGES) gotestsum --format pkgname-and-test-fails --hide-summary=skipped -- -race -timeout 45m $$packages

.PHONY: test-faults
test-faults: need-go need-cc gotestsum redis-server $(if $(FULL),envoy) ## The fault tests, with figures: kills, lost writes, damage, linearizability, and Redis in trouble (of the first test-unit runs fewer; FULL=1: a hundred failovers, a million charges, minutes of each fault)
	@echo "==> fault tests, without the race detector"
	@gotestsum --format standard-verbose --hide-summary=skipped -- -count=1 -timeout 15m -run '^Test(F[0-9]+|Restart)' ./ratelimit/memstore
	@echo "==> Redis in trouble"
	@SLUICE_FULL=$(FULL) gotestsum --format standard-verbose --hide-summary=skipped -- -count=1 -timeout $(if $(FULL),60m,20m) -p 1 ./e2e/redis
	@$(if $(FULL),SLUICE_FULL=1 SLUICE_ENVOY=$(ENVOY) gotestsum --format standard-verbose -- -count=1 -timeout 10m -run '^TestF1Replicas' ./e2e/replicas)

LOAD := go run ./loadtest/cmd/load -envoy $(ENVOY) -sluiced bin/sluiced -runner bin/loadrunner $(if $(SUITE),-suite $(SUITE)) $(if $(WIRING),-wiring $(WIRING)) -parallel $(or $(PARALLEL),1)

.PHONY: load
load: load-tools ## Load tests that hold what is allowed against the limits (STORE=memory, redis; SUITE=name,…; WIRING=ext_authz, ext_proc, rls; DURATION=n times the short form; SHORT=1: the short form, side by side)
	@$(LOAD) -store $(or $(STORE),both) $(if $(SHORT),-scale 1 -parallel 3,-scale $(or $(DURATION),3))

.PHONY: load-selftest
load-selftest: load-tools ## The load tests against limiters that are broken: each defect must fail the suites that are about it
	@$(LOAD) -selftest -parallel $(or $(PARALLEL),3)

.PHONY: accuracy
accuracy: load-tools ## What each algorithm allows in each wiring, on each store, beside what a log of all hits allows
	@$(LOAD) -accuracy -store $(or $(STORE),both) -scale $(or $(DURATION),3)

.PHONY: load-tools
load-tools: need-go build envoy redis-server
	@CGO_ENABLED=0 go build -o bin/loadrunner ./loadtest/cmd/runner

# What a stranger's bytes reach first; 'make test' runs the corpora of all targets.
FUZZ_TARGETS := ./authz:FuzzCanonicalPath ./authz:FuzzCondition ./authz/authn:FuzzParseXFCC ./authz/authn:FuzzToken ./authz/extauthz:FuzzCheck ./ratelimit/redisstore:FuzzStep
FUZZ_TIME := 30s

.PHONY: fuzz
fuzz: need-go redis-server ## Fuzz what reads hostile bytes first, FUZZ_TIME (30s) each: paths, conditions, XFCC, tokens, checks; and the steps of limits, Go against Redis
	@for target in $(FUZZ_TARGETS); do \
		echo "==> $${target#*:} for $(FUZZ_TIME)"; \
		scripts/fuzz "$${target%%:*}" "$${target#*:}" $(FUZZ_TIME); \
	done

.PHONY: test-e2e
test-e2e: need-go gotestsum envoy redis-server ## The built server behind a real Envoy
	@echo "==> end-to-end tests, with $$($(ENVOY) --version | sed 's/.*version: //')"
	@packages=$$(go list ./e2e/...); packages=$$(grep -Ev '/e2e/(mesh|observe|redis)' <<<"$$packages"); \
		SLUICE_ENVOY=$(ENVOY) gotestsum --format testname --hide-summary=skipped -- -count=1 -p 1 -timeout 20m $$packages

.PHONY: test-mesh
test-mesh: need-go need-namespaces gotestsum envoy redis-server build mesh-tools ## A real mesh in namespaces of its own: API server, istiod, Envoys. Needs root; the first run builds for a quarter of an hour
	@echo "==> tests in a real mesh, with $$($(ENVOY) --version | sed -n 's/.*version: //p')"
	@SLUICE_ENVOY=$(ENVOY) SLUICE_MESH_TOOLS=$(MESH_TOOLS) SLUICE_MESH_LOGS=$(CURDIR)/artifacts/mesh SLUICE_BIN=$(CURDIR)/bin \
		gotestsum --format testname -- -count=1 -p 1 -timeout 40m ./e2e/mesh/...

.PHONY: test-observe
test-observe: need-go gotestsum envoy observe-tools ## What Sluice shows of itself, to a real Jaeger and a real Prometheus; the first run builds them
	@echo "==> traces and metrics, with $$($(ENVOY) --version | sed -n 's/.*version: //p')"
	@SLUICE_ENVOY=$(ENVOY) SLUICE_OBSERVE_TOOLS=$(OBSERVE_TOOLS) \
		gotestsum --format testname -- -count=1 -p 1 -timeout 20m ./e2e/observe/...

.PHONY: lint
lint: need-go golangci-lint ## Formatting, go vet, golangci-lint, modules as locked, known vulnerabilities, generated code as committed
	@echo "==> gofmt"
	@unformatted=$$(find . -name '*.go' -not -path './.tools/*' -not -path './gen/*' -print0 | xargs -0 gofmt -l); \
		if [[ -n $$unformatted ]]; then echo "not formatted (run gofmt -w on them):" >&2; echo "$$unformatted" >&2; exit 1; fi
	@echo "==> go mod verify"
	@go mod verify
	@echo "==> go vet"
	@go vet ./...
	@echo "==> golangci-lint"
	@golangci-lint run --timeout 20m ./...
	@$(MAKE) --no-print-directory load-check
	@$(MAKE) --no-print-directory vuln
	@$(MAKE) --no-print-directory generate-check

.PHONY: load-check
load-check: need-node ## Types of the load tests' scripts, and their bounds against limiters that keep a log
	@echo "==> load tests' scripts"
	@cd loadtest && { [[ node_modules/.package-lock.json -nt package-lock.json ]] || ../scripts/again npm ci --no-audit --no-fund --loglevel=error; } && npm run --silent check

.PHONY: vuln
vuln: need-go govulncheck ## Known vulnerabilities that our code reaches; the database comes as a Go module
	@scripts/check-vulnerabilities $(VULNDB_VERSION)

.PHONY: bench
bench: build envoy ## Benchmarks of the packages, then through Envoy; results in artifacts/
	@mkdir -p artifacts
	@echo "==> package benchmarks"
	@$(UNIT_PACKAGES) go test -run '^$$' -bench . -benchmem $$packages | tee artifacts/bench.txt
	@echo "==> through Envoy"
	@go run ./e2e/bench -envoy $(ENVOY) -packages artifacts/bench.txt -json artifacts/bench.json

.PHONY: bench-redis
bench-redis: build redis-server peers ## CPU per decision on Redis beside envoyproxy/ratelimit, which the first run builds (ROUNDS=10)
	@go run ./e2e/bench -only redis -peer $(PEERS)/ratelimit -rounds $(or $(ROUNDS),10)

.PHONY: bench-series
bench-series: need-go envoy ## Series of each metric and CPU of a scrape, after so many tenants and whatever strangers make up (TENANTS=1000000)
	@SLUICE_TENANTS=$(or $(TENANTS),1000000) SLUICE_ENVOY=$(ENVOY) go test -count=1 -timeout 30m -v -run '^TestT04SeriesAreBounded' ./e2e

# The tests that compare what is rendered with the files that keep it, and write those with -update.
GENERATED_TESTS := ^Test(VoicecoreIsRenderedAsInItsGoldenFiles|ManifestsAreWhatIsRendered|TheRulesAreThoseOfDeployPrometheus)$$

.PHONY: generate
generate: buf-plugins need-go ## Write gen/ from proto/, deploy/dashboards/, the chart's rules from deploy/prometheus/, and from the profile voicecore its golden files and deploy/kubernetes/
	@cd proto && buf lint && buf generate
	@gofmt -l gen
	@go run ./deploy/dashboards/generate
	@go test ./installer/render ./deploy/chart -run '$(GENERATED_TESTS)' -count=1 -update

.PHONY: generate-check
generate-check: buf-plugins need-go ## Fail if gen/, deploy/dashboards/, the chart's rules or deploy/kubernetes/ are not what they are made from
	@echo "==> generated code"
	@scripts/check-generated
	@go run ./deploy/dashboards/generate -check
	@go test ./installer/render ./deploy/chart -run '$(GENERATED_TESTS)'

.PHONY: build
build: need-go ## bin/sluiced and bin/sluice, static and reproducible
	@echo "==> building sluiced and sluice $(VERSION)"
	@CGO_ENABLED=0 go build $(BUILD_FLAGS) -o bin/ ./cmd/sluiced ./cmd/sluice

.PHONY: tools
tools: envoy redis-server gotestsum golangci-lint buf-plugins govulncheck ## Install every tool now, under .tools/

.PHONY: clean
clean: ## Remove what was built; .tools/ stays (delete it by hand to fetch the tools again)
	@rm -rf bin artifacts coverage.out

# --- what the targets above stand on

.PHONY: need-go need-cc need-node need-namespaces
need-go:
	@command -v go >/dev/null || { echo "Go is not in PATH; install the version that go.mod names: $$(sed -n 's/^go //p' go.mod)" >&2; exit 1; }

need-cc:
	@command -v "$$(go env CC)" >/dev/null || { echo "no C compiler ($$(go env CC)): the race detector needs one (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }

need-node:
	@command -v npm >/dev/null || { echo "npm is not in PATH: it checks the load tests' scripts (Debian: apt-get install npm; Node 20 or newer)" >&2; exit 1; }

need-namespaces:
	@scripts/check-mesh-machine

# The one tool that is not under .tools/: no wheel and no Go module has it.
.PHONY: redis-server
redis-server:
	@scripts/install-redis-server

.PHONY: envoy mesh-tools observe-tools peers gotestsum golangci-lint govulncheck buf-plugins
envoy:
	@scripts/install-envoy

mesh-tools: need-go
	@scripts/build-mesh-tools

observe-tools: need-go
	@scripts/build-observe-tools

peers: need-go
	@scripts/build-peers

gotestsum: need-go
	@scripts/install-go-tool $@ $(GOTESTSUM_VERSION) gotest.tools/gotestsum

golangci-lint: need-go
	@scripts/install-go-tool $@ $(GOLANGCI_LINT_VERSION) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

govulncheck: need-go
	@scripts/install-go-tool $@ $(GOVULNCHECK_VERSION) golang.org/x/vuln/cmd/govulncheck

buf-plugins: need-go
	@scripts/install-go-tool buf $(BUF_VERSION) github.com/bufbuild/buf/cmd/buf
	@scripts/install-go-tool protoc-gen-go $(PROTOC_GEN_GO_VERSION) google.golang.org/protobuf/cmd/protoc-gen-go
	@scripts/install-go-tool protoc-gen-go-grpc $(PROTOC_GEN_GO_GRPC_VERSION) google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@scripts/install-go-tool protoc-gen-grpc-gateway $(GRPC_GATEWAY_VERSION) github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway
	@scripts/install-go-tool protoc-gen-openapiv2 $(GRPC_GATEWAY_VERSION) github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2
