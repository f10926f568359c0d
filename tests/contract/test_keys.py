"""Gateway keys: the same on every store and in memory."""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import AsyncIterator

import pytest

from extproc.core.admission import Identity, Plan
from extproc.core.identity import Caller
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import DurableLink, open_door
from extproc.ledger.keys import Changes, KeyRecord, KeyRefused, Keys, KeyStore
from extproc.ledger.link import Reply, Word
from extproc.ledger.memory_keys import MemoryKeyStore
from extproc.money.amounts import Option
from extproc.server.treasurer import Treasurer
from tests.contract.ledger_kit import Store, make_rid, now_ms
from tests.contract.ledger_servers import Place, Server
from tests.stage_kit import runtime

MINUTE, DAY = 60_000, 86_400_000
SKEW = 5_000
"""Time a slow machine may take between a call and a look at the clock."""


@pytest.fixture
async def keys(place: Place | None) -> AsyncIterator[Keys]:
    if place is None:
        yield MemoryKeyStore()
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    yield KeyStore(door)
    await door.close()


@pytest.fixture
def name() -> str:
    """A name that no other test has: they share a store."""
    return f"key {secrets.token_hex(6)}"


def digest() -> str:
    return secrets.token_hex(32)


async def made(keys: Keys, name: str, term: int = 0, **parts: object) -> str:
    """Create a key and return its digest."""
    own = digest()
    assert await keys.create(own, Caller(key=name, **parts), term) == "DONE"
    return own


async def caller(keys: Keys, own: str) -> Caller | None:
    return await keys.get(bytes.fromhex(own))


async def record(keys: Keys, own: str) -> KeyRecord:
    [found] = await keys.starting(own)
    return found


class TestCreate:
    """Making a key."""

    async def test_all_of_a_caller(self, keys: Keys, name: str) -> None:
        """A key gives back everything that was said of its holder."""
        own = await made(keys, name, org="acme", team="web", project="checkout", user="ann", routes=("cloud", "a/b"))
        assert await caller(keys, own) == Caller("acme", "web", "checkout", "ann", name, ("cloud", "a/b"))

    async def test_unknown(self, keys: Keys) -> None:
        """A digest that nobody made is nobody's."""
        assert await caller(keys, digest()) is None

    async def test_term(self, keys: Keys, name: str) -> None:
        """A key with a term ends that long after it was made."""
        before = now_ms()
        known = await caller(keys, await made(keys, name, DAY))
        assert known is not None
        assert before + DAY - SKEW <= known.expires <= now_ms() + DAY + SKEW

    async def test_name_in_force(self, keys: Keys, name: str) -> None:
        """A name is given to one key in force; it is free again after that."""
        first = await made(keys, name)
        assert await keys.create(digest(), Caller(key=name)) == "TAKEN"
        await keys.revoke(first)
        second = await made(keys, name, 1)
        await asyncio.sleep(0.01)
        third = await made(keys, name)
        assert {one.digest for one in await keys.named(name)} == {first, second, third}

    async def test_known_digest(self, keys: Keys, name: str) -> None:
        """The same secret is never given twice."""
        own = await made(keys, name)
        assert await keys.create(own, Caller(key=f"{name} 2")) == "DUP"
        assert await caller(keys, own) == Caller(key=name)

    async def test_unicode(self, keys: Keys, name: str) -> None:
        """Names in any script are kept, in composed form, however they are typed."""
        typed = unicodedata.normalize("NFD", f"Jürgen 東京 🎩 {name}")
        own = await made(keys, typed, team="größe")
        known = await caller(keys, own)
        assert known is not None
        assert (known.key, known.team) == (unicodedata.normalize("NFC", typed), "größe")
        assert [one.digest for one in await keys.named(typed)] == [own]
        assert await keys.create(digest(), Caller(key=known.key)) == "TAKEN"

    async def test_names_that_begin_alike(self, keys: Keys, name: str) -> None:
        """A name is not mistaken for a longer one that begins with it."""
        own = await made(keys, name)
        await made(keys, f"{name}x")
        await made(keys, f"{name} x")
        assert [one.digest for one in await keys.named(name)] == [own]

    @pytest.mark.parametrize("parts", [
        {"key": ""}, {"key": "x" * 65}, {"key": " x"}, {"key": "a\0b"}, {"key": "a\nb"}, {"key": "a\x1b[31m"},
        {"key": "a\udcff"}, {"key": "a", "team": ""}, {"key": "a", "org": ""}, {"key": "a", "user": "\t"},
        {"key": "a", "routes": ("",)},
    ])
    async def test_refused(self, keys: Keys, parts: dict[str, object]) -> None:
        """Names that are empty, long, padded or not printable are refused before anything is stored."""
        own = digest()
        with pytest.raises(KeyRefused):
            await keys.create(own, Caller(**parts))
        assert await caller(keys, own) is None

    @pytest.mark.parametrize("term", [-1, 2**62])
    async def test_refused_term(self, keys: Keys, name: str, term: int) -> None:
        """A term that no clock will see is refused."""
        with pytest.raises(KeyRefused):
            await keys.create(digest(), Caller(key=name), term)

    async def test_at_once(self, keys: Keys, name: str) -> None:
        """Of many who take a name at once, one gets it."""
        codes = await asyncio.gather(*(keys.create(digest(), Caller(key=name)) for _ in range(20)))
        assert sorted(codes) == ["DONE"] + ["TAKEN"] * 19


