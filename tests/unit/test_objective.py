"""The value of a stronger backend, and the aims that an operator can set."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.objective import (
    LARGE,
    MONDAY,
    ORDERS,
    SMALL,
    Shared,
    break_even,
    days,
    request,
    run_day,
    share_missed,
    sizes,
    traffic,
)
from extproc.config import parse
from extproc.config.smart import TIMES, VALUES, PriorConfig, SmartConfig
from extproc.core.pricing import FREE, NANO, Price, Rate, per_million
from extproc.core.routing.aims import ByDollars, ByScore, ByShare, ByValue, Choice, aim_of
from extproc.core.routing.habits import LEAST, MEMORY, MOST_BACKENDS, USUAL, Habits
from extproc.core.routing.objective import (
    MILLION,
    NEVER,
    Side,
    Weighed,
    Worth,
    expected_price,
    money,
    points,
    prior_for,
    saving,
    side,
    threshold,
    weigh,
)
from extproc.core.routing.pace import HOUR, Pace
from extproc.core.routing.quota import SLACK, WINDOW, Quota
from extproc.runtime import Runtime
from extproc.textmodel import CLOUD_PRIOR, LOCAL_PRIOR, TASKS

CENT = NANO // 100
FILE = """
backends:
  gpt: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud, api_key: K}
  qwen: {schema: openai, base_url: "http://127.0.0.1:2/v1", location: local}
