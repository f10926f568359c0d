"""What a request of the provider's own schema needs changed before it passes: the model, and the output limit."""

from __future__ import annotations

from typing import Any, cast

from extproc.schemas._codec import FIELDS, decode, encode
from extproc.schemas.base import Target
from extproc.wire.json_splice import TopLevel

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict", "n_predict")
"""Fields that limit the output at some server."""


def edits(fields: TopLevel, target: Target, limits: tuple[str, ...]) -> dict[str, bytes]:
    """The model, and the limit that was paid for in every one of `limits` that the client used, else in one of them."""
    changed = {"model": encode(target.model)}
    if target.granted is not None and limits:
        used = [name for name in limits if fields.get(name) not in (None, b"null")]
        changed |= dict.fromkeys(used or [_name(target, limits)], encode(target.granted))
    return changed


def limit_in_options(options: bytes | None, granted: int) -> bytes:
    """Ollama's options with the limit that was paid for; raise RequestError where they are no object."""
    given = {} if options is None or options == b"null" else decode(FIELDS, options, "options")
    return encode({**given, "num_predict": granted})


def limit(fields: dict[str, Any], target: Target, limits: tuple[str, ...]) -> None:
    """Put the limit that was paid for into decoded fields: wherever a server could read one that the client gave."""
    if target.granted is None or not limits:
        return
    options = fields.get("options")
    for where in (fields, cast(dict[str, Any], options) if isinstance(options, dict) else {}):
        where.update({name: target.granted for name in LIMITS if where.get(name) is not None})
    if all(fields.get(name) is None for name in limits):
        fields[_name(target, limits)] = target.granted


def _name(target: Target, limits: tuple[str, ...]) -> str:
    """The field for a limit where the client gave none."""
    return limits[-1] if target.max_tokens_only else limits[0]
