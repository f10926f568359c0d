"""What the stronger chain is worth for a request: value x gain - price - waiting - what a switch throws away.

All money is in whole nano-dollars. Chances enter as millionths, so that equal requests are weighed equally everywhere.
"""

from __future__ import annotations

from fractions import Fraction

import msgspec

from extproc.config import SmartConfig
from extproc.config.smart import SECONDS_PER_SUCCESS
from extproc.core.pricing import Price
from extproc.runtime import Backend
from extproc.textmodel.model import CLOUD_PRIOR, LOCAL_PRIOR, Prior

MILLION = 1_000_000
NANO = 10**9
NEVER = MILLION + 1
"""A gain that there cannot be."""


class Side(msgspec.Struct, frozen=True):
    """One of the two ways a request can go. `price`: expected n$, None where unknown; `latency_ms`: expected until
    the answer's end, None where too little was measured."""

    backend: str
    chain: str
    chance: float
    price: int | None
    latency_ms: int | None = None
    warm_tokens: int = 0
    saved: int = 0
    """n$ by which the price is lower because the backend's prompt cache is warm."""


class Weighed(msgspec.Struct, frozen=True):
    """Why one side is worth more. `gap` = `worth` - `price` - `waiting` - `switch`, all in n$."""

    gap: int
    gain: int
    """How much likelier a success is at the complex side, in millionths."""
    worth: int
    price: int
    """How much more the complex side costs when nothing is cached."""
    waiting: int
    """What the longer wait at the complex side costs."""
    switch: int
    """What the prompt cache of the simple side saves and a switch would throw away."""
    value: int
    """What a success is worth."""
    cost: int | None = None
    """Expected price of the complex side."""
    unknown: tuple[str, ...] = ()
    """What was not known and counts as no difference."""

    @property
    def benefit(self) -> int:
        """The gap if the complex side's price did not matter."""
        return self.gap + self.price

    def words(self) -> str:
        """The parts in one line."""
        parts = [f"{points(self.gain)} in success at {money(self.value)} = {money(self.worth, sign=True)}"]
        parts += [f"{name} {money(-amount, sign=True)}" for name, amount in
                  (("price", self.price), ("waiting", self.waiting), ("switch", self.switch)) if amount]
        parts += [f"{name} not known" for name in self.unknown]
        return f"{', '.join(parts)}: {money(self.gap, sign=True)}"


class Threshold(msgspec.Struct, frozen=True):
    """What would have had to differ for the other side. All but `gain` in n$."""

    gap: int
    level: int
    """The gap that a request had to exceed."""
    gain: int
    """The gain in success, in millionths, at which the decision turns; above a million: no gain could."""
    value: int | None
    """What a success would have to be worth for it to turn; None: no value could."""
    words: str


class Worth:
    """What a success and a second of waiting are worth under a configuration."""

    def __init__(self, smart: SmartConfig) -> None:
        self._times, self._value, self._second = smart.times, smart.value_nano, smart.wait_nano

    def of(self, complex_: Side) -> tuple[int, int]:
        """Both in n$, for a request that has this complex side."""
        value = self._value
        if self._times is not None and complex_.price:
            value = self._times * (complex_.price + complex_.saved)
        return value, value // SECONDS_PER_SUCCESS if self._second is None else self._second


def side(backend: Backend, chain: str, chance: float, input_tokens: int, output_tokens: int, *,
         latency_ms: int | None = None, warm_tokens: int = 0, writes: bool = False) -> Side:
    """A side from what is expected of the request. `warm_tokens`: what the backend's prompt cache holds of it;
    `writes`: whether the request asks for the rest to be written to the cache."""
    warm = min(max(warm_tokens, 0), input_tokens)
    price = expected_price(backend.price, input_tokens, output_tokens, warm, writes=writes)
    cold = expected_price(backend.price, input_tokens, output_tokens, writes=writes) if warm else price
    saved = 0 if price is None or cold is None else cold - price
    return Side(backend.id, chain, chance, price, latency_ms, warm, saved)


