# Everything that a developer types. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := bin/tools
# The folders whose code ./... finds, without the whole-network scenarios.
UNIT = $$(go list ./... | grep -v '/bsn/test\b')
say = @printf '\n== %s\n'

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

.PHONY: build
build: ## build bin/bsn
	$(say) 'build bin/bsn'
	go build -o bin/bsn ./cmd/bsn

.PHONY: up
up: build ## start a network of four cities on this machine, in the background
	$(say) 'start the network'
	bin/bsn up --detach

.PHONY: test
test: setup build ## unit tests with the race detector, then the whole-network scenarios
	$(say) 'unit tests, with the race detector'
	go test -race -timeout 20m $(UNIT)
	$(say) 'whole-network scenarios'
	go test -count=1 -timeout 40m ./test/...

.PHONY: test-all
test-all: test ## the tests, the long scenarios too
	$(say) 'long scenarios'
	BSN_LONG=1 go test -count=1 -timeout 30m -run 'UpgradeAtAHeight|Equivocation' ./ledger
	BSN_LONG=1 go test -count=1 -timeout 30m -run TestNetwork ./framework/fabric
	BSN_LONG=1 go test -count=1 -timeout 120m ./test/...

.PHONY: scenario
scenario: build ## some scenarios: make scenario RUN=regexp
	go test -count=1 -timeout 60m -v -run '/$(or $(RUN),.)' ./test/...

.PHONY: bench
bench: build ## all benchmarks; results in bench/results
	go run ./bench all

.PHONY: bench-%
bench-%: build
	go run ./bench $*

.PHONY: generate
generate: $(TOOLS)/.built ## Go code from proto/; installs protoc if it can
	$(say) 'generate code from proto/'
	.ci/setup protoc
	tools/generate
	go generate ./framework/...

.PHONY: lint
lint: $(TOOLS)/.built ## formatting, vet, staticcheck, licences
	$(say) 'gofumpt'
	@bad=$$($(TOOLS)/gofumpt -l $$(git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$$\|\.connect\.go$$')); \
	  if [[ -n $$bad ]]; then printf 'not formatted (gofumpt -w):\n%s\n' "$$bad"; exit 1; fi
	$(say) 'go vet'
	go vet ./...
	$(say) 'staticcheck'
	$(TOOLS)/staticcheck ./...
	$(say) 'licences of dependencies'
	$(TOOLS)/licences -policy tools/licences.yaml .
	$(say) 'the tools themselves'
	cd tools && go vet ./... && ../$(TOOLS)/staticcheck ./... && go test ./...

.PHONY: setup
setup: ## what the tests need on the machine
	$(say) 'prerequisites'
	.ci/setup test

.PHONY: clean
clean: ## delete what was built here
	rm -rf bin

# The tools that tools/go.mod pins: generators, linters, the licence check.
.PHONY: tools
tools: $(TOOLS)/.built ## build the developer tools into bin/tools
$(TOOLS)/.built: tools/go.mod tools/go.sum $(wildcard tools/*/*.go)
	$(say) 'build the developer tools into $(TOOLS)'
	mkdir -p $(TOOLS)
	cd tools && GOBIN=$(CURDIR)/$(TOOLS) go install tool
	touch $@
