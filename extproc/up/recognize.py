"""Which dialect the local servers of a configuration speak: asked of them, and told to the workers in a file."""

from __future__ import annotations

import asyncio

from extproc.config import GatewayConfig
from extproc.dialects import by_host
from extproc.runtime import Detected
from extproc.up.detect import detect

ASK_AGAIN = 15.0
"""Seconds until servers that did not answer are asked again."""


def unnamed(config: GatewayConfig) -> list[str]:
    """The local backends whose dialect neither the file nor their host tells."""
    return [
        name for name, backend in config.backends.items()
        if backend.location == "local" and backend.dialect is None and backend.schema_ in (None, "openai")
        and by_host(backend.base_url, "openai") is None
    ]


class Recognizer:
    """Asks each server once when a configuration is read, and again only when told to."""

    def __init__(self) -> None:
        self._answers: dict[str, Detected | None] = {}

    async def recognize(self, config: GatewayConfig, *, again: bool = False) -> dict[str, Detected]:
        """What the local servers of a configuration say of themselves, by backend; those that do not answer are left
        out. `again`: ask also those that did not answer before."""
        urls = {config.backends[name].base_url: config.backends[name].api_key for name in unnamed(config)}
        asked = [url for url in urls if url not in self._answers or (again and self._answers[url] is None)]
        told = await asyncio.gather(*[detect(url, urls[url]) for url in asked])
        self._answers |= dict(zip(asked, told, strict=True))
        return {
            name: said for name in unnamed(config)
            if (said := self._answers[config.backends[name].base_url]) is not None}
