"""Who may use the store, and over which connection: TLS, users and their rights; every refusal is one clear line."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from extproc.cli import main
from extproc.core.identity import Caller
from extproc.ledger import access
from extproc.ledger.access import OPERATOR, WORKER, acl, missing, verify
from extproc.ledger.address import AddressRefused, parse, place_of, shown
from extproc.ledger.base import LedgerMisconfigured, LedgerUnavailable
from extproc.ledger.cluster import open_door
from extproc.ledger.export import START, Log
from extproc.ledger.keys import KeyStore
from extproc.ledger.link import StoreRefused
from extproc.ledger.redis_treasury import RedisTreasury
from tests.contract.ledger_kit import DAY, ROW, Desk, gcra, make_rid, usd
from tests.contract.ledger_servers import Cluster, Node, Server, binary
from tests.contract.secure_servers import ENCODED, PASSWORD, Relay, Secure, tell
from tests.free_ports import free_port

DEADLINE = 8.0
"""Seconds in which every refusal must have come."""


# ---------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://h", ("h", 6379, "", "", None, 0)),
        ("redis://h:1/3", ("h", 1, "", "", None, 3)),
        ("redis://h:1/?db=3", ("h", 1, "", "", None, 3)),
        (f"redis://u:{ENCODED}@h:1/0", ("h", 1, "", "u", PASSWORD, 0)),
        (f"redis://u:{PASSWORD}@h:1/0", ("h", 1, "", "u", PASSWORD, 0)),
        ("redis://:p@[::1]:1", ("::1", 1, "", "", "p", 0)),
        ("unix:///a/b.sock?db=2", ("localhost", 6379, "/a/b.sock", "", None, 2)),
        ("unix://u:p@/a/b.sock", ("localhost", 6379, "/a/b.sock", "u", "p", 0)),
    ],
)
def test_addresses(url: str, seen: tuple[Any, ...]) -> None:
    """An address has host or path, user, password (percent-encoded or not) and database."""
    one = parse(url)
    assert (one.host, one.port, one.path, one.user, one.password, one.db) == seen
    assert one.tls is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret", "redis://u:s3cret@h:99999", "redis://u:s3cret?x@h", "rediss://u:s3cret@h?ca=/no/such.pem",
        "rediss://u:s3cret@h?verify=no", "redis://u:s3cret@h?ca=x", "rediss://u:s3cret@h?cafile=x", "http://u:s3cret@h",
        "rediss://u:s3cret@h?cert=/no/such.pem", "redis://u:s3cret@h/a", "rediss://u:s3cret@h?ca", "unix://",
        "redis+cluster://u:s3cret@h:1,h:2/3",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    """What cannot be an address is refused in words that do not have the password."""
    with pytest.raises(AddressRefused) as refused:
        open_door(url, connect_timeout=1, call_timeout=1)
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in shown(f"{url}@h" if "@" not in url else url)


@pytest.mark.parametrize(("place", "urls"), [
    ("redis://h:6379/0", ["redis://h", "redis://H/0", "redis://u:a@h:6379/", f"redis://u:{ENCODED}@h?db=0"]),
    ("redis://h:6379/1", ["redis://h/1", "redis://h?db=01"]),
    ("rediss://h:1/1", ["rediss://u:a@h:1/1?ca=/a/b@c.pem", "rediss://:b@h:1?verify=none&db=1"]),
    ("redis://[::1]:6379/0", ["redis://[::1]", "redis://:p@[::1]:6379/0"]),
    ("unix:///s", ["unix:///s", "unix://u:p@/s?db=0"]), ("unix:///s?db=2", ["unix://:q@/s?db=2"]),
    ("redis+cluster://a:1,b:6379", ["redis+cluster://u:a@a:1,b", "redis+cluster://b:6379,a:1/0"]),
])
def test_a_store_is_told_by_its_place(place: str, urls: list[str]) -> None:
    """What was seen in a store, and waits for it, goes on with it under a new password and another spelling of its
    address; another place or database is another store."""
    assert {place_of(url) for url in urls} == {place}


def test_trust_is_the_default() -> None:
    """With rediss:// the certificate and its name are checked unless the address says else; redis-py's names serve."""
    checked, unchecked = parse("rediss://h").tls, parse("rediss://h?ssl_cert_reqs=none").tls
    assert checked is not None
    assert checked.check_hostname
    assert checked.verify_mode is ssl.CERT_REQUIRED
    assert unchecked is not None
    assert unchecked.verify_mode is ssl.CERT_NONE


