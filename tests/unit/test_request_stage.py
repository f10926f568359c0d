"""The request stage: who may ask, what is decided, and what the client hears of it."""

from __future__ import annotations

import gc
import hashlib
import json
from hashlib import sha256
from types import FunctionType, ModuleType

import pytest

from extproc import names
from extproc.core.errors import Problem
from extproc.core.events import (
    Action,
    Closed,
    Event,
    Finish,
    Finished,
    Identified,
    Identify,
    Leave,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    Reserve,
    Reserved,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Warn,
    unpack,
)
from extproc.core.identity import Caller
from extproc.core.request_stage import RequestStage
from extproc.server.facts import facts_message
from tests.stage_kit import CLIENT_KEY, HEADERS, NOW, RID, body, request_stage, runtime

KEYS = f"""
auth:
  mode: keys
  org: acme
  keys:
    - {{name: ci, sha256: {hashlib.sha256(CLIENT_KEY.encode()).hexdigest()}, team: web, project: p, routes: [local]}}
"""


def hear(stage: RequestStage, *events: Event) -> list[Action]:
    return [action for event in events for action in stage.receive(event, NOW)]


def opened(extra: str = "", **headers: str) -> tuple[RequestStage, list[Action]]:
    """A stage that has heard its headers; underscores stand for dashes, `path` for :path."""
    stage = request_stage(runtime(extra))
    more = {(":" + k if k in ("path", "method") else k.replace("_", "-")): v for k, v in headers.items()}
    return stage, hear(stage, RequestHeaders({**HEADERS, **more}, False))


def replied(actions: list[Action]) -> Reply:
    [reply] = actions
    assert isinstance(reply, Reply)
    return reply


def admitted(*events: Event, extra: str = "", request: bytes | None = None, **headers: str) -> tuple[
        RequestStage, list[Action]]:
    stage, _ = opened(extra, **headers)
    return stage, hear(stage, RequestBody(body() if request is None else request), *events)


# ------------------------------------------------------------------------------------ who may ask


@pytest.mark.parametrize("headers", [
    {"authorization": f"Bearer {CLIENT_KEY}"}, {"authorization": f"bearer {CLIENT_KEY} "}, {"x_api_key": CLIENT_KEY},
    {"authorization": "Bearer x", "x_api_key": CLIENT_KEY},
])
def test_key_accepted(headers: dict[str, str]) -> None:
    """A gateway key is taken from either header, in any spelling of the scheme."""
    _, actions = opened(KEYS, **headers)
    assert actions == [Proceed("request_headers")]


@pytest.mark.parametrize("headers", [
    {}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": "Bearer wrong"}, {"x_api_key": ""},
    {"authorization": f"Basic {CLIENT_KEY}"}, {"authorization": CLIENT_KEY}, {"x_api_key": CLIENT_KEY.upper()},
])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models"])
def test_key_refused(headers: dict[str, str], path: str) -> None:
    """Without a known key the headers alone are answered with 401: the body of a stranger is never read."""
    stage, actions = opened(KEYS, path=path, method="GET" if path == "/v1/models" else "POST", **headers)
    if isinstance(actions[0], Identify):
        assert all(len(digest) == 32 for digest in actions[0].digests)
        actions = hear(stage, Identified(None))
    reply = replied(actions)
    assert reply.status == 401
    assert b"wrong" not in reply.body
    assert hear(stage, RequestBody(body()), ResponseHeaders({}, False)) == [
        Leave(), Proceed("response_headers", remove=(names.RETRY,)), Leave()]


def test_key_of_the_store() -> None:
    """A key that only the store knows is looked up by its hash; its holder is then known like any other."""
    stage, actions = opened(KEYS, authorization="Bearer gw-made-later")
    assert actions == [Identify((sha256(b"gw-made-later").digest(),))]
    caller = Caller("acme", "data", "p2", "ann", "laptop")
    assert hear(stage, Identified(caller)) == [Proceed("request_headers")]
    [reserve] = hear(stage, RequestBody(body(model="local")))
    assert isinstance(reserve, Reserve)
    who = reserve.admission
    assert (who.team, who.project, who.user, who.key) == ("data", "p2", "ann", "laptop")


