"""What must agree across a gateway.yaml: names that must exist elsewhere in it, settings that exclude each other."""

from __future__ import annotations

from extproc.config.model import MAX_CHAIN, SPOKEN, GatewayConfig
from extproc.config.routing import WhenConfig, glob, texts

Finding = tuple[tuple[str | int, ...], str]
"""The path of the wrong value, and what is allowed."""


def references(config: GatewayConfig) -> list[Finding]:
    """Names that must exist elsewhere in the file, and settings that exclude each other."""
    return [*_in_backends(config), *_in_chains(config), *_in_routes(config), *_in_money(config),
            *_in_smart(config), *_in_settings(config)]


def _in_backends(config: GatewayConfig) -> list[Finding]:
    found: list[Finding] = []
    for name, backend in config.backends.items():
        if backend.schema_ is None and backend.dialect is None:
            found.append((("backends", name, "schema"), "is required, unless a dialect is given"))
        elif backend.schema_ is not None and backend.dialect is not None:
            spoken = SPOKEN.get(backend.dialect, ("openai",))
            if backend.schema_ not in spoken:
                found.append((("backends", name, "schema"),
                              f"dialect {backend.dialect} speaks: {', '.join(spoken)}"))
    return found


def _in_chains(config: GatewayConfig) -> list[Finding]:
    found: list[Finding] = []
    for chain, entries in config.chains.items():
        if chain == "smart":
            found.append((("chains", chain), "smart is the name of the smart flow; choose another"))
        if not 1 <= len(entries) <= MAX_CHAIN:
            found.append((("chains", chain), f"expected 1 to {MAX_CHAIN} entries, got {len(entries)}"))
        for index, entry in enumerate(entries):
            place = ("chains", chain, index)
            backend, _, model = entry.partition("/")
            if not backend or not model:
                found.append((place, f"expected BACKEND/MODEL, got {entry}"))
            elif backend not in config.backends:
                found.append((place, f"unknown backend {backend}; allowed: {', '.join(sorted(config.backends))}"))
            elif entry in entries[:index]:
                found.append((place, f"{entry} is already in this chain"))
    return found


def _in_routes(config: GatewayConfig) -> list[Finding]:
    found: list[Finding] = []
    chains = sorted(config.chains)
    places: list[Finding] = [(("models", m), r) for m, r in config.models.items()]
    places += [(("routing", "rules", i, *place), route) for i, rule in enumerate(config.routing.rules)
               for place, route in rule.targets() if place != ("shadow",)]
    places += [(("auth", "keys", i, "routes", j), route) for i, key in enumerate(config.auth.keys)
               for j, route in enumerate(key.routes or [])]
    for place, route in places:
        backend, _, model = route.partition("/")
        if route not in config.chains and route != "smart" and not (backend in config.backends and model):
            found.append((place, f"unknown chain {route}; allowed: {', '.join([*chains, 'smart'])}, or BACKEND/MODEL"))
    if any(route == "smart" for _, route in places):
        for field, route in config.routing.smart.targets().items():
            if route not in config.chains:
                what = (f"unknown chain {route}" if field in config.routing.smart.model_fields_set
                        else f"is {route} unless it is given, and no chain has that name")
                found.append((("routing", "smart", field), f"{what}; allowed: {', '.join(chains)}"))
    return [*found, *_in_rules(config)]


def _in_rules(config: GatewayConfig) -> list[Finding]:
    """Chains that rules shadow to, and backends that their conditions name."""
    found: list[Finding] = []
    for index, rule in enumerate(config.routing.rules):
        place = ("routing", "rules", index)
        if rule.shadow is not None and rule.shadow not in config.chains:
            found.append(((*place, "shadow"),
                          f"unknown chain {rule.shadow}; allowed: {', '.join(sorted(config.chains))}"))
        found += _in_when(config, rule.when, (*place, "when"))
    return found


def _in_when(config: GatewayConfig, when: WhenConfig, place: tuple[str | int, ...]) -> list[Finding]:
    found: list[Finding] = []
    for name in texts(when.down) if when.down is not None else ():
        if not any(map(glob(name), config.backends)):
            found.append(((*place, "down"), f"unknown backend {name}; allowed: {', '.join(sorted(config.backends))}"))
    for key, inner in (("any", when.any_), ("all", when.all_)):
        for index, part in enumerate(inner or ()):
            found += _in_when(config, part, (*place, key, index))
    return found if when.not_ is None else [*found, *_in_when(config, when.not_, (*place, "not"))]


def _in_smart(config: GatewayConfig) -> list[Finding]:
    found: list[Finding] = []
    smart, place = config.routing.smart, ("routing", "smart")
    if len(ways := smart.ways()) > 1:
        found.append(((*place, ways[-1]), f"exclude each other: {', '.join(ways)}; give one"))
    entries = {entry for chain in config.chains.values() for entry in chain}
    for name in smart.priors:
        if name not in config.backends and name not in entries:
            found.append(((*place, "priors", name), f"unknown backend {name}; allowed: {', '.join(config.backends)}, "
                                                    "or BACKEND/MODEL of a chain"))
    return found


def _in_money(config: GatewayConfig) -> list[Finding]:
    """Two budgets, or two limits, of the same requests, unit and period would contradict each other; budgets without
    the store need a purse."""
    found: list[Finding] = []
    if config.budgets and config.money.store_down == "allow" and config.money.allow is None:
        found.append((("money", "store_down"), "allow with budgets needs a bound for each worker, such as money.allow: "
                                               "{usd: 5, requests: 1000, for: 10m}"))
    seen: set[tuple[object, ...]] = set()
    for index, budget in enumerate(config.budgets):
        unit = next(u for u in ("usd", "tokens", "requests") if getattr(budget, u) is not None)
        what = ("budget", *budget.for_.pair(), unit, budget.per, budget.time_zone)
        if what in seen:
            found.append((("budgets", index), f"another budget in {unit} per {budget.per} of the same stands above"))
        seen.add(what)
    for index, limit in enumerate(config.limits):
        unit = next(u for u in ("requests", "tokens", "concurrent") if getattr(limit, u) is not None)
        dimension, whose = limit.for_.pair()
        if dimension == "backend" and whose not in ("*", *config.backends):
            found.append((("limits", index, "for", "backend"),
                          f"unknown backend {whose}; allowed: {', '.join(sorted(config.backends))}, *"))
        what = ("limit", dimension, whose, unit, limit.per)
        if what in seen:
            found.append((("limits", index), f"another limit of {unit} of the same stands above"))
        seen.add(what)
    return found


def _in_settings(config: GatewayConfig) -> list[Finding]:
    found: list[Finding] = []
    host = config.listen.rpartition(":")[0]
    if config.auth.mode == "none" and host not in ("127.0.0.1", "[::1]", "localhost"):
        found.append((("listen",), f"{config.listen} is not loopback, and auth.mode none is for loopback only; "
                                   "use auth.mode keys, or 127.0.0.1, [::1] or localhost"))
    if config.money.baseline is not None:
        backend, _, model = config.money.baseline.partition("/")
        if backend not in config.backends or not model:
            found.append((("money", "baseline"), f"unknown backend {backend}; expected BACKEND/MODEL, with one of: "
                                                 f"{', '.join(config.backends)}"))
    return found
