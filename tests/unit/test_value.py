"""Weighing one chain against the other: what goes in, what the session and the aim make of it, and the words for it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from extproc.core.pricing import FREE, NANO
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.endings import Outcome
from extproc.core.routing.explanation import text
from extproc.core.routing.habits import LEAST, USUAL
from extproc.core.routing.learning import explores
from extproc.core.routing.objective import expected_price
from extproc.core.routing.sessions import Memory
from extproc.core.routing.value import Valued, Weighing, by_value
from extproc.core.routing.view import Knowledge, View
from extproc.runtime import Runtime
from tests.routing_kit import EASY, HARD, LARGE, asked, choose, compiled, seen, taught
from tests.stage_kit import NOW, RID

MIDDLE = Complexity(0.48, "so so", "generate", 0.8, 0.92)
WARM = Memory("big/b", "b", "cloud", NOW - 1000, warm_tokens=3000, escalated=True, turns=3)


def weighed(runtime: Runtime | None = None, view: View | None = None, rated: Complexity = HARD, *, gone: str = "",
            memory: Memory | None = None, rid: str = RID, text: str = "x" * 4000, **also: Any) -> Valued:
    """Weigh a request of about a thousand tokens."""
    runtime = runtime or compiled()
    facts = msgspec.structs.replace(asked(text=text)[0], **also)
    view = view or seen(rated, runtime=runtime)
    chains = runtime.chains
    return by_value(view, runtime.config.routing.smart, Weighing(
        facts, chains["local"].backends, chains["cloud"].backends, memory, gone, NOW, rid))


class TestSides:
    """What is expected of each side."""

    def test_both(self) -> None:
        """The backend that is tried first, its chance, the price of the request with the usual answer of its task."""
        made = weighed(rated=MIDDLE)
        tokens = asked(text="x" * 4000)[0].input_tokens
        assert (made.simple_side.backend, made.simple_side.chain, made.simple_side.price) == ("near/n", "local", 0)
        assert (made.complex_side.backend, made.complex_side.chain) == ("big/b", "cloud")
        assert made.complex_side.price == expected_price(LARGE, tokens, USUAL["generate"])
        assert (made.simple_side.chance, made.complex_side.chance) == (0.8, 0.92)
        assert made.cell == "generate.m.n"

    def test_the_limit(self) -> None:
        """No answer is expected to be longer than the request allows."""
        short, long = weighed(max_tokens=10), weighed(max_tokens=None)
        assert short.complex_side.price is not None and long.complex_side.price is not None
        assert long.complex_side.price - short.complex_side.price == (USUAL["design"] - 10) * 15_000

    def test_time(self) -> None:
        """Speeds count once both sides have streamed a few answers."""
        known = Knowledge()
        for backend, first in (("near/n", 200), ("big/b", 2200)):
            for _ in range(LEAST):
                known.health.note(Outcome(backend, backend.partition("/")[0], "ok", first_event_ms=first), NOW)
                assert weighed(view=seen(knowledge=known)).weighed.waiting == 0
                known.habits.note("design", backend, 100, first, first + 1000)
        made = weighed(view=seen(knowledge=known))
        assert made.simple_side.latency_ms is not None and made.complex_side.latency_ms is not None
        wait = made.complex_side.latency_ms - made.simple_side.latency_ms
        assert 1500 < wait < 3000
        assert made.weighed.waiting == wait * (made.weighed.value // 200) // 1000 > 0

    def test_what_was_learnt(self) -> None:
        """Outcomes move the chance of their cell and backend, for that organisation alone."""
        known = taught()
        for _ in range(30):
            known.learned("default").note("generate.m.n", "near/n", False, 5, NOW // 86_400_000, prior=0.8)
        made = weighed(view=seen(MIDDLE, known))
        assert made.simple_side.chance < 0.3 < made.complex_side.chance == 0.92
        assert made.complex
        assert weighed(view=seen(MIDDLE, known), org="other").simple_side.chance == 0.8

    def test_what_the_operator_believes(self) -> None:
        """Priors in the file move the reading of a text."""
        believed = compiled("routing: {smart: {priors: {near: {design: 0.05}}}}")
        plain, other = choose(text="design a cache", view=View(compiled().config.routing)), choose(
            believed, text="design a cache", view=View(believed.config.routing))
        assert plain.valued is not None and other.valued is not None
        assert other.valued.simple_side.chance < plain.valued.simple_side.chance


class TestPrices:
    """Sides that have no price, or cost nothing."""

    @pytest.mark.parametrize("price", [None, LARGE])
    def test_unpriced(self, price: Any) -> None:
        """One success in eight, whether the price is known or not; the reason says what is not."""
        for gain, goes in ((0.12, False), (0.13, True)):
            made = weighed(compiled(price=price), rated=Complexity(0.5, "w", "edit", 0.7, 0.7 + gain))
            assert made.complex is goes
            assert ("price of big/b not known" in made.reason) is (price is None)

    def test_free(self) -> None:
        """A complex side that costs nothing still has to add one success in eight."""
        free = compiled(price=FREE)
        assert weighed(free, rated=Complexity(0.5, "w", "edit", 0.7, 0.83)).complex
        low = weighed(free, rated=Complexity(0.4, "w", "edit", 0.7, 0.82))
        assert not low.complex
        assert low.choice is not None and abs(low.choice.threshold.gain - 125_000) < 10

    def test_dollars_need_a_price(self) -> None:
        """Dollars a day are not spent on what nobody knows the price of."""
        made = weighed(compiled("routing: {smart: {aim: {usd_per_day: 10}}}", price=None))
        assert not made.complex
        assert made.reason == (
            "simple (price of big/b not known: $10 a day could not be held): hard words")


LOCAL_ONLY = """
backends:
  big: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: local}
  near: {schema: openai, base_url: "http://127.0.0.1:2/v1", location: local}
