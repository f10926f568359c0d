"""The counter of one model: texts, whole requests, and two bounds that need no tokenizer."""

from __future__ import annotations

import math

from extproc.core.conversation import (
    Conversation,
    Document,
    Foreign,
    Image,
    Message,
    Part,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from extproc.tokens import encodings, images, render
from extproc.tokens.families import Family, family_of

TEMPLATE_CEILING = 1_024
"""More than any template here adds beside what stands in the body."""

DOCUMENT_TOKENS = 3_000
"""A file whose text is not in the request, such as a PDF: about two pages (Anthropic: 1,500 to 3,000 a page)."""

_PER_OBJECT = 12
"""The shortest tool is two objects of 24 bytes together and costs 44 tokens on Claude since 4.7."""

_BYTES_PER_TOKEN = 3.6
"""JSON bodies; recorded small ones have 3.1 bytes per token with their templates, long texts come near 4."""


class Counter:
    """Counts for one model. Holds no state, so it may be used from any thread."""

    __slots__ = ("family",)

    def __init__(self, family: Family) -> None:
        self.family = family

    def text(self, text: str) -> int:
        """Tokens of a text alone; exact where the family has its own vocabulary, never above the bytes of the text.

        Takes 0.15 ms per 1,000 tokens, at worst 0.5 s per million characters; the interpreter lock is free meanwhile.
        """
        found = encodings.count(self.family.encoding, text)
        if self.family.factor == 1.0:
            return found
        scaled = math.ceil(found * self.family.factor)
        if scaled <= len(text):
            return scaled
        return min(scaled, len(text.encode("utf-8", "surrogatepass")))

    def request(self, conversation: Conversation, *, responses: bool = False) -> int:
        """Tokens of a whole request, template included.

        Args:
            conversation: the parsed request; what it refers to by address or id counts as a constant.
            responses: the backend is OpenAI's Responses API, which writes tools more briefly than chat completions.
        """
        family = self.family
        total = family.start
        names = _names(conversation.messages)
        since = _turn(conversation.messages)
        for i, message in enumerate(conversation.messages):
            total += self._message(message, names)
            if family.remembers == "all" or (family.remembers == "turn" and i >= since):
                total += sum(self.text(part.text) for part in message.parts if isinstance(part, Thinking))
        if conversation.tools:
            total += self._tools(conversation, responses)
        if conversation.json_schema is not None and family.result_apart:  # others constrain decoding without saying so
            total += self.text(render.answer_schema(conversation.json_schema))
        if conversation.thinking_budget is not None:
            total += family.thinking
        return total

    def answer(self, text: str) -> int:
        """Output tokens of an answer of this visible text; hidden reasoning comes on top."""
        return self.text(text) + self.family.answer

    def estimate_bytes(self, size: int) -> int:
        """A guess from the size of the body alone, in bytes; typically within 30 %."""
        return math.ceil(size / _BYTES_PER_TOKEN * self.family.factor)

    def _message(self, message: Message, names: dict[str, str]) -> int:
        family = self.family
        results = sum(isinstance(part, ToolResult) for part in message.parts)
        apart = family.result_apart and results == len(message.parts) > 0
        total = 0 if apart else family.message
        for part in message.parts:
            total += self._part(part)
            if isinstance(part, ToolResult) and family.result_apart:
                total += self.text(names.get(part.id, ""))
        return total

    def _part(self, part: Part) -> int:
        match part:
            case Text(text):
                return self.text(text)
            case Thinking():
                return 0  # by the turn: see request
            case ToolUse(_, name, arguments):
                return self.text(name) + self.text(arguments) + self.family.call
            case ToolResult(_, parts):
                return self.family.result + sum(self._part(inner) for inner in parts)
            case Image():
                return images.tokens(part, self.family)
            case Document(text=str(text)):
                return self.text(text)
            case Document():
                return DOCUMENT_TOKENS
            case Foreign(_, value):
                return self.text(render.compact(value))

    def _tools(self, conversation: Conversation, responses: bool) -> int:
        family = self.family
        brief = responses and family.render == "typescript"
        total = family.tools_responses if brief else family.tools
        total += sum(self._tool(tool) for tool in conversation.tools)
        choice = conversation.tool_choice
        if choice is not None and choice.mode in ("any", "tool"):
            total += family.forced
        if family.render == "typescript":
            total += self.text(render.NAMESPACE)
        spoken = any(message.role == "system" for message in conversation.messages)
        return total if spoken or brief else total + family.tools_alone

    def _tool(self, tool: Tool) -> int:
        if tool.foreign is not None:
            return self.text(render.compact(tool.foreign))
        match self.family.render:
            case "typescript":
                return self.text(render.typescript(tool))
            case "function":
                return self.text(render.function(tool)) + self.family.each_tool
            case "bare":
                return self.text(render.bare(tool)) + self.family.each_tool


def _names(messages: tuple[Message, ...]) -> dict[str, str]:
    """The tool that each call of the history called, by the id of the call."""
    return {part.id: part.name for message in messages for part in message.parts if isinstance(part, ToolUse)}


def _turn(messages: tuple[Message, ...]) -> int:
    """Where the present turn begins: the last message in which the user said something."""
    for i in reversed(range(len(messages))):
        if messages[i].role == "user" and any(isinstance(part, Text) for part in messages[i].parts):
            return i
    return 0


def counter(model: str) -> Counter:
    """Return the counter of a model by its name; an unknown name gets the average of open models."""
    return Counter(family_of(model))


def upper_bound(body_bytes: bytes) -> int:
    """A ceiling on the text tokens of a request from its JSON body, for every family, without any tokenizer.

    A byte-level token covers at least one byte, and JSON only lengthens a text. A template may say more about a tool
    than its few bytes do; each object of the body is allowed for that. Not covered is what the body does not hold
    (media behind an address or an id), and images, whose tokens come from their size in pixels.
    """
    return len(body_bytes) + _PER_OBJECT * body_bytes.count(b"{") + TEMPLATE_CEILING


def warm(*models: str) -> None:
    """Load what these models need now; 0.2 to 0.7 s per vocabulary, so call it before traffic or in a thread."""
    for model in models:
        encodings.load(family_of(model).encoding)
