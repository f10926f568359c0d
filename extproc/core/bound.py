"""The most that an attempt can cost: what is reserved before it is sent. A true upper bound, never a guess.

Input: a byte-level tokenizer makes at most one token of a byte, so the body's bytes and the template's overhead bound
the tokens; images count by the largest formula of any provider; what is not in the body (files by id, URLs, stored
conversations), and files whose text and pages are packed (PDF), can fill the model's whole context, and again with each
use of a tool that the provider runs. Output: `max_tokens` as sent. Both in the dearest tier that the request can be
served in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

import msgspec

from extproc.core.conversation import Conversation, Document, Foreign, Image, Part, ToolResult
from extproc.core.errors import RequestError
from extproc.core.pricing import Price, Rate
from extproc.core.served import served
from extproc.core.usage import Terms, Tokens, with_passes
from extproc.money.amounts import LARGEST, Need, Option
from extproc.runtime import Backend
from extproc.tokens import upper_bound

IMAGE_TOKENS = 6_000
"""More than any provider's formula makes of one image."""
UNKNOWN_CONTEXT = 1_000_000
"""The context of a model that nobody told, for what is not in the body."""
SERVER_TOOL_USES = 5
"""Uses of its provider's own tools that a request is paid for where it does not say how many."""
_TIERS = ("priority", "fast")
PriceOf = Callable[[str, str], Price | None]
_HIDDEN = re.compile(rb"\\u00[4-7][0-9A-Fa-f]")
"""A letter written as an escape, as no ordinary encoder does: any name may be in the body so."""
_WITHIN = frozenset({"n", "best_of", "echo", "logprobs", "audio", "functions", "prompt:list", "prompt:tokens"})
"""Demands that bring in nothing from outside the body."""
_SEARCHES = frozenset({"web_search_options"})
"""Settings that make a model read what is not in the body."""
_SPEAK = {"service_tier": ("openai", "mistral"), "speed": ("anthropic",), "inference_geo": ("anthropic",)}
"""Settings that are billed above the listed price -> the dialects that pass them on."""
ABSURD = 100
"""So many times the bound is a lie, not a mistake (ledger protocol, section 5)."""
LEAST_OUTPUT = 256
"""Output tokens below which an answer is not worth starting."""


