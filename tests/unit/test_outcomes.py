"""What answers and people's next words tell of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.conversation import Done, Event, Failure, Start, Stop, TextDelta, ThinkingDelta, ToolDelta, ToolStart
from extproc.core.errors import Problem
from extproc.core.events import End
from extproc.core.routing.outcomes import (
    LONGEST_ASK,
    MOST_CALLS,
    SMALL_LIMIT,
    WEIGHTS,
    Asked,
    Facts,
    Watch,
    complains,
    outcome_of,
    reask,
    repeats,
    signature_of,
)
from extproc.core.usage import Tokens


def ended(**fields: Any) -> End:
    """An attempt that ended well, but for what is given."""
    base: dict[str, Any] = {
        "attempt": 1, "backend": "qwen", "model": "q", "outcome": "exact", "final": True,
        "tokens": Tokens(input=10, output=20), "cost": 0, "status": 200, "duration_ms": 5, "finish_reason": "end",
    }
    return End(**(base | fields))


class TestOutcomes:
    """The end of an attempt."""

    @pytest.mark.parametrize("finish", ["end", "tool_use", "stop_sequence", "pause"])
    def test_success(self, finish: str) -> None:
        """A whole answer without a visible flaw is a success of the least weight."""
        assert outcome_of(ended(finish_reason=finish), Facts()) == (True, 1, "success")

    @pytest.mark.parametrize("kind", ["upstream", "timeout"])
    @pytest.mark.parametrize("outcome", ["failed", "estimated"])
    def test_errors(self, kind: Any, outcome: str) -> None:
        """Nonsense, a broken stream and silence are failures, before and after the first byte."""
        found = outcome_of(ended(outcome=outcome, problem=Problem(kind, "x"), finish_reason=""), Facts())
        assert found == (False, WEIGHTS["error"], "error")

    @pytest.mark.parametrize("kind", [
        "invalid_request", "context_length", "too_large", "rate_limit", "quota", "overloaded", "unavailable",
        "authentication", "permission", "not_found",
    ])
    def test_nobodys_fault(self, kind: Any) -> None:
        """The client's errors, capacity, credentials and names teach nothing of how good a backend is."""
        assert outcome_of(ended(outcome="failed", problem=Problem(kind, "x"), status=400), Facts()) is None

    @pytest.mark.parametrize(("status", "failed"), [
        (200, True), (500, True), (0, True), (401, False), (403, False), (502, False), (503, False), (504, False),
    ])
    def test_outages(self, status: int, failed: bool) -> None:
        """A provider that is out of reach is no worse at its tasks; one that breaks on a request is."""
        found = outcome_of(ended(outcome="failed", problem=Problem("upstream", "x", status=502), status=status), Facts())
        assert (found is not None) is failed

    def test_client_cuts(self) -> None:
        """A client that left teaches nothing, whatever had been seen by then."""
        assert outcome_of(ended(outcome="estimated", finish_reason=""), Facts(flaws=("empty", "tool_call"))) is None

    def test_unknown_usage(self) -> None:
        """An answer that was whole but told no usage is a success like any other."""
        assert outcome_of(ended(outcome="estimated"), Facts()) == (True, 1, "success")

    @pytest.mark.parametrize("flaw", ["tool_call", "unknown_tool", "leaked_call"])
    def test_tool_calls(self, flaw: str) -> None:
        """A call that cannot be carried out is a failure."""
        found = outcome_of(ended(finish_reason="tool_use"), Facts(flaws=(flaw,)))
        assert found == (False, WEIGHTS["tool_call"], "tool_call")

    @pytest.mark.parametrize(("finish", "facts", "failed"), [
        ("length", Facts(), True), ("length", Facts(limit=SMALL_LIMIT), False),
        ("length", Facts(limit=SMALL_LIMIT + 1), True), ("length", Facts(limit=32_000, clamped=True), False),
        ("length", Facts(limit=32_000, cuts=True), False), ("context", Facts(limit=10), True),
        ("context", Facts(clamped=True), False), ("length", Facts(limit=10, flaws=("tool_call",)), False),
    ])
    def test_truncated(self, finish: str, facts: Facts, failed: bool) -> None:
        """An answer cut by length is a failure, unless the client or the gateway meant it to be; never a success."""
        found = outcome_of(ended(finish_reason=finish), facts)
        assert found == ((False, WEIGHTS["truncated"], "truncated") if failed else None)

    def test_empty(self) -> None:
        """An answer with nothing in it is a failure, except where nothing may be right."""
        assert outcome_of(ended(), Facts(flaws=("empty",))) == (False, WEIGHTS["empty"], "empty")
        assert outcome_of(ended(), Facts(flaws=("empty",), cuts=True)) is None

    def test_filtered(self) -> None:
        """A provider's content filter teaches nothing, whatever it left of the answer."""
        for found in ((), ("empty",), ("tool_call",)):
            assert outcome_of(ended(finish_reason="filtered"), Facts(flaws=found)) is None

    def test_pause(self) -> None:
        """A turn that is paused while the provider's own tools run may have no word yet."""
        assert outcome_of(ended(finish_reason="pause"), Facts(flaws=("empty",))) == (True, 1, "success")


