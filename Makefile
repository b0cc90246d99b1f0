# Two commands matter: `make demo` and `make test`. Both set up a virtual environment of their own.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/python deploy/install.py

# Packages are compiled by the first process that imports them, and kept: most of them are never imported.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-real test-text test-all lint kernels locked docs package smoke clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev,torch]'
	@echo 'Set up. The first run of a command compiles its kernels, once: about a minute.'
	touch $(READY)

# The same environment of nothing but the bytes whose hashes are in requirements.lock; see deploy/lock.py.
locked:
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) deploy/lock.py pip setuptools > $(VENV)/first.txt
	$(PYTHON) deploy/lock.py '.[dev]' > $(VENV)/needed.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r $(VENV)/first.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation -c requirements.lock -r $(VENV)/needed.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(READY)

demo: $(READY)
	$(BIN)/fedrec demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kernels: $(READY)
	$(BIN)/fedrec doctor --compile --quiet > /dev/null

# Workers take whole files: what a file makes for its tests is made once. tests/conftest.py orders the files. Two cores
# have three workers, as the tests of real processes wait for most of their time.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(MAKE) --jobs 2 lint kernels
	$(PYTEST)

# What takes long: trainings on real data sets, found through FEDREC_DATA; and all of what other tests try a part of.
test-real: $(READY) kernels
	$(PYTEST) -m real

# Needs the extra `text`, and peft, which reads what `lora` learned. The models are made by the tests.
test-text: $(READY) kernels
	$(INSTALL) -e '.[text]' peft
	$(PYTEST) -m text

test-all: $(READY)
	$(MAKE) --jobs 2 lint kernels
	$(PYTEST) -m "not text"

# site/: all pages, with docs/reference made anew from the code.
docs: $(READY)
	$(INSTALL) -e '.[docs]'
	$(BIN)/python deploy/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean --quiet
	@echo 'Open site/index.html; its search needs a server: python -m http.server -d site'

# dist/: the source distribution, and the wheel that is built from it.
package: $(READY)
	$(INSTALL) -e '.[package]'
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --outdir dist

# Both in fresh environments, with every Python that is here, or with PYTHONS; see deploy/smoke.py.
smoke:
	$(BIN)/python deploy/smoke.py dist $(PYTHONS)

clean:
	rm -rf $(VENV) dist site .mypy_cache .pytest_cache .ruff_cache build src/*.egg-info
