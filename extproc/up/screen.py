"""The one screen that `extproc up` prints. It fits a terminal of 80 columns, and what is to be copied is not folded."""

from __future__ import annotations

import textwrap
from collections.abc import Collection

from extproc.config import BackendConfig
from extproc.up.discovery import ANY_TEXT
from extproc.up.gateway import Gateway

WIDTH = 80
_NAMES = 13
"""Columns of a name and the blanks behind it."""


def render(gateway: Gateway, took: float, silent: Collection[str] = ()) -> str:
    """Where to point a client, what was found, where state is kept. `silent`: backends where nothing answers yet."""
    url, config = f"http://{gateway.listen}", gateway.config
    asks = config.auth.mode != "none"
    key = "YOUR-KEY" if asks else ANY_TEXT
    names = dict.fromkeys([*(name for name in config.models if "*" not in name), *config.chains])
    lines = [
        f"extproc is up ({took:.1f} s): one address for every client and every model", "",
        "  OpenAI clients", f"    export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}",
        "  Anthropic clients", f"    export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key}", "",
        *_folded("  models     ", ", ".join([*names, "or BACKEND/MODEL"])), "", "  backends",
    ]
    for name, backend in config.backends.items():
        lines += _backend(name, gateway.dialects[name], backend, silent=name in silent)
    lines += ["", "  chains"]
    for name, entries in config.chains.items():
        lines += _folded(f"    {name:<{_NAMES}}", " > ".join(entries))
    lines += [
        "", f"  store      {gateway.redis_note or gateway.redis_url}",
        f"  admin      http://{gateway.admin}/health  /metrics  /backends",
        f"             gRPC at {gateway.admin_grpc}",
        f"  envoy      http://{gateway.envoy_admin}", f"  workers    {len(gateway.sockets)}",
        f"  logs       {gateway.logs}", *(["  keys       extproc keys create --name NAME"] if asks else []), "",
        f"  try        curl -i {url}/v1/chat/completions \\",
        "               -H 'content-type: application/json' \\",
        *([f"               -H 'authorization: Bearer {key}' \\"] if asks else []),
        f"""               -d '{{"model":"{next(iter(names))}","messages":[{{"role":"user","content":"hi"}}]}}'""",
        "", "  Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def _backend(name: str, spoken: str, backend: BackendConfig, *, silent: bool) -> list[str]:
    line = f"    {name:<{_NAMES - 1}} {backend.location:<6} {spoken:<10}  {backend.base_url}"
    said = [*([backend.note] if backend.note else []), *(["nothing answers there yet"] if silent else [])]
    if not said:
        return [line]
    note = f"({'; '.join(said)})"
    return [f"{line}  {note}"] if len(line) + 2 + len(note) <= WIDTH else [line, " " * (4 + _NAMES) + note]


def _folded(heading: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=heading, subsequent_indent=" " * len(heading),
                         break_long_words=False, break_on_hyphens=False)
