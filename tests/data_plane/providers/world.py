"""One gateway with a backend of every dialect behind real Envoy: the stand-ins, and a real llama.cpp."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anthropic
import openai
import pytest

from extproc.demo import llama_server, tiny_qwen3
from tests.data_plane.conftest import Plane, running
from tests.data_plane.providers.claude import Anthropic
from tests.data_plane.providers.clouds import DeepSeek, Mistral
from tests.data_plane.providers.locals import Compatible, Ollama, Vllm
from tests.data_plane.providers.openai import OpenAI
from tests.data_plane.providers.server import Providers
from tests.free_ports import free_port
from tests.real_llama import LACKS, needs_llama

LLAMA_CONTEXT = 2048
MODELS = Path(__file__).parents[3] / ".extproc" / "models"
"""Where `make` builds the demo's model; it takes seconds, so the next run finds it."""


@dataclass(frozen=True)
class Row:
    """A dialect in the tables: its backend, the model that talks, the model that calls tools, where its stand-in is.

    `shows` tells whether its thinking is visible to clients of the other schemas without being asked for.
    """

    dialect: str
    chat: str
    tools: str = ""
    base: str = ""
    shows: bool = True

    @property
    def caller(self) -> str:
        """The model that calls tools."""
        return self.tools or self.chat


ROWS = (
    Row("openai", "openai/gpt-5-mini", base="/openai/v1", shows=False),
    Row("anthropic", "anthropic/claude-sonnet-5", base="/anthropic", shows=False),
    Row("deepseek", "deepseek/deepseek-v4-flash", base="/deepseek/v1"),
    Row("mistral", "mistral/mistral-large-latest", base="/mistral/v1", shows=False),
    Row("ollama", "ollama/qwen3:8b"),
    Row("ollama-openai", "ollama_chat/qwen3:8b", base="/ollama/v1"),
    Row("vllm", "vllm/qwen3-coder", base="/vllm/v1"),
    Row("vllm-leaky", "vllm/qwen3-coder-leaky", base="/vllm/v1"),
    Row("compatible", "compatible/some-model", base="/compatible/v1"),
    Row("llamacpp", "llama/tiny", "llama_tool/tool"),
)
BY_NAME = {row.dialect: row for row in ROWS}
REAL = ("llamacpp",)
STAND_INS = tuple(row for row in ROWS if row.dialect not in REAL)
EACH = [pytest.param(row, id=row.dialect, marks=[needs_llama] if row.dialect in REAL else []) for row in ROWS]
"""All rows as parameters of a test."""

CONFIG = """\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: 2
redis: {store}
backends:
  openai: {{dialect: openai, base_url: "http://127.0.0.1:{up}/openai/v1", api_key: sk-openai, location: cloud, provider: openai}}
  anthropic: {{dialect: anthropic, base_url: "http://127.0.0.1:{up}/anthropic", api_key: sk-anthropic, location: cloud, provider: anthropic}}
  deepseek: {{dialect: deepseek, base_url: "http://127.0.0.1:{up}/deepseek", api_key: sk-deepseek, location: cloud, provider: deepseek}}
  mistral: {{dialect: mistral, base_url: "http://127.0.0.1:{up}/mistral/v1", api_key: sk-mistral, location: cloud, provider: mistral}}
  ollama: {{dialect: ollama, base_url: "http://127.0.0.1:{up}/ollama", location: local, health: "off", models: {{"qwen3:8b": {{context: 4096}}, "unmeasured": {{context: 100000}}}}}}
  ollama_chat: {{dialect: ollama, schema: openai, base_url: "http://127.0.0.1:{up}/ollama/v1", location: local, health: "off", models: {{"qwen3:8b": {{context: 4096}}}}}}
  vllm: {{dialect: vllm, base_url: "http://127.0.0.1:{up}/vllm/v1", location: local, health: "off"}}
  compatible: {{dialect: compatible, base_url: "http://127.0.0.1:{up}/compatible/v1", location: local, health: "off"}}
  openrouter: {{dialect: compatible, base_url: "http://127.0.0.1:{up}/compatible/v1", location: local, health: "off"}}
  llama: {{dialect: llamacpp, base_url: "http://127.0.0.1:{llama}/v1", location: local}}
  recognized: {{schema: openai, base_url: "http://127.0.0.1:{llama_tool}/v1", location: local}}
  llama_tool: {{dialect: llamacpp, base_url: "http://127.0.0.1:{llama_tool}/v1", location: local}}
chains:
  vllm-first: [vllm/qwen3-coder, openai/gpt-5-mini]
  ollama-first: [ollama/unmeasured, openai/gpt-5-mini]
  llama-first: [llama_tool/tool, openai/gpt-5-mini]
  recognized-first: [recognized/tool, openai/gpt-5-mini]
  hugging: [openrouter/Qwen/Qwen3-Coder-30B]
models: {{auto: vllm-first}}
failover: {{first_event_timeout: 5s, answer_timeout: 30s, silence_timeout: 5s, ping_interval: 200ms, passive_health: false}}
"""


