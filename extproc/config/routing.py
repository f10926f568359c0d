"""The rules of routing in gateway.yaml: conditions over the signals of a request, and where a request goes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, Self, cast

import pydantic
from pydantic import Field, field_validator, model_validator

from extproc.config.smart import SmartConfig
from extproc.config.values import Model, Percent

AGENTS = ("claude-code", "codex", "aider", "opencode", "qwen-code", "continue", "cursor", "cline", "roo-code", "sdk",
          "curl", "other")
"""Programs that a request can be told to come from."""
PHASES = ("main", "chat", "plan", "title", "topic", "summary", "subagent", "review", "probe", "helper", "edit",
          "edit-whole", "edit-diff", "edit-udiff", "edit-patch", "apply", "commit", "complete")
"""What a program is doing when it asks."""
PACES = ("realtime", "interactive", "batch", "ci")
PATHS = ("plain", "local", "smart")
TASKS = ("chat", "completion", "embeddings", "count")
ENDPOINTS = ("openai", "anthropic", "responses", "completions", "fim", "embeddings", "count_tokens")
NEEDS = ("tools", "images", "documents", "json_schema")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_NUMBER = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(%?)"
_COMPARED = re.compile(rf"^\s*(>=|<=|>|<)?\s*{_NUMBER}\s*$")
_BETWEEN = re.compile(rf"^\s*{_NUMBER}\s*\.\.\s*{_NUMBER}\s*$")
_EXAMPLES = 'expected a number or a comparison, such as 5, "> 20000", "<= 3" or 1000..20000'


class Span(NamedTuple):
    """The numbers that a comparison allows, both ends included, and the comparison in words."""

    low: float
    high: float
    words: str


def span(value: object) -> Span:
    """Read a condition on a number: true is at least 1, false is 0.

    Raises:
        ValueError: it is no comparison, or no number can satisfy it.
    """
    if isinstance(value, bool):
        return Span(1, math.inf, ">= 1") if value else Span(0, 0, "0")
    if isinstance(value, int | float):
        if not math.isfinite(value) or value < 0:
            raise ValueError(_EXAMPLES)
        return Span(value, value, f"{value:g}" if isinstance(value, float) else str(value))
    text = value if isinstance(value, str) else ""
    if found := _BETWEEN.match(text):
        low, high = _number(found[1], found[2]), _number(found[3], found[4])
        if low > high:
            raise ValueError(f"{text.strip()}: the first number must not be the larger one")
        return Span(low, high, text.strip())
    if not (found := _COMPARED.match(text)):
        raise ValueError(_EXAMPLES)
    number, words = _number(found[2], found[3]), f"{found[1] or ''} {found[2]}{found[3]}".strip()
    match found[1]:
        case ">":
            return Span(math.nextafter(number, math.inf), math.inf, words)
        case ">=":
            return Span(number, math.inf, words)
        case "<" if number == 0:
            raise ValueError(f"{words} holds for no number here")
        case "<":
            return Span(-math.inf, math.nextafter(number, -math.inf), words)
        case "<=":
            return Span(-math.inf, number, words)
        case _:
            return Span(number, number, words)


def _number(digits: str, percent: str) -> float:
    return float(digits) / 100 if percent else float(digits)


def texts(value: object) -> tuple[str, ...]:
    """The values of a condition on a text: one, or any of a list. Raises ValueError when it is something else."""
    if isinstance(value, str):
        return (value,)
    items = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError("expected a text, or a list of texts")
    return tuple(cast("Sequence[str]", items))


def glob(pattern: str) -> Callable[[str], bool]:
    """A test for one pattern: `*` stands for any characters, alone for any text that is not empty. Linear."""
    if "*" not in pattern:
        return pattern.__eq__
    first, *inner, last = pattern.split("*")
    inner = [piece for piece in inner if piece]
    if not first and not last and not inner:
        return bool

    def test(text: str) -> bool:
        if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for piece in inner:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return test


def _is_span(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(_EXAMPLES)
    span(value)
    return value


def _is_count(value: object) -> object:
    span(value)
    return value


def _is_texts(value: object) -> object:
    texts(value)
    return value


def _one_of(known: Sequence[str]) -> Callable[[object], object]:
    """A validator for texts out of a fixed set: a value that can never be met is a mistake."""

    def check(value: object) -> object:
        for text in texts(value):
            test = glob(text)
            if not any(map(test, known)):
                raise ValueError(f"unknown value {text[:40]}; allowed: {', '.join(known)}")
        return value

    return check


def _of_hundred(value: object) -> object:
    number = float(value[:-1]) if isinstance(value, str) and re.match(r"^[0-9]+(\.[0-9]+)?%$", value) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 100:
        return float(number)
    raise ValueError("expected a number of per cent from 0 to 100, such as 5")


Number = Annotated[Any, pydantic.BeforeValidator(_is_span)]
Count = Annotated[Any, pydantic.BeforeValidator(_is_count)]
Texts = Annotated[Any, pydantic.BeforeValidator(_is_texts)]
OfHundred = Annotated[float, pydantic.BeforeValidator(_of_hundred)]


class WhenConfig(Model):
    """Conditions of a rule; all that are given must hold, and none given always holds.

    Nothing here can read a prompt: only what was measured about a request, so that no text of a prompt sets policy.
    """

    header: dict[str, str] | None = None
    path: Annotated[Any, pydantic.BeforeValidator(_one_of(PATHS))] = None
    endpoint: Annotated[Any, pydantic.BeforeValidator(_one_of(ENDPOINTS))] = None
    task: Annotated[Any, pydantic.BeforeValidator(_one_of(TASKS))] = None
    model: Texts = None
    org: Texts = None
    team: Texts = None
    project: Texts = None
    user: Texts = None
    key: Texts = None
    agent: Annotated[Any, pydantic.BeforeValidator(_one_of(AGENTS))] = None
    phase: Annotated[Any, pydantic.BeforeValidator(_one_of(PHASES))] = None
    pace: Annotated[Any, pydantic.BeforeValidator(_one_of(PACES))] = None
    session: Texts = None
    effort: Annotated[Any, pydantic.BeforeValidator(_one_of(EFFORTS))] = None
    stream: bool | None = None
    fills: bool | None = None
    in_tool_loop: bool | None = None
    structured: bool | None = None
    thinking: bool | None = None
    tokens: Number = None
    tokens_above: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Number = None
    turns: Number = None
    tools: Count = None
    tool_rounds: Count = None
    images: Count = None
    warm_tokens: Count = None
    budget_left: Number = None
    needs: Annotated[Any, pydantic.BeforeValidator(_one_of(NEEDS))] = None
    down: Texts = None
    any_: Annotated[list[WhenConfig], Field(min_length=1)] | None = Field(None, alias="any")
    all_: Annotated[list[WhenConfig], Field(min_length=1)] | None = Field(None, alias="all")
    not_: WhenConfig | None = Field(None, alias="not")

    def given(self) -> dict[str, Any]:
        """The conditions that were given, by their name here."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class CanaryConfig(Model):
    """A share of the requests of a rule that tries another chain; the rest goes on to the next rule."""

    route: str
    percent: OfHundred


