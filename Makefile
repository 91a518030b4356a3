# `make demo` and `make test` set everything up in .venv first; nothing else is needed.
PYTHON ?= python3
PYTHON312 ?= python3.12
BIN := .venv/bin

.PHONY: demo test test-newest compile-checks faults check format clean

demo: .venv/installed  ## train experiments/digits.py and write its page
	$(BIN)/python launch.py train --config=experiments/digits.py --workdir=runs/digits

test: check  ## format, lint, types, and the tests, the slow ones too; not those of make faults
	$(BIN)/python -m pytest -m "not faults" -n 3 --dist loadfile --no-loadscope-reorder

# What TFDS's builders and SkyPilot run on does not depend on jax.
NEWEST ?= tests --ignore=tests/data/test_prepare.py --ignore=tests/launching/test_sky.py
test-newest: .venv-newest/installed  ## the fast tests, or NEWEST, with the newest jax, flax and optax
	.venv-newest/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(NEWEST)

compile-checks: .venv-compile/installed  ## what the compilers of GPUs and TPUs make of the programs
	.venv-compile/bin/python -m pytest tests/tools/test_compiled.py

faults: check  ## the longest: several processes, kills, full disks
	$(BIN)/python -m pytest -m faults

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-newest .venv-compile runs

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e '.[dev]'
	@touch $@

.venv-newest/installed: requirements.txt pyproject.toml
	$(PYTHON312) -m venv .venv-newest
	grep -vE '^(jax|jaxlib|flax|optax)==' requirements.txt > .venv-newest/others.txt
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-newest/others.txt -e '.[test]'
	@touch $@

# A place for the compilers alone, 1.1 GB: all else is .venv's.
.venv-compile/installed: .venv/installed-dev
	$(BIN)/python -m venv .venv-compile
	$(BIN)/python -c 'import site; print(*site.getsitepackages())' \
		> "$$(.venv-compile/bin/python -c 'import site; print(*site.getsitepackages())')/venv.pth"
	.venv-compile/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e '.[compile]'
	@touch $@
