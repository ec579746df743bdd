PYTHON ?= python3
PORT ?= 8080
SECONDS ?= 60
MINUTES ?= 10
TARGET ?= cpu
SERVE_VENV := .venv-serve
VENV := .venv
PIP_INSTALL = pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(SERVE_VENV)/.installed  ## set up what serving needs (no torch) and serve the models that ship on :8080 (PORT=)
	$(SERVE_VENV)/bin/python -m service --port $(PORT)

test: $(VENV)/.installed  ## run the tests, as CI does
	$(VENV)/bin/python -m pytest -q --numprocesses 2 --dist worksteal

check: $(VENV)/.installed  ## formatting, lint, types, import arrows
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

audit:  ## known vulnerabilities in what is pinned; asks osv.dev, and says so if it cannot
	@PYTHON=$(PYTHON) .ci/audit

fuzz: $(VENV)/.installed  ## feed the parsers that we own with random input, for SECONDS=
	@end=$$(($$(date +%s) + $(SECONDS))); while [ $$(date +%s) -lt $$end ]; do \
		AASERVE_FUZZ_EXAMPLES=2000 $(VENV)/bin/python -m pytest -q tests/hostile/test_fuzz_*.py || exit 1; done

install: $(VENV)/.installed  ## everything for development, into .venv

format: $(VENV)/.installed  ## rewrite the code as `make check` wants it
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

reference: $(VENV)/.installed  ## write the tables of docs/reference.md from the code
	$(VENV)/bin/python -m docs.reference

export: $(VENV)/.installed  ## make the bundle aa-cifar100 again from its checkpoint, into runs/export/
	rm -rf runs/export
	$(VENV)/bin/python -m export model_repository/aa-cifar100/checkpoint.safetensors --name aa-cifar100 --version 1 --repository runs/export --with-attention

image:  ## build the container image (TARGET=gpu for NVIDIA GPUs)
	docker build --target $(TARGET) --tag aaserve:$(TARGET) \
		--build-arg VERSION=$$($(PYTHON) -c 'from aaserve.service.version import VERSION; print(VERSION)') \
		--build-arg REVISION=$$(git rev-parse HEAD) .

bench: $(VENV)/.installed  ## against the peers that are installed, one workload, a few minutes; into benchmarks/results/
	$(VENV)/bin/python -m benchmarks.peers --workloads W1 --rounds 2 --seconds 2 --no-open-loops --output benchmarks/results/$(shell date -u +%F)-peers-short.json

faults: $(VENV)/.installed  ## the tests of faults under load, five times as long as in `make test`
	AASERVE_FAULT_SCALE=5 $(VENV)/bin/python -m pytest -q tests/faults/test_faults.py

hostile: $(VENV)/.installed  ## 20,000 damaged images in place of the few of `make test`
	AASERVE_DAMAGED_IMAGES=20000 $(VENV)/bin/python -m pytest -q tests/hostile/test_pictures.py

soak: $(VENV)/.installed  ## mixed traffic for MINUTES=10; result in runs/
	$(VENV)/bin/python -m tests.faults.soak --minutes $(MINUTES) --output runs/soak.json

up:  ## the service in a container, with Prometheus and Grafana
	docker compose up --build

clean:  ## remove the environments and what they left
	rm -rf $(VENV) $(SERVE_VENV) .venv-ray .venv-peers .venv-tritonclient .venv-kserve .venv-schemathesis .venv-manifests .venv-crds .venv-audit build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(SERVE_VENV)/.installed: pyproject.toml constraints.txt
	@$(call create-venv,$(SERVE_VENV))
	@echo "installing what serving needs into $(SERVE_VENV) …"
	@$(SERVE_VENV)/bin/$(PIP_INSTALL) --editable '.[cpu]'
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(call create-venv,$(VENV))
	@echo "installing everything for development into $(VENV) (torch included) …"
	@$(VENV)/bin/$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

define create-venv
$(PYTHON) -c 'import sys; sys.exit("aaserve needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else None' \
	&& $(PYTHON) -m venv $(1) || { echo "could not create $(1): on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
endef

.PHONY: help serve test check audit fuzz install format reference export image bench faults hostile soak up clean
