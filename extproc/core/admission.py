"""Which budgets and rate limits a request counts against, and what it asks of them.

The ids of budgets and limits tell whose they are, so that a worker can apply a table that another one published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from extproc.config import BudgetConfig, LimitConfig
from extproc.core.bound import LEAST_OUTPUT, Bound, need, option_of, unpriced
from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.money.amounts import Option, RateLimit, Unit
from extproc.money.limits import rate_limit
from extproc.money.tables import Entry, Table
from extproc.runtime import ANY, Backend, Chain, Runtime

EACH = "*"
EXPECTED_OUTPUT = 1_000
"""Output tokens that a rate limit expects of a request which names none; it is trued up at the end."""
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


class Shared(msgspec.Struct, frozen=True):
    """The rate limits of one backend and its model; `moves`: where one is reached, the next backend serves."""

    scope: str
    limits: tuple[RateLimit, ...]
    moves: bool


class Plan(msgspec.Struct, frozen=True):
    """What a reservation asks for; its budgets and their windows come with the store's table and clock.

    `chains` are the options' own, in their order; `shared` has an entry for every backend of every chain, or none.
    """

    who: Identity
    limits: tuple[RateLimit, ...]
    options: tuple[Option, ...]
    chains: tuple[Chain, ...]
    shared: tuple[tuple[Shared, ...], ...] = ()


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
            found.append(_rate(limit, _whose(dimension, value, own), tokens))
    return tuple(found)


def _whose(dimension: str, value: str, own: str) -> str:
    """The first half of a rate limit's id: one that is for each and one that names this one are two limits."""
    return f"{dimension}.{_hash(own) if value != EACH else _hash(f'{EACH}/{own}')}"


def shared_limits(limits: Iterable[LimitConfig], backend: Backend, tokens: int) -> Shared:
    """The rate limits of a backend and its model for a request of about so many tokens."""
    found: list[RateLimit] = []
    moves = False
    for limit in limits:
        dimension, value = limit.for_.pair()
        own = {"backend": backend.name, "model": backend.model}.get(dimension, "")
        if limit.per is not None and own and value in (EACH, own):
            found.append(_rate(limit, _whose(dimension, value, own), tokens))
            moves = moves or limit.then == "next"
    return Shared(f"be:{backend.name}", tuple(found), moves)


def plan_for(runtime: Runtime, who: Identity, chain: Chain, model: str, bound: Bound, asked: int | None,
             tokens: int) -> Plan:
    """What a request of this identity asks for; `tokens` is the estimate that rate limits take."""
    limits = runtime.config.limits
    options, chains = options_for(runtime, chain, model, bound, asked)
    expected = tokens + (asked if asked is not None else EXPECTED_OUTPUT)
    shared: tuple[tuple[Shared, ...], ...] = ()
    if any(limit.for_.pair()[0] in ("backend", "model") for limit in limits):
        shared = tuple(tuple(shared_limits(limits, b, expected) for b in option.backends) for option in chains)
    return Plan(who, limits_for(limits, who, expected), options, chains, shared)


def _rate(limit: LimitConfig, whose: str, tokens: int) -> RateLimit:
    unit = "requests" if limit.requests is not None else "tokens"
    assert limit.per is not None
    made = rate_limit(f"{whose}.{unit}.{limit.per}", limit.limit, _PERIOD_MS[limit.per],
                      1 if unit == "requests" else tokens, burst=limit.burst, strict=limit.strict)
    # Else a prompt larger than the burst would never pass.
    return msgspec.structs.replace(made, cost=min(made.cost, made.burst))


def options_for(runtime: Runtime, chain: Chain, model: str, bound: Bound, asked: int | None,
                ) -> tuple[tuple[Option, ...], tuple[Chain, ...]]:
    """The ways to serve a request, dearest first: the whole chain, without its dearest backends, what costs nothing.

    `asked`: the output tokens the client named. They are lowered to what is affordable only with `money.clamp`; where
    the client named none, what is affordable is granted.
    """
    want = asked if asked is not None else max(backend.default_max_tokens for backend in chain.backends)
    least = want if asked is not None and not runtime.config.money.clamp else min(want, LEAST_OUTPUT)
    keep = list(chain.backends)
    options: list[Option] = []
    chains: list[Chain] = []
    while keep:
        option = option_of(bound, resolved(runtime, keep, model), least, want, runtime.price_of)
        if not options or option != options[-1]:
            options.append(option)
            chains.append(runtime.part(chain, keep) if len(keep) < len(chain.backends) else chain)
        costs = {backend.id: _cost(runtime, backend, model, bound, want) for backend in keep}
        dearest = max(keep, key=lambda backend: costs[backend.id])
        if costs[dearest.id] == 0:
            break
        keep.remove(dearest)
    return tuple(options), tuple(chains)


def _cost(runtime: Runtime, backend: Backend, model: str, bound: Bound, output: int) -> int:
    return need(bound, resolved(runtime, [backend], model)[0], output, runtime.price_of).nano_usd


def priced(runtime: Runtime, chain: Chain, model: str, conversation: Conversation, beside: Iterable[str]) -> Chain:
    """The chain without the backends at which nobody knows what the request costs, where a dollar budget is in force.

    `beside`: other models that a backend may ask in between.

    Raises:
        RequestError: none is left.
    """
    if not runtime.prices_matter:
        return chain
    actual = resolved(runtime, chain.backends, model)
    known = [backend.price is not None and all(runtime.price_of(backend.name, other) for other in beside)
             for backend in actual]
    if not any(known):
        raise RequestError(
            f"the price of {', '.join(b.id for b in actual)} is unknown, and a dollar budget is in force; give it as "
            "usd_per_million_input and usd_per_million_output in gateway.yaml", kind="quota", param="model")
    lacks = [unpriced(conversation, backend) for backend in actual]
    keep = [chain.backends[i] for i in range(len(actual)) if known[i] and not lacks[i]]
    if not keep:
        names = next(filter(None, lacks))
        raise RequestError(
            f"{', '.join(names)}: what this costs at {', '.join(b.id for b in actual)} is unknown, and a dollar budget "
            "is in force; leave it out", kind="quota", param=names[0])
    return chain if len(keep) == len(chain.backends) else runtime.part(chain, keep)


def resolved(runtime: Runtime, backends: Iterable[Backend], model: str) -> list[Backend]:
    """The backends with the model that the client named where they take any."""
    return [runtime.resolve(backend.name, model) if backend.model == ANY else backend for backend in backends]
