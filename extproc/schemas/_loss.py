"""What gets lost of the parts of messages when a schema cannot say it."""

from __future__ import annotations

from extproc.core.conversation import Document, Foreign, Image, Part, Text, ToolResult, ToolUse
from extproc.schemas._codec import label

_ATTRIBUTION = "x-anthropic-billing-header:"


def for_anthropic(text: str) -> bool:
    """Whether a system text is Claude Code's attribution line: Anthropic strips it, elsewhere it would be prompt."""
    return text.startswith(_ATTRIBUTION)


class PartsRenderer:
    """Renders parts, noting what gets lost in `dropped` and what is put differently in `emulated`."""

    def __init__(self, dropped: list[str], emulated: list[str]) -> None:
        self._dropped = dropped
        self._emulated = emulated

    def _note_cache(self, part: Text | Image | Document | ToolUse | ToolResult) -> None:
        if part.cache is not None:
            self._dropped.append("cache_control")

    def _drop(self, part: Part) -> None:
        kind = part.kind if isinstance(part, Foreign) else type(part).__name__.lower()
        self._dropped.append(label("foreign", kind))
