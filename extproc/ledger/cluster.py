"""Doors to the store: one server, or a cluster routed by slot; both can wait for replicas.

Every ledger call may be repeated, so whatever a cluster does while it moves slots or fails over is answered by asking
for the map again and repeating the call, until the caller's patience ends.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Awaitable, Coroutine
from functools import lru_cache
from typing import Any, Literal, Protocol

from extproc.ledger.address import Address, nodes, parse
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.link import Link, Reply, StoreRefused, Word

SLOTS = 16_384
Wait = int | Literal["auto"]
"""How many replicas must confirm a hold: all that may be promoted. `auto`: as many as the server says it has."""
_RECOUNT_EVERY = 10.0
_PAUSE = 0.02
"""First pause before a repetition, in seconds; it doubles up to ten times this."""
_KEYLESS = {"PING", "TIME", "CONFIG", "SCRIPT", "INFO", "CLUSTER", "WAIT"}
_REDIRECT = re.compile(r"(MOVED|ASK) (\d+) (\S*):(\d+)")
_REFUSAL = re.compile(r"(?!(?:MOVED|TRYAGAIN|CLUSTERDOWN|READONLY|LOADING|MASTERDOWN)\b)[A-Z]{2,} ")
"""An error that a repetition would meet again."""


class NotReplicated(LedgerUnavailable):
    """The server took the call but too few replicas confirmed it: it may not survive a fail-over."""


class Door(Protocol):
    """What the ledger needs of a connection."""

    @property
    def connections(self) -> int:
        """Return how often a connection was made."""
        ...

    def greet_with(self, *words: Word) -> None:
        """Send this command on every new connection before anything else."""
        ...

    def call(self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None) -> asyncio.Future[Reply]:
        """Send a command; the future raises LedgerUnavailable, and nothing else."""
        ...

    def call_durable(
        self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None
    ) -> asyncio.Future[Reply]:
        """Send a command and wait for the replicas; the future raises NotReplicated if too few confirm."""
        ...

    async def each(self, words: tuple[Word, ...]) -> list[Reply]:
        """Send a command without a key to every primary."""
        ...

    async def close(self) -> None:
        """Let the queued calls end, then disconnect."""
        ...


def _detached(work: Coroutine[Any, Any, Reply], tasks: set[asyncio.Task[Any]]) -> asyncio.Future[Reply]:
    """Run work that goes on when whoever waits for its reply is cancelled."""
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[Reply] = loop.create_future()
    task = loop.create_task(work)
    tasks.add(task)

    def done(task: asyncio.Task[Reply]) -> None:
        tasks.discard(task)
        if task.cancelled():
            reply.cancel()
        elif (error := task.exception()) is not None:
            if not reply.done():
                reply.set_exception(error)
        elif not reply.done():
            reply.set_result(task.result())

    task.add_done_callback(done)
    return reply


class DurableLink(Link):
    """A Link that can wait for replicas in the same pipeline."""

    def __init__(self, url: str | Address, *, connect_timeout: float, call_timeout: float, wait: Wait = 0) -> None:
        super().__init__(url, connect_timeout=connect_timeout, call_timeout=call_timeout)
        self._wait = wait
        # Much shorter than the call's deadline, which would take the whole connection down: an idle server looks at
        # expired WAITs ten times a second.
        self._wait_ms = max(int(call_timeout * 500), 1)
        self._replicas = 0
        self._counted: tuple[int, float] | None = None
        self._durable: set[asyncio.Task[Any]] = set()

    def call_durable(
        self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None
    ) -> asyncio.Future[Reply]:
        """Send a command and WAIT right behind it, so that both take one round trip."""
        if self._wait == 0:
            return self.call(words, again)
        return _detached(self._confirmed(words, again), self._durable)

    async def _confirmed(self, words: tuple[Word, ...], again: tuple[Word, ...] | None) -> Reply:
        replicas = self._wait if isinstance(self._wait, int) else await self.replicas()
        if replicas == 0:
            return await self.call(words, again)
        # The text must not be sent behind the WAIT: it would not be covered.
        reply, acknowledged = self.call(words), self._waiting(replicas)
        try:
            value = await reply
        except LedgerUnavailable as exc:
            await asyncio.gather(acknowledged, return_exceptions=True)
            if again is None or not str(exc).startswith("NOSCRIPT"):
                raise
            reply, acknowledged = self.call(again), self._waiting(replicas)
            value = await reply
        if (count := await acknowledged) < replicas:
            raise NotReplicated(f"{count} of {replicas} replicas confirmed within {self._wait_ms} ms")
        return value

    def _waiting(self, replicas: int) -> asyncio.Future[Reply]:
        return self.call(("WAIT", replicas, self._wait_ms))

    async def replicas(self) -> int:
        """Return how many replicas the server says it has; asked again on new connections and now and then."""
        now = asyncio.get_running_loop().time()
        if self._counted is None or self._counted[0] != self.connections or now > self._counted[1]:
            info: bytes = await self.call(("INFO", "replication"))
            found = re.search(rb"connected_slaves:(\d+)", info)
            self._replicas = int(found[1]) if found else 0
            self._counted = (self.connections, now + _RECOUNT_EVERY)
        return self._replicas

    async def each(self, words: tuple[Word, ...]) -> list[Reply]:
        """Send a command to the one server."""
        return [await self.call(words)]

    async def close(self) -> None:
        """Let the queued calls end, then disconnect."""
        if self._durable:
            await asyncio.wait(self._durable)
        await super().close()


@lru_cache(maxsize=4096)
def slot_of(key: str) -> int:
    """Return the slot of a key: CRC16 of its hash tag, or of all of it."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


