"""The request stage where money is at stake: what it asks for, and that nothing stays held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from extproc import names
from extproc.core import asking
from extproc.core.events import (
    Action,
    Closed,
    Count,
    Counted,
    Event,
    Finish,
    Finished,
    Identify,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    Reserve,
    Reserved,
    ResponseHeaders,
    unpack,
)
from extproc.core.request_stage import RequestStage
from extproc.money.amounts import Ask, Grant, Shortage, Unit
from extproc.money.tables import Entry
from tests.stage_kit import HEADERS, NOW, RID, body, request_stage, runtime

CONFIG = """
backends:
  claude: {schema: anthropic, base_url: https://api.anthropic.com, location: cloud, api_key: k, models: {c: {}}}
  gpt: {schema: openai, base_url: https://api.openai.com/v1, location: cloud, api_key: k,
        models: {gpt-4o: {usd_per_million_input: 2, usd_per_million_output: 10}}}
  qwen: {schema: openai, base_url: "http://127.0.0.1:11434/v1", location: local}
chains:
  cloud: [gpt/gpt-4o, qwen/q]
  dear: [gpt/gpt-4o]
  unpriced: [claude/c]
models: {m: cloud, dear: dear, c: unpriced}
"""
BUDGETS = """
budgets: [{for: {team: "*"}, usd: 10, per: month}]
limits: [{for: {org: "*"}, tokens: 40000, per: minute}]
"""
DENIES = BUDGETS + "money: {store_down: deny}\n"
LIMITS = "limits: [{for: {org: '*'}, tokens: 40000, per: minute}]\n"
BUDGET = Entry("team.all.usd.month", Unit.USD, 100, "month").at(NOW)
GIVEN = Finish(wait=False, status=0)


def hear(stage: RequestStage, *events: Event) -> list[Action]:
    """Give events; return what is done."""
    return [action for event in events for action in stage.receive(event, NOW)]


def finishes(actions: Sequence[Action]) -> list[Finish]:
    """What is said of the end of the request."""
    return [action for action in actions if isinstance(action, Finish)]


def stage_of(extra: str = BUDGETS, path: str = "/v1/chat/completions") -> RequestStage:
    """A stage that waits for the body."""
    stage = request_stage(runtime(extra, CONFIG))
    hear(stage, RequestHeaders({**HEADERS, ":path": path}, False))
    return stage


def asked(path: str = "/v1/chat/completions", extra: str = BUDGETS, **fields: Any) -> tuple[RequestStage, Reserve]:
    """A stage that has asked for money, and what for."""
    stage = stage_of(extra, path)
    [reserve] = hear(stage, RequestBody(msgspec.json.encode({"model": "m", **fields})))
    assert isinstance(reserve, Reserve)
    return stage, reserve


def chat(extra: str = BUDGETS, model: str = "m") -> tuple[RequestStage, Reserve]:
    """The same of a chat."""
    return asked(extra=extra, model=model, max_tokens=50, messages=[{"role": "user", "content": "hello"}])


def grant(reserve: Reserve, code: Any = "OK", option: int = 1, **fields: Any) -> Reserved:
    """The store's answer."""
    assert reserve.plan is not None
    ask = Ask(1, (BUDGET,), reserve.plan.limits, reserve.plan.options)
    want = reserve.plan.options[option - 1].want
    return Reserved(code, Grant(code, NOW, option, want, **fields), ask)


def no_money(reserve: Reserve) -> Reserved:
    """The store's refusal."""
    return grant(reserve, "BUDGET", blocked=BUDGET.id, shortage=Shortage(90, 5, 0, 100))


# ------------------------------------------------------------------------------------ what is asked for


@pytest.mark.parametrize(("path", "fields", "wants"), [
    ("/v1/chat/completions", {"max_tokens": 70, "messages": [{"role": "user", "content": "hi"}]}, 70),
    ("/v1/embeddings", {"input": "hello"}, 0),
])
def test_a_plan_reserves_the_output_there_can_be(path: str, fields: dict[str, Any], wants: int) -> None:
    """A chat's plan has its max_tokens; that of embeddings, which have none, only their input."""
    _, reserve = asked(path, **fields)
    assert reserve.plan is not None
    assert {option.want for option in reserve.plan.options} == {wants}
    assert reserve.plan.options[0].fixed_nano_usd > 0


def test_a_count_of_tokens_costs_nothing() -> None:
    """It is admitted at a backend whose price nobody knows, where a chat is not, and takes nothing of a rate."""
    _, reserve = asked("/v1/messages/count_tokens", model="c", messages=[{"role": "user", "content": "hello " * 500}])
    plan = reserve.plan
    assert plan is not None
    assert [(o.want, o.nano_usd(o.want), o.tokens(o.want)) for o in plan.options] == [(0, 0, 0)]
    assert [limit.cost for limit in plan.limits] == [0]
    stage = stage_of()
    [reply] = hear(stage, RequestBody(body(model="c")))
    assert isinstance(reply, Reply)
    assert b"price of claude/c is unknown" in reply.body


def test_without_budgets_and_limits_nothing_is_asked() -> None:
    """No plan is made where there is no money."""
    assert chat(extra="")[1].plan is None


def test_a_plan_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that was asked for is the one a grant is read by: it is not made again."""
    made: list[Any] = []
    plan_for = asking.plan_for

    def counted(*words: Any) -> Any:
        made.append(words)
        return plan_for(*words)

    monkeypatch.setattr(asking, "plan_for", counted)
    stage, reserve = chat()
    [proceed] = hear(stage, grant(reserve, option=2))
    assert isinstance(proceed, Proceed)
    assert len(made) == 1


def test_what_was_granted_is_handed_on() -> None:
    """The attempts learn which part of the chain was granted, with how much output, under which budgets."""
    stage, reserve = chat()
    answer = grant(reserve, option=2)
    [proceed] = hear(stage, answer)
    assert isinstance(proceed, Proceed)
    assert proceed.set[names.MAX_RETRIES] == "0"
    decision = unpack(proceed.decision or "")
    assert (decision.granted, decision.ask, decision.backends, decision.reserved) == (50, answer.ask, 1, True)


def test_more_than_can_be_counted_is_the_clients_error() -> None:
    """A limit beyond every number is a 400 that names it, not a failure."""
    [reply] = hear(stage_of(), RequestBody(body(model="m", max_tokens=2**60)))
    assert isinstance(reply, Reply)
    assert reply.status == 400
    assert b"max_tokens" in reply.body


# ------------------------------------------------------------------------------------ a refusal, and the exact count


def test_an_exact_count_may_show_that_a_request_fits() -> None:
    """A refused request is asked for once more with its counted prompt, then the refusal stands."""
    stage, first = chat(model="dear")
    [count] = hear(stage, no_money(first))
    assert isinstance(count, Count)
    [second] = hear(stage, Counted(3))
    assert isinstance(second, Reserve)
    assert first.plan is not None
    assert second.plan is not None
    assert second.plan.options[0].fixed_nano_usd < first.plan.options[0].fixed_nano_usd
    assert second.plan.limits == first.plan.limits
    [reply] = hear(stage, no_money(second))
    assert isinstance(reply, Reply)
    assert (reply.status, stage.carried) == (429, None)


def test_a_counted_request_that_fits_goes_on() -> None:
    """What the attempts may use is the counted bound."""
    stage, first = chat(model="dear")
    hear(stage, no_money(first))
    [second] = hear(stage, Counted(3))
    assert isinstance(second, Reserve)
    [proceed] = hear(stage, grant(second))
    assert isinstance(proceed, Proceed)
    bound = unpack(proceed.decision or "").bound
    assert bound is not None
    assert second.plan is not None
    assert bound.tokens == second.plan.options[0].fixed_tokens


# ------------------------------------------------------------------------------------ nothing stays held


def test_denied_without_the_store() -> None:
    """Where budgets deny, an answer that was lost is given back: the store may have reserved."""
    stage, _ = chat(DENIES)
    finish, reply = hear(stage, Reserved("unavailable"))
    assert finish == Finish(wait=False, status=503)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers["retry-after"]) == (503, "2")
    assert finishes(hear(stage, Closed(), Reserved("OK"))) == []


def test_allowed_without_the_store() -> None:
    """Where there are limits only, the request goes on as one that the store does not know."""
    stage, _ = chat(LIMITS)
    proceed = hear(stage, Reserved("unavailable"))[-1]
    assert isinstance(proceed, Proceed)
    assert not unpack(proceed.decision or "").reserved
    assert stage.carried is None


LEFT = [Closed(), ResponseHeaders({":status": "413"}, False)]


@pytest.mark.parametrize("left", LEFT, ids=["closed", "local reply"])
@pytest.mark.parametrize(("code", "option", "held"), [
    ("OK", 1, True), ("unavailable", 0, True), ("LIMIT", 1, True), ("LIMIT", 0, False), ("BUDGET", 0, False),
    ("GONE", 0, False), ("EMPTY", 0, False), ("LOG_FULL", 0, False),
])
def test_an_answer_of_the_store_that_comes_too_late(left: Event, code: Any, option: int, held: bool) -> None:
    """The request ended while the store was asked: what it holds is given back at once, and once."""
    stage, reserve = chat()
    assert finishes(hear(stage, left)) == []
    late = Reserved(code) if code in ("unavailable", "GONE") else grant(reserve, code, option or 1)
    if late.grant is not None and not option:
        late = msgspec.structs.replace(late, grant=msgspec.structs.replace(late.grant, option=0))
    assert hear(stage, late) == ([GIVEN] if held else [])
    assert hear(stage, late, Closed(), Finished(None, 0)) == []
    assert stage.carried is None


def test_a_client_that_leaves_while_its_prompt_is_counted() -> None:
    """A refused reservation holds nothing, and the count that comes later asks for none."""
    stage, reserve = chat(model="dear")
    hear(stage, no_money(reserve))
    assert hear(stage, Closed(), Counted(3)) == []


def test_carried_while_something_is_held() -> None:
    """A request's lease is renewed from the grant to the answer, no longer and no shorter."""
    stage, reserve = chat()
    assert stage.carried is None
    [proceed] = hear(stage, grant(reserve))
    assert isinstance(proceed, Proceed)
    assert stage.carried is not None
    assert stage.carried == unpack(proceed.decision or "")
    hear(stage, ResponseHeaders({":status": "200", names.BACKEND: "gpt"}, False))
    assert stage.carried is None


# ------------------------------------------------------------------------------------ Envoy answers by itself

KEYS = "auth: {mode: keys}\n"


def walked(state: str) -> RequestStage:
    """A stage in one of its early states."""
    stage = request_stage(runtime(BUDGETS + (KEYS if state == "identifying" else ""), CONFIG))
    if state == "headers":
        return stage
    path = "/v1/messages/count_tokens" if state == "counting" else "/v1/chat/completions"
    actions = hear(stage, RequestHeaders({**HEADERS, ":path": path, "x-api-key": "k"}, False))
    if state in ("identifying", "body"):
        assert isinstance(actions[0], Identify if state == "identifying" else Proceed)
        return stage
    [action] = hear(stage, RequestBody(body(model="dear")))
    if state == "weighing":
        assert isinstance(action, Reserve)
        [action] = hear(stage, no_money(action))
    assert isinstance(action, {"counting": Count, "reserving": Reserve, "weighing": Count}[state])
    return stage


@pytest.mark.parametrize("state", ["headers", "identifying", "body", "counting", "reserving", "weighing"])
@pytest.mark.parametrize(("status", "words"), [("413", b"longer than"), ("500", b"could not take this request")])
def test_a_local_reply_before_the_decision(state: str, status: str, words: bytes) -> None:
    """Whatever we wait for, Envoy's own refusal is said in the client's shape with a request id."""
    [reply] = hear(walked(state), ResponseHeaders({":status": status}, False))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers[names.REQUEST_ID]) == (int(status), RID)
    assert words in reply.body
