"""Facts about a request, taken once from its neutral form and its headers; routing reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from extproc.core.conversation import Conversation, Document, Image, Task, Text, ToolResult, ToolUse

PathRoute = Literal["plain", "local", "smart"]
BYTES_PER_TOKEN = 4


class Signals(msgspec.Struct, frozen=True):
    """What routing may know. `input_tokens` is an estimate (a quarter of the bytes)."""

    path: PathRoute
    model: str
    stream: bool
    max_tokens: int | None
    input_tokens: int
    turns: int
    tools: int
    in_tool_loop: bool
    needs: frozenset[str]
    ask: str
    headers: Mapping[str, str]
    key: str = ""
    team: str = ""
    task: Task = "chat"
    fills: bool = False
    """Whether the middle of a text is wanted: an editor waits for it at every key stroke."""


def extract(conversation: Conversation, body_bytes: int, path: PathRoute, headers: Mapping[str, str],
            key: str, team: str) -> Signals:
    """Read the signals of one request in one pass over its messages."""
    needs: set[str] = set()
    ask, turns, last_is_result, image_bytes = "", 0, False, 0
    for message in conversation.messages:
        if message.role == "system":
            continue
        turns += message.role == "user"
        said, last_is_result = "", False
        for part in message.parts:
            if isinstance(part, Text):
                said = part.text
            elif isinstance(part, ToolResult):
                last_is_result = True
                for inner in part.parts:
                    if isinstance(inner, Image):
                        needs.add("images")
                        image_bytes += len(inner.data or "")
            elif isinstance(part, Image):
                needs.add("images")
                image_bytes += len(part.data or "")
            elif isinstance(part, Document):
                if part.text is None:  # plain text can be said to any model
                    needs.add("documents")
            elif isinstance(part, ToolUse):
                needs.add("tools")
        if message.role == "user" and said and not said.startswith("<system-reminder>"):
            ask = said
    if conversation.tools:
        needs.add("tools")
    if conversation.json_schema is not None:
        needs.add("json_schema")
    return Signals(
        path=path, model=conversation.model, stream=conversation.stream, max_tokens=conversation.max_tokens,
        input_tokens=max(1, (body_bytes - image_bytes) // BYTES_PER_TOKEN), turns=turns, tools=len(conversation.tools),
        in_tool_loop=last_is_result, needs=frozenset(needs), ask=ask, headers=headers, key=key, team=team,
        task=conversation.task, fills=conversation.prompt is not None and conversation.prompt.suffix is not None,
    )
