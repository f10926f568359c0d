"""The reference transport: grpc.aio. It knows bytes and method paths, no message class and no rule."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc

from extproc.server.seam import Opener, Stream

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ACCESS_LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse{status: SERVING}
_log = logging.getLogger("extproc.transport")


class _Channel:
    """Serialises writes: one writer at a time, answers in order."""

    def __init__(self, context: Any, background: set[asyncio.Task[None]]) -> None:
        self._context = context
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._writing = False
        self._written: asyncio.Future[None] | None = None
        self.gone = False

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work in the background failed", exc_info=error)

    def reply(self, answers: list[bytes]) -> None:
        if answers and not self.gone:
            self._queue.extend(answers)
            if not self._writing:
                self.later(self.flush())

    async def send(self, answers: list[bytes]) -> None:
        """Return when the answers are written, whoever writes them: the stream may end right after."""
        self._queue.extend(answers)
        if self._writing:
            self._written = self._written or self._loop.create_future()
            await self._written
        else:
            await self.flush()

    async def flush(self) -> None:
        if self._writing:
            return
        self._writing = True
        try:
            while self._queue and not self.gone:
                await self._context.write(self._queue.popleft())
        except (grpc.aio.UsageError, grpc.aio.InternalError, grpc.RpcError, asyncio.InvalidStateError):
            self.gone = True  # the peer left; `closed` tells the stream
        finally:
            self._writing = False
            if self._written is not None and not self._written.done():
                self._written.set_result(None)
            self._written = None


class GrpcTransport:
    """An ext_proc server on one address (`unix:PATH` or `HOST:PORT`)."""

    def __init__(self, opener: Opener, address: str, max_message: int, logged: Callable[[bytes], None]) -> None:
        """`logged`: takes messages of Envoy's access log."""
        self._opener, self._address, self._logged = opener, address, logged
        self._logs: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._server = grpc.aio.server(options=[
            ("grpc.max_receive_message_length", max_message),
            ("grpc.max_send_message_length", max_message),
            ("grpc.so_reuseport", 0),
        ])
        self._server.add_generic_rpc_handlers((_Handlers({
            PROCESS: grpc.stream_stream_rpc_method_handler(self._process),
            ACCESS_LOG: grpc.stream_unary_rpc_method_handler(self._access_log),
            HEALTH: grpc.unary_unary_rpc_method_handler(_health),
        }),))

    async def start(self) -> None:
        """Listen. Raises RuntimeError when the address cannot be bound."""
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Stop accepting, let streams end for `grace` seconds, then wait for work that outlives them."""
        for reading in self._logs:  # Envoy never ends them by itself
            reading.cancel()
        await self._server.stop(grace)
        if self._background:
            await asyncio.wait(self._background, timeout=grace)

    async def _process(self, _requests: Any, context: Any) -> None:
        channel = _Channel(context, self._background)
        metadata = {str(k): str(v) for k, v in context.invocation_metadata() or ()}
        stream: Stream = self._opener(metadata, channel)
        read: Callable[[], Awaitable[Any]] = context.read
        try:
            while (message := await read()) is not grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue]
                if answers := stream.feed(message):
                    await channel.send(answers)
                if stream.finished:
                    return
        except Exception:
            _log.exception("a stream failed")
            raise
        finally:
            channel.gone = True
            stream.closed()

    async def _access_log(self, _requests: Any, context: Any) -> bytes:
        """Take log messages until Envoy ends the stream, or this worker does."""
        reading = asyncio.create_task(self._read_log(context.read))
        self._logs.add(reading)
        try:
            await asyncio.wait((reading,))
        finally:
            self._logs.discard(reading)
            reading.cancel()
        if not reading.cancelled():
            reading.result()
        return b""

    async def _read_log(self, read: Callable[[], Awaitable[Any]]) -> None:
        while (message := await read()) is not grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue]
            self._logged(message)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, Any]) -> None:
        self._methods = methods

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


async def _health(_request: bytes, _context: Any) -> bytes:
    return _SERVING
