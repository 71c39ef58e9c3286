# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test test-all test-slow test-instructions test-gpu lint docs bench clean

demo: $(VENV)/.core
	$(BIN)/oneticket demo

test: $(VENV)/.dev
	$(PYTEST) -n 2 --dist worksteal -m "not slow and not gpu"

test-all: $(VENV)/.dev
	$(PYTEST) -n 2 --dist worksteal -m "not gpu"

test-slow: $(VENV)/.dev
	$(PYTEST) -m "slow and not gpu"

# What computes, once more with fewer vector instructions than this machine has, and with the C library (glibc) looking
# after its heap; a machine without that library says so once a process, and goes on. test_heap.py is about the heap that
# is not looked after.
WATCHED := LD_PRELOAD=libc_malloc_debug.so.0 MALLOC_CHECK_=3
COMPUTING := tests/kernels tests/models tests/training tests/methods tests/lab --ignore tests/training/test_heap.py
test-instructions: $(VENV)/.dev
	$(WATCHED) ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -n 2 --dist worksteal -m "not slow and not gpu" $(COMPUTING)
	$(WATCHED) ATEN_CPU_CAPABILITY=default $(PYTEST) -n 2 --dist worksteal -m "not slow and not gpu" $(COMPUTING)

test-gpu: $(VENV)/.dev
	$(PYTEST) -m gpu

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests examples docs
	$(BIN)/ruff check --select C901 --config "lint.mccabe.max-complexity = 10" src/oneticket/training/loop.py
	$(BIN)/ruff format --check src tests examples docs
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html

# Fails when a ratio has fallen by more than a quarter, twice; docs/benchmarks.md says how noise is kept out.
bench: $(VENV)/.dev
	$(BIN)/oneticket bench --short --check

# constraints.txt pins torch: without it pip brings a build of 5 GB.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) docs/_build
