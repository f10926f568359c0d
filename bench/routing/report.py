"""Tables on the terminal and docs/routing.md, from measured figures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from extproc.textmodel import CLOUD_PRIOR, LOCAL_PRIOR, TASKS, TextModel


class Line(NamedTuple):
    """One aim and what was reached."""

    name: str
    aim: str
    reached: str
    good: bool
    note: str


class Rival(NamedTuple):
    """One set routed by several routers."""

    name: str
    rows: int
    band: str
    length: float
    litellm: dict[str, float]
    ours: float
    how: str


def table(lines: list[Line]) -> str:
    """Aims and what was reached, as Markdown."""
    rows = [f"| {x.name} | {x.aim} | {x.reached} | {'yes' if x.good else '**no**'} | {x.note} |" for x in lines]
    return "\n".join(["| measure | aim | reached | reached? | note |", "|---|---|---:|---|---|", *rows])


def rivals(found: list[Rival], times: dict[str, list[float]], ours: dict[int, float]) -> str:
    """The comparison on the same rows, as Markdown."""

    def theirs(rival: Rival, name: str) -> str:
        return f"{rival.litellm[name]:.3f}" if name in rival.litellm else "not run"

    rows = [
        f"| {r.name} ({r.rows}) | {r.band} | {r.length:.3f} | {theirs(r, 'heuristic')} | {theirs(r, 'heuristic_v2')} "
        f"| {r.ours:.3f} | {r.how} |"
        for r in found
    ]
    head = [
        "| set (rows) | random, 95 % | prompt length | LiteLLM heuristic | LiteLLM heuristic_v2 | this model "
        "| how ours was trained |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    speed = [
        "",
        "CPU of one decision, microseconds, median:",
        "",
        "| characters | LiteLLM heuristic | LiteLLM heuristic_v2 | this model |",
        "|---:|---:|---:|---:|",
    ]
    for i, (size, half) in enumerate(ours.items()):
        first, second = (f"{times[k][i]:,.0f}" if k in times else "not run" for k in ("heuristic", "heuristic_v2"))
        speed.append(f"| {size:,} | {first} | {second} | {half:,.0f} |")
    return "\n".join([*head, *rows, *speed])


_PAGE = Path(__file__).with_name("page.md").read_text(encoding="utf-8")


def page(
    text_model: TextModel, lines: list[Line], found: list[Rival], times: dict[str, list[float]], ours: dict[int, float]
) -> str:
    """The whole of docs/routing.md."""
    told = text_model.report
    return _PAGE.format(
        version=text_model.version,
        sha=text_model.sha256,
        half=1000,
        tasks=", ".join(TASKS),
        table=table(lines),
        rivals=rivals(found, times, ours),
        sources="\n".join(f"* {name}: {licence}" for name, licence in told["sources"].items()),
        examples=", ".join(f"{task} {count}" for task, count in told["task_examples"].items()),
        tiers=told["tier_examples"],
        outcomes=told["outcome_examples"],
        priors="\n".join(
            f"| {task} | {getattr(LOCAL_PRIOR, task):.2f} | {getattr(CLOUD_PRIOR, task):.2f} |" for task in TASKS
        ),
    )
