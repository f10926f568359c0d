"""Corrections of chat completion fields that several dialects share.

The fields are those of a rendered request or come straight from a client's JSON: any of them may have any type, and
nothing here raises. What has not the expected form stays as it is, for the provider to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

import msgspec

from extproc.dialects.base import Fields, Notes
from extproc.schemas._codec import FOREIGN_ERRORS, compact, json_object, label

SYSTEM_ROLES = ("system", "developer")
DEFAULTS: Mapping[str, Any] = {
    "n": 1, "temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False,
    "store": False, "tool_choice": "auto", "parallel_tool_calls": True, "service_tier": "auto", "logit_bias": {},
    "metadata": {},
}
"""A setting that only says what is so anyway goes without a word."""
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
IMAGE_PLACEHOLDER = "[image]"
_PLACEHOLDERS = {"image_url": IMAGE_PLACEHOLDER, "file": "[document]", "input_audio": "[audio]", "video_url": "[video]"}


def as_object(value: Any) -> Fields | None:
    """The value when it is a JSON object."""
    return cast(Fields, value) if isinstance(value, dict) else None


def objects(value: Any) -> list[Fields]:
    """The objects of a JSON array; nothing of anything else."""
    if not isinstance(value, list | tuple):
        return []
    return [cast(Fields, item) for item in cast(list[Any], value) if isinstance(item, dict)]


def kind(value: Fields, default: str = "") -> str:
    """The `type` of a part, tool or choice."""
    given = value.get("type", default)
    return given if isinstance(given, str) else ""


def messages(fields: Fields, role: str | None = None) -> list[Fields]:
    """The messages, all or those of one role; changing one changes the request."""
    return [message for message in objects(fields.get("messages")) if role is None or message.get("role") == role]


# ---------------------------------------------------------------- settings


def drop(fields: Fields, names: Iterable[str], notes: Notes) -> None:
    """Remove settings by name; those that were set to more than the default are noted."""
    for name in names:
        value = fields.pop(name, None)
        if value is not None and value != DEFAULTS.get(name):
            notes.dropped.append(name)


def keep(fields: Fields, names: Collection[str], notes: Notes) -> None:
    """Remove every setting that is not named: for providers that refuse what they do not know."""
    drop(fields, [name for name in fields if name not in names], notes)


def rename(fields: Fields, old: str, new: str) -> None:
    """Give a setting the provider's name; one that is there already wins."""
    value = fields.pop(old, None)
    if value is not None:
        fields.setdefault(new, value)


def max_tokens(fields: Fields) -> None:
    """`max_completion_tokens` under the older name, which all servers know; where both are given, the newer counts."""
    limit = fields.pop("max_completion_tokens", None)
    if limit is not None:
        fields["max_tokens"] = limit


def stop(fields: Fields, limit: int, notes: Notes) -> None:
    """No more stop strings than the provider takes."""
    given = fields.get("stop")
    if isinstance(given, list | tuple) and len(given) > limit:
        fields["stop"] = list(cast(list[Any], given))[:limit]
        notes.dropped.append("stop")


def effort(fields: Fields, known: Mapping[str, str], notes: Notes) -> None:
    """`reasoning_effort` in the provider's own levels; one it has no level for is dropped."""
    given = fields.get("reasoning_effort")
    if given is None:
        fields.pop("reasoning_effort", None)
        return
    level = known.get(given) if isinstance(given, str) else None
    if level is None:
        del fields["reasoning_effort"]
        notes.dropped.append("effort")
    elif level != given:
        fields["reasoning_effort"] = level
        notes.emulated.append("effort")


def switch_thinking(fields: Fields) -> None:
    """Effort `none` said to a chat template of Qwen's kind, which has thinking on or off."""
    if fields.get("reasoning_effort") == "none":
        given = as_object(fields.get("chat_template_kwargs")) or {}
        fields["chat_template_kwargs"] = {"enable_thinking": False, **given}


# ---------------------------------------------------------------- tools


def functions_only(fields: Fields, notes: Notes) -> None:
    """No tools but functions, and a choice among them: what most servers know."""
    given = fields.get("tools")
    if isinstance(given, list | tuple):
        tools = [tool for tool in objects(given) if kind(tool, "function") == "function"]
        notes.dropped += [label("tool", tool_name(t)) for t in objects(given) if kind(t, "function") != "function"]
        _set_tools(fields, tools)
    _plain_choice(fields, notes)


def _set_tools(fields: Fields, tools: list[Fields]) -> None:
    if tools:
        fields["tools"] = tools
    else:  # an empty list, or a choice among no tools, is an error to many servers
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)