@dataclass
class World:
    """The running gateway and its stand-ins."""

    plane: Plane
    providers: Providers
    _clients: list[openai.OpenAI | anthropic.Anthropic] = field(default_factory=list)

    def reset(self) -> None:
        """Forget what was seen and queued."""
        self.providers.reset()

    def judged(self) -> None:
        """Fail when any stand-in refused a request."""
        assert self.providers.refused == []

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.plane.port}"

    def openai(self, base: str = "", **options: object) -> openai.OpenAI:
        """The OpenAI SDK on the gateway, or with `base` and its key on a stand-in itself."""
        url = f"http://127.0.0.1:{self.providers.port}{base}" if base else f"{self.url}/v1"
        key = f"sk-{base.split('/')[1]}" if base else "any"
        client = openai.OpenAI(**{"base_url": url, "api_key": key, "max_retries": 0, "timeout": 20, **options})
        self._clients.append(client)
        return client

    def anthropic(self, base: str = "", **options: object) -> anthropic.Anthropic:
        """The Anthropic SDK on the gateway, or with `base` on the stand-in itself."""
        url = f"http://127.0.0.1:{self.providers.port}{base}" if base else self.url
        client = anthropic.Anthropic(**{"base_url": url, "api_key": "any", "max_retries": 0, "timeout": 20, **options})
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close the SDKs' connections."""
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def running_world(*, llama: bool = True) -> Iterator[World]:
    """Start everything on ports of its own; end exactly what was started."""
    with contextlib.ExitStack() as stack:
        ports = {"llama": free_port(), "llama_tool": free_port()}
        if llama and not LACKS:
            for name, path, *options in (("llama", chat_model()), ("llama_tool", tool_model(), "--no-think", "--ctx",
                                                                     str(LLAMA_CONTEXT))):
                alias = "tiny" if name == "llama" else "tool"
                stack.enter_context(_llama(llama_server.command(path, ports[name], alias, "--threads", "1", *options),
                                           ports[name]))
        providers = Providers(OpenAI(), Anthropic(), DeepSeek(), Mistral(), Ollama(), Vllm(), Compatible())
        stack.callback(providers.stop)
        template = CONFIG.replace("{llama}", str(ports["llama"])).replace("{llama_tool}", str(ports["llama_tool"]))
        plane = stack.enter_context(running(providers, template=template))
        world = World(plane, providers)
        stack.callback(world.close)
        yield world


def chat_model() -> Path:
    """A model that thinks and greets."""
    return tiny_qwen3.ensure(MODELS / "tiny-qwen3.gguf")


def tool_model() -> Path:
    """A model that calls get_weather."""
    return tiny_qwen3.ensure(MODELS / "tiny-qwen3-tool.gguf", "tool")


@contextlib.contextmanager
def _llama(argv: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _healthy(port):
            assert process.poll() is None, f"{argv} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{argv} is not ready"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


