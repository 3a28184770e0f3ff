# Everything from one command on a fresh machine: Python >= 3.11, found as python3 or given as PYTHON=...

PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
TORCH ?= torch==2.13.0
VENV := .venv
BENCH := .venv-bench
GPU := .venv-gpu
RUN := $(CURDIR)/$(VENV)/bin/python
OUT := results
# Processes that the tests run in: most of their time is one thread's, compiling.
JOBS ?= 2

export MPLBACKEND := Agg

.PHONY: venv test studies bench gpu lint clean
.DEFAULT_GOAL := test

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[data,studies,progress,test]'
	touch $@

# The oracle of some tests; without it they are skipped. TORCH= leaves it out.
$(VENV)/torch: $(VENV)/installed
	@if [ -z "$(TORCH)" ] || $(RUN) -m pip install --quiet --disable-pip-version-check $(TORCH); then touch $@; \
	else echo "PyTorch could not be installed: tests against it are skipped"; fi

test: $(VENV)/installed $(VENV)/torch
	$(RUN) -m ruff check .
	$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Every study in its quick form; one that fails does not keep the others from running.
studies: $(VENV)/installed
	@failed=; for study in studies/[!_]*.py; do \
		echo "== $$study"; $(RUN) $$study --quick --out $(OUT) || failed="$$failed $$study"; \
	done; if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

$(BENCH)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench,progress]'
	touch $@

# The performance study in full, half an hour on two quiet cores; then what it does not have.
bench: $(BENCH)/installed
	$(BENCH)/bin/python studies/performance.py --out $(OUT)
	$(BENCH)/bin/python benchmarks/ctc.py
	$(BENCH)/bin/python benchmarks/generate.py
	$(BENCH)/bin/python benchmarks/ensemble.py

# Needs a GPU. PyTorch, for its cuDNN, in the build for CUDA that its index has.
$(GPU)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(GPU)
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check torch
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cuda]' 'cuda-toolkit[sanitizer]==13.0.*'
	touch $@

gpu: $(GPU)/installed
	$(GPU)/bin/python benchmarks/gpu.py --out docs/gpu.jsonl

lint: $(VENV)/installed
	$(RUN) -m ruff check .

clean:
	rm -rf $(VENV) $(BENCH) $(GPU) $(OUT) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find fastrnn tests studies benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
