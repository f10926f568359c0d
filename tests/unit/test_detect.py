"""What local model servers say of themselves, and what is made of it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, web

from extproc.demo import llama_server
from extproc.dialects import DIALECTS
from extproc.dialects.base import Notes
from extproc.runtime import Detected
from extproc.schemas.base import Target
from extproc.up import detect as module
from extproc.up.detect import detect

Answer = Any
"""A JSON value, or bytes, or a function that answers a request."""


@asynccontextmanager
async def server(routes: Mapping[str, Answer]) -> AsyncIterator[str]:
    """A server with these routes on a free loopback port; 404 elsewhere."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = routes.get(request.path)
        if answer is None:
            return web.json_response({"error": "not found"}, status=404)
        if callable(answer):
            return await answer(request)
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        return web.json_response(answer)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def told(said: Detected | None) -> tuple[str, dict[str, int]]:
    """The dialect and the contexts; every context belongs to a model that the server listed, or to its alias."""
    assert said is not None
    return said.dialect, said.contexts


async def asked(routes: Mapping[str, Answer], path: str = "/v1", key: str | None = None) -> Detected | None:
    async with server(routes) as root:
        return await detect(root + path, key)


LLAMACPP = {
    "/v1/models": {"models": [{"name": "qwen"}], "object": "list", "data": [
        {"id": "qwen", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx": 81920, "n_ctx_train": 262144}}]},
    "/props": {"default_generation_settings": {"n_ctx": 40960, "params": {}}, "total_slots": 2, "model_alias": "qwen",
               "model_path": "/m.gguf"},
}
VLLM = {
    "/v1/models": {"object": "list", "data": [
        {"id": "Qwen/Qwen3-Coder", "object": "model", "owned_by": "vllm", "root": "Qwen/Qwen3-Coder", "max_model_len": 131072},
        {"id": "lora", "object": "model", "owned_by": "vllm", "parent": "Qwen/Qwen3-Coder", "max_model_len": None}]},
    "/version": {"version": "0.19.1"},
}


def show(**models: dict[str, Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Ollama's /api/show, which is asked with POST."""

    async def answer(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405)
        found = models.get((await request.json())["model"].partition(":")[0])
        return web.json_response(found or {"error": "model not found"}, status=200 if found else 404)

    return answer


OLLAMA = {
    "/api/version": {"version": "0.40.12"},
    "/api/tags": {"models": [{"name": "qwen3:latest", "model": "qwen3:latest"}, {"name": "gemma4:12b"}, {"name": "tiny:1b"},
                             {"name": "plain:latest"}]},
    "/api/ps": {"models": [{"name": "qwen3:latest", "model": "qwen3:latest", "size_vram": 5, "context_length": 65536}]},
    "/api/show": show(
        gemma4={"parameters": 'num_ctx                        32768\nstop  "</s>"', "model_info": {"gemma4.context_length": 131072}},
        tiny={"parameters": "num_ctx 99999", "model_info": {"general.architecture": "llama", "llama.context_length": 8192}},
        plain={"parameters": "temperature 0.7", "model_info": {"qwen3.context_length": 262144}}),
    "/v1/models": {"object": "list", "data": [{"id": "qwen3:latest", "object": "model", "owned_by": "library"}]},
}
OLLAMA_CONTEXTS = {"qwen3:latest": 65536, "qwen3": 65536, "gemma4:12b": 32768, "tiny:1b": 8192}
LM_STUDIO_LIST = {"object": "list", "data": [{"id": "qwen3-4b", "object": "model", "owned_by": "organization_owner"}]}


async def unexpected(request: web.Request) -> web.Response:
    """LM Studio answers 200 on routes that it does not have."""
    return web.json_response({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})


LM_STUDIO = {
    "/v1/models": LM_STUDIO_LIST, "/props": unexpected, "/version": unexpected, "/api/version": unexpected,
    "/api/v0/models": {"object": "list", "data": [
        {"id": "qwen3-4b", "type": "llm", "state": "loaded", "max_context_length": 40960, "loaded_context_length": 8192},
        {"id": "other", "type": "llm", "state": "not-loaded", "max_context_length": 40960}]},
}


@pytest.mark.parametrize(("routes", "dialect", "contexts"), [
    (LLAMACPP, "llamacpp", {"qwen": 40960}),
    ({"/v1/models": LLAMACPP["/v1/models"]}, "llamacpp", {"qwen": 81920}),
    ({"/props": LLAMACPP["/props"]}, "llamacpp", {"qwen": 40960}),
    (VLLM, "vllm", {"Qwen/Qwen3-Coder": 131072}),
    ({"/v1/models": VLLM["/v1/models"]}, "vllm", {"Qwen/Qwen3-Coder": 131072}),
    ({"/v1/models": {"data": [{"id": "m", "owned_by": "me", "max_model_len": 9}]}, "/version": {"version": "1"}}, "vllm", {"m": 9}),
    (OLLAMA, "ollama", OLLAMA_CONTEXTS),
    ({"/api/version": {"version": "0.1"}}, "ollama", {}),
    (LM_STUDIO, "compatible", {"qwen3-4b": 8192}),
    ({"/v1/models": {"data": [{"id": "m", "owned_by": "sglang", "max_model_len": 9}]}}, "compatible", {"m": 9}),
    ({"/v1/models": {"data": [{"id": "m", "context_length": 7, "max_model_len": 9}]}}, "compatible", {"m": 9}),
    ({"/v1/models": {"data": [{"id": "m"}]}}, "compatible", {}),
    ({"/v1/models": {"data": []}}, "compatible", {}),
])
async def test_servers(routes: dict[str, Answer], dialect: str, contexts: dict[str, int]) -> None:
    """Each kind of server is told by what it answers, and its models' contexts are those that are in force."""
    assert told(await asked(routes)) == (dialect, contexts)
    assert dialect in DIALECTS


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_base_urls(path: str) -> None:
    """The base URL may end in /v1 or not."""
    assert told(await asked(LLAMACPP, path)) == ("llamacpp", {"qwen": 40960})


async def test_a_llamacpp_with_several_models() -> None:
    """Of several models each has its own context: /props speaks of none of them."""
    models = {"data": [{"id": "a", "owned_by": "llamacpp", "meta": {"n_ctx": 1}}, {"id": "b", "owned_by": "llamacpp", "meta": None}]}
    assert told(await asked(LLAMACPP | {"/v1/models": models})) == ("llamacpp", {"a": 1})


async def endless(request: web.Request) -> web.StreamResponse:
    """An answer that does not end."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(1000):
            await response.write(b" " * 65536)
    except (ClientError, ConnectionError):
        pass  # the asker has had enough
    return response


async def redirect(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"location": "/v1/elsewhere"})


@pytest.mark.parametrize("answer", [
    b"", b"<html>", b"[]", b"5", b'"x"', b"null", b"{", b"[" * 5000, b"\xff\xfe", b'{"data": null}', b'{"data": {}}', b'{"data": 5}',
    b'{"error": "x"}', endless, redirect,
])
async def test_nonsense(answer: Answer) -> None:
    """Whatever a server answers, nothing is raised; without a list of models it is no model server."""
    routes = dict.fromkeys(("/v1/models", "/props", "/api/version", "/version"), answer)
    assert await asked(routes | {"/v1/elsewhere": {"data": []}}) is None


@pytest.mark.parametrize("context", [0, -1, None, "4096", 1.5, True, [], {"a": 1}])
async def test_nonsense_for_a_context(context: Any) -> None:
    """A context that is no positive whole number is unknown."""
    models = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": context}, {"id": 5, "max_model_len": 9}, "x", None]}
    assert told(await asked({"/v1/models": models})) == ("vllm", {})
    loaded = {"models": [{"name": "m", "context_length": context}, {"name": None, "context_length": 9}, 7]}
    shown = {"parameters": f"num_ctx {context}\nnum_ctx", "model_info": {"a.context_length": "9"}}
    routes = {"/api/version": {"version": "1"}, "/api/ps": loaded, "/api/tags": {"models": [{"name": "n"}]}, "/api/show": show(n=shown)}
    assert told(await asked(routes)) == ("ollama", {"n": 4096} if context == "4096" else {})


async def test_nothing_there() -> None:
    """A port that nobody listens on, and a URL that is none, are no servers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert await detect(f"http://127.0.0.1:{port}/v1") is None
    assert await detect("http://[::bad/v1") is None


async def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers is given up in time."""
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    never = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    async with server(dict.fromkeys(("/v1/models", "/props", "/api/version", "/version"), wait)) as root:
        async with asyncio.timeout(5):
            assert await detect(root) is None
        never.set()


async def test_the_key_is_sent() -> None:
    """A server that wants a key gets the backend's, and only that."""
    seen: set[str | None] = set()

    async def guarded(request: web.Request) -> web.Response:
        seen.add(request.headers.get("authorization"))
        return web.json_response(VLLM["/v1/models"])

    assert await asked({"/v1/models": guarded}, key="k") is not None
    assert await asked({"/v1/models": guarded}) is not None
    assert seen == {"Bearer k", None}


# ---------------------------------------------------------------- the real llama.cpp


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server with the tiny model that this project builds."""
    if lacks := llama_server.missing():
        pytest.skip(lacks)
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the tiny model needs the demo extra")
    from extproc.demo import tiny_qwen3

    model = tiny_qwen3.ensure(Path(tmp_path_factory.mktemp("detect")) / "chat.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(llama_server.command(model, port, "tiny", "--threads", "1", "--ctx", "4096"))
    try:
        _await(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not come up")


async def test_the_real_server_is_detected(llama: str) -> None:
    """The real llama.cpp says what it is and what context its model has."""
    assert told(await detect(f"{llama}/v1")) == ("llamacpp", {"tiny": 4096})


F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(("fields", "status"), [
    ({"tools": [F, {"type": "custom", "custom": {"name": "p"}}]}, 500),
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                   {"role": "tool", "tool_call_id": "c", "content": "r"}]}, 500),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file", "file": {"file_data": "x"}}]}]}, 400),
])
async def test_the_real_server_takes_what_was_adapted(llama: str, fields: dict[str, Any], status: int) -> None:
    """Requests that the real llama.cpp refuses are answered once they are adapted."""
    given = {"messages": [USER], "max_tokens": 4, **fields}
    adapted, notes = json.loads(json.dumps(given)), Notes()
    DIALECTS["llamacpp"].adapt(adapted, "openai", Target("tiny"), notes)
    async with ClientSession() as session:
        async with session.post(f"{llama}/v1/chat/completions", json=given) as answer:
            assert answer.status == status
        async with session.post(f"{llama}/v1/chat/completions", json=adapted) as answer:
            assert answer.status == 200, await answer.text()


@pytest.mark.parametrize(("fields", "thinks"), [({}, True), ({"reasoning_effort": "none"}, False)])
async def test_the_real_server_does_not_think_when_told(llama: str, fields: dict[str, Any], thinks: bool) -> None:
    """Effort none switches the template's thinking off; without it the model thinks."""
    adapted: dict[str, Any] = {"messages": [USER], "max_completion_tokens": 60, **fields}
    DIALECTS["llamacpp"].adapt(adapted, "openai", Target("tiny"), Notes())
    async with ClientSession() as session, session.post(f"{llama}/v1/chat/completions", json=adapted) as answer:
        message = (await answer.json())["choices"][0]["message"]
    assert ("reasoning_content" in message) == thinks
