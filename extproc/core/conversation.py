"""The neutral conversation model that every API schema is parsed into and rendered from.

A request is a `Conversation`; an answer, streamed or whole, is a sequence of `Event`s. A schema module knows only
its own wire format and this file, so N schemas need N modules and not N x N translators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from extproc.core.usage import PLAIN, Terms, Tokens

Json = Any


class Text(msgspec.Struct, frozen=True, tag=True):
    """Visible text. `cache` carries an Anthropic-style cache_control object, if any."""

    text: str
    cache: Json = None


class Image(msgspec.Struct, frozen=True, tag=True):
    """An image: either base64 `data` with its `media_type`, or a `url`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    detail: str | None = None
    cache: Json = None


class Document(msgspec.Struct, frozen=True, tag=True):
    """A file such as a PDF: base64 `data` with its `media_type`, plain `text`, or a `url`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    text: str | None = None
    name: str | None = None
    cache: Json = None


class Thinking(msgspec.Struct, frozen=True, tag=True):
    """Reasoning of an earlier turn.

    `signature` and `redacted` are Anthropic's, `encrypted` and `id` those of an OpenAI reasoning item: each belongs to
    the provider that made it and is never sent to another.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    encrypted: str | None = None
    id: str | None = None


ToolKind = Literal["function", "custom"]
"""A function takes a JSON object; a custom (freeform) tool takes raw text."""


class ToolUse(msgspec.Struct, frozen=True, tag=True):
    """A tool call by the model. `arguments` is the JSON text of an object, exactly as produced; for a custom tool
    it is the raw input text."""

    id: str
    name: str
    arguments: str
    cache: Json = None
    kind: ToolKind = "function"
    namespace: str | None = None


class ToolResult(msgspec.Struct, frozen=True, tag=True):
    """The answer to a tool call."""

    id: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False
    cache: Json = None


class Foreign(msgspec.Struct, frozen=True, tag=True):
    """A part that only its own `schema` understands (server tool results, audio, ...): `value` is its JSON."""

    kind: str
    value: Json
    schema: str = ""


Part = Text | Image | Document | Thinking | ToolUse | ToolResult | Foreign
Role = Literal["system", "user", "assistant"]
"""Tool results are parts of a user message; system may stand anywhere."""


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: Role
    parts: tuple[Part, ...]


class Tool(msgspec.Struct, frozen=True):
    """A tool the model may call: a function, or a custom one whose input is raw text (`format` is its grammar).

    `foreign` holds a provider-typed tool (web search, ...) of `schema` that others lack; `extra` the fields of a
    function that only `schema` knows (defer_loading, input_examples, ...).
    """

    name: str
    description: str | None = None
    parameters: Json = None
    strict: bool | None = None
    cache: Json = None
    foreign: Json = None
    kind: ToolKind = "function"
    format: Json = None
    namespace: str | None = None
    extra: Json = None
    schema: str = ""


class ToolChoice(msgspec.Struct, frozen=True):
    """What the caller demands: free choice, any tool, one named tool, or none; `allowed` narrows auto and any."""

    mode: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    allowed: tuple[str, ...] = ()


class Prompt(msgspec.Struct, frozen=True):
    """A text to go on from, not a conversation; with `suffix` the middle is wanted (fill in the middle)."""

    text: str
    suffix: str | None = None
    echo: bool = False


Task = Literal["chat", "completion", "embeddings", "count"]


class Conversation(msgspec.Struct, frozen=True):
    """One request in neutral form. Absent settings are None; the renderer of a schema sets its own defaults."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    stream: bool = False
    stream_usage: bool = False          # OpenAI: the client asked for the usage chunk
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    best_of: int = 1                    # answers made in all, given or not: each is billed
    effort: str | None = None           # none|minimal|low|medium|high|xhigh|max
    thinking_budget: int | None = None
    json_schema: Json = None            # {"name":…, "schema":…, "strict":…}
    json_object: bool = False
    user: str | None = None
    unmapped: tuple[str, ...] = ()
    """Names of request fields that the neutral model does not carry."""
    extras: Mapping[str, Json] = {}
    """Settings that some schemas share, under OpenAI's names (see `EXTRAS`); a renderer names those it must drop."""
    thinking: str | None = None         # adaptive|disabled|enabled|between_tools: Anthropic's thinking.type
    thinking_display: str | None = None  # summarized|omitted
    task: Task = "chat"
    prompt: Prompt | None = None        # of task completion
    demands: tuple[str, ...] = ()
    """Features that only a backend of the client's own schema can serve (previous_response_id, ...)."""
    system_cache: bool = False          # a top-level automatic cache breakpoint was asked for
    server_calls: int | None = None     # calls of the provider's own tools at most, all together


EXTRAS = frozenset({
    "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "metadata", "service_tier",
    "prompt_cache_key", "prompt_cache_retention", "verbosity", "safety_identifier", "store", "min_p",
    "repetition_penalty",
})
"""The shared settings that travel in `Conversation.extras`."""


# ---------------------------------------------------------------- events of an answer

StopReason = Literal["end", "length", "tool_use", "stop_sequence", "filtered", "pause", "context"]


class Start(msgspec.Struct, frozen=True):
    """The answer begins. `id` and `model` as the provider says."""

    id: str = ""
    model: str = ""


class TextDelta(msgspec.Struct, frozen=True):
    """More visible text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True):
    """More reasoning text, or (with empty text) what closes it: a signature, a redacted block, or OpenAI's encrypted
    content with the id of its item."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    encrypted: str | None = None
    id: str | None = None


class ToolStart(msgspec.Struct, frozen=True):
    """A tool call begins. `index` numbers the calls of this answer from 0. The deltas of a custom call are its raw
    input text."""

    index: int
    id: str
    name: str
    kind: ToolKind = "function"
    namespace: str | None = None


class ToolDelta(msgspec.Struct, frozen=True):
    """More argument JSON text of call `index`. Calls may interleave; renderers that cannot, buffer."""

    index: int
    arguments: str


class UsageReport(msgspec.Struct, frozen=True):
    """Usage as known now; later reports replace known classes, they never add."""

    tokens: Tokens
    terms: Terms = PLAIN


class Stop(msgspec.Struct, frozen=True):
    """Why the model stopped. `sequence` is the stop string that was hit, if told."""

    reason: StopReason
    sequence: str | None = None


class Done(msgspec.Struct, frozen=True):
    """The schema's own terminal event was seen: the answer is complete."""


class Failure(msgspec.Struct, frozen=True):
    """The provider reported an error in place of, or in the middle of, an answer.

    `status` is the HTTP status the error would have had; `kind` one of the kinds in `core.errors`.
    """

    kind: str
    message: str
    status: int = 502
    raw: bytes = b""


Event = Start | TextDelta | ThinkingDelta | ToolStart | ToolDelta | UsageReport | Stop | Done | Failure