class TestRotate:
    """A new key in place of an old one."""

    async def test_overlap(self, keys: Keys, name: str) -> None:
        """Both are valid for the overlap; the new one stands for the same holder."""
        old, new = await made(keys, name, team="web", user="ann", routes=("cloud",)), digest()
        before = now_ms()
        assert await keys.rotate(name, new, 7 * DAY) == "DONE"
        was, now = await caller(keys, old), await caller(keys, new)
        assert was is not None
        assert before + 7 * DAY - SKEW <= was.expires <= now_ms() + 7 * DAY + SKEW
        assert now == Caller(team="web", user="ann", key=name, routes=("cloud",))

    async def test_no_overlap(self, keys: Keys, name: str) -> None:
        """Without an overlap the old key has ended."""
        old = await made(keys, name)
        assert await keys.rotate(name, digest(), 0) == "DONE"
        assert (await record(keys, old)).state(now_ms() + SKEW) == "expired"

    async def test_same_term(self, keys: Keys, name: str) -> None:
        """The new key is valid as long as the old one was to be, counted from now, also in a chain of rotations."""
        await made(keys, name, 90 * DAY)
        for _ in range(3):
            new = digest()
            await keys.rotate(name, new, DAY)
            known = await record(keys, new)
            assert known.caller.expires - known.created == 90 * DAY

    @pytest.mark.parametrize("term", [0, 5 * DAY])
    async def test_own_term(self, keys: Keys, name: str, term: int) -> None:
        """A term given for the new key counts."""
        new = digest()
        await made(keys, name, 90 * DAY)
        await keys.rotate(name, new, DAY, term)
        known = await record(keys, new)
        assert known.caller.expires == (known.created + term if term else 0)

    async def test_old_end_is_kept(self, keys: Keys, name: str) -> None:
        """An overlap never makes a key live longer."""
        old = await made(keys, name, MINUTE)
        end = (await record(keys, old)).caller.expires
        await keys.rotate(name, digest(), 7 * DAY)
        assert (await record(keys, old)).caller.expires == end

    async def test_twice(self, keys: Keys, name: str) -> None:
        """A second rotation ends the first old key no later than its own overlap."""
        first, second, third = await made(keys, name), digest(), digest()
        await keys.rotate(name, second, 7 * DAY)
        await keys.rotate(name, third, MINUTE)
        ends = [(await record(keys, own)).caller.expires for own in (first, second, third)]
        assert max(ends[:2]) <= now_ms() + MINUTE + SKEW
        assert ends[2] == 0

    async def test_the_new_one_is_revoked(self, keys: Keys, name: str) -> None:
        """Where the new key is revoked, the old one in its overlap can be replaced again."""
        old, second, third = await made(keys, name, team="web"), digest(), digest()
        await keys.rotate(name, second, DAY)
        await keys.revoke(second)
        assert await keys.rotate(name, third, MINUTE) == "DONE"
        assert await caller(keys, third) is not None
        assert (await record(keys, old)).caller.expires <= now_ms() + MINUTE + SKEW
        assert (await record(keys, third)).replaced == 0

    async def test_nothing_in_force(self, keys: Keys, name: str) -> None:
        """What is not in force cannot be replaced, and the new key is not made."""
        await keys.revoke(await made(keys, name))
        new = digest()
        assert await keys.rotate(name, new, DAY) == "NONE"
        assert await keys.rotate(f"{name} unknown", new, DAY) == "NONE"
        assert await caller(keys, new) is None

    async def test_known_digest(self, keys: Keys, name: str) -> None:
        """A key cannot replace itself."""
        own = await made(keys, name)
        assert await keys.rotate(name, own, DAY) == "DUP"
        assert await caller(keys, own) == Caller(key=name)


