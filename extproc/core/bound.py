"""The most that an attempt can cost: what is reserved before it is sent. A true upper bound, never a guess.

Input: a byte-level tokenizer makes at most one token of a byte, so the body's bytes and the template's overhead bound
the tokens; images count by the largest formula of any provider; what is not in the body (files by id, URLs, stored
conversations), and files whose text and pages are packed (PDF), can fill the model's whole context, and again for each
use of a server tool. Output: `max_tokens` as sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

import msgspec

from extproc.core.conversation import Conversation, Document, Foreign, Image, Part, ToolResult
from extproc.core.errors import RequestError
from extproc.core.pricing import Price, Rate
from extproc.money.amounts import Need, Option
from extproc.runtime import Backend
from extproc.tokens import upper_bound

IMAGE_TOKENS = 6_000
"""More than any provider's formula makes of one image."""
UNKNOWN_CONTEXT = 1_000_000
"""The context of a model that nobody told, for what is not in the body."""
SERVER_TOOL_PASSES = 6
"""Billed passes over the context that a request with server tools can cause, when it does not say how many."""
_HIDDEN = re.compile(rb"\\u00[4-7][0-9A-Fa-f]")
"""A letter written as an escape, as no ordinary encoder does: any name may be in the body so."""
_WITHIN = frozenset({"n", "best_of", "echo", "logprobs", "audio", "functions", "prompt:list", "prompt:tokens"})
"""Demands that bring in nothing from outside the body."""
_SEARCHES = frozenset({"web_search_options"})
"""Settings that make a model read what is not in the body."""
_DEARER_TIERS = ("priority", "fast")
LEAST_OUTPUT = 256
"""Output tokens below which an answer is not worth starting."""


class _Calls(msgspec.Struct):
    max_tool_calls: int | None = None


_CALLS = msgspec.json.Decoder(_Calls)


class Bound(msgspec.Struct, frozen=True):
    """The input side of a request's bound, in tokens. `passes`: how often the whole context may be billed; 0: the
    body is all there is. `choices`: how many answers are asked for."""

    tokens: int
    passes: int = 0
    choices: int = 1
    caching: bool = False
    predicted: int = 0
    """Output tokens that are billed beside the limit: a prediction that the model rejects."""

    def input(self, context: int | None) -> int:
        """The most input tokens at a model of this context."""
        return max(self.tokens, self.passes * (context or UNKNOWN_CONTEXT))


def bound_of(conversation: Conversation, body: bytes) -> Bound:
    """The bound of a parsed request, from its bytes. A count of tokens costs nothing."""
    if conversation.task == "count":
        return Bound(0)
    passes = _passes(conversation, body)
    media, images = 0, 0
    for part in _parts(conversation):
        match part:
            case Image(data=str() as data):
                media, images = media + len(data), images + 1
            case Document(media_type=str() as kind, url=None) if kind.startswith("text/"):
                pass
            case Image() | Document(url=str()) | Document(data=str()):
                passes = max(passes, 1)
            case Foreign():
                passes = max(passes, 1)
            case _:
                pass
    tokens = upper_bound(body) - media + images * IMAGE_TOKENS
    hidden = _HIDDEN.search(body) is not None
    predicted = tokens if hidden or b'"prediction"' in body else 0
    return Bound(tokens, passes, max(conversation.n, conversation.best_of, 1), hidden or b'"cache_control"' in body,
                 predicted)


def _passes(conversation: Conversation, body: bytes) -> int:
    """How often demands and server tools can have the whole context billed; each use of a tool is a pass more."""
    foreign = [tool.foreign for tool in conversation.tools if isinstance(tool.foreign, dict)]
    if not foreign:
        return 1 if set(conversation.demands) - _WITHIN or set(conversation.unmapped) & _SEARCHES else 0
    if (calls := _most_calls(body)) is not None:
        return 1 + calls
    uses = [tool.get("max_uses") for tool in foreign]
    known = [count for count in uses if isinstance(count, int) and count >= 0]
    return 1 + sum(known) + (SERVER_TOOL_PASSES - 1 if len(known) < len(uses) else 0)


def _most_calls(body: bytes) -> int | None:
    """The calls of all server tools that a request allows, in the words of OpenAI's responses."""
    try:
        most = _CALLS.decode(body).max_tool_calls
    except msgspec.MsgspecError:
        return None
    return None if most is None else max(most, 0)


def unpriced(conversation: Conversation) -> tuple[str, ...]:
    """What a request asks for that costs more than prices by token say: faster or located service, and sound."""
    found = [name for name in ("inference_geo", "audio", "foreign:input_audio") if name in conversation.demands]
    if conversation.extras.get("service_tier") in _DEARER_TIERS:
        found.append("service_tier")
    return (*found, *(("speed",) if "speed" in conversation.unmapped else ()))


def output_of(conversation: Conversation) -> int | None:
    """The output tokens a request asks for; None where it leaves that open."""
    return conversation.max_tokens if conversation.task in ("chat", "completion") else 0


def _parts(conversation: Conversation) -> Iterable[Part]:
    for message in conversation.messages:
        for part in message.parts:
            yield part
            if isinstance(part, ToolResult):
                yield from part.parts


def need(bound: Bound, backend: Backend, output: int) -> Need:
    """The most that an attempt with so many output tokens can cost at a backend; an unknown price costs nothing."""
    option = option_of(bound, [backend], output, output)
    return Need(option.nano_usd(output), option.tokens(output))


def option_of(bound: Bound, backends: Iterable[Backend], least: int, want: int) -> Option:
    """A chain as an option of a reservation: the dearest of its backends in every part.

    Raises:
        RequestError: the amount is beyond what can be counted.
    """
    fixed_usd = token_usd = fixed_tokens = 0
    for backend in backends:
        tokens = bound.input(backend.context)
        fixed_tokens = max(fixed_tokens, tokens)
        if backend.price is not None:
            fixed_usd = max(fixed_usd, _ceil(_dearest_input(backend.price, tokens, bound.caching) * tokens))
            token_usd = max(token_usd, _ceil(_dearest(backend.price.output, tokens)))
    try:
        return Option(least, want, fixed_usd + token_usd * bound.predicted, token_usd * bound.choices,
                      fixed_tokens + bound.predicted, bound.choices)
    except ValueError as error:
        raise RequestError(f"max_tokens: this request could use more than can be counted: {error}",
                           param="max_tokens") from error


def _dearest_input(price: Price, tokens: int, caching: bool) -> Fraction:
    """The dearest class that input can be billed in. Some models write to their cache unasked."""
    classes = [price.input, price.cache_read, price.cache_write_5m, price.cache_write_1h if caching else None]
    return max(_dearest(rate, tokens) for rate in classes if rate is not None)


def _dearest(rate: Rate, tokens: int) -> Fraction:
    return max([rate.base, *[tier for start, tier in rate.tiers if tokens > start]])


def _ceil(amount: Fraction) -> int:
    return -(-amount.numerator // amount.denominator)