def expected_price(price: Price | None, input_tokens: int, output_tokens: int, warm_tokens: int = 0, *,
                   writes: bool = False) -> int | None:
    """Expected n$ of a request; None where the price is unknown. Warm tokens are read at the price of the cache, where
    the provider has one. Each part is rounded up: it is an estimate, and this is on the way of every request."""
    if price is None:
        return None
    fresh = (price.cache_write_5m or price.input) if writes else price.input
    parts = ((fresh, input_tokens - warm_tokens), (price.cache_read or price.input, warm_tokens),
             (price.output, output_tokens))
    return sum(_times(rate.at(input_tokens), count) for rate, count in parts if count)


def _times(rate: Fraction, count: int) -> int:
    return -(-rate.numerator * count // rate.denominator)


def saving(price: Price | None, warm_tokens: int) -> int:
    """The n$ that a warm prompt cache saves, and that a switch throws away; 0 where the price is unknown."""
    warm, cold = expected_price(price, warm_tokens, 0, warm_tokens), expected_price(price, warm_tokens, 0)
    return 0 if warm is None or cold is None else cold - warm


def weigh(simple: Side, complex_: Side, value_nano: int, second_nano: int) -> Weighed:
    """Weigh two sides: a success is worth `value_nano`, a second of waiting costs `second_nano`."""
    gain = _millionths(complex_.chance) - _millionths(simple.chance)
    worth = gain * value_nano // MILLION
    unknown = [f"price of {one.backend}" for one in (simple, complex_) if one.price is None]
    price = switch = waiting = 0
    if simple.price is not None and complex_.price is not None:
        switch = simple.saved
        price = complex_.price - simple.price - switch
    if simple.latency_ms is not None and complex_.latency_ms is not None:
        waiting = (complex_.latency_ms - simple.latency_ms) * second_nano // 1000
    return Weighed(worth - price - waiting - switch, gain, worth, price, waiting, switch, value_nano, complex_.price,
                   tuple(unknown))


def threshold(weighed: Weighed, level: int, *, chosen: bool) -> Threshold:
    """What would have had to differ, where the gap had to exceed `level`; `chosen`: the complex side was."""
    need = weighed.worth - weighed.gap + level + 1
    gain = -(-need * MILLION // weighed.value) if weighed.value else (NEVER if need > 0 else -NEVER)
    gain = min(max(gain, -NEVER), NEVER)
    value = max(-(-need * MILLION // weighed.gain), 0) if weighed.gain > 0 else None
    if chosen:
        words = f"simple below a gain of {points(gain)}" if gain > -NEVER else "complex whatever it gains"
        words += f", or if a success were worth less than {money(value)}" if value else ""
    else:
        words = f"complex from a gain of {points(gain)} on" if gain < NEVER else "no gain is enough"
        words += f", or if a success were worth {money(value)}" if value is not None else ""
    return Threshold(weighed.gap, level, gain, value, f"{words}; the gain is {points(weighed.gain)}")


def prior_for(smart: SmartConfig, backend: Backend) -> Prior:
    """What a backend is believed to be good at: its location's table, with what the operator said of it."""
    base = CLOUD_PRIOR if backend.location == "cloud" else LOCAL_PRIOR
    for name in (backend.name, backend.id):
        if (said := smart.priors.get(name)) is not None:
            base = msgspec.structs.replace(base, **said.given())
    return base


def believed(smart: SmartConfig, entry: str, location: str, task: str) -> float:
    """How much likelier the operator believes a success of BACKEND/MODEL is than the shipped prior, by the task."""
    shipped = CLOUD_PRIOR if location == "cloud" else LOCAL_PRIOR
    for name in (entry, entry.partition("/")[0]):
        if name in smart.priors and (said := smart.priors[name].given().get(task)) is not None:
            return said - float(getattr(shipped, task))
    return 0.0


def money(nano: int, *, sign: bool = False) -> str:
    """Nano-dollars in few digits, such as $0.016 or +$0.000042."""
    mark = "-" if nano < 0 else "+" if sign else ""
    whole, part = divmod(abs(nano), NANO)
    text = f"{part:09d}"
    lead = len(text) - len(text.lstrip("0"))
    # Three digits that count, or cents where there are dollars.
    text = text[: 2 if whole else lead + 3].rstrip("0")
    return f"{mark}${whole}{'.' + text if text else ''}"


def points(millionths: int) -> str:
    """A difference of chances in points of a hundred."""
    return f"{millionths / 10_000:+.1f} points"


def _millionths(chance: float) -> int:
    return round(min(max(chance, 0.0), 1.0) * MILLION)