def tool_name(tool: Fields) -> str:
    """The name of a tool of any type; its type when it has none."""
    inner = as_object(tool.get(kind(tool, "function"))) or tool
    name = inner.get("name")
    return name if isinstance(name, str) else kind(tool) or "tool"


def _plain_choice(fields: Fields, notes: Notes) -> None:
    choice = as_object(fields.get("tool_choice"))
    if choice is None:
        return
    if kind(choice) == "allowed_tools":
        allowed = as_object(choice.get("allowed_tools")) or {}
        names = {tool_name(tool) for tool in objects(allowed.get("tools"))}
        fields["tool_choice"] = "required" if allowed.get("mode") == "required" else "auto"
        _set_tools(fields, [tool for tool in objects(fields.get("tools")) if tool_name(tool) in names])
        notes.emulated.append("tool_choice.allowed_tools")
    elif kind(choice, "function") != "function":
        del fields["tool_choice"]
        notes.dropped.append("tool_choice")


def chosen(fields: Fields) -> str | None:
    """The tool that must be called, when one is named."""
    choice = as_object(fields.get("tool_choice"))
    function = None if choice is None else as_object(choice.get("function"))
    name = None if function is None else function.get("name")
    return name if isinstance(name, str) else None


def only_chosen(fields: Fields, choice: str | None, notes: Notes) -> None:
    """A named choice for a server that cannot take one: the tool is offered alone, with this `choice` of its own."""
    name = chosen(fields)
    if name is None:
        return
    tools = [tool for tool in objects(fields.get("tools")) if tool_name(tool) == name]
    if tools:
        fields["tools"] = tools
    if choice is None or not tools:
        fields.pop("tool_choice", None)
    else:
        fields["tool_choice"] = choice
    notes.emulated.append("tool_choice")


def forces_a_tool(fields: Fields) -> bool:
    """Whether the model may not answer without a call."""
    return chosen(fields) is not None or fields.get("tool_choice") in ("required", "any")


def calls(message: Fields) -> list[Fields]:
    """The tool calls of an assistant message."""
    return objects(message.get("tool_calls"))


def whole_arguments(fields: Fields) -> None:
    """Arguments of earlier calls as the JSON text of an object: templates and Go servers parse them, and fail."""
    for message in messages(fields, "assistant"):
        for call in calls(message):
            function = as_object(call.get("function"))
            if function is not None:
                function["arguments"] = _arguments(function.get("arguments"))


def _arguments(given: Any) -> Any:
    if isinstance(given, str):
        if not given.strip():
            return "{}"
        return given if json_object(given) else _encoded({"text": given}, given)
    return "{}" if given is None else _encoded(given, given)


def _encoded(value: Any, otherwise: Any) -> Any:
    try:
        return msgspec.json.encode(value).decode()
    except FOREIGN_ERRORS:
        return otherwise


# ---------------------------------------------------------------- messages


def one_system(fields: Fields, notes: Notes) -> None:
    """One system message, the first; later ones become <system-reminder> text of a user message.

    Many chat templates refuse a system message elsewhere (Qwen: "System message must be at the beginning"), and some
    two user messages in a row, so a reminder joins the user message beside it.
    """
    given = fields.get("messages")
    if not isinstance(given, list | tuple):
        return
    out: list[Any] = []
    lead: Fields | None = None
    reminder: Fields | None = None
    for item in cast(list[Any], given):
        message = as_object(item)
        role = None if message is None else message.get("role")
        if message is None or role not in SYSTEM_ROLES:
            if message is not None and role == "user" and reminder is not None and out[-1] is reminder:
                _merge(reminder, message)
            else:
                out.append(item)
            continue
        content = message.get("content")
        text = text_of(content)
        notes.dropped += [label("foreign", kind(part)) for part in objects(content) if not _is_text(part)]
        if not out or (lead is not None and out[-1] is lead):
            lead = _lead(out, lead, message, text)
        elif text:
            reminder = _remind(out, text)
            notes.emulated.append("system")
    fields["messages"] = out


def _lead(out: list[Any], lead: Fields | None, message: Fields, text: str) -> Fields | None:
    if lead is not None:
        lead["content"] = "\n\n".join(filter(None, (lead["content"], text)))
    elif text:
        lead = {**message, "role": "system", "content": text}
        out.append(lead)
    return lead


def _remind(out: list[Any], text: str) -> Fields:
    reminder = f"<system-reminder>\n{text}\n</system-reminder>"
    last = as_object(out[-1])
    if last is not None and last.get("role") == "user":
        append_content(last, reminder)
        return last
    message: Fields = {"role": "user", "content": reminder}
    out.append(message)
    return message


