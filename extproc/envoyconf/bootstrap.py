"""The whole Envoy configuration: one static file (edge, sidecar), or a bootstrap with CDS and RDS files."""

from __future__ import annotations

import json
from functools import cache
from typing import Any as Json
from urllib.parse import urlsplit

import betterproto2
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf import clusters, listener
from extproc.envoyconf.common import Layout, address, assignment, seconds
from extproc.runtime import Chain, Runtime


def static(runtime: Runtime, layout: Layout) -> dict[str, Json]:
    """Everything in one file."""
    resources = bootstrap.BootstrapStaticResources(
        listeners=[listener.main(runtime.config, layout, listener.routes([runtime]))],
        clusters=[*_fixed(runtime, layout), *clusters.leaves(runtime, layout)])
    made = _as_json(_bootstrap(layout, resources))
    made["staticResources"]["clusters"] += [_chain(part) for part in runtime.variants]
    return json.loads(json.dumps(made))  # no part is shared: YAML would write anchors


def dynamic(runtime: Runtime, layout: Layout) -> dict[str, Json]:
    """A bootstrap whose chains come from `cds.json` and `rds.json` in the layout's folder."""
    resources = bootstrap.BootstrapStaticResources(
        listeners=[listener.main(runtime.config, layout, None)], clusters=_fixed(runtime, layout))
    message = _bootstrap(layout, resources)
    message.dynamic_resources = bootstrap.BootstrapDynamicResources(
        cds_config=listener.file_source(f"{layout.dynamic}/cds.json"))
    return _as_json(message)


def cds(runtimes: list[Runtime], layout: Layout) -> dict[str, Json]:
    """The CDS file: the clusters of all these runtimes (the new one, and the old one while it is still in use)."""
    found = {c.name: c for runtime in runtimes for c in clusters.leaves(runtime, layout)}
    chains = {part.cluster: part for runtime in runtimes for part in runtime.variants}
    typed = {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}
    return {"resources": [*(_as_json(Any.pack(leaf)) for leaf in found.values()),
                          *(typed | _chain(part) for part in chains.values())]}


def rds(runtimes: list[Runtime]) -> dict[str, Json]:
    """The RDS file."""
    made = _as_json(Any.pack(listener.routes(runtimes, only_first=True)))
    host = made["virtualHosts"][0]
    [pattern] = host["routes"]
    host["routes"] = [_renamed(pattern, name) for name in listener.chain_names(runtimes)]
    return {"resources": [made]}


def _chain(part: Chain) -> dict[str, Json]:
    """A composite cluster as JSON: there may be hundreds, they differ in their names alone, and typed messages are
    slow to make."""
    pattern = _chain_pattern()
    kind = pattern["clusterType"]
    members = [{"name": backend.cluster} for backend in part.backends]
    return pattern | {"name": part.cluster,
                      "clusterType": kind | {"typedConfig": kind["typedConfig"] | {"clusters": members}}}


@cache
def _chain_pattern() -> dict[str, Json]:
    return _as_json(clusters.chain(Chain("", "", ())))


def _renamed(pattern: dict[str, Json], name: str) -> dict[str, Json]:
    """The route of another chain."""
    [header] = pattern["match"]["headers"]
    return pattern | {
        "name": name, "route": pattern["route"] | {"cluster": name},
        "match": pattern["match"] | {"headers": [header | {"stringMatch": {"exact": name}}]}}


def _bootstrap(layout: Layout, resources: bootstrap.BootstrapStaticResources) -> bootstrap.Bootstrap:
    return bootstrap.Bootstrap(
        node=core.Node(id="extproc", cluster="extproc"), static_resources=resources,
        admin=bootstrap.Admin(address=address(layout.admin)))


def _fixed(runtime: Runtime, layout: Layout) -> list[cluster.Cluster]:
    fixed = [clusters.workers(layout)]
    jwt = runtime.config.auth.jwt
    if jwt is not None and jwt.jwks.uri is not None:
        fixed.append(clusters.issuer(jwt.jwks.uri, layout))
    if endpoint := runtime.config.telemetry.otlp_endpoint:
        url = urlsplit(endpoint)
        where = core.Address(socket_address=core.SocketAddress(
            address=url.hostname or "", port_value=url.port or 4318))
        fixed.append(cluster.Cluster(
            name=listener.OTLP_CLUSTER, type=cluster.ClusterDiscoveryType.STRICT_DNS, connect_timeout=seconds(1),
            load_assignment=assignment(listener.OTLP_CLUSTER, [where])))
    return fixed


# betterproto2 0.9 spells the JSON names of fields with a digit wrongly; protobuf's own are these.
_MISSPELT = (("consecutive5Xx", "consecutive5xx"), ("enforcingConsecutive5Xx", "enforcingConsecutive5xx"))


def _as_json(message: betterproto2.Message) -> dict[str, Json]:
    text = message.to_json()
    for wrong, right in _MISSPELT:
        text = text.replace(f'"{wrong}"', f'"{right}"')
    return json.loads(text)
