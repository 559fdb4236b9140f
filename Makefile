# Everything a newcomer needs: `make demo` and `make test` set up their own environment.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-long chaos bench wheel lint types imports clean
ROUNDS ?= 3
SEED ?= 0
CASES ?= 200
CUTS ?= 1000
CHANGES ?= 50

demo: .venv/.lorasweep
	$(BIN)/lorasweep run --dataset examples/digits-zoo --num-runs 3

# Two processes: most tests wait for processes of their own to start. In order of the files: by their
# numbers of tests, a file of few and long ones would come last, beside nothing.
test: .venv/.dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

# What is left out of `make test` for the time it takes; CI runs both.
test-long: .venv/.dev
	$(BIN)/python -m pytest -m long

# Kill sweeps at random, lose nodes, damage files, kill Ray's own processes; every number must come back.
chaos: .venv/.dev
	out=$$(mktemp -d) && \
	$(BIN)/python -m tests.faults.chaos --rounds $(ROUNDS) --seed $(SEED) --out $$out/kills && \
	$(BIN)/python -m tests.faults.damage --cases $(CASES) --seed $(SEED) --out $$out/damage && \
	$(BIN)/python -m tests.faults.power.sweep --cuts $(CUTS) --recoveries 12 --faults 24 --seed $(SEED) --out $$out/power && \
	$(BIN)/python -m tests.faults.power.sweep --everywhere --out $$out/everywhere && \
	$(BIN)/python -m tests.cluster.elastic --changes $(CHANGES) --seed $(SEED) --out $$out/elastic && \
	for round in $$(seq 2 $(ROUNDS)); do $(BIN)/python -m pytest -m slow tests/faults/test_ray_dies.py || exit 1; done && \
	$(BIN)/python -m pytest -m slow && rm -r $$out

# The quick benchmarks of docs/performance.md; `python -m benchmarks --help` for the others.
bench: .venv/.dev
	$(BIN)/python -m benchmarks

# Build the wheel and use it in an environment of its own, outside the checkout.
wheel:
	.ci/wheel $(PYTHON)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

# The contracts of pyproject.toml: which rooms may import which.
imports: .venv/.dev
	$(BIN)/lint-imports

.venv/.lorasweep: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/.dev: .venv/.lorasweep
	$(PIP) --editable '.[zoo,dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
