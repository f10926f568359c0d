"""What leaves for a provider: the body in its schema, its path, its authority, its credentials, and nothing else.

Header mutations of an earlier attempt are still there in the next one, so every attempt removes all that it does not
set: an allow list, never a deny list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.core import toolbox
from extproc.core.conversation import Conversation, Prompt, Tool
from extproc.core.errors import RequestError
from extproc.core.events import Carried, Proceed
from extproc.dialects import DIALECTS, anthropic, fim
from extproc.dialects.base import Dialect, Notes
from extproc.runtime import ANY, Backend
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas._codec import decode, encode_request, labels
from extproc.schemas._passing import limit
from extproc.schemas.base import Target

_KEEP = frozenset({":method", ":scheme", ":path", ":authority", "host"})
_PASSED = {
    "anthropic": frozenset({"anthropic-version", "anthropic-beta"}),
    "count_tokens": frozenset({"anthropic-version", "anthropic-beta"}),
    "openai": frozenset({"openai-beta"}),
    "responses": frozenset({"openai-beta"}),
}
"""Client schema -> those of its headers that a backend of the same schema gets."""
_ANTHROPIC = frozenset({"anthropic", "count_tokens"})
_ANTHROPIC_VERSION = "2023-06-01"
"""Of translated requests: the version whose bodies may still say everything."""
_UNSIGNED = re.compile(rb'"signature"\s*:\s*(?:""|null)')
_FIELDS = msgspec.json.Decoder(dict[str, Any])


class Said(msgspec.Struct):
    """A request as it leaves, and what its answer needs on the way back."""

    wire: str
    body: bytes = b""
    notes: Notes = msgspec.field(default_factory=Notes)
    recall: toolbox.Recall = msgspec.field(default_factory=dict[str, toolbox.Called])
    repairs: tuple[Tool, ...] = ()
    """The request's tools, where the backend may leak calls of them as text."""
    rewrite: bool = False
    """Whether the answer's own form is not one that clients of its schema know."""
    filling: Prompt | None = None
    """The text that a chat model was asked to continue or to fill the middle of: its answer is plain text."""


class Dispatch(msgspec.Struct, frozen=True):
    """The mutations of one attempt, and how its answer is to be read."""

    proceed: Proceed
    said: Said
    warnings: str


def prepare(carried: Carried, backend: Backend, headers: Mapping[str, str], body: bytes) -> Dispatch:
    """Translate the client's original body for a backend. Raises RequestError for what it cannot say."""
    dialect = DIALECTS[backend.dialect]
    model = carried.model if backend.model == ANY else backend.model
    uses = carried.bound.uses if carried.granted and carried.bound is not None else None
    target = Target(model, backend.max_output, backend.default_max_tokens, backend.context, carried.granted or None,
                    uses, dialect.max_tokens_only)
    said = say(dialect, carried.schema, target, body)
    if backend.location != "local":
        said.repairs = ()  # a cloud's own parser does this better
    same = said.wire == carried.schema
    query = carried.query if same else ""
    sent = {
        ":path": backend.base_path + dialect.path(said.wire) + (f"?{query}" if query else ""),
        ":authority": backend.authority,
        "content-type": "application/json",
        "content-length": str(len(said.body)),
        "accept": PROVIDERS[said.wire].content_type if carried.stream else "application/json",
        "user-agent": "extproc",
    }
    if backend.api_key:
        sent |= dialect.credentials(backend.api_key)
    if same:
        sent |= passed(said.wire, carried.passed)
    if said.wire in _ANTHROPIC:
        sent.setdefault("anthropic-version", _ANTHROPIC_VERSION)
    remove = tuple(name for name in headers if name not in sent and name not in _KEEP)
    return Dispatch(Proceed("request_body", set=sent, remove=remove, body=said.body), said, warnings(said.notes))


def passed(schema: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Of a client's headers, those that a backend of the client's own schema gets."""
    return {name: headers[name] for name in _PASSED.get(schema, ()) if name in headers}


def warnings(notes: Notes) -> str:
    """The text of the warning header; empty when nothing was lost or put differently."""
    told = (("dropped", labels(notes.dropped)), ("emulated", labels(notes.emulated)))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in told if names)


def say(dialect: Dialect, client: str, target: Target, body: bytes) -> Said:
    """A client's request in the words of a backend.

    Raises:
        RequestError: the backend cannot say it.
    """
    wire = dialect.wire(client)
    if wire is None:
        raise RequestError(f"{dialect.name} cannot serve {CLIENTS[client].path}", param="path")
    if wire != client or _must_translate(dialect, wire, body):
        return _translated(dialect, client, wire, target, body)
    said = Said(wire, rewrite=wire == dialect.schema and dialect.rewrites(target.model))
    if wire in _ANTHROPIC and dialect.verbatim and _UNSIGNED.search(body):
        fields = decode(_FIELDS, body)
        anthropic.unsigned(fields, said.notes)
        body = encode_request(fields)
    if dialect.verbatim or wire != dialect.schema:
        said.body = PROVIDERS[wire].patch_request(body, target)
    else:
        fields = decode(_FIELDS, body)
        fields["model"] = target.model
        limit(fields, target, PROVIDERS[wire].limits)
        dialect.adapt(fields, wire, target, said.notes)
        options = fields.get("stream_options")
        if isinstance(options, dict) and b"continuous_usage_stats" not in body:
            options.pop("continuous_usage_stats", None)  # a client that adds up chunks would count them all
        said.body = encode_request(fields)
    if dialect.repairs and wire == dialect.schema and b'"tools"' in body and b'"logprobs"' not in body:
        conversation = CLIENTS[client].parse_request(body)
        said.repairs = conversation.tools if conversation.n == 1 else ()  # events tell one choice only
    return said


def _must_translate(dialect: Dialect, wire: str, body: bytes) -> bool:
    """Whether a request in the backend's own schema holds what this backend lacks."""
    if wire == "completions":
        return dialect.fim == "template" and b'"suffix"' in body
    return wire == "openai" and not dialect.tools.custom and b'"custom"' in body


def _translated(dialect: Dialect, client: str, wire: str, target: Target, body: bytes) -> Said:
    conversation = CLIENTS[client].parse_request(body)
    said = Said(wire)
    if target.granted is not None and conversation.task in ("chat", "completion"):
        conversation = msgspec.structs.replace(conversation, max_tokens=target.granted)
    conversation = _completion(dialect, wire, target, conversation, said)
    conversation = dialect.fit(conversation, target, said.notes)
    conversation, said.recall = toolbox.fit(conversation, dialect.tools)
    if any(called.kind == "custom" for called in said.recall.values()):
        said.notes.emulated.append("custom_tools")
    rendered = PROVIDERS[wire].render_request(conversation, target)
    said.notes.dropped += rendered.dropped
    said.notes.emulated += rendered.emulated
    dialect.adapt(rendered.fields, wire, target, said.notes)
    said.body = rendered.body
    if dialect.repairs and conversation.tools:
        said.repairs = conversation.tools
    return said


def _completion(dialect: Dialect, wire: str, target: Target, conversation: Conversation, said: Said) -> Conversation:
    """A text to go on from, for a backend that has no such request of its own."""
    prompt = conversation.prompt
    if conversation.task != "completion" or prompt is None:
        return conversation
    if wire == "completions" and dialect.fim == "template" and prompt.suffix is not None:
        said.notes.emulated.append("suffix")
        return fim.as_template(conversation, target.model)
    if wire in ("completions", "fim"):
        return conversation
    said.notes.emulated.append("completion" if prompt.suffix is None else "suffix")
    said.filling = prompt
    return fim.as_chat(conversation)
