"""The real data plane for tests: real Envoy, a real store, two workers, scripted providers; unique per run."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from extproc.ledger import embedded
from extproc.ledger.redis_ledger import RedisLedger
from tests.data_plane.upstream import Upstream
from tests.free_ports import free_port


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def json(self):
        """The parsed body."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass
class Plane:
    """A running gateway with its providers and its store."""

    upstream: Upstream
    port: int
    admin: int
    envoy_admin: int
    store: str
    process: subprocess.Popen
    config: Path
    log: Path
    state: Path
    text: str
    store_pid: int

    def call(self, method: str, path: str, body: bytes | dict | None = None, headers: dict[str, str] | None = None,
             timeout: float = 20) -> Answer:
        """One request of a client; a broken answer gives what was read, with `complete` False."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            response = connection.getresponse()
            found = {k.lower(): v for k, v in response.getheaders()}
            try:
                return Answer(response.status, found, response.read())
            except http.client.IncompleteRead as broken:
                return Answer(response.status, found, broken.partial, complete=False)
        finally:
            connection.close()

    def chat(self, model: str, *, stream: bool = False, path: str = "/v1/chat/completions", text: str = "hi",
             headers: dict[str, str] | None = None, **more) -> Answer:
        """An OpenAI chat request."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **({"stream": True} if stream else {})}
        return self.call("POST", path, {**body, **more}, headers)

    def message(self, model: str, *, stream: bool = False, path: str = "/v1/messages", text: str = "hi",
                headers: dict[str, str] | None = None, **more) -> Answer:
        """An Anthropic messages request."""
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": text}], "stream": stream}
        return self.call("POST", path, {**body, **more}, {"anthropic-version": "2023-06-01", **(headers or {})})

    def records(self, expect: str | None = None, wait: float = 5.0):
        """The ledger's records, newest last; waits until the one of request `expect` is there."""
        async def read():
            ledger = RedisLedger(self.store)
            try:
                return await ledger.records("default", 5000)
            finally:
                await ledger.close()

        deadline = time.monotonic() + wait
        while True:
            found = asyncio.run(read())
            if expect is None or any(r.admission.request_id == expect for r in found):
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"no record of {expect} among {len(found)}")
            time.sleep(0.02)

    def record(self, answer: Answer):
        """The one ledger record of an answered request."""
        rid = answer.headers["x-extproc-request-id"]
        found = [r for r in self.records(rid) if r.admission.request_id == rid]
        assert len(found) == 1
        return found[0]

    def pids(self, name: str) -> list[int]:
        """Process ids of children by a part of their command line."""
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and name.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def envoy_stats(self, pattern: str) -> dict[str, int]:
        """Envoy's counters whose name matches."""
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy_admin, timeout=5)
        connection.request("GET", f"/stats?filter={pattern}")
        text = connection.getresponse().read().decode()
        connection.close()
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}


CONFIG = """\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: 2
redis: {store}
{extra}
backends:
  oa0: {{schema: openai, base_url: "http://127.0.0.1:{up}/oa0/v1", api_key: sk-key-of-oa0, location: cloud, provider: openai, models: {{gpt-5-mini: {{context: 100000000}}}}}}
  oa1: {{schema: openai, base_url: "http://127.0.0.1:{up}/oa1/v1", api_key: sk-key-of-oa1, location: cloud, provider: openai, models: {{gpt-5-mini: {{context: 100000000}}}}}}
  an0: {{schema: anthropic, base_url: "http://127.0.0.1:{up}/an0", api_key: sk-key-of-an0, location: cloud, provider: anthropic}}
  an1: {{schema: anthropic, base_url: "http://127.0.0.1:{up}/an1", api_key: sk-key-of-an1, location: cloud, provider: anthropic}}
  lo0: {{schema: openai, base_url: "http://127.0.0.1:{up}/lo0/v1", location: local, lacks: [images]}}
  dead: {{schema: openai, base_url: "http://127.0.0.1:{dead}/v1", location: local}}
chains:
  cloud: [an0/claude-sonnet-5, oa0/gpt-5-mini]
  local: [lo0/qwen, an0/claude-sonnet-5]
  oa: [oa0/gpt-5-mini, oa1/gpt-5-mini]
  an: [an0/claude-sonnet-5, an1/claude-sonnet-5]
  mix: [oa0/gpt-5-mini, an0/claude-sonnet-5]
  xim: [an0/claude-sonnet-5, oa0/gpt-5-mini]
  dead-first: [dead/x, oa0/gpt-5-mini]
  all-dead: [dead/x]
  err-then-dead: [oa0/gpt-5-mini, dead/x]
  three: [oa0/gpt-5-mini, an0/claude-sonnet-5, oa1/gpt-5-mini]
  text-only: [lo0/qwen]
models: {{auto: smart, "claude-*": cloud}}
failover: {{first_event_timeout: 1s, answer_timeout: 2s, silence_timeout: 1s, passive_health: false}}
"""


@contextlib.contextmanager
def running(upstream: Upstream, extra: str = "", template: str = CONFIG):
    """Start a gateway on ports of its own; end exactly what was started."""
    with tempfile.TemporaryDirectory(prefix="xp-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        sock, data = root / "s.sock", root / "data"
        data.mkdir()
        store = subprocess.Popen(embedded.command(sock, data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(_end, store)
        asyncio.run(embedded.wait_ready(embedded.url(sock), 10))
        own = {name: free_port() for name in ("port", "admin", "envoy_admin", "dead")}
        text = template.format(**own, up=upstream.port, store=embedded.url(sock), extra=extra)
        config, log = root / "gateway.yaml", root / "up.log"
        config.write_text(text)
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "REDIS_URL"}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "extproc.cli", "up", "-c", str(config), "--state", str(root / "state")],
                stdout=out, stderr=out, env=environment)
        stack.callback(_end, process)
        plane = Plane(upstream, own["port"], own["admin"], own["envoy_admin"], embedded.url(sock), process,
                      config, log, root / "state", text, store.pid)
        _started(process, log)
        yield plane


def _started(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60  # as long as the gateway itself gives its parts
    while "Ctrl-C" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the gateway did not start:\n{log.read_text()}")
        time.sleep(0.05)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def _upstream():
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _plane(_upstream):
    with running(_upstream) as plane:
        yield plane


@pytest.fixture
def plane(_plane):
    """The shared gateway with fresh scripts."""
    _plane.upstream.reset()
    yield _plane
    _plane.upstream.reset()