def _merge(into: Fields, message: Fields) -> None:
    append_content(into, message.get("content"))
    for name, value in message.items():
        if name not in ("role", "content"):
            own = into.get(name)  # Ollama's images
            into[name] = [*own, *value] if isinstance(own, list) and isinstance(value, list) else value


def _is_text(part: Fields) -> bool:
    return kind(part, "text") in ("text", "refusal")


def append_content(message: Fields, more: Any) -> None:
    """Put more content after a message's own, both being text or lists of parts."""
    own = message.get("content")
    if isinstance(own, str) and isinstance(more, str):
        message["content"] = "\n\n".join(filter(None, (own, more)))
    else:
        message["content"] = [*_parts(own), *_parts(more)]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(cast(list[Any], content)) if isinstance(content, list | tuple) else []


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    texts = [part.get("refusal" if kind(part) == "refusal" else "text") for part in objects(content)]
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


def flatten(fields: Fields) -> None:
    """Content that is only text as a string: servers and templates that know no parts lose it otherwise."""
    for message in messages(fields):
        content = message.get("content")
        if isinstance(content, list | tuple) and all(map(_is_text, objects(content))):
            message["content"] = text_of(content)


def replace_parts(fields: Fields, lost: Callable[[Fields], str | None], notes: Notes) -> None:
    """Put a placeholder where `lost` names a part as one that the provider cannot take."""
    for message in messages(fields):
        content = message.get("content")
        if not isinstance(content, list | tuple):
            continue
        out: list[Any] = []
        for item in cast(list[Any], content):
            part = as_object(item)
            name = None if part is None else lost(part)
            if part is None or name is None:
                out.append(item)
            else:
                out.append({"type": "text", "text": _PLACEHOLDERS.get(kind(part), "[omitted]")})
                notes.dropped.append(name)
        message["content"] = out


def only_kinds(*kinds: str) -> Callable[[Fields], str | None]:
    """For `replace_parts`: every part but text and these is lost."""
    return lambda part: None if _is_text(part) or kind(part) in kinds else label("foreign", kind(part))


def drop_thinking(fields: Fields, notes: Notes) -> None:
    """Remove the reasoning of earlier turns, and turns that hold nothing else."""
    for message in messages(fields, "assistant"):
        if forget(message):
            notes.dropped.append("thinking")
    no_empty_turns(fields)


def no_empty_turns(fields: Fields) -> None:
    """Remove assistant turns without content, calls or reasoning: some providers refuse them."""
    given = fields.get("messages")
    if isinstance(given, list | tuple):
        fields["messages"] = [item for item in cast(list[Any], given) if not _empty_turn(as_object(item))]


def _empty_turn(message: Fields | None) -> bool:
    return message is not None and message.get("role") == "assistant" and not any(
        message.get(name) for name in ("content", "tool_calls", "function_call", "refusal", "audio", *_REASONING))


def forget(message: Fields) -> bool:
    """Remove the reasoning of one turn; whether there was any."""
    given = [message.pop(name, None) for name in _REASONING]
    return any(given)


def thinking_as(fields: Fields, name: str) -> None:
    """The reasoning of earlier turns under the name that the server reads."""
    for message in messages(fields, "assistant"):
        for other in _REASONING[:2]:
            if other != name:
                rename(message, other, name)


# ---------------------------------------------------------------- answers as JSON


def schema_as_instruction(fields: Fields, notes: Notes) -> None:
    """A schema told in words, for a provider that can promise JSON but not its form."""
    wanted = as_object(fields.get("response_format"))
    if wanted is None or wanted.get("type") != "json_schema":
        return
    given = as_object(wanted.get("json_schema")) or {}
    fields["response_format"] = {"type": "json_object"}
    instruct(fields, told_schema(given.get("schema")))
    notes.emulated.append("json_schema")


def told_schema(schema: Any) -> str:
    """The instruction that stands for a schema; raise RequestError when it cannot be written."""
    told = "Answer with one JSON object and nothing else."
    return told if schema is None else f"{told} It must follow this JSON schema:\n{compact(schema)}"


def instruct(fields: Fields, text: str) -> None:
    """Add an instruction to the system message, the first of the conversation."""
    given = fields.get("messages")
    if not isinstance(given, list | tuple):
        return
    rest = list(cast(list[Any], given))
    first = as_object(rest[0]) if rest else None
    if first is not None and first.get("role") in SYSTEM_ROLES:
        append_content(first, text)
        fields["messages"] = rest
    else:
        fields["messages"] = [{"role": "system", "content": text}, *rest]
