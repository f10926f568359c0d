"""Ollama, by its own chat route and by its OpenAI route.

Source: github ollama/ollama, openai/openai.go and docs/api.md.
"""

from __future__ import annotations

from typing import Any

from extproc.core.conversation import Conversation
from extproc.dialects import _chat, _messages, _tools
from extproc.dialects.base import Dialect, Fields, Notes
from extproc.dialects.compatible import report_usage
from extproc.schemas.base import Target

_KNOWN = frozenset({
    "model", "messages", "stream", "stream_options", "max_tokens", "seed", "stop", "temperature", "frequency_penalty",
    "presence_penalty", "top_p", "response_format", "tools", "reasoning", "reasoning_effort",
})
"""The fields of its ChatCompletionRequest; it ignores all others."""
_EFFORTS = {"none": "none", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max",
            "max": "max"}
_IMAGES = tuple(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp"))


class Ollama(Dialect):
    """Ollama's own API: the schema sets the context, and a prompt that does not fit it is an error."""

    name = "ollama"
    schema = "ollama"
    native = frozenset({"completions", "embeddings"})
    fim = "suffix"
    repairs = True
    lacks = frozenset({"documents"})

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """One system message: some of its templates answer 400 to a later one."""
        if wire == "ollama":
            _messages.one_system(fields, notes)


class OllamaChat(Dialect):
    """Ollama's OpenAI route: the context is what the server was started with, and longer prompts are cut silently."""

    name = "ollama-openai"
    native = frozenset({"completions", "embeddings"})
    verbatim = False
    fim = "suffix"
    repairs = True
    lacks = frozenset({"documents"})
    silent_truncation = True

    def cannot(self, conversation: Conversation, target: Target) -> tuple[str, ...]:
        """Images by URL: Ollama fetches none."""
        return ("image:url",) if any(image.data is None for image in _messages.images(conversation)) else ()

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Leave what the route knows; a tool choice is kept as far as the list of tools can say it."""
        if wire != "openai":
            return
        _chat.max_tokens(fields)
        _tools.functions_only(fields, notes)
        _choice(fields, notes)
        _tools.whole_arguments(fields)
        _messages.one_system(fields, notes)
        _messages.replace_parts(fields, _lost, notes)
        _messages.flatten(fields)
        _messages.thinking_as(fields, "reasoning")
        for message in _chat.messages(fields):
            if message.get("content") is None and not _tools.calls(message):
                message["content"] = ""  # null without calls is a 400
        _chat.effort(fields, _EFFORTS, notes)
        report_usage(fields)
        _chat.keep(fields, _KNOWN, notes)


def _choice(fields: Fields, notes: Notes) -> None:
    """There is no tool_choice: a named tool is offered alone, and `none` offers none."""
    _tools.only_chosen(fields, None, notes)
    if fields.get("tool_choice") == "none" and fields.get("tools"):
        del fields["tools"], fields["tool_choice"]
        notes.emulated.append("tool_choice")


def _lost(part: Fields) -> str | None:
    """It takes base64 images of four kinds; to fetch a URL is not the gateway's business."""
    if _chat.kind(part) != "image_url":
        return _messages.only_kinds()(part)
    given: Any = part.get("image_url")
    inner = _chat.as_object(given)
    url = given if inner is None else inner.get("url")
    if isinstance(url, str) and url.startswith(_IMAGES):
        return None
    return "image:media_type" if isinstance(url, str) and url.startswith("data:") else "image:url"
