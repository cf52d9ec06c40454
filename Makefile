# Builds mproxy in place, into its own virtual environment, and runs everything there is to run.
#
#   make PYTHON=/path/to/python3    another Python than the first of 3.11 or newer on the PATH
#   make SYSTEM=no                  as root, too: the system stays as it is; what it lacks is said
#
# `make debug` and `make` share the place of the extension modules; going from one to the other builds anew. As goals
# of one call, `make debug test`, everything after is done with the debug build.

ifndef PYTHON
PYTHON := $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && command -v $(python))))
endif

MODE := $(if $(filter debug,$(MAKECMDGOALS)),debug,release)
VENV := .venv
RUN := $(VENV)/bin/python
BUILT := build/$(MODE)/built
DRIVERS := build/$(MODE)/drivers
SOURCES := $(shell find mproxy -name '*.pyx' -o -name '*.pxd')

# Installs a list of pyproject.toml; the stamp is the list that was installed.
define pip_install
	@echo "fetching Python packages: $(notdir $@)"
	@$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")' > $@.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r $@.txt
	@mv $@.txt $@
endef

PREFIX := /usr/local
INSTALLED = $(patsubst %,"$(PREFIX)/bin/%",cproxy sproxy mproxy) \
	$(patsubst contrib/%,"$(PREFIX)/lib/systemd/system/%",$(wildcard contrib/*.service contrib/*.socket))

SECONDS := 600
TESTS := tests
# Most system tests wait for timeouts, so more processes than processors share them.
PROCESSES := 3
# Tests that need nothing of the system.
NEEDS_NOTHING := tests/unit% tests/sim% tests/meta%

# SYSTEM=no: what the system lacks is said, and not installed, whoever asks.
ifeq ($(SYSTEM),no)
export MPROXY_SYSTEM := no
endif

.PHONY: all
all: $(BUILT) $(if $(wildcard tests/drivers/*.so),$(DRIVERS)) $(VENV)/run-packages cproxy sproxy bin/mproxy  ## build: extension modules, ./cproxy, ./sproxy, bin/mproxy (the default)

.PHONY: debug
debug: all  ## the same with assertions, checked indexes, -O0 -g; `make debug test` tests that build

.PHONY: demo
demo: all  ## watch a connection survive a change of address
	-@.ci/system-packages demo  # without them the demo does with less, and says so
	$(RUN) -m mproxy.programs.demo

.PHONY: fleet-demo
fleet-demo: all  ## watch three sproxies behind two balancers lose machines, and almost nobody notice: SESSIONS=1000
	@.ci/system-packages fleet
	$(RUN) contrib/fleet/demo.py $(SESSIONS)

.PHONY: test
test: all $(DRIVERS) $(VENV)/dev-packages  ## unit, simulation, system and meta tests; TESTS=tests/unit PYTEST="-x -k ring" PROCESSES=0
	@$(if $(filter-out $(NEEDS_NOTHING),$(TESTS)),.ci/system-packages test)
	$(RUN) -m pytest -rfEs -n $(PROCESSES) --dist worksteal $(TESTS) $(PYTEST)

.PHONY: drivers
drivers: $(DRIVERS)  ## what tests drive the core with, in tests/drivers; made by the goals that use it, and kept by `make`

.PHONY: asan
asan: all $(DRIVERS) $(VENV)/dev-packages  ## the whole test suite, or TESTS=..., with AddressSanitizer and UBSan, in build/asan
	@.ci/system-packages test
	.ci/asan test $(filter-out tests,$(TESTS)) $(PYTEST)

.PHONY: fuzz
fuzz: all $(DRIVERS) $(VENV)/dev-packages  ## hammer parsers and sessions, guided by coverage: SECONDS=600 each, FUZZ="frames rules"
	.ci/asan fuzz $(SECONDS) $(FUZZ)

.PHONY: soak
soak: all $(DRIVERS) $(VENV)/dev-packages  ## random schedules against the protocol core: SECONDS=600, SEED=n repeats one
	$(RUN) -m tests.sim.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: chaos
chaos: all  ## machines of a fleet die, are cut off and upgraded under load: SECONDS=600, SESSIONS=60, SEED=n repeats one
	@.ci/system-packages fleet
	$(RUN) contrib/fleet/chaos.py $(SECONDS) $(or $(SESSIONS),60) $(SEED)

.PHONY: bench
bench: all $(VENV)/bench-packages  ## whole programs beside their peers; GROUP=relay is one group, QUICK=1 a look at the first
	@.ci/system-packages bench
	$(RUN) benchmarks/run.py $(if $(QUICK),--quick) $(addprefix --group ,$(or $(GROUP),$(if $(QUICK),session)))

.PHONY: bench-docs
bench-docs: $(VENV)/bench-packages  ## put the tables of the last whole `make bench` into the docs
	$(RUN) benchmarks/run.py --update-docs

.PHONY: bench-parts
bench-parts: all $(DRIVERS) $(VENV)/dev-packages  ## codec, ring and sessions in memory: ns per frame, bytes per second
	$(RUN) -m pytest -q benchmarks/test_parts.py --benchmark-columns=median,iqr,rounds

.PHONY: lint
lint: $(VENV)/dev-packages  ## ruff and mypy on the Python part, cython-lint on the rest
	$(RUN) -m ruff check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint mproxy tests/drivers
	$(RUN) -m mypy

.PHONY: install
install: pages  ## for every user: PREFIX=/usr/local; a Python environment in PREFIX/lib/mproxy, programs in bin, units for systemd
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w build/wheel .
	$(RUN) .ci/install "$(PYTHON)" "$(PREFIX)" "$$(ls -t build/wheel/mproxy-*.whl | head -n 1)"

.PHONY: wheel
wheel: all $(VENV)/wheel-packages  ## a wheel in dist/ for this Python: where it is installed neither a compiler nor OpenSSL is needed
	.ci/build-wheel $(RUN) dist

.PHONY: deb
deb: pages  ## a Debian package in dist/, for this Debian; PYTHON has to be of the version that is its python3
	@rm -rf build/wheel
	.ci/build-wheel $(RUN) build/wheel plain
	$(RUN) .ci/build-deb build/wheel/mproxy-*.whl build/pages dist

.PHONY: pages
pages: all  ## man pages, and completions for bash, zsh and fish, in build/pages
	@rm -rf build/pages
	$(RUN) .ci/write-pages build/pages

.PHONY: uninstall
uninstall:  ## what `make install` with the same PREFIX has put there
	rm -rf "$(PREFIX)/lib/mproxy"
	rm -f $(INSTALLED)
	rm -f "$(PREFIX)"/share/man/man1/mproxy*.1 $(patsubst %,"$(PREFIX)/share/man/man1/%.1",cproxy sproxy) \
		$(patsubst %,"$(PREFIX)/share/bash-completion/completions/%",cproxy sproxy mproxy) \
		$(patsubst %,"$(PREFIX)/share/fish/vendor_completions.d/%.fish",cproxy sproxy mproxy) \
		"$(PREFIX)/share/zsh/site-functions/_mproxy"

.PHONY: clean
clean:  ## remove what was built, keep the virtual environment
	rm -rf build cproxy sproxy bin mproxy/programs/quick-start *.egg-info dist .mypy_cache .pytest_cache .ruff_cache
	find mproxy tests benchmarks \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## remove the virtual environment too
	rm -rf $(VENV) .hypothesis .benchmarks

.PHONY: help
help:  ## this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "make %-12s%s\n", $$1, $$2 }' Makefile

# A failed or interrupted step leaves no stamp behind, so the next make takes it up again.
.DELETE_ON_ERROR:

$(VENV)/bin/python:
	@.ci/system-packages build "$(PYTHON)"
	@echo "making a Python environment of mproxy's own: $(VENV)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@echo "$(CURDIR)" > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mproxy.pth"

# The lists of packages live in pyproject.toml.
$(VENV)/build-packages: pyproject.toml | $(VENV)/bin/python
	$(call pip_install,["build-system"]["requires"])

$(VENV)/run-packages: pyproject.toml $(VENV)/build-packages
	$(call pip_install,["project"]["dependencies"])

$(VENV)/dev-packages: pyproject.toml $(VENV)/build-packages
	$(call pip_install,["dependency-groups"]["dev"])

$(VENV)/wheel-packages: pyproject.toml $(VENV)/build-packages
	$(call pip_install,["dependency-groups"]["wheel"])

$(VENV)/bench-packages: pyproject.toml $(VENV)/build-packages
	$(call pip_install,["dependency-groups"]["bench"])

# Forced when this mode was not the one built last, for what lies in place is then of the other mode, and when setup.py
# is another one: its flags hold for all modules.
$(BUILT): $(SOURCES) $(wildcard mproxy/programs/quick*.[ch]) setup.py $(VENV)/build-packages
	@mkdir -p build/$(MODE)
	@echo "building the extension modules (all of them: one to three minutes; what the compiler says: build/$(MODE)/log)"
	@$(if $(filter debug,$(MODE)),MPROXY_DEBUG=1) $(RUN) setup.py --quiet build_ext --inplace \
		$(if $(filter setup.py,$?),--force) > build/$(MODE)/log || { tail -n 40 build/$(MODE)/log >&2; exit 1; }
	@rm -f build/*/built $(filter-out $(DRIVERS),$(wildcard build/*/drivers))
	@touch $@

# Apart from the package, which a wheel holds whole. Built with it once they are there: they are compiled against its
# structs.
$(DRIVERS): $(BUILT) setup.py $(wildcard tests/drivers/*.pyx)
	@echo "building the test drivers (what the compiler says: $@.log)"
	@$(if $(filter debug,$(MODE)),MPROXY_DEBUG=1) MPROXY_MODULES='tests/drivers/*.pyx' $(RUN) setup.py --quiet build_ext \
		--inplace $(if $(filter setup.py,$?),--force) > $@.log 2>&1 || { tail -n 40 $@.log >&2; exit 1; }
	@touch $@

LAUNCHER := .ci/write-launcher mproxy/programs/push_script.py

cproxy sproxy: $(LAUNCHER) | $(VENV)/bin/python
	@$(RUN) .ci/write-launcher $@

# Not ./mproxy: that is the package.
bin/mproxy: $(LAUNCHER) | $(VENV)/bin/python
	@$(RUN) .ci/write-launcher $@
