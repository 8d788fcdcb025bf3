# Two commands do everything: `make demo` runs the whole pipeline, `make test` checks the whole project.
# Needs Python 3.11 or newer, make and git. Everything is installed into .venv, nothing elsewhere.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.photogram-setup
UV := $(shell command -v uv 2>/dev/null)
# Stages run `python`, and DVC runs stages: both must be the ones in .venv.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" PYTHONPATH= PYTHONNOUSERSITE=1
# pyright and its node come from the lock too; it need not ask the network for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_GLOBAL_NODE := off

.DEFAULT_GOAL := help
.PHONY: help setup demo test check-style slow bench attack

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Install the pinned packages into .venv (done once; again when requirements.lock changes)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
ifneq ($(UV),)
	"$(UV)" venv --quiet --allow-existing --python "$(PYTHON)" $(VENV)
	"$(UV)" pip install --python $(VENV)/bin/python --require-hashes --requirements requirements.lock
else
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
endif
	@touch $(STAMP)

demo: setup ## Run the whole pipeline (ten to twenty minutes on two cores), then show the headline table
	$(RUN) python -m stages.check
	$(RUN) dvc repro
	@awk '/^## / && seen++ { exit } { print }' data/report/report.md
	@echo "Everything else: $(CURDIR)/data/report/index.html"

check-style: setup ## Check format, lint, types and import rules
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) pyright
	$(RUN) lint-imports

test: check-style ## The same, then run the tests (without the slow ones)
	$(RUN) pytest -n 2 --dist loadfile

slow: setup ## Run every test, the slow ones too
	$(RUN) pytest -n 2 --dist loadfile -m "slow or not slow"

attack: setup ## Damage, kill, fill disks, run two at once: the score card (about an hour; goes on where it was stopped)
	$(RUN) OMP_NUM_THREADS=1 python -m tests.attack

bench: setup ## Measure speeds, side by side with plain reference code
	$(RUN) python -m benchmarks
