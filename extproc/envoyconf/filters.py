"""The filters: the token check and the request stage on the listener, the attempt stage on every chain."""

from __future__ import annotations

import envoy_data_plane.envoy.config.common.mutation_rules.v3 as rules
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc
import envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 as jwt_authn
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 as previous
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as envoy_type
from envoy_data_plane.google.protobuf import Empty

from extproc import names
from extproc.config import JwksConfig, JwtConfig
from extproc.envoyconf.common import EXTPROC_CLUSTER, ISSUER_CLUSTER, Mode, Send, http_filter, packed, seconds

TARGET_ATTRIBUTE = f"xds.upstream_host_metadata.filter_metadata['{names.METADATA}']['{names.TARGET_FIELD}']"
NO_WORKER = envoy_type.HttpStatus(code=envoy_type.StatusCode.LoopDetected)
"""What Envoy answers itself when no worker does: a status nobody else uses, told to clients as 503 (listener.py)."""
MESSAGE_TIMEOUT = 10.0
"""Seconds a buffered stage may take for one answer: far above any work, far below a client's patience."""

_TOKEN_HEADERS = (("authorization", "Bearer "), ("authorization", "bearer "), ("x-api-key", ""))
"""Where tokens are looked for, and the text before them; Envoy tells its case apart, RFC 9110 does not."""


def _service(stage: str) -> core.GrpcService:
    """A stream that cannot be opened is tried on another worker; one that broke after its first answer is not."""
    predicate = core.RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(previous.PreviousHostsPredicate()))
    return core.GrpcService(
        envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=EXTPROC_CLUSTER),
        initial_metadata=[core.HeaderValue(key=names.STAGE, value=stage)],
        retry_policy=core.RetryPolicy(
            retry_on="unavailable,cancelled,internal,reset,connect-failure", num_retries=2,
            retry_back_off=core.BackoffStrategy(base_interval=seconds(0.005)),
            host_selection_retry_max_attempts=5, retry_host_predicate=[predicate]),
    )


def _metadata() -> ext_proc.MetadataOptions:
    ours = ext_proc.MetadataOptionsMetadataNamespaces(untyped=[names.METADATA])
    return ext_proc.MetadataOptions(forwarding_namespaces=ours, receiving_namespaces=ours)


def token_check(jwt: JwtConfig) -> hcm.HttpFilter:
    """Verify a token and hand its payload on. It refuses nobody: the request stage does, in the client's own words,
    and a gateway key in the same header is no token."""
    provider = jwt_authn.JwtProvider(
        issuer=jwt.issuer, audiences=jwt.audiences, require_expiration=True, clock_skew_seconds=int(jwt.clock_skew),
        from_headers=[jwt_authn.JwtHeader(name=name, value_prefix=prefix) for name, prefix in _TOKEN_HEADERS],
        forward=False, forward_payload_header=names.JWT)
    if jwt.jwks.local is not None:
        provider.local_jwks = core.DataSource(inline_string=jwt.jwks.local)
    else:
        provider.remote_jwks = _remote(jwt.jwks)
    method = {name: route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact=name))
              for name in ("OPTIONS", "HEAD")}
    unasked = [route.RouteMatch(path="/health"), route.RouteMatch(prefix="/", headers=[method["OPTIONS"]]),
               route.RouteMatch(path="/", headers=[method["HEAD"]])]
    return http_filter("envoy.filters.http.jwt_authn", jwt_authn.JwtAuthentication(
        providers={ISSUER_CLUSTER: provider},
        rules=[*(jwt_authn.RequirementRule(match=match) for match in unasked),
               jwt_authn.RequirementRule(match=route.RouteMatch(prefix="/"), requires=jwt_authn.JwtRequirement(
                   allow_missing_or_failed=Empty()))]))


def _remote(jwks: JwksConfig) -> jwt_authn.RemoteJwks:
    """Fetched before the first request and again in the background; keys at hand stay when a fetch fails."""
    return jwt_authn.RemoteJwks(
        http_uri=core.HttpUri(uri=jwks.uri or "", cluster=ISSUER_CLUSTER, timeout=seconds(5)),
        cache_duration=seconds(jwks.refresh),
        async_fetch=jwt_authn.JwksAsyncFetch(failed_refetch_duration=seconds(1)))


def request_stage() -> hcm.HttpFilter:
    """Once per client request. Failing open would let strangers in, so it never does."""
    return http_filter("envoy.filters.http.ext_proc", ext_proc.ExternalProcessor(
        grpc_service=_service("request"), failure_mode_allow=False, message_timeout=seconds(MESSAGE_TIMEOUT),
        stat_prefix="request", status_on_error=NO_WORKER,
        processing_mode=ext_proc.ProcessingMode(
            request_header_mode=Send.SEND, request_body_mode=Mode.BUFFERED, response_header_mode=Send.SEND,
            response_body_mode=Mode.NONE, request_trailer_mode=Send.SKIP, response_trailer_mode=Send.SKIP),
        mutation_rules=rules.HeaderMutationRules(allow_all_routing=True, allow_envoy=True),
        metadata_options=_metadata(),
    ))


def attempt_stage() -> hcm.HttpFilter:
    """Once per attempt. Failing open would send the client's key and body to a provider, so it never does."""
    return http_filter("envoy.filters.http.ext_proc", ext_proc.ExternalProcessor(
        grpc_service=_service("attempt"), failure_mode_allow=False, message_timeout=seconds(MESSAGE_TIMEOUT),
        stat_prefix="attempt", status_on_error=NO_WORKER,
        processing_mode=ext_proc.ProcessingMode(
            request_header_mode=Send.SEND, request_body_mode=Mode.BUFFERED, response_header_mode=Send.SEND,
            response_body_mode=Mode.FULL_DUPLEX_STREAMED, request_trailer_mode=Send.SKIP,
            response_trailer_mode=Send.SEND),
        request_attributes=[TARGET_ATTRIBUTE, "upstream.request_attempt_count"],
        mutation_rules=rules.HeaderMutationRules(allow_all_routing=True, allow_envoy=True),
        metadata_options=_metadata(),
    ))
