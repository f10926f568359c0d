"""The ledger on a cluster of three primaries with replicas: routing, moving slots, fail-over."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator

import pytest

from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import ClusterLink, DurableLink, open_door, slot_of
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import TrueUp
from tests.contract.ledger_kit import Desk, gcra, make_rid, usd, used
from tests.contract.ledger_servers import Cluster, Node


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    own = Cluster()
    yield own
    own.remove()


def connect(cluster: Cluster, **options: object) -> RedisTreasury:
    return RedisTreasury(cluster.url, **({"connect_timeout": 2, "call_timeout": 2, "patience": 8} | options))  # pyright: ignore


def door(store: RedisTreasury) -> ClusterLink:
    assert isinstance(store.door, ClusterLink)
    return store.door


async def orgs_by_node(cluster: Cluster, count: int) -> dict[int, list[str]]:
    """Return names of orgs by the port that serves them, so many for each."""
    found: dict[int, list[str]] = {}
    for number in itertools.count():
        org = f"org{number}"
        names = found.setdefault((await cluster.owner(slot_of(f"{{{org}}}:e"))).port, [])
        names.append(org)
        if len(found) == len(cluster.primaries) and all(len(names) >= count for names in found.values()):
            return found
    raise AssertionError


def test_slots() -> None:
    """A key's slot is that of its hash tag; the values are those of the cluster specification."""
    assert (slot_of("123456789"), slot_of("{user1000}.following")) == (0x31C3, slot_of("user1000"))
    assert slot_of("foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")


def test_urls() -> None:
    """A cluster's URL names seeds, credentials and TLS; any other URL is one server."""
    one = open_door("redis://h:1", connect_timeout=1, call_timeout=1)
    many = open_door("rediss+cluster://u:p@h1:7001,h2:7002/?ssl_cert_reqs=none", connect_timeout=1, call_timeout=1)
    assert isinstance(one, DurableLink)
    assert isinstance(many, ClusterLink)
    assert many._seeds == [("h1", 7001), ("h2", 7002)]  # pyright: ignore
    link = many._link(("h9", 9))  # pyright: ignore
    address = link._address  # pyright: ignore
    assert (address.host, address.port, address.user, address.password) == ("h9", 9, "u", "p")
    assert address.tls is not None


async def test_all_primaries_serve(cluster: Cluster) -> None:
    """Orgs are spread over the primaries, each with all its keys on one of them; sweepers see all orgs."""
    store = connect(cluster)
    by_node = await orgs_by_node(cluster, 2)
    for org in itertools.chain(*by_node.values()):
        desk = Desk(store, org)
        await desk.publish()
        rid = await desk.open(10, usd())
        await desk.begin(rid, 1, 10)
        await desk.end(rid, 1, 7, usd())
        await desk.check_rest()
        assert (await store.take(org, rid, (gcra(),))).code == "OK"
    assert set(itertools.chain(*by_node.values())) <= set(await store.orgs())
    await store.close()


async def test_stale_map(cluster: Cluster) -> None:
    """A map that is wrong in every slot is corrected by what the nodes answer, without an error to the caller."""
    store = connect(cluster)
    for number in range(6):
        desk = Desk(store, f"stale{number}")
        await desk.publish()
        owners = door(store)._owners  # pyright: ignore
        first = owners[0]
        owners[:] = [next(owner for owner in set(owners) if owner != first)] * len(owners)
        await asyncio.gather(*(desk.open(1, usd()) for _ in range(20)))
        assert await desk.state() == (0, 20, 0)
    await store.close()


@pytest.mark.parametrize("wait", [0, "auto"])
async def test_scripts_forgotten(cluster: Cluster, wait: int | str) -> None:
    """Nodes that lost their scripts are sent them once; with replicas to wait for as well."""
    store = connect(cluster, wait=wait)
    desk = Desk(store, f"flush{wait}")
    await desk.publish()
    rid = await desk.open(10, usd())
    for node in cluster.primaries:
        await node.call("SCRIPT", "FLUSH")
    await desk.begin(rid, 1, 10)
    await desk.open(5, usd())
    await desk.end(rid, 1, 7, usd())
    assert await desk.state() == (7, 5, 0)
    await store.close()


async def _move_slot(slot: int, source: Node, target: Node, pause: float) -> None:
    """Move a slot with its keys, slowly, as an operator's tool does."""
    await target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    await source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    while True:
        keys = await source.call("CLUSTER", "GETKEYSINSLOT", slot, 3)
        if not keys:
            break
        await source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        await asyncio.sleep(pause)
    await target.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    await source.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)


