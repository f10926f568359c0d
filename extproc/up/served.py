"""Backends that a gateway without a configuration starts itself: a model file with llama.cpp, and the demo's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from extproc.demo import cloud, llama_server
from extproc.up import ports
from extproc.up.children import Children
from extproc.up.discovery import Found
from extproc.up.errors import StartError


async def model(children: Children, path: Path) -> Found:
    """Serve a GGUF file. Raises StartError."""
    if not path.is_file():  # noqa: ASYNC240
        raise StartError(f"{path}: no such file; --local-model needs a GGUF file")
    return await _llamacpp(children, path, "qwen", path.stem, f"llama.cpp, {path.name}")


async def demo(children: Children, models: Path) -> list[Found]:
    """Start two stand-in clouds and a tiny model, whose file is made in `models`. Raises StartError."""
    from extproc.demo import tiny_qwen3  # what writes the file would slow every start

    path = models / "tiny-qwen3.gguf"
    await asyncio.to_thread(tiny_qwen3.ensure, path)
    found: list[Found] = []
    for name, dialect, url, listed, provider in (
        ("demo-claude", "anthropic", cloud.anthropic_url, "claude-sonnet-5", "anthropic"),
        ("demo-gpt", "openai", cloud.openai_url, "gpt-5.6", "openai"),
    ):
        port = ports.own()
        await children.start(name, cloud.command(port))
        found.append(Found(name, dialect, url(port), "cloud", listed, "demo-key", provider,
                           "demo stand-in, not a real cloud"))
    note = "demo: llama.cpp with a tiny fixed-answer model"
    return [*found, await _llamacpp(children, path, "demo-qwen", "tiny-qwen3", note)]


async def _llamacpp(children: Children, path: Path, name: str, alias: str, note: str) -> Found:
    port = ports.own()
    await children.start(name, llama_server.command(path, port, alias))
    return Found(name, "llamacpp", f"http://127.0.0.1:{port}/v1", "local", alias, note=note)
