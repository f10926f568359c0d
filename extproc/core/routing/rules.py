"""The rules of routing: compiled once, then judged against the signals of each request; the first match wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec

from extproc.config.routing import RuleConfig, Span, WhenConfig, glob, span, texts
from extproc.core.routing.signals import Signals

Check = Callable[[Signals], str]
"""Empty when the condition holds, else in words why it does not."""
_POINTS = 1 << 32
_SHOWN = 64
"""Characters of a signal's value in an explanation: a client chooses some of them."""
_FIELDS = {"tokens": "input_tokens"}
"""Conditions whose signal has another name."""
_FLAGS = ("stream", "fills", "in_tool_loop", "structured", "thinking")
_NUMBERS = ("tokens", "max_tokens", "turns", "tools", "tool_rounds", "images", "warm_tokens", "budget_left")
_TEXTS = ("path", "endpoint", "task", "model", "org", "team", "project", "user", "key", "agent", "phase", "pace",
          "session", "effort")
_SETS = ("needs", "down")


class Tried(msgspec.Struct, frozen=True):
    """One rule that was looked at, by its index in routing.rules; `failed` is the first condition that did not hold.

    A rule may match and yet not be taken (a canary's other requests, a shadow); then `failed` says so.
    """

    rule: int
    reason: str
    matched: bool
    failed: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What the rules say. An empty route (and rule -1) leaves the request to what comes after the rules."""

    route: str
    reason: str
    tried: tuple[Tried, ...]
    shadow: str = ""
    rule: int = 0


class _Share(msgspec.Struct, frozen=True):
    """A chain with the upper end of its part of the hash's range."""

    route: str
    below: int
    said: str


class Rule(msgspec.Struct, frozen=True):
    """A compiled rule. Without shares it only shadows."""

    index: int
    reason: str
    check: Check
    shares: tuple[_Share, ...]
    salt: str
    shadow: str = ""
    sampled: int = _POINTS
    binding: bool = False


Rules = tuple[Rule, ...]


def compile_rules(rules: Sequence[RuleConfig]) -> Rules:
    """The rules of a configuration, ready to be judged; immutable. Any part of them can be judged by itself."""
    return tuple(_compiled(index, rule) for index, rule in enumerate(rules))


def judge(rules: Rules, signals: Signals, rid: str) -> Verdict | None:
    """Hold the rules against a request; `rid` is its id. None when there are no rules.

    Splits and canaries keep a session where it is, else they go by the request id; shadows are sampled by request.
    When no rule decides, the verdict has an empty route: it still lists what was tried, and perhaps a shadow.
    """
    tried: list[Tried] = []
    shadow = ""
    for rule in rules:
        if failed := rule.check(signals):
            tried.append(Tried(rule.index, rule.reason, False, failed))
            continue
        if rule.shadow and not shadow and (
                rule.sampled == _POINTS or _point(f"{rule.salt}|shadow", rid) < rule.sampled):
            shadow = rule.shadow
        share = _chosen(rule, signals.session or rid)
        if share is not None:
            tried.append(Tried(rule.index, rule.reason, True))
            return Verdict(share.route, rule.reason + share.said, tuple(tried), shadow, rule.index)
        passed_on = "not among the requests of the canary" if rule.shares else "only shadows"
        tried.append(Tried(rule.index, rule.reason, True, passed_on))
    return Verdict("", "", tuple(tried), shadow, -1) if tried else None


def dead_rules(rules: Sequence[RuleConfig]) -> list[tuple[int, int]]:
    """Rules that can never be reached, each with the earlier rule that takes all its requests (both by index).

    Only what can be seen condition by condition is found: the earlier rule has the same conditions, or wider ones.
    Binding rules are earlier than all others.
    """
    found: list[tuple[int, int]] = []
    final: list[int] = []
    for at in sorted(range(len(rules)), key=lambda index: not rules[index].binding):
        rule = rules[at]
        earlier = next((index for index in final if _covers(rules[index].when, rule.when)), None)
        if earlier is not None:
            found.append((at, earlier))
        if rule.route or rule.split or _all(rule):
            final.append(at)
    return sorted(found)


