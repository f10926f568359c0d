"""Request bodies of a wanted size, shaped like a conversation."""

from __future__ import annotations

import json

_TEXT = 'Please read this "draft", then say what is missing.\nIt has several lines, as most prompts do. '
_MESSAGE = 2000


def _messages(size: int) -> list[dict[str, str]]:
    """About `size` bytes of user and assistant turns, a user's last."""
    parts: list[str] = []
    left = size
    while left > 0:
        parts.append((_TEXT * (_MESSAGE // len(_TEXT) + 1))[:min(left, _MESSAGE)])
        left -= _MESSAGE + 60
    roles = ("user", "assistant") if len(parts) % 2 else ("assistant", "user")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(parts)]


def chat_request(model: str, size: int, *, stream: bool = False) -> str:
    """An OpenAI chat request of about `size` bytes."""
    body = {"model": model, "messages": _messages(size - 120), "temperature": 0.2, "stream": stream}
    return json.dumps(body, separators=(",", ":"))


def anthropic_request(model: str, size: int, *, stream: bool = False) -> str:
    """An Anthropic messages request of about `size` bytes."""
    body = {"model": model, "max_tokens": 1024, "messages": _messages(size - 120), "stream": stream}
    return json.dumps(body, separators=(",", ":"))
