"""The listener: strip and normalise first, then the token check if any, the request stage, and one route per chain."""

from __future__ import annotations

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as rules
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.config.trace.v3 as trace
import envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 as grpc_log
import envoy_data_plane.envoy.extensions.access_loggers.stream.v3 as stream_log
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as envoy_type

from extproc import names
from extproc.config import GatewayConfig
from extproc.envoyconf.common import EXTPROC_CLUSTER, Layout, Struct, Value, address, http_filter, packed, seconds
from extproc.envoyconf.filters import NO_WORKER, request_stage, token_check
from extproc.runtime import Runtime

ROUTES = "chains"
OTLP_CLUSTER = "otlp"
NO_ANSWER = 504  # what Envoy answers when a worker took a message and says nothing within its timeout
BROKEN_OFF = 502  # ... and, with the flag UPE, when a provider breaks off between the two stages' looks at its headers
_NOBODY = "no worker of the gateway answered in time; send it again shortly"
_MESSAGES = {int(NO_WORKER.code): _NOBODY, NO_ANSWER: _NOBODY,
             BROKEN_OFF: "the provider broke its answer off; send it again"}
_OPENAI = ('{"error":{"message":"MESSAGE","type":"server_error","param":null,"code":"service_unavailable"},'
           '"request_id":"%REQ(X-REQUEST-ID)%"}')
_ANTHROPIC = '{"type":"error","error":{"type":"api_error","message":"MESSAGE"},"request_id":"%REQ(X-REQUEST-ID)%"}'
_OF_ANTHROPIC = ('"schema":"anthropic"', '"schema":"count_tokens"')
"""In a decision as it travels (core.events.pack): it is one of Anthropic's API. No text of a client can hold that."""
_INTERNAL = ("x-envoy-",)
# The payload of a token is stripped in every mode: workers may hear of a new mode before this listener is replaced.
_INTERNAL_EXACT = (names.CLUSTER, names.RETRY, names.BACKEND, names.STAGE, names.MODEL, names.ATTEMPTS,
                   names.REQUEST_ID, names.REASON, names.JWT)
_LOG = {
    "event": "access", "start": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%", "bytes_in": "%BYTES_RECEIVED%", "bytes_out": "%BYTES_SENT%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "upstream": "%UPSTREAM_CLUSTER_RAW%",
    "request_id": f"%RESP({names.REQUEST_ID})%",
}


def main(config: GatewayConfig, layout: Layout, routes: route.RouteConfiguration | None) -> listener.Listener:
    """The client listener; `routes` None: they come by RDS. The limit of the body stands here and nowhere else."""
    check = [token_check(config.auth.jwt)] if config.auth.jwt is not None else []
    manager = hcm.HttpConnectionManager(
        stat_prefix="ingress", http_filters=[
            *check, request_stage(), http_filter("envoy.filters.http.router", router.Router())],
        early_header_mutation_extensions=[_strip()],
        normalize_path=True, merge_slashes=True,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED,
        use_remote_address=True, generate_request_id=True,
        stream_idle_timeout=seconds(0), request_timeout=seconds(0), request_headers_timeout=seconds(10),
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=seconds(3600)),
        http_protocol_options=core.Http1ProtocolOptions(),
        access_log=[accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=packed(_access_log(layout))),
                    _breaks()],
        local_reply_config=hcm.LocalReplyConfig(mappers=[
            _local(status, client, body.replace("MESSAGE", message)) for status, message in _MESSAGES.items()
            for client, body in _clients()]),
        server_name="extproc", tracing=_tracing(config), delayed_close_timeout=seconds(1),
    )
    if routes is not None:
        manager.route_config = routes
    else:
        manager.rds = hcm.Rds(route_config_name=ROUTES, config_source=file_source(f"{layout.dynamic}/rds.json"))
    return listener.Listener(
        name="clients", address=address(layout.listen), enable_reuse_port=False,
        per_connection_buffer_limit_bytes=config.max_body,
        filter_chains=[listener.FilterChain(filters=[listener.Filter(
            name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))])],
    )


def _clients() -> list[tuple[accesslog.AccessLogFilter, str]]:
    """How a client's API is told, and its error; the first that matches. Where a request was decided on, its decision
    tells: its path may be that of a backend by now."""
    told = [matcher.ValueMatcher(string_match=matcher.StringMatcher(contains=text)) for text in _OF_ANTHROPIC]
    return [
        (_decision(matcher.ValueMatcher(or_match=matcher.OrMatcher(value_matchers=told))), _ANTHROPIC),
        (_decision(matcher.ValueMatcher(present_match=True)), _OPENAI),
        (_path("/v1/messages"), _ANTHROPIC),
        (_path("/"), _OPENAI),
    ]


def _decision(value: matcher.ValueMatcher) -> accesslog.AccessLogFilter:
    path = [matcher.MetadataMatcherPathSegment(key=names.METADATA_FIELD)]
    return accesslog.AccessLogFilter(metadata_filter=accesslog.MetadataFilter(
        matcher=matcher.MetadataMatcher(filter=names.METADATA, path=path, value=value), match_if_key_not_found=False))


