"""Which budgets and rate limits a request counts against, and what it asks of them.

The ids of budgets and limits tell whose they are, so that a worker can apply a table that another one published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from extproc.config import BudgetConfig, LimitConfig
from extproc.core.bound import LEAST_OUTPUT, Bound, option_of
from extproc.ledger.limits import rate_limit
from extproc.ledger.money import LARGEST, Option, RateLimit, Unit
from extproc.ledger.tables import Entry, Table
from extproc.runtime import Backend, Chain, Runtime

EACH = "*"
_ALL = "all"
_PERIOD_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_UNITS = {"usd": Unit.USD, "tokens": Unit.TOKENS, "requests": Unit.REQUESTS, "concurrent": Unit.CONCURRENT}


class Identity(msgspec.Struct, frozen=True):
    """Who asks."""

    org: str
    team: str
    project: str = ""
    user: str = ""
    key: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What a reservation asks for: budgets (their windows come with the store's clock), rate limits, and options.

    `chains` are the options' own, in their order; `shared` the limits of backends and models that the first chain's
    backends take, with what a refusal there means.
    """

    entries: tuple[Entry, ...]
    limits: tuple[RateLimit, ...]
    options: tuple[Option, ...]
    chains: tuple[Chain, ...]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def budget_id(budget: BudgetConfig) -> str:
    """The short id of a budget: whose, what, per what."""
    dimension, value = budget.for_.pair()
    unit = next(name for name in ("usd", "tokens", "requests") if getattr(budget, name) is not None)
    zone = "" if budget.time_zone == "UTC" else f".{_hash(budget.time_zone)}"
    return f"{dimension}.{_ALL if value == EACH else _hash(value)}.{unit}.{budget.per}{zone}"


def concurrency_id(limit: LimitConfig) -> str:
    """The short id of a limit on requests at once: a budget of the unit concurrent."""
    dimension, value = limit.for_.pair()
    return f"{dimension}.{_ALL if value == EACH else _hash(value)}.concurrent.total"


def table_of(budgets: Sequence[BudgetConfig], limits: Sequence[LimitConfig], generation: int) -> Table:
    """The budget table of a configuration, as it is published."""
    entries = [
        Entry(budget_id(b), _UNITS[b_unit], round(value * 10**9) if b_unit == "usd" else int(value), b.per, b.time_zone)
        for b in budgets
        for b_unit in ("usd", "tokens", "requests")
        if (value := getattr(b, b_unit)) is not None
    ]
    entries += [
        Entry(concurrency_id(limit), Unit.CONCURRENT, limit.concurrent, "total")
        for limit in limits if limit.concurrent is not None
    ]
    return Table(generation, tuple(entries))


@lru_cache(maxsize=4096)
def entries_for(table: Table, who: Identity) -> tuple[Entry, ...]:
    """The budgets of a table that count this identity's requests; those for each one under an id of its own."""
    found: list[Entry] = []
    for entry in table.entries:
        dimension, whom, _ = entry.id.split(".", 2)
        value = getattr(who, dimension, "")
        if not value:
            continue
        if whom == _ALL:
            found.append(msgspec.structs.replace(entry, id=f"{entry.id}.{_hash(value)}"))
        elif whom == _hash(value):
            found.append(entry)
    return tuple(found)


def limits_for(limits: Iterable[LimitConfig], who: Identity, tokens: int) -> tuple[RateLimit, ...]:
    """The rate limits of this identity, with what a request of about so many tokens takes of them."""
    found: list[RateLimit] = []
    for limit in limits:
        dimension, value = limit.for_.pair()
        own = getattr(who, dimension, "")
        if limit.per is not None and own and value in (EACH, own):
            found.append(_rate(limit, f"{dimension}.{_hash(own)}", tokens))
    return tuple(found)


def shared_limits(limits: Iterable[LimitConfig], backend: Backend, tokens: int) -> tuple[tuple[RateLimit, ...], bool]:
    """The rate limits of a backend and its model, and whether one that is reached means the next backend."""
    found: list[RateLimit] = []
    moves = False
    for limit in limits:
        dimension, value = limit.for_.pair()
        own = {"backend": backend.name, "model": backend.model}.get(dimension, "")
        if limit.per is not None and own and value in (EACH, own):
            found.append(_rate(limit, f"{dimension}.{_hash(own)}", tokens))
            moves = moves or limit.then == "next"
    return tuple(found), moves


def _rate(limit: LimitConfig, whose: str, tokens: int) -> RateLimit:
    unit = "requests" if limit.requests is not None else "tokens"
    assert limit.per is not None
    made = rate_limit(f"{whose}.{unit}.{limit.per}", limit.limit, _PERIOD_MS[limit.per],
                      1 if unit == "requests" else tokens, burst=limit.burst, strict=limit.strict)
    # Else a prompt larger than the burst would never pass.
    return msgspec.structs.replace(made, cost=min(made.cost, made.burst))


def options_for(runtime: Runtime, chain: Chain, bound: Bound, asked: int | None, clamp: bool,
                ) -> tuple[tuple[Option, ...], tuple[Chain, ...]]:
    """The ways to serve a request, dearest first: the whole chain, without its dearest backends, what costs nothing.

    `asked`: the output tokens the client named. They are lowered to what is affordable only with `clamp`; where the
    client named none, what is affordable is granted.
    """
    want = asked if asked is not None else max(backend.default_max_tokens for backend in chain.backends)
    least = want if asked is not None and not clamp else min(want, LEAST_OUTPUT)
    keep = list(chain.backends)
    options: list[Option] = []
    chains: list[Chain] = []
    while keep:
        option = option_of(bound, keep, least, min(want, LARGEST))
        if not options or option != options[-1]:
            options.append(option)
            chains.append(runtime.part(chain, keep) if len(keep) < len(chain.backends) else chain)
        dearest = max(keep, key=lambda backend: option_of(bound, [backend], least, want).nano_usd(want))
        if option_of(bound, [dearest], least, want).nano_usd(want) == 0:
            break
        keep.remove(dearest)
    return tuple(options), tuple(chains)


def unpriced(chain: Chain) -> list[Backend]:
    """The backends of a chain whose price nobody knows."""
    return [backend for backend in chain.backends if backend.price is None]
