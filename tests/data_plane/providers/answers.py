"""What the stand-ins say, whatever their wire format: chosen by what was asked, so that nothing has to be scripted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A tool call; `arguments` is JSON text, or the raw input of a custom tool."""

    id: str
    name: str
    arguments: str
    custom: bool = False


@dataclass(frozen=True)
class Said:
    """One answer. `thinking` is shown where the provider shows any."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    cut: bool = False
    input: int = 20
    cached: int = 5
    output: int = 9
    reasoning: int = 3

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed: one word at a time."""
        words = self.text.split(" ")
        return [word + " " for word in words[:-1]] + words[-1:] if self.text else []


@dataclass(frozen=True)
class Ask:
    """What a request wants, read from any wire format. `tools` maps names to `function` or `custom`."""

    text: str
    stream: bool = False
    tools: dict[str, str] = field(default_factory=dict)
    forced: bool = False
    after_tool: bool = False
    wants_json: bool = False
    thinks: bool = False


TEXT = "Hello there, I am a stand-in."
THOUGHT = "They greet me."
SUNNY = "It is sunny in Paris."
CITY = '{"city":"Paris","country":"France"}'
QUERY = "SELECT 1;"
MIDDLE = "return a + b"
SPAN = (0.5, -0.25, 0.125)


def reply(ask: Ask, call_id: str) -> Said:
    """The answer to a request; `call_id` is the provider's kind of id, numbered by a placeholder {}."""
    thought = THOUGHT if ask.thinks else ""
    if ask.after_tool:
        return Said(SUNNY, thought)
    if ask.tools and (ask.forced or "weather" in ask.text or "SQL" in ask.text):
        return Said(thinking=thought, calls=_calls(ask, call_id))
    if ask.text.startswith("A gap in a text"):
        return Said(f"```python\n{MIDDLE}\n```", thought)  # chat models put code into a fence whatever they are told
    if ask.text.startswith("Continue the text"):
        return Said(MIDDLE, thought)
    if ask.wants_json:
        return Said(CITY, thought)
    return Said(TEXT, thought)


def _calls(ask: Ask, call_id: str) -> tuple[Call, ...]:
    cities = ("Paris", "Oslo") if "both" in ask.text else ("Paris",)
    name = next((n for n in ask.tools if ("sql" in n) == ("SQL" in ask.text)), next(iter(ask.tools)))
    if "sql" in name:
        custom = ask.tools[name] == "custom"
        return (Call(call_id.format(0), name, QUERY if custom else json.dumps({"input": QUERY}), custom),)
    return tuple(Call(call_id.format(i), name, json.dumps({"city": city})) for i, city in enumerate(cities))


# ---------------------------------------------------------------- judging


class WrongError(Exception):
    """What was sent breaks a rule; `body` is the provider's own error answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(json.dumps(body))
        self.status, self.body = status, body


def text_of(content: Any) -> str:
    """The text of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


def tokens_of(body: bytes) -> int:
    """So many tokens has a request for a stand-in: a quarter of its bytes."""
    return len(body) // 4
