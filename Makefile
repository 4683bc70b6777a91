# Two commands: `make stress` runs the default suite, `make test` the tests. Both set up .venv from requirements.lock by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= results/default
# test processes; each compiles for itself
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help stress test test-slow lint bench bench-setup bench-scaling clean

help:
	@echo "make stress   set up .venv and run the default suite on the CPU (report in $(OUT))"
	@echo "make test     set up .venv and run the tests"
	@echo "make test-slow  tests that repeat others on larger programs; before a release"
	@echo "make lint     style checks"
	@echo "make bench    benchmarks: the step against Numba, NumPy, radCAD and memory bandwidth; start-up"
	@echo "make bench-scaling  the step over accounts, assets, pools and scenarios"
	@echo "make clean    remove .venv and results"

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "stresslev is locked for Python 3.11 to 3.13; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Exit code 1 is a verdict (limits breached), not a failure of the run: it is in the report, and `stresslev run` itself returns it.
stress: $(VENV)/.ready
	@JAX_PLATFORMS=cpu $(BIN)/stresslev run default --out $(OUT); code=$$?; \
	if [ $$code -eq 1 ]; then echo "The run is complete; its verdict is that limits are breached (stresslev exit code 1)."; else exit $$code; fi

test: $(VENV)/.ready
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m "not slow"
	JAX_PLATFORMS=cpu STRESSLEV_TESTS=production $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m "not slow"

test-slow: $(VENV)/.ready
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m slow
	JAX_PLATFORMS=cpu STRESSLEV_TESTS=production $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m slow

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench-setup: $(VENV)/.ready
	@# the same versions, without their digests: with them pip wants a digest of everything, of numba too
	sed -e '/^ *--hash/d' -e 's/ *\\$$//' requirements.lock > $(VENV)/pins.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/pins.txt --no-build-isolation -e '.[bench]'
	@# radCAD wants a NumPy of its own, and a Python below 3.13; without it the benchmark leaves it out and says so
	@test -x $(VENV)/radcad/bin/python || $(BIN)/python -m venv $(VENV)/radcad
	-$(VENV)/radcad/bin/python -m pip install --quiet --disable-pip-version-check radcad==0.14.0 typing_extensions

bench: bench-setup
	JAX_PLATFORMS=cpu $(BIN)/python experiments/bench/step.py --out experiments/bench/results/step_cpu.json
	JAX_PLATFORMS=cpu $(BIN)/python experiments/bench/startup.py

bench-scaling: bench-setup
	JAX_PLATFORMS=cpu $(BIN)/python experiments/bench/scaling.py

clean:
	rm -rf $(VENV) results
