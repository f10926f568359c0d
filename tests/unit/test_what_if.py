"""Another policy held against the ledger: what changes, what it would have cost, what cannot be told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from extproc.cli import main
from extproc.commands.policy import merged
from extproc.config import parse
from extproc.core.routing import signals
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.rejudge import Answered, Policy, Recorded, Unrated
from extproc.core.usage import Tokens
from extproc.ledger.base import RollupRow, Settlement
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.pb import usage_pb2 as pb
from extproc.reports.lines import Logged, as_jsonl, as_parquet, from_jsonl, from_parquet
from extproc.reports.periods import Period
from extproc.reports.what_if import Move, WhatIf, recorded_of, sections
from extproc.schemas import SCHEMAS
from tests.contract.ledger_servers import Server
from tests.stage_kit import ASK

NOW = time.time_ns() // 1_000_000
TODAY = datetime.fromtimestamp(NOW / 1000, UTC).date()
SPAN = Period(TODAY, TODAY)
ORG = "acme"
BASE = """
backends:
  claude: {schema: anthropic, base_url: "https://claude.test", location: cloud, api_key: "${NOT_SET_ANYWHERE}",
           models: {c: {usd_per_million_input: 3, usd_per_million_output: 15}, dear: {context: 9}}}
  qwen: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: local, lacks: [images],
         models: {q: {context: 1000}}}
chains: {cloud: [claude/c, qwen/q], local: [qwen/q], dear: [claude/dear]}
models: {auto: smart}
"""
SMART = "routing: {smart: {threshold: %s}}\n"
RULES = """
routing:
  smart: {threshold: 0.5}
  rules:
    - {when: {header: {x-job: nightly}}, route: local, reason: at night}
    - {when: {tools: true}, route: cloud, reason: tools}
    - {when: {team: nobody}, route: local, reason: nobody}
    - {when: {not: {header: {x-odd: "*"}}, team: nobody}, route: local, reason: odd}
"""
CLAUDE, QWEN = ("claude", "c"), ("qwen", "q")
EXACT = pb.Attempt.EXACT


def policy(routing: str, base: str = BASE) -> Policy:
    return Policy(parse(base.replace("${NOT_SET_ANYWHERE}", "-") + routing, "t", Path()), lambda *_: (None, None))


def facts(**changes: Any) -> pb.Facts:
    """What a plain request to `auto` leaves."""
    return pb.Facts(**{"score_ppm": 200_000, "input_tokens": 100, "turns": 1, "path": "plain", "kind": "chat",
                       "pace": "interactive", **changes})


class Ledger:
    """Requests of the past, through the ledger's own calls."""

    def __init__(self, store: Any = None) -> None:
        self.store, self.serial = store or MemoryTreasury(), 0

    async def add(self, told: pb.Facts | None, backend: tuple[str, str] | None, cost: int | None, *,
                  tokens: pb.Tokens | None = None, outcome: Any = EXACT, days: int = 0, **who: Any) -> str:
        self.serial += 1
        at = NOW - days * 86_400_000
        rid = NOW.to_bytes(6, "big") + b"\x70\x00\x80" + self.serial.to_bytes(7, "big")
        tokens = pb.Tokens(input=1000, output=100) if tokens is None else tokens
        fields = {"route": "local", "reason": "simple", "model_asked": "auto", "client_schema": "openai", "team": "web"}
        blob = pb.Admission(request_id=rid.hex(), org=ORG, admitted_unix_ms=at, facts=told, **{**fields, **who})
        assert await self.store.reserve(ORG, rid, blob.SerializeToString()) == "OK"
        if backend is None:
            await self.store.finish(ORG, rid)
            return rid.hex()
        names = {"number": 1, "backend": backend[0], "model_used": backend[1]}
        need = pb.Attempt(**names, outcome=pb.Attempt.EXPIRED)
        assert await self.store.begin(ORG, rid, 1, need.SerializeToString()) == "OK"
        done = pb.Attempt(**names, outcome=outcome, cost_nano_usd=cost, tokens=tokens)
        row = RollupRow(str(TODAY), "web", "", "", "", backend[1], backend[0])
        await self.store.end(ORG, rid, 1, Settlement(done.SerializeToString(), cost, 0, 0, row), final=True)
        return rid.hex()

    async def held(self, current: str, planned: str, top: int = 10) -> WhatIf:
        found = WhatIf(SPAN, policy(current), policy(planned), top)
        for record in await self.store.records(ORG, 10_000):
            found.add(NOW, record)
        return found


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


