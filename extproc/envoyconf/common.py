"""Small builders that the generator's modules share."""

from __future__ import annotations

from datetime import timedelta

import betterproto2
import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import msgspec
from envoy_data_plane.google.protobuf import Any, Struct, Value

EXTPROC_CLUSTER = "extproc"
ISSUER_CLUSTER = "issuer"
_ALOT = 100_000
"""Limits out of the way: concurrency is admission's business, a full breaker never fails over."""


class Layout(msgspec.Struct, frozen=True):
    """Where things are on the machine that Envoy runs on. `dynamic` is the folder of the CDS and RDS files."""

    sockets: tuple[str, ...]
    listen: str
    admin: str
    dynamic: str | None = None
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    access_log: str = "/dev/stdout"


def seconds(value: float) -> timedelta:
    """A protobuf duration."""
    return timedelta(seconds=value)


def packed(message: betterproto2.Message) -> Any:
    """Wrap a typed config."""
    return Any.pack(message)


def address(host_port: str) -> core.Address:
    """HOST:PORT as a socket address."""
    host, _, port = host_port.rpartition(":")
    return core.Address(socket_address=core.SocketAddress(address=host.strip("[]"), port_value=int(port)))


def struct(values: dict[str, str]) -> Struct:
    """A flat Struct of strings."""
    return Struct(fields={k: Value(string_value=v) for k, v in values.items()})


def breakers() -> cluster.CircuitBreakers:
    """Breakers out of the way, retries by budget: a mass failover must not be cut off."""
    return cluster.CircuitBreakers(thresholds=[cluster.CircuitBreakersThresholds(
        max_connections=_ALOT, max_pending_requests=_ALOT, max_requests=_ALOT, max_retries=_ALOT)])


def assignment(name: str, addresses: list[core.Address], metadata: core.Metadata | None = None,
               ) -> endpoint.ClusterLoadAssignment:
    """Endpoints of a cluster."""
    return endpoint.ClusterLoadAssignment(cluster_name=name, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[
        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=a), metadata=metadata) for a in addresses])])


def http_filter(name: str, config: betterproto2.Message) -> hcm.HttpFilter:
    """A filter with its typed config."""
    return hcm.HttpFilter(name=name, typed_config=packed(config))


Mode = ext_proc.ProcessingModeBodySendMode
Send = ext_proc.ProcessingModeHeaderSendMode