class Bound(msgspec.Struct, frozen=True):
    """The input side of a request's bound, in tokens. `passes`: how often the whole context may be billed; 0: the
    body is all there is. `choices`: how many answers are asked for. `searches`: web searches with a fee. `uses`: of
    tools that the provider runs, where the request names no maximum. `terms`: tiers and regions it may be billed in."""

    tokens: int
    passes: int = 0
    choices: int = 1
    caching: bool = False
    predicted: int = 0
    """Output tokens that are billed beside the limit: a prediction that the model rejects."""
    searches: int = 0
    uses: int = SERVER_TOOL_USES
    terms: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Other models of the provider that its tools may ask in between, each time with as much output."""

    def input(self, context: int | None) -> int:
        """The most input tokens at a model of this context."""
        return max(self.tokens, self.passes * (context or UNKNOWN_CONTEXT))


def bound_of(conversation: Conversation, body: bytes, uses: int = SERVER_TOOL_USES) -> Bound:
    """The bound of a parsed request, from its bytes. A count of tokens costs nothing.

    `uses`: how often a tool that the provider runs may be used where the request does not say.
    """
    if conversation.task == "count":
        return Bound(0)
    passes = 1 if set(conversation.demands) - _WITHIN or set(conversation.unmapped) & _SEARCHES else 0
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
    tools = served(conversation, uses)
    passes = max(passes, tools.uses + 1 if tools.uses else 0)
    hidden = b"\\u00" in body and _HIDDEN.search(body) is not None
    tokens = upper_bound(body) - media + images * IMAGE_TOKENS
    predicted = tokens if hidden or b'"prediction"' in body else 0
    return Bound(tokens, passes, max(conversation.n, conversation.best_of, 1), hidden or b'"cache_control"' in body,
                 predicted, max(tools.searches, bool(set(conversation.unmapped) & _SEARCHES)), uses,
                 (*_TIERS, "us", "auto") if hidden else _terms(body), tools.models)


def _terms(body: bytes) -> tuple[str, ...]:
    """The names of tiers and regions that a request may be billed in, wherever they stand in its body."""
    found = [name for name in _TIERS if f'"{name}"'.encode() in body] if (
        b'"service_tier"' in body or b'"speed"' in body) else []
    if b'"inference_geo"' in body and b'"us"' in body:
        found.append("us")
    if b'"service_tier"' not in body or b'"auto"' in body:
        found.append("auto")
    return tuple(found)


def unpriced(conversation: Conversation, backend: Backend) -> tuple[str, ...]:
    """What a request asks for whose price at a backend nobody gave: faster or located service, and sound. At one that
    costs nothing, nothing."""
    if backend.price is None or not (backend.price.input.base or backend.price.output.base):
        return ()
    found = [name for name in ("audio", "foreign:input_audio") if name in conversation.demands]
    known = {name for name, _ in backend.price.factors}
    tier = conversation.extras.get("service_tier")
    asked = {"service_tier": tier if tier in _TIERS else None,
             "speed": "fast" if "speed" in conversation.unmapped else None,
             "inference_geo": "us" if "inference_geo" in conversation.demands else None}
    return (*found, *(name for name, term in asked.items()
                      if term is not None and term not in known and backend.dialect in _SPEAK[name]))


def output_of(conversation: Conversation) -> int | None:
    """The output tokens a request asks for; None where it leaves that open."""
    return conversation.max_tokens if conversation.task in ("chat", "completion") else 0


def _parts(conversation: Conversation) -> Iterable[Part]:
    for message in conversation.messages:
        for part in message.parts:
            yield part
            if isinstance(part, ToolResult):
                yield from part.parts


def need(bound: Bound, backend: Backend, output: int, price_of: PriceOf) -> Need:
    """The most that an attempt with so many output tokens can cost at a backend; an unknown price costs nothing."""
    option = option_of(bound, [backend], output, output, price_of)
    return Need(option.nano_usd(output), option.tokens(output))


def option_of(bound: Bound, backends: Iterable[Backend], least: int, want: int, price_of: PriceOf) -> Option:
    """A chain as an option of a reservation: the dearest of its backends in every part.

    `price_of`: the price of any model, by the name of a backend and its own.

    Raises:
        RequestError: the amount is beyond what can be counted.
    """
    fixed_usd = token_usd = fixed_tokens = 0
    for backend in backends:
        tokens = bound.input(backend.context)
        fixed_tokens = max(fixed_tokens, tokens)
        prices = [backend.price, *(price_of(backend.name, model) for model in bound.models)]
        searches = max(bound.searches, "-search-" in backend.model)
        for price in filter(None, prices):
            factor = _factor(price, bound.terms)
            fixed_usd = max(fixed_usd, _ceil(_dearest_input(price, tokens, bound.caching) * tokens * factor
                                             + price.search * searches))
            token_usd = max(token_usd, _ceil(_dearest(price.output, tokens) * factor))
    try:
        answers = bound.choices * (bound.passes if bound.models else 1)
        return Option(least, want, fixed_usd + token_usd * bound.predicted, token_usd * answers,
                      fixed_tokens + bound.predicted, answers)
    except ValueError as error:
        raise RequestError(f"max_tokens: this request could use more than can be counted: {error}",
                           param="max_tokens") from error


def absurd(tokens: Tokens, terms: Terms, cost: int | None, most: Need | None) -> bool:
    """Whether a reported usage is no measurement: beyond what can be counted, or a hundred times the most that the
    attempt could use (`most`, None: no budget is in force)."""
    if cost is not None and cost > LARGEST:
        return True
    if most is None:
        return False
    return (sum(with_passes(tokens, terms)) > ABSURD * most.tokens
            or (cost is not None and most.nano_usd > 0 and cost > ABSURD * most.nano_usd))


def _dearest_input(price: Price, tokens: int, caching: bool) -> Fraction:
    """The dearest class that input can be billed in. Some models write to their cache unasked."""
    classes = [price.input, price.cache_read, price.cache_write_5m, price.cache_write_1h if caching else None]
    return max(_dearest(rate, tokens) for rate in classes if rate is not None)


def _factor(price: Price, terms: tuple[str, ...]) -> Fraction:
    """The dearest of the tiers, in the dearest of the regions."""
    region = max(price.factor("us"), Fraction(1)) if "us" in terms else Fraction(1)
    return max([Fraction(1), *[price.factor(name) for name in terms if name != "us"]]) * region


def _dearest(rate: Rate, tokens: int) -> Fraction:
    return max([rate.base, *[tier for start, tier in rate.tiers if tokens > start]])


def _ceil(amount: Fraction) -> int:
    return -(-amount.numerator // amount.denominator)