# ---------------------------------------------------------------------------------------- what changes, and its cost


async def test_a_lower_threshold(ledger: Ledger) -> None:
    """Requests whose score lies between the thresholds go elsewhere, at the price there; the others stay as they were."""
    moved = await ledger.add(facts(score_ppm=400_000), QWEN, 0)
    await ledger.add(facts(score_ppm=100_000), QWEN, 0)
    await ledger.add(facts(score_ppm=900_000), CLAUDE, 7_000_000, route="cloud")
    found = await ledger.held(SMART % 0.5, SMART % 0.3)
    assert (found.requests, found.judged, found.changed, found.otherwise) == (3, 3, 1, 0)
    assert found.moves == {("local", "cloud"): Move(1, 1, 0, 4_500_000), ("local", "local"): Move(1, 1, 0, 0),
                           ("cloud", "cloud"): Move(1, 1, 7_000_000, 7_000_000)}
    assert found.total == Move(3, 3, 7_000_000, 11_500_000)
    assert (found.cloud_before, found.cloud_after) == (1, 2)
    [example] = found.examples()
    assert (example.request_id, example.before, example.after) == (moved, "local (qwen/q)", "cloud (claude/c)")
    assert (example.actual, example.planned) == (0, 4_500_000)


def test_dollars_a_day() -> None:
    """Dollars a day are spent over the day as they would have been, and no more."""
    told = facts(task="design", p_local_ppm=500_000, p_cloud_ppm=900_000)
    answer = pb.Attempt(number=1, backend="qwen", model_used="q", outcome=EXACT, cost_nano_usd=0,
                        tokens=pb.Tokens(input=1000, output=100))

    def sent(usd: float) -> int:
        found = WhatIf(SPAN, policy(""), policy(f"routing: {{smart: {{aim: {{usd_per_day: {usd}}}}}}}"))
        for number in range(1200):
            at = SPAN.start_ms + number * 72_000
            found.add(at, pb.UsageRecord(state="done", attempts=[answer], admission=pb.Admission(
                request_id=f"{number:032x}", model_asked="auto", client_schema="openai", admitted_unix_ms=at, facts=told)))
        assert sum(move.requests for move in found.moves.values()) == 1200
        return found.moves[("cloud", "cloud")].requests

    assert sent(20) >= 1190, "all would cost 5.40 $"
    assert 380 <= sent(2) <= 444, "2 $ are 444 of them"


async def test_conversations(ledger: Ledger) -> None:
    """A conversation stays under each policy where that one would have sent it: in tool loops, and once escalated."""
    hard, easy = {"p_local_ppm": 500_000, "p_cloud_ppm": 900_000}, {"p_local_ppm": 900_000, "p_cloud_ppm": 910_000}
    middle = {"p_local_ppm": 700_000, "p_cloud_ppm": 850_000}
    for number, (told, loop) in enumerate(((easy, False), (middle, False), (hard, True), (easy, False), (hard, False))):
        await ledger.add(facts(task="debug", session="5" * 16, turns=number + 1, tool_loop=loop, **told), QWEN, 0)
    await ledger.add(facts(task="debug", session="6" * 16, tool_loop=True, **hard), QWEN, 0)
    found = await ledger.held("routing: {smart: {aim: savings}}", "routing: {smart: {aim: balanced}}")
    assert {names: move.requests for names, move in found.moves.items()} == {
        # easy and, under savings, the middle one with its tool loop and the easy one after it
        ("local", "local"): 1, ("local", "cloud"): 3, ("cloud", "cloud"): 2}
    off = "routing: {smart: {aim: %s, sessions: {sticky: false}}}"
    free = await ledger.held(off % "savings", off % "balanced")
    assert {names: move.requests for names, move in free.moves.items()} == {
        ("local", "local"): 2, ("local", "cloud"): 1, ("cloud", "cloud"): 3}


