"""Budgets and rate limits through the real data plane: nothing is overspent, and every refusal says what helps."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from extproc.config import changed_at
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.tables import decode
from tests.data_plane import upstream as up
from tests.data_plane.conftest import running

TEAMS = ("web", "data", "free", "rate", "one", "tight", "burst", "shared", "soft", "rich")
CONFIG = """\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: 2
redis: {store}
auth: {{mode: keys, keys: [{keys}]}}
backends:
  oa0: {{schema: openai, dialect: openai, base_url: "http://127.0.0.1:{up}/oa0/v1", api_key: sk-0, location: cloud,
         models: {{m: {{usd_per_million_input: 1000, usd_per_million_output: 1000}}}}}}
  oa1: {{schema: openai, dialect: openai, base_url: "http://127.0.0.1:{up}/oa1/v1", api_key: sk-1, location: cloud,
         models: {{m: {{usd_per_million_input: 1000, usd_per_million_output: 1000}}}}}}
  an0: {{schema: anthropic, base_url: "http://127.0.0.1:{up}/an0", api_key: sk-a, location: cloud,
         models: {{claude-x: {{usd_per_million_input: 1000, usd_per_million_output: 1000, context: 20000,
                             usd_per_thousand_searches: 10}},
                  claude-y: {{usd_per_million_input: 2000, usd_per_million_output: 2000}}}}}}
  oa2: {{schema: openai, dialect: openai, base_url: "http://127.0.0.1:{up}/oa2/v1", api_key: sk-2, location: cloud,
         models: {{gpt-5: {{usd_per_million_input: 1000, usd_per_million_output: 1000, factors: {{priority: 2.5}}}}}}}}
  odd: {{schema: openai, dialect: openai, base_url: "http://127.0.0.1:{up}/odd/v1", api_key: sk-2, location: cloud}}
  lo0: {{schema: openai, dialect: compatible, base_url: "http://127.0.0.1:{up}/lo0/v1", location: local}}
chains:
  cloud: [oa0/m]
  pair: [oa0/m, oa1/m]
  claude: [an0/claude-x]
  tiers: [oa2/gpt-5]
  mixed: [oa0/m, lo0/q]
  local: [lo0/q]
  odd: [odd/m]
budgets:
  - {{for: {{team: web}}, usd: 10, per: total}}
  - {{for: {{team: data}}, tokens: 9000, per: month}}
  - {{for: {{team: free}}, usd: 0, per: day}}
  - {{for: {{team: one}}, requests: 1, per: total}}
  - {{for: {{team: tight}}, usd: 3, per: total}}
  - {{for: {{team: burst}}, usd: 30, per: total}}
  - {{for: {{team: soft}}, usd: 20, per: total}}
  - {{for: {{team: rich}}, usd: 1000, per: total}}
limits:
  - {{for: {{team: rate}}, requests: 10, per: minute, burst: 2}}
  - {{for: {{backend: oa1}}, requests: 60, per: hour, burst: 1, then: next}}
"""
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
"""Costs $1.10 at the prices above; its bound of some 1,800 tokens of input and 100 of output costs about $1.90."""


def secret(team: str) -> str:
    """The gateway key of a team."""
    return f"gw-{team}"


@pytest.fixture(scope="module")
def shop(_upstream):
    """A gateway with a key and budgets for each team."""
    keys = ", ".join(
        f'{{{{name: {t}, team: {t}, sha256: "{hashlib.sha256(secret(t).encode()).hexdigest()}"}}}}' for t in TEAMS)
    with running(_upstream, template=CONFIG.replace("{keys}", keys)) as plane:
        yield plane


@pytest.fixture
def plane(shop):
    """The shop with fresh scripts."""
    shop.upstream.reset()
    yield shop
    shop.upstream.reset()


def answer(**usage):
    """A provider's answer with this usage."""
    script = up.openai_json()
    body = json.loads(script.chunks[0])
    return replace(script, chunks=[json.dumps({**body, "usage": {**USAGE, **usage}}).encode()])


def ask(plane, team, model="cloud", *, max_tokens=100, **more):
    """A request of a team."""
    return plane.chat(model, headers={"authorization": f"Bearer {secret(team)}"},
                      **({"max_completion_tokens": max_tokens} if max_tokens else {}), **more)


def audit(plane):
    """All windows of the ledger."""
    async def read():
        ledger = RedisTreasury(plane.store)
        try:
            return await ledger.audit("default")
        finally:
            await ledger.close()

    return asyncio.run(read())


