"""What all OpenAI-shaped chat providers share: the rules of a conversation, and how an answer is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.data_plane.providers.answers import Ask, Call, Said, text_of
from tests.data_plane.upstream import Script

SSE = {"content-type": "text/event-stream; charset=utf-8"}
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
Refuse = Callable[[str, str], Exception]
"""Makes the provider's error from a text and the field that is wrong."""


def ask_of(body: dict[str, Any]) -> Ask:
    """What a chat completion request wants."""
    messages = body["messages"]
    users = [m for m in messages if m["role"] == "user"]
    tools = {t[t.get("type", "function")]["name"]: t.get("type", "function") for t in body.get("tools") or ()}
    choice = body.get("tool_choice")
    return Ask(
        text=text_of(users[-1]["content"]) if users else "", stream=bool(body.get("stream")),
        tools={} if choice == "none" else tools, forced=isinstance(choice, dict) or choice in ("required", "any"),
        after_tool=messages[-1]["role"] == "tool",
        wants_json=(body.get("response_format") or {}).get("type") in ("json_schema", "json_object"))


# ---------------------------------------------------------------- rules


def only(given: dict[str, Any], known: set[str], refuse: Refuse, where: str = "") -> None:
    """Refuse a field that the provider does not know."""
    for name in given:
        if name not in known:
            raise refuse(f"Unknown parameter: '{where}{name}'.", where + name)


def roles(messages: list[Any], known: set[str], refuse: Refuse) -> None:
    """Refuse no messages at all and roles that the provider does not know."""
    if not messages:
        raise refuse("messages must not be empty", "messages")
    for i, message in enumerate(messages):
        if message["role"] not in known:
            raise refuse(f"unknown role {message['role']}", f"messages[{i}].role")


