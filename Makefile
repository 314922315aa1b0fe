# All commands for users and developers. Needs Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run quick quick-tests percentiles abuse garbage test test-deps real-parts lint types docs dashboards golden sheets pictures check clean bench bench-beside \
	soak soak-whole install vm engines image demo example rules helm compose dist sbom release prometheus3 peers grammar servers
.DEFAULT_GOAL := run

# Python caches bytecode, also where the environment forbids it: the tests start hundreds of
# processes, and each would compile the whole package.
export PYTHONDONTWRITEBYTECODE :=

# For `make run`: the package and its dependencies.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the package and its dependencies into $(VENV): once, some minutes on a slow machine"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

# For `make test`: also the dev extra.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

run: $(VENV)/.installed ## start the daemon on :10400 (ARGS="--log.level=debug")
	exec $(BIN)/inference-exporter $(ARGS)

check: $(VENV)/.installed ## list the sources found on this host, with remedies
	$(BIN)/inference-exporter check $(ARGS)

test-deps: $(VENV)/.installed-dev real-parts ## install the real parts: dockerd, Prometheus, busybox, Triton, model servers

real-parts:
	tests/install.sh

# Tests run in WORKERS processes (0: in this one alone); tests/conftest.py divides them.
# Much of the time of a worker is waiting: on two cores, six workers use both. With real engines and
# attacks, four leave them the CPU time that their deadlines assume.
PYTEST = $(BIN)/python -m pytest -p tests.forked_workers --forks $(or $(WORKERS),4)
quick-tests: WORKERS ?= 6

quick: $(VENV)/.installed-dev ## lint, types and the tests that need no real part, in parallel
	$(MAKE) --no-print-directory -j 3 lint types quick-tests

quick-tests: $(VENV)/.installed-dev
	$(PYTEST) --memory-folders -o tmp_path_retention_policy=failed -q -m "not real and not gpu" $(TESTS)

test: ## lint, types and all tests, as in CI
	$(MAKE) --no-print-directory -j 3 test-deps lint types
	$(PYTEST) $(TESTS)

soak: test-deps ## ten minutes of a real Triton under load, with reloads, a crash and restarts
	SOAK_SECONDS=600 $(BIN)/python -m pytest tests/sources/triton/test_soak.py -o log_cli=true

soak-whole: $(VENV)/.installed-dev ## an hour of churn, reloads and restarts: memory, descriptors and threads of the daemon (SECONDS=3600)
	nice -n 10 $(BIN)/python -m benchmarks.soak $(SECONDS)

garbage: $(VENV)/.installed-dev ## ten minutes of random damages to the files and replies that the sources read
	GARBAGE_SECONDS=600 $(BIN)/python -m pytest tests/test_garbage_law.py

percentiles: test-deps ## percentiles from a real Triton's traces beside the load generator's clock, at the rates 1, 10 and 100
	$(BIN)/python -m tests.traces.percentiles $(SECONDS)

abuse: test-deps ## as root: attack the daemon in a memory cgroup of 256 MB; print a table
	mkdir -p .cache && rm -f .cache/abuse.jsonl
	ABUSE_REPORT=$(CURDIR)/.cache/abuse.jsonl $(BIN)/python -m pytest -q tests/e2e/abuse
	$(BIN)/python -m tests.e2e.abuse.table .cache/abuse.jsonl

servers: $(VENV)/.installed-dev ## with Java 17: test real vLLM, Ray Serve and TorchServe, installed into .cache (7 GB); log their figures
	tests/model_server/servers/install.sh vllm rayserve torchserve
	LARGE_SERVERS=1 REQUIRE_REAL_PARTS=1 $(BIN)/python -m pytest -o log_cli=true -o log_cli_level=INFO \
		$(or $(TESTS),tests/model_server/large_servers)

grammar: test-deps ## ten minutes of generated upstream pages, read by a real Prometheus and by the exporter
	GRAMMAR_SECONDS=600 nice -n 10 $(BIN)/python -m pytest tests/upstream/test_page_grammar.py -o log_cli=true -o log_cli_level=INFO

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: test-deps ## measure CPU, memory and latency as ratios; results in docs/benchmarks.md (PEERS=folder of programs)
	-$(BIN)/python -m benchmarks.whole
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m benchmarks.daemon 60 $(PEERS)
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.containers
	$(BIN)/python -m benchmarks.triton
	$(BIN)/python -m benchmarks.model_servers
	$(BIN)/python -m benchmarks.server_gpus
	$(BIN)/python -m benchmarks.traces 20 --triton

