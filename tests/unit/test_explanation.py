"""Explanations: made of a decision, shown as lines and JSON, cut to fit the store; the commands that show them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from extproc.cli import main
from extproc.core.routing.explanation import (
    LIMIT,
    Candidate,
    Explanation,
    Session,
    Whose,
    explain_request,
    pack,
    text,
    unpack,
    would_have,
)
from extproc.core.routing.rules import Tried
from extproc.ledger.explained import ExplainedStore
from extproc.ledger.redis_treasury import RedisTreasury
from tests.contract.ledger_servers import Server
from tests.routing_kit import choose, compiled
from tests.stage_kit import ASK, CONFIG, RID, body, runtime

SMART = "routing: {smart: {threshold: 0.5}}"
SECRET = "the password is correct horse battery staple, debug it"
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]}
FULL = Explanation(
    RID, 1_790_000_000_000, "cloud", "complex (0.61 >= 0.5): prove", "auto", {"turns": 3, "stream": True, "share": 0.5},
    (Tried(1, "long", False, "tokens 812 is not > 20000"),
     Tried(2, "canary", True, "not among the requests of the canary"), Tried(3, "team web", True)), "debug", 0.61,
    ("prove", "deadlock"), 0.55, 0.91, "at most 20 % cloud", 0.5, {"gain": 1_200_000, "price": -400_000},
    Session("1f3a", True, "escalated"),
    (Candidate("claude/c", "cloud", chance=0.91, price=2_000_000, first_event_ms=850, used=True),
     Candidate("gpt/g", "cloud", "cooling", 0.9), Candidate("qwen/q", "cloud", dropped="lacks images")),
    ("one", "two"), "gpt/g (10 %)", "debug.m.t", Whose("acme", "web", "ci"))


def ask(content: str = "hello", **fields: Any) -> bytes:
    return body(messages=[{"role": "user", "content": content}], **fields)


def explain(raw: bytes, path: str = "/v1/chat/completions", **headers: str) -> Explanation:
    return explain_request(runtime(SMART), path, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


# ---------------------------------------------------------------------------------------- made of a decision


def test_what_it_tells() -> None:
    """Route, reason, the candidates in their order, score and facts of a request."""
    found = explain(ask("design a distributed lock service and prove it safe"))
    assert (found.route, found.model) == ("cloud", "auto")
    assert [one.backend for one in found.candidates] == ["claude/c", "gpt/g", "qwen/q"]
    assert [one.used for one in found.candidates] == [True, False, False]
    assert found.score is not None and found.score >= 0.5
    assert found.task == "design" and found.cell.startswith("design.") and "gap" in found.parts
    assert any("gain" in line for line in found.counterfactual)
    assert found.facts["path"] == "plain" and found.facts["turns"] == 1


def test_never_the_prompt_nor_headers() -> None:
    """Neither text nor JSON holds what was asked or a header, only words of the text model."""
    found = explain(ask(SECRET), authorization="Bearer hunter2", x_team="purple")
    for told in (text(found), msgspec.json.encode(found).decode(), pack(found).decode("latin-1")):
        assert not [word for word in ("password", "horse", "staple", "hunter2", "purple") if word in told]


def test_why_a_candidate_was_dropped() -> None:
    """A backend that cannot serve is named with the reason, and with what would have had to differ."""
    found = explain(body(model="cloud", messages=[IMAGE]))
    assert found.candidates[-1] == Candidate("qwen/q", "cloud", dropped="lacks images")
    assert "without images qwen/q would have been a candidate" in found.counterfactual
    assert "it was pinned by model cloud: model auto without a pin would have been judged" in found.counterfactual
    assert found.threshold is None


@pytest.mark.parametrize(("changes", "line"), [
    ({"score": 0.41}, "complexity 0.41 would have had to be 0.50 or more for cloud"),
    ({"score": 0.61}, "complexity 0.61 would have had to be below 0.50 for local"),
    ({"score": 0.5}, "complexity 0.50 would have had to be below 0.50 for local"),
    ({"tried": (Tried(1, "long", False, "tokens 9 is not > 20"),)}, "rules[1] (long) would have come first, but tokens 9"),
    ({"candidates": (Candidate("q/q", "c", dropped="about 9 tokens exceed its context of 4"),)},
     "q/q would have been a candidate, but about 9 tokens exceed its context of 4"),
    ({"candidates": (Candidate("q/q", "c", dropped="cannot do n, logprobs"),)},
     "without n, logprobs q/q would have been a candidate"),
])
def test_what_would_have_had_to_differ(changes: dict[str, Any], line: str) -> None:
    """A threshold that was near, a condition of a rule that failed, a feature that a backend lacks."""
    found = msgspec.structs.replace(Explanation(score=0.41, threshold=0.5), **changes)
    assert [one for one in would_have(found, "local", "cloud") if one.startswith(line)]


def test_rules_behind_the_one_that_held_do_not_matter() -> None:
    """Only rules before the one that matched could have changed anything."""
    tried = (Tried(0, "canary", True, "not among"), Tried(1, "a", False, "x"), Tried(2, "b", True), Tried(3, "c", False, "y"))
    held = "without rules[2] (b) what comes after it would have been asked"
    assert would_have(Explanation(tried=tried), "", "") == (held, "rules[1] (a) would have come first, but x")
    assert would_have(Explanation(tried=tried), "", "", {1}) == (held,), "one that only shadows decides nothing"


def test_the_chain_that_could_not() -> None:
    """Where only one chain can serve a request, the other one's backends are named with what each lacks; a request whose
    class decided is told that."""
    found = choose(messages=[IMAGE]).explanation
    assert [(one.backend, one.chain, one.dropped) for one in found.candidates] == [
        ("big/b", "cloud", ""), ("more/m", "cloud", ""), ("near/n", "local", "lacks images"),
        ("box/x", "local", "lacks images")]
    assert found.counterfactual[-2:] == ("without images near/n would have been a candidate",
                                         "without images box/x would have been a candidate")
    batch = choose(messages=[IMAGE], headers={"x-extproc-cost": "batch"}).explanation
    assert [one.backend for one in batch.candidates if one.dropped] == ["near/n", "box/x"]
    assert choose(allowed=["local"]).explanation.candidates[-1].backend == "box/x", "a key's routes are no candidates"
    told = choose(headers={"x-extproc-cost": "batch"}).explanation.counterfactual
    assert told == ("without its class it would have been weighed by what a stronger model may add",)


def test_shadows_decide_nothing() -> None:
    """A rule that only shadows would not have come first."""
    rules = "routing: {rules: [{when: {team: x}, shadow: local, reason: s}, {when: {team: y}, route: local, reason: r}]}"
    told = choose(compiled(rules)).explanation.counterfactual
    assert [line for line in told if line.startswith("rules[")] == [
        "rules[1] (r) would have come first, but team default is not y"]


# ---------------------------------------------------------------------------------------- shown


def test_all_lines() -> None:
    """Everything that took part has a line, under names of one width."""
    assert text(FULL).splitlines() == [
        "request     0192f0c1a2b37c4d8e5f60718293a4b5",
        "time        2026-09-21 14:13:20 UTC",
        "for         acme / web / ci",
        "route       cloud",
        "reason      complex (0.61 >= 0.5): prove",
        "model       auto",
        "chain       claude/c > gpt/g",
        "rule        rules[1] long: tokens 812 is not > 20000",
        "rule        rules[2] canary: matched, but not among the requests of the canary",
        "rule        rules[3] team web: matched",
        "task        debug",
        "cell        debug.m.t",
        "complexity  0.61 (prove, deadlock); threshold 0.50",
        "chances     local=0.55 cloud=0.91",
        "aim         at most 20 % cloud",
        "value       gain +$0.0012, price -$0.0004",
        "session     1f3a moved: escalated",
        "shadow      gpt/g (10 %)",
        "candidate   claude/c, up, chance 0.91, about $0.002, first event after 850 ms, used",
        "candidate   gpt/g, cooling, chance 0.90",
        "dropped     qwen/q: lacks images",
        "otherwise   one",
        "otherwise   two",
        "facts       turns=3 stream=yes share=0.50",
    ]


def test_what_did_not_take_part_is_left_out() -> None:
    """An empty explanation has no lines and no fields."""
    assert text(Explanation()) == ""
    assert msgspec.json.encode(Explanation()) == b"{}"


def test_a_terminal_is_not_obeyed() -> None:
    """Control characters in a client's names do not reach the terminal."""
    assert "\x1b" not in text(Explanation(model="\x1b[2J\nfoo", facts={"model": "\x9b31m"}))


