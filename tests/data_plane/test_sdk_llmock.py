"""The SDKs against somebody else's model of the providers: llmock, which knows them by path and is no work of ours."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request

import pytest

from extproc.demo import cloud
from tests.data_plane.conftest import running
from tests.data_plane.providers.server import Providers
from tests.data_plane.providers.world import World
from tests.free_ports import free_port

MAKERS = {
    # name: dialect, path, model
    "openai": ("openai", "/v1", "gpt-5-mini"),
    "anthropic": ("anthropic", "/anthropic", "claude-sonnet-5"),
    "mistral": ("mistral", "/mistral/v1", "mistral-large-latest"),
    "groq": ("compatible", "/groq/openai/v1", "llama-3.3-70b-versatile"),
    "together": ("compatible", "/together/v1", "Qwen/Qwen3-Coder"),
    "xai": ("compatible", "/xai/v1", "grok-4"),
}
CONFIG = """\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: 2
redis: {store}
backends:
%s
chains: {{all: [openai/gpt-5-mini]}}
models: {{auto: all}}
"""
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HELLO = [{"role": "user", "content": "hi"}]
each = pytest.mark.parametrize("maker", MAKERS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def world():
    """A gateway whose backends are all llmock's."""
    port = free_port()
    process = subprocess.Popen(cloud.command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    nobody = Providers()
    try:
        wait(f"{cloud.openai_url(port)}/models", process)
        lines = [f'  {name}: {{{{dialect: {dialect}, base_url: "http://127.0.0.1:{port}{path}", api_key: k, location: cloud}}}}'
                 for name, (dialect, path, _) in MAKERS.items()]
        with running(nobody, template=CONFIG % "\n".join(lines)) as plane:
            found = World(plane, nobody)
            yield found
            found.close()
    finally:
        nobody.stop()
        process.terminate()
        process.wait(20)


def wait(url: str, process: subprocess.Popen) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def model_of(maker: str) -> str:
    """BACKEND/MODEL."""
    return f"{maker}/{MAKERS[maker][2]}"


@each
@both_ways
def test_chat(world, maker, stream):
    """OpenAI's chat client gets a text, then a call of the tool it offers."""
    sdk, tool = world.openai(), {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
    for tools in ({}, {"tools": [tool]}):
        request = {"model": model_of(maker), "messages": HELLO, **tools}
        if stream:
            with sdk.chat.completions.stream(**request) as events:
                choice = events.get_final_completion().choices[0]
        else:
            choice = sdk.chat.completions.create(**request).choices[0]
        calls = [call.function.name for call in choice.message.tool_calls or ()]
        assert calls == (["get_weather"] if tools else [])
        assert choice.finish_reason in (("tool_calls",) if tools else ("stop", "eos"))  # eos: Together's own word
        assert bool(choice.message.content) or tools


@each
@both_ways
def test_messages(world, maker, stream):
    """Anthropic's client gets a text, then a call of the tool it offers."""
    sdk, tool = world.anthropic(), {"name": "get_weather", "input_schema": SCHEMA}
    for tools in ({}, {"tools": [tool]}):
        request = {"model": model_of(maker), "max_tokens": 200, "messages": HELLO, **tools}
        if stream:
            with sdk.messages.stream(**request) as events:
                answer = events.get_final_message()
        else:
            answer = sdk.messages.create(**request)
        assert [b.name for b in answer.content if b.type == "tool_use"] == (["get_weather"] if tools else [])
        assert answer.stop_reason == ("tool_use" if tools else "end_turn")
        # Mistral gives a stream's usage unasked, and knows no way to ask; its model here wants to be asked.
        assert answer.usage.output_tokens > 0 or (maker, stream) == ("mistral", True)


@each
@both_ways
def test_responses(world, maker, stream):
    """OpenAI's responses client gets a text, then a call of the tool it offers."""
    sdk, tool = world.openai(), {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
    for tools in ({}, {"tools": [tool]}):
        if maker == "openai" and tools:
            continue  # its responses route calls no tools
        request = {"model": model_of(maker), "input": "hi", **tools}
        if stream:
            with sdk.responses.stream(**request) as events:
                answer = events.get_final_response()
        else:
            answer = sdk.responses.create(**request)
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [call.name for call in calls] == (["get_weather"] if tools else [])
        assert all(isinstance(json.loads(call.arguments), dict) for call in calls)
        assert bool(answer.output_text) or tools
        assert answer.status == "completed"


def test_embeddings(world):
    """Embeddings of its OpenAI route, in base64 as the SDK asks for them."""
    [found] = world.openai().embeddings.create(model="openai/text-embedding-3-small", input="hi").data
    assert all(isinstance(value, float) for value in found.embedding[:3])
