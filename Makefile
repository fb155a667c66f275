# Everything that is installed goes into this folder: uv into .tools/, the packages of uv.lock into .venv/.

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/uv-$(UV_VERSION)/bin/uv
VENV := .venv/.synced

export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV) ## watch a forecast survive kill -9 of its server
	@.venv/bin/perdure demo

test: $(VENV) ## all tests; pytest's arguments in ARGS="…"
	@UV=$(UV) sh scripts/test.sh $(ARGS)

check: $(VENV) ## format, lint, types, imports
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports --no-logo

format: $(VENV) ## put the code into shape
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

bench: $(VENV) ## speed and size, as a table
	@.venv/bin/python -m bench $(ARGS)

clean: ## remove all that was installed or cached here
	rm -rf .venv .venv-3.* .tools .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --frozen --no-python-downloads --python "$$(command -v $(PYTHON))"
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perdure needs Python 3.11 or newer; make PYTHON=…")'
	$(PYTHON) -m venv .tools/uv-$(UV_VERSION)
	.tools/uv-$(UV_VERSION)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