chains: {cloud: [gpt/g, qwen/q], local: [qwen/q]}
"""
RUNTIME = Runtime(parse(FILE, "gateway.yaml", Path()), lambda _, __: (LARGE, None))
CLOUD, LOCAL = RUNTIME.backends["gpt/g"], RUNTIME.backends["qwen/q"]


def smart(**given: Any) -> SmartConfig:
    return SmartConfig.model_validate(given)


def one(chance: float = 0.9, price: int | None = 0, **parts: Any) -> Side:
    return Side("b/m", "chain", chance, price, **parts)


def plain(gap: int, price: int | None = CENT) -> Weighed:
    """A weighed request of this gap whose parts do not matter."""
    worth = gap + (price or 0)
    return Weighed(gap, worth * MILLION // NANO, worth, price or 0, 0, 0, NANO, price)


def choose(aim: str, gain: int, price: Price | None, context: int) -> Choice:
    """What an aim says of a request of this gain (in millionths) whose simple side is free."""
    cloud = msgspec.structs.replace(CLOUD, price=price)
    low, high = one(0.5), side(cloud, "complex", 0.5 + gain / MILLION, context, 500)
    return aim_of(smart(aim=aim)).decide(weigh(low, high, *Worth(smart(aim=aim)).of(high)), 0)


def goes(aim: str, gain: int, price: Price | None, context: int) -> bool:
    return choose(aim, gain, price, context).complex


class TestConfig:
    """What `routing.smart` means."""

    @pytest.mark.parametrize(("given", "kind", "times"), [
        ({}, "balanced", 8), ({"aim": "quality"}, "quality", 30), ({"aim": "balanced"}, "balanced", 8),
        ({"aim": "savings"}, "savings", 6),
    ])
    def test_times(self, given: dict[str, Any], kind: str, times: int) -> None:
        """A word makes a success worth so many times the price of the complex side; a second costs a 200th of it."""
        config = smart(**given)
        assert (config.kind, config.times, config.wait_nano) == (kind, times, None)
        assert Worth(config).of(one(price=3 * CENT)) == (3 * times * CENT, 3 * times * CENT // 200)

    @pytest.mark.parametrize(("given", "kind", "value"), [
        ({"aim": {"cloud_share": "20%"}}, "cloud_share", "1"), ({"aim": {"usd_per_day": 10}}, "usd_per_day", "0.1"),
        ({"complex_share": 0.2}, "cloud_share", "1"), ({"threshold": 0.5}, "threshold", "1"),
        ({"aim": "savings", "value_usd": 0.3}, "savings", "0.3"), ({"value_usd": 0}, "balanced", "0"),
    ])
    def test_value(self, given: dict[str, Any], kind: str, value: str) -> None:
        """The other aims, and a value that is given, are amounts whatever a request costs."""
        config, nano = smart(**given), int(Fraction(value) * NANO)
        assert (config.kind, config.times, config.value_nano) == (kind, None, nano)
        for price in (None, 0, CENT, 50 * NANO):
            assert Worth(config).of(one(price=price)) == (nano, nano // 200)

    def test_second(self) -> None:
        """What a second of waiting costs can be given, also as nothing."""
        assert Worth(smart(second_usd=0.002)).of(one(price=CENT)) == (8 * CENT, 2_000_000)
        assert Worth(smart(second_usd=0)).of(one(price=CENT)) == (8 * CENT, 0)

    def test_warm(self) -> None:
        """What the complex side's cache saves makes a request cheaper, and a success no less worth."""
        cold, warm = side(CLOUD, "s", 0.9, 9000, 100), side(CLOUD, "s", 0.9, 9000, 100, warm_tokens=9000)
        worth = Worth(smart())
        assert warm.price is not None and cold.price is not None and warm.price < cold.price
        assert worth.of(warm) == worth.of(cold) == (8 * cold.price, 8 * cold.price // 200)

    @pytest.mark.parametrize("price", [None, 0])
    def test_no_price(self, price: int | None) -> None:
        """Without a price at the complex side a success is worth an amount."""
        assert Worth(smart()).of(one(price=price)) == (NANO // 10, NANO // 2000)

    @pytest.mark.parametrize("given", [{"aim": {"cloud_share": "12.5%"}}, {"aim": {"cloud_share": 0.125}},
                                       {"complex_share": 0.125}, {"complex_share": "12.5 %"}])
    def test_share(self, given: dict[str, Any]) -> None:
        """A share is written in per cent or as a fraction; complex_share is the older name."""
        assert smart(**given).share == 0.125

    def test_dollars(self) -> None:
        """Dollars are exact: 0.1 is a tenth."""
        assert smart(aim={"usd_per_day": 0.1}).day_nano == NANO // 10

    @pytest.mark.parametrize("aim", ["", "QUALITY", 3, [], {}, {"word": "quality"}, {"cloud_share": None},
                                     {"usd_per_day": "10"}, {"cloud_share": float("nan")}, {"cloud_share": True}])
    def test_refused(self, aim: object) -> None:
        """What is no aim is refused."""
        with pytest.raises(ValueError, match=r"aim\b.*\n.*(expected|valid number)"):
            smart(aim=aim)

    def test_tasks(self) -> None:
        """Priors, and the usual lengths of answers, name the tasks of the text model."""
        assert tuple(PriorConfig.model_fields) == TASKS == tuple(USUAL)

    def test_in_a_file(self) -> None:
        """The whole of it in a gateway.yaml."""
        config = parse(FILE + """
routing:
  smart:
    aim: {usd_per_day: 10}
    value_usd: 0.05
    priors: {gpt: {debug: 0.9}, gpt/g: {debug: 80%, chat: 1}}
    sessions: {sticky: false, keep: 2h}
""", "gateway.yaml", Path()).routing.smart
        assert (config.kind, config.value_nano, config.sessions.sticky, config.sessions.keep) == (
            "usd_per_day", NANO // 20, False, 7200.0)

    @pytest.mark.parametrize(("given", "kind"), [
        ({}, ByValue), ({"aim": "savings"}, ByValue), ({"threshold": 0.4}, ByScore), ({"complex_share": 0.4}, ByShare),
        ({"aim": {"cloud_share": 0.4}}, ByShare), ({"aim": {"usd_per_day": 4}}, ByDollars),
    ])
    def test_aims(self, given: dict[str, Any], kind: type[object]) -> None:
        """Each aim is decided in its own way."""
        assert type(aim_of(smart(**given))) is kind


class TestPriors:
    """What backends are believed to be good at."""

    def test_shipped(self) -> None:
        """By default it depends on where a backend is."""
        assert prior_for(smart(), CLOUD) == CLOUD_PRIOR
        assert prior_for(smart(), LOCAL) == LOCAL_PRIOR

    def test_given(self) -> None:
        """What the operator says goes before it, of one model before of its backend; the rest stays."""
        config = smart(priors={"qwen": {"debug": 0.5, "chat": 0.4}, "qwen/q": {"debug": "30%"}})
        prior = prior_for(config, LOCAL)
        assert prior == msgspec.structs.replace(LOCAL_PRIOR, debug=0.3, chat=0.4)


class TestPrice:
    """What a request is expected to cost."""

    def test_sum(self) -> None:
        """Input and output at their prices, exactly: 2,000 x 3 $ and 500 x 15 $ a million are 1.35 cents."""
        assert expected_price(LARGE, 2000, 500) == 13_500_000

    def test_warm(self) -> None:
        """Warm tokens are read at the price of the cache: 1,800 of the 2,000 at a tenth save 0.486 cents."""
        assert expected_price(LARGE, 2000, 500, 1800) == 13_500_000 - 4_860_000
        assert saving(LARGE, 1800) == 4_860_000

    def test_no_cache(self) -> None:
        """A provider without a price for its cache saves nothing."""
        plain_price = Price(LARGE.input, LARGE.output)
        assert expected_price(plain_price, 2000, 500, 1800) == 13_500_000
        assert saving(plain_price, 1800) == 0

    def test_writes(self) -> None:
        """What is to be written to the cache costs the price of that."""
        assert expected_price(LARGE, 2000, 0, writes=True) == 7_500_000

    def test_tiers(self) -> None:
        """A long prompt pays the price of its tier."""
        tiered = Price(Rate(per_million(1), ((1000, per_million(2)),)), Rate(per_million(0)))
        assert expected_price(tiered, 1001, 0) == 2002 * 1000

    def test_unknown(self) -> None:
        """An unknown price stays unknown, and saves nothing."""
        assert expected_price(None, 1, 1) is None
        assert saving(None, 10) == 0

    def test_side(self) -> None:
        """A side holds the price with what is warm, at most the prompt, and what that saved."""
        made = side(CLOUD, "cloud", 0.8, 1000, 100, latency_ms=5, warm_tokens=50_000)
        assert made == Side("gpt/g", "cloud", 0.8, 300_000 + 1_500_000, 5, 1000, 2_700_000)


class TestWeigh:
    """Gain x value - price - waiting - switch."""

    def test_parts(self) -> None:
        """Every part is what it says, and they add up."""
        weighed = weigh(one(0.66, 0, latency_ms=4000), one(0.82, CENT, latency_ms=10_000), NANO // 10, 500_000)
        assert (weighed.gain, weighed.worth, weighed.price, weighed.waiting, weighed.switch) == (
            160_000, 16_000_000, 10_000_000, 3_000_000, 0)
        assert weighed.gap == 3_000_000
        assert weighed.words() == ("+16.0 points in success at $0.1 = +$0.016, price -$0.01, waiting -$0.003: +$0.003")

    def test_switch_counts_once(self) -> None:
        """A warm cache is part of the gap as the price of a switch, and is not counted in the price again."""
        cold, warm = side(CLOUD, "s", 0.5, 9000, 100), side(CLOUD, "s", 0.5, 9000, 100, warm_tokens=9000)
        target = one(0.5, 5 * CENT)
        apart = weigh(cold, target, NANO, 0).gap - weigh(warm, target, NANO, 0).gap
        assert apart == saving(LARGE, 9000) == weigh(warm, target, NANO, 0).switch
        assert weigh(warm, target, NANO, 0).price == weigh(cold, target, NANO, 0).price

    def test_faster(self) -> None:
        """A side that answers sooner is worth more."""
        assert weigh(one(latency_ms=8000), one(latency_ms=2000), NANO, 500_000).gap == 3_000_000

    def test_unknown(self) -> None:
        """What is not known counts as no difference, and is named."""
        weighed = weigh(one(0.5, None, latency_ms=4), one(0.6, CENT), NANO, NANO)
        assert (weighed.gap, weighed.unknown) == (100_000_000, ("price of b/m",))
        assert "price of b/m not known" in weighed.words()

    @given(st.floats(), st.floats(), st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**10),
           st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7))
    def test_bounds(self, a: float, b: float, left: int, right: int, value: int, second: int, wait: int,
                    more: int) -> None:
        """Whatever the chances (out of range, not a number), the gap is whole and swaps its sign with the sides."""
        first, other = one(a if a == a else 0.5, left, latency_ms=wait), one(b if b == b else 0.5, right, latency_ms=more)
        there, back = weigh(first, other, value, second), weigh(other, first, value, second)
        assert -MILLION <= there.gain <= MILLION
        assert abs(there.gap + back.gap) <= 2  # of rounding


class TestThreshold:
    """What would have had to differ."""

    @given(st.integers(0, MILLION), st.integers(0, MILLION), st.integers(0, 10**9), st.integers(1, 10**10),
           st.integers(-10**9, 10**9))
    def test_exact(self, low: int, high: int, price: int, value: int, level: int) -> None:
        """At the gain (or value) that is told the decision is the complex side; just below it, it is not."""
        weighed = weigh(one(low / MILLION), one(high / MILLION, price), value, 0)
        told = threshold(weighed, level, chosen=weighed.gap > level)
        assert (weighed.gain >= told.gain) == (weighed.gap > level)
        if told.value is not None:
            assert (value >= told.value) == (weighed.gap > level)

    def test_words(self) -> None:
        """In words, for both decisions."""
        dear, cheap = weigh(one(0.7), one(0.8, 2 * CENT), NANO // 10, 0), weigh(one(0.7), one(0.8, CENT // 2), NANO // 10, 0)
        assert threshold(dear, 0, chosen=False).words == (
            "complex from a gain of +20.0 points on, or if a success were worth $0.2; the gain is +10.0 points")
        assert threshold(cheap, 0, chosen=True).words == (
            "simple below a gain of +5.0 points, or if a success were worth less than $0.05; the gain is +10.0 points")

    def test_never(self) -> None:
        """Where no gain would be enough it says so; where a success is worth nothing, too."""
        assert threshold(weigh(one(0.7), one(0.8, 2 * NANO), NANO, 0), 0, chosen=False).words.startswith("no gain is enough")
        assert threshold(weigh(one(0.7), one(0.8), 0, 0), 0, chosen=False).gain == NEVER

    @pytest.mark.parametrize(("nano", "text"), [
        (0, "$0"), (NANO, "$1"), (10 * NANO, "$10"), (CENT, "$0.01"), (1_234_567_891, "$1.23"), (16_000_000, "$0.016"),
        (42_123, "$0.0000421"), (-CENT, "-$0.01"), (7, "$0.000000007"),
    ])
    def test_money(self, nano: int, text: str) -> None:
        """Amounts are short, and small ones are not zero."""
        assert money(nano) == text
        assert money(-nano) == ("$0" if not nano else text[1:] if text[0] == "-" else f"-{text}")

    def test_points(self) -> None:
        """Chances differ by points of a hundred."""
        assert points(-12_345) == "-1.2 points"


class TestHabits:
    """What is expected of a request."""

    def test_usual(self) -> None:
        """Before anything is measured there is a table; what a request allows is never exceeded."""
        habits = Habits()
        assert (habits.output("debug"), habits.output("debug", 40), habits.output("unheard of")) == (600, 40, 300)
        assert habits.output("debug", -3) == 0

    def test_learns(self) -> None:
        """Answers move the mean of their task alone, and old ones are forgotten."""
        habits = Habits()
        for _ in range(50):
            habits.note("debug", "b", 100)
        assert 150 <= habits.output("debug") <= 200
        assert habits.output("edit") == USUAL["edit"]
        for _ in range(5 * MEMORY):
            habits.note("debug", "b", 1000)
        assert 980 <= habits.output("debug") <= 1000

    def test_speed(self) -> None:
        """The time of an answer is told once a few were streamed: first event, then so long per token."""
        habits = Habits()
        for number in range(LEAST):
            assert habits.latency_ms("b", 400, 100) is None, number
            habits.note("edit", "b", 200, 500, 500 + 200 * 20)
        assert habits.latency_ms("b", 400, 100) == 2400
        assert habits.latency_ms("b", None, 100) is None
        assert habits.latency_ms("other", 400, 100) is None

    @pytest.mark.parametrize("given", [(None, 1, 2), (0, 1, 2), (-4, 1, 2), (1 << 40, 1, 2), (5, None, 9), (5, 9, 1)])
    def test_ignored(self, given: tuple[Any, ...]) -> None:
        """What cannot be true is not learnt from, nor the speed of answers that were not streamed."""
        habits = Habits()
        for _ in range(2 * LEAST):
            habits.note("chat", "b", *given)
        assert habits.latency_ms("b", 1, 1) is None

    def test_bounded(self) -> None:
        """Names of backends cannot fill the memory."""
        habits = Habits()
        for number in range(2 * MOST_BACKENDS):
            for _ in range(LEAST):
                habits.note("chat", f"b/{number}", 10, 1, 11)
        assert habits.latency_ms(f"b/{MOST_BACKENDS - 1}", 1, 1) is not None
        assert habits.latency_ms(f"b/{MOST_BACKENDS}", 1, 1) is None


class TestByValue:
    """Quality, balanced, savings."""

    @pytest.mark.parametrize(("gap", "complex_"), [(1, True), (0, False), (-1, False)])
    def test_gap(self, gap: int, complex_: bool) -> None:
        """Complex exactly where the gap is above 0."""
        choice = ByValue().decide(plain(gap), 0)
        assert (choice.complex, choice.threshold.level) == (complex_, 0)

    @pytest.mark.parametrize(("aim", "times"), list(TIMES.items()))
    @pytest.mark.parametrize("price", [None, FREE, SMALL, LARGE])
    @pytest.mark.parametrize("context", [10, 2000, 200_000])
    def test_one_in_so_many(self, aim: str, times: int, price: Price | None, context: int) -> None:
        """A word asks for one success in so many, whatever a request costs, and where its price is unknown or nothing."""
        gain = MILLION // times
        assert goes(aim, gain + 100, price, context)
        assert not goes(aim, gain - 100, price, context)

    @pytest.mark.parametrize("price", [None, FREE, LARGE])
    def test_told(self, price: Price | None) -> None:
        """The gain that would have turned it is one in so many, and it is told."""
        for gain in (50_000, 200_000):
            choice = choose("balanced", gain, price, 2000)
            assert choice.complex is (gain == 200_000)
            assert abs(choice.threshold.gain - MILLION // 8) <= 1
            assert "a gain of +12.5 points" in choice.threshold.words

    def test_a_simple_side_with_a_price(self) -> None:
        """Only the difference must be earned: at half the price half the gain is enough."""
        def chosen(gain: float) -> bool:
            low, high = one(0.5, CENT // 2), one(0.5 + gain, CENT)
            return aim_of(smart()).decide(weigh(low, high, *Worth(smart()).of(high)), 0).complex

        assert chosen(0.0626)
        assert not chosen(0.0624)

    def test_waiting(self) -> None:
        """A second of waiting weighs as much as half a point of success."""
        def chosen(gain: float, seconds: int) -> bool:
            low, high = one(0.5, 0, latency_ms=1000), one(0.5 + gain, CENT, latency_ms=1000 + 1000 * seconds)
            return aim_of(smart()).decide(weigh(low, high, *Worth(smart()).of(high)), 0).complex

        for seconds in (-5, 0, 3, 10):
            assert chosen(0.1251 + 0.005 * seconds, seconds)
            assert not chosen(0.1249 + 0.005 * seconds, seconds)

    def test_warm(self) -> None:
        """A conversation whose cache is warm at the complex side needs less gain; warm at a priced simple side, more."""
        def least(low: Side, high: Side) -> int:
            return aim_of(smart()).decide(weigh(low, high, *Worth(smart()).of(high)), 0).threshold.gain

        cold, warm = side(CLOUD, "s", 0.5, 20_000, 500), side(CLOUD, "s", 0.5, 20_000, 500, warm_tokens=18_000)
        assert least(one(), warm) < least(one(), cold) == MILLION // 8 + 1
        assert least(warm, one(price=10 * CENT)) > least(cold, one(price=10 * CENT))


class TestByScore:
    """The older threshold."""

    @pytest.mark.parametrize(("gain", "complex_"), [(125_000, True), (123_000, False), (900_000, True), (-5, False)])
    def test_score(self, gain: int, complex_: bool) -> None:
        """0.5 is an expected gain of one success in eight, whatever it costs; the score has two digits."""
        weighed = weigh(one(0.1), one(0.1 + gain / MILLION, 50 * NANO), NANO, 0)
        choice = ByScore(0.5).decide(weighed, 0)
        assert choice.complex is complex_
        assert abs(choice.threshold.gain - 125_000) <= 1

    def test_all_and_none(self) -> None:
        """A threshold of 0 sends everything."""
        assert ByScore(0).decide(plain(-NANO), 0).complex


class TestByShare:
    """A share of requests."""

    @pytest.mark.parametrize("target", [0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8])
    @pytest.mark.parametrize("order", ORDERS)
    def test_kept(self, target: float, order: str) -> None:
        """From the 500th request on the share is within two points, in whatever order the gaps come."""
        assert share_missed(target, ORDERS[order]) <= 2.0

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(-3, 3) | st.integers(-10**9, 10**9), min_size=500, max_size=600),
           st.floats(0.05, 0.8))
    def test_any_order(self, gaps: list[int], target: float) -> None:
        """No order of gaps can move the share by more than a few requests."""
        quota, sent = Quota(), 0
        for number, gap in enumerate(gaps, 1):
            sent += quota.decide(gap, target)[0]
            assert abs(sent - target * number) <= SLACK + 1

    def test_the_greatest(self) -> None:
        """Those that gain most are chosen: nearly all of what the best possible choice would reach."""
        chance, trace = random.Random(9), sizes()
        gaps = [request(chance, trace).weighed.gap for _ in range(3000)]
        quota = Quota()
        reached = sum(gap for gap in gaps if quota.decide(gap, 0.2)[0])
        best = sum(sorted(gaps)[-600:])
        at_random = sum(gaps) * 0.2
        assert reached - at_random > 0.93 * (best - at_random)

    def test_none_and_all(self) -> None:
        """0 % is none, 100 % is all, whatever the gap."""
        assert not any(ByShare(0.0).decide(plain(NANO), 0).complex for _ in range(50))
        assert all(ByShare(1.0).decide(plain(-NANO), 0).complex for _ in range(50))

    def test_sessions_count(self) -> None:
        """Requests that sessions send are part of the share: the free ones make up for it, up and down."""
        aim, chance, sent = ByShare(0.3), random.Random(2), 0
        for _ in range(2000):
            gap = chance.randrange(NANO)
            if chance.random() < 0.2:
                aim.note(plain(gap), 0, sent=True)
                sent += 1
            else:
                sent += aim.decide(plain(gap), 0).complex
        assert abs(sent / 2000 - 0.3) < 0.02

    def test_too_many_sessions(self) -> None:
        """Where sessions alone exceed the share, nothing else goes, and it is made up for a bounded time only."""
        aim = ByShare(0.2)
        for _ in range(5000):
            aim.note(None, 0, sent=True)
        chosen = [aim.decide(plain(number % 7), 0).complex for number in range(1500)]
        assert not any(chosen[:900])
        assert any(chosen[1000:])

    def test_moving(self) -> None:
        """A share that moves is followed at once, without making up for what was right before."""
        quota, chance = Quota(), random.Random(4)
        sent = [quota.decide(chance.randrange(1000), 0.1 if number < 1500 else 0.6)[0] for number in range(2500)]
        assert abs(sum(sent[1600:]) / 900 - 0.6) < 0.03

    def test_deterministic(self) -> None:
        """The same requests are decided the same way."""
        def run() -> list[bool]:
            chance, trace, aim = random.Random(5), sizes(), ByShare(0.3)
            return [aim.decide(request(chance, trace).weighed, 0).complex for _ in range(300)]

        assert run() == run()

    def test_bounded(self) -> None:
        """It remembers so many gaps and no more."""
        quota = Quota(window=10)
        for gap in range(1000):
            quota.decide(gap, 0.5)
        assert quota.level(0.5) >= 985
        assert WINDOW == 1000

    def test_words(self) -> None:
        """It says what share is held and the level that was to be exceeded."""
        choice = ByShare(0.2).decide(plain(-CENT), 0)
        assert not choice.complex
        assert choice.why.startswith("not among the 20% that gain most (gap -$0.01, level +$0)")
        assert choice.share == 0.2


class TestByDollars:
    """Dollars a day."""

    @pytest.mark.parametrize("shape", ["office", "steady", "evening", "morning"])
    @pytest.mark.parametrize("workers", [1, 4])
    def test_used(self, shape: str, workers: int) -> None:
        """90 to 100 % of the amount is used where there is demand, on the first day and on one that is like it."""
        for day in days([shape] * 2, requests=4000, workers=workers):
            assert 0.9 <= day.used <= 1 + workers * day.most
            assert day.sent < day.asked / 2

    def test_known_rush(self) -> None:
        """All demand in one hour is met when the day before was like it."""
        assert 0.9 <= days(["one hour"] * 2, requests=4000)[1].used <= 1.01

    @pytest.mark.parametrize("before", ["office", "steady"])
    def test_a_rush_that_nobody_foresaw(self, before: str) -> None:
        """All demand in one hour of a day, after one that was unlike it, uses three quarters of the amount."""
        assert 0.75 <= days([before, "one hour"], requests=4000)[1].used <= 1.01

    @pytest.mark.parametrize("shapes", [["office", "evening"], ["steady", "office"], ["morning", "office"]])
    def test_another_day(self, shapes: list[str]) -> None:
        """A day that is unlike the one before is recognised within hours."""
        assert 0.9 <= days(shapes, requests=4000)[1].used <= 1.01

    @pytest.mark.parametrize(("before", "now", "least"), [(1000, 6000, 0.9), (6000, 15_000, 0.9), (6000, 1000, 0.75)])
    def test_another_demand(self, before: int, now: int, least: float) -> None:
        """Much more, or much less, demand than on the day before is seen; with little to spare some is left over."""
        shared, aims = Shared(), [ByDollars(10 * NANO)]
        run_day(traffic("office", before, MONDAY, 1, NANO // 10), shared, 1, 10 * NANO, aims)
        day = run_day(traffic("office", now, MONDAY + 24 * HOUR, 2, NANO // 10), shared, 1, 10 * NANO, aims)
        assert least <= day.used <= 1.01

    def test_spread(self) -> None:
        """On a day like the one before, the morning does not take what the afternoon needs."""
        hourly = days(["office"] * 2, requests=4000)[1].hourly
        assert 0.8 < sum(hourly[8:13]) / sum(hourly[13:18]) < 1.25

    def test_stops(self) -> None:
        """When the amount is spent nothing more goes, with the reason, until the day (UTC) is over."""
        aim = ByDollars(NANO)
        hours: dict[int, dict[str, int]] = {hour: {} for hour in aim.pace.wanted(MONDAY)}
        aim.pace.load({**hours, MONDAY // HOUR: {"spent": NANO - CENT + 1, "answers": 100, "asked": 100}}, MONDAY)
        choice = aim.decide(plain(NANO), MONDAY)
        assert not choice.complex
        assert choice.why == "$0.99 of $1 for today are spent, and it would cost $0.01"
        assert choice.threshold.words == "complex if the day's amount were at least $1"
        assert aim.bars(plain(NANO), MONDAY) == choice.why
        assert aim.decide(plain(NANO), MONDAY + 24 * HOUR).complex

    def test_in_flight(self) -> None:
        """What was sent a moment ago counts before it is reported: a rush cannot run past the amount."""
        aim, now = ByDollars(10 * CENT), MONDAY + 23 * HOUR
        aim.pace.load({hour: {} for hour in aim.pace.wanted(now)}, now)
        sent = sum(aim.decide(plain(NANO), now + number).complex for number in range(1000))
        assert 0 < sent <= 10

    def test_before_the_counts_are_read(self) -> None:
        """A worker that does not know yet what others spent sends next to nothing, and the rest when it does."""
        aim, now = ByDollars(NANO), MONDAY + 23 * HOUR
        assert [aim.decide(plain(NANO), now + number).complex for number in range(5)] == [True] + 4 * [False]
        assert aim.bars(plain(NANO), now + 5) == "what others spent of today's $1 is not known yet"
        aim.pace.load({hour: {} for hour in aim.pace.wanted(now)}, now)
        assert aim.decide(plain(NANO), now + 5).complex

    def test_nothing_to_gain(self) -> None:
        """A request that gains nothing is not sent, however much money is left, and is no demand."""
        choice = ByDollars(NANO).decide(plain(-CENT), MONDAY)
        assert (choice.complex, choice.counts) == (False, {})
        assert choice.why.startswith("nothing to gain")

    def test_unknown_price(self) -> None:
        """Without a price no amount could be held, so nothing is sent."""
        weighed = weigh(one(0.1), one(0.9, None), NANO, 0)
        choice = ByDollars(NANO).decide(weighed, MONDAY)
        assert not choice.complex
        assert choice.why == "price of b/m not known: $1 a day could not be held"

    def test_free(self) -> None:
        """A complex side that costs nothing is always affordable."""
        weighed = weigh(one(0.1), one(0.9, expected_price(FREE, 100, 100)), NANO, 0)
        assert all(ByDollars(NANO).decide(weighed, MONDAY + number).complex for number in range(100))

    def test_no_money(self) -> None:
        """0 $ a day sends nothing that costs."""
        assert not ByDollars(0).decide(plain(NANO), MONDAY).complex

    def test_sessions_count(self) -> None:
        """What sessions send is promised and counted like the rest."""
        aim = ByDollars(10 * CENT)
        assert aim.note(plain(NANO), MONDAY, sent=True) == {"asked": 1, "sent": 1}
        assert aim.pace.spent(MONDAY) == CENT
        assert aim.pace.spent(MONDAY + 60_000) == 0


class TestPace:
    """What the rest of the day can afford."""

    def test_like_last_week(self) -> None:
        """The same weekday a week ago goes before yesterday; today's demand so far scales it."""
        pace, first = Pace(10 * NANO), MONDAY // HOUR
        week = {first - 168 + hour: {"asked": 100} for hour in range(24)}
        yesterday = {first - 24 + hour: {"asked": 900} for hour in range(24)}
        pace.load({**week, **yesterday}, MONDAY)
        assert pace.to_come(MONDAY) == 2400
        pace.load({first + hour: {"asked": 100} for hour in range(12)}, MONDAY + 12 * HOUR)
        assert pace.to_come(MONDAY + 12 * HOUR) == pytest.approx(1200, rel=0.02)

    def test_wanted(self) -> None:
        """Earlier days are read once a day, today's hours each time; counts of hours long ago are dropped."""
        pace, first = Pace(NANO), MONDAY // HOUR
        assert pace.wanted(MONDAY + 2 * HOUR) == [
            *range(first - 168, first - 144), *range(first - 24, first), first, first + 1, first + 2]
        pace.load({hour: {} for hour in pace.wanted(MONDAY)}, MONDAY)
        assert pace.wanted(MONDAY + HOUR) == [first, first + 1]
        assert len(pace.wanted(MONDAY + 24 * HOUR)) == 49

    def test_price(self) -> None:
        """The mean price is told by today's answers, else by those of the earlier day, else not."""
        pace, hour = Pace(NANO), MONDAY // HOUR
        assert pace.price(MONDAY) is None
        pace.load({hour - 24: {"answers": 10, "spent": 70}}, MONDAY)
        assert pace.price(MONDAY) == 7
        pace.load({hour: {"answers": 10, "spent": 50}}, MONDAY)
        assert pace.price(MONDAY) == 5
        assert pace.paid(MONDAY, None) == {}
        assert pace.paid(MONDAY, 60) == {"answers": 1, "spent": 60}
        assert pace.price(MONDAY) == 10

    def test_a_new_day(self) -> None:
        """At midnight nothing is spent yet, and the day before is the forecast."""
        pace = Pace(NANO)
        pace.load({MONDAY // HOUR + 5: {"asked": 200, "spent": NANO}}, MONDAY + 6 * HOUR)
        assert pace.share(MONDAY + 6 * HOUR, CENT) == 0
        assert pace.spent(MONDAY + 24 * HOUR) == 0
        assert pace.to_come(MONDAY + 24 * HOUR) == 200

    @given(st.dictionaries(st.integers(-200, 200), st.dictionaries(
        st.sampled_from(["asked", "sent", "answers", "spent", "x"]), st.integers(-10, 10**15))),
        st.integers(0, 30 * HOUR), st.integers(0, 10**10))
    def test_any_counts(self, hours: dict[int, dict[str, int]], after: int, price: int) -> None:
        """Whatever the store says, the share lies between 0 and 1."""
        pace = Pace(NANO)
        pace.load({MONDAY // HOUR + hour: counts for hour, counts in hours.items()}, MONDAY)
        assert 0.0 <= pace.share(MONDAY + after, price) <= 1.0
        assert pace.to_come(MONDAY + after) >= 0


class TestPage:
    """docs/objective.md says what is so."""

    PAGE = (Path(__file__).parent.parent.parent / "docs" / "objective.md").read_text("utf-8")

    def test_example(self) -> None:
        """Its example is a configuration."""
        example = self.PAGE.split("```yaml\n")[1].split("```")[0]
        config = parse(FILE.replace("gpt/g,", "gpt/gpt-5,") + example, "gateway.yaml", Path()).routing.smart
        assert (config.kind, config.value_nano, config.wait_nano) == ("balanced", NANO * 3 // 10, 1_500_000)

    @pytest.mark.parametrize("task", TASKS)
    def test_break_even(self, task: str) -> None:
        """Its table of values is what the code says."""
        output = USUAL[task]
        cells = [break_even(task, 2000, output, LARGE), break_even(task, 20_000, output, LARGE),
                 break_even(task, 20_000, output, LARGE, 18_000), break_even(task, 2000, output, SMALL)]
        assert f"| {task} | {' | '.join(f'{float(cell):.3f}' for cell in cells)} |" in self.PAGE

    @pytest.mark.parametrize(("aim", "value"), [(aim, VALUES[aim]) for aim in ("cloud_share", "usd_per_day")])
    def test_values(self, aim: str, value: str) -> None:
        """Its amounts are the defaults."""
        [line] = [line for line in self.PAGE.splitlines() if line.startswith("| `") and aim in line]
        assert line.endswith(f" {float(value):.2f} $ |")

    @pytest.mark.parametrize(("aim", "times"), list(TIMES.items()))
    def test_words(self, aim: str, times: int) -> None:
        """Its words for the three words are their defaults."""
        [line] = [line for line in self.PAGE.splitlines() if line.startswith(f"| `{aim}`") and "success" in line]
        assert line.endswith(f" where one success in {times} is added | {times} x its price |")

    def test_older_ways(self) -> None:
        """What a success counts under a threshold is said."""
        assert f"a success then counts {float(VALUES['threshold']):.2f} $" in self.PAGE

    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("price", [LARGE, SMALL, FREE, None])
    def test_tasks(self, task: str, price: Price | None) -> None:
        """Its table of tasks is what the aims do by the shipped priors, whatever the complex side costs."""
        gain = round(getattr(CLOUD_PRIOR, task) * MILLION) - round(getattr(LOCAL_PRIOR, task) * MILLION)
        sides = ["complex" if goes(aim, gain, price, 2000) else "simple" for aim in ("quality", "balanced", "savings")]
        assert f"| {task} | {gain // 10_000} | {' | '.join(sides)} |" in self.PAGE
