"""The most that an attempt can cost: what is reserved before it is sent. A true upper bound, never a guess.

Input: a byte-level tokenizer makes at most one token of a byte, so the body's bytes and the template's overhead bound
the tokens; images count by the largest formula of any provider; what is not in the body (files by id, URLs, stored
conversations) can fill the model's whole context. Output: `max_tokens` as sent.
"""

from __future__ import annotations

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
_WITHIN = frozenset({"n", "best_of", "echo", "logprobs", "audio", "functions", "prompt:list", "prompt:tokens"})
"""Demands that bring in nothing from outside the body."""
LEAST_OUTPUT = 256
"""Output tokens below which an answer is not worth starting."""


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
    passes = 1 if set(conversation.demands) - _WITHIN else 0
    media, images = 0, 0
    for part in _parts(conversation):
        match part:
            case Image(data=str() as data):
                media, images = media + len(data), images + 1
            case Image() | Document(url=str()):
                passes = max(passes, 1)
            case Foreign():
                passes = max(passes, 1)
            case _:
                pass
    for tool in conversation.tools:
        if isinstance(tool.foreign, dict):
            uses = tool.foreign.get("max_uses")
            passes = max(passes, uses + 1 if isinstance(uses, int) and 0 <= uses < 1000 else SERVER_TOOL_PASSES)
    tokens = upper_bound(body) - media + images * IMAGE_TOKENS
    predicted = tokens if b'"prediction"' in body else 0
    return Bound(tokens, passes, max(conversation.n, conversation.best_of, 1), b'"cache_control"' in body, predicted)


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
