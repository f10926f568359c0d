"""The fast upstream: an Envoy that answers a canned completion, and a small server of 200-event SSE streams.

    python -m bench.upstream PORT      the stream server alone; it ends when its parent does

The same Envoy holds the "plain" listener, which routes straight to both: what Envoy costs without a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import uvloop

EVENTS = 200
TICK = 0.01
"""Seconds between two events of a paced stream: slow enough that Envoy reads each one by itself."""
_HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_FILTER = "type.googleapis.com/envoy.extensions.filters.http."
COMPLETION = json.dumps({
    "id": "chatcmpl-bench", "object": "chat.completion", "created": 1790000000, "model": "canned",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": {
        "role": "assistant", "refusal": None, "content": "The quick brown fox jumps over the lazy dog. " * 16}}],
    "usage": {"prompt_tokens": 250, "completion_tokens": 160, "total_tokens": 410,
              "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}},
})


def stream_events() -> list[bytes]:
    """200 events: the role, 197 pieces of text, the end of the choice, the usage; [DONE] rides on the last one."""
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    pieces += [{"content": f" word{i}"} for i in range(EVENTS - 3)]
    base = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1790000000, "model": "paced"}
    chunks = [{**base, "choices": [{"index": 0, "delta": p, "finish_reason": None}]} for p in pieces]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**base, "choices": [], "usage": {
        "prompt_tokens": 250, "completion_tokens": EVENTS - 3, "total_tokens": 250 + EVENTS - 3}})
    events = [b"data: " + json.dumps(c, separators=(",", ":")).encode() + b"\n\n" for c in chunks]
    events[-1] += b"data: [DONE]\n\n"
    return events


# ------------------------------------------------------------------------------------ the Envoy

def _listener(name: str, port: int, routes: list[dict[str, Any]], filters: list[dict[str, Any]]) -> dict[str, Any]:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": _FILTER + "router.v3.Router"}}
    manager = {
        "@type": _HTTP, "stat_prefix": name, "http_filters": [*filters, router],
        "route_config": {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    return {
        "name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "enable_reuse_port": False, "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    limits = {"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name, "type": "STATIC", "connect_timeout": "1s", "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address}}]}]},
    }


def canned_envoy(port: int) -> dict[str, Any]:
    """An Envoy that answers every request with the canned completion."""
    canned = {
        "match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": COMPLETION}},
        "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"},
                                     "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }
    # A direct response does not wait for the body, and answering early would close the connection.
    whole = {"name": "envoy.filters.http.buffer", "typed_config": {
        "@type": _FILTER + "buffer.v3.Buffer", "max_request_bytes": 1 << 20}}
    return {"static_resources": {"listeners": [_listener("canned", port, [canned], [whole])]}}


def plain_envoy(port: int, canned_port: int, stream_port: int) -> dict[str, Any]:
    """Envoy and nothing else in front of the same upstreams: paths below /stream go to the stream server."""
    endless = {"timeout": "0s", "idle_timeout": "0s"}
    routes = [
        {"match": {"prefix": "/stream"}, "route": {"cluster": "stream", **endless}},
        {"match": {"prefix": "/"}, "route": {"cluster": "canned", **endless}},
    ]
    return {"static_resources": {
        "listeners": [_listener("plain", port, routes, [])],
        "clusters": [_cluster("canned", canned_port), _cluster("stream", stream_port)],
    }}


# ------------------------------------------------------------------------------------ the stream server

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Streams:
    """All streams that run; one clock writes the next event of each paced one."""

    def __init__(self) -> None:
        events = stream_events()
        self.chunks = [b"%x\r\n%b\r\n" % (len(e), e) for e in events]
        self.chunks[-1] += b"0\r\n\r\n"
        self.paced: dict[asyncio.StreamWriter, tuple[int, asyncio.Event]] = {}

    async def clock(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for writer, (index, over) in list(self.paced.items()):
                writer.write(self.chunks[index])
                if index + 1 == len(self.chunks) or writer.is_closing():
                    del self.paced[writer]
                    over.set()
                else:
                    self.paced[writer] = (index + 1, over)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                writer.write(_HEAD)
                if b'"burst"' in body:
                    for chunk in self.chunks:
                        writer.write(chunk)
                        await asyncio.sleep(0)
                else:
                    over = asyncio.Event()
                    self.paced[writer] = (0, over)
                    await over.wait()
        self.paced.pop(writer, None)
        writer.close()


async def _serve(port: int) -> None:
    streams, parent = _Streams(), os.getppid()
    clock = asyncio.create_task(streams.clock())
    async with await asyncio.start_server(streams.serve, "127.0.0.1", port):
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells a parent's end
            await asyncio.sleep(0.5)
    clock.cancel()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