# ---------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.skipif(
    binary("redis") is None, reason="no redis-server here"))])
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    own = Secure(request.param, tmp_path_factory.mktemp("tls"))
    yield own
    own.remove()


async def main_path(store: RedisTreasury, org: str) -> None:
    """What a worker does: publish, reserve, begin, end, renew, finish, sweep, shared limits, cached answers, keys."""
    desk = Desk(store, org)
    await desk.publish()
    rid = await desk.open(10, usd())
    await desk.begin(rid, 1, 10)
    await store.renew(org, [rid])
    await desk.end(rid, 1, 7, usd())
    unsent = await desk.open(10, usd())
    await store.finish(org, unsent)
    await desk.reserve(make_rid(), budgets=(usd(),), lease=0)
    assert await store.sweep(org) == 1
    await store.note(org, make_rid(), b"", ROW, (gcra("x"),))
    assert (await store.take("be:local", make_rid(), (gcra("x"),))).code == "OK"
    assert await KeyStore(store.door).get(b"0" * 32) is None
    assert org in await store.orgs()


async def test_all_calls_over_tls(secure: Secure, org: str) -> None:
    """The main path of the contract holds over TLS as a user with the documented rights; so do the operators' calls."""
    store = RedisTreasury(secure.url(), connect_timeout=2, call_timeout=5)
    await main_path(store, org)
    await Desk(store, org).check_rest()
    key = secrets.token_hex(32)
    assert await KeyStore(store.door).create(key, Caller(org=org, key=f"k-{org}")) == "DONE"
    assert await KeyStore(store.door).revoke(key) == "DONE"
    await store.adjust(org, make_rid(), b"", ROW, (usd(),), -1)
    log = Log(store)
    await log.acknowledge(org, "export", START, (await log.stream(org)).last)
    await log.trim(org, "export")
    assert await store.rollups(org, DAY)
    await store.close()
    assert await verify(secure.url(), org) == []


