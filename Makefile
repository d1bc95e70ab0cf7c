# make search: a random search over MNIST networks.   make test: lint, types, tests, every experiment with --quick.
# make docs: the documentation, into runs/docs; its tests are among the tests.
# Each makes its own .venv when there is none and installs what it needs; nothing else is wanted but Python 3.11+.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SEARCH_FLAGS ?=

.PHONY: search test lint types package experiments-quick docs clean

search: .venv/installed-experiments
	$(BIN)/python -m experiments.mnist_random_search $(SEARCH_FLAGS)

test: .venv/installed-test
	$(MAKE) --no-print-directory -j 2 lint types package
	$(BIN)/python -m pytest -n 2 --dist worksteal -q
	$(MAKE) --no-print-directory experiments-quick

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Besides, every public name has a type that is written down and known.
types: .venv/installed-test
	$(BIN)/basedpyright
	@said=$$(PYTHONPATH=$(CURDIR) $(BIN)/basedpyright --verifytypes jaxnet --ignoreexternal) || \
		{ echo "$$said" | sed -n '/^Symbols used/,$$p'; exit 1; }

# What is released, tried as it is installed: the wheel with the newest of what it needs, the sdist with the oldest that
# pyproject.toml allows. The sdist has all that its tests want.
RELEASE := runs/release
package: .venv/installed-test
	rm -rf $(RELEASE)
	$(BIN)/uv build --quiet --out-dir $(RELEASE)
	$(BIN)/twine check --strict $(RELEASE)/jaxnet-*
	for venv in newest oldest; do $(BIN)/uv venv --quiet --python $(BIN)/python $(RELEASE)/$$venv || exit; done
	$(BIN)/uv pip install --quiet --python $(RELEASE)/newest $(RELEASE)/jaxnet-*.whl
	$(BIN)/uv pip install --quiet --python $(RELEASE)/oldest --resolution lowest-direct -r pyproject.toml
	$(BIN)/uv pip install --quiet --python $(RELEASE)/oldest --no-deps $(RELEASE)/jaxnet-*.tar.gz
	printf '%s\n' newest oldest | xargs -P 2 -I VENV sh -c '$(RELEASE)/VENV/bin/python -I tests/smoke.py'
	tar -xzf $(RELEASE)/jaxnet-*.tar.gz -C $(RELEASE)
	cd $(RELEASE)/jaxnet-*/ && $(CURDIR)/$(BIN)/python -c 'import pytest, sys; \
		sys.path[:] = [path for path in sys.path if path != "$(CURDIR)"]; \
		sys.exit(pytest.main(["--collect-only", "-qq", "tests"]))' > ../tests.txt || { tail -20 ../tests.txt; exit 1; }

EXPERIMENTS := logic_gates universal_approximation architecture_as_edges classical_filters backpropagation_by_hand \
	logistic_regression mlp_mnist ten_configurations names grid_random_sobol_bayesian autoencoders \
	variational_autoencoder gan depth what_makes_training_work lenet transfer handmade_features hyperband_lenet \
	mnist_random_search

# Two at a time, the benchmarks first, which take longest; so small, their times mean nothing.
experiments-quick: .venv/installed-test
	printf '%s\n' benchmarks $(EXPERIMENTS) | xargs -P 2 -I NAME sh -c \
		'said=$$($(BIN)/python -m experiments.NAME --quick --output runs/quick 2>&1); code=$$?; \
		printf "\n%s\n%s\n" NAME "$$said"; exit $$code'

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going --quiet docs runs/docs

# A file inside .venv remembers which extra was installed; it is made anew when the dependencies change. Modules are
# compiled when they are imported; to compile all takes a third of the time.
.venv/installed-%: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[$*]'
	touch $@

clean:
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache runs