def _all(rule: RuleConfig) -> bool:
    return rule.canary is not None and rule.canary.percent >= 100


# ---------------------------------------------------------------- targets

def _compiled(index: int, rule: RuleConfig) -> Rule:
    names = "|".join(route for _, route in rule.targets())  # and nothing that changes with a comment or a new rule
    sampled = _POINTS if rule.sample is None else round(_POINTS * rule.sample)
    return Rule(index, rule.reason, _check(rule.when), _shares(rule), names, rule.shadow or "",
                sampled, rule.binding)


def _shares(rule: RuleConfig) -> tuple[_Share, ...]:
    if rule.canary is not None:
        percent = rule.canary.percent
        return (_Share(rule.canary.route, round(_POINTS * percent / 100), f" (canary: {percent:g} %)"),)
    if rule.split is None:
        return (_Share(rule.route, _POINTS, ""),) if rule.route else ()
    total, below, shares = sum(rule.split.values()), 0.0, list[_Share]()
    said = ", ".join(f"{route} {weight:g}" for route, weight in rule.split.items())
    used = {route: weight for route, weight in rule.split.items() if weight}
    for route, weight in used.items():
        below += weight
        shares.append(_Share(route, round(_POINTS * below / total), f" (split: {said})"))
    shares[-1] = msgspec.structs.replace(shares[-1], below=_POINTS)  # sums of floats may end below the whole
    return tuple(shares)


def _chosen(rule: Rule, who: str) -> _Share | None:
    if len(rule.shares) == 1 and rule.shares[0].below == _POINTS:
        return rule.shares[0]
    if not rule.shares:
        return None
    point = _point(rule.salt, who)
    return next((share for share in rule.shares if point < share.below), None)


