"""Serve a GGUF file on loopback with llama.cpp's own HTTP server, which the xllamacpp wheel carries.

The server speaks /v1/chat/completions, /v1/messages, /v1/responses, /tokenize, /metrics and /health. It is
the demo's local model and, with real weights, the backend of `extproc up --local-model FILE.gguf`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import click

GGUF_MAGIC = b"GGUF"
OPENMP = "libgomp.so.1"
"""What the Linux wheel leaves to the system; small installations and containers lack it."""


class Options(NamedTuple):
    """What to serve and how; a context of 0 means the length the model was trained with."""

    model: Path
    port: int
    alias: str
    think: bool
    context: int
    slots: int
    threads: int


def missing() -> str:
    """Return what keeps llama.cpp from being loaded here and what to do about it; "": nothing does."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "serving a GGUF needs xllamacpp: pip install 'extproc[local]'"
    if sys.platform == "linux":
        try:
            ctypes.CDLL(OPENMP)
        except OSError:
            return f"llama.cpp needs {OPENMP}: apt-get install libgomp1"
    return ""


def command(model: Path, port: int, alias: str, *arguments: str) -> list[str]:
    """Return the argv that serves `model` from this interpreter; `arguments` are further options."""
    module = [sys.executable, "-m", "extproc.demo.llama_server"]
    return [*module, str(model), "--port", str(port), "--alias", alias, *arguments]


def check(model: Path) -> None:
    """Refuse what llama.cpp would refuse with a page of log.

    Raises:
        click.ClickException: the file is missing, unreadable or no GGUF.
    """
    try:
        with model.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as exc:
        raise click.ClickException(f"cannot read the model {model}: {exc.strerror}") from exc
    if magic != GGUF_MAGIC:
        raise click.ClickException(f"{model} is not a GGUF file")


def start(options: Options) -> Any:
    """Load the model, start listening and return the server, which stops when it is deleted.

    Raises:
        click.ClickException: llama.cpp cannot be loaded, or refused the model or the port.
    """
    if lacks := missing():
        raise click.ClickException(lacks)
    import xllamacpp as untyped

    xllamacpp: Any = untyped  # a compiled module without annotations
    try:
        return xllamacpp.Server(_parameters(xllamacpp.CommonParams(), options))
    except RuntimeError as exc:
        message = f"llama.cpp could not serve {options.model} on port {options.port}; its log above says why"
        raise click.ClickException(message) from exc


def _parameters(parameters: Any, options: Options) -> Any:
    parameters.model.path = str(options.model)
    parameters.model_alias = {options.alias}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = options.port
    parameters.n_ctx = options.context
    parameters.n_parallel = options.slots
    parameters.kv_unified = True  # slots share one cache: a lone long conversation may use the whole context
    parameters.cpuparams.n_threads = options.threads
    parameters.use_jinja = True
    parameters.endpoint_metrics = True
    parameters.ui = False
    parameters.offline = True
    parameters.verbosity = 1  # errors only
    if not options.think:
        parameters.default_template_kwargs = {"enable_thinking": "false"}
    return parameters


def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT."""
    check(options.model)
    stop = threading.Event()
    # Loading holds the interpreter lock, so no Python handler could run: until then the default ends us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    server = start(options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    click.echo(f"serving {options.alias} at {server.listening_address}")
    stop.wait()
    del server  # its destructor finishes the running requests and joins llama.cpp's threads


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="Loopback port; 0: a free one.")
@click.option("--alias", required=True, help="The model name that clients send.")
@click.option("--no-think", is_flag=True, help="Thinking is off unless a request asks for it.")
@click.option("--ctx", type=click.IntRange(min=0), default=0, help="Context in tokens; 0 is the model's own.")
@click.option("--slots", type=click.IntRange(min=1), default=2, show_default=True, help="Parallel requests.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the processors this process may use.")
def main(
    model: Path, port: int, alias: str, no_think: bool, ctx: int, slots: int, threads: int | None
) -> None:
    """Serve MODEL, a .gguf file, on 127.0.0.1."""
    serve(Options(model, port, alias, not no_think, ctx, slots, threads or _processors()))


def _processors() -> int:
    """Return how many processors this process may use (macOS has no affinity to ask for)."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