# make parses NAME=PID=URL arguments as variables (MAKEOVERRIDES) and passes them on.
# BESIDE, in the environment, holds options such as "--scrapes 10".
bench-beside: $(VENV)/.installed-dev ## compare running exporters: exporter=PID=URL cadvisor=PID=URL
	$(BIN)/python -m benchmarks.side_by_side $(BESIDE) $(filter-out PYTHON=% VENV=%,$(MAKEOVERRIDES))

docs: $(VENV)/.installed-dev ## generate docs/metrics.md, metrics.json, settings.md and model-servers.md from the declarations
	mkdir -p docs
	$(BIN)/inference-exporter metrics > docs/metrics.md
	$(BIN)/inference-exporter settings > docs/settings.md
	$(BIN)/python -m tools.model_servers > docs/model-servers.md
	$(BIN)/python -m tools.promises > docs/metrics.json

# VERSION=1.2.0; CONTRIBUTING.md has the steps before and after it.
release: docs ## set VERSION everywhere, close the CHANGELOG's section, keep the promised names in docs/releases
	$(BIN)/python -m tools.release $(VERSION)

dashboards: $(VENV)/.installed-dev ## generate grafana/*.json and docs/dashboards from tools/dashboards
	$(BIN)/python -m tools.dashboards

golden: $(VENV)/.installed-dev ## generate tests/sources/gpu/golden: the page of each captured card
	$(BIN)/python -m tests.sources.gpu.golden

rules: $(VENV)/.installed ## generate the PrometheusRule and the chart's copies of prometheus/rules
	$(BIN)/python deploy/kubernetes/generate.py

install: ## as root: install a systemd service in /opt/inference-exporter (docs/install.md)
	test -x $(PREFIX)/bin/python || $(PYTHON) -m venv $(PREFIX)
	$(PREFIX)/bin/pip install --quiet --disable-pip-version-check --upgrade .
	$(PREFIX)/share/inference-exporter/systemd/install.sh
PREFIX ?= /opt/inference-exporter

vm: export VM_MACHINE ?= qemu
vm: test-deps ## as root: test the service, its upgrade from 0.1 and the containers under systemd and cgroup v2 in an emulated machine, full form
	VM_FORM=full $(BIN)/python -m pytest -s tests/deploy/test_vm.py tests/sources/containers/test_vm.py

engines: test-deps ## as root, with Go: build Docker 29 once (into DOCKER_29=folder) and run every engine test on it
	tests/sources/containers/real_engines/build.sh
	set -e; for engine in $(ENGINES); do \
		ENGINE=$$engine $(BIN)/python -m pytest tests/sources/containers --ignore tests/sources/containers/test_vm.py \
			tests/e2e tests/sources/triton/test_containers.py; \
		ENGINE=$$engine $(BIN)/python -m tests.sources.containers.real_engines.measure; \
	done
ENGINES ?= docker29 docker29-containerd

image: test-deps ## as root: build the image on a separate dockerd, run it, measure it
	$(BIN)/python -m pytest -s tests/deploy/test_image.py

demo: test-deps ## run simulated GPUs and containers, a real Triton under load, and Prometheus with the project's rules; stop with Ctrl-C
	exec $(BIN)/python deploy/demo/demo.py $(ARGS)

example: $(VENV)/.installed ## run examples/wine-quality: service, exporter, Prometheus, load; stop with Ctrl-C
	PYTHON=$(PYTHON) examples/wine-quality/install.sh
	exec $(BIN)/python examples/wine-quality/run.py $(ARGS)

helm: $(VENV)/.installed-dev .cache/bin/helm ## lint and render the chart, validate it against schemas
	$(BIN)/python -m pytest tests/deploy/test_kubernetes.py

compose: $(VENV)/.installed-dev .cache/bin/compose/cmd ## validate the stack with docker compose
	$(BIN)/python -m pytest tests/deploy/test_compose.py