@pytest.mark.parametrize("caller", [Caller(expires=NOW), Caller(since=NOW + 1)])
def test_key_out_of_its_time(caller: Caller) -> None:
    """A key that has expired, or is not yet in force, is answered like one that never was."""
    stage, _ = opened(KEYS, authorization="Bearer gw-old")
    late = replied(hear(stage, Identified(caller)))
    stage, _ = opened(KEYS, authorization="Bearer gw-none")
    assert (late.status, late.body) == (401, replied(hear(stage, Identified(None))).body)


def test_store_away_while_a_key_is_checked() -> None:
    """A key that cannot be checked is nobody's fault: 503, try again."""
    stage, _ = opened(KEYS, authorization="Bearer gw-any")
    reply = replied(hear(stage, Identified(None, unavailable=True)))
    assert (reply.status, reply.headers["retry-after"]) == (503, "2")


def test_header_cannot_leave_a_keys_project() -> None:
    """A key that belongs to a project spends for it, whatever project a header names; others may choose."""
    for project, told in (("p2", "p2"), ("", "other")):
        stage, _ = opened(KEYS, authorization="Bearer gw-x", x_extproc_project="other")
        hear(stage, Identified(Caller(project=project)))
        [reserve] = hear(stage, RequestBody(body(model="local")))
        assert isinstance(reserve, Reserve)
        assert reserve.admission.project == told


def test_routes_of_a_key() -> None:
    """A key that is bound to routes gets no other."""
    _, actions = admitted(extra=KEYS, request=body(model="cloud"), x_api_key=CLIENT_KEY)
    assert replied(actions).status == 403
    _, actions = admitted(extra=KEYS, request=body(model="local"), x_api_key=CLIENT_KEY)
    [reserve] = actions
    assert isinstance(reserve, Reserve)
    who = reserve.admission
    assert (who.org, who.team, who.project, who.key, who.route) == ("acme", "web", "p", "ci", "local")


def test_health_needs_no_key() -> None:
    """The health path answers strangers, and tells nothing."""
    _, actions = opened(KEYS, path="/health", method="GET")
    assert (replied(actions).status, replied(actions).body) == (200, b'{"status":"ok"}')


# ------------------------------------------------------------------------------------ what may be asked


@pytest.mark.parametrize(("headers", "status"), [
    ({"path": "/nope"}, 404), ({"method": "GET"}, 404), ({"method": "PUT"}, 404), ({"path": ""}, 404),
    ({"content_type": "text/plain"}, 415), ({"content_encoding": "gzip"}, 415),
    ({"content_length": "99999999999"}, 413),
])
@pytest.mark.parametrize("schema", ["openai", "anthropic"])
def test_refused_on_headers(headers: dict[str, str], status: int, schema: str) -> None:
    """What can be refused without the body is, in the schema of the client, with a request id."""
    marks = {"anthropic_version": "2023-06-01", "path": "/v1/messages"} if schema == "anthropic" else {}
    reply = replied(opened("", **{**marks, **headers})[1])
    assert reply.status == status
    told = json.loads(reply.body)
    assert ("type" in told) == (schema == "anthropic")
    assert reply.headers[names.REQUEST_ID] == RID


@pytest.mark.parametrize("length", ["9" * 5000, "\u00b2", "-1", "x", ""])
def test_a_senseless_content_length(length: str) -> None:
    """A length that is no number is nobody's limit."""
    assert opened("", content_length=length)[1] == [Proceed("request_headers")]


def test_no_body() -> None:
    """A request that ends with its headers is told to send JSON."""
    stage = request_stage()
    assert replied(hear(stage, RequestHeaders(HEADERS, True))).status == 400


@pytest.mark.parametrize("request_body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model":1}', b"[" * 100_000,
                                          b'{"model":"auto"}', b'{"model":"auto","messages":"x"}'])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_bad_body(request_body: bytes, path: str) -> None:
    """Any bytes that are no request become a 400, and nothing is reserved."""
    assert replied(admitted(request=request_body, path=path)[1]).status == 400


@pytest.mark.parametrize("model", ["nope", "nowhere/m", "gpt/", "/", "", "smart/x", "pin.gpt", "*"])
def test_unknown_model(model: str) -> None:
    """A model nobody serves is a 4xx that names what there is."""
    reply = replied(admitted(request=body(model=model))[1])
    assert 400 <= reply.status < 500


