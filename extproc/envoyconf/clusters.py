"""Clusters: the ext_proc workers, one leaf per backend, one composite per chain with the attempt filter on it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.clusters.composite.v3 as composite
import envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 as codec
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstreams
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as envoy_type

from extproc import names
from extproc.envoyconf.common import (
    EXTPROC_CLUSTER,
    ISSUER_CLUSTER,
    Layout,
    assignment,
    breakers,
    http_filter,
    packed,
    seconds,
    struct,
)
from extproc.envoyconf.filters import attempt_stage
from extproc.runtime import Backend, Chain, Runtime

AWAY = 1.0
"""Seconds between checks of a server that is away."""
CHECK_TIMEOUT = 2.0
"""Seconds until a health check counts as failed; a new cluster waits for its first one."""
IDLE = 6
"""A healthy server without traffic is checked so many times less often."""
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def leaves(runtime: Runtime, layout: Layout) -> list[cluster.Cluster]:
    """A cluster per backend."""
    return list({b.cluster: leaf(b, runtime, layout) for b in runtime.backends.values()}.values())


def workers(layout: Layout) -> cluster.Cluster:
    """The ext_proc workers, each on its own Unix socket; a dead one is out at once and costs no later request."""
    sockets = [core.Address(pipe=core.Pipe(path=path)) for path in layout.sockets]
    http2 = upstreams.HttpProtocolOptions(explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
        http2_protocol_options=core.Http2ProtocolOptions()))
    return cluster.Cluster(
        name=EXTPROC_CLUSTER, type=cluster.ClusterDiscoveryType.STATIC, connect_timeout=seconds(0.5),
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST, load_assignment=assignment(EXTPROC_CLUSTER, sockets),
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=envoy_type.Percent(value=0)),
        health_checks=[core.HealthCheck(
            timeout=seconds(0.5), interval=seconds(0.25), no_traffic_interval=seconds(0.25), unhealthy_threshold=1,
            healthy_threshold=1, grpc_health_check=core.HealthCheckGrpcHealthCheck())],
        outlier_detection=cluster.OutlierDetection(
            consecutive_5xx=1, interval=seconds(0.1), base_ejection_time=seconds(1), max_ejection_percent=100),
        circuit_breakers=breakers(), typed_extension_protocol_options={_PROTOCOL: packed(http2)},
    )


def leaf(backend: Backend, runtime: Runtime, layout: Layout) -> cluster.Cluster:
    """One provider endpoint. Its host carries our mark, by which the attempt stage knows where it is."""
    url = urlsplit(runtime.config.backends[backend.name].base_url)
    host, secure = url.hostname or "", url.scheme == "https"
    port = url.port or (443 if secure else 80)
    where = core.Address(socket_address=core.SocketAddress(address=host, port_value=port))
    mark = core.Metadata(filter_metadata={names.METADATA: struct({names.TARGET_FIELD: backend.id})})
    kind = cluster.ClusterDiscoveryType
    return cluster.Cluster(
        name=backend.cluster, type=kind.STATIC if _is_ip(host) else kind.LOGICAL_DNS,
        # Both families, raced: a name that resolves to ::1 first is no dead backend.
        dns_lookup_family=cluster.ClusterDnsLookupFamily.ALL,
        connect_timeout=seconds(runtime.config.failover.connect_timeout),
        load_assignment=assignment(backend.cluster, [where], mark), circuit_breakers=breakers(),
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=envoy_type.Percent(value=0)),
        # Only what never reached the provider ejects it (refused, reset, timed out); its own 429 and 5xx are
        # answers, and the chain walks on for each request anyway.
        outlier_detection=cluster.OutlierDetection(
            split_external_local_origin_errors=True, consecutive_local_origin_failure=5,
            enforcing_consecutive_5xx=0, enforcing_consecutive_gateway_failure=0, enforcing_success_rate=0,
            enforcing_local_origin_success_rate=0, interval=seconds(1), base_ejection_time=seconds(2),
            max_ejection_time=seconds(30), max_ejection_percent=100),
        health_checks=health_checks(backend, runtime),
        upstream_connection_options=cluster.UpstreamConnectionOptions(tcp_keepalive=core.TcpKeepalive(
            keepalive_time=60, keepalive_interval=15, keepalive_probes=3)),
        typed_extension_protocol_options={_PROTOCOL: packed(_protocol(secure))},
        transport_socket=_tls(host, layout.ca_file) if secure else None,
    )


def health_checks(backend: Backend, runtime: Runtime) -> list[core.HealthCheck]:
    """How Envoy looks whether a server is there, so that a chain passes over it before anything is sent.

    A server that is idle is asked rarely, one that is away as often as one in use: it gets no traffic until it is back.
    """
    checked = runtime.config.backends[backend.name].checked
    if checked is None:
        return []
    path, every = runtime.health_path(backend.name), seconds(checked.every)
    check = core.HealthCheck(
        timeout=seconds(min(checked.every, CHECK_TIMEOUT)), interval=every, interval_jitter_percent=10,
        # Two silent checks in a row; of an answer in words (503) Envoy needs one.
        unhealthy_threshold=2, healthy_threshold=1,
        # One that is away, or was never asked, is soon seen when it comes: it may just be loading its model.
        no_traffic_interval=seconds(min(checked.every, AWAY)), unhealthy_interval=seconds(min(checked.every, AWAY)),
        no_traffic_healthy_interval=seconds(checked.every * IDLE),
        reuse_connection=False)  # an idle connection may hold one of the server's few threads
    if path is None:
        check.tcp_health_check = core.HealthCheckTcpHealthCheck()
        return [check]
    check.http_health_check = core.HealthCheckHttpHealthCheck(
        path=path, host=backend.authority,
        # Whoever answers is there: its key and its routes are not the check's business.
        expected_statuses=[envoy_type.Int64Range(start=200, end=500)])
    if runtime.config.backends[backend.name].base_url.startswith("https:"):
        check.tls_options = core.HealthCheckTlsOptions(alpn_protocols=["http/1.1"])
    return [check]


def issuer(uri: str, layout: Layout) -> cluster.Cluster:
    """Where the public keys of the tokens' issuer are fetched from; no route leads here."""
    url = urlsplit(uri)
    host, secure = url.hostname or "", url.scheme == "https"
    where = core.Address(socket_address=core.SocketAddress(
        address=host, port_value=url.port or (443 if secure else 80)))
    kind = cluster.ClusterDiscoveryType
    return cluster.Cluster(
        name=ISSUER_CLUSTER, type=kind.STATIC if _is_ip(host) else kind.LOGICAL_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.ALL, connect_timeout=seconds(2),
        load_assignment=assignment(ISSUER_CLUSTER, [where]),
        typed_extension_protocol_options={_PROTOCOL: packed(_protocol(secure))},
        transport_socket=_tls(host, layout.ca_file) if secure else None,
    )


