"""Lua scripts as package data, called by their digests."""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files

from extproc.ledger.cluster import Door
from extproc.ledger.link import Reply, Word


class Script:
    """A Lua script, called by its digest; its text is sent only where the digest is unknown."""

    def __init__(
        self, name: str, keys: int, *parts: str, closes: bool = False, allow_oom: bool = False
    ) -> None:
        folder = files("extproc.ledger") / "lua"
        # Nothing could be released on a full server if closing were refused there.
        flags = "#!lua flags=allow-oom\n" if closes or allow_oom else "#!lua\n"
        names = ("base", *parts, *(("close",) if closes else ()), name)
        self.use(flags + "".join((folder / f"{part}.lua").read_text() for part in names))
        self.keys = keys

    def use(self, text: str) -> None:
        """Take this text from now on."""
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, link: Door, *words: Word, keys: int | None = None, durable: bool = False) -> asyncio.Future[Reply]:
        """Call the script; `durable`: its effect must survive a fail-over, else the future raises."""
        count = self.keys if keys is None else keys
        call = link.call_durable if durable else link.call
        return call(("EVALSHA", self.sha, count, *words), ("EVAL", self.text, count, *words))