async def test_slot_moves_under_load(cluster: Cluster) -> None:
    """While a slot moves with its keys (MOVED, ASK, TRYAGAIN), requests of its org are charged once each."""
    store = connect(cluster)
    desk = Desk(store, "moving")
    await desk.publish()
    slot = slot_of("{moving}:e")
    source = await cluster.owner(slot)
    target = next(node for node in cluster.primaries if node is not source)
    done = 0

    async def requests() -> None:
        nonlocal done
        for _ in range(12):
            rid = await desk.open(10, usd(limit=100_000))
            await desk.begin(rid, 1, 10)
            await desk.end(rid, 1, 7, usd(limit=100_000))
            done += 1
            await asyncio.sleep(0.03)

    loads = [asyncio.ensure_future(requests()) for _ in range(10)]
    await asyncio.sleep(0.05)
    await _move_slot(slot, source, target, 0.02)
    await asyncio.gather(*loads)
    assert (await cluster.owner(slot)) is target
    assert await desk.state() == (done * 7, 0, 0)
    assert done == 120
    await desk.check_rest()
    await store.close()


async def test_a_share_is_taken_once(cluster: Cluster) -> None:
    """A primary that stands still has the call and its repetitions in its sockets, and executes all of them."""
    store = connect(cluster, call_timeout=0.1)
    limit, rid = gcra("frozen", limit=600, burst=3), make_rid()
    assert (await store.take("x", rid, (limit,))).code == "OK"  # connects
    await store.give_back("x", rid, (TrueUp.of(limit, 0),))
    owner, rid = await cluster.owner(slot_of("{be:x}:g:frozen")), make_rid()
    owner.signal(signal.SIGSTOP)
    try:
        taking = asyncio.ensure_future(store.take("x", rid, (limit,)))
        await asyncio.sleep(0.6)
    finally:
        owner.signal(signal.SIGCONT)
    assert (await taking).code == "OK"
    codes = [(await store.take("x", make_rid(), (limit,))).code for _ in range(3)]
    assert codes == ["OK", "OK", "LIMIT"]
    await store.close()


async def test_asked_elsewhere(cluster: Cluster) -> None:
    """Of a slot whose keys have left but which is not handed over, ASK serves what exists; new keys wait for it."""
    store = connect(cluster)
    desk = Desk(store, "asking")
    await desk.publish()
    slot = slot_of("{asking}:e")
    source = await cluster.owner(slot)
    target = next(node for node in cluster.primaries if node is not source)
    await target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    await source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    keys = await source.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
    await source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    assert await store.table("asking") == (desk.epoch, b"table")
    key = "{asking}:e"
    assert await store.door.call(("EVALSHA", "0" * 40, 1, key), ("EVAL", "return #KEYS", 1, key)) == 1
    reserving = asyncio.ensure_future(store.reserve("asking", make_rid(), b""))
    await asyncio.sleep(0.1)
    assert not reserving.done()  # TRYAGAIN: a new reservation is a key that neither node has
    for node in (target, source):
        await node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    assert await reserving == "OK"
    await store.close()


async def test_replicas_are_told(cluster: Cluster) -> None:
    """check() warns where replicas exist that no call waits for, and not where all are waited for."""
    for wait, warning in ((0, "no call waits"), (1, None), ("auto", None)):
        store = connect(cluster, wait=wait)
        found = await store.check()
        assert (found is None) if warning is None else warning in str(found)
        await store.close()
    too_many = connect(cluster, wait=5)
    with pytest.raises(LedgerUnavailable, match="1 of 5"):
        await too_many.reserve("greedy", make_rid(), b"")
    assert [record.state for record in await too_many.records("greedy")] == ["unsent"]
    await too_many.close()


async def test_primary_killed_under_load(cluster: Cluster) -> None:
    """A killed primary's replica takes over within seconds: with WAIT no acknowledged hold is lost, none twice."""
    store = connect(cluster, wait="auto", call_timeout=1, patience=15)
    desk = Desk(store, "killed")
    await desk.publish()
    victim = await cluster.owner(slot_of("{killed}:e"))
    held: list[bytes] = []

    async def reserves() -> None:
        for _ in range(40):
            try:
                held.append(await desk.open(1, usd(limit=100_000)))
            except LedgerUnavailable:  # not confirmed by the replica: not granted
                continue
            await asyncio.sleep(0.005)

    loads = [asyncio.ensure_future(reserves()) for _ in range(8)]
    await asyncio.sleep(0.1)
    acknowledged, started = len(held), time.monotonic()
    victim.kill()
    await asyncio.gather(*loads)
    assert 0 < acknowledged < len(held)
    assert time.monotonic() - started < 15
    assert (await cluster.owner(slot_of("{killed}:e"))) in cluster.replicas
    codes = await asyncio.gather(*(store.end("killed", rid, 1, used(1, 1), final=True) for rid in held))
    assert set(codes) == {"DONE"}
    spent, _, debt = await desk.state()
    assert (spent, debt) == (len(held), 0)
    await store.close()


async def test_nobody_there() -> None:
    """Seeds that do not answer are LedgerUnavailable after the patience, and closing still works."""
    store = RedisTreasury("redis+cluster://127.0.0.1:1,127.0.0.1:2", patience=0.1)
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="no connection"):
        await store.reserve("o", make_rid(), b"")
    with pytest.raises(LedgerUnavailable, match="no connection"):
        await store.check()
    assert time.monotonic() - started < 1.5
    await store.close()
