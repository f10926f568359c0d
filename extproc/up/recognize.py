"""Which dialect the local servers of a configuration speak: asked of them, and told to the workers in a file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from extproc.config import GatewayConfig
from extproc.dialects import by_host
from extproc.runtime import Detected
from extproc.up.detect import detect

FILE = "detected.json"
ASK_AGAIN = 15.0
"""Seconds until servers that did not answer are asked again."""
_DECODER = msgspec.json.Decoder(dict[str, Detected])


def unnamed(config: GatewayConfig) -> list[str]:
    """The local backends whose dialect neither the file nor their host tells."""
    return [
        name for name, backend in config.backends.items()
        if backend.location == "local" and backend.dialect is None and backend.schema_ in (None, "openai")
        and by_host(backend.base_url, "openai") is None
    ]


async def recognize(config: GatewayConfig, known: Mapping[str, Detected]) -> dict[str, Detected]:
    """What is known already of the configuration's local servers, and what the others say now."""
    names = unnamed(config)
    asked = [name for name in names if name not in known]
    told = await asyncio.gather(
        *[detect(config.backends[name].base_url, config.backends[name].api_key) for name in asked])
    found = {name: known[name] for name in names if name in known}
    return found | {name: said for name, said in zip(asked, told, strict=True) if said is not None}


def write(folder: Path, detected: Mapping[str, Detected]) -> None:
    """Put the file beside the configuration that the workers read, whole or not at all."""
    temporary = folder / f".{FILE}.new"
    temporary.write_bytes(msgspec.json.encode(detected))
    temporary.rename(folder / FILE)


def read(config: Path) -> dict[str, Detected]:
    """What was written beside a configuration; nothing when no local server was asked."""
    path = config.with_name(FILE)
    return _DECODER.decode(path.read_bytes()) if path.is_file() else {}