def _protocol(secure: bool) -> upstreams.HttpProtocolOptions:
    common = core.HttpProtocolOptions(idle_timeout=seconds(300))
    if secure:
        auto = upstreams.HttpProtocolOptionsAutoHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions(), http2_protocol_options=core.Http2ProtocolOptions())
        return upstreams.HttpProtocolOptions(common_http_protocol_options=common, auto_config=auto)
    plain = upstreams.HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=core.Http1ProtocolOptions())
    return upstreams.HttpProtocolOptions(common_http_protocol_options=common, explicit_http_config=plain)


def _tls(host: str, ca_file: str) -> core.TransportSocket:
    san = tls.SubjectAltNameMatcher(
        san_type=tls.SubjectAltNameMatcherSanType.IP_ADDRESS if _is_ip(host) else tls.SubjectAltNameMatcherSanType.DNS,
        matcher=matcher.StringMatcher(exact=host))
    context = tls.UpstreamTlsContext(
        sni="" if _is_ip(host) else host,
        common_tls_context=tls.CommonTlsContext(validation_context=tls.CertificateValidationContext(
            trusted_ca=core.DataSource(filename=ca_file), match_typed_subject_alt_names=[san])))
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def chain(part: Chain) -> cluster.Cluster:
    """Attempt k goes to sub-cluster k. Upstream filters of sub-clusters are skipped, so the filter stands here."""
    members = [composite.ClusterConfigClusterEntry(name=b.cluster) for b in part.backends]
    options = upstreams.HttpProtocolOptions(
        explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()),
        http_filters=[attempt_stage(), http_filter("envoy.filters.http.upstream_codec", codec.UpstreamCodec())])
    return cluster.Cluster(
        name=part.cluster, connect_timeout=seconds(2), lb_policy=cluster.ClusterLbPolicy.CLUSTER_PROVIDED,
        cluster_type=cluster.ClusterCustomClusterType(
            name="envoy.clusters.composite", typed_config=packed(composite.ClusterConfig(clusters=members))),
        circuit_breakers=cluster.CircuitBreakers(thresholds=[cluster.CircuitBreakersThresholds(
            max_connections=100_000, max_pending_requests=100_000, max_requests=100_000,
            retry_budget=cluster.CircuitBreakersThresholdsRetryBudget(
                budget_percent=envoy_type.Percent(value=100), min_retry_concurrency=100_000))]),
        typed_extension_protocol_options={_PROTOCOL: packed(options)},
    )