class RuleConfig(Model):
    """First match wins, before the smart flow. One of route, split, canary; `shadow` with it, or alone."""

    when: WhenConfig
    route: str = ""
    split: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """The chains that share the requests, with their weights."""
    canary: CanaryConfig | None = None
    shadow: str | None = None
    """A chain that is asked too; its answer is thrown away."""
    sample: Percent | None = None
    """The share of the requests that are shadowed; all by default."""
    binding: bool = False
    """Held before what the client pins by a header or a path; other rules come after that."""
    reason: str

    @field_validator("split", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        if isinstance(value, dict):  # strict mode takes no whole number for a float
            weights = cast("dict[object, object]", value)
            return {k: float(v) if type(v) is int else v for k, v in weights.items()}
        return value

    @field_validator("split")
    @classmethod
    def _weighs(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not sum(value.values()):
            raise ValueError("needs at least one weight above 0")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("route", "split", "canary") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        if not given and self.shadow is None:
            raise ValueError("needs one of route, split, canary, shadow")
        if self.sample is not None and self.shadow is None:
            raise ValueError("sample is for shadow, and there is none")
        return self

    def targets(self) -> list[tuple[tuple[str, ...], str]]:
        """Every chain the rule names, with its place in the rule."""
        found: list[tuple[tuple[str, ...], str]] = [(("route",), self.route)] if self.route else []
        found += [(("split", name), name) for name in self.split or {}]
        if self.canary is not None:
            found.append((("canary", "route"), self.canary.route))
        if self.shadow is not None:
            found.append((("shadow",), self.shadow))
        return found


class RoutingConfig(Model):
    """The first routing: rules, then the smart flow."""

    smart: SmartConfig = SmartConfig()
    rules: list[RuleConfig] = []
