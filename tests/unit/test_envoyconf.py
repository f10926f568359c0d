"""The generated Envoy configuration: orders of chains, health checks, JSON made from patterns."""

from __future__ import annotations

import json
import warnings
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc import names
from extproc.config import ConfigError, parse
from extproc.core.events import pack
from extproc.runtime import ALL_ORDERS, Backend, Chain, Detected, Runtime
from tests.stage_kit import carried, runtime

with warnings.catch_warnings():  # envoy-data-plane still uses what pydantic calls deprecated
    warnings.simplefilter("ignore")
    from extproc.envoyconf import bootstrap, clusters, listener
    from extproc.envoyconf.common import Layout

LAYOUT = Layout(("/run/w.sock",), "127.0.0.1:10000", "127.0.0.1:9901", "/run/xds")
LOCAL = """
backends:
  big: {{schema: openai, base_url: "https://api.example.com/v1", location: cloud{cloud}}}
  box: {{schema: {schema}, base_url: "{url}", location: local{local}}}
chains:
  local: [box/m, big/m]
models: {{auto: local}}
"""


def compiled(local: str = "", cloud: str = "", url: str = "http://127.0.0.1:8000/v1",
             detected: dict[str, Detected] | None = None) -> Runtime:
    schema = "ollama" if "ollama" in local else "openai"
    text = LOCAL.format(schema=schema, local=local and f", {local}", cloud=cloud and f", {cloud}", url=url)
    return Runtime(parse(text, "t", Path()), lambda provider, model: (None, None), detected)


def long_chain(count: int) -> Runtime:
    names = [f"b{i}" for i in range(count)]
    backends = "".join(f'  {n}: {{schema: openai, base_url: "http://127.0.0.1:90{i:02}/v1", location: cloud}}\n'
                       for i, n in enumerate(names))
    chain = ", ".join(f"{n}/m" for n in names)
    text = f"backends:\n{backends}chains:\n  all: [{chain}]\nmodels: {{auto: all}}\n"
    return Runtime(parse(text, "t", Path()), lambda provider, model: (None, None))


def check(rt: Runtime, name: str = "box/m") -> dict[str, Any] | None:
    """The health check of a backend's cluster, as Envoy reads it."""
    for found in bootstrap.cds([rt], LAYOUT)["resources"]:
        if found["name"].startswith(f"{name}@"):
            return found.get("healthChecks", [None])[0]
    raise AssertionError(name)


def partitions(backends: tuple[Backend, ...]) -> list[tuple[Backend, ...]]:
    """Every order that keeps the order among some and among the others."""
    found: dict[tuple[Backend, ...], None] = {}
    for size in range(len(backends) + 1):
        for moved in combinations(backends, size):
            found[(*[b for b in backends if b not in moved], *moved)] = None
    return list(found)


class TestOrders:
    """The clusters for orders that health may ask for."""

    @pytest.mark.parametrize("count", range(1, ALL_ORDERS + 1))
    def test_every_order_of_a_short_chain(self, count: int) -> None:
        """Up to four backends every order that moves some to the end has a cluster of its own, for parts as well."""
        rt = long_chain(count)
        chain = rt.chains["all"]
        clusters_: set[str] = set()
        for size in range(1, count + 1):
            for keep in combinations(chain.backends, size):
                part = rt.part(chain, list(keep))
                for order in partitions(keep):
                    found = rt.arranged(part, order)
                    assert (found.backends, found.name) == (order, "all")
                    clusters_.add(found.cluster)
        assert clusters_ <= {variant.cluster for variant in rt.variants}
        assert len(clusters_) == sum(
            len(partitions(keep)) for size in range(1, count + 1) for keep in combinations(chain.backends, size))

    @pytest.mark.parametrize("count", [5, 6])
    def test_orders_of_a_long_chain(self, count: int) -> None:
        """Of more, those that move up to two; any other comes as near as it can, with the first as asked."""
        rt = long_chain(count)
        chain = rt.chains["all"]
        for order in partitions(chain.backends):
            found = rt.arranged(chain, order)
            assert sorted(b.id for b in found.backends) == sorted(b.id for b in order)
            assert found.backends[0] is order[0]
            assert found in [renamed(variant, chain.name) for variant in rt.variants]
            first = [chain.backends.index(b) for b in order]
            moved = count - next((i for i in range(1, count) if first[i] < first[i - 1]), count)
            if moved <= 2:
                assert found.backends == order

    @pytest.mark.parametrize("count", [3, 5, 6])
    def test_parts_of_orders(self, count: int) -> None:
        """What is left of an arranged chain, when some of it cannot serve or is over its limits, has a cluster too."""
        rt = long_chain(count)
        for variant in rt.variants:
            if variant.name == "all":
                for size in range(1, len(variant.backends)):
                    for keep in combinations(variant.backends, size):
                        assert rt.part(variant, list(keep)).backends == keep

    def test_no_order_is_invented(self) -> None:
        """Whatever order is asked for, what is returned says what it is, and is walked by a cluster of that order."""
        rt = long_chain(4)
        chain = rt.chains["all"]
        by_cluster = {variant.cluster: variant.backends for variant in rt.variants}
        for order in permutations(chain.backends):
            found = rt.arranged(chain, order)
            assert by_cluster[found.cluster] == found.backends
            assert found.backends[0] is order[0]

    def test_arranged_again(self) -> None:
        """An order of a chain can be put back into the chain's own."""
        rt = long_chain(4)
        chain = rt.chains["all"]
        moved = rt.arranged(chain, [chain.backends[i] for i in (1, 3, 0, 2)])
        assert rt.arranged(chain, chain.backends) == chain
        assert rt.part(moved, list(moved.backends)) == moved

    def test_bounded(self) -> None:
        """The longest chain has some hundred clusters; a usual one of three has a few."""
        assert len(long_chain(6).variants) <= 6 + 450
        assert len(long_chain(3).variants) == 3 + 14
        names = [variant.cluster for variant in long_chain(6).variants]
        assert len(set(names)) == len(names)

    def test_a_chain_keeps_its_name(self) -> None:
        """A chain that is another one's order has its own name in statistics."""
        rt = runtime(base=runtime_text())
        assert rt.chains["one"].cluster.startswith("one-")
        assert rt.chains["two"].cluster.startswith("two-")