def test_spend_is_counted_and_told(plane):
    """A request's cost leaves its team's budget, exactly, and the answer says what is left."""
    plane.upstream.always["oa0"] = answer()
    first, second = ask(plane, "web"), ask(plane, "web")
    assert (first.status, second.status) == (200, 200)
    assert first.headers["x-extproc-cost-usd"] == "1.100000000"
    left = [float(a.headers["x-extproc-budget-remaining-usd"]) for a in (first, second)]
    assert left[0] - left[1] == pytest.approx(1.1)
    plane.record(second)
    [window] = [w for w in audit(plane).windows if w.spent == 2_200_000_000]
    assert (window.reserved, window.debt, window.limit) == (0, 0, 10_000_000_000)


def test_a_spent_budget_refuses_in_the_clients_shape(plane):
    """With nothing left the client gets a 429 that says so, which it must not retry; nothing reaches a provider."""
    openai = ask(plane, "free")
    anthropic = plane.message("claude", headers={"x-api-key": secret("free"), "anthropic-version": "2023-06-01"})
    assert (openai.status, anthropic.status) == (429, 429)
    assert openai.headers["x-should-retry"] == anthropic.headers["x-should-retry"] == "false"
    assert "team spend limit reached: $0" in openai.json["error"]["message"]
    assert "resets" in anthropic.json["error"]["message"] or "day" in anthropic.json["error"]["message"]
    assert anthropic.json["type"] == "error"
    assert plane.upstream.seen == []


def test_an_empty_budget_falls_to_the_free_backend(plane):
    """A chain with a backend that costs nothing goes on there when there is no money for the others."""
    plane.upstream.always["lo0"] = up.openai_json()
    got = ask(plane, "free", "mixed")
    assert (got.status, got.headers["x-extproc-backend"]) == (200, "lo0")


def test_a_request_budget_counts_requests(plane):
    """A budget of one request admits one."""
    plane.upstream.always["lo0"] = up.openai_json()
    assert [ask(plane, "one", "local").status for _ in range(3)] == [200, 429, 429]


def test_max_tokens_is_what_is_affordable(plane):
    """A client that names no limit is sent on with the tokens that its budget covers, and no more is billed."""
    plane.upstream.always["oa0"] = answer()
    got = ask(plane, "tight", max_tokens=None)
    assert got.status == 200
    sent = plane.upstream.seen[0].json["max_completion_tokens"]
    assert 256 <= sent < 3000


def test_a_named_limit_is_not_lowered(plane):
    """A client that names more output than there is money for is refused: nothing is cut without configuration."""
    got = ask(plane, "tight", max_tokens=100_000)
    assert got.status == 429
    assert "this request may need" in got.json["error"]["message"]
    assert plane.upstream.seen == []


def test_unknown_price_is_refused_under_a_dollar_budget(plane):
    """A model whose price nobody knows is not asked when dollars are counted."""
    got = ask(plane, "web", "odd")
    assert got.status == 429
    assert "price of odd/m is unknown" in got.json["error"]["message"]


