"""Messages of chat completion requests: corrections that several dialects share.

The fields are those of a rendered request or come straight from a client's JSON: any of them may have any type, and
nothing here raises. What has not the expected form stays as it is, for the provider to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from extproc.core.conversation import Conversation, Image, ToolResult
from extproc.dialects._chat import as_object, kind, messages, objects, rename
from extproc.dialects.base import Fields, Notes
from extproc.schemas._codec import compact, label

SYSTEM_ROLES = ("system", "developer")
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
_PLACEHOLDERS = {"image_url": "[image]", "file": "[document]", "input_audio": "[audio]", "video_url": "[video]"}


def images(conversation: Conversation) -> Iterator[Image]:
    """The images of a conversation, those in tool results too."""
    for message in conversation.messages:
        for part in message.parts:
            inner = part.parts if isinstance(part, ToolResult) else (part,)
            yield from (image for image in inner if isinstance(image, Image))


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
    return lambda part: (
        None if _is_text(part) or kind(part) in kinds else no_files(part) or label("foreign", kind(part)))


def no_files(part: Fields) -> str | None:
    """For `replace_parts`: files are lost."""
    return "documents" if kind(part) == "file" else None


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
