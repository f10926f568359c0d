"""Reasoning of any provider inside a Responses reasoning item.

A client of this schema keeps no state but gives reasoning items back as they came, so `encrypted_content` carries
what other providers need to see again: Anthropic's signature or redacted block, and (where the item had to be
announced under another id) OpenAI's own content. The text itself is in the summary, character by character.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from extproc.core.conversation import Thinking, ThinkingDelta
from extproc.schemas._codec import FOREIGN_ERRORS, encode

SEAL = "extproc1."
"""What `encrypted_content` begins with when this gateway wrote it."""
PART_BREAK = "\n\n"
"""What stands between the parts of a summary in one text."""


class _Sealed(msgspec.Struct, omit_defaults=True):
    signature: str | None = None
    redacted: str | None = None
    encrypted: str | None = None
    id: str | None = None


_SEALED = msgspec.json.Decoder(_Sealed)


def seal(
    *, signature: str | None = None, redacted: str | None = None, encrypted: str | None = None, id: str | None = None  # noqa: A002
) -> str:
    """The `encrypted_content` that holds these; with none of them it only says that no provider of OpenAI made it."""
    return SEAL + base64.urlsafe_b64encode(encode(_Sealed(signature, redacted, encrypted, id))).decode()


def unseal(content: str, text: str, identifier: str | None) -> Thinking:
    """The reasoning of an item with this `encrypted_content`. A broken seal of ours yields the bare text."""
    if not content.startswith(SEAL):
        return Thinking(text, encrypted=content, id=identifier)
    try:
        told = _SEALED.decode(base64.urlsafe_b64decode(content[len(SEAL) :]))
    except (binascii.Error, ValueError, *FOREIGN_ERRORS):
        return Thinking(text)
    return Thinking(text, told.signature, told.redacted, told.encrypted, told.id)


def read_reasoning(item: dict[str, Any]) -> Thinking:
    """The neutral form of a reasoning item; the raw text wins over its summary where both are given."""
    text = _joined(item.get("content")) or _joined(item.get("summary"))
    content, identifier = item.get("encrypted_content"), item.get("id")
    identifier = identifier if isinstance(identifier, str) and identifier else None
    if isinstance(content, str) and content:
        return unseal(content, text, identifier)
    return Thinking(text, id=identifier)


def closing(thought: Thinking) -> ThinkingDelta | None:
    """The event that closes reasoning whose text was told before; None when there is nothing to tell."""
    if thought.signature is None and thought.redacted is None and thought.encrypted is None:
        return None
    identifier = thought.id if thought.encrypted is not None else None
    return ThinkingDelta("", thought.signature, thought.redacted, thought.encrypted, identifier)


def _joined(parts: object) -> str:
    if not isinstance(parts, list):
        return ""
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return PART_BREAK.join(text for text in texts if isinstance(text, str))
