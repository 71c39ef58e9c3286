# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Versions that pip may not choose freely; the hosted CI names another file to try other versions.
CONSTRAINTS ?= constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Of two test processes on two cores: threads that spin while they wait would take the other's time.
WAITING := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

.PHONY: demo zoo test test-all test-slow test-sweep test-integrations test-instructions test-faults test-kernels test-lowest test-gpu lint docs bench release clean

demo: $(VENV)/.core
	$(BIN)/oneticket demo

# Tickets of the demo, with cards, in a folder that is not in the repository: `oneticket zoo list` shows them.
zoo: demo
	$(BIN)/oneticket zoo make oneticket-demo/store --to zoo --license cc0-1.0

test: $(VENV)/.dev
	$(PYTEST) -n 2 --dist worksteal -m "not slow and not faults and not gpu"

test-all: $(VENV)/.dev
	$(PYTEST) -n 2 --dist worksteal -m "not faults and not gpu and not sweep"

test-slow: $(VENV)/.dev
	$(WAITING) $(PYTEST) -n 2 --dist worksteal -m "slow and not faults and not gpu and not sweep"

# Every kind of convolution with two threads; those of one thread, and of 3 x 3 with two, are slow tests.
test-sweep: $(VENV)/.dev
	$(WAITING) $(PYTEST) -n 2 --dist worksteal -m sweep

# Damage, kills, full disks and hostile input, in the thousands and from a fixed seed; the fast tests have a few of each.
test-faults: $(VENV)/.dev
	$(PYTEST) -n 2 --dist worksteal -m faults

# The callbacks for other libraries, with those libraries, in an environment of their own. A test that finds its library
# missing is skipped elsewhere, so the libraries are imported here first: this fails where one can't be.
INTEGRATIONS := .venv-integrations
test-integrations: $(INTEGRATIONS)/.test
	$(INTEGRATIONS)/bin/python -c "import transformers, accelerate, lightning, peft, onnxruntime, onnxscript, tensorboard, mlflow, sqlalchemy, wandb, trackio"
	OMP_NUM_THREADS=1 $(INTEGRATIONS)/bin/python -m pytest tests/integrations

# What computes, once more with fewer vector instructions than this machine has, and with the C library (glibc) looking
# after its heap; a machine without that library says so once a process, and goes on. test_runtime.py is about the heap that
# is not looked after.
WATCHED := LD_PRELOAD=libc_malloc_debug.so.0 MALLOC_CHECK_=3
TRAINING := tests/kernels tests/models tests/training tests/methods --ignore tests/training/test_runtime.py
COMPUTING := $(TRAINING) tests/pruning tests/weights tests/lab/cells tests/lab/spec/test_arms.py tests/lab/test_sharing.py
test-instructions: $(VENV)/.dev
	$(WATCHED) ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -n 2 --dist worksteal -m "not slow and not faults and not gpu" $(COMPUTING)
	$(WATCHED) ATEN_CPU_CAPABILITY=default $(PYTEST) -n 2 --dist worksteal -m "not slow and not faults and not gpu" $(TRAINING)

# The fast tests with the lowest versions that pyproject.toml promises, in an environment of their own. PyPI has the lowest
# torch for Linux only as a CUDA build of several GB: pass LOWEST_TORCH=2.13.0 to keep torch as it is and test the others,
# or set PIP_EXTRA_INDEX_URL to an index of CPU builds.
LOWEST := .venv-lowest
LOWEST_PYTHON ?= python3.11
LOWEST_TORCH ?= 2.8.0
test-lowest: $(LOWEST)/.test
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not faults and not gpu"

# The sparse kernels in C once more, watched by the compiler for wrong addresses and undefined behaviour.
SANITIZED := ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so)"
test-kernels: $(VENV)/.dev
	ONETICKET_CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" $(SANITIZED) $(PYTEST) tests/kernels/sparse/test_product.py tests/kernels/sparse/test_threads.py tests/training/compact/test_planes.py

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

# Builds, checks and tags the version in src/oneticket/version.py; uploads nothing.
release: $(VENV)/.dev
	.ci/release

# constraints.txt pins torch: without it pip brings a build of 5 GB.
$(VENV)/.core: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

$(LOWEST)/.test: pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/bin/python || $(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt torch==$(LOWEST_TORCH) -e ".[test]"
	touch $@

$(INTEGRATIONS)/.test: pyproject.toml $(CONSTRAINTS)
	test -x $(INTEGRATIONS)/bin/python || $(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[test,integrations,onnx,tensorboard,mlflow,wandb,trackio]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(INTEGRATIONS) .venv-release dist docs/_build