def test_conversations_end() -> None:
    """One of longer ago than it is kept begins anew."""
    hard, easy = {"p_local_ppm": 500_000, "p_cloud_ppm": 900_000}, {"p_local_ppm": 900_000, "p_cloud_ppm": 910_000}
    policy_ = policy("")
    for at, told, route in ((NOW, hard, "cloud"), (NOW + 3_500_000, easy, "cloud"), (NOW + 7_200_000, easy, "local")):
        recorded = recorded_of(pb.UsageRecord(admission=pb.Admission(
            model_asked="auto", client_schema="openai", admitted_unix_ms=at, facts=facts(session="5" * 16, **told))))
        choice = policy_.judge(recorded)
        assert choice.route == route
        policy_.follow(recorded, choice, Answered("claude/c", Tokens(input=10, output=1), at, 0))


async def test_other_priors(ledger: Ledger) -> None:
    """What an operator believes of a backend moves the recorded chances of its main kind of task."""
    told = {"p_local_ppm": 700_000, "p_cloud_ppm": 800_000}
    await ledger.add(facts(task="debug", **told), QWEN, 0)
    await ledger.add(facts(task="chat", **told), QWEN, 0)
    found = await ledger.held("", "routing: {smart: {priors: {claude: {debug: 0.9}}}}")
    assert (found.judged, found.changed) == (2, 1)
    [example] = found.examples()
    assert example.reason.startswith("complex (+18.0 points in success")


async def test_the_same_policy_changes_nothing(ledger: Ledger) -> None:
    """Held against itself, a policy costs what was recorded, whatever was decided then."""
    await ledger.add(facts(score_ppm=400_000), CLAUDE, 5, route="cloud")
    await ledger.add(facts(), QWEN, 0)
    found = await ledger.held(SMART % 0.5, SMART % 0.5)
    assert (found.changed, found.examples()) == (0, [])
    assert found.total.actual == found.total.planned == 5
    assert found.otherwise == 1, "an outage, or an older configuration"


async def test_cached_tokens_are_plain_elsewhere(ledger: Ledger) -> None:
    """A backend that did not have the conversation in its cache charges all of it as input."""
    tokens = pb.Tokens(input=200, cache_read=700, cache_write_5m=100, output=60, reasoning=40)
    await ledger.add(facts(score_ppm=400_000), QWEN, 0, tokens=tokens)
    assert (await ledger.held(SMART % 0.5, SMART % 0.3)).total == Move(1, 1, 0, 4_500_000)


async def test_only_the_backend_changes(ledger: Ledger) -> None:
    """A chain that begins with another backend is a change, told with the backends."""
    await ledger.add(facts(), CLAUDE, 4_500_000, route="cloud", model_asked="cloud")
    found = WhatIf(SPAN, policy(SMART % 0.5), policy(SMART % 0.5, BASE.replace("[claude/c, qwen/q]", "[qwen/q]")))
    for record in await ledger.store.records(ORG):
        found.add(NOW, record)
    assert found.moves == {("cloud (claude/c)", "cloud (qwen/q)"): Move(1, 1, 4_500_000, 0)}


async def test_needs_are_kept(ledger: Ledger) -> None:
    """A backend that lacks what a request needs is not chosen; where none is left the policy refuses."""
    told = facts(score_ppm=100_000, needs=["images"])
    await ledger.add(told, CLAUDE, 9, route="cloud")
    await ledger.add(told, CLAUDE, 9, route="cloud", model_asked="cloud")
    found = WhatIf(SPAN, policy(SMART % 0.05), policy(SMART % 0.5, BASE.replace("dear: [claude/dear]", "dear: [qwen/q]")
                                                     .replace("auto: smart", "auto: smart, cloud: dear")))
    for record in await ledger.store.records(ORG):
        found.add(NOW, record)
    assert (found.judged, found.changed, found.refused, found.total.compared) == (2, 1, 1, 1)
    assert found.moves["cloud", "cloud"] == Move(1, 1, 9, 9), "only a cloud can, whatever the score"
    assert found.moves["cloud", "(refused)"] == Move(1)
    assert "lacks images" in found.examples()[0].reason


