# make quickstart : see ICNet learn, be evaluated, exported and drawn, from nothing but Python
# make check      : lint, types and the fast tests; before each commit
# make test       : lint, types and all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := outputs/quickstart
# Workers of the tests, each with one thread: three for two cores, as many a test waits for other processes. A worker
# takes whole files, whose tests share what they have made.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: quickstart check test setup lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and by its exact version: a CPU-only index or wheel can then serve it, and nothing asks for another.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,fast]"
	@touch $@

setup: $(VENV)/.installed

quickstart: setup
	rm -rf $(RUN)
	$(BIN)/python train.py experiment=quickstart hydra.run.dir=$(RUN)/train
	$(BIN)/python eval.py ckpt=$(RUN)/train/checkpoints/best.ckpt save_pictures=true hydra.run.dir=$(RUN)/eval
	$(BIN)/python export.py ckpt=$(RUN)/train/checkpoints/best.ckpt export.height=192 export.width=384 output=$(RUN)/ICNet.onnx
	$(BIN)/python demo.py ckpt=$(RUN)/train/checkpoints/best.ckpt input=data/quickstart/leftImg8bit/val output=$(RUN)/demo
	@echo
	@echo "Everything lies below $(RUN):"
	@echo "  train/report.html           the training on one page (street (synthetic): no result); train/results.json in numbers"
	@echo "  train/checkpoints/best.ckpt the network; tensorboard --logdir $(RUN) shows its curves"
	@echo "  train/pictures              validation images beside label and prediction, epoch by epoch; the best and worst"
	@echo "  eval                        report.html, IoU of each class as CSV and JSON, confusion matrix, pictures"
	@echo "  ICNet.onnx                  the exported network, compared with the one it came from"
	@echo "  demo                        overlays, label maps and a legend"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST)

clean:
	rm -rf $(VENV) *.egg-info build .pytest_cache .mypy_cache .ruff_cache
