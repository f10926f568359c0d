"""The report as tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from extproc.reports.spending import Report, Share
from extproc.reports.tables import Column, Row, Table

_SHARE = (
    Column("requests", "count"), Column("input", "count", "input tokens"), Column("output", "count", "output tokens"),
    Column("cost", "usd"), Column("baseline", "usd", "at the baseline"),
)


def sections(report: Report, baseline: str, top: int) -> dict[str, Table]:
    """Return every section under its name, in order; `baseline` names the model that is compared with."""
    return {
        "total": _total(report),
        "spend": _spend(report),
        "savings": _savings(report, baseline),
        "where": _where(report),
        "could_be_local": _could(report),
        "failovers": _failovers(report),
        "top": _top(report, top),
    }


def _total(report: Report) -> Table:
    columns = (
        Column("requests", "count"), Column("tokens", "count"), Column("cost", "usd"),
        Column("unfunded", "usd", "beyond all budgets"), Column("unpriced", "count", "unpriced attempts"),
        Column("failed_over", "count"), Column("failed_attempts", "usd", "cost of attempts that failed over"),
        *[Column(state, "count") for state in sorted(report.states)],
    )
    unpriced = sum(line.unpriced for line in report.spent.values())
    row = (report.requests, report.tokens, report.nano, report.unfunded, unpriced, report.moved,
           report.wasted, *[report.states[state] for state in sorted(report.states)])
    return Table(columns, [row], title="In all (records by state; late and adjust are corrections)", upright=True)


def _spend(report: Report) -> Table:
    columns = (
        Column("model"), Column("backend"), Column("attempts", "count"), Column("failed", "count"),
        Column("input", "count", "input tokens"), Column("cached", "count", "of these cached"),
        Column("output", "count", "output tokens"), Column("unpriced", "count"), Column("cost", "usd"),
    )
    ordered = sorted(report.spent.items(), key=lambda item: (-item[1].nano, item[0]))
    rows: list[Row] = [
        (model or "(correction)", backend, *msgspec.structs.astuple(line)) for (model, backend), line in ordered]
    counted = [msgspec.structs.astuple(line) for line in report.spent.values()]
    total: Row | None = ("total", "", *[sum(part) for part in zip(*counted, strict=True)]) if counted else None
    return Table(columns, rows, total, "Spend by model and backend")


def _savings(report: Report, baseline: str) -> Table:
    savings = report.savings
    columns = (
        Column("baseline"), Column("requests", "count", "requests compared"), Column("left_out", "count"),
        Column("actual", "usd"), Column("at_baseline", "usd"), Column("saved", "usd"),
        Column("saved_share", "permille"), Column("covered", "permille", "of all spend"),
    )
    saved = savings.baseline - savings.actual
    share = saved * 1000 // savings.baseline if savings.baseline else None
    row = (baseline, savings.compared, savings.left_out, savings.actual, savings.baseline, saved, share,
           report.covered)
    return Table(columns, [row], title="Savings: the same tokens at the baseline model's price of the day")


def _where(report: Report) -> Table:
    every = max(report.local.requests + report.cloud.requests, 1)
    rows: list[Row] = [
        (name, share.requests * 1000 // every, *msgspec.structs.astuple(share))
        for name, share in (("local", report.local), ("cloud", report.cloud))
    ]
    return Table((Column("answered"), Column("share", "permille"), *_SHARE), rows, title="Where answers came from")


def _could(report: Report) -> Table:
    rows: list[Row] = [(why, *msgspec.structs.astuple(share)) for why, share in _dearest(report.could.items())]
    return Table((Column("why"), *_SHARE), rows, title="What a cloud answered and a local model might have")


def _dearest(items: Iterable[tuple[str, Share]]) -> list[tuple[str, Share]]:
    return sorted(items, key=lambda item: (-item[1].nano, item[0]))


def _failovers(report: Report) -> Table:
    columns = (Column("from_backend", title="from"), Column("to_backend", title="to"), Column("cause"),
               Column("times", "count"))
    ordered = sorted(report.moves.items(), key=lambda item: (-item[1], item[0]))
    rows: list[Row] = [(*move, times) for move, times in ordered]
    return Table(columns, rows, title="Failovers")


def _top(report: Report, top: int) -> Table:
    columns = (
        Column("request_id"), Column("admitted", "moment", "admitted (UTC)"), Column("team"), Column("key"),
        Column("model"), Column("backend"), Column("input", "count", "input tokens"),
        Column("output", "count", "output tokens"), Column("state"), Column("cost", "usd"),
    )
    rows: list[Row] = [
        (one.request_id, one.at, one.team, one.key, one.model, one.backend, one.input, one.output, one.state, one.nano)
        for one in report.dearest(top)
    ]
    return Table(columns, rows, title="Dearest requests")