@pytest.mark.parametrize("schema", ["openai", "anthropic"])
def test_models_list(schema: str) -> None:
    """The list of models has the client's shape and only names that can be asked for."""
    marks = {"anthropic_version": "2023-06-01"} if schema == "anthropic" else {}
    stage, actions = opened("", path="/v1/models", method="GET", **marks)
    listed = [entry["id"] for entry in json.loads(replied(actions).body)["data"]]
    assert listed == ["auto", "exact", "cloud", "local", "claude/c", "gpt/g", "qwen/q"]
    for model in listed:
        assert isinstance(admitted(request=body(model=model))[1][0], Reserve), model
    assert hear(stage, Closed()) == []


# ------------------------------------------------------------------------------------ what is decided


def test_the_decision() -> None:
    """After the reservation the route, the retries and the deadline are set, and the decision is handed on."""
    _, actions = admitted(Reserved("OK"), request=body(model="cloud", stream=True))
    reserve, proceed = actions
    assert isinstance(reserve, Reserve)
    assert isinstance(proceed, Proceed)
    assert proceed.clear_route
    assert proceed.body is None
    assert proceed.set[names.CLUSTER].startswith("cloud-")
    assert proceed.set[names.MAX_RETRIES] == "2"
    assert proceed.set[names.PER_TRY_TIMEOUT] == "20000"
    decision = unpack(proceed.decision or "")
    assert (decision.rid, decision.schema, decision.stream, decision.admitted) == (RID, "openai", True, NOW)
    assert decision.admission == reserve.admission


def test_the_decision_carries_what_the_own_schema_may_see() -> None:
    """The query and the schema's own headers travel with the decision, and no others."""
    _, actions = admitted(Reserved("OK"), path="/v1/messages?beta=true", anthropic_beta="b", cookie="c", openai_beta="o")
    proceed = actions[-1]
    assert isinstance(proceed, Proceed)
    decision = unpack(proceed.decision or "")
    assert (decision.query, decision.passed) == ("beta=true", {"anthropic-beta": "b"})


def test_the_decision_holds_no_secret() -> None:
    """Neither the client's key nor the prompt travels in metadata or to the ledger."""
    _, actions = admitted(Reserved("OK"), extra=KEYS, x_api_key=CLIENT_KEY, request=body(
        model="local", messages=[{"role": "user", "content": "the prompt"}]))
    assert CLIENT_KEY not in repr(actions)
    assert "the prompt" not in repr(actions)


def test_what_was_asked_is_let_go() -> None:
    """Once the request is dispatched its stage no longer holds the prompt, however long the answer takes."""
    long = "the prompt " * 100
    stage, _ = admitted(Reserved("OK"), request=body(model="auto", messages=[{"role": "user", "content": long}]))
    seen, found = set[int](), list[object]([stage])
    while found:
        one = found.pop()
        assert not (isinstance(one, str | bytes) and len(one) >= len(long))
        if id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType):
            seen.add(id(one))
            found += gc.get_referents(one)


def test_a_decision_is_explained_on_demand() -> None:
    """What is reserved carries the decision, from which its explanation and its facts for the ledger are made."""
    _, actions = admitted(request=body(model="local", max_tokens=7))
    [reserve] = actions
    assert isinstance(reserve, Reserve)
    assert reserve.decision is not None
    told, facts = reserve.decision.explanation, facts_message(reserve.decision, "ab")
    assert (told.at, told.route, told.reason, told.facts["max_tokens"]) == (
        NOW, "local", "pinned by model local", 7)
    assert facts is not None
    assert (facts.max_tokens, facts.kind, facts.shadow_of, facts.HasField("score_ppm")) == (7, "chat", "ab", False)
    assert facts_message(None) is None


def test_internal_headers_of_a_client_are_overwritten() -> None:
    """A client that names a cluster, retries or a deadline gets ours."""
    _, actions = admitted(Reserved("OK"), x_extproc_cluster="evil", x_envoy_max_retries="99",
                          x_envoy_upstream_rq_per_try_timeout_ms="1")
    proceed = actions[-1]
    assert isinstance(proceed, Proceed)
    assert proceed.set[names.CLUSTER] != "evil"
    assert set(proceed.set) == {names.CLUSTER, names.MAX_RETRIES, names.PER_TRY_TIMEOUT}


