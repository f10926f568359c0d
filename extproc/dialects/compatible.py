"""A server that speaks OpenAI's chat completions and says no more of itself.

A client of that API is understood to know whom it talks to: its request passes as it is. What is translated from
another API is said in the words common to such servers: `max_tokens`, functions, one system message, the first.
"""

from __future__ import annotations

import re
from typing import Any

from extproc.dialects import _chat, _messages, _tools
from extproc.dialects.base import Dialect, Fields, Notes
from extproc.schemas.base import Target

_STRICT = re.compile(r"(?:.*/)?(?:gpt-(?!oss)|chatgpt|o[134]\b|(?:mistral|codestral|devstral|magistral|ministral))")
"""Models whose makers' servers refuse message fields they do not know, such as reasoning_content."""
ACCOUNT = ("metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "verbosity",
           "safety_identifier")
"""Settings that mean something to OpenAI's own service only."""


class Compatible(Dialect):
    """Any OpenAI-compatible server."""

    name = "compatible"
    native = frozenset({"embeddings"})
    repairs = True
    max_tokens_only = True

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Say the request in the words that all such servers know."""
        if wire != "openai":
            return
        _chat.max_tokens(fields)
        _chat.drop(fields, ACCOUNT, notes)
        _tools.functions_only(fields, notes)
        _tools.whole_arguments(fields)
        _messages.one_system(fields, notes)
        if _STRICT.match(target.model):
            _messages.drop_thinking(fields, notes)
        self.settle(fields, target, notes)
        _messages.flatten(fields)

    def settle(self, fields: Fields, target: Target, notes: Notes) -> None:
        """What differs from one server to the next."""
        report_usage(fields)


def report_usage(fields: Fields, **more: Any) -> None:
    """Have a stream end with its usage, and options besides, where the client did not say otherwise."""
    if fields.get("stream") is True:
        given = _chat.as_object(fields.get("stream_options")) or {}
        fields["stream_options"] = {**more, **given, "include_usage": True}
