"""What an exchange that was cut used: the client left, the provider broke off, a deadline passed; nobody tells.

The input is what was reported, else the estimate of the request; the output what has passed, and a slack. Reasoning
that is not shown does not pass: a model that hides it is taken to have used all that was paid for, unless it is
configured otherwise (`on_cut`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.usage import Tokens
from extproc.tokens import counter, family_of

SLACK = 64
"""Tokens added to what was seen of a cut stream (ledger protocol, section 5)."""
OnCut = Literal["seen", "full"]
Shown = Literal["", "off", "omitted"]
"""Reasoning: as the model shows it; asked not to be done; asked not to be shown."""
_HIDES = "openai-reasoning"


def shown(conversation: Conversation) -> Shown:
    """What a request says of its reasoning."""
    if conversation.effort == "none" or conversation.thinking == "disabled":
        return "off"
    return "omitted" if conversation.thinking_display == "omitted" else ""


def charged_in_full(model: str, asked: Shown, on_cut: OnCut | None) -> bool:
    """Whether a cut answer of this model is taken to have used all its output. `on_cut`: the configured word on it."""
    if on_cut is not None:
        return on_cut == "full"
    return asked == "omitted" or (asked == "" and family_of(model).name == _HIDES)


def used(model: str, told: Tokens, characters: int, input_bytes: int, *, paid: int) -> Tokens:
    """The tokens of a cut exchange. `characters` of output have passed; `input_bytes`: the size of the request's text;
    `paid`: output tokens that it is taken to have used at least."""
    guess = counter(model).estimate_bytes
    out = max(told.output or 0, guess(characters) + (SLACK if characters else 0), paid - (told.reasoning or 0))
    return msgspec.structs.replace(told, input=guess(input_bytes) if told.input is None else told.input, output=out)
