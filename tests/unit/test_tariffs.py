"""Prices beside those of tokens: tiers, regions, searches, passes of other models, what gateway.yaml says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import pytest

from extproc.config import ModelConfig
from extproc.core.bound import Bound, bound_of, need
from extproc.core.conversation import UsageReport
from extproc.core.pricing import FREE, Price, Rate, cost
from extproc.core.tariffs import configured, factors
from extproc.core.usage import Pass, Terms, Tokens, with_passes
from extproc.prices import catalogue
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import Target
from extproc.wire.sse import SseDecoder
from tests.stage_kit import runtime

LISTED = Price(Rate(Fraction(1000)), Rate(Fraction(10_000)), Rate(Fraction(100)), search=Fraction(10**7),
               factors=(("priority", Fraction(2)), ("flex", Fraction(1, 2)), ("us", Fraction(11, 10))))
TOKENS = Tokens(input=10, output=10)  # 110,000 n$ at these prices
CHEAP, DEAR = Price(Rate(Fraction(1)), Rate(Fraction(2))), Price(Rate(Fraction(5)), Rate(Fraction(9)))
YAML = """\
backends:
  claude: {schema: anthropic, base_url: "https://a.example", api_key: k, location: cloud, models: {
    small: {context: 1000, usd_per_million_input: 1, usd_per_million_output: 5, usd_per_thousand_searches: 10,
            factors: {fast: 2, us: 1.1, auto: 3}},
    large: {context: 1000, usd_per_million_input: 10, usd_per_million_output: 50}}}