def renamed(chain: Chain, name: str) -> Chain:
    return msgspec.structs.replace(chain, name=name)


def runtime_text() -> str:
    return """
backends:
  a: {schema: openai, base_url: "http://127.0.0.1:9001/v1", location: cloud}
  b: {schema: openai, base_url: "http://127.0.0.1:9002/v1", location: cloud}
chains:
  one: [a/m, b/m]
  two: [b/m, a/m]
models: {auto: one}
"""


class TestPatterns:
    """JSON that is made from one pattern is what the typed messages say."""

    def test_clusters(self) -> None:
        """Each chain's cluster in CDS is the typed one."""
        rt = runtime()
        made = {c["name"]: c for c in bootstrap.cds([rt, rt], LAYOUT)["resources"]}
        assert len(made) == len(rt.variants) + len({b.cluster for b in rt.backends.values()})
        for variant in rt.variants:
            typed = bootstrap._as_json(clusters.chain(variant))  # pyright: ignore[reportPrivateUsage]
            assert {k: v for k, v in made[variant.cluster].items() if k != "@type"} == typed

    def test_routes(self) -> None:
        """Each chain's route in RDS is the typed one."""
        rt = runtime()
        typed = bootstrap._as_json(listener.routes([rt]))  # pyright: ignore[reportPrivateUsage]
        [made] = bootstrap.rds([rt])["resources"]
        assert {k: v for k, v in made.items() if k != "@type"} == typed

    def test_static(self) -> None:
        """One file with everything has the same clusters, and no part of it stands in two places."""
        rt = runtime()
        made = bootstrap.static(rt, LAYOUT)
        wanted = {c["name"] for c in bootstrap.cds([rt], LAYOUT)["resources"]}
        assert {c["name"] for c in made["staticResources"]["clusters"]} >= wanted
        seen: set[int] = set()

        def walk(part: Any) -> None:
            if isinstance(part, dict | list) and part:
                assert id(part) not in seen
                seen.add(id(part))
                for inner in part.values() if isinstance(part, dict) else part:
                    walk(inner)

        walk(made)
        assert json.loads(json.dumps(made)) == made


