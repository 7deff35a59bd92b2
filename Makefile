# `make` lists what there is. Everything runs in .venv, which is made when first needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONLINE ?= lmdb
QUICK ?=
JSON ?= benchmarks/results/latest.json
AGAINST ?=
BENCH ?=
FEAST := feast[redis,duckdb]==0.67.*
FEAST_JSON ?= benchmarks/results/feast.json
MINUTES ?= 10
FAULT_ROUNDS ?= 1
SOAK_MINUTES ?= 12

# Each process takes a part of the tests, in their order, so that a module's servers start once; who is
# done first takes over half of what another has left. Three on two cores, because tests of servers wait.
SIDE_BY_SIDE := -n 3 --dist worksteal

# Both major versions of DuckDB are supported; the older one lives beside the environment.
DUCKDB_OLD := $(VENV)/duckdb-1.5
DUCKDB_TESTS := tests/contracts/test_duckdb_engine.py tests/golden \
  tests/property/test_expression_*.py tests/property/test_point_in_time.py tests/property/test_theorem.py \
  tests/property/test_known_changes.py tests/property/test_copies.py tests/integration/test_optimize.py \
  tests/unit/test_duckdb_details.py tests/unit/test_expression_sql.py tests/unit/test_dtypes.py \
  tests/unit/test_file_formats*.py tests/unit/test_training*.py tests/unit/test_example_data.py \
  tests/integration/test_retrieval.py tests/integration/test_reproduce.py tests/integration/test_materialize*.py \
  tests/integration/test_push.py tests/integration/test_push_windows.py

.DEFAULT_GOAL := help
.PHONY: help demo test debian-packages test-full lint check faults fuzz bench bench-feast protos clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.demo: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

$(DUCKDB_OLD): $(VENV)/.test
	@$(BIN)/pip install --quiet --no-deps --target $@ 'duckdb==1.5.*'

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

demo: $(VENV)/.demo ## install and run the main job on the NYC flights data (ONLINE=redis for a Redis server)
	@$(BIN)/featurestore demo --online $(ONLINE)

test: $(VENV)/.test ## install and run the tests
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not full" --durations=25 --durations-min=5

debian-packages:
	@command -v redis-server >/dev/null || { \
	  echo "make test-full needs redis-server; install Debian's package: apt-get install redis-server" >&2; exit 1; }
	@test -d /usr/lib/postgresql || { \
	  echo "make test-full needs Postgres with TLS; install Debian's package: apt-get install postgresql" >&2; exit 1; }
	@command -v chromium >/dev/null || { \
	  echo "make test-full needs a browser; install Debian's package: apt-get install chromium" >&2; exit 1; }
	@command -v promtool >/dev/null || { \
	  echo "make test-full needs promtool; install Debian's package: apt-get install prometheus" >&2; exit 1; }

test-full: debian-packages $(VENV)/.test $(DUCKDB_OLD) ## also the tests that need Debian packages, and the older DuckDB
	$(BIN)/pytest -m full
	PYTHONPATH=$(CURDIR)/$(DUCKDB_OLD) $(BIN)/pytest $(SIDE_BY_SIDE) -q -m "not full and not slow" $(DUCKDB_TESTS)

lint: $(VENV)/.dev ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## the same and the fast tests
	$(BIN)/pytest -q $(SIDE_BY_SIDE) -m "not slow and not full"

faults: debian-packages $(VENV)/.test ## the fault tests at length (FAULT_ROUNDS=1, SOAK_MINUTES=12)
	FAULT_ROUNDS=$(FAULT_ROUNDS) SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/pytest -v tests/faults

fuzz: $(VENV)/.test $(DUCKDB_OLD) ## the property tests with ever new examples, for MINUTES=10
	@$(BIN)/python tests/fuzz.py --minutes $(MINUTES)

bench: $(VENV)/.test ## benchmarks beside the bare back ends (QUICK=1 for a smoke run; BENCH= names; JSON=, AGAINST= files)
	@$(BIN)/python benchmarks/run.py $(BENCH) $(if $(QUICK),--quick) --json $(JSON) $(if $(AGAINST),--against $(AGAINST))

$(VENV)/feast/.done: $(VENV)/.test
	@$(PYTHON) -m venv $(VENV)/feast
	@$(VENV)/feast/bin/pip install --quiet '$(FEAST)'
	@touch $@

bench-feast: $(VENV)/feast/.done ## the main jobs beside Feast, installed in an environment of its own (needs h2load)
	@$(BIN)/python benchmarks/beside_feast.py --feast $(VENV)/feast/bin/python $(if $(QUICK),--quick) --json $(FEAST_JSON)

protos: $(VENV)/.dev ## generate featurestore/wire/*_pb2.py from protos/
	$(BIN)/python protos/generate.py

clean: ## remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache feature_repo/data feature_repo/.featurestore
