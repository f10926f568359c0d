"""What a request asks of budgets and limits, and what its bound is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.admission import (
    Identity,
    entries_for,
    limits_for,
    options_for,
    plan_for,
    priced,
    shared_limits,
    table_of,
)
from extproc.core.bound import IMAGE_TOKENS, UNKNOWN_CONTEXT, Bound, bound_of, need, option_of, output_of
from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.core.pricing import cost
from extproc.core.usage import Tokens
from extproc.money.amounts import Unit
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS
from tests.stage_kit import body, runtime

PRICES = """
backends:
  claude: {schema: anthropic, base_url: https://api.anthropic.com, location: cloud, api_key: k,
           models: {c: {usd_per_million_input: 3, usd_per_million_output: 15, context: 200000}}}
  gpt: {schema: openai, base_url: https://api.openai.com/v1, location: cloud, api_key: k,
        models: {g: {usd_per_million_input: 1.25, usd_per_million_output: 10}}}
  odd: {schema: openai, base_url: https://example.com/v1, location: cloud, api_key: k}
  qwen: {schema: openai, base_url: "http://127.0.0.1:11434/v1", location: local}
chains:
  cloud: [claude/c, gpt/g, qwen/q]
  dear: [claude/c, gpt/g]
  local: [qwen/q]
  odd: [odd/o, gpt/g]
  unknown: [odd/o]
"""
BUDGETS = """
budgets:
  - {for: {team: web}, usd: 10, per: month, time_zone: Europe/Berlin}
  - {for: {user: "*"}, tokens: 5000, per: day}
limits:
  - {for: {key: "*"}, requests: 60, per: minute}
  - {for: {team: web}, tokens: 40000, per: minute}
  - {for: {org: o}, concurrent: 8}
  - {for: {backend: claude}, tokens: 1000, per: minute, then: next}
"""
WEB = Identity("o", "web", "", "ann", "laptop")

PLAIN = Conversation("m", ())


def made(extra: str = BUDGETS) -> Runtime:
    """A gateway with prices, budgets and limits."""
    return runtime(extra, PRICES)


def bound(**fields: Any):
    """The bound of a chat request."""
    raw = body(**fields)
    return bound_of(CLIENTS["openai"].parse_request(raw), raw)


def test_an_accent_spelled_in_two_characters_is_the_same() -> None:
    """Keys of the store and tokens spell names in composed form; budgets, limits and keys of the file are read so, and a
    project that a client names."""
    rt = made("""
budgets: [{for: {team: "Cafe\\u0301"}, usd: 10, per: month}]
limits: [{for: {project: "Cafe\\u0301"}, requests: 60, per: minute}]
""")
    who = Identity("o", "Caf\u00e9", "Caf\u00e9")
    table = table_of(rt.config.budgets, rt.config.limits, 1)
    assert len(entries_for(table, who)) == 1
    assert len(limits_for(rt.config.limits, who, 10)) == 1


def test_budgets_of_an_identity() -> None:
    """A request counts against the budgets of its own team, user and org, each user apart."""
    config = made().config
    table = table_of(config.budgets, config.limits, 1)
    mine = entries_for(table, WEB)
    assert [entry.unit for entry in mine] == [Unit.USD, Unit.TOKENS, Unit.CONCURRENT]
    other = entries_for(table, Identity("o", "data", "", "bob", "x"))
    assert [entry.unit for entry in other] == [Unit.TOKENS, Unit.CONCURRENT]
    assert mine[1].id != other[0].id
    assert entries_for(table, Identity("o", "data")) == other[1:]


def test_ids_are_safe_for_any_name() -> None:
    """A budget's id has no sign that a store's key gives a meaning, whatever the team is called."""
    table = table_of(runtime("budgets: [{for: {team: 'Zoë {x}: 1'}, requests: 1, per: total}]").config.budgets, [], 1)
    [entry] = entries_for(table, Identity("o", "Zoë {x}: 1"))
    assert entry.at(0).limit == 1


def test_rate_limits_of_an_identity() -> None:
    """Rates take one request, or its tokens but never more than the burst: a long prompt still passes."""
    limits = limits_for(made().config.limits, WEB, 20_000)
    assert [(limit.limit, limit.burst, limit.cost) for limit in limits] == [(60, 12, 1), (40_000, 8_000, 8_000)]


def test_options_are_dearest_first_and_end_with_what_is_free() -> None:
    """The whole chain, then without its dearest backend, then the free one: so an empty budget still has an answer."""
    rt = made()
    options, chains = options_for(rt, rt.chains["cloud"], "m", bound(), 100)
    assert [[backend.id for backend in chain.backends] for chain in chains] == [
        ["claude/c", "gpt/g", "qwen/q"], ["gpt/g", "qwen/q"], ["qwen/q"]]
    costs = [option.nano_usd(option.want) for option in options]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0
    assert {(option.least, option.want) for option in options} == {(100, 100)}


def test_without_a_limit_of_its_own_a_request_takes_what_is_affordable() -> None:
    """A client that names no max_tokens is granted up to the model's default, at least 256."""
    rt = made()
    [option] = options_for(rt, rt.chains["local"], "m", bound(), None)[0]
    assert (option.least, option.want) == (256, 16384)


def test_clamping_is_allowed_by_configuration_only() -> None:
    """max_tokens that the client named may be lowered with money.clamp and not otherwise."""
    rt = made(BUDGETS + "money: {clamp: true}\n")
    [option] = options_for(rt, rt.chains["local"], "m", bound(), 4000)[0]
    assert (option.least, option.want) == (256, 4000)


def test_unknown_price_under_a_dollar_budget() -> None:
    """A backend without a price is left out where dollars are counted; with none left the request is refused."""
    rt = made()
    assert [b.id for b in priced(rt, rt.chains["odd"], "m", PLAIN, ()).backends] == ["gpt/g"]
    with pytest.raises(RequestError, match="price of odd/o is unknown"):
        priced(rt, rt.chains["unknown"], "m", PLAIN, ())
    allowed = made(BUDGETS + "money: {unknown_price: allow}\n")
    assert priced(allowed, allowed.chains["unknown"], "m", PLAIN, ()) is allowed.chains["unknown"]
    no_dollars = made("budgets: [{for: {team: web}, requests: 5, per: day}]\n")
    assert priced(no_dollars, no_dollars.chains["unknown"], "m", PLAIN, ()) is no_dollars.chains["unknown"]


def test_shared_limits_of_a_chain() -> None:
    """The limits of a backend are asked per backend of each option, with what a refusal there means."""
    rt = made()
    plan = plan_for(rt, WEB, rt.chains["cloud"], "m", bound(), 100, 500)
    first = plan.shared[0]
    assert [(shared.scope, len(shared.limits), shared.moves) for shared in first] == [
        ("be:claude", 1, True), ("be:gpt", 0, False), ("be:qwen", 0, False)]


@given(st.text(max_size=400), st.integers(0, 5000))
def test_the_bound_covers_any_honest_bill(text: str, output: int) -> None:
    """No prompt of so many bytes and so much output can cost more than what is reserved for it."""
    rt = made()
    raw = body(messages=[{"role": "user", "content": text}], max_tokens=output)
    conversation = CLIENTS["openai"].parse_request(raw)
    limit = bound_of(conversation, raw)
    for backend in rt.chains["dear"].backends:
        most = need(limit, backend, output, rt.price_of)
        real = cost(Tokens(input=len(text.encode()) + 50, output=output), backend.price)
        assert real is not None
        assert real <= most.nano_usd
        assert len(text.encode()) + 50 + output <= most.tokens


def test_what_is_not_in_the_body_fills_the_context() -> None:
    """An image by URL may be anything: the bound is the model's whole context, or a large one where it is unknown."""
    limit = bound(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]}])
    assert limit.input(200_000) == 200_000
    assert limit.input(None) == UNKNOWN_CONTEXT


