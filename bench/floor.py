"""The echo floor: a bare grpc.aio server that answers both stages with the mutations Envoy needs and nothing else.

    python -m bench.floor ADDRESS PLAN    PLAN: {model: [cluster, authority]} as JSON; it ends when its parent does

It stands behind the same Envoy configuration as ours, so only the Python server differs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from typing import Any

import grpc
import uvloop

from extproc import names
from extproc.pb import ext_proc_pb2 as pb
from extproc.server.transport_grpc import HEALTH, PROCESS

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_REQUEST_HEADERS = pb.ProcessingResponse(request_headers=pb.HeadersResponse()).SerializeToString()
_RESPONSE_HEADERS = pb.ProcessingResponse(response_headers=pb.HeadersResponse()).SerializeToString()
_RESPONSE_TRAILERS = pb.ProcessingResponse(response_trailers=pb.TrailersResponse()).SerializeToString()


def _headers(values: dict[str, str]) -> pb.HeaderMutation:
    return pb.HeaderMutation(set_headers=[
        pb.HeaderValueOption(header=pb.HeaderValue(key=k, raw_value=v.encode()), append_action=_OVERWRITE)
        for k, v in values.items()])


class Floor:
    """Both stages. The model's name in the body says which chain."""

    def __init__(self, plan: dict[str, list[str]]) -> None:
        self._plan = {f'"model":"{model}"'.encode(): entry for model, entry in plan.items()}

    async def process(self, _requests: Any, context: Any) -> None:
        attempt = any(k == names.STAGE and v == "attempt" for k, v in context.invocation_metadata())
        read, write = context.read, context.write
        while (message := await read()) is not grpc.aio.EOF:
            request = pb.ProcessingRequest.FromString(message)
            which = request.WhichOneof("request")
            if which == "response_body":
                await write(_echo(request.response_body))
            elif which == "request_body":
                body = request.request_body.body
                entry = next(e for mark, e in self._plan.items() if mark in body[:64])
                await write(_attempt(body, entry[1]) if attempt else _decision(entry[0]))
            elif which == "request_headers":
                await write(_REQUEST_HEADERS)
            elif which == "response_headers":
                await write(_RESPONSE_HEADERS)
                if not attempt:
                    return
            elif which == "response_trailers":
                await write(_RESPONSE_TRAILERS)


def _decision(cluster: str) -> bytes:
    common = pb.CommonResponse(clear_route_cache=True, header_mutation=_headers({
        names.CLUSTER: cluster, names.MAX_RETRIES: "0", names.PER_TRY_TIMEOUT: "20000"}))
    response = pb.ProcessingResponse(request_body=pb.BodyResponse(response=common))
    inner = response.dynamic_metadata.fields[names.METADATA].struct_value
    inner.fields[names.METADATA_FIELD].string_value = "x" * 300
    return response.SerializeToString()


def _attempt(body: bytes, authority: str) -> bytes:
    common = pb.CommonResponse(
        body_mutation=pb.BodyMutation(body=body), header_mutation=_headers({
            ":path": "/v1/chat/completions", ":authority": authority, "content-length": str(len(body))}))
    return pb.ProcessingResponse(request_body=pb.BodyResponse(response=common)).SerializeToString()


def _echo(body: pb.HttpBody) -> bytes:
    response = pb.ProcessingResponse()
    streamed = response.response_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body.body, body.end_of_stream
    return response.SerializeToString()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, Any]) -> None:
        self._methods = methods

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


async def _health(_request: bytes, _context: Any) -> bytes:
    return b"\x08\x01"


async def _serve(address: str, plan: dict[str, list[str]]) -> None:
    limit, parent = 64 << 20, os.getppid()
    server = grpc.aio.server(options=[
        ("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit),
        ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Handlers({
        PROCESS: grpc.stream_stream_rpc_method_handler(Floor(plan).process),
        HEALTH: grpc.unary_unary_rpc_method_handler(_health)}),))
    server.add_insecure_port(address)
    await server.start()
    gc.collect()
    gc.freeze()
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells a parent's end
        await asyncio.sleep(0.5)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], json.loads(sys.argv[2])))