# ---------------------------------------------------------------------------------------- stored


def test_the_store_gives_back_what_it_took() -> None:
    """An explanation of the usual size is stored whole, in at most 2 KB."""
    assert unpack(pack(FULL)) == FULL
    assert len(pack(FULL)) < 1000


texts = st.text(max_size=2000) | st.sampled_from(["\U0001f600" * 3000, "\ud800" * 50, ""])
facts = st.dictionaries(st.text(st.characters(codec="ascii"), max_size=60), texts | st.integers() | st.booleans()
                        | st.floats(allow_nan=False) | st.none(), max_size=60)


@given(texts, facts, st.lists(texts, max_size=200), st.integers())
def test_anything_fits(said: str, told: dict[str, Any], many: list[str], number: int) -> None:
    """Whatever is in it, an explanation fits into 2 KB and can be read again."""
    found = Explanation(
        said, number, said, said, said, told, tuple(Tried(n, one, False, one) for n, one in enumerate(many)), said,
        words=tuple(many), parts={said[:40].encode("ascii", "replace").decode(): number}, session=Session(said, True, said),
        candidates=tuple(Candidate(one, one, one, price=number, dropped=one) for one in many), aim=said, shadow=said,
        counterfactual=tuple(many), cell=said, identity=Whose(said, said, said))
    blob = pack(found)
    assert len(blob) <= LIMIT
    assert unpack(blob) is not None