def _point(salt: str, who: str) -> int:
    """A place in 0 to 2**32 that only the two texts decide: the same in every worker and after a restart."""
    return int.from_bytes(blake2b(f"{salt}|{who}".encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big")


# ---------------------------------------------------------------- conditions

def _check(when: WhenConfig) -> Check:
    """All conditions of a `when`, in the order in which the model lists them."""
    checks: list[Check] = []
    for name, value in when.given().items():
        if name == "header":
            checks += [partial(_header, key.lower(), _pattern(wanted)) for key, wanted in value.items()]
        elif name == "tokens_above":
            checks.append(_number("tokens", span(f"> {value}")))
        elif name in _FLAGS:
            checks.append(_flag(name, value))
        elif name in _NUMBERS:
            checks.append(_number(name, span(value)))
        elif name in _TEXTS:
            checks.append(_text(name, texts(value)))
        elif name in _SETS:
            checks.append(_set(name, texts(value)))
        else:
            checks.append(_combined(name, value))
    if len(checks) == 1:
        return checks[0]
    return partial(_every, tuple(checks))


def _combined(name: str, value: Any) -> Check:
    if name == "any_":
        return partial(_some, tuple(_check(part) for part in value))
    if name == "all_":
        return partial(_every, tuple(_check(part) for part in value))
    return partial(_none, _check(value), _worded(value))


def _every(checks: tuple[Check, ...], signals: Signals) -> str:
    for check in checks:
        if failed := check(signals):
            return failed
    return ""


def _some(checks: tuple[Check, ...], signals: Signals) -> str:
    reasons: list[str] = []
    for check in checks:
        if not (failed := check(signals)):
            return ""
        reasons.append(failed)
    return "none of: " + "; ".join(reasons)


def _none(check: Check, words: str, signals: Signals) -> str:
    return "" if check(signals) else f"{words}, which the rule excludes"


def _header(name: str, matches: Callable[[str], bool], signals: Signals) -> str:
    value = signals.headers.get(name)
    if value is None:
        return f"header {name} is absent"
    return "" if matches(value) else f"header {name} has another value"  # the value may be a secret


def _pattern(pattern: str) -> Callable[[str], bool]:
    """For a header: `*` alone asks for the header, whatever it says."""
    return _present if pattern.strip("*") == "" and pattern else glob(pattern)


def _present(_: str) -> bool:
    return True


def _flag(name: str, wanted: bool) -> Check:
    read, failed = attrgetter(name), f"{name} is {'false' if wanted else 'true'}"

    def check(signals: Signals) -> str:
        return "" if read(signals) is wanted else failed

    return check


def _number(name: str, wanted: Span) -> Check:
    read, (low, high, words) = attrgetter(_FIELDS.get(name, name)), wanted

    def check(signals: Signals) -> str:
        value = read(signals)
        if value is None:
            return f"{name} is not known"
        return "" if low <= value <= high else f"{name} {_shown(value)} is not {words}"

    return check


def _text(name: str, wanted: tuple[str, ...]) -> Check:
    read = attrgetter(name)
    words = f"is {'not' if len(wanted) == 1 else 'none of'} {', '.join(wanted)}"
    exact = frozenset(text for text in wanted if "*" not in text)
    patterns = tuple(glob(text) for text in wanted if "*" in text)

    def check(signals: Signals) -> str:
        value = read(signals)
        if value in exact or any(matches(value) for matches in patterns):
            return ""
        return f"{name} {value[:_SHOWN] or '(none)'} {words}"

    return check


def _set(name: str, wanted: tuple[str, ...]) -> Check:
    read, tests = attrgetter(name), tuple(glob(text) for text in wanted)
    failed = f"{name} has {'no' if len(wanted) == 1 else 'none of'} {', '.join(wanted)}"

    def check(signals: Signals) -> str:
        return "" if any(matches(value) for value in read(signals) for matches in tests) else failed

    return check


def _shown(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _worded(when: WhenConfig) -> str:
    """A `when` in words, as its writer might say it."""
    said: list[str] = []
    for name, value in when.given().items():
        if name == "header":
            said += [f"header {key.lower()} is as given" for key in value]
        elif name in ("any_", "all_"):
            joined = (" or " if name == "any_" else " and ").join(_worded(part) for part in value)
            said.append(f"({joined})")
        elif name == "not_":
            said.append(f"not ({_worded(value)})")
        elif name in _FLAGS:
            said.append(f"{name} is {'true' if value else 'false'}")
        elif name in _NUMBERS:
            said.append(f"{name} is {span(value).words}")
        elif name == "tokens_above":
            said.append(f"tokens is > {value}")
        else:
            said.append(f"{name} {'has' if name in _SETS else 'is'} {' or '.join(texts(value))}")
    return " and ".join(said) or "every request"


# ---------------------------------------------------------------- which conditions are wider

def _covers(wide: WhenConfig, narrow: WhenConfig) -> bool:
    """Whether every request that satisfies `narrow` surely satisfies `wide`."""
    inner = narrow.given()
    return all(_wider(name, value, inner) for name, value in wide.given().items())


def _wider(name: str, value: Any, inner: dict[str, Any]) -> bool:
    if name in ("tokens", "tokens_above"):
        mine = span(value if name == "tokens" else f"> {value}")
        given = [span(inner["tokens"])] if "tokens" in inner else []
        given += [span(f"> {inner['tokens_above']}")] if "tokens_above" in inner else []
        return any(mine.low <= other.low and other.high <= mine.high for other in given)
    if name not in inner:
        return False
    other = inner[name]
    if name == "header":
        lower = {key.lower(): wanted for key, wanted in other.items()}
        return all(lower.get(key.lower()) == wanted for key, wanted in value.items())
    if name in _NUMBERS:
        mine, theirs = span(value), span(other)
        return mine.low <= theirs.low and theirs.high <= mine.high
    if name in _TEXTS or name in _SETS:
        tests = [glob(text) for text in texts(value)]
        return all(text in texts(value) or ("*" not in text and any(matches(text) for matches in tests))
                   for text in texts(other))
    return bool(value == other)
