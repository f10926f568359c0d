"""The two ext_proc filters: the request stage on the listener, the attempt stage on every chain."""

from __future__ import annotations

import envoy_data_plane.envoy.config.common.mutation_rules.v3 as rules
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 as previous
import envoy_data_plane.envoy.type.v3 as envoy_type

from extproc import names
from extproc.envoyconf.common import EXTPROC_CLUSTER, Mode, Send, http_filter, packed, seconds

TARGET_ATTRIBUTE = f"xds.upstream_host_metadata.filter_metadata['{names.METADATA}']['{names.TARGET_FIELD}']"
NO_WORKER = envoy_type.HttpStatus(code=envoy_type.StatusCode.LoopDetected)
"""What Envoy answers itself when no worker does: a status nobody else uses, told to clients as 503 (listener.py)."""
MESSAGE_TIMEOUT = 10.0
"""Seconds a buffered stage may take for one answer: far above any work, far below a client's patience."""


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