async def test_a_share(ledger: Ledger) -> None:
    """A share is followed through the requests as they came."""
    for number in range(200):
        await ledger.add(facts(score_ppm=number * 7919 % 1000 * 1000), QWEN, 0)
    found = await ledger.held(SMART % 1.0, "routing: {smart: {complex_share: 20%}}\n")
    assert found.cloud_before == 0
    assert found.cloud_after / found.judged == pytest.approx(0.2, abs=0.03)


async def test_pace(ledger: Ledger) -> None:
    """What a client said of its pace is known without its headers."""
    for pace in ("realtime", "batch", "ci"):
        await ledger.add(facts(pace=pace, score_ppm=900_000), QWEN, 0)
    found = await ledger.held(SMART % 0.5, SMART % 0.5)
    assert set(found.moves) == {("cloud", "cloud"), ("local", "local")}
    assert found.moves["local", "local"].requests == 2


# ---------------------------------------------------------------------------------------- rules and headers


async def test_rules(ledger: Ledger) -> None:
    """Rules are judged by the recorded signals; those that held for nothing are named, with what cannot be known."""
    await ledger.add(facts(tools=3), QWEN, 0)
    await ledger.add(facts(), QWEN, 0)
    found = await ledger.held(SMART % 0.5, RULES)
    assert found.moves["local", "cloud"] == Move(1, 1, 0, 4_500_000)
    assert found.unused() == [(0, "at night", True), (2, "nobody", False), (3, "odd", True)]


async def test_a_header_that_a_decision_shows(ledger: Ledger) -> None:
    """Where the current rules say that a header was there, it is there under the other policy too."""
    await ledger.add(facts(tools=1), QWEN, 0, reason="rule: at night")
    found = await ledger.held(RULES, RULES)
    assert (found.changed, found.otherwise) == (0, 0)
    assert 0 not in [index for index, *_ in found.unused()]


async def test_pins_stay(ledger: Ledger) -> None:
    """What a client chose by header, path or model no policy changes, and no text is needed for it."""
    bare = {"score_ppm": None}
    await ledger.add(facts(**bare), CLAUDE, 5, route="cloud", reason="pinned by header x-extproc-route")
    await ledger.add(facts(**bare, path="local"), QWEN, 0)
    await ledger.add(facts(**bare), CLAUDE, 5, route="claude/new", model_asked="claude/new")
    found = await ledger.held(SMART % 0.5, SMART % 0.0)
    assert (found.judged, found.changed, found.otherwise) == (3, 0, 0)


# ---------------------------------------------------------------------------------------- what cannot be told


async def test_coverage(ledger: Ledger) -> None:
    """Records without facts, without a read text, out of the period, without an answer or a price are counted apart."""
    await ledger.add(None, QWEN, 0)
    await ledger.add(facts(score_ppm=None), QWEN, 0)
    await ledger.add(facts(), QWEN, 0, days=3)
    await ledger.add(facts(score_ppm=400_000), None, 0)
    await ledger.add(facts(score_ppm=400_000), QWEN, 0, outcome=pb.Attempt.FAILED)
    await ledger.add(facts(score_ppm=400_000), QWEN, 0, tokens=pb.Tokens(input=5))
    await ledger.add(facts(score_ppm=400_000), QWEN, None)
    planned = (SMART % 0.3).replace("threshold", "complex: dear, threshold")
    found = await ledger.held(SMART % 0.5, planned)
    assert (found.requests, found.without_facts, found.unrated, found.judged) == (6, 1, 1, 4)
    assert (found.changed, found.no_answer, found.unpriced, found.total) == (0, 3, 0, Move(4)), "dear is too small"
    roomy = WhatIf(SPAN, policy(SMART % 0.5), policy(planned, BASE.replace("{context: 9}", "{}")))
    for record in await ledger.store.records(ORG):
        roomy.add(NOW, record)
    assert (roomy.refused, roomy.unpriced, roomy.total) == (0, 1, Move(4))
    adjusted = pb.UsageRecord(state="late", admission=pb.Admission(admitted_unix_ms=NOW), delta_nano_usd=5)
    roomy.add(NOW, adjusted)
    assert (roomy.corrections, roomy.requests) == (1, 6)


