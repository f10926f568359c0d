"""One pipelined connection to Redis or Valkey: what gathers within a loop tick goes out in one write.

hiredis packs and parses; the connection itself is ours, because a call through redis.asyncio costs several times the
CPU (bench/ledger.py) and its pipelines are built by one caller.

Replies come in the order of the commands, so the waiters form a queue. A caller that goes away leaves its
waiter there to swallow its reply; a late reply ends the connection. So no reply can answer another call.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from extproc.ledger.address import Address, parse
from extproc.ledger.base import LedgerUnavailable

Word = bytes | str | int
Reply = Any

_pack = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)  # its stub allows one word only

_MOVED_AWAY = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED")
"""Errors that another connection may not give: after a fail-over the address leads to the new primary."""
_NOT_ALLOWED = re.compile(
    r"NOAUTH\b|WRONGPASS\b|NOPERM\b|ERR AUTH\b|ERR Client sent AUTH\b|ERR invalid password|"
    r".*(ACL failure in script|user executing the script can't)")


class StoreRefused(LedgerUnavailable):
    """The store answers, but not to us: the password is wrong, a right is missing, or its certificate is not trusted.

    Time heals none of these. The text never has the password.
    """


def _failure(reason: str) -> LedgerUnavailable:
    return StoreRefused(f"refused: {reason}") if _NOT_ALLOWED.match(reason) else LedgerUnavailable(reason)


class Call:
    """One command and whoever waits for its reply. `again` replaces it, once, if the script is unknown."""

    __slots__ = ("again", "due", "reply", "words")

    def __init__(
        self, words: tuple[Word, ...], reply: asyncio.Future[Reply], again: tuple[Word, ...] | None
    ) -> None:
        self.words = words
        self.reply = reply
        self.again = again
        self.due = 0.0

    def fail(self, reason: str, cause: BaseException | None = None) -> None:
        if not self.reply.done():
            error = StoreRefused(reason) if isinstance(cause, StoreRefused) else _failure(reason)
            error.__cause__ = cause
            self.reply.set_exception(error)


class _Wire(asyncio.Protocol):
    """The queue of waiters of one established connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call_timeout: float) -> None:
        self._loop = loop
        self._call_timeout = call_timeout
        self._reader = hiredis.Reader()
        self._waiting: deque[Call] = deque()
        self._watchdog: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self.reason = "connection lost"

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, calls: Sequence[Call]) -> None:
        if self._transport is None or self._transport.is_closing():
            for call in calls:
                call.fail(self.reason)
            return
        due = self._loop.time() + self._call_timeout
        for call in calls:
            call.due = due
        self._waiting.extend(calls)
        self._transport.write(b"".join([_pack(call.words) for call in calls]))
        if self._watchdog is None:
            self._watchdog = self._loop.call_at(due, self._check_head)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets = self._reader.gets
        try:
            while (reply := gets()) is not False:
                self._settle(self._waiting.popleft(), reply)
        except (hiredis.ProtocolError, IndexError) as exc:
            self.abort(f"broken reply: {exc}")

    def _settle(self, call: Call, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if call.again is not None and text.startswith("NOSCRIPT"):
                call.words, call.again = call.again, None
                self.send([call])
                return
            call.fail(text, reply)
            if text.startswith(_MOVED_AWAY):
                self.abort(text)
        elif not call.reply.done():
            call.reply.set_result(reply)

    def _check_head(self) -> None:
        # One timer per connection: all calls wait equally long, so the oldest misses its deadline first.
        self._watchdog = None
        if not self._waiting:
            return
        due = self._waiting[0].due
        if due <= self._loop.time():
            self.abort(f"no reply within {self._call_timeout * 1000:.0f} ms")
        else:
            self._watchdog = self._loop.call_at(due, self._check_head)

    def abort(self, reason: str) -> None:
        self.reason = reason
        if self._transport is not None:
            self._transport.abort()
        self._fail_all()

    def _fail_all(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        while self._waiting:
            self._waiting.popleft().fail(self.reason)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.reason = f"{self.reason}: {exc}"
        self._fail_all()
        if not self.lost.done():
            self.lost.set_result(None)


class Link:
    """Connects when first used and again after each failure; never waits longer than its two deadlines."""

    def __init__(self, url: str | Address, *, connect_timeout: float, call_timeout: float) -> None:
        """Raises AddressRefused."""
        self._address = parse(url) if isinstance(url, str) else url
        self._connect_timeout = connect_timeout
        self._call_timeout = call_timeout
        self._greeting: list[tuple[Word, ...]] = self._authentication()
        self._pending: list[Call] = []
        self._flushing = False
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.connections = 0
        """How often it has connected; what a server should be told once per connection compares this."""

    def _authentication(self) -> list[tuple[Word, ...]]:
        words: list[tuple[Word, ...]] = []
        user, password = self._address.user, self._address.password
        if password is not None:
            words.append(("AUTH", user, password) if user else ("AUTH", password))
        if self._address.db:
            words.append(("SELECT", self._address.db))
        return words

    def greet_with(self, *words: Word) -> None:
        """Send this command on every new connection before anything else."""
        self._greeting.append(words)

    def call(self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None) -> asyncio.Future[Reply]:
        """Queue a command; it is sent even if nobody waits for the returned future any more.

        The future raises LedgerUnavailable, and nothing else.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        self._pending.append(Call(words, reply, again))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return reply

    def _flush(self) -> None:
        if self._wire is not None and self._wire.usable:
            self._flushing = False
            calls, self._pending = self._pending, []
            self._wire.send(calls)
        else:
            # _flushing stays set: later calls join the queue that the connecting task sends or fails.
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        wire, reason, cause = None, "closed", None
        try:
            async with asyncio.timeout(self._connect_timeout):
                wire = await self._open()
        except TimeoutError as exc:
            reason, cause = f"no connection within {self._connect_timeout * 1000:.0f} ms", exc
        except LedgerUnavailable as exc:
            reason, cause = str(exc), exc
        except ssl.SSLCertVerificationError as exc:
            reason = f"no connection: its certificate is not trusted: {exc.verify_message}"
            cause = StoreRefused(reason)
        except ssl.SSLError as exc:
            reason, cause = f"no connection by TLS: {exc.reason or exc}", exc
        except OSError as exc:
            reason, cause = f"no connection: {exc}", exc
        finally:
            self._flushing = False
            calls, self._pending = self._pending, []
            self._wire = wire
            if wire is not None:
                self.connections += 1
                wire.send(calls)
            else:
                for call in calls:
                    call.fail(reason, cause)

    async def _open(self) -> _Wire:
        loop = asyncio.get_running_loop()
        wire = _Wire(loop, self._call_timeout)
        address = self._address
        if address.path:
            await loop.create_unix_connection(lambda: wire, address.path)
        else:
            await loop.create_connection(lambda: wire, address.host, address.port, ssl=address.tls)
        greeting = [Call(words, loop.create_future(), None) for words in self._greeting]
        try:
            wire.send(greeting)
            await asyncio.gather(*(call.reply for call in greeting))
        except BaseException:
            wire.abort("greeting refused")
            raise
        return wire

    async def close(self) -> None:
        """Let the queued calls end (within their deadlines), then disconnect."""
        if self._flushing or self._wire is not None:
            # What was sent before it is done when it is answered, waited for or not.
            with contextlib.suppress(LedgerUnavailable):
                await self.call(("PING",))
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort("closed")
            await wire.lost
