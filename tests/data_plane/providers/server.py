"""All stand-ins behind one loopback port: the first part of a path names the provider."""

from __future__ import annotations

import asyncio
import json
from typing import Protocol

from tests.data_plane.providers.answers import WrongError
from tests.data_plane.upstream import Script, Seen, Upstream


class Provider(Protocol):
    """A stand-in: judges a request and answers it. Raises WrongError for what the real one refuses."""

    name: str

    def answer(self, seen: Seen) -> Script:
        """The answer to a request; `seen.path` has no provider name any more."""
        ...


class Providers(Upstream):
    """A server that asks the stand-in for what no script is queued for; `refused` keeps what was judged wrong."""

    def __init__(self, *providers: Provider) -> None:
        self.providers = {provider.name: provider for provider in providers}
        self.refused: list[str] = []
        super().__init__()

    def reset(self) -> None:
        """Forget requests, scripts and refusals."""
        super().reset()
        self.refused.clear()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (r.partition(":") for r in rest)}
        method, path, _ = line.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        name, _, path = path.lstrip("/").partition("/")
        seen = Seen(name, method, "/" + path.partition("?")[0], headers, body)
        self.seen.append(seen)
        return await self._play(self._script(seen), writer)

    def _script(self, seen: Seen) -> Script:
        if self.scripts[seen.backend]:
            return self.scripts[seen.backend].popleft()
        if seen.backend in self.always:
            return self.always[seen.backend]
        try:
            return self.providers[seen.backend].answer(seen)
        except WrongError as wrong:
            self.refused.append(f"{seen.backend} {wrong.status} {wrong}")
            return Script(wrong.status, chunks=[json.dumps(wrong.body).encode()])
        except Exception as error:  # whatever a stand-in cannot read is a request that no provider could
            self.refused.append(f"{seen.backend} {error!r}: {seen.body[:2000]!r}")
            return Script(500, chunks=[b'{"error":{"message":"the stand-in could not read this request"}}'])