def test_nothing_proceeds_before_the_reservation() -> None:
    """Until the ledger has answered, the body waits."""
    _, actions = admitted()
    assert [type(a) for a in actions] == [Reserve]


def test_a_ledger_that_does_not_answer() -> None:
    """An unreachable store is told to the operator, and the request goes on."""
    _, actions = admitted(Reserved("unavailable"))
    assert [type(a) for a in actions] == [Reserve, Warn, Proceed]


def test_a_reservation_that_is_gone() -> None:
    """A reservation that cannot be opened refuses the request."""
    _, actions = admitted(Reserved("GONE"))
    assert replied(actions[1:]).status == 503


# ------------------------------------------------------------------------------------ the response


def test_an_answer_of_an_attempt() -> None:
    """The answer gets the decision's headers, the request is finished, and the stream is left."""
    stage, _ = admitted(Reserved("OK"), request=body(model="cloud"))
    finish, proceed, leave = hear(stage, ResponseHeaders(
        {":status": "200", names.BACKEND: "gpt", names.MODEL: "g", names.ATTEMPTS: "2"}, False))
    assert finish == Finish(wait=False, status=200, attempt=2, backend="gpt/g")
    assert isinstance(proceed, Proceed)
    assert proceed.set[names.REQUEST_ID] == proceed.set["x-request-id"] == RID
    assert proceed.set[names.ROUTE] == "cloud"
    assert proceed.set[names.REASON] == "pinned by model cloud"
    assert names.RETRY in proceed.remove
    assert leave == Leave()
    assert hear(stage, Closed()) == []


@pytest.mark.parametrize(("problem", "status"), [
    (Problem("overloaded", "busy", status=529), 529), (Problem("rate_limit", "slow", retry_after=7), 429), (None, 503),
])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_envoys_own_answer_is_replaced(problem: Problem | None, status: int, path: str) -> None:
    """When no backend answered, the client hears the last useful error in its schema, or that none was reached."""
    stage, _ = admitted(Reserved("OK"), path=path)
    assert hear(stage, ResponseHeaders({":status": "503"}, False)) == [Finish(wait=True, status=503)]
    reply = replied(hear(stage, Finished(problem, 3)))
    assert (reply.status, reply.headers[names.ATTEMPTS]) == (status, "3")
    assert reply.headers.get("retry-after") == ("7" if status == 429 else "2" if status == 503 else None)
    assert json.loads(reply.body)["error"]
    assert hear(stage, Closed()) == []


@pytest.mark.parametrize("status", ["", "abc", "\u00b2", "9" * 5000])
def test_a_senseless_status(status: str) -> None:
    """A status that is no number is 0, not a crash."""
    stage, _ = admitted(Reserved("OK"))
    assert hear(stage, ResponseHeaders({":status": status}, False)) == [Finish(wait=True, status=0)]


@pytest.mark.parametrize(("events", "finishes"), [
    ([], 1), ([Reserved("OK")], 1), ([Reserved("unavailable")], 0), ([Reserved("GONE")], 0),
    ([Reserved("OK"), ResponseHeaders({":status": "200", names.BACKEND: "b"}, False)], 1),
    ([Reserved("OK"), ResponseHeaders({":status": "503"}, False)], 1),
    ([Reserved("OK"), ResponseHeaders({":status": "503"}, False), Finished(None, 0)], 1),
])
def test_finish_exactly_once(events: list[Event], finishes: int) -> None:
    """Whatever was reserved is finished once, however the request ends."""
    stage, actions = admitted(*events)
    actions += hear(stage, Closed(), Reserved("OK"), Finished(None, 1))
    assert sum(isinstance(a, Finish) for a in actions) == finishes


def test_closed_before_the_body() -> None:
    """A client that leaves before its body has reserved nothing."""
    stage, _ = opened()
    assert hear(stage, Closed()) == []


@pytest.mark.parametrize("event", [RequestHeaders({}, False), RequestBody(b""), ResponseBody(b"", True),
                                   ResponseTrailers()])
def test_messages_that_are_not_expected(event: Event) -> None:
    """A message out of order ends our side of the stream, and nothing else."""
    stage, _ = admitted(Reserved("OK"))
    assert hear(stage, event) == [Leave()]
