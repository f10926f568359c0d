"""Ask a local model server what it is, which models it has and how long their contexts are.

Servers tell themselves apart by routes of their own: llama.cpp by /props, Ollama by /api/version, vLLM by `owned_by` in
/v1/models. Whatever one says is taken only where it has the expected form; nothing it says raises.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import aiohttp
import msgspec

from extproc.runtime import Detected

TIMEOUT = 2.0
"""Seconds for one question; a local server that is busy loading a model answers late."""
MAX_ANSWER = 4 << 20
MAX_SHOWN = 32
"""So many of Ollama's models are asked for their settings."""
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, ValueError, msgspec.MsgspecError, RecursionError)


async def detect(base_url: str, api_key: str | None = None) -> Detected | None:
    """The dialect and the contexts of the server at a base URL; None when no model server answers there."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        return await _Server(session, base_url.rstrip("/").removesuffix("/v1")).detect()


class _Server:
    """One server and the questions to it."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self._session = session
        self._root = root

    async def detect(self) -> Detected | None:
        listed, props, ollama, version = await asyncio.gather(
            self._ask("/v1/models"), self._ask("/props"), self._ask("/api/version"), self._ask("/version"))
        models = [model for model in _objects(listed.get("data")) if isinstance(model.get("id"), str)]
        settings = _object(props.get("default_generation_settings"))
        names = tuple(model["id"] for model in models)
        if settings or any(model.get("owned_by") == "llamacpp" for model in models):
            return Detected("llamacpp", _llamacpp(models, settings, props), names)
        if isinstance(ollama.get("version"), str):
            return Detected("ollama", await self._ollama(), names)
        if not isinstance(listed.get("data"), list):
            return None
        contexts = _told(models, "max_model_len", "context_length", "loaded_context_length")
        if any(model.get("owned_by") == "vllm" for model in models) or ("version" in version and contexts):
            return Detected("vllm", contexts, names)
        if not contexts:  # LM Studio tells the contexts of its loaded models on a route of its own
            more = await self._ask("/api/v0/models")
            contexts = _told(_objects(more.get("data")), "loaded_context_length")
        return Detected("compatible", contexts, names)

    async def _ollama(self) -> dict[str, int]:
        """The contexts of loaded models as they are, of others as their settings say; what neither tells is unknown:
        the server's default is told nowhere."""
        tags, loaded = await asyncio.gather(self._ask("/api/tags"), self._ask("/api/ps"))
        names = [name for model in _objects(tags.get("models")) if isinstance(name := model.get("name"), str)]
        contexts: dict[str, int] = {}
        for model in _objects(loaded.get("models")):
            _note(contexts, model.get("name"), model.get("context_length"))
        asked = [name for name in names if name not in contexts][:MAX_SHOWN]
        shown = await asyncio.gather(*[self._ask("/api/show", {"model": name}) for name in asked])
        for name, show in zip(asked, shown, strict=True):
            _note(contexts, name, _num_ctx(show))
        short = {name.removesuffix(":latest"): context for name, context in contexts.items()}
        return short | contexts

    async def _ask(self, path: str, body: Any = None) -> dict[str, Any]:
        """The JSON object that a route answers with; empty for any other answer and for none."""
        method = "GET" if body is None else "POST"
        try:
            async with self._session.request(
                    method, self._root + path, json=body, allow_redirects=False) as response:
                return await _read(response) if response.status == 200 else {}
        except _FAILURES:
            return {}


async def _read(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            return {}
    return _object(msgspec.json.decode(bytes(body)))


def _llamacpp(models: list[dict[str, Any]], settings: dict[str, Any], props: dict[str, Any]) -> dict[str, int]:
    """A slot's context, which is less than the whole where slots do not share one."""
    contexts: dict[str, int] = {}
    for model in models:
        _note(contexts, model["id"], _object(model.get("meta")).get("n_ctx"))
    if len(models) <= 1:  # with several, /props speaks of none of them
        for name in (props.get("model_alias"), *[model["id"] for model in models]):
            _note(contexts, name, settings.get("n_ctx"))
    return contexts


def _told(models: list[dict[str, Any]], *fields: str) -> dict[str, int]:
    contexts: dict[str, int] = {}
    for model in models:
        for field in reversed(fields):
            _note(contexts, model.get("id"), model.get(field))
    return contexts


def _note(contexts: dict[str, int], name: Any, context: Any) -> None:
    if isinstance(name, str) and name and isinstance(context, int) and not isinstance(context, bool) and context > 0:
        contexts[name] = context


def _num_ctx(show: dict[str, Any]) -> int | None:
    """The context in a model's own settings, but no more than it was trained for."""
    parameters = show.get("parameters")
    lines = parameters.splitlines() if isinstance(parameters, str) else []
    given = next((words[1] for line in lines if (words := line.split())[:1] == ["num_ctx"] and len(words) == 2), "")
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        return None
    trained = [
        value for name, value in _object(show.get("model_info")).items()
        if name.endswith(".context_length") and isinstance(value, int) and value > 0]
    return min([int(given), *trained])


def _object(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [cast(dict[str, Any], item) for item in cast(list[Any], value) if isinstance(item, dict)]
