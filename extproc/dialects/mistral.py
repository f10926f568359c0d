"""api.mistral.ai and codestral.mistral.ai.

Sources: PyPI mistralai 3.7.0 (client/models/chatcompletionrequest.py and the messages beside it): what is not in it is
answered with 422 "Extra inputs are not permitted"; the order of roles and the form of call ids: mistral-common's
validator, seen as 400 with the codes 3230 and 3280.
"""

from __future__ import annotations

import re
from typing import Any, cast

from extproc.core.toolbox import Rules, fit_id
from extproc.dialects import _chat, _messages, _tools
from extproc.dialects.base import Dialect, Fields, Notes
from extproc.schemas.base import Target

_KNOWN = frozenset({
    "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed", "metadata",
    "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "min_tokens",
    "repetition_penalty", "top_k", "logprobs", "top_logprobs", "prompt_logprobs", "top_prompt_logprobs", "n",
    "prediction", "parallel_tool_calls", "reasoning_effort", "prompt_mode", "guardrails", "prompt_cache_key",
    "service_tier", "safe_prompt",
})
_IN_MESSAGE = {"system": ("content",), "user": ("content",), "assistant": ("content", "tool_calls", "prefix"),
               "tool": ("content", "tool_call_id", "name")}
_PARTS = ("image_url", "document_url", "reference", "file", "input_audio", "thinking")
_MAGISTRAL = re.compile(r"magistral")
_ADJUSTABLE = re.compile(r"mistral-(?:small(?:-latest|-2603|$)|medium(?:-latest|-2604|-3[.-]5|$)|large-4|vibe)"
                         r"|devstral-(?:small-|medium-)?latest|mistral-code-agent")
"""Models whose thinking an effort switches on and off."""
_EFFORTS = {"none": "none", "minimal": "none", "low": "high", "medium": "high", "high": "high", "xhigh": "high",
            "max": "high"}
_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
BRIDGE = "Understood."
"""What stands in for the assistant's turn that Mistral misses between a tool's result and the user's next words."""


class Mistral(Dialect):
    """Mistral's own API, with its route for filling in the middle."""

    name = "mistral"
    native = frozenset({"embeddings"})
    verbatim = False
    fim = "mistral"
    tools = Rules(id_exact=9)
    lacks = frozenset({"documents"})  # but by URL, in a part of its own kind
    hosts = ("api.mistral.ai", "codestral.mistral.ai")

    def rewrites(self, model: str) -> bool:
        """Thinking comes in a list of parts, where clients of OpenAI's schema read a text."""
        return thinks(model)

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Rename and leave out what Mistral would answer with 422, and put the turns into its order."""
        if wire != "openai":
            return
        _chat.max_tokens(fields)
        _chat.rename(fields, "seed", "random_seed")
        fields.pop("stream_options", None)  # the last chunk has the usage anyway
        _effort(fields, target.model, notes)
        _tier(fields, notes)
        _functions(fields, notes)
        _messages.one_system(fields, notes)
        _messages.replace_parts(fields, _lost, notes)
        _reasoning(fields, target.model, notes)
        _ids(fields)
        _only_known(fields, notes)
        _messages.no_empty_turns(fields)
        _order(fields, notes)
        _chat.keep(fields, _KNOWN, notes)


def thinks(model: str) -> bool:
    """Whether a model's answers and history may hold thinking."""
    return _MAGISTRAL.search(model) is not None or _ADJUSTABLE.match(model) is not None


def _effort(fields: Fields, model: str, notes: Notes) -> None:
    _chat.effort(fields, _EFFORTS if _ADJUSTABLE.match(model) else {}, notes)


def _tier(fields: Fields, notes: Notes) -> None:
    given = fields.get("service_tier")
    if isinstance(given, str) and given in _TIERS:
        fields["service_tier"] = _TIERS[given]
    else:
        _chat.drop(fields, ("service_tier",), notes)


def _functions(fields: Fields, notes: Notes) -> None:
    _tools.functions_only(fields, notes)
    for tool in _chat.objects(fields.get("tools")):
        function = _chat.as_object(tool.get("function"))
        if function is not None and function.get("parameters") is None:
            function["parameters"] = {"type": "object", "properties": {}}  # demanded
    if fields.get("tool_choice") == "required":
        fields["tool_choice"] = "any"


def _lost(part: Fields) -> str | None:
    image = _chat.as_object(part.get("image_url"))
    if image is not None and image.get("detail") not in (None, "low", "auto", "high"):
        image.pop("detail", None)
    if _chat.kind(part) == "file" and "file_id" not in part:
        return "documents"  # it takes a document by its URL or by its id in Mistral's own store
    return _messages.only_kinds(*_PARTS)(part)


def _reasoning(fields: Fields, model: str, notes: Notes) -> None:
    """Reasoning is a part of the content, for models that reason."""
    if not thinks(model):
        _messages.drop_thinking(fields, notes)
        return
    _messages.thinking_as(fields, "reasoning_content")
    for message in _chat.messages(fields, "assistant"):
        thought = message.pop("reasoning_content", None)
        if isinstance(thought, str) and thought:
            own = message.get("content")
            message["content"] = [{"type": "thinking", "thinking": [{"type": "text", "text": thought}]}]
            _messages.append_content(message, own)


def _ids(fields: Fields) -> None:
    """Call ids of nine letters, the same for a call and its result; and the name of the tool at its result."""
    names: dict[str, Any] = {}
    for message in _chat.messages(fields):
        for call in _tools.calls(message):
            if isinstance(given := call.get("id"), str):
                call["id"] = fit_id(given, Mistral.tools)
                names[call["id"]] = (_chat.as_object(call.get("function")) or {}).get("name")
        if message.get("role") == "tool" and isinstance(given := message.get("tool_call_id"), str):
            message["tool_call_id"] = identifier = fit_id(given, Mistral.tools)
            if names.get(identifier) is not None:
                message.setdefault("name", names[identifier])


def _only_known(fields: Fields, notes: Notes) -> None:
    for message in _chat.messages(fields):
        role = message.get("role")
        if not isinstance(role, str) or role not in _IN_MESSAGE:
            continue
        for name in [name for name in message if name != "role" and name not in _IN_MESSAGE[role]]:
            if message.pop(name) is not None:
                notes.dropped.append(f"messages.{name}")
        if role == "assistant" and not message.get("tool_calls"):
            message.pop("tool_calls", None)
            message["content"] = message.get("content") or ""


def _order(fields: Fields, notes: Notes) -> None:
    """An assistant turn between a tool's result and a user's words, and a last turn that asks or is to be continued."""
    given = fields.get("messages")
    if not isinstance(given, list):
        return
    out: list[Any] = []
    for item in cast(list[Any], given):
        if _role(item) == "user" and out and _role(out[-1]) == "tool":
            out.append({"role": "assistant", "content": BRIDGE})
            notes.emulated.append("turn_order")
        out.append(item)
    if out and _role(out[-1]) == "assistant" and not _tools.calls(out[-1]):
        out[-1]["prefix"] = True
    fields["messages"] = out


def _role(message: Any) -> Any:
    found = _chat.as_object(message)
    return None if found is None else found.get("role")
