"""The stores of the contract suite: the memory twin, one server of each kind, a cluster."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from tests.contract.ledger_kit import SERVERS, Desk, Store
from tests.contract.ledger_servers import Cluster, Place, Server


@pytest.fixture(scope="session", params=["memory", *SERVERS, "cluster"])
def place(request: pytest.FixtureRequest) -> Iterator[Place | None]:
    server = None if request.param == "memory" else Cluster() if request.param == "cluster" else Server(request.param)
    yield server
    if server is not None:
        server.remove()


@pytest.fixture
async def ledger(place: Place | None) -> AsyncIterator[Store]:
    # Deadlines of this suite are generous where it is not about them: CI machines stall.
    store = MemoryTreasury() if place is None else RedisTreasury(place.url, connect_timeout=2, call_timeout=5)
    yield store
    await store.close()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own for a test that harms it."""
    own = Server(request.param)
    yield own
    own.remove()


@pytest.fixture
def org() -> str:
    return uuid.uuid4().hex[:12]


@pytest.fixture
async def desk(ledger: Store, org: str) -> Desk:
    """An org with a budget table in force."""
    made = Desk(ledger, org)
    await made.publish()
    return made
