"""The command line; commands that ask the store are in commands/. Every error is one line that says what to do."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from extproc.commands import register
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
    """Run the whole gateway on this machine: Envoy, store, workers, backends found or demo ones."""
    from extproc.up.gateway import Options

    _run(Options(config=config, local_model=local_model, state=state))


@main.command()
@click.option("-c", "--config", type=_CONFIG, required=True, help="gateway.yaml")
@click.option("--sockets", type=click.Path(path_type=Path), default=Path("/run/extproc"), show_default=True,
              help="Folder of the workers' Unix sockets, worker-0.sock and so on, shared with Envoy.")
@click.option("--state", type=click.Path(path_type=Path), default=Path(".extproc"), show_default=True,
              help="Folder for metrics and, without a Redis, the embedded store.")
def serve(config: Path, sockets: Path, state: Path) -> None:
    """Run the ext_proc server alone (sidecar, cluster); Envoy runs elsewhere on `extproc envoy-config`."""
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
            starting.cancel()
            return
        starting.result()
        if options.with_envoy:
            click.echo(render(gateway, time.monotonic() - began))
        await stop.wait()
        click.echo("\nextproc: stopping", err=True)
    finally:
        stopping.cancel()
        await gateway.stop()


@main.command()
@click.argument("config", type=_CONFIG)
def check(config: Path) -> None:
    """Validate a gateway.yaml."""
    from extproc.config import load

    try:
        loaded = load(config)
    except ConfigError as error:
        _fail(error)
        return
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


@main.command()
@click.argument("source")
@click.option("-c", "--config", type=_CONFIG, required=True, help="gateway.yaml")
@click.option("--path", default="/v1/chat/completions", show_default=True, help="The path the request goes to.")
@click.option("--header", "-H", multiple=True, help="NAME: VALUE, as with curl.")
def route(source: str, config: Path, path: str, header: tuple[str, ...]) -> None:
    """Explain which chain a request takes and why. SOURCE: a request file (JSON), - for stdin, or a prompt."""
    from extproc.core.explain import explain

    body = sys.stdin.buffer.read() if source == "-" else _body(source)
    headers = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in header)}
    click.echo(_guarded(lambda: explain(_compile(config), path, headers, body)))


def _body(source: str) -> bytes:
    if Path(source).is_file():
        return Path(source).read_bytes()
    return json.dumps({"model": "auto", "max_tokens": 1024, "messages": [{"role": "user", "content": source}]}).encode()


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
    """Print what becomes of each feature of each client API at each kind of backend (Markdown)."""
    from extproc.compatibility.table import table

    click.echo(table(), nl=False)


register(main)

if __name__ == "__main__":
    main()