class TestChange:
    """Changing and ending keys."""

    async def test_revoke(self, keys: Keys, name: str) -> None:
        """A revoked key is unknown at once and for good, but still listed."""
        own = await made(keys, name)
        assert await keys.revoke(own) == "DONE"
        assert await caller(keys, own) is None
        assert await keys.revoke(own) == "REVOKED"
        assert await keys.change(own, Changes(team="x")) == "REVOKED"
        assert (await record(keys, own)).state(now_ms()) == "revoked"

    async def test_unknown(self, keys: Keys) -> None:
        """What does not exist cannot be changed, and does not begin to exist by it."""
        own = digest()
        codes = [await keys.revoke(own), await keys.change(own, Changes(team="x")), await keys.expire(own, 5)]
        assert (codes, await caller(keys, own)) == (["NONE"] * 3, None)

    async def test_parts(self, keys: Keys, name: str) -> None:
        """Only what is given changes; no routes at all takes the restriction away."""
        own = await made(keys, name, project="p", user="u", routes=("cloud",))
        assert await keys.change(own, Changes(team="pay", user="")) == "DONE"
        assert await caller(keys, own) == Caller(team="pay", project="p", key=name, routes=("cloud",))
        await keys.change(own, Changes(routes=("local", "local", "smart")))
        assert (await record(keys, own)).caller.routes == ("local", "smart")
        await keys.change(own, Changes(routes=()))
        assert (await record(keys, own)).caller.routes is None

    async def test_expire(self, keys: Keys, name: str) -> None:
        """A key can be given another end, or none."""
        own = await made(keys, name, DAY)
        await keys.expire(own, 1)
        assert (await record(keys, own)).state(now_ms()) == "expired"
        await keys.expire(own, 0)
        assert (await record(keys, own)).state(now_ms()) == "live"

    async def test_refused(self, keys: Keys, name: str) -> None:
        """A change to a name that cannot be stored changes nothing."""
        own = await made(keys, name)
        for changes in (Changes(team=""), Changes(user="a\n"), Changes(routes=("",))):
            with pytest.raises(KeyRefused):
                await keys.change(own, changes)
        assert await caller(keys, own) == Caller(key=name)


