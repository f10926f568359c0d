"""Facts about a request, taken once from its neutral form and its headers; routing reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from extproc.core.conversation import Conversation, Document, Image, Message, Task, Text, ToolResult, ToolUse
from extproc.core.routing.harness import pace, recognise
from extproc.core.routing.human import said

PathRoute = Literal["plain", "local", "smart"]
BYTES_PER_TOKEN = 4
_TEXTS = 16
"""Texts of one message that are joined to an ask."""
_APART = frozenset({"claude-code", "codex", "opencode", "qwen-code", "cline", "roo-code", "cursor", "continue"})
"""Programs that send what they add in texts of its own: the last one that a human wrote is the ask."""
_THINKS = ("adaptive", "enabled", "between_tools")


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
    """The last thing a human said: no system prompt, reminder, tool result or surroundings."""
    headers: Mapping[str, str]
    key: str = ""
    team: str = ""
    task: Task = "chat"
    fills: bool = False
    """Whether the middle of a text is wanted: an editor waits for it at every key stroke."""
    endpoint: str = "openai"
    """The name of the client's schema."""
    project: str = ""
    user: str = ""
    org: str = "default"
    tool_rounds: int = 0
    """Messages with tool calls since the last human ask."""
    images: int = 0
    structured: bool = False
    """Whether JSON is wanted."""
    thinking: bool = False
    effort: str = ""
    agent: str = "other"
    phase: str = "main"
    pace: str = "interactive"
    session: str = ""
    budget_left: float | None = None
    """0 to 1 of the tightest dollar budget; None: there is none, or it is not known."""
    warm_tokens: int = 0
    """Prompt-cache tokens that the session's backend holds."""
    down: frozenset[str] = frozenset()
    """Names of backends that are open or cooled down now."""

    def facts(self) -> dict[str, str | int | float | bool | None]:
        """All signals under the names that rules use, but for the ask and the headers; sets are joined by commas."""
        return {
            "path": self.path, "endpoint": self.endpoint, "task": self.task, "model": self.model, "org": self.org,
            "team": self.team, "project": self.project, "user": self.user, "key": self.key, "agent": self.agent,
            "phase": self.phase, "pace": self.pace, "session": self.session, "effort": self.effort,
            "stream": self.stream, "fills": self.fills, "in_tool_loop": self.in_tool_loop,
            "structured": self.structured, "thinking": self.thinking, "tokens": self.input_tokens,
            "max_tokens": self.max_tokens, "turns": self.turns, "tools": self.tools, "tool_rounds": self.tool_rounds,
            "images": self.images, "warm_tokens": self.warm_tokens, "budget_left": self.budget_left,
            "needs": ", ".join(sorted(self.needs)), "down": ", ".join(sorted(self.down)),
        }


class _Pass:
    """One walk over the messages, last to first: what they hold, and the last thing a human said."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self.needs: set[str] = set()
        self.ask = ""
        self.turns = self.rounds = self.images = self.image_bytes = 0
        self.in_tool_loop = False
        self._seen = self._calls = self._results = False

    def walk(self, messages: tuple[Message, ...]) -> None:
        for message in reversed(messages):
            if message.role != "system":
                self._message(message)

    def _message(self, message: Message) -> None:
        self._calls = self._results = False
        texts: list[str] = []
        for part in message.parts:
            if type(part) is Text:
                texts.append(part.text)
            else:
                self._part(part)
        if not self._seen:
            self._seen, self.in_tool_loop = True, self._results
        if message.role == "user":
            self.turns += 1
            if texts and not self.ask:
                self.ask = self._said(texts)
        elif self._calls and not self.ask:
            self.rounds += 1

    def _part(self, part: object) -> None:
        if isinstance(part, ToolUse):
            self._calls = True
            self.needs.add("tools")
        elif isinstance(part, ToolResult):
            self._results = True
            for inner in part.parts:
                if isinstance(inner, Image):
                    self._image(inner)
        elif isinstance(part, Image):
            self._image(part)
        elif isinstance(part, Document) and part.text is None:  # plain text can be said to any model
            self.needs.add("documents")

    def _image(self, image: Image) -> None:
        self.needs.add("images")
        self.images += 1
        self.image_bytes += len(image.data or "")

    def _said(self, texts: list[str]) -> str:
        if self._agent in _APART:
            return next((ask for text in reversed(texts) if (ask := said(text, self._agent))), "")
        if len(texts) == 1:
            return said(texts[0], self._agent)
        return "\n".join(ask for text in texts[-_TEXTS:] if (ask := said(text, self._agent)))


def extract(conversation: Conversation, body_bytes: int, path: PathRoute, headers: Mapping[str, str],
            key: str, team: str, *, endpoint: str = "openai", org: str = "default", project: str = "",
            user: str = "") -> Signals:
    """Read the signals of one request in one pass over its messages. `headers` have names in lower case."""
    agent, phase = recognise(headers, conversation, endpoint)
    found = _Pass(agent)
    found.walk(conversation.messages)
    if conversation.tools:
        found.needs.add("tools")
    if conversation.json_schema is not None:
        found.needs.add("json_schema")
    prompt = conversation.prompt
    return Signals(
        path=path, model=conversation.model, stream=conversation.stream, max_tokens=conversation.max_tokens,
        input_tokens=max(1, (body_bytes - found.image_bytes) // BYTES_PER_TOKEN), turns=found.turns,
        tools=len(conversation.tools), in_tool_loop=found.in_tool_loop, needs=frozenset(found.needs),
        ask=found.ask if prompt is None else prompt.text, headers=headers, key=key, team=team, task=conversation.task,
        fills=prompt is not None and prompt.suffix is not None, endpoint=endpoint, project=project, user=user, org=org,
        tool_rounds=found.rounds, images=found.images,
        structured=conversation.json_schema is not None or conversation.json_object,
        thinking=_thinks(conversation), effort=conversation.effort or "", agent=agent, phase=phase,
        pace=pace(headers, conversation),
    )


def _thinks(conversation: Conversation) -> bool:
    """Whether thinking was asked for, by its own setting or, where that is not set, by an effort."""
    if conversation.thinking is not None:
        return conversation.thinking in _THINKS
    return bool(conversation.thinking_budget) or conversation.effort not in (None, "none")
