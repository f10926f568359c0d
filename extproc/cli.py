"""The command line; commands that ask the store are in commands/. Every error is one line that says what to do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from extproc.commands import register
from extproc.commands.route import explain, route
from extproc.config import ConfigError

_CONFIG = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="extproc")
def main() -> None:
    """An AI gateway as an Envoy external processor."""


def _fail(error: Exception) -> None:
    """One line per problem, and a non-zero exit."""
    lines = error.lines if isinstance(error, ConfigError) else [str(error)]
    for line in lines:
        click.echo(f"extproc: {line}", err=True)
    sys.exit(1)


@main.command()
@click.option("-c", "--config", type=_CONFIG, help="gateway.yaml; without it backends are found by themselves.")
@click.option("--local-model", type=_CONFIG, help="Serve this GGUF file with llama.cpp.")
@click.option("--state", type=click.Path(path_type=Path), default=Path(".extproc"), show_default=True,
              help="Folder for the embedded store, logs and models.")
def up(config: Path | None, local_model: Path | None, state: Path) -> None:
    """Run the whole gateway on this machine. Envoy, store, workers, and the backends that are found, or demo ones."""
    from extproc.up.gateway import Options

    _run(Options(config=config, local_model=local_model, state=state))


@main.command()
@click.option("-c", "--config", type=_CONFIG, required=True, help="gateway.yaml")
@click.option("--sockets", type=click.Path(path_type=Path), default=Path("/run/extproc"), show_default=True,
              help="Folder of the workers' Unix sockets, worker-0.sock and so on, shared with Envoy.")
@click.option("--state", type=click.Path(path_type=Path), default=Path(".extproc"), show_default=True,
              help="Folder for metrics and, without a Redis, the embedded store.")
def serve(config: Path, sockets: Path, state: Path) -> None:
    """Run the ext_proc workers alone: sidecar, cluster. Envoy runs elsewhere, on `extproc envoy-config`."""
    from extproc.up.gateway import Options

    _run(Options(config=config, sockets=sockets, state=state, with_envoy=False))


def _run(options: Any) -> None:
    logging.basicConfig(level=logging.INFO, format="extproc: %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    from extproc.up.gateway import StartError

    try:
        asyncio.run(_main(options))
    except (StartError, ConfigError) as error:
        _fail(error)
    except ModuleNotFoundError as error:
        _fail(RuntimeError(f"{error.name} is not installed; install it with: pip install 'extproc[up,local,demo]'"))


async def _main(options: Any) -> None:
    from extproc.up.gateway import Gateway
    from extproc.up.ready import silent
    from extproc.up.screen import render

    stop, began = asyncio.Event(), time.monotonic()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(options)
    starting = asyncio.create_task(gateway.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            click.echo("\nextproc: stopping", err=True)
            starting.cancel()
            return
        starting.result()
        if options.with_envoy:
            took = time.monotonic() - began
            click.echo(render(gateway, took, await silent(gateway.config)))
        watching = asyncio.create_task(gateway.watch_store())
        watching.add_done_callback(lambda task: None if task.cancelled() or task.exception() is None else stop.set())
        try:
            await stop.wait()
            click.echo("\nextproc: stopping", err=True)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
    finally:
        stopping.cancel()
        await gateway.stop()


@main.command()
@click.argument("config", type=_CONFIG)
def check(config: Path) -> None:
    """Validate a gateway.yaml. The store that it names is asked, if it answers, whether money can rest on it."""
    from extproc.config import load
    from extproc.core.routing.rules import dead_rules
    from extproc.up.store import StoreAway, StoreUnusable, ask

    try:
        loaded = load(config)
    except ConfigError as error:
        _fail(error)
        return
    for later, earlier in dead_rules(loaded.routing.rules):
        click.echo(f"extproc: routing.rules[{later}] can never be reached: rules[{earlier}] takes all its requests",
                   err=True)
    store = os.environ.get("REDIS_URL") or loaded.redis
    try:
        for warning in [] if store == "embedded" else asyncio.run(ask(store, loaded)):
            click.echo(f"extproc: {warning}", err=True)
    except StoreUnusable as error:
        _fail(error)
    except StoreAway as error:
        click.echo(f"extproc: {error}; it was not checked", err=True)
    click.echo(f"{config}: ok: {len(loaded.backends)} backends, {len(loaded.chains)} chains")


@main.command("envoy-config")
@click.option("-c", "--config", type=_CONFIG, required=True, help="gateway.yaml")
@click.option("--sockets", default="/run/extproc", show_default=True, help="Folder of the workers' sockets.")
@click.option("--ca-file", default="/etc/ssl/certs/ca-certificates.crt", show_default=True)
@click.option("--listen", help="Client address, instead of the configuration's.")
@click.option("--envoy-admin", help="Envoy's admin address, instead of the configuration's.")
def envoy_config(config: Path, sockets: str, ca_file: str, listen: str | None, envoy_admin: str | None) -> None:
    """Print the Envoy configuration (YAML) for a gateway.yaml."""
    from ruamel.yaml import YAML

    from extproc.envoyconf import bootstrap
    from extproc.envoyconf.common import Layout

    runtime = _guarded(lambda: _compile(config))
    workers = runtime.config.workers if isinstance(runtime.config.workers, int) else 2
    layout = Layout(
        tuple(f"{sockets}/worker-{i}.sock" for i in range(workers)), listen or runtime.config.listen,
        envoy_admin or runtime.config.envoy_admin, None, ca_file)
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    click.echo(f"# Generated by `extproc envoy-config -c {config.name}`. Do not edit.")
    yaml.dump(bootstrap.static(runtime, layout), sys.stdout)


def _compile(config: Path) -> Any:
    from extproc.server.worker import compile_runtime

    return compile_runtime(config)


def _guarded(work: Callable[[], Any]) -> Any:
    from extproc.core.errors import GatewayError

    try:
        return work()
    except (ConfigError, GatewayError) as error:
        _fail(error)


@main.command()
def compatibility() -> None:
    """Print what translation does to each feature (Markdown). For each client API and each kind of backend."""
    from extproc.compatibility.table import table

    click.echo(table(), nl=False)


register(main)
main.add_command(route)
main.add_command(explain)

if __name__ == "__main__":
    main()
