"""llama.cpp's HTTP server.

Sources: github ggml-org/llama.cpp, tools/server/README.md; and the server itself (xllamacpp 2026.10), which ignores a
named tool choice, answers 500 to tools that are no functions and to empty arguments in the history, and 400 to file
parts.
"""

from __future__ import annotations

from extproc.dialects import _chat, _messages, _tools
from extproc.dialects.base import Fields, Notes
from extproc.dialects.compatible import Compatible, report_usage
from extproc.schemas.base import Target


class LlamaCpp(Compatible):
    """llama.cpp's server; tools need its --jinja."""

    name = "llamacpp"
    verbatim = False
    native = frozenset({"completions", "embeddings", "count_tokens"})
    fim = "template"
    lacks = frozenset({"documents"})

    def settle(self, fields: Fields, target: Target, notes: Notes) -> None:
        """Its own names, and a named tool choice as a choice of one."""
        _chat.drop(fields, ("user",), notes)  # ignored there
        _chat.rename(fields, "repetition_penalty", "repeat_penalty")
        _tools.only_chosen(fields, "required", notes)
        _messages.replace_parts(fields, _messages.only_kinds("image_url", "input_audio", "input_video"), notes)
        report_usage(fields)
        _chat.switch_thinking(fields)
