# Everything a newcomer needs is `make demo` and `make test`. Both set up what is missing in .venv, rebuild what has
# changed, need no root and may be repeated.

PYTHON ?= python3
VENV   ?= .venv
TESTS  ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
# What the sanitizer builds run: the parts that are C++ through and through.
SANITIZE_TESTS ?= tests/kernels tests/test_seam.py
TSAN_TESTS     ?= tests/kernels tests/test_seam.py

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt
WHEEL = $$(echo build/dist/krylov-*.whl)
TOOLS_PATH = PATH="$(CURDIR)/$(BIN):$$PATH"
# Without this Python would find the checkout's krylov/ (which has no C++ module) before the installed one.
export PYTHONSAFEPATH = 1
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 2)

# Directories are listed too, so that a removed file counts as a change.
SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE \
           $(shell find cmake csrc krylov -not -name '__pycache__*' -not -name '*.pyc')

.PHONY: help demo test scipy-suite bench lint format tidy sanitize tsan clean
help:
	@echo "make demo         solve example systems beside SciPy and draw the result"
	@echo "make test         run the tests            (TESTS='tests/test_cg.py -k name')"
	@echo "make scipy-suite  run SciPy's own tests of its iterative solvers against krylov"
	@echo "make bench        run the benchmarks       (BENCH_ARGS='-k iteration')"
	@echo "make lint         ruff, clang-format, mypy; make format repairs what can be repaired"
	@echo "make tidy         clang-tidy on every C++ file"
	@echo "make sanitize     kernel tests with the address and undefined-behaviour sanitizers"
	@echo "make tsan         kernel tests with the thread sanitizer"
	@echo "make clean        remove everything that these commands have made"

demo: $(VENV)/.krylov $(VENV)/.deps-demo
	$(BIN)/krylov demo $(DEMO_ARGS)

test: $(VENV)/.krylov $(VENV)/.deps-test
	$(BIN)/pytest $(TESTS)

scipy-suite: $(VENV)/.krylov $(VENV)/.deps-test
	$(BIN)/python tests/scipy_suite/run.py

bench: $(VENV)/.krylov $(VENV)/.deps-test
	$(BIN)/pytest bench $(BENCH_ARGS)

lint: $(VENV)/.deps-dev
	$(TOOLS_PATH) pre-commit run --all-files

format: $(VENV)/.deps-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	find csrc \( -name '*.cpp' -o -name '*.hpp' -o -name '*.inl' \) -exec $(BIN)/clang-format -i {} +

tidy: $(VENV)/.deps-dev
	$(TOOLS_PATH) cmake --preset clang-tidy
	$(TOOLS_PATH) cmake --build --preset clang-tidy --clean-first

# The environment. Stamps, because a half-made environment or a failed install must not count as done.

$(VENV)/.created:
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.tools: $(VENV)/.created constraints.txt
	$(INSTALL) scikit-build-core pybind11 cmake ninja
	touch $@

# Build tools live in the environment, not in pip's throw-away one: only then does build/wheel stay valid between runs
# and a change to one file recompile one file.
$(VENV)/.krylov: $(VENV)/.tools $(SOURCES)
	rm -rf build/dist
	SKBUILD_BUILD_DIR=build/wheel \
	  $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir build/dist .
	$(INSTALL) --no-deps --force-reinstall $(WHEEL)
	touch $@

$(VENV)/.deps-demo: pyproject.toml constraints.txt | $(VENV)/.krylov
	$(INSTALL) "$(WHEEL)[bench,torch]"
	touch $@

$(VENV)/.deps-test: pyproject.toml constraints.txt | $(VENV)/.krylov
	$(INSTALL) "$(WHEEL)[test,torch]"
	touch $@

$(VENV)/.deps-dev: pyproject.toml constraints.txt | $(VENV)/.krylov
	$(INSTALL) "$(WHEEL)[dev,torch]"
	touch $@

# Sanitizers. Python itself is not instrumented, so their runtimes are loaded before it; libstdc++ comes along because
# the runtime looks for the exception machinery when it starts. Python's own leaks are not ours to report.

runtime = $$($(CXX) -print-file-name=$(1))

sanitize: $(VENV)/.deps-test
	$(TOOLS_PATH) cmake --preset asan-ubsan -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	$(TOOLS_PATH) cmake --build --preset asan-ubsan --target install
	LD_PRELOAD="$(call runtime,libasan.so) $(call runtime,libubsan.so) $(call runtime,libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONPATH="$(CURDIR)/build/asan-ubsan/site" $(BIN)/pytest $(SANITIZE_TESTS)

tsan: $(VENV)/.deps-test
	$(TOOLS_PATH) cmake --preset tsan -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	$(TOOLS_PATH) cmake --build --preset tsan --target install
	LD_PRELOAD="$(call runtime,libtsan.so) $(call runtime,libstdc++.so)" \
	  OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=4 \
	  PYTHONPATH="$(CURDIR)/build/tsan/site" $(BIN)/pytest $(TSAN_TESTS)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