class TestPurge:
    """Keys that are over are forgotten, never those in force."""

    async def test_only_what_is_over(self, keys: Keys, name: str) -> None:
        """What was revoked or has expired so long ago goes, from every index; all else stays as it is."""
        await keys.purge(0)  # what other tests left
        live, termed = await made(keys, f"{name} a"), await made(keys, f"{name} b", DAY)
        revoked, expired, lately = [await made(keys, f"{name} {part}") for part in "cde"]
        await keys.revoke(revoked)
        await keys.expire(expired, now_ms() - 40 * DAY)
        await keys.expire(lately, now_ms() - 20 * DAY)
        assert await keys.purge(30 * DAY, dry=True) == 1
        assert await keys.purge(30 * DAY) == 1
        assert await keys.starting(expired) == await keys.named(f"{name} d") == []
        assert [one.digest for one in await keys.named(f"{name} e")] == [lately]
        await asyncio.sleep(0.01)
        assert await keys.purge(0) == 2
        assert await keys.purge(0) == 0
        assert [await caller(keys, own) is not None for own in (live, termed, revoked, lately)] == [
            True, True, False, False]
        listed = [one.digest async for page in keys.pages() for one in page]
        assert {live, termed} <= set(listed)
        assert not {revoked, expired, lately} & set(listed)

    async def test_first_end_counts(self, keys: Keys, name: str) -> None:
        """A key that was revoked after it had expired is over since it expired."""
        own = await made(keys, name)
        await keys.expire(own, now_ms() - 40 * DAY)
        await keys.revoke(own)
        assert await keys.purge(30 * DAY) == 1

    async def test_name_is_free(self, keys: Keys, name: str) -> None:
        """The name of a key that was purged can be given again, and the key itself stays unknown."""
        own = await made(keys, name)
        await keys.revoke(own)
        await asyncio.sleep(0.01)
        await keys.purge(0)
        other = await made(keys, name)
        assert (await caller(keys, own), (await record(keys, other)).caller.key) == (None, name)

    async def test_many(self, keys: Keys, name: str) -> None:
        """Thousands of keys are purged in pages."""
        async def one(number: int) -> None:
            await keys.expire(await made(keys, f"{name} {number}"), now_ms() - DAY)

        for start in range(0, 1200, 100):
            await asyncio.gather(*(one(number) for number in range(start, start + 100)))
        assert await keys.purge(DAY // 2) == 1200

    async def test_too_long(self, keys: Keys) -> None:
        """A length of time that no clock will see is refused."""
        with pytest.raises(KeyRefused):
            await keys.purge(-1)


class TestOrg:
    """A key says whose books its requests are in."""

    @pytest.mark.parametrize("org", ["a}b", "{a", "be:local", "keys", "*", "", "a\n", " a"])
    async def test_refused(self, keys: Keys, name: str, org: str) -> None:
        """A name that would mix an org's keys of the store with others is refused."""
        with pytest.raises(KeyRefused, match="org"):
            await keys.create(digest(), Caller(org=org, key=name))

    async def test_kept(self, keys: Keys, name: str) -> None:
        """The org is the key's own, in every script; a rotated key stays in it."""
        own, new = await made(keys, name, org="größe ü"), digest()
        assert await keys.rotate(name, new, 0) == "DONE"
        assert [(await record(keys, one)).caller.org for one in (own, new)] == ["größe ü"] * 2


class TestReading:
    """Finding keys without knowing their secret."""

    async def test_pages(self, keys: Keys, name: str) -> None:
        """All keys come once, by name, whatever the size of a page."""
        wanted = [await made(keys, f"{name} {number:02}") for number in range(11)]
        for size in (1, 4, 11, 500):
            listed = [one async for page in keys.pages(size) for one in page]
            assert [one.caller.key for one in listed] == sorted((one.caller.key for one in listed), key=str.encode)
            assert [one.digest for one in listed if one.digest in wanted] == wanted

    async def test_prefix(self, keys: Keys, name: str) -> None:
        """A key is found by the first digits of its digest, and ambiguity shows."""
        head = secrets.token_hex(8)
        for number, tail in enumerate(("0" * 48, "f" * 48)):
            await keys.create(head + tail, Caller(key=f"{name} {number}"))
        assert [one.digest[16] for one in await keys.starting(head)] == ["0", "f"]
        assert [one.digest[16] for one in await keys.starting(head + "f")] == ["f"]
        assert await keys.starting(head + "1") == []
        assert await keys.starting("größe") == []


async def test_a_key_of_another_org(keys: Keys, name: str, ledger: Store) -> None:
    """One gateway serves the orgs of all keys in its store: each has the same table, and windows and records apart."""
    own, other = f"org-{secrets.token_hex(4)}", f"org-{secrets.token_hex(4)}"
    budgets = f"budgets: [{{for: {{org: {own}}}, requests: 1, per: total}}, {{for: {{team: web}}, requests: 2, per: total}}]\n"
    treasurer = Treasurer(ledger, runtime(budgets), 1)
    codes: list[str] = []
    for org in (own, own, other, other, other):
        digest = await made(keys, f"{name} {len(codes)}", org=org, team="web")
        holder = await caller(keys, digest)
        assert holder is not None
        plan = Plan(Identity(holder.org, holder.team, key=holder.key), (), (Option(),), ())
        codes.append((await treasurer.reserve(holder.org, make_rid(), b"", plan)).code)
    assert codes == ["OK", "BUDGET", "OK", "OK", "BUDGET"]
    windows = [len((await ledger.audit(org)).windows) for org in (own, other)]
    assert windows == [2, 1]
    assert {own, other} <= set(await ledger.orgs())


async def test_keys_are_declared(server: Server) -> None:
    """A script is told all keys it reads, as a cluster asks for."""
    door = open_door(server.url, connect_timeout=2, call_timeout=5)
    declared: list[list[object]] = []

    class Watched(DurableLink):
        def call_durable(self, words: tuple[Word, ...], again: tuple[Word, ...] | None = None) -> asyncio.Future[Reply]:
            declared.append([word.decode() if isinstance(word, bytes) else str(word) for word in words[3 : 3 + int(words[2])]])
            return door.call_durable(words, again)

    keys = KeyStore(Watched(server.url, connect_timeout=2, call_timeout=5))
    first, second = await made(keys, "a"), digest()
    assert await keys.rotate("a", second, DAY) == "DONE"
    names = ["{keys}:n", "{keys}:d"]
    assert declared == [[*names, f"{{keys}}:k:{first}"], [*names, f"{{keys}}:k:{second}"],
                        [*names, f"{{keys}}:k:{second}", f"{{keys}}:k:{first}"]]
    await door.close()


async def test_the_store_is_gone(server: Server) -> None:
    """Without its store every call raises LedgerUnavailable."""
    door = open_door(server.url, connect_timeout=1, call_timeout=1)
    keys = KeyStore(door)
    own = await made(keys, "a")
    server.kill()
    for call in (keys.get(bytes.fromhex(own)), keys.create(digest(), Caller(key="b")), keys.revoke(own),
                 keys.named("a"), keys.rotate("a", digest(), 0), keys.purge(0)):
        with pytest.raises(LedgerUnavailable):
            await call
    await door.close()