def test_inline_images_count_by_formula_not_by_bytes() -> None:
    """A megabyte of image is not a million tokens."""
    data = "data:image/png;base64," + "A" * 1_000_000
    limit = bound(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data}}]}])
    assert IMAGE_TOKENS < limit.tokens < IMAGE_TOKENS + 4000


def test_server_tools_bill_several_passes() -> None:
    """A request whose tools run at the provider may be billed its context several times."""
    raw = msgspec.json.encode({
        "model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "web_search_20260209", "name": "web_search", "max_uses": 2}]})
    assert bound_of(CLIENTS["anthropic"].parse_request(raw), raw).input(200_000) == 600_000


def test_several_choices_multiply_the_output() -> None:
    """n answers cost n times the output."""
    rt = made()
    gpt = rt.backends["gpt/g"]
    one, two = need(bound(), gpt, 1000, rt.price_of), need(bound(n=2), gpt, 1000, rt.price_of)
    assert two.nano_usd - one.nano_usd >= 1000 * 10_000


@pytest.mark.parametrize(("each", "named"), [
    ("{key: '*'}", "{key: laptop}"), ("{team: '*'}", "{team: web}"), ("{backend: '*'}", "{backend: gpt}"),
    ("{model: '*'}", "{model: g}"),
])
def test_a_limit_for_each_and_one_that_names_the_caller(each: str, named: str) -> None:
    """Both apply, each with a count of its own: under one id the stricter would be counted by the other."""
    rt = made(f"limits: [{{for: {each}, requests: 60, per: minute}}, {{for: {named}, requests: 5, per: minute}}]")
    own, other = limits_for(rt.config.limits, WEB, 1), limits_for(rt.config.limits, Identity("o", "x", "", "", "y"), 1)
    if each.startswith(("{backend", "{model")):
        own = shared_limits(rt.config.limits, rt.backends["gpt/g"], 1).limits
        other = shared_limits(rt.config.limits, rt.backends["claude/c"], 1).limits
    assert [limit.limit for limit in own] == [60, 5]
    assert [limit.limit for limit in other] == [60]
    assert len({limit.id for limit in (*own, *other)}) == 3


def completion(**fields: Any) -> Bound:
    """The bound of a text completion."""
    raw = msgspec.json.encode({"model": "m", "prompt": "go on", "max_tokens": 100, **fields})
    return bound_of(CLIENTS["completions"].parse_request(raw), raw)


@pytest.mark.parametrize(("fields", "answers"), [
    ({}, 1), ({"n": 2}, 2), ({"best_of": 5}, 5), ({"n": 2, "best_of": 5}, 5), ({"n": 3, "best_of": 1}, 3),
    ({"prompt": ["a", "b", "c"]}, 3), ({"prompt": ["a", "b"], "n": 2, "best_of": 4}, 8), ({"prompt": [1, 2, 3]}, 1),
    ({"prompt": [[1, 2], [3]]}, 2), ({"best_of": -7}, 1), ({"n": None, "best_of": None}, 1),
])
def test_every_answer_that_is_made_counts(fields: dict[str, Any], answers: int) -> None:
    """Of several prompts each is answered n times, and best_of answers are made and billed whoever sees them."""
    assert completion(**fields).choices == answers


@pytest.mark.parametrize("fields", [{"n": 2}, {"best_of": 3}, {"echo": True}, {"logprobs": 2}, {"prompt": ["a", "b"]},
                                    {"prompt": [1, 2]}])
def test_what_a_completion_asks_for_brings_nothing_in(fields: dict[str, Any]) -> None:
    """A setting that only some backends know is no reason to expect a whole context of input."""
    assert completion(**fields).passes == 0


def test_a_prediction_may_be_rejected() -> None:
    """The tokens of a rejected prediction are billed as output beside max_tokens: they are reserved too."""
    rt = made()
    gpt, text = rt.backends["gpt/g"], "the code " * 500
    plain, guessed = bound(), bound(prediction={"type": "content", "content": text})
    assert guessed.predicted >= len(text)
    more = need(guessed, gpt, 100, rt.price_of).nano_usd - need(plain, gpt, 100, rt.price_of).nano_usd
    assert more >= len(text) * 10_000  # $10 per million


@pytest.mark.parametrize("fields", [
    {"max_tokens": 2**53}, {"max_tokens": 2**62}, {"n": 2**40, "max_tokens": 2**20}, {"n": 2**62, "max_tokens": 1},
])
def test_more_than_can_be_counted(fields: dict[str, Any]) -> None:
    """A request whose cost would not be an exact number is refused as the client's, in every part of a plan."""
    rt = made()
    raw = body(**fields)
    conversation = CLIENTS["openai"].parse_request(raw)
    limit = bound_of(conversation, raw)
    for chain in ("dear", "cloud", "local"):
        with pytest.raises(RequestError, match="more than can be counted"):
            plan_for(rt, WEB, rt.chains[chain], "m", limit, output_of(conversation), 10)
    with pytest.raises(RequestError):
        option_of(limit, rt.chains["local"].backends, 1, conversation.max_tokens or 0, rt.price_of)


@pytest.mark.parametrize(("schema", "fields", "output"), [
    ("openai", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}, 7),
    ("openai", {"messages": [{"role": "user", "content": "hi"}]}, None),
    ("completions", {"prompt": "hi", "max_tokens": 7}, 7),
    ("embeddings", {"input": "hi"}, 0),
    ("count_tokens", {"messages": [{"role": "user", "content": "hi"}]}, 0),
])
def test_output_is_reserved_where_there_is_some(schema: str, fields: dict[str, Any], output: int | None) -> None:
    """Embeddings and counts of tokens have no output; a chat that names none takes what is affordable."""
    raw = msgspec.json.encode({"model": "m", **fields})
    conversation = CLIENTS[schema].parse_request(raw)
    assert output_of(conversation) == output
    limit = bound_of(conversation, raw)
    assert (limit.tokens == 0) == (schema == "count_tokens")
