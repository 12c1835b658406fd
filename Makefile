# Everything starts here: `make run` on a bare Debian 12 machine, `make test` to prove it.
.PHONY: setup run demo test coverage test-matrix lint bench soak packages
.SILENT:

PYTHON_IN_VENV := .venv/bin/python
SETUP := docker/setup

setup: packages  ## packages and virtual environment for all of the targets below
	$(SETUP) venv dev

packages:
	$(SETUP) packages

run: packages  ## Orthanc with Isen and an embedded S3 in the foreground; HTTP_PORT, DICOM_PORT, S3_PORT
	$(SETUP) venv s3-server
	exec $(PYTHON_IN_VENV) -m backend.stack run

demo: packages  ## a guided tour that stores, finds, moves and reads back real files, and checks each step
	$(SETUP) venv s3-server
	exec $(PYTHON_IN_VENV) -m backend.stack demo

test: packages  ## unit, contract and integration tests; ARGS= for pytest
	$(SETUP) venv test lint
	exec $(PYTHON_IN_VENV) -m pytest -m "not soak" -n 2 --dist loadfile --durations 15 $(ARGS)

coverage: packages  ## every line and branch of what keeps or removes images is run by a unit test
	$(SETUP) venv test lint
	$(PYTHON_IN_VENV) -m tests.complete_coverage

test-matrix:  ## integration tests on the Orthancs of Debian 13 and testing, as root; ARGS= for tests/matrix
	tests/matrix $(ARGS)

lint:  ## ruff and mypy
	$(SETUP) venv test lint
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy

bench: packages  ## Isen beside Orthanc's own server on this machine, three minutes; FULL=1: all of it; ARGS= for options
	$(SETUP) venv bench
	exec $(PYTHON_IN_VENV) -m tests.bench $(if $(FULL),--full) $(ARGS)

soak: packages  ## the long runs
	$(SETUP) venv test lint
	exec $(PYTHON_IN_VENV) -m pytest -m soak --timeout 0 $(ARGS)