# Each needs Go and takes minutes to build.
.cache/bin/helm:
	GOBIN=$(CURDIR)/$(@D) go install helm.sh/helm/v3/cmd/helm@v3.19.0
.cache/bin/compose/cmd:
	GOBIN=$(CURDIR)/$(@D) go install github.com/docker/compose/v5/cmd@v5.0.2

prometheus3: .cache/bin/prometheus3/prometheus ## build Prometheus 3.16, which the tests use if it is there (Go, 8 minutes, 270 MB)
# Its go.mod has replace directives, which `go install` refuses.
.cache/bin/prometheus3/prometheus:
	rm -rf .cache/prometheus3-module && mkdir -p .cache/prometheus3-module $(@D)
	cd .cache/prometheus3-module && go mod init example.test/tools && \
		go get -tool $(addprefix github.com/prometheus/prometheus/cmd/,$(addsuffix @v0.316.0,promtool prometheus)) && \
		nice -n 19 go build -o $(CURDIR)/$(@D)/ $(addprefix github.com/prometheus/prometheus/cmd/,promtool prometheus)
	rm -rf .cache/prometheus3-module

peers: .cache/peers/vmagent .cache/peers/collector ## build vmagent, VictoriaMetrics and an OpenTelemetry Collector, which the tests use if they are there (Go)
.cache/peers/vmagent:
	GOBIN=$(CURDIR)/$(@D) nice -n 19 go install $(addprefix github.com/VictoriaMetrics/VictoriaMetrics/app/,$(addsuffix @v1.151.0,victoria-metrics vmagent))
# Without service discovery, whose clients are a fifth of the packages.
.cache/peers/collector: tests/e2e/collector.go
	rm -rf .cache/collector-module && mkdir -p .cache/collector-module $(@D)
	cp $< .cache/collector-module/main.go
	cd .cache/collector-module && go mod init example.test/collector && \
		go get github.com/open-telemetry/opentelemetry-collector-contrib/receiver/prometheusreceiver@v0.165.1 \
			$(addprefix go.opentelemetry.io/collector/,otelcol@v0.165.0 service/telemetry/otelconftelemetry@v0.165.0 \
				exporter/otlphttpexporter@v0.165.0 confmap/provider/fileprovider@v1.71.0) && \
		nice -n 19 go build -tags remove_all_sd -ldflags "-s -w" -o $(CURDIR)/$@ .
	rm -rf .cache/collector-module

# Release tools, in a separate environment.
.cache/release/.installed:
	$(PYTHON) -m venv .cache/release
	.cache/release/bin/pip install --quiet --disable-pip-version-check build==1.3.0 cyclonedx-bom==7.2.1
	touch $@

dist: .cache/release/.installed ## build the wheel and the sdist, in dist/
	rm -rf dist
	.cache/release/bin/python -m build . >/dev/null

sbom: dist ## write a CycloneDX SBOM of an installed environment, in dist/
	rm -rf .cache/release/user
	$(PYTHON) -m venv --without-pip .cache/release/user
	.cache/release/bin/pip --python .cache/release/user/bin/python install --quiet dist/*.whl
	.cache/release/bin/cyclonedx-py environment --output-reproducible \
		--pyproject pyproject.toml -o dist/sbom.cdx.json .cache/release/user/bin/python
	.cache/release/user/bin/python -c "$$SBOM_VERSION" dist/sbom.cdx.json
# The version is dynamic in pyproject.toml, from which cyclonedx-py takes the name.
define SBOM_VERSION
import json, sys, exporter
with open(sys.argv[1], "r+") as file:
    document = json.load(file)
    document["metadata"]["component"]["version"] = exporter.__version__
    file.seek(0)
    json.dump(document, file, indent=2)
    file.truncate()
endef
export SBOM_VERSION

sheets: $(VENV)/.installed-dev ## draw every dashboard from generated history to .cache/sheets
	$(BIN)/python -m tests.dashboards.sheets .cache/sheets

pictures: $(VENV)/.installed-dev ## draw the pictures of docs/dashboards from generated history
	$(BIN)/python -m tests.dashboards.sheets --pictures docs/dashboards

clean:
	rm -rf $(VENV) .venv-triton .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
