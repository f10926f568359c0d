"""What an exchange that was cut used: the client left, the provider broke off, a deadline passed; nobody tells.

The input is what was reported, else the estimate of the request; the output what has passed, and a slack. Reasoning
that is not shown does not pass, and of an answer that is not streamed nothing does: as much as the model can have made
while nothing passed is taken to have been made, within what was paid for, unless it is configured otherwise (`on_cut`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.usage import Tokens
from extproc.tokens import counter, family_of

SLACK = 64
"""Tokens added to what was seen of a cut stream (ledger protocol, section 5)."""
PAUSE_MS = 500
OnCut = Literal["seen", "timed", "full"]
"""What has passed; what can have been made in the time; all that was paid for."""
Shown = Literal["", "off", "omitted"]
"""Reasoning: as the model shows it; asked not to be done; asked not to be shown."""
_HIDES = "openai-reasoning"


def shown(conversation: Conversation) -> Shown:
    """What a request says of its reasoning."""
    if conversation.effort == "none" or conversation.thinking == "disabled":
        return "off"
    return "omitted" if conversation.thinking_display == "omitted" else ""


def rule(model: str, asked: Shown, on_cut: OnCut | None, *, passes: bool) -> OnCut:
    """How a cut answer of this model is charged. `on_cut`: the configured word on it. `passes`: whether what it shows
    passes while it is made."""
    hidden = not passes or asked == "omitted" or (asked == "" and family_of(model).name == _HIDES)
    return on_cut or ("timed" if hidden else "seen")


class Unseen:
    """How long nothing of an answer passed: only then can a model reason out of sight, it makes one token at a time."""

    __slots__ = ("_characters", "_since", "_sum")

    def __init__(self, start: int) -> None:
        """`start`: when the request left, in ms like all moments here."""
        self._since, self._characters, self._sum = start, 0, 0

    def passed(self, characters: int, now: int) -> None:
        """So many characters have passed by now."""
        if characters > self._characters:
            self._sum, self._since, self._characters = self.ms(now), now, characters

    def ms(self, now: int) -> int:
        """For so long nothing passed until now; what lies between two words is no pause."""
        pause = now - self._since
        return self._sum + (pause if pause > PAUSE_MS else 0)


class Cut(msgspec.Struct, frozen=True):
    """What is known of an exchange that was cut: the tokens that were told, characters of output that passed, bytes of
    the request's text, output tokens that were paid for, and how many can have been made out of sight."""

    told: Tokens
    characters: int
    input_bytes: int
    paid: int = 0
    unseen: int = 0

    def used(self, model: str, how: OnCut) -> Tokens:
        """The tokens it is charged."""
        guess, told = counter(model).estimate_bytes, self.told
        out = max(told.output or 0, guess(self.characters) + (SLACK if self.characters else 0))
        most = self.paid - (told.reasoning or 0)
        if how != "seen":
            out = max(out, most if how == "full" else min(out + self.unseen, most))
        return msgspec.structs.replace(told, input=guess(self.input_bytes) if told.input is None else told.input,
                                       output=out)
