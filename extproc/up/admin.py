"""The admin address: health, metrics of all workers, the backends, why a request went where it went. Loopback by
default, never for clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.explained import NOT_KEPT, is_id

if TYPE_CHECKING:
    from extproc.core.routing.explanation import Explanation

Json = dict[str, object]
Lookup = Callable[[str], Awaitable["Explanation | None"]]
"""The explanation of a request by its id, while it is kept. Raises LedgerUnavailable."""


def application(health: Callable[[], Json], backends: Callable[[], Json], lookup: Lookup) -> web.Application:
    """The admin web application."""

    async def on_health(_request: web.Request) -> web.Response:
        state = health()
        return web.json_response(state, status=200 if state["status"] == "ok" else 503)

    async def on_metrics(_request: web.Request) -> web.Response:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    async def on_backends(_request: web.Request) -> web.Response:
        return web.json_response(backends())

    async def on_explain(request: web.Request) -> web.Response:
        rid, form = request.match_info["rid"], request.query.get("format", "json")
        if not is_id(rid):
            return _problem(400, "expected a request id: 32 hex digits, as in x-extproc-request-id")
        if form not in ("json", "text"):
            return _problem(400, "format: expected json or text")
        try:
            found = await lookup(rid)
        except LedgerUnavailable as error:
            return _problem(503, f"the store does not answer: {error}")
        if found is None:
            return _problem(404, f"nothing is kept of request {rid}: {NOT_KEPT}")
        if form == "text":
            from extproc.core.routing.explanation import text  # the text model behind it would slow the start

            return web.Response(text=text(found) + "\n")
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    app = web.Application()
    app.router.add_get("/health", on_health)
    app.router.add_get("/metrics", on_metrics)
    app.router.add_get("/backends", on_backends)
    app.router.add_get("/explain/{rid}", on_explain)
    return app


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Listen; raises OSError when the address is taken."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