REFUSALS = {
    "other ca": (f"gateway:{ENCODED}@", "?ca={other}", "certificate is not trusted"),
    "the system's": (f"gateway:{ENCODED}@", "", "certificate is not trusted"),
    "wrong password": ("gateway:wr0ng@", "?ca={ca}", "WRONGPASS"),
    "no such user": ("nobody:wr0ng@", "?ca={ca}", "WRONGPASS"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_at_once(secure: Secure, case: str, tmp_path: Path) -> None:
    """A foreign certificate and a wrong password end calls, the start and commands soon, without the password."""
    user, query, says = REFUSALS[case]
    url = secure.url(user, query.format(ca=secure.ca, other=secure.other))
    began = time.monotonic()
    with pytest.raises(StoreRefused, match=says) as refused:
        asyncio.run(verify(url, "default"))
    told = [str(refused.value)]
    for words in (("publish", "-c", str(_gateway(tmp_path))), ()):
        result = _budgets(url, *words)
        assert result.exit_code == 1
        assert re.search(says, result.stderr), result.stderr
        assert result.stderr.count("\n") == 1
        told.append(result.output)
    assert time.monotonic() - began < DEADLINE
    assert not any(part in text for text in told for part in (PASSWORD, ENCODED, "wr0ng"))


def _gateway(folder: Path) -> Path:
    path = folder / "gateway.yaml"
    path.write_text('backends: {b: {schema: openai, base_url: "http://127.0.0.1:9/v1", location: local, models: '
                    "{m: {context: 1000}}}}\nchains: {local: [b/m], cloud: [b/m]}\n"
                    "budgets: [{for: {team: web}, usd: 1, per: day}]\n")
    return path


def _budgets(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["budgets", *words, "--redis-url", url])


def test_publish_over_tls(secure: Secure, tmp_path: Path, org: str) -> None:
    """The command line reaches a store over TLS by its address alone."""
    result = _budgets(secure.url(), "publish", "-c", str(_gateway(tmp_path)), "--org", org)
    assert (result.exit_code, "1 budgets in force" in result.stderr) == (0, True), result.output


def test_plain_and_tls_mixed_up(secure: Secure) -> None:
    """TLS to a plain port and plain text to a TLS port are failures within the deadline, never a hang."""
    plain = free_port()
    secure.tell("CONFIG", "SET", "port", str(plain))
    try:
        for url in (f"rediss://127.0.0.1:{plain}?ca={secure.ca}", f"redis://127.0.0.1:{secure.port}"):
            began = time.monotonic()
            with pytest.raises(LedgerUnavailable):
                asyncio.run(verify(url, "default"))
            assert time.monotonic() - began < DEADLINE
    finally:
        secure.tell("CONFIG", "SET", "port", "0")


# ---------------------------------------------------------------------------------------------- rights


@pytest.fixture
async def limited(server: Server) -> AsyncIterator[str]:
    """The address of a server for a user that has no rights yet."""
    listens = free_port()
    await tell(server.url, "CONFIG", "SET", "port", str(listens))
    yield f"redis://gateway:{ENCODED}@127.0.0.1:{listens}"


async def _let(server: Server, rights: tuple[str, ...], org: str, *more: str) -> None:
    await tell(server.url, *acl("gateway", rights, org, PASSWORD).split(), *more)


async def test_each_right(server: Server, limited: str, org: str) -> None:
    """The documented rights are enough for all that workers do; without any one of them the start says which."""
    await _let(server, WORKER, org)
    store = RedisTreasury(limited, connect_timeout=2, call_timeout=5)
    await main_path(store, org)
    await store.close()
    assert await verify(limited, org) == []
    optional = {"asking", "cluster|slots", "config|get", "info", "wait"}
    for right in WORKER:
        if right in optional:
            continue
        await _let(server, WORKER, org, f"-{right}")
        with pytest.raises(StoreRefused) as refused:
            await verify(limited, org)
        assert right.partition("|")[0] in str(refused.value).lower(), (right, refused.value)
        assert "s3cret" not in str(refused.value)


async def test_rights_that_are_only_advised(server: Server, limited: str, org: str) -> None:
    """Without CONFIG GET or INFO a gateway runs, and its start says what it could not see."""
    for right in ("config|get", "info"):
        await _let(server, WORKER, org, f"-{right}")
        [warning] = await verify(limited, org)
        assert "cannot" in warning


@pytest.mark.parametrize("pattern", access.patterns("acme"))
async def test_each_pattern_of_keys(server: Server, limited: str, pattern: str) -> None:
    """Without a right to some of the keys the start says which."""
    line = acl("gateway", WORKER, "acme", PASSWORD).replace(f" ~{pattern} ", " ")
    await tell(server.url, *line.split())
    with pytest.raises(StoreRefused, match=re.escape(f"keys {pattern}")):
        await verify(limited, "acme")


async def test_rights_of_commands(server: Server, limited: str, org: str) -> None:
    """A worker's user cannot export or make keys: the store's own words say what is missing."""
    await _let(server, WORKER, org)
    store = RedisTreasury(limited, connect_timeout=2, call_timeout=5)
    assert await missing(store.door, org, OPERATOR) == [
        name for name in OPERATOR if name in access.OPERATORS_ONLY]
    with pytest.raises(StoreRefused, match="xrevrange"):
        await store.records(org)
    await store.close()
    result = await asyncio.to_thread(CliRunner().invoke, main, ["keys", "list", "--redis-url", limited])
    assert "lets nobody in" in result.stderr
    assert "zrangebylex" in result.stderr
    assert "s3cret" not in result.output


async def test_eviction_is_refused(server: Server, org: str) -> None:
    """A store that may evict keys is refused at the start."""
    await tell(server.url, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(LedgerMisconfigured, match="noeviction"):
        await verify(server.url, org)


def test_nobody_listens() -> None:
    """A store that is not there is told within seconds."""
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="no connection"):
        asyncio.run(verify("redis://127.0.0.1:1", "default"))
    assert time.monotonic() - began < DEADLINE


def test_rights_are_those_of_the_scripts() -> None:
    """No script of a worker needs a right that the documented list lacks, and the documentation has the list."""
    lua = Path(access.__file__).parent / "lua"
    called = re.compile(r"redis\.call\('([A-Z]+)'(?:, '([A-Z]+)')?")
    for path in lua.glob("*.lua"):
        for command, sub in called.findall(path.read_text()):
            name = command.lower() + (f"|{sub.lower()}" if command in ("XGROUP", "XINFO") else "")
            assert name in OPERATOR, (path.name, name)
    text = (Path(access.__file__).parents[2] / "docs" / "budgets.md").read_text()
    told = " ".join(text.replace("\\\n", " ").split())
    assert acl("gateway", WORKER) in told
    assert " ".join(f"+{name}" for name in OPERATOR if name in access.OPERATORS_ONLY) in told


# ---------------------------------------------------------------------------------------------- a cluster


class SecureCluster(Cluster):
    """Three primaries, each behind TLS: they tell the ports of their relays, so they have no replicas."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.folder = folder
        self.nodes = [Node(folder) for _ in range(3)]
        self.primaries, self.replicas = self.nodes, []
        self._relays: list[Relay] = []
        try:
            asyncio.run(self._form())
            self._relays = [Relay(context, f"redis://127.0.0.1:{node.port}") for node in self.nodes]
            asyncio.run(self._hide())
        except BaseException:
            self.remove()
            raise
        self.hosts = ",".join(f"127.0.0.1:{relay.port}" for relay in self._relays)

    async def _hide(self) -> None:
        """Make every node tell the port of its relay, and take the user in."""
        for node, relay in zip(self.nodes, self._relays, strict=True):
            await node.call("CONFIG", "SET", "cluster-announce-port", relay.port)
            await node.call(*acl("gateway", WORKER, password=PASSWORD).split())
        await self.until(self._announced)

    async def _announced(self) -> bool:
        ports = {relay.port for relay in self._relays}
        maps = [await node.call("CLUSTER", "SLOTS") for node in self.nodes]
        return all({primary[1] for _, _, primary, *_ in found} == ports for found in maps)

    def remove(self) -> None:
        super().remove()
        for relay in self._relays:
            relay.stop()


@pytest.fixture(scope="module")
def secure_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    own = SecureCluster(tmp_path_factory.mktemp("cluster"))
    yield own
    own.remove()


async def test_cluster_over_tls(secure_cluster: SecureCluster, org: str) -> None:
    """Every node of a cluster is reached over TLS, with the user, the password and the authorities of its address."""
    url = f"rediss+cluster://gateway:{ENCODED}@{secure_cluster.hosts}/0?ca={secure_cluster.ca}"
    store = RedisTreasury(url, connect_timeout=2, call_timeout=5)
    for number in range(6):
        await main_path(store, f"{org}{number}")
    await store.close()
    assert await verify(url, org) == []


@pytest.mark.parametrize(("user", "query", "says"), [
    (f"gateway:{ENCODED}@", "", "certificate is not trusted"), ("gateway:wr0ng@", "?ca={ca}", "WRONGPASS"),
])  # fmt: skip
async def test_cluster_refuses(secure_cluster: SecureCluster, user: str, query: str, says: str) -> None:
    """A cluster that lets nobody in says so, not that nobody is there; at once, without the password."""
    url = f"rediss+cluster://{user}{secure_cluster.hosts}/0{query.format(ca=secure_cluster.ca)}"
    began = time.monotonic()
    with pytest.raises(StoreRefused, match=says) as refused:
        await verify(url, "default")
    assert time.monotonic() - began < DEADLINE
    assert "wr0ng" not in str(refused.value)
    door = open_door(url, connect_timeout=1, call_timeout=1)
    with pytest.raises(StoreRefused, match=says):
        await door.call(("GET", "{a}:x"))
    await door.close()