chains: {cloud: [big/b], local: [near/n]}
"""


class TestSessions:
    """What is warm, who stays, what it counts."""

    def test_warm(self) -> None:
        """What the session's backend has cached makes its side cheaper, and no other; not when it is cold again."""
        plain, warm = weighed(), weighed(memory=msgspec.structs.replace(WARM, warm_tokens=500))
        assert (warm.complex_side.warm_tokens, warm.complex_side.saved) == (500, 500 * 2700)
        assert warm.simple_side == plain.simple_side
        cold = weighed(memory=msgspec.structs.replace(WARM, at=NOW - 400_000))
        assert cold.complex_side == plain.complex_side

    def test_stays(self) -> None:
        """A session that stays is not decided by the aim, and counts for it."""
        runtime = compiled("routing: {smart: {aim: {usd_per_day: 10}}}")
        made = weighed(runtime, rated=EASY, memory=WARM)
        assert (made.complex, made.choice, made.first) == (True, None, "big/b")
        assert made.counts == {"asked": 1, "sent": 1}
        assert made.reason.startswith("session stays with cloud, whose cache of 3000 tokens saves $0.0081 (easy words)")

    def test_the_money_is_spent(self) -> None:
        """Not even a session stays where it would exceed the day's dollars, and not in a tool loop either."""
        runtime = compiled("routing: {smart: {aim: {usd_per_day: 0}}}")
        for loop in (False, True):
            made = weighed(runtime, memory=WARM, in_tool_loop=loop)
            assert not made.complex
            assert "session leaves cloud: $0 of $0 for today are spent, and it would cost $" in made.reason

    def test_a_switch_costs(self) -> None:
        """A cache that a priced simple side would lose is named, and counts against the switch."""
        runtime = compiled("routing: {smart: {simple: fast}}")
        memory = Memory("more/m", "m", "fast", NOW - 1000, warm_tokens=900)
        facts = asked(text="x" * 4000)[0]
        made = by_value(seen(MIDDLE, runtime=runtime), runtime.config.routing.smart, Weighing(
            facts, runtime.chains["fast"].backends, runtime.chains["cloud"].backends, memory, "", NOW, RID))
        assert made.weighed.switch == 900 * 2700
        assert "switch -$0.00243" in made.reason

    def test_gone(self) -> None:
        """Why a session left stands behind the decision."""
        made = weighed(memory=Memory("near/n", "n", "local", NOW), gone="open")
        assert made.reason.endswith("; session leaves near/n: open")


class TestExploring:
    """A share of new conversations tries the other side."""

    @pytest.mark.parametrize(("rated", "side"), [(HARD, False), (EASY, True)])
    def test_explores(self, rated: Complexity, side: bool) -> None:
        """The id alone tells which, and the reason says it."""
        view = seen(rated, explore=0.2)
        tried = [weighed(view=view, rid=f"{number:032x}") for number in range(300)]
        assert [one.explored for one in tried] == [explores(f"{number:032x}", 0.2) for number in range(300)]
        assert 30 < sum(one.explored for one in tried) < 90
        for one in tried:
            assert one.complex is (side if one.explored else not side)
            assert one.reason.startswith("explored instead: ") is one.explored

    def test_never_a_session(self) -> None:
        """A conversation that has begun does not explore."""
        view = seen(EASY, explore=1.0)
        assert weighed(view=view).explored
        assert not weighed(view=view, memory=Memory("near/n", "n", "local", NOW)).explored
        assert not weighed(view=view, memory=WARM).explored

    @pytest.mark.parametrize(("extra", "price"), [("routing: {smart: {aim: {usd_per_day: 10}}}", LARGE), ("", None)])
    def test_never_unknown_money(self, extra: str, price: Any) -> None:
        """Nor where the day's dollars, or an unknown price, are at stake."""
        runtime = compiled(extra, price=price)
        assert not weighed(runtime, view=seen(EASY, runtime=runtime, explore=1.0)).explored

    def test_off(self) -> None:
        """By default nothing is tried."""
        assert not any(weighed(rid=f"{number:032x}").explored for number in range(200))