def paired(messages: list[Any], refuse: Refuse) -> None:
    """Every call is answered by the tool messages right after it, and no other tool message exists."""
    open_ids: set[str] = set()
    for i, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_ids:
                raise refuse("messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
                             f"messages[{i}].tool_call_id")
            open_ids.discard(message["tool_call_id"])
            continue
        if open_ids:
            raise refuse("An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                         f"'tool_call_id'. These had none: {sorted(open_ids)}", f"messages[{i}].role")
        calls = message.get("tool_calls") or []
        open_ids = {call["id"] for call in calls}
        if len(open_ids) != len(calls):
            raise refuse("Duplicate tool call ids", f"messages[{i}].tool_calls")
    if open_ids:
        raise refuse(f"no tool messages for {sorted(open_ids)}", "messages")


def whole_calls(messages: list[Any], refuse: Refuse) -> None:
    """Arguments of earlier calls are the JSON text of an object: templates parse them."""
    for i, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            given = call.get("function", {}).get("arguments")
            if call.get("type", "function") == "function" and not (
                    isinstance(given, str) and isinstance(json.loads(given), dict)):
                raise refuse("arguments must be the text of a JSON object", f"messages[{i}].tool_calls")


def tools(body: dict[str, Any], refuse: Refuse, kinds: tuple[str, ...] = ("function",)) -> None:
    """Tools of known kinds with lawful names; a choice only among tools."""
    given = body.get("tools")
    if given == []:
        raise refuse("[] is too short - 'tools'", "tools")
    if given is None and (body.get("tool_choice") is not None or body.get("parallel_tool_calls") is not None):
        raise refuse("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    for i, tool in enumerate(given or ()):
        kind = tool.get("type")
        if kind not in kinds:
            raise refuse(f"Invalid value: '{kind}'", f"tools[{i}].type")
        if not NAME.fullmatch(tool[kind]["name"]):
            raise refuse("string does not match pattern", f"tools[{i}].{kind}.name")


def one_system_first(messages: list[Any], refuse: Refuse) -> None:
    """The templates of Qwen and others: one system message, at the beginning."""
    if any(m["role"] == "system" for m in messages[1:]):
        raise refuse("System message must be at the beginning.", "messages")


def plain_content(messages: list[Any], refuse: Refuse) -> None:
    """Text is a string; only with other parts it is a list."""
    for i, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and all(p.get("type") == "text" for p in content):
            raise refuse("text content must be a string", f"messages[{i}].content")


# ---------------------------------------------------------------- answers


@dataclass(frozen=True)
class Form:
    """How one provider writes chat answers.

    `thinking` is the field of reasoning; `whole_calls`: a streamed call comes in one chunk; `usage`: `apart` in a chunk
    of its own where asked for, `last` in the chunk with the finish reason, `every` in each chunk where asked for.
    """

    thinking: str | None = None
    whole_calls: bool = False
    usage: str = "apart"
    role_content: Any = ""
    extra: tuple[tuple[str, Any], ...] = ()
    calls_in_content: bool = False
    """The model's calls stay in the text as XML, as with a server whose parser did not see them."""


def usage(said: Said, form: Form) -> dict[str, Any]:
    """The usage of an answer."""
    found: dict[str, Any] = {"prompt_tokens": said.input, "completion_tokens": said.output,
                             "total_tokens": said.input + said.output}
    if form.usage == "apart":
        found |= {"prompt_tokens_details": {"cached_tokens": said.cached},
                  "completion_tokens_details": {"reasoning_tokens": said.reasoning}}
    return found


def answer(body: dict[str, Any], said: Said, form: Form) -> Script:
    """An answer, whole or streamed."""
    if form.calls_in_content:
        said = leaked(said)
    return streamed(body, said, form) if body.get("stream") else whole(body, said, form)


def leaked(said: Said) -> Said:
    """The answer with its calls left in the text, in Qwen3-Coder's XML."""
    text = said.text
    for call in said.calls:
        parameters = "".join(f"\n<parameter={k}>\n{v}\n</parameter>" for k, v in json.loads(call.arguments).items())
        text += f"\n<tool_call>\n<function={call.name}>{parameters}\n</function>\n</tool_call>"
    return Said(text, said.thinking, (), said.cut, said.input, said.cached, said.output, said.reasoning)


def finish(said: Said) -> str:
    """The finish reason."""
    return "length" if said.cut else "tool_calls" if said.calls else "stop"


def _call(call: Call) -> dict[str, Any]:
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def whole(body: dict[str, Any], said: Said, form: Form) -> Script:
    """A whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None}
    if form.thinking and said.thinking:
        message[form.thinking] = said.thinking
    if said.calls:
        message["tool_calls"] = [_call(call) for call in said.calls]
    found = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "model": body["model"],
             "choices": [{"index": 0, "message": message, "finish_reason": finish(said), "logprobs": None}],
             "usage": usage(said, form), **dict(form.extra)}
    return Script(chunks=[json.dumps(found).encode()])


def streamed(body: dict[str, Any], said: Said, form: Form) -> Script:
    """A streamed answer."""
    options = body.get("stream_options") or {}
    apart = form.usage != "last" and options.get("include_usage")
    every = form.usage == "every" and options.get("continuous_usage_stats")

    def chunk(delta: dict[str, Any] | None, stop: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": stop, "logprobs": None}]
        told = {"usage": usage(said, form) if every else None} if apart else {}
        return b"data: " + json.dumps({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1790000000, "model": body["model"],
            "choices": choices, **dict(form.extra), **told, **more}).encode() + b"\n\n"

    chunks = [chunk({"role": "assistant", "content": form.role_content})]
    if form.thinking and said.thinking:
        chunks += [chunk({form.thinking: word}) for word in Said(said.thinking).pieces]
    chunks += [chunk({"content": piece}) for piece in said.pieces]
    for index, call in enumerate(said.calls):
        chunks += [chunk({"tool_calls": [part]}) for part in _call_parts(index, call, form)]
    if form.usage == "last":
        chunks.append(chunk({"content": ""}, finish(said), usage=usage(said, form)))
    else:
        chunks.append(chunk({}, finish(said)))
        if apart:
            chunks.append(chunk(None, usage=usage(said, form)))
    return Script(headers=SSE, chunks=[*chunks, b"data: [DONE]\n\n"])


def _call_parts(index: int, call: Call, form: Form) -> list[dict[str, Any]]:
    if form.whole_calls:
        return [{"index": index, **_call(call)}]
    field, text = ("custom", "input") if call.custom else ("function", "arguments")
    first = {"index": index, **_call(call)}
    first[field] = {**first[field], text: ""}
    half = len(call.arguments) // 2
    return [first, *({"index": index, field: {text: part}} for part in (call.arguments[:half], call.arguments[half:]))]
