# jobrelay: what a person types. `make help` lists it.
#
# Only Go and make are needed; the race detector also needs a C compiler, and the
# compose stack needs Docker.
.DEFAULT_GOAL := help
SHELL := /bin/sh

BIN := bin
SERVICES := ingest launcher watcher notifier console jobrelay
BINARIES := $(SERVICES:%=$(BIN)/%)
KUBERNETES := $(BIN)/kubernetes
NATS := $(BIN)/nats-server
VERSION ?= $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/jobrelay/jobrelay/pkg/process.version=$(VERSION)
GO_FILES := $(shell find pkg services -name '*.go' -not -name '*_test.go' 2>/dev/null) $(shell find services/console/templates services/console/static -type f 2>/dev/null) pkg/request/testdata/sample.json go.mod go.sum deploy/build.sh

# Tools are pinned in a module of their own and built once.
TOOL := go build -modfile=tools/go.mod -o $(BIN)/tools/
BUF := $(BIN)/tools/buf
GOLANGCI := $(BIN)/tools/golangci-lint
PROMTOOL := $(BIN)/tools/promtool
JSON_SCHEMA := $(BIN)/tools/protoc-gen-jsonschema
NATS_CLI := $(BIN)/tools/nats

# Compose v2 where it is there, else v1 as Debian ships it.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
STACK = COMPOSE='$(COMPOSE)' sh deploy/docker/stack.sh
IMAGES := $(BIN)/jobrelay $(KUBERNETES) $(NATS) $(BIN)/toxiproxy-server $(BIN)/toxiproxy-cli $(BIN)/probe

# The race detector where a C compiler is present.
CC_PATH := $(shell command -v $$(go env CC) 2>/dev/null)
RACE := $(if $(CC_PATH),-race,)
TEST_FLAGS ?= -timeout 14m

.PHONY: help
help: ## What can be typed here.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(BINARIES) $(KUBERNETES) $(NATS) ## Every binary into bin/.

$(BINARIES) &: $(GO_FILES)
	@mkdir -p $(BIN)
	@LDFLAGS='$(LDFLAGS)' sh deploy/build.sh $(BIN)/ $(foreach s,$(SERVICES),./services/$(s)/cmd/$(s))

