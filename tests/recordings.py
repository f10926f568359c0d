"""Recorded provider traffic: requests and the answers they got.

`tests/data/recorded` holds the ones that every test run replays, as JSON. Where the variable RECORDINGS names a folder of
VCR recordings (`*/*.yaml`, as the projects named in tests/data/README.md publish them), or one lies beside the checkout
in `shared/data/recorded`, those are read as well.
"""

from __future__ import annotations

import json
import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML

DATA = Path(__file__).parent / "data"
_SCHEMA_OF = {
    "/chat/completions": "openai", "/v1/messages": "anthropic", "/responses": "responses", "/completions": "completions",
    "/embeddings": "embeddings", "/messages/count_tokens": "count_tokens",
}


class Recording(msgspec.Struct, frozen=True):
    """One exchange. `request` is the decoded JSON body."""

    name: str
    schema: str
    request: dict[str, Any]
    status: int
    content_type: str
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether the answer is a stream of server-sent events."""
        return self.content_type.startswith("text/event-stream")


@cache
def exceptions(kind: str = "codecs") -> dict[str, str]:
    """Recordings that cannot pass the codecs, or the data_plane, and why."""
    return tomllib.loads((DATA / "exceptions.toml").read_text("utf-8"))[kind]


def recordings(schema: str) -> list[Recording]:
    """All recordings of one schema that can pass the codecs."""
    return [recording for name, recording in _all().items() if recording.schema == schema and name not in exceptions()]


def captures() -> list[Recording]:
    """Requests of real coding agents and SDKs, which have no recorded answer."""
    found: list[Recording] = []
    for path in sorted((DATA / "captures").glob("*.json")):
        value = json.loads(path.read_text("utf-8"))
        schema = next((name for end, name in _SCHEMA_OF.items() if value["path"].partition("?")[0].endswith(end)), "")
        if isinstance(value["body"], dict):
            found.append(Recording(path.stem, schema, value["body"], 0, "", b""))
    return found


@cache
def _all() -> dict[str, Recording]:
    found = {path.stem: _from_json(path) for path in sorted((DATA / "recorded").glob("*.json"))}
    folder = os.environ.get("RECORDINGS") or DATA.parents[2] / "shared" / "data" / "recorded"
    for path in sorted(Path(folder).glob("*/*.yaml")):
        for recording in _from_yaml(path):
            found.setdefault(recording.name, recording)
    return found


def _from_json(path: Path) -> Recording:
    value = json.loads(path.read_text("utf-8"))
    body = _ended(value["body"].encode(), value["content_type"])
    return Recording(path.stem, value["schema"], value["request"], value["status"], value["content_type"], body)


def _ended(body: bytes, content_type: str) -> bytes:
    """The recorders stripped the last newline of some streams; on the wire every event ends with a blank line."""
    return body.rstrip(b"\n") + b"\n\n" if content_type.startswith("text/event-stream") else body


def _from_yaml(path: Path) -> list[Recording]:
    exchanges = YAML(typ="safe").load(path.read_text("utf-8"))["interactions"]
    found: list[Recording] = []
    for number, exchange in enumerate(exchanges):
        request, response = exchange.get("request"), exchange.get("response")
        if not request or not response:
            continue
        url = (request.get("uri") or request.get("url") or "").partition("?")[0]
        schema = next((name for end, name in _SCHEMA_OF.items() if url.endswith(end)), None)
        if schema is None or not _body(request).lstrip().startswith("{"):
            continue
        asked = json.loads(_body(request))
        status = response.get("code") or response["status"]["code"]
        headers = {name.lower(): value for name, value in response["headers"].items()}
        kind = headers.get("content-type", ["application/json"])[0]
        name = f"{path.parent.name}.{path.stem.removeprefix('test_')}.{number}"
        found.append(Recording(name, schema, asked, status, kind, _ended(_body(response).encode(), kind)))
    return found


def _body(side: dict[str, Any]) -> str:
    if side.get("parsed_body") is not None:
        return json.dumps(side["parsed_body"])
    body = side.get("body")
    return (body.get("string") if isinstance(body, dict) else body) or ""
