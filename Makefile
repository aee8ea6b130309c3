# Every task a person or CI does, under one name each. `make` lists them.

GO      ?= go
GATES   ?= 3
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOFMT       = $(shell $(GO) env GOROOT)/bin/gofmt

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## run one gateway for development on :8080, with an embedded Redis
	$(GO) run ./cmd/roomgate --dev

# Tests of the whole that make cluster runs on a Redis Cluster; all that can do with -cluster alone.
ONCLUSTER = ^Test(Operations|Rooms_model|LinkLost_.*|LeaveAllRoom|RoomAttributes_order|RollingRestart|RequestKey_.*|Overlap_.*|Switch_.*|Resume_.*|Killed_switching|GatewayDies|Devices_(enterAtOnce|loginsAtOnce|orderLost|replaced.*))$$

.PHONY: test
test: ## run everything that has to pass before a commit; installs what it needs
	@.ci/tools
	$(GO) vet ./...
	@unformatted=$$(find . -name '*.go' -not -path '*/node_modules/*' -exec $(GOFMT) -l {} +) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(MAKE) --no-print-directory web
	ROOMGATE_TEST_REQUIRE=1 CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 30m ./...
	$(MAKE) --no-print-directory cluster

.PHONY: cluster
cluster: ## run tests of the whole on a Redis Cluster
	@.ci/tools
	ROOMGATE_TEST_REQUIRE=1 CGO_ENABLED=1 $(GO) test -race -timeout 20m -run '$(ONCLUSTER)' ./internal/e2e -cluster -rapid.checks=20

.PHONY: web
web: ## test the TypeScript SDK and the web pages, in Node and in Chromium
	@.ci/tools
	cd client/js && npm ci --no-audit --no-fund --loglevel=error
	cd client/js && npm run --silent check
	cd client/js && NO_COLOR=1 npm test --silent
	cd client/js && NO_COLOR=1 npm run --silent test:browser

.PHONY: generate
generate: ## bundle the web pages anew; what is made is kept in the repository
	$(GO) generate ./gateway/console

.PHONY: screenshots
screenshots: ## make the pictures in docs/ anew
	@.ci/tools
	cd client/js && npm ci --no-audit --no-fund --loglevel=error && npm run --silent screenshots

.PHONY: build
build: ## build the programs into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

# Medians of BENCHROUNDS rounds; each part of a workload is measured for BENCHTIME.
BENCHTIME   ?= 3s
BENCHROUNDS ?= 3
.PHONY: bench
bench: build ## compare gateways with a minimal server: BENCHROUNDS (3) rounds of BENCHTIME (3s)
	@.ci/tools
	bin/roombench compare --gateway=bin/roomgate --rounds=$(BENCHROUNDS) --duration=$(BENCHTIME)

# The go command fuzzes one function at a time.
FUZZTIME ?= 10s
.PHONY: fuzz
fuzz: ## fuzz every fuzz test for FUZZTIME (10s)
	@grep -rlE --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' . | xargs -r -n1 dirname | sort -u | while read -r dir; do \
		$(GO) test -list '^Fuzz' "$$dir" </dev/null | grep '^Fuzz' | while read -r name; do \
			echo "$$dir $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null || exit 1; \
		done || exit 1; \
	done

FOR ?= 10m
.PHONY: chaos
chaos: ## let everything go wrong under load, FOR a time (10m); SEED=n repeats a world; CLUSTER=1: on a Redis Cluster
	@.ci/tools
	ROOMGATE_TEST_REQUIRE=1 $(GO) test -count=1 -v -timeout 0 -run '^TestChaos$$' ./internal/chaos -for $(FOR) $(if $(SEED),-seed $(SEED)) $(if $(CLUSTER),-cluster)

.PHONY: lint
lint: ## vet and staticcheck
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

.PHONY: up
up: ## run Redis and GATES gateways (3) behind a proxy on :8080, in Docker
	VERSION=$(VERSION) docker compose up --build --wait --scale gateway=$(GATES)

.PHONY: down
down: ## stop what `make up` started, and delete its data
	docker compose down --volumes
