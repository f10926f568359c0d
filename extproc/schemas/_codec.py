"""What the codecs share: decoding with errors that name the field, encoding, and names safe for a header."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from extproc.core.errors import RequestError, UpstreamError

T = TypeVar("T")

FOREIGN_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)
"""Everything msgspec raises on hostile input."""

FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
ANY = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_MISSING = re.compile(r"Object missing required field `(.+?)`")
_AT = re.compile(r"^(.*?) - at `\$(.*)`$", re.DOTALL)
_SAFE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MAX_NAMES = 32
_NULL = b"null"


def decode(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw, path: str = "") -> T:
    """Decode a part of a client's request.

    Raises:
        RequestError: with the field's path in the message and in `param`.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise _field_error(str(exc), path) from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply", param=path or None) from exc
    except FOREIGN_ERRORS as exc:
        raise RequestError(f"the body is not valid JSON: {str(exc)[:200]}", param=path or None) from exc


def _field_error(text: str, path: str) -> RequestError:
    if (at := _AT.match(text)) is not None:
        text, path = at[1], _join(path, at[2].removeprefix("."))
    if (missing := _MISSING.match(text)) is not None:
        path, text = _join(path, missing[1]), "required field is missing"
    text = text.replace("`", "")
    text = text[:1].lower() + text[1:300]
    path = path[:120]
    return RequestError(
        f"{path}: {text}" if path else f"the body must be a JSON object: {text}", param=path or None
    )


def _join(path: str, tail: str) -> str:
    return f"{path}.{tail}" if path and tail and tail[0] != "[" else path + tail


def decode_answer(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Decode what a provider sent.

    Raises:
        UpstreamError: it is not JSON or not of the expected form.
    """
    try:
        return decoder.decode(raw)
    except FOREIGN_ERRORS as exc:
        raise UpstreamError(f"the backend sent something that is not an answer: {str(exc)[:200]}") from exc


def encode(value: object) -> bytes:
    """Encode an answer or an event."""
    return _ENCODER.encode(value)


def encode_request(value: object) -> bytes:
    """Encode a request that holds the client's own JSON values.

    Raises:
        RequestError: a value that could be read cannot be written (nesting, integers beyond 64 bits).
    """
    try:
        return _ENCODER.encode(value)
    except FOREIGN_ERRORS as exc:
        raise RequestError(
            "the request holds a value that cannot be forwarded (nesting or huge numbers)"
        ) from exc


def require_text(value: object, path: str) -> str:
    """A field that must be a non-empty string; raise RequestError naming it."""
    if not isinstance(value, str) or not value:
        raise RequestError(f"{path}: expected a non-empty string", param=path)
    return value


def unmapped_fields(body: bytes, known: frozenset[str]) -> list[str]:
    """Names of the set (not null) top-level fields that `known` lacks."""
    return [name for name in set_fields(body) if name not in known]


def set_fields(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The fields of an object that are not null, unread."""
    return {name: raw for name, raw in decode(FIELDS, body).items() if bytes(raw) != _NULL}


class Found(msgspec.Struct):
    """What a parser meets that the neutral model does not carry: names of what gets lost with other schemas, and of
    what only the client's own schema can serve."""

    lost: list[str] = msgspec.field(default_factory=list[str])
    demands: list[str] = msgspec.field(default_factory=list[str])


def labels(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, only such that can stand in a header, and not more than a header can bear."""
    return tuple(dict.fromkeys(name for name in names if _SAFE.fullmatch(name)))[:_MAX_NAMES]


def label(prefix: str, name: str) -> str:
    """A name such as ``tool:web_search`` whose second half comes from the client."""
    return f"{prefix}:{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:48]}"


def tool_id(identifier: str, *, prefix: str = "call", number: int = 0) -> str:
    """A tool call id in the alphabet every provider takes (`[a-zA-Z0-9_-]+`); same input, same id."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", identifier) or f"{prefix}_{number}"


def json_object(text: str) -> bool:
    """Whether the text is a complete JSON object."""
    try:
        return isinstance(ANY.decode(text), dict)
    except FOREIGN_ERRORS:
        return False


def data_uri(url: str) -> tuple[str | None, str | None]:
    """Split a base64 data URI (RFC 2397) into its media type and its data; (None, None) for anything else."""
    head, comma, data = url.partition(",") if url[:5].lower() == "data:" else ("", "", "")
    if not comma or not head.lower().endswith(";base64"):
        return None, None
    return head[5:-7].partition(";")[0] or "application/octet-stream", data


def compact(value: Any) -> str:
    """JSON text of a value that was decoded before."""
    return encode_request(value).decode()
