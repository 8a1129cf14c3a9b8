# Two commands on a fresh machine: `make demo` and `make test`. Both build .venv first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PEERS := benchmarks/peers/.venv

.PHONY: help install demo test soak audit docs site bench lint package clean

help:
	@echo "make demo     fit, evaluate and report on handwritten digits (runs/demo)"
	@echo "make test     run the tests"
	@echo "make soak     run the slow tests: they kill fits, let them race and fill disks (an hour and more)"
	@echo "make audit    ask a vulnerability service about all that is installed (needs the network)"
	@echo "make docs     draw the tables of docs/ from results/"
	@echo "make site     build the documents as a site (build/site)"
	@echo "make bench    measure speed and memory, beside other implementations (an hour and more)"
	@echo "make lint     check style and types"
	@echo "make package  build dist/*.whl and *.tar.gz, and try the wheel in an environment of its own"
	@echo "make install  build .venv from constraints.txt"
	@echo "make clean    remove .venv and caches (runs/ stays)"

install: .venv/.installed

# torch goes first and alone, so that nothing else picks another build of it
.venv/.installed: constraints.txt pyproject.toml
	@echo "== building .venv from constraints.txt"
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: install
	@echo "== fitting 10 components to scikit-learn's handwritten digits, without their labels"
	$(BIN)/cpvae fit digits --components 10 --invariance affine --mixing-weights uniform --out runs/demo --overwrite
	@echo "== figures on the test part; the labels are used here for the first time"
	$(BIN)/cpvae evaluate runs/demo
	$(BIN)/cpvae generate runs/demo --component 3 --out runs/demo/component-3.png --overwrite
	$(BIN)/cpvae report runs/demo
	@echo "== look at runs/demo/figures/components.png and open runs/demo/report.html"

# A worker a core, each on one thread: more threads than cores wait for one another, for minutes. A
# test that hung for five minutes ends its worker, with where its threads were on standard error, and
# is tried once more (R among the dots); a test that fails is not.
test: install
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra -m "not slow" -n auto --dist worksteal --durations=15 \
	  --reruns 1 --only-rerun Timeout

# What it tries goes to build/soak, line by line, so that a soak that was stopped goes on
soak: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra -m slow -n auto --dist worksteal --timeout 1800 -o faulthandler_timeout=1790
	for name in kills races mutations; do OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python tests/soak/$$name.py || exit 1; done

# In an environment of its own: what asks is no part of what is asked about
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

docs: install
	@echo "== drawing the tables of docs/ from results/"
	$(BIN)/python docs/fill.py

site: install
	@echo "== building the documents; a warning is an error"
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site

bench: install $(PEERS)/.installed
	@echo "== speed beside the matrix products alone and beside peers (leave the machine alone)"
	$(BIN)/python benchmarks/run.py --peers $(PEERS)/bin/python

$(PEERS)/.installed: benchmarks/peers/constraints.txt
	@echo "== building the peers' own environment"
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c $< torch
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c $< pythae jax optax scikit-learn jaxtyping
	@touch $@

lint: install
	@echo "== style and types"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The wheel's environment holds the wheel alone; its dependencies are read from .venv
package: install
	@echo "== building sdist and wheel, and using the wheel away from the checkout"
	rm -rf build/package dist && mkdir -p build/package
	$(BIN)/python -m build --no-isolation --outdir dist . > build/package/log || { cat build/package/log; exit 1; }
	$(PYTHON) -m venv build/package/venv
	build/package/venv/bin/pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$(build/package/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dependencies.pth"
	@cd build/package && venv/bin/cpvae fit digits --max-epochs 2 --out run && venv/bin/cpvae report run \
	  && venv/bin/python -c "import cpvae; assert '/build/package/' in cpvae.__file__, cpvae.__file__"

clean:
	rm -rf .venv build dist $(PEERS) .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
