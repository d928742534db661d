# make demo   the whole workflow on phantoms, on a laptop        make test         every test
# make lint   formatters, linters, type checker, spelling        make test-fast    the tests that take seconds
# make docs   the documentation as a site, and the commands on its pages
# make test-cluster   the cluster profile on a SLURM that the tests start    make bench-check   speed against the baseline
# make test-gpu   the tests that need a GPU        make bench-gpu    speed and memory on a GPU, beside other implementations
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
MOMENTS ?= 100
UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/ready
# One thread per job: the demo's training runs are small, so several at once are faster than one that is split.
export OMP_NUM_THREADS ?= 1

.PHONY: demo docs test test-fast test-cluster test-nightly test-gpu test-faults golden audit bench bench-gpu bench-check lint format lock figures clean help

help:
	@sed -n '1,4s/^# //p' Makefile

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: tusflow needs Python 3.11 or newer; run 'make PYTHON=/path/to/python3.11 …'" >&2; exit 1; }
	@echo "setting up .venv (about 6 GB, mostly PyTorch) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
		|| { echo "error: the virtual environment could not be made; install Python's venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) \
		|| { echo "error: the Python package index, which the set-up needs, cannot be reached" >&2; exit 1; }
	@$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --requirements requirements.lock \
		|| { echo "error: the packages of requirements.lock could not be installed (network? disk?)" >&2; exit 1; }
	@touch $@

demo: $(READY)
	@echo "drawing phantoms, training and testing on them: about 17 minutes on two cores …"
	@$(BIN)/python -m workflow_scripts.tools.show_progress --results results/demo -- \
		$(BIN)/snakemake --configfile studies/demo.yaml --cores $(CORES)
	@$(BIN)/python -m workflow_scripts.tools.show_results --results results/demo

test: test-fast
	@echo "running the workflow itself: about 25 minutes on two cores …"
	@$(BIN)/python -m pytest -m "slow and not nightly" --durations 10

test-fast: $(READY)
	@$(BIN)/python -m pytest -m "not slow" --numprocesses $(CORES)

# The studies of the paper and of the released code, generators per fold, the choice of a checkpoint, and wall times and
# memory on a cluster (where make test-cluster runs).
test-nightly: $(READY)
	@$(BIN)/python -m pytest -m nightly --durations 10

# Needs root and Debian's slurmctld, slurmd, slurm-client and munge; starts its own SLURM and ends it.
test-cluster: $(READY)
	@$(BIN)/python -m pytest tests/cluster -m "not nightly" --durations 10

# On a machine without a GPU all of them are skipped.
test-gpu: $(READY)
	@$(BIN)/python -m pytest -m gpu --durations 10

# Writes docs/reliability.md: MOMENTS interruptions of the smallest study, added up over several runs. For a night, not for CI.
test-faults: $(READY)
	@$(BIN)/python -m tests.faults --moments $(MOMENTS)

# Writes tests/golden/<platform>.csv: the numbers that test_run.py compares the smallest study with. Say in CHANGELOG.md why they moved.
golden: $(READY)
	@$(BIN)/python -m tests.golden

# A bill of materials, and known vulnerabilities of the locked packages. It needs an index that tells them, such as PyPI: a
# package that could not be looked up is named, and fails.
audit: $(READY)
	@$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements.lock --output-reproducible \
		--of JSON --output-file sbom.cdx.json
	@echo "wrote sbom.cdx.json (CycloneDX)"
	@$(BIN)/python -m tests.audit

# Writes docs/performance.md: speed compared with other implementations. Keep the machine otherwise idle.
bench: $(READY)
	@$(BIN)/python -m benchmarks

# Writes the rows of docs/performance.md that need a GPU, in at most nine minutes on one.
bench-gpu: $(READY)
	@$(BIN)/python -m benchmarks.gpu --write-plan
	@$(BIN)/python -m benchmarks.report

# Fails where a hot path has become slower relative to its peer. About three minutes on two cores; see docs/performance.md.
bench-check: $(READY)
	@$(BIN)/python -m benchmarks.check

# site/index.html works without a server. No link or anchor is broken, and the commands that pages call "run by the build" run.
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@$(BIN)/python -m workflow_scripts.tools.documentation
	@echo "site/index.html"

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow/Snakefile rules
	@$(BIN)/snakemake --lint
	@$(BIN)/mypy
	@$(BIN)/codespell

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow/Snakefile rules

# The pictures of README and tutorial: the DAG (needs Graphviz) and figures of the demo.
figures: demo
	@$(BIN)/snakemake tables synthesis --configfile studies/demo.yaml --rulegraph dot 2> /dev/null \
		| dot -Tsvg > docs/images/dag.svg
	@cd results/demo/figures && cp figure1.png figure4.png views_labelled.png audit_votes.png augmented.png ../../../docs/images/

lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --group bench --generate-hashes --no-emit-index-url \
		pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv results data/phantoms site
