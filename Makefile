# make run    images to a tested model, on the built-in sample
# make test   the tests; make test-slow: those that take minutes; make test-flink: on a Flink cluster
# make clean  remove the environment and what `make run` made

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-slow test-flink clean

run: $(READY)
	$(BIN)/python -m beam_jobs.build_records --runner DirectRunner --input sample:2000 --output tfrecords/
	$(BIN)/python -m model.train --records tfrecords/ --run runs/sample --overwrite
	$(BIN)/python -m model.evaluate --run runs/sample
	@echo
	@echo "Records: tfrecords/   model and figures: runs/sample/"
	@echo "Next: . $(BIN)/activate, then"
	@echo "  tensorboard --logdir runs/                                    the curves"
	@echo "  python -m beam_jobs.build_records --input YOUR_FOLDER --output records/   your images"
	@echo "  python -m model.train --records records/                      a model of them"

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-flink: $(READY)
	$(BIN)/python -m pytest -m flink -rs

# The first Python from 3.10 to 3.13 that really runs; `make PYTHON=/path/to/python` names another.
$(READY): setup.py constraints.txt
	@python="$(PYTHON)"; \
	for name in python3 python3.12 python3.11 python3.10 python3.13; do \
	    [ -n "$$python" ] && break; \
	    $$name -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	        2>/dev/null && python=$$name; \
	done; \
	[ -n "$$python" ] || { echo "error: Inkling needs Python 3.10 to 3.13, and finds none" >&2; exit 1; }; \
	echo "Installing into $(VENV) with $$python: about 2 GB of packages, some minutes"; \
	"$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,onnx]'
	@touch $@

clean:
	rm -rf $(VENV) tfrecords/* tfrecords/.lock runs/sample