@pytest.mark.parametrize("blob", [b"", b"\xff", b"x", msgspec.msgpack.encode({"route": 7}), pack(FULL)[:-1]])
def test_damaged_ones_are_none(blob: bytes) -> None:
    """What another version or a failure left is no explanation, and no error."""
    assert unpack(blob) is None


def test_fields_of_later_versions() -> None:
    """Fields that this version does not know are skipped."""
    assert unpack(msgspec.msgpack.encode({"route": "cloud", "later": [1]})) == Explanation(route="cloud")


# ---------------------------------------------------------------------------------------- the commands


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.replace("sk-openai", "${NOT_SET_ANYWHERE}") + SMART)
    return path


def run(*args: str | Path, code: int = 0, **options: Any) -> Result:
    told = CliRunner().invoke(main, [str(arg) for arg in args], env={"REDIS_URL": None}, **options)
    assert told.exit_code == code, told.output + repr(told.exception)
    return told


def test_route_of_a_prompt_a_body_and_stdin(config: Path, tmp_path: Path) -> None:
    """A prompt, a file with a body and stdin are explained; no provider's key is needed."""
    request = tmp_path / "request.json"
    request.write_bytes(body(model="gpt/new"))
    assert "route       local" in run("route", "-c", config, "hello").stdout
    assert "pinned by model gpt/new" in run("route", "-c", config, request).stdout
    assert "pinned by model gpt/new" in run("route", "-c", config, "-", input=request.read_bytes()).stdout
    assert "tokens" in run("route", "-c", config, "why " * 300).stdout, "a long prompt is no file name"


@pytest.mark.parametrize("headers", [[["X-Extproc-Route", "cloud"]], {"x-extproc-route": "cloud"}])
def test_route_of_a_recorded_request(config: Path, tmp_path: Path, headers: Any) -> None:
    """A recorded request brings its own path, headers and body; what is given beside it wins."""
    request = tmp_path / "request.json"
    whole = {"method": "POST", "path": "/v1/messages", "headers": headers, "body": ASK}
    request.write_text(json.dumps(whole))
    told = json.loads(run("route", "-c", config, request, "--json").stdout)
    assert (told["route"], told["reason"]) == ("cloud", "pinned by header x-extproc-route")
    assert "route       local" in run("route", "-c", config, request, "-H", "X-Extproc-Route: local").stdout
    assert "is no path of a request" in run("route", "-c", config, request, "--path", "/x", code=1).stderr


@pytest.mark.parametrize("headers", [5, "x", [1], [["a"]], None])
def test_odd_headers_are_skipped(config: Path, headers: Any) -> None:
    """Headers of another shape are none."""
    raw = json.dumps({"path": "/v1/messages", "headers": headers, "body": ASK})
    assert "route       local" in run("route", "-c", config, "-", input=raw).stdout


@pytest.mark.parametrize("raw", [
    b"{", b"\xff\xfe", b"[]", b"null", b'{"path":1,"body":2}', b'{"method":"GET","path":"/v1/models","body":null}',
])
def test_what_is_no_request(config: Path, raw: bytes) -> None:
    """What cannot be read is told in one line, as the gateway would."""
    assert run("route", "-c", config, "-", code=1, input=raw).stderr.count("\n") == 1


@pytest.mark.parametrize(("args", "line"), [
    (("hi", "-H", "x-extproc-cost"), "extproc: -H x-extproc-cost: expected NAME: VALUE\n"),
    (("hi", "-H", ": batch"), "extproc: -H : batch: expected NAME: VALUE\n"),
    (("nowhere/request.json",), "extproc: nowhere/request.json: no such file\n"),
])
def test_typing_errors_of_route(config: Path, args: tuple[str, ...], line: str) -> None:
    """A header without a value, and a file that is not there, are told; neither is passed over or read as a prompt."""
    assert run("route", "-c", config, *args, code=1).stderr == line


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    own = Server("valkey")
    yield own
    own.remove()


def test_explain_from_the_store(store: Server) -> None:
    """A request is explained by its id from the store, for its own org, as text or JSON."""
    async def work() -> None:
        ledger = RedisTreasury(store.url, connect_timeout=2, call_timeout=5)
        ExplainedStore(ledger.door).put(RID, pack(FULL), 60_000)
        await ledger.close()

    asyncio.run(work())
    at = ("--redis-url", store.url)
    assert run("explain", RID.upper(), *at).stdout == text(FULL) + "\n"
    assert json.loads(run("explain", RID, "--json", *at).stdout)["session"] == {
        "id": "1f3a", "moved": True, "why": "escalated"}
    assert "is not of org other" in run("explain", RID, *at, "--org", "other", code=1).stderr
    assert "nothing is kept of request" in run("explain", "f" * 32, *at, code=1).stderr
    assert "expected a request id" in run("explain", "nonsense", *at, code=1).stderr