def flaws(*events: Event, tools: Sequence[str] | None = ("read", "sh")) -> tuple[str, ...]:
    """The flaws of an answer."""
    watch = Watch(tools)
    watch.feed((Start(), *events, Stop("end"), Done()))
    return watch.flaws()


def called(*pieces: str, name: str = "read", kind: Any = "function", index: int = 0) -> list[Event]:
    """A tool call, its arguments in pieces."""
    return [ToolStart(index, f"c{index}", name, kind), *[ToolDelta(index, piece) for piece in pieces]]


class TestWatch:
    """The flaws of an answer, read from its events."""

    def test_none(self) -> None:
        """Text, thinking and text, calls with good arguments or none, and freeform calls are fine."""
        assert flaws(TextDelta("hello")) == ()
        assert flaws(ThinkingDelta("hm"), TextDelta("hello")) == ()
        assert flaws(*called('{"a":', ' [1]}'), *called(index=1), *called("  ", index=2)) == ()
        assert flaws(*called("*** Begin Patch", name="sh", kind="custom")) == ()

    @pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", '"x"', "null", '{"a": 1}}', "{a: 1}", "read it", "\ud800"])
    def test_arguments(self, arguments: str) -> None:
        """Arguments that are no JSON object are a flaw, however they are cut."""
        assert flaws(*called(arguments)) == ("tool_call",)
        assert flaws(*called(*arguments)) == ("tool_call",)

    def test_one_of_many(self) -> None:
        """One bad call among good ones is a flaw, with the calls interleaved."""
        first, second = called('{"a"', ': 1}'), called('{"b"', ': 1', index=1)
        mixed = [event for pair in zip(first, second, strict=True) for event in pair]
        assert flaws(*mixed) == ("tool_call",)

    def test_unknown_tool(self) -> None:
        """A call of a tool that the client did not offer is a flaw."""
        assert flaws(*called("{}", name="write")) == ("unknown_tool",)

    def test_tools_not_known(self) -> None:
        """Where nobody knows the tools any name may be right; arguments are checked all the same."""
        assert flaws(*called("{}", name="write"), TextDelta("<tool_call>"), tools=None) == ()
        assert flaws(*called("{", name="write"), tools=None) == ("tool_call",)
        assert flaws(tools=None) == ()

    def test_not_read(self) -> None:
        """An answer whose events nobody read, because its bytes pass through, has no flaws."""
        assert Watch(["read"]).flaws() == ()

    @pytest.mark.parametrize("mark", ["<tool_call>", "<function=", "[TOOL_CALLS]"])
    def test_leaked(self, mark: str) -> None:
        """A call left in the text is a flaw where tools were offered, however the text is cut."""
        assert flaws(*map(TextDelta, f"so: {mark} x")) == ("leaked_call",)
        assert flaws(TextDelta(f"so: {mark} x"), tools=()) == ()
        assert flaws(TextDelta(f"I write {mark} now"), *called("{}")) == ()
        for cut in range(1, len(mark)):
            assert flaws(TextDelta(f"a[0] < b <{mark[:cut]}"), TextDelta(mark[cut:])) == ("leaked_call",)
            assert flaws(TextDelta(mark[:cut]), TextDelta(" "), TextDelta(mark[cut:])) == ()

    def test_empty(self) -> None:
        """No text and no call is empty; thinking and blanks alone are so too."""
        assert flaws() == ("empty",)
        assert flaws(ThinkingDelta("hm"), TextDelta(" \n")) == ("empty",)

    def test_failure(self) -> None:
        """What a provider's error cuts off is not looked at further."""
        watch = Watch(["read"])
        watch.feed([TextDelta("a"), Failure("upstream", "x"), *called("{")])
        assert watch.flaws() == ()

    def test_bounded(self) -> None:
        """Arguments without end are not kept, and count as good."""
        watch = Watch(["read"])
        watch.feed(called())
        for _ in range(600):
            watch.feed([ToolDelta(0, "{" * 4096)])
        assert watch.flaws() == ()
        assert sum(len(piece) for piece in watch._calls[0]) <= (1 << 20) + 4096

    def test_bounded_pieces(self) -> None:
        """A call that comes by the letter, and calls without end, do not become millions of objects."""
        watch = Watch(["read"])
        watch.feed(called('{"a": "', *"ab" * 50_000, '"}'))
        assert len(watch._calls[0]) < 5000
        assert watch.flaws() == ()
        for index in range(5000):
            watch.feed(called("{}", index=index))
        assert len(watch._calls) <= MOST_CALLS

    @given(st.lists(st.one_of(
        st.builds(TextDelta, st.text()), st.builds(ToolDelta, st.integers(-1, 3), st.text()),
        st.builds(ToolStart, st.integers(0, 3), st.text(), st.text()), st.builds(Stop, st.just("end")))))
    def test_anything(self, events: list[Event]) -> None:
        """Any sequence of events has some flaws or none; nothing is raised."""
        assert set(flaws(*events)) <= {"tool_call", "unknown_tool", "leaked_call", "empty"}


