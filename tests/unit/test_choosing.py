"""From a body to what is asked of the store, carried to the attempts, learnt, and copied to a shadow."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from extproc.core import choosing
from extproc.core.endpoints import find
from extproc.core.errors import RequestError
from extproc.core.events import Learn, Mirror, Recall
from extproc.core.identity import Caller
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.flow import Decision, decide
from extproc.core.routing.outcomes import Learnable, signature_of
from extproc.core.routing.sessions import Memory
from extproc.core.routing.view import Knowledge, View
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS
from tests.routing_kit import EASY, HARD, compiled, failing, seen
from tests.stage_kit import NOW, RID

ALICE = Caller("acme", "web", "", "alice", "ci")
ASK = "why does the second worker never answer its request"
RULES = """
routing:
  rules:
    - {when: {down: [big]}, route: fast, reason: big is down}
    - {when: {budget_left: "< 10%"}, route: local, reason: little is left}
    - {when: {warm_tokens: "> 1000"}, route: cloud, reason: warm}
"""
IMAGE = [{"role": "user", "content": [{"type": "text", "text": ASK},
                                      {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]}]
SHADOWED = "routing: {rules: [{when: {}, shadow: local, reason: compare}]}"


def known(text: str = ASK, headers: dict[str, str] | None = None, caller: Caller = ALICE, **fields: Any) -> choosing.Parsed:
    """An OpenAI chat request, parsed."""
    told = {":method": "POST", ":path": "/v1/chat/completions", **(headers or {})}
    raw = msgspec.json.encode({"model": "auto", "messages": [{"role": "user", "content": text}], **fields})
    endpoint = find(told)
    return choosing.parsed(endpoint, CLIENTS[endpoint.schema].parse_request(raw), raw, told, caller)


def made(runtime: Runtime, view: View, asked: choosing.Parsed, memory: Memory | None = None) -> Decision:
    facts = choosing.informed(asked, view, memory, NOW)
    return decide(runtime, facts, asked.conversation, view, now=NOW, rid=RID, memory=memory)


class TestParsed:
    """Facts of a request and of its caller."""

    def test_caller(self) -> None:
        """Whose it is comes from the key; of the project a header may tell where the key does not."""
        facts = known(headers={"x-extproc-project": "p" * 100}).signals
        assert (facts.org, facts.team, facts.user, facts.key, facts.project) == ("acme", "web", "alice", "ci", "p" * 64)
        own = msgspec.structs.replace(ALICE, project="own")
        assert known(headers={"x-extproc-project": "other"}, caller=own).signals.project == "own"
        assert known(headers={"x-extproc-project": "Cafe\u0301"}).signals.project == "Caf\u00e9", "one spelling"

    def test_twice(self) -> None:
        """A field given twice is refused: a provider might read the other one."""
        raw = b'{"model":"auto","model":"cloud","messages":[]}'
        endpoint = find({":method": "POST", ":path": "/v1/chat/completions"})
        with pytest.raises(RequestError):
            choosing.parsed(endpoint, known().conversation, raw, {}, ALICE)

    def test_session(self) -> None:
        """A session id is the client's own, hashed with who it is."""
        first, same = known(headers={"x-extproc-session": "s1"}), known("else", headers={"x-extproc-session": "s1"})
        assert first.signals.session == same.signals.session != ""
        assert first.resumes
        bob = known(headers={"x-extproc-session": "s1"}, caller=msgspec.structs.replace(ALICE, key="other"))
        assert bob.signals.session != first.signals.session
        assert "s1" not in first.signals.session

    def test_shadow(self) -> None:
        """A copy of another request belongs to no session."""
        copy = known(headers={"x-extproc-session": "s1", "x-extproc-shadow": "a" * 40})
        assert (copy.signals.session, copy.resumes, copy.shadow) == ("", False, "a" * 32)


SESSION = {"x-extproc-session": "s1"}
HEADERS = {":path": "/v1/chat/completions?beta=1", "authorization": "Bearer k", "content-type": "application/json",
           "user-agent": "u", "cookie": "c", "x-extproc-session": "s", "x-extproc-cost": "batch", "host": "h"}