def _key_of(words: tuple[Word, ...]) -> str | None:
    name = words[0]
    if name in _KEYLESS:
        return None
    key = words[3] if name in ("EVALSHA", "EVAL") else words[1]
    return key.decode() if isinstance(key, bytes) else str(key)


class ClusterLink:
    """One Link per primary; `seeds` lead to the others, and all are talked to as the first one is."""

    def __init__(
        self,
        seeds: list[Address],
        *,
        connect_timeout: float,
        call_timeout: float,
        wait: Wait = 0,
        patience: float | None = None,
    ) -> None:
        self._timeouts = (connect_timeout, call_timeout)
        self._wait: Wait = wait
        self._patience = call_timeout if patience is None else patience
        self._seeds = [(seed.host, seed.port) for seed in seeds]
        self._template = seeds[0]
        self._greetings: list[tuple[Word, ...]] = []
        self._links: dict[tuple[str, int], DurableLink] = {}
        self._owners: list[tuple[str, int] | None] = [None] * SLOTS
        self._refused: StoreRefused | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def connections(self) -> int:
        """Return how often a connection to any node was made."""
        return sum(link.connections for link in self._links.values())

    def greet_with(self, *words: Word) -> None:
        """Send this command on every new connection before anything else."""
        self._greetings.append(words)

    def call(self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None) -> asyncio.Future[Reply]:
        """Send a command to the primary of its key's slot, repeated while the cluster rearranges itself."""
        return _detached(self._routed(words, again, durable=False), self._tasks)

    def call_durable(
        self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None
    ) -> asyncio.Future[Reply]:
        """Send a command and wait for the replicas of its primary."""
        return _detached(self._routed(words, again, durable=True), self._tasks)

    async def _routed(self, words: tuple[Word, ...], again: tuple[Word, ...] | None, *, durable: bool) -> Reply:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience, _PAUSE
        key = _key_of(words)
        slot = None if key is None else slot_of(key)
        redirects = 0
        while True:
            try:
                link = await self._link_for(slot)
                return await (link.call_durable if durable else link.call)(words, again)
            except (NotReplicated, StoreRefused):
                raise
            except LedgerUnavailable as exc:
                error, redirect = exc, _REDIRECT.match(str(exc))
            # An aborted connection hands its reason, a redirection of another slot, to all who waited there.
            if redirect is not None and slot is not None and int(redirect[2]) == slot and redirects < 5:
                redirects += 1
                target = (redirect[3] or self._seeds[0][0], int(redirect[4]))
                if redirect[1] == "MOVED":
                    self._owners[slot] = target
                    self._refresh()
                    continue
                try:
                    return await self._asking(target, words, again)
                except LedgerUnavailable as exc:
                    error = exc
            if _REFUSAL.match(str(error)) and not str(error).startswith("ASK "):
                raise error
            if loop.time() + pause > deadline:
                raise error
            self._refresh()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE * 10)

    async def _asking(
        self, target: tuple[str, int], words: tuple[Word, ...], again: tuple[Word, ...] | None
    ) -> Reply:
        # Both in one tick: ASKING holds for the next command of the connection only.
        link = self._link(target)
        asking, reply = link.call(("ASKING",)), link.call(words)
        results = await asyncio.gather(asking, reply, return_exceptions=True)
        if again is not None and isinstance(results[1], LedgerUnavailable) and "NOSCRIPT" in str(results[1]):
            return await self._asking(target, again, None)
        if isinstance(results[1], BaseException):
            raise results[1]
        return results[1]

    async def _link_for(self, slot: int | None) -> DurableLink:
        if self._owners[slot or 0] is None:
            await asyncio.shield(self._refresh())
        owner = self._owners[slot or 0]
        if owner is None:
            raise self._nobody("no connection: no node of the cluster tells who serves this slot")
        return self._link(owner)

    def _nobody(self, text: str) -> LedgerUnavailable:
        """Why there is no map: nodes that refuse us know it, but do not tell."""
        return LedgerUnavailable(text) if self._refused is None else StoreRefused(str(self._refused))

    def _link(self, address: tuple[str, int]) -> DurableLink:
        link = self._links.get(address)
        if link is None:
            link = DurableLink(
                self._template.at(*address), connect_timeout=self._timeouts[0], call_timeout=self._timeouts[1],
                wait=self._wait,
            )
            for words in self._greetings:
                link.greet_with(*words)
            self._links[address] = link
        return link

    def _refresh(self) -> asyncio.Task[None]:
        """Read the map again; one reading at a time serves all."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._read_map())
            self._tasks.add(self._refreshing)
            self._refreshing.add_done_callback(self._tasks.discard)
        return self._refreshing

    async def _read_map(self) -> None:
        self._refused = None
        for address in dict.fromkeys([*self._links, *self._seeds]):
            try:
                ranges: list[Any] = await self._link(address).call(("CLUSTER", "SLOTS"))
            except LedgerUnavailable as exc:
                # The next node knows as well; where none does, the caller's own call fails.
                self._refused = exc if isinstance(exc, StoreRefused) else self._refused
                continue
            if not ranges:
                continue
            for first, last, primary, *_ in ranges:
                host = primary[0].decode() if primary[0] else address[0]
                owner = (host, int(primary[1]))
                self._owners[first : last + 1] = [owner] * (last + 1 - first)
            return

    async def each(self, words: tuple[Word, ...]) -> list[Reply]:
        """Send a command to every primary."""
        if self._owners[0] is None:
            await asyncio.shield(self._refresh())
        primaries = {owner for owner in self._owners if owner is not None}
        if not primaries:
            raise self._nobody("no connection: no node of the cluster answers")
        calls: list[Awaitable[Reply]] = [self._link(owner).call(words) for owner in sorted(primaries)]
        return list(await asyncio.gather(*calls))

    async def close(self) -> None:
        """Let the queued calls end, then disconnect from all nodes."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(link.close() for link in self._links.values()))


def open_door(
    url: str, *, connect_timeout: float, call_timeout: float, wait: Wait = 0, patience: float | None = None
) -> DurableLink | ClusterLink:
    """Return the door of an address: `redis+cluster://user:password@host:port,host:port` is a cluster.

    `patience`: how long calls are repeated while a cluster rearranges itself, in seconds; default: a call's deadline.
    Raises AddressRefused.
    """
    seeds = nodes(url)
    if seeds is None:
        return DurableLink(parse(url), connect_timeout=connect_timeout, call_timeout=call_timeout, wait=wait)
    return ClusterLink(
        seeds, connect_timeout=connect_timeout, call_timeout=call_timeout, wait=wait, patience=patience
    )