$(KUBERNETES): $(wildcard deploy/dev/kubernetes/*)
	@sh deploy/dev/kubernetes/build.sh $@

STATIC := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w'

$(NATS): go.mod
	@echo "building nats-server"
	@$(STATIC) -o $@ github.com/nats-io/nats-server/v2 && touch $@

$(BIN)/toxiproxy-%: tools/go.mod
	@echo "building toxiproxy-$*"
	@$(STATIC) -modfile=tools/go.mod -o $@ github.com/Shopify/toxiproxy/v2/cmd/$* && touch $@

$(BIN)/probe: $(wildcard deploy/docker/probe/*.go)
	@$(STATIC) -o $@ ./deploy/docker/probe && touch $@

.PHONY: demo
demo: $(KUBERNETES) $(BIN)/jobrelay ## The original's sample message: one Job, callbacks 0, 1, 2.
	@$(BIN)/jobrelay demo

.PHONY: test
test: $(KUBERNETES) ## Every Go test, with the race detector where a C compiler is present.
	@$(if $(RACE),echo "testing with the race detector ($(CC_PATH))",echo "testing WITHOUT the race detector: no C compiler was found")
	@JOBRELAY_KUBE_BIN=$(CURDIR)/$(KUBERNETES) go test $(RACE) $(TEST_FLAGS) ./...

.PHONY: e2e
e2e: $(KUBERNETES) $(BINARIES) $(NATS) ## The whole stack from outside, and two replicas of everything under SIGKILL; 25 minutes.
	@JOBRELAY_KUBE_BIN=$(CURDIR)/$(KUBERNETES) JOBRELAY_BIN=$(CURDIR)/$(BIN)/jobrelay JOBRELAY_BIN_DIR=$(CURDIR)/$(BIN) go test -tags e2e -count 1 -v -timeout 40m -p 1 ./deploy/e2e ./deploy/e2e/callbacks
	@$(MAKE) --no-print-directory e2e-nats
	@$(MAKE) --no-print-directory e2e-upgrade

.PHONY: e2e-nats
e2e-nats: $(KUBERNETES) $(BINARIES) $(NATS) ## Three servers of NATS with deploy/nats, one after the other under SIGKILL; 3 minutes, and part of e2e.
	@JOBRELAY_KUBE_BIN=$(CURDIR)/$(KUBERNETES) JOBRELAY_BIN_DIR=$(CURDIR)/$(BIN) go test -tags e2e -count 1 -v -timeout 10m -run TestCluster ./deploy/nats

.PHONY: e2e-upgrade
e2e-upgrade: $(KUBERNETES) $(BINARIES) $(NATS) ## This build and the one before side by side, upgraded and rolled back under load; needs the git history, part of e2e.
	@sh deploy/e2e/upgrade/run.sh

.PHONY: mutants
mutants: $(NATS) ## Each guard of the notifier taken away, and the scene that notices; half a minute, and part of e2e.
	@JOBRELAY_BIN_DIR=$(CURDIR)/$(BIN) go test -tags e2e -count 1 -v -timeout 10m -run TestMutants ./deploy/e2e/callbacks

# In a network namespace of its own; what is missing is said before anything is built.
.PHONY: e2e-node node-needs
e2e-node: node-needs $(KUBERNETES) $(BINARIES) $(NATS) $(BIN)/kubelet ## A real kubelet runs the original's sample and its bad ends; root on Linux, 1 minute.
	@JOBRELAY_BIN=$(CURDIR)/$(BIN)/jobrelay JOBRELAY_BIN_DIR=$(CURDIR)/$(BIN) go test -tags e2enode -exec $(CURDIR)/deploy/e2e/node/alone.sh -count 1 -v -timeout 10m -run TestRealNode ./deploy/e2e/node
node-needs:
	@sh deploy/e2e/node/needs.sh

$(BIN)/kubelet: $(wildcard deploy/e2e/node/kubelet/*)
	@sh deploy/e2e/node/kubelet/build.sh $@ && touch $@

.PHONY: bench
bench: $(BINARIES) $(KUBERNETES) $(NATS) ## Ours against bare loops, as ratios, into bin/bench; 14 minutes (BENCH="--rows B1 --profile", BENCH=--help).
	@LDFLAGS='$(LDFLAGS)' sh deploy/build.sh $(BIN)/bench/ ./deploy/bench
	@$(BIN)/bench/bench $(BENCH)

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, with the direction of imports.
	@$(GOLANGCI) run ./...
	@cd tools/supply && $(CURDIR)/$(GOLANGCI) run ./...

.PHONY: generate
generate: $(BUF) $(JSON_SCHEMA) ## Write every generated file anew.
	@cd proto && $(CURDIR)/$(BUF) generate
	@for m in JobStarted PodStarted JobCompleted JobFailed JobException RequestRejected; do \
		cp $(BIN)/schemas/jobrelay.jobs.v1.$$m.jsonschema.strict.bundle.json docs/schemas/jobrelay.jobs.v1.$$m.json || exit 1; \
	done
	@go test ./pkg/event -run TestTapsPage -update >/dev/null
	@go test ./deploy/nats -run TestConfiguration -update >/dev/null
	@go test ./pkg/jobstatus -run 'Page$$' -update >/dev/null
	@go test ./services/jobrelay -run 'TestConfigurationPage|TestMetricsPage' -update >/dev/null

.PHONY: verify
verify: $(BUF) $(KUBERNETES) monitoring ## Fail where a generated file, go.mod or the format is stale.
	@cd proto && $(CURDIR)/$(BUF) lint
	@cd proto && $(CURDIR)/$(BUF) breaking --against released.binpb
	@sh deploy/verify.sh

.PHONY: monitoring
monitoring: $(PROMTOOL) ## The Prometheus rules and their tests, by promtool.
	@cd deploy/monitoring && $(CURDIR)/$(PROMTOOL) check rules --lint-fatal rules.yaml && $(CURDIR)/$(PROMTOOL) test rules rules_test.yaml
.PHONY: released
released: $(BUF) ## At a release: from now on nothing that taps read in this one may change, and it is the version before.
	@cd proto && $(CURDIR)/$(BUF) breaking --against released.binpb
	@cd proto && $(CURDIR)/$(BUF) build --exclude-source-info --output released.binpb
	@git rev-parse HEAD >deploy/e2e/upgrade/previous

.PHONY: fuzz
fuzz: ## Each fuzz target for a minute (FUZZTIME=1m).
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' pkg services deploy | sort | { failed=0; \
	while IFS=: read -r file target; do \
		echo "$${target#func } of $${file%/*}"; \
		go test "./$${file%/*}" -run '^$$' -fuzz "^$${target#func }\$$" -fuzztime "$${FUZZTIME:-1m}" </dev/null || failed=1; \
	done; exit $$failed; }

.PHONY: test-js
test-js: ## The published JSON Schema with ajv, signatures with standardwebhooks, a tap; needs node and npm.
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "test-js needs node 20 or later and npm: apt-get install nodejs npm, or see nodejs.org"; exit 1; }
	@echo "checking docs/message.schema.json with ajv on the messages of pkg/request/testdata/messages"
	@cd deploy/js && npm ci --silent && node --test --test-reporter=spec
	@echo "running docs/receivers/javascript, which verifies with standardwebhooks, beside a real notifier"
	@cd docs/receivers/javascript && npm ci --silent
	@go test -count 1 -v -tags receivers -run TestJavaScript ./docs/receivers
	@echo "running docs/taps/javascript, which reads with @nats-io/jetstream, beside a real NATS"
	@cd docs/taps/javascript && npm ci --silent
	@go test -count 1 -v -tags taps -run TestJavaScript ./docs/taps

.PHONY: test-cli
test-cli: $(NATS_CLI) ## The line of docs/taps.md for the nats command, typed beside a real NATS.
	@JOBRELAY_NATS_CLI=$(CURDIR)/$(NATS_CLI) go test -count 1 -v -tags taps -run TestCLI ./docs/taps

.PHONY: test-python
test-python: ## The receiver in Python beside a real notifier; needs python3.
	@command -v python3 >/dev/null || { echo "test-python needs python3.9 or later: apt-get install python3; nothing was tested"; exit 1; }
	@go test -count 1 -v -tags receivers -run TestPython ./docs/receivers

# A browser beside real processes: what is missing is said before anything is built.
.PHONY: test-browser screenshots browser-needs
test-browser: browser-needs $(BINARIES) $(KUBERNETES) ## The console in a headless Chromium, with axe-core on each page; needs chromium, node and npm; 4 minutes.
	@cd deploy/e2e/console && npm ci --silent
	@$(BROWSER_TEST)
screenshots: browser-needs $(BINARIES) ## The pictures of docs/console, anew.
	@cd deploy/e2e/console && npm ci --silent
	@$(BROWSER_TEST) -run TestPictures -update
BROWSER_TEST = JOBRELAY_BIN_DIR=$(CURDIR)/$(BIN) JOBRELAY_KUBE_BIN=$(CURDIR)/$(KUBERNETES) go test -tags browser -count 1 -v -timeout 20m ./deploy/e2e/console
browser-needs:
	@command -v "$${JOBRELAY_CHROMIUM:-chromium}" >/dev/null || { echo "test-browser needs Chromium: apt-get install chromium, or name one in JOBRELAY_CHROMIUM; nothing was tested"; exit 1; }
	@command -v npm >/dev/null || { echo "test-browser needs node and npm, which bring axe-core: apt-get install nodejs npm; nothing was tested"; exit 1; }

.PHONY: images
images: $(IMAGES) ## The container images, out of the static binaries; Docker needed.
	@sh deploy/docker/images.sh jobrelay parts kubernetes

.PHONY: up
up: $(IMAGES) ## The compose stack, until all is healthy; FAULTS=1 puts toxiproxy in between.
	@$(STACK) up

.PHONY: down
down: ## End the compose stack; VOLUMES=1 forgets its state.
	@$(STACK) down

.PHONY: logs
logs: ## Follow what the compose stack says.
	@$(STACK) logs

.PHONY: send
send: ## The original's sample into the compose stack; follows its callbacks.
	@$(STACK) send

.PHONY: scale
scale: ## NOTIFIERS=4: so many notifiers.
	@$(STACK) scale

.PHONY: kubeconfig
kubeconfig: ## A kubeconfig for the compose stack's Kubernetes.
	@$(STACK) kubeconfig

.PHONY: fault-cut
fault-cut: ## LINK=nats|sqs|kubernetes|webhooks: cut it (after make up FAULTS=1).
	@$(STACK) fault-cut

.PHONY: fault-slow
fault-slow: ## LINK=… MS=300: make it slow.
	@$(STACK) fault-slow

.PHONY: fault-reset
fault-reset: ## LINK=…, or every link: make it whole again.
	@$(STACK) fault-reset

.PHONY: e2e-compose
e2e-compose: $(IMAGES) ## The compose stack for real, each container killed; starts a Docker daemon where none runs.
	@COMPOSE='$(COMPOSE)' sh deploy/docker/e2e.sh

# Supply chain: in a module of its own (tools/supply).
SUPPLY := go build -C tools/supply -o ../../$(BIN)/tools/

.PHONY: vuln
vuln: ## Known vulnerabilities of what is linked in; says so where their database cannot be reached.
	@$(SUPPLY) golang.org/x/vuln/cmd/govulncheck
	@sh tools/supply/vuln.sh $(BIN)/tools/govulncheck ./services/...

.PHONY: licences
licences: ## The licence of every module that is linked in; fails on one that is not allowed.
	@$(SUPPLY) ./licences
	@$(BIN)/tools/licences ./services/...

.PHONY: sbom
sbom: $(BINARIES) ## The bill of materials of each binary (CycloneDX), into bin/sbom.
	@$(SUPPLY) github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
	@sh tools/supply/sbom.sh $(BIN)/tools/cyclonedx-gomod $(BIN) $(BIN)/sbom $(VERSION)

.PHONY: reproducible
reproducible: ## Build the binaries twice, at two paths, and compare them; 5 to 10 minutes.
	@sh tools/supply/reproducible.sh

.PHONY: clean
clean: ## Remove what was built here; Go's own caches stay.
	rm -rf $(BIN)

$(BUF): tools/go.mod
	@echo "building buf (about a minute, once)"
	@$(TOOL) github.com/bufbuild/buf/cmd/buf && touch $@

$(GOLANGCI): tools/go.mod
	@echo "building golangci-lint (about 4 minutes, once)"
	@$(TOOL) github.com/golangci/golangci-lint/v2/cmd/golangci-lint && touch $@

# A module of its own: Prometheus' dependencies would move those of the other tools.
# Its service discovery, a fifth of it, is left out.
$(PROMTOOL): tools/promtool/go.mod
	@echo "building promtool (some minutes, once)"
	@go build -modfile=tools/promtool/go.mod -tags remove_all_sd -ldflags '-s -w' -o $@ github.com/prometheus/prometheus/cmd/promtool && touch $@
$(JSON_SCHEMA): tools/go.mod
	@$(TOOL) github.com/bufbuild/protoschema-plugins/cmd/protoc-gen-jsonschema && touch $@

$(NATS_CLI): tools/nats/go.mod
	@echo "building the nats command"
	@go build -modfile=tools/nats/go.mod -o $(BIN)/tools/ github.com/nats-io/natscli/nats && touch $@