class TestHealthChecks:
    """How Envoy looks whether a server is there."""

    def test_cloud(self) -> None:
        """A cloud is not checked unless that is asked for."""
        assert check(compiled(), "big/m") is None
        asked = check(compiled(cloud="health: {path: /ping}"), "big/m")
        assert asked is not None
        assert (asked["httpHealthCheck"]["path"], asked["httpHealthCheck"]["host"]) == ("/ping", "api.example.com")
        assert asked["tlsOptions"] == {"alpnProtocols": ["http/1.1"]}

    @pytest.mark.parametrize(("local", "url", "path"), [
        ("dialect: ollama", "http://127.0.0.1:11434", "/"),
        ("dialect: vllm", "http://127.0.0.1:8000/v1", "/health"),
        ("dialect: llamacpp", "http://127.0.0.1:8000/box/v1", "/box/health"),
        ("dialect: llamacpp, health: {path: /alive}", "http://127.0.0.1:8000/box/v1", "/alive"),
    ])
    def test_path(self, local: str, url: str, path: str) -> None:
        """A local server is asked where its dialect says, below its base path, or where the file says."""
        found = check(compiled(local, url=url))
        assert found is not None
        assert found["httpHealthCheck"]["path"] == path
        assert found["httpHealthCheck"]["expectedStatuses"] == [{"start": "200", "end": "500"}]

    def test_unknown_server(self) -> None:
        """Of a server of which nothing is known, a connection is enough; what it tells of itself is used."""
        assert (check(compiled()) or {})["tcpHealthCheck"] == {}
        told = compiled(detected={"box": Detected("llamacpp")})
        assert (check(told) or {})["httpHealthCheck"]["path"] == "/health"

    def test_off(self) -> None:
        """It can be turned off."""
        assert check(compiled('health: "off"')) is None

    def test_how_often(self) -> None:
        """Every five seconds or as the file says, six times less often where nothing is sent, as often when it is away."""
        found = check(compiled()) or {}
        assert (found["interval"], found["noTrafficInterval"], found["noTrafficHealthyInterval"]) == ("5s", "1s", "30s")
        found = check(compiled("health: {every: 1s}")) or {}
        assert (found["interval"], found["timeout"], found["noTrafficHealthyInterval"]) == ("1s", "1s", "6s")

    def test_names(self) -> None:
        """A changed check is a new cluster: nothing changes under a live request."""
        names = {compiled(local).backends["box/m"].cluster for local in (
            "", 'health: "off"', "health: {every: 1s}", "health: {path: /x}", "dialect: vllm")}
        assert len(names) == 5
        assert compiled().backends["box/m"].cluster == compiled("capacity: 3").backends["box/m"].cluster

    @pytest.mark.parametrize("local", [
        "health: {every: 10ms}", "health: {every: 2h}", "health: {path: alive}", 'health: {path: "/a b"}', "health: on",
        'health: {path: "/a\\nHost: x"}', "capacity: 0", "capacity: -1", "capacity: many",
    ])
    def test_refused(self, local: str) -> None:
        """Times out of bounds, paths that are none and capacities below one are errors of the file."""
        with pytest.raises(ConfigError):
            compiled(local)

    def test_capacity(self) -> None:
        """How many requests fit is known of a backend, and unknown unless the file says."""
        assert (compiled("capacity: 4").backends["box/m"].capacity, compiled().backends["box/m"].capacity) == (4, None)


class TestLocalReplies:
    """What Envoy answers itself, in the words of the client's API."""

    @staticmethod
    def mappers() -> list[dict[str, Any]]:
        """As Envoy reads them."""
        found = bootstrap._as_json(listener.main(compiled().config, LAYOUT, None))  # pyright: ignore[reportPrivateUsage]
        manager = found["filterChains"][0]["filters"][0]["typedConfig"]
        return manager["localReplyConfig"]["mappers"]

    @pytest.mark.parametrize(("schema", "anthropic"), [
        ("anthropic", True), ("count_tokens", True), ("openai", False), ("responses", False), ("ollama", False),
    ])
    def test_a_decision_tells_the_clients_api(self, schema: str, anthropic: bool) -> None:
        """A decision as it travels names the API in the text that is looked for; a client's own text never does."""
        text = pack(carried(schema=schema, model='"schema":"anthropic"', query='"schema":"count_tokens"'))
        first = self.mappers()[0]["filter"]["andFilter"]["filters"][1]["metadataFilter"]
        assert (first["matchIfKeyNotFound"], first["matcher"]["filter"], first["matcher"]["path"]) == (
            False, names.METADATA, [{"key": names.METADATA_FIELD}])
        wanted = [one["stringMatch"]["contains"] for one in first["matcher"]["value"]["orMatch"]["valueMatchers"]]
        assert any(part in text for part in wanted) is anthropic

    def test_every_status_has_every_shape(self) -> None:
        """Told by the decision, else by the path; a 502 only where a provider broke the protocol. All become 503."""
        found = self.mappers()
        assert {mapper["statusCode"] for mapper in found} == {503}
        told: dict[int, list[str]] = {}
        for mapper in found:
            status, client, *flags = mapper["filter"]["andFilter"]["filters"]
            code = status["statusCodeFilter"]["comparison"]["value"]["defaultValue"]
            assert flags == ([{"responseFlagFilter": {"flags": ["UPE"]}}] if code == 502 else [])
            body = json.loads(mapper["bodyFormatOverride"]["textFormatSource"]["inlineString"])
            told.setdefault(code, []).append(f"{next(iter(client))} {body.get('type', 'openai')}")
        each = ["metadataFilter error", "metadataFilter openai", "headerFilter error", "headerFilter openai"]
        assert told == {508: each, 504: each, 502: each}