SAME = [
    ("fix the failing test in tests/test_auth.py please", "please fix the failing test in tests/test_auth.py"),
    ("why does the login page return 500 after the update", "Why does the login page return a 500 after update?"),
    ("Write a function that merges two sorted lists", "write a function that merges two sorted lists!!"),
    ("add a dark mode toggle to the settings page and store it in local storage",
     "add a dark mode toggle to the settings page and persist it in localStorage"),
    ("Corrige el error en la página de inicio de sesión", "corrige el error en la página de inicio de sesión por favor"),
    ("请修复登录页面的错误", "请修复登录页面的这个错误"),
]
OTHER = [
    ("fix the failing test in tests/test_auth.py please", "fix the failing test in tests/test_user.py please"),
    ("why does the login page return 500 after the update", "why does the logout page crash before the update"),
    ("Write a function that merges two sorted lists", "Write a function that splits a list into two halves"),
    ("now do the same for the second file", "now do the same for the third file"),
    ("Explain this function: def f(x): return x+1", "Explain this function: def g(y): return y*2"),
    ("请修复登录页面的错误", "请写一个排序算法的例子"),
    ("continue", "continue"), ("yes, do it", "yes, do it"), ("", ""),
]
COMPLAINTS = [
    "That's wrong.", "That’s not what I asked for", "no, that's wrong", "No. Still fails.", "still fails with the same error",
    "It still doesn't work", "doesn't work", "try again", "Wrong!", "Hmm, still broken", "you forgot the tests",
    "same error:\n```\nTraceback", "but it still crashes", "nope", "that did not work",
    "falsch", "Nein, das ist falsch", "geht immer noch nicht", "Das funktioniert nicht.", "immer noch der gleiche Fehler",
    "essaie encore", "Ça ne marche pas", "non, c'est faux", "toujours la même erreur",
    "no funciona", "No, eso está mal", "sigue fallando", "inténtalo de nuevo",
    "不对", "还是报错,请再看看", "错了", "再试一次",
]
FINE = [
    "no", "no, use the other file", "no problem, go on", "that's not a problem", "thanks, now add tests", "wrongly named file?",
    "nothing works without coffee", "still", "It works now", "what does `try again` print?", "Explain why this doesn't work",
    "nein danke", "das ist nicht schlimm", "non merci", "ce n'est pas grave", "no gracias", "不行的话就算了", "对称矩阵是什么",
    "incorrectly indented line 3: fix it", "", "   ", "😀", "fix the test that still fails", "you are right",
]


class TestAskingAgain:
    """People who ask again."""

    @pytest.mark.parametrize(("before", "after"), SAME)
    def test_same(self, before: str, after: str) -> None:
        """Nearly the same words are the same ask."""
        assert repeats(signature_of(before), after)

    @pytest.mark.parametrize(("before", "after"), OTHER)
    def test_other(self, before: str, after: str) -> None:
        """Other words are another ask, and words too few to tell are none."""
        assert not repeats(signature_of(before), after)

    @pytest.mark.parametrize("ask", COMPLAINTS)
    def test_complaint(self, ask: str) -> None:
        """Openings of people who got a wrong answer, in five languages."""
        assert complains(ask)

    @pytest.mark.parametrize("ask", FINE)
    def test_no_complaint(self, ask: str) -> None:
        """A bare no may answer a question, and harmless openings are harmless."""
        assert not complains(ask)

    def test_reask(self) -> None:
        """A complaint or the same ask in a new message is a failure of the answer before it."""
        before = Asked("debug.m.t", "qwen/q", 660, signature_of(SAME[0][0]), 3)
        assert reask(before, "still fails", 4) == (False, WEIGHTS["complaint"], "complaint")
        assert reask(before, SAME[0][1], 4) == (False, WEIGHTS["repeated"], "repeated")
        assert reask(before, "thanks! now the other one please", 4) is None

    def test_what_is_no_reask(self) -> None:
        """Tool results, a request sent again without a new message, and an answer that has failed already count no
        more."""
        before = Asked("debug.m.t", "qwen/q", 660, signature_of(SAME[0][0]), 3)
        assert reask(before, "still fails", 4, in_tool_loop=True) is None
        assert reask(before, "still fails", 3) is None
        settled = Asked("debug.m.t", "qwen/q", 660, signature_of(SAME[0][0]), 3, settled=True)
        assert reask(settled, "still fails", 4) is None

    def test_long_asks(self) -> None:
        """What programs write is not compared: its constant parts would make it look repeated."""
        rules = "Answer with SEARCH/REPLACE blocks only. " * 40
        assert len(rules) > LONGEST_ASK
        assert signature_of(rules + "add a test") == 0
        assert not repeats(signature_of(rules + "add a test"), rules + "add a test")

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """A signature has 63 bits, agrees with itself, and does not hold the text; nothing is raised."""
        complains(text)
        found = signature_of(text)
        assert 0 <= found < 1 << 63
        assert found == signature_of(text)
        assert found == 0 or repeats(found, text)

    def test_surrogates(self) -> None:
        """Half a character does no harm."""
        assert signature_of("a b c d \ud800") > 0
        assert not complains("\ud800")
