"""api.deepseek.com, version 4 of its models: they think unless told not to.

Sources: api-docs.deepseek.com (guides/thinking_mode, guides/vision, api/create-chat-completion);
github deepseek-ai/DeepSeek-V3#1376 for the tool choice; a recorded conversation for `tool_choice: auto` and for empty
reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from extproc.core.conversation import Conversation
from extproc.dialects import _chat, _messages, _tools
from extproc.dialects.base import Dialect, Fields, Notes
from extproc.dialects.compatible import report_usage
from extproc.schemas.base import Target

MAX_STOP = 16
_UNKNOWN = ("n", "logit_bias", "seed", "top_k", "min_p", "repetition_penalty", "metadata", "store", "service_tier",
            "prompt_cache_key", "prompt_cache_retention", "verbosity", "safety_identifier", "user",
            "parallel_tool_calls")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_EFFORTS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "max": "max"}
_BLIND = re.compile(r"deepseek-(?:v4-pro|chat|reasoner|coder)")


class DeepSeek(Dialect):
    """DeepSeek's own API."""

    name = "deepseek"
    verbatim = False
    fim = "suffix"
    paths: ClassVar[Mapping[str, str]] = {"completions": "/beta/completions"}
    lacks = frozenset({"documents"})
    hosts = ("api.deepseek.com",)

    def cannot(self, conversation: Conversation, target: Target) -> tuple[str, ...]:
        """Images, for the models that cannot see."""
        unseen = _BLIND.match(target.model) is not None and any(_messages.images(conversation))
        return ("images",) if unseen else ()

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Say thinking its way, and give back the reasoning it insists on."""
        if wire != "openai":
            return
        _chat.max_tokens(fields)
        _tools.functions_only(fields, notes)
        _chat.stop(fields, MAX_STOP, notes)
        _chat.drop(fields, _UNKNOWN, notes)
        _messages.replace_parts(fields, _messages.only_kinds("image_url"), notes)
        _messages.flatten(fields)
        for message in _chat.messages(fields, "developer"):
            message["role"] = "system"
        _messages.schema_as_instruction(fields, notes)
        report_usage(fields)
        _thinking(fields, notes)


def _thinking(fields: Fields, notes: Notes) -> None:
    switch = _chat.as_object(fields.get("thinking"))
    off = fields.get("reasoning_effort") == "none" or (switch is not None and _chat.kind(switch) == "disabled")
    if not off and _tools.forces_a_tool(fields):
        # 400 "Thinking mode does not support this tool_choice": the call is a demand, the thinking only a default.
        notes.dropped.append("thinking")
        off = True
    if off:
        fields.pop("reasoning_effort", None)
        fields["thinking"] = {"type": "disabled"}
        for message in _chat.messages(fields, "assistant"):
            _messages.forget(message)
        return
    if switch is not None:
        fields["thinking"] = {"type": "enabled"}  # adaptive and budgets are other providers' words
    _chat.effort(fields, _EFFORTS, notes)
    _chat.drop(fields, _SAMPLING, notes)
    _give_back(fields)


def _give_back(fields: Fields) -> None:
    """With tools in play every earlier turn must have its reasoning, be it empty; without, it is never needed."""
    turns = _chat.messages(fields, "assistant")
    _messages.thinking_as(fields, "reasoning_content")
    if fields.get("tools") or any(_tools.calls(turn) for turn in turns):
        for turn in turns:
            if not isinstance(turn.get("reasoning_content"), str):
                turn["reasoning_content"] = ""
