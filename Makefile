# jobrelay: what a person types. `make help` lists it.
#
# Only Go and make are needed; the race detector also needs a C compiler.
.DEFAULT_GOAL := help
SHELL := /bin/sh

BIN := bin
SERVICES := ingest launcher watcher notifier jobrelay
BINARIES := $(SERVICES:%=$(BIN)/%)
KUBERNETES := $(BIN)/kubernetes
VERSION ?= $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/jobrelay/jobrelay/pkg/process.version=$(VERSION)
GO_FILES := $(shell find pkg services -name '*.go' -not -name '*_test.go' 2>/dev/null) pkg/request/testdata/sample.json go.mod go.sum deploy/build.sh

# Tools are pinned in a module of their own and built once.
TOOL := go build -modfile=tools/go.mod -o $(BIN)/tools/
BUF := $(BIN)/tools/buf
GOLANGCI := $(BIN)/tools/golangci-lint

# Compose v2 where it is there, else v1 as Debian ships it.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# The race detector where a C compiler is present.
CC_PATH := $(shell command -v $$(go env CC) 2>/dev/null)
RACE := $(if $(CC_PATH),-race,)
TEST_FLAGS ?= -timeout 14m

.PHONY: help
help: ## What can be typed here.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(BINARIES) $(KUBERNETES) ## Every binary into bin/.

$(BINARIES) &: $(GO_FILES)
	@mkdir -p $(BIN)
	@LDFLAGS='$(LDFLAGS)' sh deploy/build.sh $(BIN)/ $(foreach s,$(SERVICES),./services/$(s)/cmd/$(s))

$(KUBERNETES): $(wildcard deploy/dev/kubernetes/*)
	@sh deploy/dev/kubernetes/build.sh $@

.PHONY: demo
demo: $(KUBERNETES) $(BIN)/jobrelay ## The original's sample message: one Job, callbacks 0, 1, 2.
	@$(BIN)/jobrelay demo

.PHONY: test
test: $(KUBERNETES) ## Every Go test, with the race detector where a C compiler is present.
	@$(if $(RACE),echo "testing with the race detector ($(CC_PATH))",echo "testing WITHOUT the race detector: no C compiler was found")
	@JOBRELAY_KUBE_BIN=$(CURDIR)/$(KUBERNETES) go test $(RACE) $(TEST_FLAGS) ./...

.PHONY: e2e
e2e: $(KUBERNETES) $(BIN)/jobrelay ## The whole stack from outside: 200 messages, kill -9, hostile ends.
	@JOBRELAY_KUBE_BIN=$(CURDIR)/$(KUBERNETES) JOBRELAY_BIN=$(CURDIR)/$(BIN)/jobrelay go test -tags e2e -count 1 -v -timeout 20m ./deploy/e2e/...

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, with the direction of imports.
	@$(GOLANGCI) run ./...

.PHONY: generate
generate: $(BUF) ## Write every generated file anew.
	@cd proto && $(CURDIR)/$(BUF) generate
	@go test ./pkg/jobstatus -run TestErrorCodesPage -update >/dev/null

.PHONY: verify
verify: $(BUF) $(KUBERNETES) ## Fail where a generated file, go.mod or the format is stale.
	@cd proto && $(CURDIR)/$(BUF) lint
	@sh deploy/verify.sh

.PHONY: fuzz
fuzz: ## Each fuzz target for a minute (FUZZTIME=1m).
	@go test ./pkg/request -run '^$$' -fuzz FuzzParse -fuzztime $${FUZZTIME:-1m}

.PHONY: up
up: $(BIN)/jobrelay ## The docker compose stack: NATS and the webhook receiver.
	$(COMPOSE) up -d --build

.PHONY: down
down: ## End the docker compose stack.
	$(COMPOSE) down

.PHONY: clean
clean: ## Remove what was built here; Go's own caches stay.
	rm -rf $(BIN)

$(BUF): tools/go.mod
	@echo "building buf (about a minute, once)"
	@$(TOOL) github.com/bufbuild/buf/cmd/buf && touch $@

$(GOLANGCI): tools/go.mod
	@echo "building golangci-lint (about 4 minutes, once)"
	@$(TOOL) github.com/golangci/golangci-lint/v2/cmd/golangci-lint && touch $@
