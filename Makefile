# The one way in. `make` lists the targets; each of them first completes .venv (about a minute, once).
# ARGS reaches pytest or the demo (make test ARGS="-k split"), ONLY picks benchmarks, PYTHON names a Python 3.11.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

ARGS ?=
ONLY ?=
PYTHON ?=
export CASCADE_DATA ?= $(abspath ../shared/data)

# uv separates locations by commas, pip by spaces.
EMPTY :=
COMMA := ,
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(subst $(EMPTY) $(EMPTY),$(COMMA),$(strip $(PIP_FIND_LINKS)))
endif

# ---- the environment -------------------------------------------------------------------------------------------------
# BOOTSTRAPPED: .venv has Python 3.11 and uv, and names this folder. INSTALLED: the lock and cascade are in it too.
BOOTSTRAPPED := .venv/.bootstrapped
INSTALLED := .venv/.installed

# .venv is made anew where an install broke off, its interpreter is gone, or the folder was moved or copied.
ifneq ($(shell [ -x .venv/bin/python ] && [ ! -e .venv/.installing ] && cat $(BOOTSTRAPPED) 2>/dev/null),$(CURDIR))
$(BOOTSTRAPPED): FORCE
endif

$(BOOTSTRAPPED):
	@exec >&2
	unset PYTHONHOME PYTHONPATH
	stop() { printf 'cascade: %s\n' "$$@"; exit 1; }
	[ "$$(uname -s) $$(uname -m)" = "Linux x86_64" ] || stop \
	    "needs Linux on x86-64 (the Triton wheel exists for nothing else), this is $$(uname -s) on $$(uname -m)." \
	    "Run it in a Linux x86-64 machine, virtual machine or container."
	glibc=$$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2 || true)
	[ "$$(printf '%s\n' 2.35 "$${glibc:-0}" | sort -V | head -n 1)" = 2.35 ] || stop \
	    "needs glibc 2.35 or newer (the Triton wheel is built for it), this system has $${glibc:-no glibc}." \
	    "Debian 12, Ubuntu 22.04, RHEL 10 and newer have it."
	if [ -e .venv ] && [ ! -e .venv/.bootstrapping ] && [ ! -e $(BOOTSTRAPPED) ]; then
	    stop "the folder .venv is there and make did not create it, so make will not replace it." \
	        "Remove or rename it, then run make again."
	fi
	rm -rf .venv && mkdir .venv && touch .venv/.bootstrapping
	# Triton's Python backend loads libpython3.11.so, which a statically built interpreter does not have.
	has_libpython='import ctypes, os, sys, sysconfig
	assert sys.version_info[:2] == (3, 11)
	name = "libpython3.11.so.1.0"
	os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR"), name)) or ctypes.CDLL(name)'
	python=
	for candidate in $(or $(PYTHON),python3.11 python3 python); do
	    if "$$candidate" -c "$$has_libpython" >/dev/null 2>&1; then python=$$candidate; break; fi
	done
	[ -n "$$python" ] || [ -z "$(PYTHON)" ] || stop \
	    "PYTHON=$(PYTHON) is not a Python 3.11 with the shared library libpython3.11.so." \
	    "Name another one, or leave PYTHON out to let make look for one."
	if [ -n "$$python" ] && "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "creating .venv with $$python"
	    "$$python" -m venv .venv
	    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv ||
	        stop "pip could not install uv (its message is above): is the package index reachable?"
	else
	    # No 3.11, or one without its venv module: uv creates the environment, and fetches Python if it must.
	    uv=$$(command -v uv || true)
	    if [ -z "$$uv" ]; then
	        for candidate in $$python python3 python; do
	            "$$candidate" -m pip install --quiet --disable-pip-version-check --target build/uv --upgrade uv \
	                >/dev/null 2>&1 && uv=build/uv/bin/uv && break
	        done
	    fi
	    [ -n "$$uv" ] || stop "no Python 3.11, and neither uv nor a python3 with pip to get one." \
	        "Install one of these, then run make again:" \
	        "  Debian, Ubuntu: apt-get install python3.11 python3.11-venv libpython3.11" \
	        "  any Linux: pyenv (PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.11), conda, or uv"
	    "$$uv" venv --quiet --allow-existing --python "$${python:-3.11}" .venv ||
	        stop "uv found no Python 3.11 and could not fetch one (its message is above)." \
	            "Install python3.11 (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), then run make again."
	    "$$uv" pip install --quiet --python .venv/bin/python uv ||
	        stop "uv could not install itself into .venv (its message is above): is the package index reachable?"
	    rm -rf build/uv
	fi
	rm .venv/.bootstrapping
	printf '%s' "$(CURDIR)" >$(BOOTSTRAPPED)

$(INSTALLED): requirements.lock overrides.txt pyproject.toml $(BOOTSTRAPPED)
	@exec >&2
	unset PYTHONHOME PYTHONPATH
	touch .venv/.installing
	echo "installing requirements.lock into .venv"
	install() { VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet "$$@"; }
	install -r requirements.lock --override overrides.txt && install --no-deps --no-build-isolation -e . || {
	    echo "cascade: the install failed (uv's message is above); run make again, it starts afresh."
	    echo "cascade: behind a mirror set UV_DEFAULT_INDEX; wheels in a folder are found through UV_FIND_LINKS."
	    exit 1
	}
	rm .venv/.installing
	touch $@

# ---- the targets -----------------------------------------------------------------------------------------------------
help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) |
	while IFS=$$'\t' read -r target text; do
	    [ "$$target" = help ] || printf '  make %-10s %s\n' "$$target" "$$text"
	done

