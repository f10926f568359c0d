"""gateway.yaml compiled once into an immutable object that the stages read; swapped whole on reload.

Envoy clusters are named by their content, so a reload only ever adds clusters and later removes unused ones: nothing
changes under a live request, and a request decided under the old configuration still finds its clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from extproc.config import BackendConfig, GatewayConfig, KeyConfig, ModelConfig
from extproc.core.identity import Caller
from extproc.core.pricing import FREE, Price
from extproc.core.tariffs import configured
from extproc.dialects import DIALECTS, by_host

Catalogue = Callable[[str | None, str], tuple[Price | None, int | None]]
ANY = "*"
ALL_ORDERS = 4
"""Backends of a chain up to which every order that health may ask for has a cluster."""
_HEALTH = {"ollama": "/", "vllm": "/health", "llamacpp": "/health"}
"""Where servers of a dialect say that they are there; llama.cpp says 503 while it loads its model."""
_UNKNOWN = ModelConfig.model_validate({})


class Backend(msgspec.Struct, frozen=True):
    """One model at one provider: all that an attempt needs. `model` "*" takes the model the client named."""

    id: str
    name: str
    model: str
    dialect: str
    location: str
    authority: str
    base_path: str
    api_key: str | None
    cluster: str
    lacks: frozenset[str]
    context: int | None
    max_output: int | None
    default_max_tokens: int
    price: Price | None
    capacity: int | None = None
    """Requests that its server works on at once; None: not known."""
    on_cut: Literal["seen", "timed", "full"] | None = None
    most_tokens_per_second: int = 500


class Detected(msgspec.Struct, frozen=True):
    """What a local server said of itself when it was asked: its dialect, its models, and contexts where it told."""

    dialect: str
    contexts: dict[str, int] = {}
    models: tuple[str, ...] = ()


class Chain(msgspec.Struct, frozen=True):
    """An ordered set of backends with the Envoy composite cluster that walks them."""

    name: str
    cluster: str
    backends: tuple[Backend, ...]


class Runtime:
    """The compiled configuration of one generation."""

    def __init__(self, config: GatewayConfig, catalogue: Catalogue,
                 detected: Mapping[str, Detected] | None = None) -> None:
        self.config = config
        self._detected = detected or {}
        self.generation = digest(
            config.model_dump_json(by_alias=True), msgspec.json.encode(self._detected, order="sorted").decode())
        self._catalogue = catalogue
        self.chains: dict[str, Chain] = {}
        self.pins: dict[str, Chain] = {}
        self._by_backends: dict[tuple[str, ...], Chain] = {}
        self.backends: dict[str, Backend] = {}
        for name, entries in config.chains.items():
            self.chains[name] = self._add(name, [self._backend(entry) for entry in entries])
        for name in config.backends:
            self.pins[name] = self._add(f"pin.{name}", [self._backend(f"{name}/{ANY}")])
        for name, chain in self.chains.items():  # after all: an order that a chain was given keeps that chain's name
            self._add_orders(name, chain.backends)
        self.callers = {bytes.fromhex(key.sha256): self._caller(key) for key in config.auth.keys}
        self.anybody = Caller(config.auth.org)
        baseline = config.money.baseline
        self.baseline = None if baseline is None else self.resolve(*baseline.split("/", 1)).price
        failover = config.failover
        self.first_event_ms = str(int(failover.first_event_timeout * 1000))
        self.answer_ms = str(int(failover.answer_timeout * 1000))
        self.prices_matter = config.money.unknown_price == "refuse" and any(b.usd is not None for b in config.budgets)
        self.has_money = bool(config.budgets or config.limits)
        self.denies = (config.money.store_down or ("deny" if config.budgets else "allow")) == "deny"

    def _backend(self, entry: str) -> Backend:
        if entry not in self.backends:
            name, _, model = entry.partition("/")
            self.backends[entry] = self.resolve(name, model)
        return self.backends[entry]

    def resolve(self, name: str, model: str) -> Backend:
        """A backend for any model name, also one that no chain lists."""
        backend = self.config.backends[name]
        known = backend.models.get(model, _UNKNOWN)
        parts = urlsplit(backend.base_url)
        path = parts.path.rstrip("/")
        price, context = self._price(backend, known, model)
        dialect = self.dialect(name)
        if name in self._detected:
            context = self._detected[name].contexts.get(model, context)
        endpoint = model if f"{name}/{model}" in self._entries() else ANY
        failover = self.config.failover
        return Backend(
            id=f"{name}/{model}", name=name, model=model, dialect=dialect, location=backend.location,
            authority=parts.netloc, base_path=path.removesuffix("/v1"), api_key=backend.api_key,
            cluster=f"{name}/{endpoint}@{digest(backend.base_url, str(failover.connect_timeout), *self._check(name))}",
            lacks=frozenset([*backend.lacks, *known.lacks]) | DIALECTS[dialect].lacks,
            context=known.context or context,
            max_output=known.max_output, default_max_tokens=known.default_max_tokens, price=price,
            capacity=backend.capacity, on_cut=known.on_cut, most_tokens_per_second=known.most_tokens_per_second,
        )

    def price_of(self, name: str, model: str) -> Price | None:
        """The price of any model at a backend; None: unknown."""
        return self.resolve(name, model).price

    def health_path(self, name: str) -> str | None:
        """Where the server of a checked backend says that it is there; None: a connection to it is enough."""
        backend = self.config.backends[name]
        checked = backend.checked
        if checked is not None and checked.path is not None:
            return checked.path
        own = _HEALTH.get(self.dialect(name).partition("-")[0])
        return None if own is None else urlsplit(backend.base_url).path.rstrip("/").removesuffix("/v1") + own

    def _check(self, name: str) -> tuple[str, ...]:
        """How it is checked, as parts of its cluster's name."""
        checked = self.config.backends[name].checked
        return () if checked is None else (f"{checked.every} {self.health_path(name)}",)

    def dialect(self, name: str) -> str:
        """The dialect of a backend: as configured, as its host tells, as it said itself, else the plain one."""
        backend = self.config.backends[name]
        given, schema = backend.dialect, backend.schema_
        if given is not None:
            return given if schema in (None, DIALECTS[given].schema) else f"{given}-{schema}"
        if schema != "openai":
            return schema or "compatible"
        known = by_host(backend.base_url, schema)
        if known is None and name in self._detected:
            told = self._detected[name].dialect
            known = told if DIALECTS[told].schema == schema else f"{told}-{schema}"
        return known or "compatible"

    def _entries(self) -> set[str]:
        return {entry for entries in self.config.chains.values() for entry in entries}

    def _price(self, backend: BackendConfig, known: ModelConfig, model: str) -> tuple[Price | None, int | None]:
        listed, context = self._catalogue(backend.provider, model) if backend.location == "cloud" else (None, None)
        return configured(known, FREE if backend.location == "local" else listed), context

    def _add(self, name: str, backends: list[Backend]) -> Chain:
        """Make the chain and every order-preserving part of it: what pruning by capability may leave."""
        for size in range(len(backends), 0, -1):
            for part in combinations(backends, size):
                self._put(name, part)
        full = self._by_backends[tuple(b.id for b in backends)]
        return Chain(name, full.cluster, full.backends)

    def _put(self, name: str, backends: Sequence[Backend]) -> None:
        key = tuple(b.id for b in backends)
        if key not in self._by_backends:
            self._by_backends[key] = Chain(name, f"{name}-{digest(*[b.cluster for b in backends])}", tuple(backends))

    def _add_orders(self, name: str, backends: tuple[Backend, ...]) -> None:
        """Make every order that health may ask for, of the chain and of its parts: some moved to the end, in order."""
        for size in range(len(backends), 1, -1):
            for part in combinations(backends, size):
                for demoted in _demotions(size):
                    self._put(name, _ordered(part, demoted))

    @property
    def variants(self) -> list[Chain]:
        """Every chain that a decision may name; the Envoy generator makes one composite cluster of each."""
        return list(self._by_backends.values())

    def part(self, chain: Chain, keep: list[Backend]) -> Chain:
        """The chain with only these of its backends, in its order."""
        found = self._by_backends[tuple(b.id for b in keep)]
        return Chain(chain.name, found.cluster, found.backends)

    def arranged(self, chain: Chain, backends: Sequence[Backend]) -> Chain:
        """The chain in this order of its backends, or the nearest that there is a cluster for: look at what returns.

        `backends` are the chain's own, some of them moved to the end. Up to ALL_ORDERS backends every such order has a
        cluster, of longer chains those that move at most two, or all but one. The first is always the one asked for.
        """
        place = {b.id: i for i, b in enumerate(chain.backends)}
        wanted = [place[b.id] for b in backends]
        turn = next((i for i in range(1, len(wanted)) if wanted[i] < wanted[i - 1]), len(wanted))
        first, demoted = wanted[0], sorted(wanted[turn:])
        for moved in (demoted, demoted[:2], [i for i in range(len(wanted)) if i != first]):
            order = _ordered(chain.backends, moved)
            found = self._by_backends.get(tuple(b.id for b in order))
            if found is not None and order[0] is chain.backends[first]:
                return Chain(chain.name, found.cluster, found.backends)
        return chain

    def named(self, model: str) -> str | None:
        """The route that `models:` gives a client's model name: exact first, then the first matching pattern."""
        models = self.config.models
        if model in models:
            return models[model]
        return next((route for pattern, route in models.items() if fnmatchcase(model, pattern)), None)

    def caller(self, secret: str) -> Caller | None:
        """Look a gateway key up by its hash: the time taken tells nothing about the key."""
        return self.callers.get(hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest())

    def _caller(self, key: KeyConfig) -> Caller:
        routes = None if key.routes is None else tuple(key.routes)
        return Caller(self.config.auth.org, key.team, key.project, key.user, key.name, routes)


def _demotions(size: int) -> Iterator[tuple[int, ...]]:
    """Which places of a chain may be moved to its end: any, but of a long chain at most two, or all but one."""
    for count in range(1, size):
        if size <= ALL_ORDERS or count <= 2 or count == size - 1:
            yield from combinations(range(size), count)


def _ordered(backends: Sequence[Backend], demoted: Collection[int]) -> list[Backend]:
    return [*(b for i, b in enumerate(backends) if i not in demoted), *(backends[i] for i in sorted(demoted))]


def digest(*parts: str) -> str:
    """A short content name."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
