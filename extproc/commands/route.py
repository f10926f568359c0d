"""`extproc route` and `extproc explain`: why a request would go, or went, where it goes."""

from __future__ import annotations

import errno
import json
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from extproc.commands.store import CommandError, find, one_line, read_config, run, store_options

if TYPE_CHECKING:
    from extproc.config import GatewayConfig
    from extproc.core.routing.explanation import Explanation
    from extproc.core.routing.rejudge import Policy
    from extproc.ledger.redis_treasury import RedisTreasury

PATH = "/v1/chat/completions"


class Request(msgspec.Struct, frozen=True):
    """A request to be explained."""

    path: str
    headers: dict[str, str]
    body: bytes


@click.command()
@click.argument("source")
@click.option("-c", "--config", type=click.Path(path_type=Path, dir_okay=False), required=True, help="gateway.yaml")
@click.option("--path", default=PATH, show_default=True, help="The path the request goes to.")
@click.option("--header", "-H", multiple=True, help="NAME: VALUE, as with curl.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.pass_context
@one_line
def route(context: click.Context, source: str, config: Path, path: str, header: tuple[str, ...],
          as_json: bool) -> None:
    """Explain which chain a request takes and why.

    SOURCE: a file with a request's body (JSON) or with a whole request (JSON with path, headers and body), - for stdin,
    or a prompt.
    """
    from extproc.core.errors import GatewayError
    from extproc.core.routing.explanation import explain_request

    request = _request(_read(source), path)
    if context.get_parameter_source("path") is ParameterSource.COMMANDLINE:
        request = msgspec.structs.replace(request, path=path)
    headers = request.headers | _typed(header)
    now = datetime.now(UTC)
    runtime = policy_of(read_config(config), now.strftime("%Y-%m-%d")).runtime
    try:
        found = explain_request(runtime, request.path, headers, request.body, int(now.timestamp() * 1000))
    except GatewayError as error:
        raise CommandError(str(error)) from error
    click.echo(_shown(found, as_json))


def policy_of(config: GatewayConfig, day: str) -> Policy:
    """A configuration to be asked about, with the prices of that day."""
    from extproc.core.routing.rejudge import Policy
    from extproc.prices import catalogue

    return Policy(config, lambda provider, model: catalogue(provider, model, day))


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        if Path(source).is_file():
            return Path(source).read_bytes()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a long prompt
            raise CommandError(f"{source[:80]} cannot be read: {error.strerror}") from error
    if source.endswith(".json") and not any(map(str.isspace, source)):  # meant as a file, not as a prompt of one word
        raise CommandError(f"{source[:80]}: no such file")
    return json.dumps({"model": "auto", "max_tokens": 1024, "messages": [{"role": "user", "content": source}]}).encode()


def _request(data: bytes, path: str) -> Request:
    """A body as it is, or a whole request as it was recorded: path, headers (an object, or pairs) and body.

    Raises CommandError for a recorded request without a body.
    """
    try:
        whole: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Request(path, {}, data)  # the gateway says what is wrong with it
    if not isinstance(whole, dict) or "body" not in whole or not isinstance(whole.get("path"), str):
        return Request(path, {}, data)
    if not isinstance(whole["body"], dict):
        raise CommandError(f"the recorded request to {whole['path'][:80]} has no JSON body: there is nothing to route")
    return Request(whole["path"], _headers(whole.get("headers")), msgspec.json.encode(whole["body"]))


def _typed(header: tuple[str, ...]) -> dict[str, str]:
    """Headers as they are typed. Raises CommandError: one has no name or no colon."""
    found: dict[str, str] = {}
    for text in header:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise CommandError(f"-H {text[:60]}: expected NAME: VALUE")
        found[name.strip().lower()] = value.strip()
    return found


def _headers(told: Any) -> dict[str, str]:
    pairs: list[Any] = list(told.items()) if isinstance(told, dict) else told if isinstance(told, list) else []
    return {str(pair[0]).lower(): str(pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2}


def _shown(found: Explanation, as_json: bool) -> str:
    from extproc.commands.usage import terminal_width
    from extproc.core.routing.explanation import LABEL, text

    if as_json:
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    return folded(text(found), terminal_width(), LABEL)


def folded(text: str, width: int | None, indent: int) -> str:
    """Return lines for a terminal of that many columns, what goes on indented; None: as they are."""
    if width is None:
        return text
    return "\n".join([
        line for whole in text.split("\n")
        for line in textwrap.wrap(whole, max(width, 2 * indent), subsequent_indent=" " * indent, drop_whitespace=True,
                                  break_long_words=False, break_on_hyphens=False) or [""]])


@click.command()
@click.argument("request_id")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@store_options
@one_line
def explain(request_id: str, as_json: bool, redis_url: str | None, config: Path | None, state: Path,
            org: str | None) -> None:
    """Explain why a request went where it went. REQUEST_ID: the x-extproc-request-id of its answer."""
    from extproc.core.routing.explanation import unpack
    from extproc.ledger.explained import NOT_KEPT, ExplainedStore, is_id

    rid = request_id.strip().lower()
    if not is_id(rid):
        raise CommandError(f"{request_id[:60]}: expected a request id: 32 hex digits, as in x-extproc-request-id")

    async def work(ledger: RedisTreasury) -> bytes | None:
        return await ExplainedStore(ledger.door).get(rid)

    blob = run(find(redis_url, config, state, org), work)
    found = None if blob is None else unpack(blob)
    if found is None:
        raise CommandError(f"nothing is kept of request {rid}: {NOT_KEPT}")
    if org is not None and found.identity is not None and found.identity.org != org:
        raise CommandError(f"request {rid} is not of org {org}")
    click.echo(_shown(found, as_json))
