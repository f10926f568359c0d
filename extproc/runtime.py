"""gateway.yaml compiled once into an immutable object that the stages read; swapped whole on reload.

Envoy clusters are named by their content, so a reload only ever adds clusters and later removes unused ones: nothing
changes under a live request, and a request decided under the old configuration still finds its clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from itertools import combinations
from urllib.parse import urlsplit

import msgspec

from extproc.config import BackendConfig, GatewayConfig, KeyConfig, ModelConfig
from extproc.core.identity import Caller
from extproc.core.pricing import FREE, Price, Rate, per_million
from extproc.dialects import DIALECTS, by_host

Catalogue = Callable[[str | None, str], tuple[Price | None, int | None]]
ANY = "*"
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
            cluster=f"{name}/{endpoint}@{digest(backend.base_url, str(failover.connect_timeout))}",
            lacks=frozenset([*backend.lacks, *known.lacks]) | DIALECTS[dialect].lacks,
            context=known.context or context,
            max_output=known.max_output, default_max_tokens=known.default_max_tokens, price=price,
        )

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
        if known.usd_per_million_input is not None and known.usd_per_million_output is not None:
            return Price(Rate(per_million(known.usd_per_million_input)),
                         Rate(per_million(known.usd_per_million_output)), version="gateway.yaml"), context
        return (FREE, context) if backend.location == "local" else (listed, context)

    def _add(self, name: str, backends: list[Backend]) -> Chain:
        """Make the chain and every order-preserving part of it: what pruning by capability may leave."""
        for size in range(len(backends), 0, -1):
            for part in combinations(backends, size):
                key = tuple(b.id for b in part)
                if key not in self._by_backends:
                    cluster = f"{name}-{digest(*[b.cluster for b in part])}"
                    self._by_backends[key] = Chain(name, cluster, part)
        full = self._by_backends[tuple(b.id for b in backends)]
        return Chain(name, full.cluster, full.backends)

    @property
    def variants(self) -> list[Chain]:
        """Every chain that a decision may name; the Envoy generator makes one composite cluster of each."""
        return list(self._by_backends.values())

    def part(self, chain: Chain, keep: list[Backend]) -> Chain:
        """The chain with only these of its backends, in its order."""
        found = self._by_backends[tuple(b.id for b in keep)]
        return Chain(chain.name, found.cluster, found.backends)

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


def digest(*parts: str) -> str:
    """A short content name."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