def _path(prefix: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(
        header=route.HeaderMatcher(name=":path", string_match=matcher.StringMatcher(prefix=prefix))))


def _local(code: int, client: accesslog.AccessLogFilter, body: str) -> hcm.ResponseMapper:
    """What Envoy answers itself may pass no worker, so it gives the error its shape."""
    status = accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(
        comparison=accesslog.ComparisonFilter(
            op=accesslog.ComparisonFilterOp.EQ,
            value=core.RuntimeUInt32(default_value=code, runtime_key=f"extproc.no_worker.{code}"))))
    flags = [accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=["UPE"]))]
    return hcm.ResponseMapper(
        filter=accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(
            filters=[status, client, *(flags if code == BROKEN_OFF else [])])), status_code=503,
        body_format_override=core.SubstitutionFormatString(
            text_format_source=core.DataSource(inline_string=body), content_type="application/json"))


def file_source(path: str) -> core.ConfigSource:
    """A configuration file that is replaced by rename."""
    return core.ConfigSource(
        resource_api_version=core.ApiVersion.V3,
        path_config_source=core.PathConfigSource(
            path=path, watched_directory=core.WatchedDirectory(path=path.rpartition("/")[0])))


def chain_names(runtimes: list[Runtime]) -> list[str]:
    """The chains that a decision of these runtimes may name."""
    return list(dict.fromkeys(c.cluster for runtime in runtimes for c in runtime.variants))


def routes(runtimes: list[Runtime], *, only_first: bool = False) -> route.RouteConfiguration:
    """One route per chain: a header can name a chain and never a cluster without the attempt filter.

    `only_first`: as a pattern for the others, which differ in their names alone.
    """
    tokens = any(runtime.config.auth.jwt is not None for runtime in runtimes)
    found = chain_names(runtimes)
    return route.RouteConfiguration(name=ROUTES, virtual_hosts=[route.VirtualHost(
        name="all", domains=["*"], routes=[_route(name) for name in (found[:1] if only_first else found)],
        request_headers_to_remove=[names.JWT] if tokens else [])])


def _route(name: str) -> route.Route:
    exact = route.HeaderMatcher(name=names.CLUSTER, string_match=matcher.StringMatcher(exact=name))
    retry = route.RetryPolicy(
        retry_on="reset,connect-failure,refused-stream,retriable-headers", num_retries=0,
        retriable_headers=[route.HeaderMatcher(name=names.RETRY, present_match=True)],
        retry_back_off=route.RetryPolicyRetryBackOff(base_interval=seconds(0.001), max_interval=seconds(0.001)))
    return route.Route(
        name=name, match=route.RouteMatch(prefix="/", headers=[exact]),
        # No route timeout: an answer may stream for an hour. What bounds it: first event, silence, the client.
        route=route.RouteAction(cluster=name, timeout=seconds(0), idle_timeout=seconds(0), retry_policy=retry))


def _strip() -> core.TypedExtensionConfig:
    mutations = [rules.HeaderMutation(remove_on_match=rules.HeaderMutationRemoveOnMatch(
        key_matcher=matcher.StringMatcher(prefix=prefix))) for prefix in _INTERNAL]
    mutations += [rules.HeaderMutation(remove=name) for name in _INTERNAL_EXACT]
    return core.TypedExtensionConfig(name="strip", typed_config=packed(early.HeaderMutation(mutations=mutations)))


def _access_log(layout: Layout) -> stream_log.StdoutAccessLog:
    fields = Struct(fields={key: Value(string_value=value) for key, value in _LOG.items()})
    return stream_log.StdoutAccessLog(log_format=core.SubstitutionFormatString(json_format=fields))


def _breaks() -> accesslog.AccessLog:
    """Workers are told of answers that providers broke off: in the stream of an attempt that looks like a client that
    leaves. UPE, UR and UC: the connection broke, by nonsense, a reset or its end."""
    return accesslog.AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=accesslog.AccessLogFilter(
            response_flag_filter=accesslog.ResponseFlagFilter(flags=["UPE", "UR", "UC"])),
        typed_config=packed(grpc_log.HttpGrpcAccessLogConfig(
            common_config=grpc_log.CommonGrpcAccessLogConfig(
                log_name="breaks", transport_api_version=core.ApiVersion.V3, buffer_flush_interval=seconds(0.25),
                grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=EXTPROC_CLUSTER))),
            additional_response_headers_to_log=[names.BACKEND, names.MODEL])))


def _tracing(config: GatewayConfig) -> hcm.HttpConnectionManagerTracing | None:
    if not config.telemetry.otlp_endpoint:
        return None
    endpoint = config.telemetry.otlp_endpoint.rstrip("/")
    provider = trace.OpenTelemetryConfig(
        service_name=f"{config.telemetry.service_name}-envoy",
        http_service=core.HttpService(http_uri=core.HttpUri(
            uri=f"{endpoint}/v1/traces", cluster=OTLP_CLUSTER, timeout=seconds(1))))
    return hcm.HttpConnectionManagerTracing(
        provider=trace.TracingHttp(name="envoy.tracers.opentelemetry", typed_config=packed(provider)),
        spawn_upstream_span=True, random_sampling=envoy_type.Percent(value=100))