class TestRecall:
    """What is asked of the store before the decision."""

    def test_asked(self) -> None:
        """A session that the flow may decide is looked up."""
        asked = known(headers=SESSION)
        assert choosing.recall(compiled(), asked) == Recall("acme", asked.signals.session)

    @pytest.mark.parametrize(("headers", "fields", "extra"), [
        ({}, {}, ""), (SESSION, {"model": "cloud"}, ""),
        (SESSION, {}, "routing: {smart: {sessions: {sticky: false}}}"),
        ({**SESSION, "x-extproc-shadow": RID}, {}, ""), (SESSION, {"max_tokens": 1}, ""),
    ])
    def test_not_asked(self, headers: dict[str, str], fields: dict[str, Any], extra: str) -> None:
        """Without a session, a choice or stickiness nobody waits for the store; nor do copies and probes."""
        assert choosing.recall(compiled(extra), known(headers=headers, **fields)) is None

    def test_pinned_to_the_flow(self) -> None:
        """A client that pins the flow by the header has its session too."""
        assert choosing.recall(compiled(), known(headers={**SESSION, "x-extproc-route": "smart"}, model="cloud"))


class TestInformed:
    """What only the gateway knows becomes signals where rules may ask for it."""

    WHO = ("acme", "web", "ci")

    def test_without_rules(self) -> None:
        """Nobody asks: only the warm cache is told, and signals stay the same object where there is none."""
        view, asked = seen(knowledge=failing(Knowledge(), "big/b")), known()
        assert choosing.informed(asked, view, None, NOW) is asked.signals
        memory = Memory("big/b", at=NOW, warm_tokens=70)
        facts = choosing.informed(asked, view, memory, NOW)
        assert (facts.warm_tokens, facts.down, facts.budget_left) == (70, frozenset(), None)
        assert choosing.informed(asked, view, memory, NOW + 400_000).warm_tokens == 0

    def test_down(self) -> None:
        """Backends that are open or cooled down, by their names."""
        runtime, knowledge = compiled(RULES), Knowledge()
        view = View(runtime.config.routing, knowledge, rate=lambda _: HARD)
        assert made(runtime, view, known()).route == "cloud"
        failing(knowledge, "big/b")
        failing(knowledge, "more/m", kind="overloaded", times=1)
        assert choosing.informed(known(), view, None, NOW).down == {"big", "more"}
        decision = made(runtime, view, known())
        assert (decision.route, decision.reason[:17]) == ("fast", "rule: big is down")

    def test_budget(self) -> None:
        """What is left of the tightest budget, of this very org, team and key."""
        runtime, knowledge = compiled(RULES), Knowledge()
        view = View(runtime.config.routing, knowledge, rate=lambda _: HARD)
        knowledge.note_left(self.WHO, 0.05)
        assert choosing.informed(known(), view, None, NOW).budget_left == 0.05
        assert made(runtime, view, known()).reason == "rule: little is left"
        assert choosing.informed(known(caller=msgspec.structs.replace(ALICE, key="x")), view, None, NOW).budget_left is None

    def test_warm(self) -> None:
        """Prompt-cache tokens of the session."""
        runtime = compiled(RULES)
        view = View(runtime.config.routing, rate=lambda _: EASY)
        memory = Memory("big/b", "b", "cloud", NOW, warm_tokens=1001)
        assert made(runtime, view, known(), memory).reason == "rule: warm"

    def test_bounded(self) -> None:
        """Keys cannot fill the memory."""
        knowledge = Knowledge()
        for number in range(3000):
            knowledge.note_left(("o", "t", str(number)), 0.5)
        assert len(knowledge.left) <= 1000
        assert ("o", "t", "2999") in knowledge.left


