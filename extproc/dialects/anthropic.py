"""api.anthropic.com: what a translated request must heed for the Claude model at hand.

Requests in Anthropic's own schema pass as they are: their senders know their model.
Sources: platform.claude.com (thinking, effort, errors, mid-conversation-system-messages, the migration guides), PyPI
anthropic 2.12.0; which model takes what: also the table of PyPI litellm 1.109.1.
"""

from __future__ import annotations

from typing import Any, cast

from extproc.core.toolbox import Rules
from extproc.dialects import _chat, _messages
from extproc.dialects._claude import LEVELS, Claude, claude
from extproc.dialects.base import Dialect, Fields, Notes
from extproc.schemas.base import Target

MAX_CACHE_MARKS = 4
MIN_BUDGET = 1024
_BUDGETS = {"low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 31999}
"""Thinking tokens for an effort, for models that know no effort."""
_TIERS = {"auto": "auto", "standard_only": "standard_only", "default": "standard_only"}


class Anthropic(Dialect):
    """Anthropic itself."""

    name = "anthropic"
    schema = "anthropic"
    native = frozenset({"count_tokens"})
    tools = Rules(name_limit=128)
    hosts = ("api.anthropic.com",)

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Correct a translated request for the model's version."""
        if wire != "anthropic":
            return
        model = claude(target.model)
        _tool_choice(fields, model, notes)
        _systems(fields, model, notes)
        _content(fields, notes)
        _format(fields, model, notes)
        _effort(fields, model, notes)
        _thinking(fields, model, notes)
        _prefill(fields, model, notes)
        _sampling(fields, model, notes)
        _stop(fields, notes)
        _tier(fields, notes)
        _cache_marks(fields, notes)

    def credentials(self, api_key: str) -> dict[str, str]:
        """Anthropic's own header for the key; it is the only one that both API versions take."""
        return {"x-api-key": api_key}


# ---------------------------------------------------------------- tools


def _tool_choice(fields: Fields, model: Claude, notes: Notes) -> None:
    """Where a call cannot be forced, the choice is free; a named tool is then offered alone."""
    choice = _chat.as_object(fields.get("tool_choice"))
    if choice is None or not _forced(fields) or model.takes_forced_tools:
        return
    named = [tool for tool in _chat.objects(fields.get("tools")) if tool.get("name") == choice.get("name")]
    if named:
        fields["tools"] = named
    fields["tool_choice"] = {name: value for name, value in choice.items() if name != "name"} | {"type": "auto"}
    notes.dropped.append("tool_choice")


def _forced(fields: Fields) -> bool:
    choice = _chat.as_object(fields.get("tool_choice"))
    return choice is not None and _chat.kind(choice) in ("any", "tool")


# ---------------------------------------------------------------- turns


def _systems(fields: Fields, model: Claude, notes: Notes) -> None:
    """System messages inside `messages`: they may only follow a user turn and precede an answer or the end, and only
    newer models know them; elsewhere they become text of the user's."""
    given = fields.get("messages")
    if not isinstance(given, list):
        return
    turns = cast(list[Any], given)
    out: list[Any] = []
    for i, item in enumerate(turns):
        if _role(item) != "system":
            _join(out, item)
            continue
        following = _role(turns[i + 1]) if i + 1 < len(turns) else None
        if model.takes_system_turns and out and _role(out[-1]) == "user" and following in (None, "assistant"):
            out.append(item)
            continue
        _join(out, {"role": "user", "content": [_reminder(block) for block in _blocks(item)]})
        notes.emulated.append("system")
    fields["messages"] = out


def _join(out: list[Any], item: Any) -> None:
    """Append a turn; a user's turn joins one before it, with tool results first as the API demands."""
    if not (out and _role(item) == "user" == _role(out[-1])):
        out.append(item)
        return
    blocks = [*_blocks(out[-1]), *_blocks(item)]
    blocks.sort(key=lambda block: _kind(block) != "tool_result")
    out[-1] = {**out[-1], "content": blocks}


def _reminder(block: Any) -> Any:
    found = _chat.as_object(block)
    if found is None or not isinstance(found.get("text"), str):
        return block
    return {**found, "text": f"<system-reminder>\n{found['text']}\n</system-reminder>"}


def _role(message: Any) -> Any:
    found = _chat.as_object(message)
    return None if found is None else found.get("role")


def _kind(block: Any) -> str:
    found = _chat.as_object(block)
    return "" if found is None else _chat.kind(found)


def _blocks(message: Any) -> list[Any]:
    """The content of a turn as blocks, without empty text, which is a 400."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    return list(cast(list[Any], content)) if isinstance(content, list | tuple) else []


def _content(fields: Fields, notes: Notes) -> None:
    """No empty text, no document in an assistant's turn (a 400 since version 2026-10-21), no empty turn."""
    given = fields.get("messages")
    if not isinstance(given, list):
        return
    out: list[Any] = []
    for item in cast(list[Any], given):
        message = _chat.as_object(item)
        if message is None:
            out.append(item)
            continue
        blocks = _blocks(message)
        kept = [block for block in blocks if not _empty(block)]
        if message.get("role") == "assistant":
            documents = [block for block in kept if _kind(block) == "document"]
            kept = [block for block in kept if _kind(block) != "document"]
            notes.dropped += ["documents"] if documents else []
        if kept:
            if len(kept) != len(blocks):
                message["content"] = kept
            out.append(message)
    fields["messages"] = out


def unsigned(fields: Fields, notes: Notes) -> None:
    """Remove thinking that no Claude has signed, of turns that another model gave: it is a 400.

    Where thinking has a budget, the tool loop that goes on must begin with signed thinking; else it is left out.
    """
    given = fields.get("messages")
    if not isinstance(given, list):
        return
    for message in _chat.messages(fields, "assistant"):
        blocks = message.get("content")
        if isinstance(blocks, list):
            message["content"] = [block for block in cast(list[Any], blocks) if not _unsigned(block)]
    fields["messages"] = [
        item for item in cast(list[Any], given) if _role(item) != "assistant" or item.get("content") != []]
    notes.dropped.append("thinking")
    if _is(fields, "enabled") and not _loop_has_thinking(fields):
        del fields["thinking"]


def _unsigned(block: Any) -> bool:
    found = _chat.as_object(block)
    return found is not None and _chat.kind(found) == "thinking" and not found.get("signature")


def _empty(block: Any) -> bool:
    found = _chat.as_object(block)
    if found is None or _chat.kind(found) != "text":
        return False
    text = found.get("text")
    return not isinstance(text, str) or not text.strip()


def _prefill(fields: Fields, model: Claude, notes: Notes) -> None:
    """A beginning of the answer: refused by newer models, and by all while they think."""
    given = fields.get("messages")
    if not isinstance(given, list) or not given or _role(given[-1]) != "assistant":
        return
    thinking = _chat.as_object(fields.get("thinking"))
    if model.takes_prefill and (thinking is None or _chat.kind(thinking) == "disabled"):
        return
    given.append({"role": "user", "content": [{"type": "text", "text": "Continue."}]})
    notes.emulated.append("prefill")


# ---------------------------------------------------------------- thinking


def _effort(fields: Fields, model: Claude, notes: Notes) -> None:
    """An effort that the model has, or thinking with a budget on models without one."""
    output = _chat.as_object(fields.get("output_config"))
    effort = None if output is None else output.get("effort")
    if output is None or effort is None:
        return
    if not model.efforts:
        del output["effort"]
        if not output:
            del fields["output_config"]
        thinking = _chat.as_object(fields.get("thinking"))
        free = thinking is None or _chat.kind(thinking) == "adaptive"
        if free and model.takes_budget and isinstance(effort, str) and effort in _BUDGETS:
            fields["thinking"] = {**(thinking or {}), "type": "enabled", "budget_tokens": _BUDGETS[effort]}
            notes.emulated.append("effort")
        else:
            notes.dropped.append("effort")
        return
    if effort not in tuple(model.efforts):
        output["effort"] = _nearest(effort, model)
        notes.emulated.append("effort")
    if fields.get("thinking") is None and model.takes_adaptive and not model.thinks_unasked:
        fields["thinking"] = {"type": "adaptive"}


def _nearest(effort: Any, model: Claude) -> str:
    """The highest level of the model that is not above the one asked for, with xhigh next to high."""
    asked = LEVELS.index(effort) if effort in LEVELS else 0
    return next((level for level in reversed(LEVELS[: asked + 1]) if level in model.efforts), "low")


def _is(fields: Fields, kind: str) -> bool:
    thinking = _chat.as_object(fields.get("thinking"))
    return thinking is not None and _chat.kind(thinking) == kind


def _thinking(fields: Fields, model: Claude, notes: Notes) -> None:
    """The model's own way to say thinking: off, adaptive, or with a budget."""
    thinking = _chat.as_object(fields.get("thinking"))
    if thinking is None:
        return
    match _chat.kind(thinking):
        case "disabled" | "between_tools":
            _off(fields, model, notes)
        case "adaptive" if not model.takes_adaptive:
            if model.takes_budget:
                effort = (_chat.as_object(fields.get("output_config")) or {}).get("effort")
                thinking["budget_tokens"] = _BUDGETS[effort if effort in LEVELS else "high"]
                notes.emulated.append("thinking")
            thinking["type"] = "enabled"
            _budget(fields, model, notes)
        case "enabled" if not model.takes_budget and model.takes_adaptive:
            _adaptive(fields, thinking, model, notes)
        case "enabled":
            _budget(fields, model, notes)
        case _:
            pass


def _off(fields: Fields, model: Claude, notes: Notes) -> None:
    asked = _chat.kind(_chat.as_object(fields.pop("thinking")) or {})
    if model.off == "absent":
        return
    output = dict(_chat.as_object(fields.get("output_config")) or {})
    if model.off is None:
        fields["output_config"] = {**output, "effort": "low"}
    else:
        fields["thinking"] = {"type": model.off}
    if model.off != asked:
        notes.emulated.append("thinking")
    if model.off_only_to_high and model.off == "disabled" and output.get("effort") in ("xhigh", "max"):
        fields["output_config"] = {**output, "effort": "high"}
        notes.emulated.append("effort")


def _adaptive(fields: Fields, thinking: Fields, model: Claude, notes: Notes) -> None:
    """Thinking without a budget; the budget becomes an effort, where none is given."""
    budget = thinking.pop("budget_tokens", None)
    thinking["type"] = "adaptive"
    output = dict(_chat.as_object(fields.get("output_config")) or {})
    if isinstance(budget, int) and "effort" not in output:
        level = next((level for level in LEVELS if budget <= _BUDGETS[level]), "max")
        fields["output_config"] = {**output, "effort": _nearest(level, model)}
    notes.emulated.append("thinking_budget")


def _budget(fields: Fields, model: Claude, notes: Notes) -> None:
    """A budget of at least 1024 and below max_tokens; no thinking where that or something else forbids it."""
    thinking = _chat.as_object(fields.get("thinking")) or {}
    given, limit = thinking.get("budget_tokens"), fields.get("max_tokens")
    budget = max(MIN_BUDGET, given) if isinstance(given, int) else MIN_BUDGET
    if isinstance(limit, int):
        budget = min(budget, limit - 1)
    if not model.takes_budget or budget < MIN_BUDGET or _forced(fields) or not _loop_has_thinking(fields):
        del fields["thinking"]
        notes.dropped.append("thinking")
    elif budget != given:
        thinking["budget_tokens"] = budget
        notes.emulated.append("thinking_budget")


def _loop_has_thinking(fields: Fields) -> bool:
    """Whether the tool loop that goes on, if any, began with thinking: without it, manual thinking is a 400."""
    turns = _chat.messages(fields)
    if not turns or not any(_kind(block) == "tool_result" for block in _blocks(turns[-1])):
        return True
    last = next((turn for turn in reversed(turns) if turn.get("role") == "assistant"), None)
    blocks = [] if last is None else _blocks(last)
    return bool(blocks) and _kind(blocks[0]) in ("thinking", "redacted_thinking")


# ---------------------------------------------------------------- settings


def _sampling(fields: Fields, model: Claude, notes: Notes) -> None:
    """Newer models refuse sampling parameters; older ones take one of temperature and top_p, and none but a high top_p
    while they think."""
    if not model.takes_sampling:
        _chat.drop(fields, ("temperature", "top_p", "top_k"), notes)
        return
    if _is(fields, "enabled") or _is(fields, "adaptive"):
        _chat.drop(fields, ("temperature", "top_p", "top_k"), notes)
        return
    temperature = fields.get("temperature")
    if temperature is None:
        return
    _chat.drop(fields, ("top_p",), notes)
    if isinstance(temperature, int | float) and not 0 <= temperature <= 1:
        fields["temperature"] = min(1, max(0, temperature))
        notes.emulated.append("temperature")


def _stop(fields: Fields, notes: Notes) -> None:
    """Stop sequences of white space alone are a 400."""
    given = fields.get("stop_sequences")
    if not isinstance(given, list | tuple):
        return
    kept = [text for text in cast(list[Any], given) if isinstance(text, str) and text.strip()]
    if len(kept) < len(given):
        notes.dropped.append("stop")
    if kept:
        fields["stop_sequences"] = kept
    else:
        del fields["stop_sequences"]


def _cache_marks(fields: Fields, notes: Notes) -> None:
    """Four cache breakpoints at most, the automatic one counted: the oldest in the conversation go first."""
    marked = [m for message in _chat.messages(fields) for m in _marked(message.get("content"))]
    prefix = [*_marked(fields.get("tools")), *_marked(fields.get("system"))]
    most = MAX_CACHE_MARKS - (fields.get("cache_control") is not None)
    spare = len(marked) + len(prefix) - most
    if spare <= 0:
        return
    order = [*marked[:-1], *prefix, *marked[-1:]]
    for block in order[:spare]:
        del block["cache_control"]
    notes.dropped.append("cache_control")


def _tier(fields: Fields, notes: Notes) -> None:
    given = fields.get("service_tier")
    if isinstance(given, str) and given in _TIERS:
        fields["service_tier"] = _TIERS[given]
    else:
        _chat.drop(fields, ("service_tier",), notes)


def _format(fields: Fields, model: Claude, notes: Notes) -> None:
    """A schema for the answer, told in words to models that cannot be held to one."""
    output = _chat.as_object(fields.get("output_config"))
    wanted = None if output is None else _chat.as_object(output.get("format"))
    if model.takes_format or output is None or wanted is None:
        return
    del output["format"]
    if not output:
        del fields["output_config"]
    told = {"type": "text", "text": _messages.told_schema(wanted.get("schema"))}
    system: Any = fields.get("system")
    fields["system"] = [*_blocks({"content": system}), told]
    notes.emulated.append("json_schema")


def _marked(content: Any) -> list[Fields]:
    """The blocks with a mark, those inside tool results too."""
    found: list[Fields] = []
    for block in _chat.objects(content):
        if _chat.kind(block) == "tool_result":
            found += _marked(block.get("content"))
        if block.get("cache_control") is not None:
            found.append(block)
    return found