def test_what_a_record_gives_back() -> None:
    """All that was kept of a request's signals comes back; an empty record has the values of a plain request."""
    told = facts(tools=3, tool_rounds=2, tool_loop=True, needs=["tools", "images"], images=1, thinking=True, agent="aider",
                 phase="edit", max_tokens=50, fills=True, structured=True, effort="high", budget_left_ppm=250_000,
                 warm_tokens=9, task="debug", p_local_ppm=600_000, p_cloud_ppm=900_000)
    found = recorded_of(pb.UsageRecord(admission=pb.Admission(facts=told, team="web", model_asked="m", stream=True)))
    assert found.rated is not None
    assert (found.rated.score, found.rated.task, found.rated.p_local, found.rated.p_cloud) == (0.2, "debug", 0.6, 0.9)
    plain = signals.Signals("plain", "m", True, 50, 100, 1, 3, True, frozenset({"tools", "images"}), "", {}, team="web")
    assert found.signals == msgspec.structs.replace(
        plain, fills=True, tool_rounds=2, images=1, structured=True, thinking=True, effort="high", agent="aider",
        phase="edit", budget_left=0.25, warm_tokens=9, org="")
    empty = recorded_of(pb.UsageRecord()).signals
    assert (empty.path, empty.task, empty.agent, empty.phase, empty.pace) == (
        "plain", "chat", "other", "main", "interactive")


def test_judged_as_it_was() -> None:
    """A request that is judged by its record goes where it went when its text was there."""
    own = policy(RULES)
    for fields in ({}, {"tools": [{"type": "function", "function": {"name": "f"}}]}, {"model": "cloud"}):
        raw = msgspec.json.encode({**ASK, **fields})
        seen = signals.extract(SCHEMAS["openai"].parse_request(raw), len(raw), "plain", {}, "", "web")
        known = msgspec.structs.replace(seen, ask="", headers={})
        found = own.judge(Recorded("r", "openai", "", "", known, Complexity(0.2, "as recorded")))
        assert found.route == ("cloud" if fields else "local")
    with pytest.raises(Unrated):
        own.judge(Recorded("r", "openai", "", "", msgspec.structs.replace(seen, model="auto", tools=0)))


