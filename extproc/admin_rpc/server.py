"""The admin service on its address, with grpc.health.v1 and reflection, so that common tools work without our files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from extproc.admin_rpc.service import Admin, AskedWrong
from extproc.commands.store import CALL_TIMEOUT, CONNECT_TIMEOUT, CommandError
from extproc.config import GatewayConfig
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.pb import admin_pb2 as rpc
from extproc.reports.periods import PeriodRefused
from extproc.reports.usage import DimensionRefused

SERVICE = rpc.DESCRIPTOR.services_by_name["Admin"].full_name
MOST_CALLS = 64
"""Calls at once, those that follow the stream included."""
LOOK = 2.0
"""Seconds between two looks whether the store answers."""
GRACE = 1.0
_SERVING, _NOT = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class AdminServer:
    """`start`, then `stop`. The process stays up when the store does not answer; health tells it."""

    def __init__(self, redis_url: str, config: Callable[[], GatewayConfig]) -> None:
        self._ledger = RedisTreasury(redis_url, connect_timeout=CONNECT_TIMEOUT, call_timeout=CALL_TIMEOUT)
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue] - made at its import
        self._look: asyncio.Task[None] | None = None
        self._server: Any = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=MOST_CALLS)
        admin = Admin(self._ledger, config)
        self._server.add_generic_rpc_handlers((_handlers(admin),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, address: str) -> int:
        """Listen on HOST:PORT; return the port. Raises OSError when the address cannot be used."""
        try:
            port = int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise OSError(0, str(error)) from error
        await self._server.start()
        await self._health.set("", _SERVING)
        await self._health.set(SERVICE, _NOT)
        self._look = asyncio.create_task(self._watch())
        return port

    async def _watch(self) -> None:
        """Tell in health whether the store answers."""
        while True:
            try:
                await self._ledger.door.call(("PING",))
            except LedgerUnavailable:
                await self._health.set(SERVICE, _NOT)
            else:
                await self._health.set(SERVICE, _SERVING)
            await asyncio.sleep(LOOK)

    async def stop(self) -> None:
        """End; calls that follow the stream are cut."""
        if self._look is not None:
            self._look.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(GRACE)
        await self._ledger.close()


def _handlers(admin: Admin) -> grpc.GenericRpcHandler:
    def one(call: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        async def handler(message: Any, context: Any) -> Any:
            try:
                return await call(message)
            except _TOLD as error:
                await _refuse(context, error)

        return grpc.unary_unary_rpc_method_handler(
            handler, request_deserializer=request.FromString, response_serializer=_bytes)

    def many(call: Callable[[Any], AsyncIterator[Any]], request: Any) -> Any:
        async def handler(message: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for answer in call(message):
                    yield answer
            except _TOLD as error:
                await _refuse(context, error)

        return grpc.unary_stream_rpc_method_handler(
            handler, request_deserializer=request.FromString, response_serializer=_bytes)

    return grpc.method_handlers_generic_handler(SERVICE, {
        "ListUsage": many(admin.list_usage, rpc.ListUsageRequest),
        "StreamRecords": many(admin.stream_records, rpc.StreamRecordsRequest),
        "ListBudgets": one(admin.list_budgets, rpc.ListBudgetsRequest),
        "GetReport": one(admin.get_report, rpc.GetReportRequest),
    })


_STATUS = {
    AskedWrong: grpc.StatusCode.INVALID_ARGUMENT, PeriodRefused: grpc.StatusCode.INVALID_ARGUMENT,
    DimensionRefused: grpc.StatusCode.INVALID_ARGUMENT, CommandError: grpc.StatusCode.FAILED_PRECONDITION,
    LedgerUnavailable: grpc.StatusCode.UNAVAILABLE,
}
"""What a call raises, by whose fault it is; everything else is a bug."""
_TOLD = tuple(_STATUS)


def _bytes(message: Any) -> bytes:
    return message.SerializeToString()


async def _refuse(context: Any, error: Exception) -> None:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    text = f"the store does not answer: {error}" if isinstance(error, LedgerUnavailable) else str(error)
    await context.abort(status, text)