class TestLesson:
    """What a session's next word tells of the answer before it."""

    MEMORY = Memory("near/n", "n", "local", NOW, signature=signature_of(ASK), cell="debug.s.n", asked=1, prior=700)

    @staticmethod
    def of(text: str, memory: Memory | None, turns: int = 2, **more: Any) -> list[Learn]:
        facts = msgspec.structs.replace(known(text).signals, turns=turns, **more)
        return choosing.lesson(memory, facts)

    def test_repeated(self) -> None:
        """Nearly the same ask again: two failures of the backend that answered, with what was promised."""
        assert self.of(ASK + " please", self.MEMORY) == [
            Learn("acme", "ci", "debug.s.n", "near/n", 0.7, Learnable(False, 2, "repeated"))]

    def test_complaint(self) -> None:
        """A complaint counts three."""
        [learn] = self.of("that is wrong, look again", self.MEMORY)
        assert learn.outcome == Learnable(False, 3, "complaint")

    @pytest.mark.parametrize(("text", "more"), [
        ("now write the tests for it and run them", {}), (ASK, {"turns": 1}), (ASK, {"in_tool_loop": True}),
        (ASK, {"phase": "title"}), (ASK, {"phase": "summary"}), (ASK, {"phase": "edit"}),
    ])
    def test_nothing(self, text: str, more: dict[str, Any]) -> None:
        """Something new, the same request once more, tools' results and calls beside the conversation tell nothing."""
        assert self.of(text, self.MEMORY, **{"turns": 2, **more}) == []

    @pytest.mark.parametrize("memory", [
        None, Memory(), msgspec.structs.replace(MEMORY, cell=""), msgspec.structs.replace(MEMORY, settled=True)])
    def test_nothing_to_learn_of(self, memory: Memory | None) -> None:
        """Nor is there anything to learn of an answer that is unknown, or was counted as a failure already."""
        assert self.of(ASK, memory) == []


class TestJudged:
    """What is carried to the attempts, to learn from their ends."""

    def test_weighed(self) -> None:
        """Of a weighed request: its cell, what was promised of each backend of the chain, the session as it was."""
        runtime, view, asked = compiled(), seen(), known(headers={"x-extproc-session": "s"}, max_tokens=9)
        memory = Memory("near/n", "n", "local", NOW)
        facts = choosing.informed(asked, view, memory, NOW)
        judged = choosing.judged(made(runtime, view, asked, memory), asked, facts, view, memory)
        assert judged is not None
        assert (judged.cell, judged.task, judged.promised, judged.limit, judged.cuts, judged.complex) == (
            "design.s.n", "design", {"big/b": 900, "more/m": 900}, 9, False, True)
        assert (judged.session, judged.signature, judged.turns, judged.memory, judged.shadow) == (
            facts.session, signature_of(ASK), 1, memory, False)

    @pytest.mark.parametrize("how", [{"model": "cloud"}, {"headers": {"x-extproc-cost": "batch"}}])
    def test_not_weighed(self, how: dict[str, Any]) -> None:
        """Of a request that was pinned or has its class nothing is learnt."""
        runtime, view, asked = compiled(), seen(), known(**how)
        assert choosing.judged(made(runtime, view, asked), asked, asked.signals, view, None) is None

    @pytest.mark.parametrize("down", [("big/b",), ("big/b", "more/m"), ("near/n",)])
    def test_forced(self, down: tuple[str, ...]) -> None:
        """What a backend that is down had a part in belongs to its session, and teaches nothing but what its client says."""
        knowledge = Knowledge()
        for backend in down:
            failing(knowledge, backend)
        runtime, view, asked = compiled(), seen(HARD, knowledge), known(headers=SESSION)
        decision = made(runtime, view, asked)
        judged = choosing.judged(decision, asked, asked.signals, view, None)
        assert decision.forced
        assert judged is not None
        assert (judged.cell, judged.counts, judged.session) == ("design.s.n", False, asked.signals.session)
        assert not made(runtime, seen(HARD, failing(Knowledge(), "more/m")), asked).forced

    @pytest.mark.parametrize(("how", "down", "escalates"), [
        ({"messages": IMAGE}, (), True), ({}, ("big/b",), True), ({}, ("near/n", "box/x"), True),
        ({"rated": EASY}, ("near/n", "box/x"), False), ({"headers": {"x-extproc-latency": "realtime"}}, (), False),
    ])
    def test_escalates(self, how: dict[str, Any], down: tuple[str, ...], escalates: bool) -> None:
        """What was worth the complex chain, or what no other can do, makes a session stay there; a class or an outage
        that sends it there does not. Its session is remembered in any case."""
        knowledge, rated = Knowledge(), how.get("rated", HARD)
        for backend in down:
            failing(knowledge, backend)
        headers = {**SESSION, **how.get("headers", {})}
        asked = known(headers=headers, **{k: v for k, v in how.items() if k == "messages"})
        runtime, view = compiled(), seen(rated, knowledge)
        memory = Memory("near/n", "n", "local", NOW)
        decision = made(runtime, view, asked, memory)
        judged = choosing.judged(decision, asked, asked.signals, view, memory)
        assert decision.route == "cloud"
        assert judged is not None
        assert (judged.session, judged.memory, judged.turns, judged.escalates) == (
            asked.signals.session, memory, 1, escalates)

    def test_for_a_word(self) -> None:
        """Of a pinned request the text is read where its client's word on the answer could be learnt; nothing else of it
        is counted, and no session begins."""
        runtime, view, asked = compiled(), seen(), known(headers=SESSION, model="cloud")
        judged = choosing.judged(made(runtime, view, asked), asked, asked.signals, view, None, read=True)
        assert judged is not None
        assert (judged.cell, judged.promised, judged.counts, judged.session, judged.shadow) == (
            "design.s.n", {"big/b": 900, "more/m": 900}, False, "", False)

    @pytest.mark.parametrize(("how", "extra", "tellable"), [
        ({"model": "cloud"}, "", True), ({"model": "near/n"}, "", False), ({"model": "big/of-a-client"}, "", False),
        ({}, "", False), ({"model": "cloud"}, "explain: {keep: 0s}", False), ({"model": "cloud", "text": " "}, "", False),
        ({"headers": {"x-extproc-cost": "batch"}}, "", True), ({"messages": IMAGE}, "", True),
        ({"model": "cloud", "headers": {"x-extproc-shadow": RID}}, "", False),
    ])
    def test_tellable(self, how: dict[str, Any], extra: str, tellable: bool) -> None:
        """Not where it was read anyway, nobody could say a word, or smart routing has no use for it."""
        runtime, view, asked = compiled(extra), seen(), known(**how)
        assert choosing.tellable(runtime, made(runtime, view, asked), asked) is tellable

    def test_shadow(self) -> None:
        """Of a copy its chain is learnt, and nothing of sessions or dollars."""
        runtime, view = compiled(), seen()
        asked = known(headers={"x-extproc-shadow": RID, "x-extproc-route": "local", "x-extproc-session": "s"})
        judged = choosing.judged(made(runtime, view, asked), asked, asked.signals, view, None)
        assert judged is not None
        assert (judged.shadow, judged.complex, judged.session, judged.cell, judged.promised) == (
            True, False, "", "design.s.n", {"near/n": 500, "box/x": 500})

    @pytest.mark.parametrize(("fields", "cuts"), [({}, False), ({"max_tokens": 1}, True)])
    def test_cut(self, fields: dict[str, Any], cuts: bool) -> None:
        """Answers that are meant to be cut are marked."""
        runtime, view = compiled(), seen()
        asked = known(headers={"x-extproc-shadow": RID, "x-extproc-route": "local"}, **fields)
        judged = choosing.judged(made(runtime, view, asked), asked, asked.signals, view, None)
        assert judged is not None and judged.cuts is cuts


