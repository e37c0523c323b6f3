# Everything a person or a machine does with this repository.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

.PHONY: install demo test lint audit attacks bench wheel lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install  # release a session in both flavours, grade a small class, write its report
	$(BIN)/python -m grader.demo 3 --to build/demo

test: install  # the machinery, and every suite on its reference
	$(BIN)/python -m pytest -n 2 --dist loadfile tests exercises --submission reference --ignore tests/attacks

attacks: install  # every hostile submission through every way in, and the table of what came of it
	rm -rf build/attacks
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/attacks
	$(BIN)/python tests/attacks/table.py

lint: install  # style, types, stubs that are not stale
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/grader sync --check

audit: install  # the suites on trial: stub, reference, right, wrong and lazy controls
	$(BIN)/grader audit all

bench: install  # how fast we are; writes build/bench.json
	$(BIN)/python tests/grader/benchmark.py

wheel: install  # what students install: the checks, hints and fixtures, into dist/
	$(BIN)/python -m build --quiet --wheel --no-isolation

lock: install  # pin what pyproject.toml asks for
	$(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-index-url \
		--no-emit-find-links --extra nbgrader --extra seal --extra cluster --extra dev --output-file requirements.lock pyproject.toml
	sed -i 's/+cpu$$//' requirements.lock  # the build of torch is the machine's choice, its version is ours

clean:
	rm -rf build dist .venv *.egg-info
