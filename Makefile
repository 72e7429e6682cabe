# make results   set up .venv and run the main job on the embedded images
# make test      set up .venv and run all tests
# make bench     benchmarks: ratios on the terminal, JSON in results/benchmarks
# make check     lint, format, types, workflow lint, dry run
# make docs      the documentation's site, in site/index.html
# make dist      build the package, with the workflow in it, in dist/
# make setup     only the environment
# make clean     delete everything that was computed
PYTHON ?= python3
CORES ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY = 1
export WANDB_MODE ?= disabled

.PHONY: results test bench check docs dist setup setup-dev setup-docs setup-dist clean

results: setup
	$(BIN)/snakemake --cores $(CORES) results/summary.csv
	@echo "Open results/report.html for the answer, its figures and cases. The table to read is results/summary.csv."

test: setup-docs setup-dist
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

bench: setup
	$(BIN)/python -m fgg.bench --output results/benchmarks

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check .
	$(BIN)/snakemake --lint
	$(BIN)/snakemake -n --cores 1 --nolock --quiet rules

docs: setup-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: setup-dist
	rm -rf dist build
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

setup: .venv/.requirements
setup-dev: .venv/.requirements-dev
setup-docs: .venv/.requirements-docs
setup-dist: .venv/.requirements-dist

.venv/.requirements: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else 'fgg needs Python 3.11 to 3.13, not %d.%d; name one with: make PYTHON=python3.12 …' % sys.version_info[:2])"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.requirements-dev: requirements-dev.txt requirements-peers.txt .venv/.requirements
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	@touch $@

.venv/.requirements-docs: requirements-docs.txt .venv/.requirements-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

.venv/.requirements-dist: requirements-dist.txt .venv/.requirements
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dist.txt
	@touch $@

clean:
	rm -rf results/* data/prepared data/models data/saes logs benchmarks .snakemake site