class TestMirror:
    """The copy that a shadow gets."""

    @staticmethod
    def copies(extra: str = SHADOWED, rated: Complexity = HARD, shadow: str = "", **how: Any) -> list[Mirror]:
        runtime, headers = compiled(extra), {**HEADERS, **({"x-extproc-shadow": shadow} if shadow else {})}
        view = View(runtime.config.routing, rate=lambda _: rated)
        asked = known(**how)
        asked = msgspec.structs.replace(asked, shadow=shadow)
        return choosing.mirror(made(runtime, view, asked), asked, headers, RID)

    def test_copy(self) -> None:
        """The same body to the same path, pinned to the shadow, with its key and without its session or its class."""
        [copy] = self.copies()
        assert (copy.chain, copy.path, copy.body) == ("local", "/v1/chat/completions?beta=1", known().body)
        assert copy.headers == {
            "authorization": "Bearer k", "content-type": "application/json", "user-agent": "u",
            "x-extproc-route": "local", "x-extproc-shadow": RID}

    @pytest.mark.parametrize("how", [
        {"shadow": "other"}, {"model": "local"}, {"rated": EASY}, {"extra": ""},
    ])
    def test_none(self, how: dict[str, Any]) -> None:
        """No copy of a copy, nor where the request goes to that chain anyway."""
        assert self.copies(**how) == []

    def test_no_count(self) -> None:
        """A token count is not asked twice."""
        runtime, asked = compiled(SHADOWED), known()
        asked = msgspec.structs.replace(asked, signals=msgspec.structs.replace(asked.signals, task="count"))
        view = View(runtime.config.routing, rate=lambda _: Complexity(0, ""))
        decision = msgspec.structs.replace(made(runtime, view, asked), route="cloud")
        assert choosing.mirror(decision, asked, HEADERS, RID) == []
