# For a fresh machine: `make demo` and `make test`. Every target makes the virtual environment first where it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo light test test-all check docs clean

demo: $(VENV)/installed
	$(BIN)/python -m featurize --data sample --layers block3_pool --pool grid2 --image-size 64 --out data/demo/vgg16.h5
	$(BIN)/python -m featurize --data sample --backbone pixels --out data/demo/pixels.h5
	$(BIN)/python -m classify --features data/demo/vgg16.h5 --features data/demo/pixels.h5 --runs data/demo/runs
	$(BIN)/python -m analysis --runs data/demo/runs --out analysis/output/demo

# The smallest environment, 1.9 GB: builds for CPUs alone, without bytecode for modules that are never used, and
# without what only compilers of TensorFlow operations need.
light:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements-cpu.txt
	$(BIN)/python -m pip install --quiet --no-compile --no-deps .
	$(BIN)/python -m pip uninstall --quiet --yes libclang
	rm -r $(VENV)/lib/python3.*/site-packages/tensorflow/include

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-all: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A warning, such as a dead reference, fails.
docs: $(VENV)/installed
	$(BIN)/python -m sphinx --builder html --fail-on-warning --quiet docs docs/_build/html

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info analysis/output docs/_build docs/_generated
