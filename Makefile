# `make demo` and `make test` install what they need, with uv if it is installed.
PYTHON ?= python3
PYTHON312 ?= python3.12
UV ?= $(shell command -v uv)
DEV := .venv-dev/bin
# Three processes: two cores stay busy while a test waits for another process or the disk.
PYTEST := python -m pytest -n 3

# Python keeps what it compiles in the environments below: without that a process of a run starts 10 s later.
unexport PYTHONDONTWRITEBYTECODE

.SECONDARY: # make removes no environment
.PHONY: demo test environments compile-checks test-newest faults docs check format clean

demo: .venv/installed  ## train experiments/digits.py and write its page
	@echo "loading JAX: the first time about 15 s"
	.venv/bin/python launch.py train --config=experiments/digits.py --workdir=runs/digits

test: check environments  ## format, lint, types, and all tests except those of make faults
	$(DEV)/$(PYTEST) -m "not faults" $(addprefix --ignore=,$(BASE) $(EXPORT) $(PREPARE) $(SKY) $(DOCS))

# These tests run with only what the docs say to install, plus pytest and hypothesis, and with one device, as users of
# CPUs have it: so the docs' commands need nothing else.
BASE := tests/test_docs.py
EXPORT := tests/formats/test_export.py tests/formats/test_int8.py
PREPARE := tests/data/test_prepare.py tests/formats/test_slim_tensorflow.py
SKY := tests/launching/test_sky.py
DOCS := tests/test_tour.py
environments:
	$(MAKE) --jobs=2 in.venv in.venv-docs in.venv-export in.venv-prepare in.venv-sky # longest first
in.venv: TESTS := $(BASE)
in.venv-export: TESTS := $(EXPORT)
in.venv-prepare: TESTS := $(PREPARE)
in.venv-sky: TESTS := $(SKY)
in.venv-docs: TESTS := $(DOCS)
in.%: .%/installed .venv-pytest/installed
	XLA_FLAGS=--xla_force_host_platform_device_count=1 PYTHONPATH=.venv-pytest .$*/bin/python -m pytest -n 0 -m "not faults" $(TESTS)

compile-checks: .venv-compile/installed .venv-pytest/installed  ## compile the programs for GPUs and TPUs and check them
	PYTHONPATH=.venv-pytest .venv-compile/bin/python -m pytest -n 0 tests/tools/test_compiled.py

# What does not call jax is left out.
NEWEST ?= tests $(addprefix --ignore=,$(PREPARE) $(SKY) $(BASE) tests/launching tests/sweeps tests/test_config.py)
test-newest: .venv-newest/installed  ## the fast tests, or those in NEWEST, with the newest jax, flax and optax
	.venv-newest/bin/$(PYTEST) $(NEWEST)

faults: check  ## the longest tests: several processes, kills, full disks
	$(DEV)/python -m pytest -n 0 -m faults

docs: .venv-docs/installed .venv-pytest/installed  ## the site of docs/, into site/: a broken link or a wrong command fails
	.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs site/html
	PYTHONPATH=.venv-pytest .venv-docs/bin/python -m pytest -n 0 tests/test_docs.py -k "flag_and_knob or short or current"
	@echo "open site/html/index.html"

check: .venv-dev/installed
	$(DEV)/ruff format --check .
	$(DEV)/ruff check .
	$(DEV)/mypy

format: .venv-dev/installed
	$(DEV)/ruff format .
	$(DEV)/ruff check --fix .

clean:
	rm -rf .venv .venv-* runs site

# Makes an environment in folder $(1), of Python $(2), and installs pip's arguments $(3). On terminals uv and pip draw
# bars. Python compiles modules at their first import: the first start takes 7 s more, the install a minute less.
define environment
	@$(2) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "installing what $(1) needs: a minute or two"
	@$(if $(UV),$(UV) venv --quiet --seed --allow-existing --python $(2) $(1),$(2) -m venv $(1))
	@$(if $(UV),$(UV) pip install $(QUIET) --python $(1)/bin/python,$(1)/bin/python -m pip install $(QUIET) --no-compile --disable-pip-version-check) $(3)
	@touch $(1)/installed
endef
QUIET := $(shell test -t 2 || echo --quiet)

.venv/installed: requirements.txt pyproject.toml
	$(call environment,.venv,$(PYTHON),-r requirements.txt -e .)

.venv-newest/installed: requirements.txt pyproject.toml
	grep -vE '^(jax|jaxlib|flax|optax)==' requirements.txt > .venv-newest.txt
	$(call environment,.venv-newest,$(PYTHON312),-c .venv-newest.txt -e '.[test]')

.venv-pytest/installed: .venv/installed pyproject.toml
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --target .venv-pytest pytest pytest-xdist hypothesis
	@touch $@

# One environment per extra: dev, export, prepare, sky, docs, compile.
.venv-%/installed: requirements.txt pyproject.toml
	$(call environment,.venv-$*,$(PYTHON),-c requirements.txt -e '.[$*]')
