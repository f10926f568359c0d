"""Short chaos over the embedded server and the twin; and the proof that the driver can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from tests.chaos.driver import Chaos
from tests.chaos.mutations import MUTATIONS, checking_keys, mutated
from tests.contract.ledger_servers import SURE, Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    own = Server("valkey", *SURE)
    yield own
    own.remove()


def play(url: str | None, requests: int, **options: bool) -> Chaos:
    """Run chaos to its end."""

    async def run() -> Chaos:
        store = MemoryTreasury() if url is None else RedisTreasury(url, connect_timeout=2, call_timeout=5)
        chaos = Chaos(store, requests, **options)
        await chaos.run()
        await store.close()
        return chaos

    return asyncio.run(run())


@pytest.mark.parametrize("lying", [False, True])
def test_server(server: Server, lying: bool) -> None:
    """2,000 requests with every way to die, stall and repeat break no invariant; lying providers only make debt."""
    chaos = play(server.url, 2000, lying=lying)
    assert chaos.violations == [], chaos.report()
    assert chaos.missing() == [], chaos.report()


def test_keys_are_declared(server: Server) -> None:
    """No script touches a key that is not in KEYS, whatever happens."""
    with checking_keys():
        chaos = play(server.url, 1000)
    assert chaos.violations == [], chaos.report()


def test_twin() -> None:
    """The same chaos breaks no invariant of the memory twin."""
    chaos = play(None, 2000)
    assert chaos.violations == [], chaos.report()
    assert chaos.missing() == [], chaos.report()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutation_is_noticed(server: Server, mutation: str) -> None:
    """The driver fails when this guarantee is taken out of the scripts."""
    with mutated(mutation):
        chaos = play(server.url, 2000, hasty=True)
    assert chaos.violations, chaos.report()