def test_rate_limit_headers_and_retry_after(plane):
    """A rate limit tells what remains in the client's own words, and a refusal when to come back."""
    plane.upstream.always["lo0"] = up.openai_json()
    got = [ask(plane, "rate", "local") for _ in range(3)]
    assert [a.status for a in got] == [200, 200, 429]
    assert got[0].headers["x-ratelimit-limit-requests"] == "10"
    assert got[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert 1 <= int(got[2].headers["retry-after"]) <= 6
    assert got[2].headers["x-should-retry"] == "true"
    assert "10 requests per minute" in got[2].json["error"]["message"]


def test_a_backends_limit_moves_to_the_next(plane):
    """Where a backend's own limit is reached and says next, the following backend serves; its order stays."""
    plane.upstream.always |= {"oa0": answer(), "oa1": answer()}
    got = [plane.chat("oa1/m", headers={"authorization": f"Bearer {secret('shared')}"}) for _ in range(2)]
    assert [a.status for a in got] == [200, 429]
    assert "backend rate limit reached" in got[1].json["error"]["message"]


def test_parallel_requests_never_overspend(plane):
    """Many at once: what is spent and reserved stays below the limit at every moment, and at the end nothing is held."""
    plane.upstream.always["oa0"] = answer()
    plane.upstream.always["oa0"].first_pause = 0.02
    with ThreadPoolExecutor(24) as pool:
        got = list(pool.map(lambda _: ask(plane, "burst"), range(60)))
    done = [a for a in got if a.status == 200]
    assert {a.status for a in got} == {200, 429}
    assert 15 <= len(done) <= 27
    plane.record(done[-1])
    [window] = [w for w in audit(plane).windows if w.limit == 30_000_000_000]
    assert (window.spent, window.reserved, window.debt) == (len(done) * 1_100_000_000, 0, 0)


def test_a_stream_that_is_left_is_settled(plane):
    """A stream that breaks off is charged for what passed and the prompt; the rest of its reservation is given back."""
    plane.upstream.script("oa0", up.openai_sse("a", "b", usage=False, done=False))
    got = ask(plane, "soft", stream=True)
    assert got.status == 200
    assert b"ended early" in got.body
    plane.record(got)
    [window] = [w for w in audit(plane).windows if w.limit == 20_000_000_000]
    assert window.reserved == 0
    assert 0 < window.spent < 3_000_000_000


def test_budgets_are_as_old_as_their_file(plane):
    """A gateway that is started anew with an older file does not put its budgets in force over newer ones."""
    plane.upstream.always["oa0"] = answer()
    assert ask(plane, "web").status == 200

    async def read():
        ledger = RedisTreasury(plane.store)
        try:
            return (await ledger.table("default"))[1]
        finally:
            await ledger.close()

    assert decode(asyncio.run(read())).generation == changed_at(plane.config)


def test_stranger_is_refused(plane):
    """A key that nobody made gets a 401 in the client's shape."""
    got = plane.chat("cloud", headers={"authorization": "Bearer gw-nobody"})
    assert (got.status, got.json["error"]["code"]) == (401, "invalid_api_key")


def test_searches_and_advisors_are_paid(plane):
    """A search of the provider's has a fee, a model asked in between its own price; the number that was reserved is sent."""
    usage = {"input_tokens": 1000, "output_tokens": 100, "server_tool_use": {"web_search_requests": 2}, "iterations": [
        {"type": "message", "input_tokens": 1000, "output_tokens": 100},
        {"type": "advisor_message", "model": "claude-y", "input_tokens": 10, "output_tokens": 5}]}
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "ok"}], "usage": usage}
    plane.upstream.always["an0"] = up.Script(
        headers={"content-type": "application/json"}, chunks=[json.dumps(body).encode()])
    told = plane.message("claude", headers={"authorization": f"Bearer {secret('rich')}"},
                         tools=[{"type": "web_search_20260209", "name": "web_search"}])
    assert told.status == 200, told.text
    assert told.headers["x-extproc-cost-usd"] == "1.150000000"  # 1.1 and two searches of a cent and 15 tokens at 2,000
    assert plane.upstream.seen[-1].json["tools"] == [
        {"type": "web_search_20260209", "name": "web_search", "max_uses": 5}]
    [attempt] = plane.record(told).attempts
    assert (attempt.cost_nano_usd, attempt.web_searches) == (1_150_000_000, 2)
    assert plane.record(told).delta_tokens == 1115


@pytest.mark.parametrize(("tier", "cost"), [("priority", "2.750000000"), ("default", "1.100000000")])
def test_the_tier_that_served_is_paid(plane, tier, cost):
    """The provider's word on the tier decides the price, whatever was asked for; what was reserved covers the dearest."""
    script = answer()
    body = json.loads(script.chunks[0]) | {"service_tier": tier}
    plane.upstream.always["oa2"] = replace(script, chunks=[json.dumps(body).encode()])
    told = ask(plane, "rich", "tiers", service_tier="priority")
    assert told.status == 200, told.text
    assert told.headers["x-extproc-cost-usd"] == cost
    record = plane.record(told)
    assert record.attempts[0].service_tier == ("" if tier == "default" else tier)
    assert record.unfunded_nano_usd == 0


def test_an_aborted_request_that_reasons_out_of_sight(plane):
    """A client that leaves while a model reasons unseen is charged by the time that took, not for the little it saw."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5",
             "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    plane.upstream.always["oa2"] = up.Script(headers={"content-type": "text/event-stream"},
                                             chunks=[f"data: {json.dumps(chunk)}\n\n".encode()], fault="hang")
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=10)
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps({
        "model": "tiers", "stream": True, "max_completion_tokens": 4000, "messages": [{"role": "user", "content": "hi"}]}),
        {"authorization": f"Bearer {secret('rich')}", "content-type": "application/json"})
    response = connection.getresponse()
    rid = response.getheader("x-extproc-request-id")
    assert response.read(10)
    time.sleep(2)
    connection.close()
    took = time.monotonic() - began
    [record] = [r for r in plane.records(rid, wait=10) if r.admission.request_id == rid]
    assert 2 * 500 <= record.attempts[0].tokens.output <= min((took + 2) * 500, 4000)
    assert record.delta_nano_usd >= 1000 * 1_000_000
    assert record.unfunded_nano_usd == 0