chains: {cloud: [claude/small], local: [claude/small]}
"""


@pytest.mark.parametrize(("terms", "nano"), [
    (Terms(), 110_000), (Terms("priority"), 220_000), (Terms("flex"), 55_000), (Terms("on_demand"), 110_000),
    (Terms(region="us"), 121_000), (Terms("priority", "us"), 242_000), (Terms("priority", None, 2), 20_220_000),
    (Terms(searches=0), 110_000),
])
def test_tiers_regions_and_searches(terms: Terms, nano: int) -> None:
    """A tier and a region multiply the price of tokens, a search has a fee of its own; an unknown name changes nothing."""
    assert cost(TOKENS, LISTED, terms) == nano


def test_passes_of_other_models() -> None:
    """What another model did in between is billed at its own price, and all is rounded up once."""
    terms = Terms(passes=(Pass("dear", Tokens(input=3, output=1)), Pass(None, Tokens(input=1, output=1))))
    assert cost(Tokens(input=1, output=0), CHEAP, terms, lambda model: DEAR if model == "dear" else None) == 1 + 24 + 3
    assert cost(Tokens(input=1, output=0), CHEAP, terms) == 1 + 5 + 3
    assert with_passes(Tokens(input=1, output=0), terms) == (5, 2)


@pytest.mark.parametrize(("usage", "terms"), [
    ({"service_tier": "standard", "inference_geo": "global"}, Terms()),
    ({"service_tier": "batch"}, Terms("batch")),
    ({"service_tier": "standard", "speed": "fast"}, Terms("fast")),
    ({"speed": "standard", "inference_geo": "us"}, Terms(region="us")),
    ({"server_tool_use": {"web_search_requests": 2}}, Terms(searches=2)),
    ({"iterations": [{"type": "message", "input_tokens": 1, "output_tokens": 5}]}, Terms()),
    ({"iterations": [{"type": "message", "output_tokens": 5}, {"type": "advisor_message", "model": "m", "input_tokens": 7,
                                                              "output_tokens": 2}]},
     Terms(passes=(Pass("m", Tokens(input=7, output=2)),))),
    ({"iterations": [{"type": "message", "output_tokens": 3}, {"type": "compaction", "output_tokens": 2}]}, Terms()),
    ({"iterations": "x", "service_tier": 5, "speed": None}, Terms()),
])
def test_what_anthropic_reports(usage: dict[str, Any], terms: Terms) -> None:
    """Speed, tier, region, searches and iterations are read, whole or streamed; what the counters hold is not told twice."""
    whole = {"type": "message", "content": [], "stop_reason": "end_turn",
             "usage": {"input_tokens": 1, "output_tokens": 5, **usage}}
    [report] = [e for e in PROVIDERS["anthropic"].parse_response(msgspec.json.encode(whole))
                if isinstance(e, UsageReport)]
    assert report == UsageReport(Tokens(input=1, output=5), terms)
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": whole["usage"]}
    assert last_report("anthropic", b"event: message_delta\ndata: " + msgspec.json.encode(delta) + b"\n\n") == report


def last_report(schema: str, stream: bytes) -> UsageReport:
    """The last usage that a stream tells."""
    parser = PROVIDERS[schema].stream_parser()
    events = [e for sse in SseDecoder().feed(stream) for e in parser.feed(sse)]
    return [e for e in events if isinstance(e, UsageReport)][-1]


@pytest.mark.parametrize(("fields", "terms"), [
    ({}, Terms()), ({"service_tier": "default"}, Terms()), ({"service_tier": "priority"}, Terms("priority")),
    ({"model": "gpt-5-search-api"}, Terms(searches=1)), ({"service_tier": ["x"]}, Terms()),
])
def test_what_chat_completions_report(fields: dict[str, Any], terms: Terms) -> None:
    """The tier that served is read from the answer, and search models search once."""
    usage = {"prompt_tokens": 1, "completion_tokens": 5}
    whole = {"id": "c", "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    [report] = [e for e in PROVIDERS["openai"].parse_response(msgspec.json.encode(whole | fields))
                if isinstance(e, UsageReport)]
    assert report.terms == terms
    chunk = msgspec.json.encode({"id": "c", "choices": [], "usage": usage} | fields)
    assert last_report("openai", b"data: " + chunk + b"\n\n") == report


@pytest.mark.parametrize(("output", "searches"), [
    ([], None), ([{"type": "message", "content": []}], None),
    ([{"type": "web_search_call", "action": {"type": "search"}}, {"type": "web_search_call"},
      {"type": "web_search_call", "action": {"type": "open_page"}}], 2),
])
def test_what_responses_report(output: list[Any], searches: int | None) -> None:
    """Searches are counted, pages that are opened are not; the tier is read."""
    response = {"id": "r", "status": "completed", "output": output, "service_tier": "flex",
                "usage": {"input_tokens": 1, "output_tokens": 5}}
    [report] = [e for e in PROVIDERS["responses"].parse_response(msgspec.json.encode(response))
                if isinstance(e, UsageReport)]
    assert report.terms == Terms("flex", None, searches)
    event = msgspec.json.encode({"type": "response.completed", "response": response})
    assert last_report("responses", b"data: " + event + b"\n\n") == report


@pytest.mark.parametrize(("provider", "model", "name", "factor"), [
    ("openai", "gpt-5-mini", "priority", Fraction(9, 5)), ("openai", "gpt-5", "priority", 2),
    ("openai", "gpt-5.5", "priority", Fraction(5, 2)), ("openai", "gpt-9", "priority", Fraction(5, 2)),
    ("openai", "gpt-4o-mini", "flex", Fraction(1, 2)), ("anthropic", "claude-opus-4-6", "fast", 6),
    ("anthropic", "claude-opus-5", "fast", 2), ("anthropic", "claude-opus-5", "us", Fraction(11, 10)),
    ("groq", "x", "flex", 1), (None, "x", "priority", 1),
])
def test_published_factors(provider: str | None, model: str, name: str, factor: Fraction | int) -> None:
    """What providers publish beside their price lists; of a model that is not published the dearest known."""
    assert msgspec.structs.replace(FREE, factors=factors(provider, model)).factor(name) == factor


def test_the_catalogue_has_searches() -> None:
    """A search at Anthropic costs a cent."""
    price, _ = catalogue("anthropic", "claude-opus-5", "2026-11-01")
    assert price is not None
    assert price.search == 10**7


@pytest.mark.parametrize(("fields", "tokens", "nano"), [
    ({}, TOKENS, 110_000),
    ({"usd_per_million_cache_read": 0.5}, Tokens(input=0, cache_read=10, output=0), 5_000),
    ({"usd_per_million_output": 1}, TOKENS, 20_000),
    ({"usd_per_million_input": 2, "usd_per_million_output": 3}, Tokens(input=0, cache_read=10, output=0), 20_000),
    ({"usd_per_million_input": 2, "usd_per_million_output": 3, "usd_per_million_cache_write": 4},
     Tokens(input=0, cache_write_1h=10, output=0), 40_000),
    ({"usd_per_million_cache_write_1h": 7}, Tokens(input=0, cache_write_1h=10, output=0), 70_000),
    ({"usd_per_hour": 0.15, "output_tokens_per_second": 40}, Tokens(input=9, output=10), 10_417),
])
def test_prices_of_ones_own(fields: dict[str, Any], tokens: Tokens, nano: int) -> None:
    """What gateway.yaml gives counts, the rest is as listed; a machine's hours are spread over its output."""
    assert cost(tokens, configured(ModelConfig.model_validate(fields), LISTED)) == nano


def test_a_price_of_ones_own_alone() -> None:
    """Half a price of a model that nobody lists is no price; factors and searches may be given alone."""
    assert configured(ModelConfig.model_validate({"usd_per_million_input": 1}), None) is None
    own = configured(ModelConfig.model_validate({"factors": {"priority": 1.5}, "usd_per_thousand_searches": 25}), LISTED)
    assert cost(TOKENS, own, Terms("priority", None, 1)) == 165_000 + 25 * 10**6
    assert own is not None
    assert own.factor("flex") == Fraction(1, 2)


@pytest.mark.parametrize("fields", [
    {"usd_per_hour": 1}, {"output_tokens_per_second": 1}, {"factors": {"x": -1}}, {"usd_per_thousand_searches": -1},
    {"usd_per_hour": 1, "output_tokens_per_second": 1, "usd_per_million_output": 1},
    {"usd_per_hour": 1, "output_tokens_per_second": 0},
])
def test_prices_that_make_no_sense(fields: dict[str, Any]) -> None:
    """Half an hourly price, two prices for one thing, and negative amounts are refused."""
    with pytest.raises(ValueError, match="ModelConfig"):
        ModelConfig.model_validate(fields)


