"""What a Claude model takes, told from its name."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

_FAMILY_FIRST = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d{1,2})(?:[-.](\d{1,2}))?(?![\d])")
_VERSION_FIRST = re.compile(r"claude-(\d{1,2})(?:[-.](\d{1,2}))?(?:-(opus|sonnet|haiku))?(?![\d])")
_PREVIEW = "claude-mythos-preview"
_ALWAYS = ("fable", "mythos")
_NEWEST = (99, 0)

Version = tuple[int, int]


class Claude(msgspec.Struct, frozen=True):
    """What one model takes."""

    takes_adaptive: bool
    takes_budget: bool
    off: Literal["disabled", "between_tools", "absent"] | None
    """How to say no thinking: a type, nothing at all (it cannot think, and knows no such field), or in no way."""
    thinks_unasked: bool
    off_only_to_high: bool
    """Whether thinking can be off at no more than high effort."""
    efforts: frozenset[str]
    takes_sampling: bool
    takes_prefill: bool
    takes_system_turns: bool
    takes_forced_tools: bool
    takes_format: bool


LEVELS = ("low", "medium", "high", "xhigh", "max")
OTHER = Claude(
    takes_adaptive=True, takes_budget=True, off="disabled", thinks_unasked=True, off_only_to_high=False,
    efforts=frozenset(LEVELS), takes_sampling=True, takes_prefill=True, takes_system_turns=False,
    takes_forced_tools=True, takes_format=True,
)
"""A model that is no Claude, on a server that speaks Anthropic's schema: nothing is known to be refused."""


def version(model: str) -> tuple[str, Version]:
    """The family and version in a model's name, such as claude-opus-4-6-20260205 or claude-3-7-sonnet-latest."""
    if (found := _FAMILY_FIRST.search(model)) is not None:
        return found[1], (int(found[2]), int(found[3] or 0))
    if (found := _VERSION_FIRST.search(model)) is not None:
        return found[3] or "", (int(found[1]), int(found[2] or 0))
    return ("mythos", (4, 6)) if _PREVIEW in model else ("", _NEWEST)


def claude(model: str) -> Claude:
    """What the model of this name takes. A Claude whose name says no version is taken for one newer than all known."""
    if "claude" not in model:
        return OTHER
    family, number = version(model)
    always = family in _ALWAYS
    return Claude(
        takes_adaptive=number >= (4, 6),
        takes_budget=(3, 7) <= number <= (4, 6),
        off=_off(family, number),
        thinks_unasked=always or number >= (5, 0),
        off_only_to_high=family in ("opus", "haiku") and number >= (5, 0),
        efforts=frozenset(_efforts(family, number)),
        takes_sampling=number <= (4, 6) and not always,
        takes_prefill=number < (4, 6) and not always,
        takes_system_turns=_takes_system_turns(family, number),
        # Since 5.5 (of Fable and Mythos: 5.1) a call cannot be forced, but on Haiku.
        takes_forced_tools=family == "haiku" or number < ((5, 1) if always else (5, 5)),
        takes_format=number >= (4, 5),
    )


def _off(family: str, number: Version) -> Literal["disabled", "between_tools", "absent"] | None:
    if family in _ALWAYS or (family in ("opus", "") and number >= (5, 5)):
        return None
    if family == "sonnet" and number >= (5, 5):
        return "between_tools"
    return "disabled" if number >= (3, 7) else "absent"


def _efforts(family: str, number: Version) -> tuple[str, ...]:
    if number < (4, 5) or (number == (4, 5) and family != "opus"):
        return ()
    if number == (4, 5):
        return LEVELS[:3]
    return (*LEVELS[:3], "max") if number == (4, 6) else LEVELS


def _takes_system_turns(family: str, number: Version) -> bool:
    if family == "sonnet":  # Sonnet 5 refuses them
        return number >= (5, 5)
    return number >= (4, 8) if family == "opus" else bool(family) and number >= (5, 0)
