"""The cost of every recorded answer, computed a second way: decimals, from the provider's own usage object."""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest

from extproc.core.conversation import UsageReport
from extproc.core.pricing import Price, Rate, cost, per_million
from extproc.core.usage import Terms, Tokens
from extproc.schemas import PROVIDERS
from extproc.wire.sse import SseDecoder
from tests.recordings import Recording, recordings

SEARCH, OTHER = Decimal("0.0123456789"), {"flex": Decimal("0.5"), "batch": Decimal("0.37")}
"""Dollars of a search, and what tiers multiply."""
ADVISOR = Price(Rate(per_million("5.5")), Rate(per_million("27.25")))
USD = {"input": "0.27", "output": "1.103", "read": "0.003625", "write_5m": "0.3375", "write_1h": "0.54"}
"""Dollars per million, chosen so that no price is a whole number of nano-dollars."""
PRICE = Price(*[Rate(per_million(USD[name])) for name in ("input", "output", "read", "write_5m", "write_1h")],
              search=per_million(str(SEARCH)) * 10**6, factors=tuple((name, Fraction(x)) for name, x in OTHER.items()))
ANSWERED = [one for schema in ("openai", "anthropic", "responses", "completions") for one in recordings(schema)
            if one.status == 200 and one.body]


def reported(recording: Recording) -> tuple[Tokens, Terms]:
    """The usage as the codec reads it."""
    provider, tokens, terms = PROVIDERS[recording.schema], Tokens(), Terms()
    if recording.is_stream:
        parser = provider.stream_parser()
        events = [e for sse in SseDecoder().feed(recording.body) if sse.data for e in parser.feed(sse)]
    else:
        events = list(provider.parse_response(recording.body))
    for event in events:
        if isinstance(event, UsageReport):
            tokens, terms = tokens.merged(event.tokens), terms.merged(event.terms)
    return tokens, terms


def objects(recording: Recording) -> list[dict[str, Any]]:
    """Every usage object of the answer, in order, with what stands beside it."""
    lines = recording.body.decode().split("\n")
    texts = [line[5:] for line in lines if line.startswith("data:")] if recording.is_stream else [recording.body.decode()]
    found: list[dict[str, Any]] = []
    for text in texts:
        if not text.strip().startswith("{"):
            continue
        value = json.loads(text)
        for holder in (value, value.get("message"), value.get("response")):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                beside = {"service_tier": holder["service_tier"]} if "service_tier" in holder else {}
                calls = [item for item in holder.get("output") or [] if item.get("type") == "web_search_call"]
                always = recording.schema == "openai" and "-search-" in holder["model"]
                found.append(holder["usage"] | beside | {"calls": calls, "always": always})
    return found


def by_hand(recording: Recording) -> int | None:
    """Nano-dollars from the last value of each field, the provider's way; None without usage."""
    last: dict[str, Any] = {}
    for usage in objects(recording):
        last |= {name: value for name, value in usage.items() if value is not None}
    if not last:
        return None
    if recording.schema == "anthropic":
        made = last.get("cache_creation") or {}
        hour = made.get("ephemeral_1h_input_tokens") or 0
        parts = {"input": last["input_tokens"], "read": last.get("cache_read_input_tokens") or 0, "write_1h": hour,
                 "write_5m": (last.get("cache_creation_input_tokens") or 0) - hour, "output": last["output_tokens"]}
    else:
        asked, said = ("input", "output") if recording.schema == "responses" else ("prompt", "completion")
        details = last.get(f"{asked}_tokens_details") or {}
        read = details.get("cached_tokens")
        read = last.get("prompt_cache_hit_tokens") or 0 if read is None else read
        written = details.get("cache_write_tokens") or 0
        parts = {"input": last[f"{asked}_tokens"] - read - written, "read": read, "write_5m": written,
                 "output": last[f"{said}_tokens"]}
    with localcontext(prec=60):
        factor = OTHER.get(last.get("service_tier") or "", Decimal(1))
        exact = factor * sum(Decimal(USD[name]) * 1000 * count for name, count in parts.items())
        exact += SEARCH * 10**9 * searches_of(last)
        for one in last.get("iterations") or []:
            if one["type"] != "message":  # no recording has cached tokens here
                assert one["model"]
                exact += factor * (Decimal("5.5") * one["input_tokens"] + Decimal("27.25") * one["output_tokens"]) * 1000
        return int(exact.to_integral_value(ROUND_CEILING))


def searches_of(usage: dict[str, Any]) -> int:
    """Searches by Anthropic's counter, by the calls in OpenAI's output, or one where the model always searches."""
    counted = (usage.get("server_tool_use") or {}).get("web_search_requests") or 0
    return counted + usage["always"] + sum((call.get("action") or {}).get("type", "search") == "search" for call in usage["calls"])


@pytest.mark.parametrize("recording", ANSWERED, ids=lambda one: one.name)
def test_cost_of_a_recording(recording: Recording) -> None:
    """Integer fractions and decimals agree to the nano-dollar; an answer without usage has no cost."""
    tokens, terms = reported(recording)
    assert cost(tokens, PRICE, terms, lambda _model: ADVISOR) == by_hand(recording)


def test_most_recordings_have_usage() -> None:
    """The test above compares numbers, not absences."""
    assert sum(by_hand(one) is not None for one in ANSWERED) > 100
    usages = [usage for one in ANSWERED for usage in objects(one)]
    assert sum(searches_of(usage) for usage in usages) > 2
    assert any(usage.get("service_tier") == "flex" for usage in usages)
    assert any(one["type"] != "message" for usage in usages for one in usage.get("iterations") or [])
