"""api.openai.com.

Sources: PyPI openai 3.54.0 (types/chat/completion_create_params.py); which effort levels a model has: the table of PyPI
litellm 1.109.1.
"""

from __future__ import annotations

import re

from extproc.core.toolbox import Rules
from extproc.dialects import _chat, _messages
from extproc.dialects.base import Dialect, Fields, Notes
from extproc.schemas.base import Target

MAX_STOP = 4
MAX_USER = 64
_GPT = re.compile(r"gpt-(\d+)(?:\.(\d+))?")
_O_SERIES = re.compile(r"o\d")
_NO_STOP = re.compile(r"o3|o4-mini")
_CLASSIC = re.compile(r"gpt-[34]|chatgpt")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "logit_bias")
_UNKNOWN = ("top_k", "min_p", "repetition_penalty")
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
_LOW = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


class OpenAI(Dialect):
    """OpenAI itself: requests in its own schemas pass as they are."""

    name = "openai"
    native = frozenset({"responses", "embeddings"})
    tools = Rules(id_limit=40, custom=True)
    hosts = ("api.openai.com",)

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Correct a translated chat request for the model at hand."""
        if wire != "openai":
            return
        model = target.model.removeprefix("ft:")
        reasoning = is_reasoning(model)
        _messages.drop_thinking(fields, notes)
        _chat.drop(fields, _UNKNOWN + (_SAMPLING if reasoning else ("verbosity",)), notes)
        if reasoning:
            _chat.effort(fields, _efforts(model), notes)
        elif _CLASSIC.match(model):
            _chat.effort(fields, {}, notes)
        _stop(fields, model, notes)
        _caller(fields, notes)


def is_reasoning(model: str) -> bool:
    """Whether a model knows `max_completion_tokens` only and refuses sampling parameters."""
    gpt = _GPT.match(model)
    return _O_SERIES.match(model) is not None or (gpt is not None and int(gpt[1]) >= 5)


def _efforts(model: str) -> dict[str, str]:
    """The effort levels of a model, and for each level of others the one that comes nearest."""
    gpt = _GPT.match(model)
    if gpt is None:
        return {"none": "low", **_LOW}
    version = (int(gpt[1]), int(gpt[2] or 0))
    if version == (5, 0):
        return {**_LOW, "none": "minimal", "minimal": "minimal"}
    if version < (5, 2):
        return {**_LOW, "none": "none"}
    # `max` came with 5.6; what is older says xhigh.
    return {**_LOW, "none": "none", "xhigh": "xhigh", "max": "max" if version >= (5, 6) else "xhigh"}


def _stop(fields: Fields, model: str, notes: Notes) -> None:
    if _NO_STOP.match(model):
        _chat.drop(fields, ("stop",), notes)
    else:
        _chat.stop(fields, MAX_STOP, notes)


def _caller(fields: Fields, notes: Notes) -> None:
    """Long user names are an agent's device and account ids, which are not for another provider."""
    user = fields.get("user")
    if isinstance(user, str) and len(user) > MAX_USER:
        _chat.drop(fields, ("user",), notes)
    if fields.get("service_tier") == "standard_only":  # Anthropic's name for it
        fields["service_tier"] = "default"
    elif "service_tier" in fields and fields["service_tier"] not in _TIERS:
        _chat.drop(fields, ("service_tier",), notes)
