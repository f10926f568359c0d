"""The four calls of extproc.admin.v1.Admin: what the command line tells, in the words of protos/admin.proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf.any_pb2 import Any as Packed

from extproc.commands import books
from extproc.commands.budgets import read
from extproc.commands.store import Place
from extproc.config import GatewayConfig
from extproc.ledger.export import PAGE, START, Log, Position, position_of
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.pb import admin_pb2 as rpc
from extproc.reports import spending
from extproc.reports.periods import Period, period
from extproc.reports.usage import DimensionRefused, dimensions

POLL = 0.5
"""Seconds between two looks for new records."""
MOST_TOP = 1_000


class AskedWrong(ValueError):  # noqa: N818 - the caller's mistake, said in words
    """A request cannot be understood; the text says what is expected."""


class Admin:
    """Answers from the store; `config` gives the configuration in force, which a reload changes.

    All calls raise AskedWrong, PeriodRefused, DimensionRefused, CommandError and LedgerUnavailable, and nothing else.
    """

    def __init__(self, ledger: RedisTreasury, config: Callable[[], GatewayConfig], poll: float = POLL) -> None:
        self._ledger, self._log, self._config, self._poll = ledger, Log(ledger), config, poll

    def _org(self, asked: str) -> str:
        return asked or self._config().auth.org

    async def list_usage(self, request: rpc.ListUsageRequest) -> AsyncIterator[rpc.UsageRow]:
        """Sum the daily rollups."""
        by, span = dimensions(",".join(request.by)), _span(request.since or "7d", request.until)
        only: dict[str, set[str]] = {}
        for item in request.only:
            if len(dimensions(item.dimension)) != 1:
                raise DimensionRefused("a filter names one dimension")
            only.setdefault(item.dimension, set()).add(item.value)
        chosen = {name: frozenset(values) for name, values in only.items()}
        sums = await books.usage(self._ledger, self._org(request.org), span, by, chosen)
        for row in sums.table().rows:
            names, numbers = row[: len(by)], row[len(by) :]
            requests, read_, written, unpriced, cost = (int(_number(cell)) for cell in numbers)
            yield rpc.UsageRow(
                dimensions=dict(zip(by, map(str, names), strict=True)), requests=requests, input_tokens=read_,
                output_tokens=written, unpriced_attempts=unpriced, cost_nano_usd=cost)

    async def stream_records(self, request: rpc.StreamRecordsRequest) -> AsyncIterator[rpc.Record]:
        """Give the records behind an id, and with `follow` those that come."""
        org = self._org(request.org)
        after = await self._after(org, request.from_id)
        while True:
            page = await self._log.page(org, after)
            for after, record in page:
                packed = Packed()
                packed.Pack(record)
                yield rpc.Record(id=str(after), recorded_unix_ms=after.ms, usage_record=packed)
            if len(page) < PAGE:
                if not request.follow:
                    return
                await asyncio.sleep(self._poll)

    async def _after(self, org: str, text: str) -> Position:
        if text == "$":
            return (await self._log.stream(org)).last
        after = position_of(text or str(START))
        if after is None:
            raise AskedWrong(f"from_id {text[:40]}: expected an id of the stream such as 1700000000000-0, or $")
        return after

    async def list_budgets(self, request: rpc.ListBudgetsRequest) -> rpc.ListBudgetsResponse:
        """Give every budget's window."""
        place = Place("", self._org(request.org), self._config())
        table, now = await read(self._ledger, place, request.all)
        names = [column.name for column in table.columns]
        return rpc.ListBudgetsResponse(
            time_unix_ms=now, budgets=[_budget(dict(zip(names, row, strict=True))) for row in table.rows])

    async def get_report(self, request: rpc.GetReportRequest) -> rpc.Report:
        """Sum the records of a period."""
        org, span = self._org(request.org), _span(request.since or "30d", request.until)
        baseline, top = request.baseline or books.BASELINE, request.top or 10
        if top > MOST_TOP:
            raise AskedWrong(f"top {top}: expected at most {MOST_TOP}")
        if (wrong := books.baseline_refused(baseline, span)) is not None:
            raise AskedWrong(wrong)
        sums = await books.report(self._ledger, org, span, baseline, self._config())
        report = _report(sums, top)
        report.org, report.since, report.until, report.baseline = org, str(span.first), str(span.last), baseline
        return report


def _span(since: str, until: str) -> Period:
    return period(since, until or None, datetime.now(UTC).date())


def _number(cell: Any) -> int:
    """A cell of a table as a number: amounts carry their unit besides."""
    return cell if isinstance(cell, int) else cell.number


def _budget(row: dict[str, Any]) -> rpc.Budget:
    amounts = {name: _number(row[name]) for name in ("spent", "reserved", "debt", "limit", "free")}
    return rpc.Budget(
        whom=row["whom"], name=row["name"], per=row["per"], unit=row["unit"], used_permille=row["used"],
        ends_unix_ms=row["resets"] or None, window=row["budget"], **amounts)


def _report(sums: spending.Report, top: int) -> rpc.Report:
    savings = sums.savings
    spent = sorted(sums.spent.items(), key=lambda item: (-item[1].nano, item[0]))
    moves = sorted(sums.moves.items(), key=lambda item: (-item[1], item[0]))
    return rpc.Report(
        requests=sums.requests, tokens=sums.tokens, cost_nano_usd=sums.nano, unfunded_nano_usd=sums.unfunded,
        failed_over=sums.moved, failed_attempts_nano_usd=sums.wasted, states=sums.states,
        spend=[_spend(model, backend, line) for (model, backend), line in spent],
        savings=rpc.Savings(compared=savings.compared, left_out=savings.left_out, actual_nano_usd=savings.actual,
                            baseline_nano_usd=savings.baseline),
        local=_share(sums.local), cloud=_share(sums.cloud),
        could_be_local={why: _share(share) for why, share in sums.could.items()},
        failovers=[rpc.Failover(from_backend=before, to_backend=after, cause=cause, times=times)
                   for (before, after, cause), times in moves],
        dearest=[_dear(one) for one in sums.dearest(top)])


def _spend(model: str, backend: str, line: spending.Spent) -> rpc.Spend:
    return rpc.Spend(
        model=model, backend=backend, attempts=line.attempts, failed=line.failed, input_tokens=line.input,
        cached_tokens=line.cached, output_tokens=line.output, unpriced=line.unpriced, cost_nano_usd=line.nano)


def _share(share: spending.Share) -> rpc.Share:
    requests, read_, written, nano, baseline = msgspec.structs.astuple(share)
    return rpc.Share(requests=requests, input_tokens=read_, output_tokens=written, cost_nano_usd=nano,
                     baseline_nano_usd=baseline)


def _dear(one: spending.Dear) -> rpc.Dear:
    return rpc.Dear(
        request_id=one.request_id, admitted_unix_ms=one.at, team=one.team, key=one.key, model=one.model,
        backend=one.backend, input_tokens=one.input, output_tokens=one.output, cost_nano_usd=one.nano, state=one.state)
