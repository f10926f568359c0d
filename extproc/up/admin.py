"""The admin address: health, metrics of all workers, the backends. Loopback by default, never for clients."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

Json = dict[str, object]


def application(health: Callable[[], Json], backends: Callable[[], Json]) -> web.Application:
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

    app = web.Application()
    app.router.add_get("/health", on_health)
    app.router.add_get("/metrics", on_metrics)
    app.router.add_get("/backends", on_backends)
    return app


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Listen; raises OSError when the address is taken."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
