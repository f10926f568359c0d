"""OpenAI Responses request -> neutral conversation.

Source: PyPI openai 3.54.0, types/responses/response_create_params.py and response_input_item_param.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.schemas._codec import decode, labels, require_text, unmapped_fields
from extproc.schemas._responses_items import Items
from extproc.schemas._responses_tools import Tools, read_choice

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
_PASSED = ("metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
           "top_logprobs")
"""Settings that travel as `Conversation.extras` under the same name."""


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class _Format(msgspec.Struct):
    type: str = "text"
    name: str = "response"
    schema: Any = None
    strict: bool | None = None
    description: str | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Options(msgspec.Struct):
    include_obfuscation: bool | None = None


class _Request(msgspec.Struct):
    model: str
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    stream: bool | None = None
    stream_options: _Options | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    include: list[str] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    store: bool | None = None
    truncation: str | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    moderation: Any = None


_REQUEST = msgspec.json.Decoder(_Request)
_KNOWN = frozenset(_Request.__struct_fields__)


def parse_request(body: bytes) -> Conversation:
    """Parse a Responses request.

    What needs OpenAI's own state or servers goes to `demands`, what is otherwise not carried to `unmapped`.

    Raises:
        RequestError: with the path of the wrong field. Any other exception is a bug.
    """
    request = decode(_REQUEST, body)
    require_text(request.model, "model")
    if request.max_output_tokens is not None and request.max_output_tokens < 0:
        raise RequestError("max_output_tokens: expected at least 0", param="max_output_tokens")
    if request.max_tool_calls is not None and request.max_tool_calls < 0:
        raise RequestError("max_tool_calls: expected at least 0", param="max_tool_calls")
    lost, demands = unmapped_fields(body, _KNOWN), _demands(request)
    tools = Tools(demands)
    tools.add(request.tools, "tools")
    items = Items(tools, lost, demands)
    items.instruct(request.instructions)
    _read_input(items, request.input, bool(demands))
    schema, json_object = _format(request.text, lost)
    reasoning = request.reasoning or _Reasoning()
    summary = reasoning.summary or reasoning.generate_summary
    return Conversation(
        model=request.model,
        messages=items.messages(),
        tools=tools.all(),
        tool_choice=read_choice(request.tool_choice),
        parallel_tools=request.parallel_tool_calls,
        max_tokens=request.max_output_tokens,
        stream=bool(request.stream),
        temperature=request.temperature,
        top_p=request.top_p,
        effort=reasoning.effort,
        json_schema=schema,
        json_object=json_object,
        user=request.user,
        unmapped=labels([*lost, *_unmapped(request)]),
        extras=_extras(request),
        thinking_display=None if summary is None else "summarized",
        demands=labels(demands),
        server_calls=request.max_tool_calls,
    )


def _read_input(items: Items, given: str | list[dict[str, Any]] | None, stateful: bool) -> None:
    if isinstance(given, str):
        items.user_text(given)
        return
    if not given and not stateful:
        raise RequestError("input: expected a text or at least one item", param="input")
    for i, item in enumerate(given or ()):
        items.add(item, f"input[{i}]")


def _demands(request: _Request) -> list[str]:
    """Features of a request that only OpenAI's own state, or its servers, can give."""
    wanted = {
        "previous_response_id": request.previous_response_id,
        "conversation": request.conversation,
        "prompt": request.prompt,
        "background": request.background,
        "moderation": request.moderation,
        "truncation": request.truncation == "auto",
    }
    return [name for name, value in wanted.items() if value]


def _unmapped(request: _Request) -> list[str]:
    """Names of known settings whose value is not carried."""
    lost = [f"include.{name}" for name in request.include or () if name not in (ENCRYPTED, LOGPROBS)]
    if request.max_tool_calls is not None:
        lost.append("max_tool_calls")
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        lost.append("stream_options.include_obfuscation")
    if (reasoning := request.reasoning) is not None:
        lost += [f"reasoning.{name}" for name in ("context", "mode") if getattr(reasoning, name) is not None]
    return lost


def _extras(request: _Request) -> dict[str, Any]:
    extras = {name: value for name in _PASSED if (value := getattr(request, name)) is not None}
    if request.text is not None and request.text.verbosity is not None:
        extras["verbosity"] = request.text.verbosity
    if LOGPROBS in (request.include or ()):
        extras["logprobs"] = True
    if request.store:  # left out, it would mean true at OpenAI; nothing is stored unless it is asked for
        extras["store"] = True
    return extras


def _format(text: _Text | None, lost: list[str]) -> tuple[Any, bool]:
    """The JSON schema wanted, and whether any JSON object is."""
    given = None if text is None else text.format
    if given is None or given.type == "text":
        return None, False
    if given.type == "json_object":
        return None, True
    if given.type != "json_schema":
        lost.append("text.format")
        return None, False
    schema = {"name": given.name, "schema": given.schema, "strict": given.strict, "description": given.description}
    return {key: value for key, value in schema.items() if value is not None}, False
