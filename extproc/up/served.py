"""Backends that a gateway without a configuration starts itself: a model file with llama.cpp, and the demo's."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from extproc.demo import cloud, llama_server
from extproc.up import ports
from extproc.up.children import Children
from extproc.up.discovery import Found
from extproc.up.errors import StartError

_log = logging.getLogger("extproc.up")


async def model(children: Children, path: Path) -> Found:
    """Serve a GGUF file. Raises StartError."""
    if not path.is_file():  # noqa: ASYNC240
        raise StartError(f"{path}: no such file; --local-model needs a GGUF file")
    if lacks := llama_server.missing():
        raise StartError(lacks)
    return await _llamacpp(children, path, "qwen", path.stem, f"llama.cpp, {path.name}")


async def demo(children: Children, models: Path) -> list[Found]:
    """Start two stand-in clouds and a tiny model, whose file is made in `models`; where llama.cpp cannot be loaded, a
    stand-in for that too. Raises StartError."""
    from extproc.demo import tiny_qwen3  # what writes the file would slow every start

    clouds = [await _stand_in(children, "demo-claude", "anthropic", "cloud", "claude-sonnet-5", "anthropic"),
              await _stand_in(children, "demo-gpt", "openai", "cloud", "gpt-5.6", "openai")]
    if lacks := llama_server.missing():
        _log.warning("%s; until then a stand-in serves as the local model", lacks)
        return [*clouds, await _stand_in(children, "demo-qwen", "compatible", "local", "tiny-qwen3", None)]
    path = models / "tiny-qwen3.gguf"
    await asyncio.to_thread(tiny_qwen3.ensure, path)
    note = "demo: llama.cpp with a tiny fixed-answer model"
    return [*clouds, await _llamacpp(children, path, "demo-qwen", "tiny-qwen3", note)]


async def _stand_in(children: Children, name: str, dialect: str, location: str, listed: str,
                    provider: str | None) -> Found:
    port = ports.own()
    await children.start(name, cloud.command(port))
    url = cloud.anthropic_url(port) if dialect == "anthropic" else cloud.openai_url(port)
    return Found(name, dialect, url, location, listed, "demo-key", provider,
                 f"demo stand-in, not a real {'cloud' if location == 'cloud' else 'model'}")


async def _llamacpp(children: Children, path: Path, name: str, alias: str, note: str) -> Found:
    port = ports.own()
    await children.start(name, llama_server.command(path, port, alias))
    return Found(name, "llamacpp", f"http://127.0.0.1:{port}/v1", "local", alias, note=note)