class TestAims:
    """Each aim's words reach the reason and the explanation."""

    @pytest.mark.parametrize(("smart", "reason"), [
        ("{}", "complex (+40.0 points in success at $"),
        ("{aim: quality}", "complex (+40.0 points in success at $"),
        ("{value_usd: 0.30}", "complex (+40.0 points in success at $0.3 = +$0.12, price -$0.0165: +$0.103)"),
        ("{value_usd: 0}", "simple (+40.0 points in success at $0 = +$0, price -$0.0165: -$0.0165)"),
        ("{threshold: 0.5}", "complex (score 1.0 >= 0.5)"),
        ("{aim: {cloud_share: 100%}}", "complex (among the 100% that gain most"),
        ("{aim: {cloud_share: 0%}}", "simple (not among the 0% that gain most"),
        ("{aim: {usd_per_day: 10}}", "complex (among the 100% that gain most, which the rest of today's $10 can pay"),
    ])
    def test_reason(self, smart: str, reason: str) -> None:
        """The reason begins with the side and the aim's own words, and ends with those of the text."""
        runtime = compiled(f"routing: {{smart: {smart}}}")
        made = weighed(runtime)
        assert made.reason.startswith(reason)
        assert made.reason.endswith("): hard words")

    def test_each_org_has_its_own(self) -> None:
        """What one organisation asks does not use up another's share."""
        runtime = compiled("routing: {smart: {aim: {cloud_share: 50%}}}")
        view = seen(runtime=runtime)
        for number in range(200):
            weighed(runtime, view, org="a", rid=f"{number}")
        first = weighed(runtime, view, org="b")
        assert first.choice is not None
        assert weighed(runtime, seen(runtime=runtime), org="b").choice == first.choice


class TestExplanation:
    """What is kept of it."""

    def test_parts(self) -> None:
        """The parts of the value add up, both sides are candidates, and one is used."""
        made = choose(text="x" * 4000).explanation
        assert made.parts["gap"] == sum(amount for name, amount in made.parts.items() if name != "gap")
        assert [(one.backend, one.chain, one.used) for one in made.candidates] == [
            ("big/b", "cloud", True), ("more/m", "cloud", False), ("near/n", "local", False)]
        assert made.candidates[0].chance == 0.9 and made.candidates[2].chance == 0.5
        assert (made.aim, made.cell, made.task, made.score, made.words) == (
            "balanced", "design.m.n", "design", 0.9, ("hard words",))
        assert (made.p_local, made.p_cloud) == (0.5, 0.9)
        assert "simple below a gain of +12.5 points" in made.counterfactual[0]

    def test_session(self) -> None:
        """A session's stay, and its leaving, with a few characters of its id."""
        stays = choose(rated=EASY, memory=WARM, also={"session": "0123456789abcdef"}).explanation
        assert stays.session is not None
        assert (stays.session.id, stays.session.moved) == ("01234567", False)
        assert "0123456789" not in str(stays)
        assert "without the session it would have been weighed anew" in stays.counterfactual
        leaves = choose(memory=msgspec.structs.replace(WARM, backend="old/o")).explanation
        assert leaves.session is not None and leaves.session.moved

    def test_dropped(self) -> None:
        """Backends that cannot serve are named with the reason, and what would have made them candidates."""
        runtime = compiled(base=LOCAL_ONLY.replace("chains: {cloud: [big/b], local: [near/n]}", """  blind:
    {schema: openai, base_url: "http://127.0.0.1:3/v1", location: local, lacks: [tools]}
chains: {cloud: [big/b], local: [blind/x, near/n]}"""))
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        made = choose(runtime, rated=EASY, tools=tools).explanation
        assert [(one.backend, one.dropped) for one in made.candidates if one.dropped] == [("blind/x", "lacks tools")]
        assert "without tools blind/x would have been a candidate" in made.counterfactual

    def test_in_words(self) -> None:
        """It reads."""
        told = text(choose(text="x" * 4000).explanation)
        assert "aim         balanced" in told
        assert "value       worth +$" in told

    def test_money_is_whole(self) -> None:
        """All amounts are whole nano-dollars."""
        made = choose(text="x" * 4000)
        assert made.valued is not None
        assert all(isinstance(amount, int) for amount in made.explanation.parts.values())
        assert 0 < made.valued.weighed.value < NANO
