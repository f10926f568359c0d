"""What Envoy's access log tells of answers that broke off, from its wire to the health of backends."""

from __future__ import annotations

import asyncio
import time
import warnings
from pathlib import Path
from typing import Any

import grpc
import pytest

from extproc import names
from extproc.server.board import Board
from extproc.server.breaks import broken_by
from extproc.server.stores import in_memory
from extproc.server.transport_grpc import ACCESS_LOG, GrpcTransport
from tests.routing_kit import compiled

with warnings.catch_warnings():  # envoy-data-plane still uses what pydantic calls deprecated
    warnings.simplefilter("ignore")
    from envoy_data_plane.envoy.data.accesslog.v3 import AccessLogCommon, HttpAccessLogEntry, HttpResponseProperties
    from envoy_data_plane.envoy.service.accesslog.v3 import (
        StreamAccessLogsMessage,
        StreamAccessLogsMessageHttpAccessLogEntries,
    )

BROKE = "upstream_reset_after_response_started{protocol_error}"
HEADERS = {names.BACKEND: "big", names.MODEL: "b"}


def message(*entries: tuple[str, dict[str, str]]) -> bytes:
    """A message of Envoy's log with such details and response headers, by Envoy's whole API."""
    return bytes(StreamAccessLogsMessage(http_logs=StreamAccessLogsMessageHttpAccessLogEntries(log_entry=[
        HttpAccessLogEntry(
            common_properties=AccessLogCommon(upstream_cluster="c", stream_id="s"),
            response=HttpResponseProperties(response_code=200, response_headers=headers, response_code_details=details))
        for details, headers in entries])))


@pytest.mark.parametrize(("raw", "broken"), [
    (message((BROKE, HEADERS), (BROKE, {names.BACKEND: "near"})), [("big", "b"), ("near", "")]),
    (message(("upstream_reset_before_response_started{connection_termination}", HEADERS)), []),
    (message(("downstream_remote_disconnect", HEADERS), ("", {})), []),
    (message((BROKE, {"content-type": "text/html"})), []),
    (message(), []), (b"", []), (b"\xff\xff no protobuf", []),
])
def test_who_broke_off(raw: bytes, broken: list[tuple[str, str]]) -> None:
    """The backend that gave the answer, where it was the provider that ended it; nothing of what says something else."""
    assert broken_by(raw) == broken


async def test_health() -> None:
    """Answers that break off open a backend like any failure; names that are no backend's are nobody's."""
    board = Board(compiled(), in_memory())
    health = board.knowledge.health
    for _ in range(5):
        board.broke(message((BROKE, HEADERS), (BROKE, {names.BACKEND: "nobody", names.MODEL: "x"})))
    now = time.time_ns() // 1_000_000
    state, why = health.state("big/b", now)
    assert (state, why.partition(", next")[0]) == ("open", "open, broken connections")
    assert health.state("nobody/x", now) == health.state("nobody/*", now) == ("up", "")


def _nothing(_metadata: object, _channel: object) -> Any:
    raise AssertionError("no stream of ext_proc is opened here")


async def test_a_log_does_not_hold_a_worker(tmp_path: Path) -> None:
    """Messages are taken as they come, and a worker that ends does not wait for a log that never does."""
    seen: list[bytes] = []
    address = f"unix:{tmp_path / 's'}"
    transport = GrpcTransport(_nothing, address, 1 << 20, seen.append)
    await transport.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_unary(ACCESS_LOG)()
        await call.write(b"one")
        await call.write(b"two")
        async with asyncio.timeout(5):
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            await transport.stop(60)
            assert await call == b""
        await channel.close()
    assert seen == [b"one", b"two"]