def asks(schema: str = "anthropic", **fields: Any) -> Bound:
    """The bound of a request."""
    given = {"input": "hi"} if schema == "responses" else {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    raw = msgspec.json.encode({"model": "m", **given, **fields})
    return bound_of(CLIENTS[schema].parse_request(raw), raw)


SEARCH = {"type": "web_search_20260209", "name": "web_search"}
HOSTED = {"type": "shell", "environment": {"type": "container_auto"}}


@pytest.mark.parametrize(("found", "passes", "searches"), [
    (asks(tools=[SEARCH]), 6, 5), (asks(tools=[SEARCH | {"max_uses": 2}]), 3, 2),
    (asks(tools=[SEARCH | {"max_uses": 2}, {"type": "code_execution_20250825", "name": "code_execution"}]), 8, 2),
    (asks(tools=[{"type": "bash_20250124", "name": "bash"}, {"type": "memory_20250818", "name": "memory"}]), 0, 0),
    (asks(tools=[SEARCH | {"max_uses": -1}]), 6, 5), (asks(tools=[SEARCH | {"max_uses": True}]), 6, 5),
    (asks("responses", tools=[{"type": "web_search"}]), 6, 5),
    (asks("responses", tools=[{"type": "web_search"}], max_tool_calls=20), 21, 20),
    (asks("responses", tools=[{"type": "code_interpreter"}], max_tool_calls=2), 3, 0),
    (asks("responses", tools=[{"type": "local_shell"}, {"type": "apply_patch"}, {"type": "shell"}], max_tool_calls=2), 0, 0),
    (asks("responses", tools=[HOSTED]), 6, 0),
    (asks("responses", max_tool_calls=9), 0, 0),
])
def test_tools_that_the_provider_runs(found: Bound, passes: int, searches: int) -> None:
    """Each use is one more pass over the context, a search a fee; tools that the client runs cost nothing more."""
    assert (found.passes, found.searches) == (passes, searches)


def nano(found: Bound, output: int = 10) -> int:
    """The most that a request can cost at the small model."""
    rt = runtime("", YAML)
    return need(found, rt.backends["claude/small"], output, rt.price_of).nano_usd


def test_the_dearest_tier_is_reserved() -> None:
    """A tier or a region that a request can be served in raises what is reserved for it; flex lowers nothing."""
    plain = nano(asks())
    auto = 3  # configured: requests of this account are served in a dearer tier unless they say otherwise
    tokens = asks().tokens
    assert plain == (tokens * 1000 + 10 * 5000) * auto
    assert nano(asks(service_tier="standard_only")) == asks(service_tier="standard_only").tokens * 1000 + 10 * 5000
    assert nano(asks(inference_geo="us")) > plain
    assert nano(msgspec.structs.replace(asks(), terms=("fast",))) == (tokens * 1000 + 10 * 5000) * 2
    assert nano(msgspec.structs.replace(asks(), terms=())) == tokens * 1000 + 10 * 5000
    searching = msgspec.structs.replace(asks(tools=[SEARCH | {"max_uses": 2}]), terms=())
    assert nano(searching) == 3 * 1000 * 1000 + 10 * 5000 + 2 * 10**7


def test_the_advisors_price_is_reserved() -> None:
    """A tool that asks another model is reserved at the dearer of both, with output in each pass."""
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": "large", "max_uses": 1}
    found = msgspec.structs.replace(asks(tools=[advisor]), terms=())
    assert found.models == ("large",)
    assert nano(found) == 2 * 1000 * 10_000 + 2 * 10 * 50_000


def test_the_maximum_that_was_paid_for_is_sent() -> None:
    """Tools of Anthropic's servers without a maximum get the one that was reserved; a maximum of the client's stays."""
    raw = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": [], "tools": [
        SEARCH, SEARCH | {"max_uses": 2}, {"name": "f", "input_schema": {}}]})
    paid = msgspec.json.decode(PROVIDERS["anthropic"].patch_request(raw, Target("m", granted=9, server_uses=5)))
    assert [tool.get("max_uses") for tool in paid["tools"]] == [5, 2, None]
    assert b"max_uses\":5" not in PROVIDERS["anthropic"].patch_request(raw, Target("m"))


@pytest.mark.parametrize(("fields", "sent"), [
    ({"tools": [{"type": "web_search"}]}, 5), ({"tools": [{"type": "web_search"}], "max_tool_calls": 2}, 2),
    ({"tools": [{"type": "function", "name": "f"}]}, None), ({}, None), ({"tools": None}, None),
])
def test_the_maximum_of_responses(fields: dict[str, Any], sent: int | None) -> None:
    """A Responses request has one maximum for all tools that OpenAI runs."""
    raw = msgspec.json.encode({"model": "m", "input": "hi", **fields})
    paid = msgspec.json.decode(PROVIDERS["responses"].patch_request(raw, Target("m", granted=9, server_uses=5)))
    assert paid.get("max_tool_calls") == sent
