"""The gRPC transport's writer."""

from __future__ import annotations

import asyncio
from typing import Any

from extproc.server.transport_grpc import _Channel  # pyright: ignore[reportPrivateUsage]


class Context:
    """A gRPC context whose writes take a while."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.free = asyncio.Event()

    async def write(self, message: bytes) -> None:
        """Write when the peer has room."""
        await self.free.wait()
        self.written.append(message)


async def test_send_returns_when_its_answers_are_written() -> None:
    """While another writer is at work, `send` waits for it: the stream may be ended right after."""
    context = Context()
    background: set[asyncio.Task[Any]] = set()
    channel = _Channel(context, background)
    channel.reply([b"first"])
    await asyncio.sleep(0)
    sending = asyncio.create_task(channel.send([b"last"]))
    await asyncio.sleep(0)
    assert not sending.done()
    context.free.set()
    await sending
    assert context.written == [b"first", b"last"]


async def test_failed_work_is_logged(caplog: Any) -> None:
    """Background work that fails leaves its traceback in the log."""
    channel = _Channel(Context(), set())

    async def fails() -> None:
        raise ValueError("broken")

    channel.later(fails())
    await asyncio.sleep(0.01)
    assert "broken" in caplog.text