demo: $(INSTALLED) ## logs to live recommendations on a synthetic world, served by a real Triton
	@.venv/bin/cascade demo $(ARGS)

test: $(INSTALLED) ## the fast tests; CASCADE_DATA names the folder with the real data sets
	.venv/bin/pytest -n 2 -m "not slow and not gpu" $(ARGS)

test-slow: $(INSTALLED) ## the slow tests that need no GPU
	.venv/bin/pytest -m "slow and not gpu" $(ARGS)

lint: $(INSTALLED) lint-tracked ## ruff, pyright, the layers, what git tracks, and make audit
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/python .ci/audit.py

audit: $(INSTALLED) ## .venv against the lock, and the pins against known vulnerabilities; ARGS="-s osv" asks elsewhere
	.venv/bin/python .ci/audit.py $(ARGS)

bench: $(INSTALLED) ## the benchmarks, one JSON line a measurement; ONLY=etl runs those whose name starts so
	@shopt -s nullglob
	files=(benchmarks/$(ONLY)*.py)
	(($${#files[@]})) || {
	    echo "cascade: no benchmarks/$(ONLY)*.py; ONLY is the start of: $$(cd benchmarks && echo *.py)" >&2
	    exit 2
	}
	failed=()
	for file in "$${files[@]}"; do .venv/bin/python "$$file" || failed+=("$$file"); done
	((! $${#failed[@]})) || { echo "cascade: failed: $${failed[*]}" >&2; exit 1; }

install: $(INSTALLED) ## the environment in .venv, with the command .venv/bin/cascade

docs: $(INSTALLED) ## the site of the docs, in build/docs; first the pages that are made from the code
	@.venv/bin/python docs/generate.py
	.venv/bin/sphinx-build -W --keep-going -q -c docs/site docs build/docs
	echo "the site: $(CURDIR)/build/docs/index.html"

# Stripped from the lock: torch's local version and its CUDA packages, so that a CPU build serves as well as a CUDA one.
CUDA_LIBRARIES := cublas|cuda|cudnn|cufft|cufile|curand|cusolver|cusparse|nccl|nvjitlink|nvshmem|nvtx
CUDA_PACKAGES := nvidia-[a-z0-9-]+-cu[0-9]+|nvidia-($(CUDA_LIBRARIES))[a-z0-9-]*|cuda-[a-z]+|triton
lock: $(BOOTSTRAPPED) ## compile requirements.lock anew; pins stay where they can, ARGS=--upgrade lifts them
	@stop() { echo "cascade: $$1" >&2; exit 1; }
	compiled=$$(mktemp)
	trap 'rm -f "$$compiled" "$$compiled.lock" "$$compiled.overrides"' EXIT
	cp requirements.lock "$$compiled" 2>/dev/null || true
	.venv/bin/uv pip compile pyproject.toml --extra evaluate --extra dev --override overrides.txt --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_35 --no-annotate --no-header --quiet $(ARGS) \
	    --output-file "$$compiled" >/dev/null
	{
	    echo "# Compiled by make lock from pyproject.toml (extras evaluate and dev) and overrides.txt: do not edit."
	    sed -E '/^($(CUDA_PACKAGES))==/d; /^(#|--|$$)/d; s/^(torch==[^+ ]+)\+[^ ]+/\1/' "$$compiled"
	} >"$$compiled.lock"
	! grep -E '^tensorflow(-cpu|-gpu)?==' "$$compiled.lock" || stop "TensorFlow must stay out of the lock"
	grep -qx 'numpy==1.26.4' "$$compiled.lock" || stop "numpy must stay 1.26.4, see overrides.txt"
	cat "$$compiled.lock" >requirements.lock
	sed 's/^pyarrow==.*/pyarrow==19.0.1/' overrides.txt >"$$compiled.overrides" # cudf 25.02 wants pyarrow < 20
	cp requirements-gpu.lock "$$compiled" 2>/dev/null || true
	.venv/bin/uv pip compile pyproject.toml --extra gpu --extra evaluate --extra dev --override "$$compiled.overrides" \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_35 --no-annotate --no-header --quiet $(ARGS) \
	    --output-file "$$compiled" >/dev/null
	{
	    echo "# Compiled by make lock from pyproject.toml (extras gpu, evaluate, dev), for machines with NVIDIA GPUs: do not edit."
	    sed -E '/^(#|--|$$)/d; s/^(torch==[^+ ]+)\+[^ ]+/\1/' "$$compiled"
	} >requirements-gpu.lock

clean: ## remove runs/ and all caches; .venv stays (rm -rf .venv removes it too)
	rm -rf runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# The brackets keep this file from finding itself.
INDEX_HOSTS := pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|pypi[.]nvidia[.]com|--(extra-)?index-ur[l]
lint-tracked:
	@exec >&2
	large=$$(git ls-files -z | xargs -0 -r sh -c 'find "$$@" -maxdepth 0 -type f -size +1024k 2>/dev/null || true' sh |
	    while IFS= read -r file; do grep -Iq . "$$file" || echo "$$file"; done)
	[ -z "$$large" ] || { printf 'cascade: a binary over 1 MB is tracked, keep it out of git: %s\n' "$$large"; exit 1; }
	! git grep -nIE '$(INDEX_HOSTS)' || {
	    echo "cascade: a tracked file names a package index; leave that to the user's settings"
	    exit 1
	}

FORCE:
.PHONY: help install demo test test-slow lint lint-tracked audit bench docs lock clean FORCE