async def test_rows_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that names ever new models does not fill the memory: the rest is one row; examples stay few."""
    monkeypatch.setattr("extproc.reports.what_if.MOST_ROWS", 5)
    for number in range(130):
        await ledger.add(facts(score_ppm=None), CLAUDE, 1, model_asked=f"claude/{number}")
        await ledger.add(facts(score_ppm=400_000), QWEN, 0)
    found = await ledger.held(SMART % 0.5, SMART % 0.3, top=3)
    assert len(found.moves) == 6
    assert sum(move.requests for move in found.moves.values()) == 260
    assert len(found.examples()) == 3
    assert len(found._examples) <= 112


async def test_dearest_differences_first(ledger: Ledger) -> None:
    """Examples are those whose cost changes most."""
    for size in (10, 500, 30):
        await ledger.add(facts(score_ppm=400_000), QWEN, 0, tokens=pb.Tokens(input=size, output=0))
    found = await ledger.held(SMART % 0.5, SMART % 0.3, top=2)
    assert [one.planned for one in found.examples()] == [1_500_000, 90_000]


async def test_tables(ledger: Ledger) -> None:
    """The sections add up, also of nothing."""
    await ledger.add(facts(score_ppm=400_000), QWEN, 0)
    found = sections(await ledger.held(SMART % 0.5, SMART % 0.3))
    assert list(found) == ["total", "routes", "unused_rules", "examples", "left_out"]
    assert found["routes"].rows == [("local", "cloud", 1, 1, 0, 4_500_000, 4_500_000)]
    for table in [*found.values(), *sections(await Ledger().held(SMART % 0.5, RULES)).values()]:
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_facts_are_exported() -> None:
    """Facts survive the forms of an export, with what is unknown left unknown and a score below zero."""
    told = facts(score_ppm=-5, needs=["tools"], cell="debug.m.t", agent="aider", phase="edit")
    for who in (pb.Admission(request_id="a", facts=told), pb.Admission(request_id="b")):
        entries = [Logged(1, 2, pb.UsageRecord(state="done", admission=who))]
        assert from_jsonl(as_jsonl(entries)) == entries
        pytest.importorskip("pyarrow")
        assert from_parquet(as_parquet(entries)) == entries


# ---------------------------------------------------------------------------------------- the policy's file


@pytest.mark.parametrize("text", ["routing: {smart: {threshold: 0.3}}", "{routing: {smart: {threshold: 0.3}}}\n",
                                  "# mine\nrouting:\n  smart:\n    threshold: 0.3"])
def test_a_part_is_completed(text: str) -> None:
    """A file with routing alone takes the rest from the configuration in force, as it is written there."""
    made = parse(merged(text, BASE + SMART % 0.9), "p", Path(), {"NOT_SET_ANYWHERE": "x"})
    assert made.routing.smart.threshold == 0.3
    assert made.chains["cloud"] == ["claude/c", "qwen/q"]


def test_a_whole_one_stays() -> None:
    """A whole gateway.yaml, or what is none, is taken as it is."""
    for text in (BASE, "[", "5", ""):
        assert merged(text, BASE) == text or not text


# ---------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    own = Server("valkey")
    yield own
    own.remove()


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway.yaml whose store holds two requests."""
    path = tmp_path_factory.mktemp("gateway") / "gateway.yaml"
    path.write_text(f"redis: {server.url}\nauth: {{org: acme}}" + BASE + SMART % 0.5)

    async def work() -> None:
        store = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        own = Ledger(store)
        await own.add(facts(score_ppm=400_000), QWEN, 0)
        await own.add(facts(score_ppm=900_000), CLAUDE, 4_500_000, route="cloud")
        await store.close()

    asyncio.run(work())
    return path


def run(*args: str | Path, code: int = 0) -> Result:
    day = str(TODAY - (date(2, 1, 2) - date(2, 1, 1)))
    told = CliRunner().invoke(main, ["report", "--since", day, *map(str, args)], env={"REDIS_URL": None})
    assert told.exit_code == code, told.output + repr(told.exception)
    return told


def test_command(gateway: Path, tmp_path: Path) -> None:
    """`report --what-if` tells changes and cost, as tables and as JSON, without a provider's key."""
    plan = tmp_path / "policy.yaml"
    plan.write_text(SMART % 0.3)
    told = json.loads(run("-c", gateway, "--what-if", plan, "--format", "json").stdout)
    assert (told["org"], told["policy"]) == (ORG, str(plan))
    [total] = told["total"]
    assert (total["requests"], total["changed"], total["difference_nano_usd"]) == (2, 1, 4_500_000)
    assert told["examples"][0]["after"] == "cloud (claude/c)"
    text = run("-c", gateway, "--what-if", plan).stdout
    assert "Where requests go, now and under the policy" in text and "$0.0045" in text
    whole = tmp_path / "whole.yaml"
    whole.write_text(BASE + SMART % 0.95)
    told = json.loads(run("-c", gateway, "--what-if", whole, "--format", "json").stdout)
    assert told["total"][0]["difference_nano_usd"] == -4_500_000


def test_command_refusals(gateway: Path, server: Server, tmp_path: Path) -> None:
    """A missing or wrong policy, and a missing configuration in force, are told in one line each."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("routing:\n  smart: {threshold: 7}\n")
    told = run("-c", gateway, "--what-if", wrong, code=1).stderr
    assert told == f"extproc: {wrong}:2: routing.smart.threshold: expected a number of at most 1\n"
    assert "cannot be read" in run("-c", gateway, "--what-if", tmp_path / "no.yaml", code=1).stderr
    assert "in force with -c" in run("--redis-url", server.url, "--what-if", wrong, code=1).stderr
