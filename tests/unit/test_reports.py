"""Reports: periods, exact money, tables and their forms, sums over rollups and records, states of budgets."""

from __future__ import annotations

import io
import json
import sys
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from extproc.core.pricing import Price, Rate, per_million
from extproc.money.amounts import Audit, Unit, WindowState
from extproc.money.tables import END_OF_TIME_MS, Entry
from extproc.money.tables import Table as BudgetTable
from extproc.pb import usage_pb2 as pb
from extproc.reports import budgets, spending, tables
from extproc.reports.fitting import broken
from extproc.reports.periods import Period, PeriodRefused, day_of, length_ms, period, remaining
from extproc.reports.sections import sections
from extproc.reports.spending import Report, admitted_ms, charges
from extproc.reports.tables import Amount, Column, ParquetMissing, Table, as_csv, as_json, as_parquet, as_text, dollars
from extproc.reports.usage import DimensionRefused, Usage, dimensions

TODAY = date(2026, 11, 23)
DAY = 86_400_000
NOON = Period(TODAY, TODAY).start_ms + DAY // 2
WEEK = period("7d", None, TODAY)
PRICE = Price(Rate(per_million(2)), Rate(per_million(10)))


class TestPeriods:
    """Days and lengths of time as they are typed."""

    @pytest.mark.parametrize(("since", "until", "first", "last"), [
        ("7d", None, "2026-11-17", "2026-11-23"), ("1d", None, "2026-11-23", "2026-11-23"),
        ("2w", "2026-03-01", "2026-02-16", "2026-03-01"), ("2026-11-01", None, "2026-11-01", "2026-11-23"),
        ("2026-11-01", "2026-11-01", "2026-11-01", "2026-11-01"),
    ])
    def test_read(self, since: str, until: str | None, first: str, last: str) -> None:
        """A period is whole days, the first and the last included."""
        found = period(since, until, TODAY)
        assert (str(found.first), str(found.last)) == (first, last)
        days = list(found.days())
        assert (days[0], days[-1], len(set(days))) == (first, last, (found.end_ms - found.start_ms) // DAY)
        assert (day_of(found.start_ms), day_of(found.end_ms - 1)) == (first, last)

    @pytest.mark.parametrize(("since", "until"), [
        ("7h", None), ("0d", None), ("9999d", None), ("yesterday", None), ("", None), ("7d", "soon"), ("-7d", None),
        ("2026-11-24", None), ("2026-13-01", None), ("0001-01-01", None), ("7d", "1970-01-02"), ("٣d", None),
    ])
    def test_refused(self, since: str, until: str | None) -> None:
        """What is no period is refused in one line."""
        with pytest.raises(PeriodRefused) as told:
            period(since, until, TODAY)
        assert "\n" not in str(told.value)

    def test_lengths(self) -> None:
        """Lengths are read in five units and shown in their two largest."""
        lengths = [length_ms("--x", text) for text in ("45s", "30m", "24h", "90d", "2w")]
        assert lengths == [45_000, 1_800_000, DAY, 90 * DAY, 14 * DAY]
        assert [remaining(ms) for ms in lengths] == ["45s", "30m 0s", "1d 0h", "90d 0h", "14d 0h"]
        with pytest.raises(PeriodRefused):
            length_ms("--x", "1y")


class TestForms:
    """Tables as text, CSV, JSON and Parquet."""

    TABLE = Table(
        (Column("team"), Column("requests", "count"), Column("cost", "usd"), Column("used", "permille"),
         Column("at", "moment"), Column("routes", "list"), Column("left", "amount")),
        [("größe, \"x\"", 1_234_567, 12_500_000_001, 123, NOON, ("a", "b"), Amount("usd", 5 * 10**8)),
         ("\x1b[31mred", 0, None, None, 0, ("*",), Amount("tokens", -7))],
        ("total", 1_234_567, -1, 1000, 0, (), Amount("usd", 0)),
    )

    @pytest.mark.parametrize(("nano", "text"), [
        (0, "0.00"), (1, "0.000000001"), (10**9, "1.00"), (1_500_000_000, "1.50"), (-1, "-0.000000001"),
        (2**53 - 1, "9007199.254740991"), (-12_345_678_900, "-12.3456789"),
    ])
    def test_dollars(self, nano: int, text: str) -> None:
        """Dollars are exact, with cents at least."""
        assert dollars(nano) == text

    @given(st.integers(-(2**63), 2**63))
    def test_dollars_are_exact(self, nano: int) -> None:
        """No amount loses a digit."""
        assert int(dollars(nano).replace(".", "") + "0" * (9 - len(dollars(nano).partition(".")[2]))) == nano

    def test_text(self) -> None:
        """Text is aligned and grouped; nothing in it reaches the terminal as a command."""
        lines = as_text(self.TABLE).splitlines()
        assert lines[0].split() == ["team", "requests", "cost", "used", "at", "routes", "left"]
        assert lines[2].split("   ") == [
            'größe, "x"', "1,234,567", "$12.500000001", " 12.3 %", "2026-11-23 12:00:00", "a, b", "  $0.50"]
        assert lines[3].split() == ["\ufffd[31mred", "0", "-", "-", "-", "*", "-7"]
        assert lines[-1].split() == ["total", "1,234,567", "-$0.000000001", "100.0", "%", "-", "$0.00"]

    def test_places(self) -> None:
        """Amounts of a column have as many places as the longest needs, so that their points stand below each other."""
        text = as_text(Table((Column("cost", "usd"),), [(10**9,), (5,), (-(10**7),)], (2 * 10**9,)))
        assert [line.strip() for line in text.splitlines() if "$" in line] == [
            "$1.000000000", "$0.000000005", "-$0.010000000", "$2.000000000"]

    def test_upright(self) -> None:
        """A long row can stand upright."""
        text = as_text(Table((Column("cost", "usd", "all of it"), Column("n", "count")), [(10**9, 12_345)], upright=True))
        assert [line.split() for line in text.splitlines()] == [["all", "of", "it", "$1.00"], ["n", "12,345"]]

    def test_too_narrow(self) -> None:
        """Where a terminal is too narrow for its numbers, columns go below each other, and no digit is lost."""
        columns = tuple(Column(f"long heading {number}", "usd") for number in range(9))
        text = as_text(Table(columns, [(123_456_789_123_456,) * 9]), 60)
        assert text.count("$123,456.789123456") == 9
        assert max(map(len, text.splitlines())) <= 60

    def test_blocks_repeat_what_they_are_of(self) -> None:
        """In a narrow terminal ids and words of headings are whole, each block begins with the first column, and a
        column that is empty in every row gives way."""
        columns = (Column("request_id"), Column("key"), Column("model"), *(Column(f"attempts {n}", "count") for n in "abcdef"))
        text = as_text(Table(columns, [("01a22b69d33e7396877dcaa8a01b791e", "", "claude-sonnet-5", 1, 2, 3, 4, 5, 6)]), 80)
        blocks = text.split("\n\n")
        assert len(blocks) > 1
        assert all("01a22b69d33e7396877dcaa8a01b791e" in block for block in blocks)
        assert text.count("01a22b69d33e7396877dcaa8a01b791e") == len(blocks)
        assert text.count("attempts") == 6
        assert " key" not in text
        assert max(map(len, text.splitlines())) <= 80

    def test_wide_enough(self) -> None:
        """A table that fits its terminal looks as it does in a file."""
        assert as_text(self.TABLE, 200) == as_text(self.TABLE)

    @given(st.text(max_size=60), st.integers(2, 30))
    def test_broken_names_lose_nothing(self, name: str, width: int) -> None:
        """Lines of a broken name are within the width; together they have every sign that is no blank."""
        name = tables.printable(name)
        lines = broken(name, width).split("\n")
        assert max(map(cell_len, lines)) <= width
        assert "".join("".join(lines).split()) == "".join(name.split())

    def test_broken_at_joints(self) -> None:
        """A name is broken where it has a joint."""
        assert broken("demo-claude/claude-sonnet-5", 14).split("\n") == ["demo-claude/", "claude-sonnet-", "5"]

    def test_without(self) -> None:
        """A column can be left out, of the sum as well."""
        found = tables.without(Table((Column("a"), Column("b")), [("1", "2")], ("3", "4")), "a")
        assert (found.columns, found.rows, found.total) == ((Column("b"),), [("2",)], ("4",))

    @pytest.mark.parametrize("sizes", [[], [0], [1], [2], [0, 1, 0, 2, 3], [3, 0]])
    def test_pages(self, sizes: list[int]) -> None:
        """Written page by page, a table is as it is in one piece, and each page is written before the next one comes."""
        rows = [("a\u2028\n\"b", number, ("x", "y")) for number in range(sum(sizes))]
        columns = (Column("a"), Column("n", "count"), Column("c", "list"))
        whole, written = Table(columns, rows), dict[str, list[str]]()
        for form in ("csv", "json"):
            pages = tables.Pages(form, written.setdefault(form, []).append)
            pages.add(Table(columns, []))
            for number, size in enumerate(sizes):
                start = sum(sizes[:number])
                pages.add(Table(columns, rows[start : start + size]))
                assert len(written[form]) == number + 2
            pages.close()
        assert "".join(written["csv"]) == tables.as_csv(whole)
        assert "".join(written["json"]) == tables.as_json(whole)

    def test_narrow_text(self) -> None:
        """In a narrow terminal names are folded, numbers are whole."""
        text = as_text(Table((Column("name"), Column("cost", "usd")), [("x" * 50, 1)]), 40)
        assert max(map(len, text.splitlines())) <= 40
        assert text.count("x") == 50
        assert "$0.000000001" in text

    def test_csv(self) -> None:
        """CSV has exact money twice: as integer nano-dollars and as dollars."""
        assert as_csv(self.TABLE) == (
            "team,requests,cost_nano_usd,cost_usd,used_percent,at_unix_ms,routes,left\n"
            f'"größe, ""x""",1234567,12500000001,12.500000001,12.3,{NOON},a b,500000000\n'
            "\x1b[31mred,0,,,,,*,-7\n")

    def test_json(self) -> None:
        """JSON has the same, dollars as text, unknown as null; a sum has no names."""
        told = json.loads(as_json(self.TABLE, org="acme"))
        assert told == {
            "org": "acme",
            "rows": [
                {"team": 'größe, "x"', "requests": 1_234_567, "cost_nano_usd": 12_500_000_001,
                 "cost_usd": "12.500000001", "used_percent": 12.3, "at_unix_ms": NOON, "routes": ["a", "b"],
                 "left": 500_000_000},
                {"team": "\x1b[31mred", "requests": 0, "cost_nano_usd": None, "cost_usd": None, "used_percent": None,
                 "at_unix_ms": None, "routes": ["*"], "left": -7},
            ],
            "total": {"requests": 1_234_567, "cost_nano_usd": -1, "cost_usd": "-0.000000001", "used_percent": 100.0,
                      "at_unix_ms": None, "routes": [], "left": 0},
        }

    def test_parquet(self) -> None:
        """Parquet gives back what went in, dollars as exact decimals."""
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(io.BytesIO(as_parquet(self.TABLE))).to_pylist()
        assert [{**row, "cost_usd": None if row["cost_usd"] is None else dollars(int(row["cost_usd"].scaleb(9)))}
                for row in rows] == tables.as_data(self.TABLE)

    def test_parquet_without_pyarrow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without pyarrow the error says how to install it."""
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ParquetMissing, match=r"pip install 'extproc\[parquet\]'"):
            as_parquet(self.TABLE)


def row(cost: int, requests: int = 1, **names: str) -> dict[str, str | int]:
    return {"team": "web", "project": "", "user": "", "key": "k", "model": "m", "backend": "b", "requests": requests,
            "input": 10, "output": 1, "unpriced": 0, "cost": cost} | names


class TestUsage:
    """Sums over rollup rows."""

    def test_by(self) -> None:
        """Rows with the same names become one, dearest first; the sum is that of all."""
        usage = Usage(dimensions("team,model"))
        for day, one in (("d1", row(5)), ("d2", row(6)), ("d1", row(2**60, team="pay")), ("d1", row(-1, model="n"))):
            usage.add(day, one)
        found = usage.table()
        assert found.rows == [("pay", "m", 1, 10, 1, 0, 2**60), ("web", "m", 2, 20, 2, 0, 11),
                              ("web", "n", 1, 10, 1, 0, -1)]
        assert found.total == ("total", "", 4, 40, 4, 0, 2**60 + 10)

    def test_days(self) -> None:
        """By day first, days come in their order."""
        usage = Usage(dimensions("day,team"))
        for day, cost in (("2026-11-02", 1), ("2026-11-01", 5), ("2026-11-03", 9)):
            usage.add(day, row(cost))
        assert [one[0] for one in usage.table().rows] == ["2026-11-01", "2026-11-02", "2026-11-03"]

    def test_only(self) -> None:
        """What is filtered out is in no sum."""
        usage = Usage((), {"team": frozenset({"web", "pay"}), "model": frozenset({"m"})})
        for one in (row(1), row(2, team="pay"), row(4, team="x"), row(8, model="n")):
            usage.add("d", one)
        assert usage.table().rows == [(2, 20, 2, 0, 3)]

    def test_unknown_dimension(self) -> None:
        """There is a list of what can be summed by."""
        assert dimensions("team, model,team") == ("team", "model")
        with pytest.raises(DimensionRefused, match="day, team, project"):
            dimensions("team,price")


EXACT, FAILED, EXPIRED = pb.Attempt.EXACT, pb.Attempt.FAILED, pb.Attempt.EXPIRED


def attempt(number: int = 1, cost: int | None = 0, outcome: Any = EXACT, backend: str = "claude", **more: Any) -> pb.Attempt:
    fields: dict[str, Any] = {"model_used": "m", "tokens": pb.Tokens(input=1000, output=100)} | more
    return pb.Attempt(number=number, backend=backend, outcome=outcome, cost_nano_usd=cost, **fields)


def record(*attempts: pb.Attempt, state: str = "done", delta: int | None = None, reason: str = "pinned by model x",
           rid: str = "r", at: int = NOON, **more: Any) -> pb.UsageRecord:
    spent = sum(one.cost_nano_usd for one in attempts) if delta is None else delta
    who = pb.Admission(request_id=rid, team="web", key="k", reason=reason, admitted_unix_ms=at)
    return pb.UsageRecord(state=state, admission=who, attempts=attempts, delta_nano_usd=spent, **more)


def record_of(other: pb.UsageRecord, number: int) -> pb.UsageRecord:
    """The record as one of another request."""
    own = pb.UsageRecord()
    own.CopyFrom(other)
    own.admission.request_id = f"r{number}"
    return own


def reported(*records: pb.UsageRecord, context: int | None = None, price: Price | None = PRICE,
             **locations: str) -> Report:
    found = Report(WEEK, lambda _day: price, locations, context)
    for one in records:
        found.add(NOON, one)
    return found


attempts_drawn = st.builds(
    pb.Attempt, number=st.integers(1, 9), outcome=st.sampled_from([1, 2, 3, 4]),
    cost_nano_usd=st.none() | st.integers(0, 2**53))


class TestReport:
    """Sums over the records of the stream."""

    @given(st.lists(attempts_drawn, max_size=5), st.integers(-(2**53), 2**53))
    def test_charges_add_up(self, attempts: list[pb.Attempt], delta: int) -> None:
        """However a record's amount is split among its attempts, the parts are the whole."""
        assert sum(nano for _, nano in charges(pb.UsageRecord(attempts=attempts, delta_nano_usd=delta))) == delta

    @pytest.mark.parametrize(("found", "parts"), [
        (record(attempt(1, 5), attempt(2, 7)), [5, 7]),
        (record(attempt(1, None), attempt(2, 7)), [0, 7]),
        (record(attempt(1, 5), attempt(2, None, EXPIRED), state="expired", delta=105), [5, 100]),
        (record(attempt(1, None, EXPIRED), attempt(2, 5), state="expired", delta=105), [100, 5]),
        (record(attempt(1, 30), state="late", delta=-70), [-70]),
        (record(state="adjust", delta=-9), [-9]),
        (record(state="unsent", delta=0), []),
    ])
    def test_charges(self, found: pb.UsageRecord, parts: list[int]) -> None:
        """Each attempt has its own cost; what nobody settled has the rest, a correction its difference."""
        assert [nano for _, nano in charges(found)] == parts

    def test_period(self) -> None:
        """A request counts on the day of its admission, not of its record."""
        inside, outside = WEEK.end_ms - 1, WEEK.end_ms
        report = Report(WEEK, lambda _day: PRICE, {})
        report.add(outside + 5, record(attempt(1, 3), at=inside))
        report.add(inside, record(attempt(1, 4), at=outside))
        report.add(inside, record(attempt(1, 8), at=WEEK.start_ms - 1))
        assert (report.nano, report.records) == (3, 1)

    @pytest.mark.parametrize(("rid", "told", "found"), [
        ("x", 77, 77), ("0190a5c0b8007abc8def001122334455", 0, 0x0190A5C0B800),
        ("zz90a5c0b8007abc8def001122334455", 0, 5), ("x", 0, 5),
    ])
    def test_admitted(self, rid: str, told: int, found: int) -> None:
        """Without a time the request's own id tells it, else the record's."""
        assert admitted_ms(record(rid=rid, at=told), 5) == found

    def test_spend(self) -> None:
        """Spend is told by model and backend; unknown prices are counted, not summed as zero."""
        report = reported(record(attempt(1, 0, FAILED, "a", tokens=None), attempt(2, 7, backend="b")),
                          record(attempt(1, None, backend="b")), record(state="adjust", delta=-2))
        assert report.spent[("m", "a")] == spending.Spent(attempts=1, failed=1)
        assert report.spent[("m", "b")] == spending.Spent(2, 0, 2000, 0, 200, 1, 7)
        assert report.spent[("", "")].nano == -2
        assert report.nano == sum(line.nano for line in report.spent.values()) == 5

    def test_savings(self) -> None:
        """Savings are the same tokens at the baseline's price, less all that was paid, failures included."""
        report = reported(record(attempt(1, 1000, FAILED, tokens=None), attempt(2, 500_000)),
                          record(attempt(1, None)), record(attempt(1, 7, tokens=pb.Tokens(input=1))),
                          record(attempt(1, None, EXPIRED), state="expired", delta=9))
        # 1000 × 2 $/M + 100 × 10 $/M = 3,000,000 n$
        assert report.savings == spending.Savings(compared=1, left_out=3, actual=501_000, baseline=3_000_000)
        told = sections(report, "x/y", 5)["savings"].rows[0]
        assert told == ("x/y", 1, 3, 501_000, 3_000_000, 2_499_000, 833, 999)

    def test_savings_of_what_is_told_late(self) -> None:
        """A dead worker's request is compared once all of it is told; until then its charge is spent and not compared."""
        first = record(attempt(1, 40), attempt(2, None, EXPIRED), attempt(3, None, EXPIRED), state="expired", delta=940)
        late = [record(attempt(3, 100), state="late", delta=-350), record(attempt(2, 50), state="late", delta=-400)]
        report = reported(first)
        assert (report.savings, report.nano, report.covered) == (spending.Savings(left_out=1), 940, 0)
        assert reported(first, late[0]).savings == spending.Savings(left_out=1)
        report = reported(first, *late)
        assert report.savings == spending.Savings(compared=1, actual=190, baseline=3_000_000)
        assert (report.nano, report.covered, report.cloud.requests) == (190, 1000, 1)
        assert reported(late[0]).savings == spending.Savings(), "a correction alone is no request"

    @given(st.lists(st.sampled_from([
        record(attempt(1, 5)), record(attempt(1, None, EXPIRED), state="expired", delta=9), record(state="unsent"),
        record(attempt(1, 3), state="late", delta=-6), record(state="adjust", delta=-2), record(state="cached"),
        record(attempt(1, 4), state="orphan"), record(attempt(1, 0, FAILED), state="closed")])))
    def test_every_request_is_compared_or_left_out(self, records: list[pb.UsageRecord]) -> None:
        """All states are in what was spent; every request with an attempt is compared or left out, once."""
        report = reported(*[record_of(one, number) for number, one in enumerate(records)])
        assert report.nano == sum(one.delta_nano_usd for one in records)
        asked = sum(one.state in spending.PRIMARY and bool(one.attempts) for one in records)
        assert report.savings.compared + report.savings.left_out == asked

    def test_no_price_of_the_day(self) -> None:
        """On a day on which the baseline has no price nothing is compared."""
        assert reported(record(attempt(1, 5)), price=None).savings == spending.Savings(left_out=1)

    def test_where(self) -> None:
        """The configuration tells what is local; without it, what is known to have cost nothing."""
        records = [record(attempt(1, 0, backend="q")), record(attempt(1, 5, backend="c"))]
        assert (reported(*records).local.requests, reported(*records).cloud.requests) == (1, 1)
        told = reported(*records, q="cloud", c="local")
        assert (told.local.nano, told.cloud.nano) == (5, 0)

    @pytest.mark.parametrize(("reason", "context", "counted"), [
        ("simple (0.1 < 0.5): short", None, "found simple or cost sensitive, but answered by a cloud"),
        ("cost sensitive: a CI client", 1100, "found simple or cost sensitive, but answered by a cloud"),
        ("pinned by model claude", None, "sent to a cloud by name or rule, never judged"),
        ("rule: night", None, "sent to a cloud by name or rule, never judged"),
        ("complex (0.9 >= 0.5): long", None, None), ("latency critical: fill in the middle", None, None),
        ("simple (0.1 < 0.5): short", 1099, None), ("", None, None),
    ])
    def test_could_be_local(self, reason: str, context: int | None, counted: str | None) -> None:
        """A cloud's answer could have been local unless it was complex, urgent or too long for a local model."""
        report = reported(record(attempt(1, 5), reason=reason), context=context, claude="cloud")
        assert report.could == ({counted: spending.Share(1, 1000, 100, 5, 3_000_000)} if counted else {})

    def test_failovers(self) -> None:
        """A failover is told by where from, where to and why."""
        report = reported(
            record(attempt(2, 7, backend="b"), attempt(1, 3, FAILED, "a", error_type="overloaded", status=529)),
            record(attempt(1, 0, FAILED, "a", status=429), attempt(2, 0, FAILED, "b"), attempt(3, 1, backend="c")),
            record(attempt(1, 5)))
        assert report.moves == {("a", "b", "overloaded"): 1, ("a", "b", "429"): 1, ("b", "c", "failed"): 1}
        assert (report.moved, report.wasted) == (2, 3)

    def test_dearest(self) -> None:
        """The dearest requests come first, with later corrections, and without a word of what was asked."""
        report = reported(record(attempt(1, 5), rid="a"), record(attempt(1, 9, error_body="secret"), rid="b"),
                          record(attempt(1, 2), rid="b", state="late", delta=-7))
        assert [(one.request_id, one.nano) for one in report.dearest(9)] == [("a", 5), ("b", 2)]
        texts = [as_text(table) for table in sections(report, "x/y", 10).values()]
        assert "secret" not in "".join(texts)

    def test_bounded(self) -> None:
        """A client that names a million models or sends a million requests costs no memory."""
        report = Report(WEEK, lambda _day: PRICE, {})
        for number in range(12_000):
            report.add(NOON, record(attempt(1, 1 + number, model_used=f"m{number}"), rid=f"r{number}"))
        assert len(report.spent) == spending.MOST_ROWS + 1
        assert report.spent[("other", "other")].attempts == 2000
        assert sum(line.nano for line in report.spent.values()) == report.nano == sum(range(12_001))
        assert [one.nano for one in report.dearest(2)] == [12_000, 11_999]
        assert len(vars(report)["_dear"]) <= 2 * spending.CANDIDATES


class TestBudgets:
    """States of windows, under their names."""

    ENTRIES = (
        Entry("org.0f0f.usd.month", Unit.USD, 1000, "month"),
        Entry("team.all.tokens.day", Unit.TOKENS, 500, "day", "Europe/Berlin"),
        Entry("key.abcd.requests.total", Unit.REQUESTS, 0, "total"),
    )
    TABLE = BudgetTable(1, ENTRIES)

    def audit(self, *windows: WindowState) -> Audit:
        return Audit(NOON, 3, 0, 0, windows)

    def window(self, entry: Entry, suffix: str = "", back: int = 0) -> str:
        budget = entry.at(NOON - back)
        return f"{entry.id}{suffix}:{budget.start_ms}"

    def test_states(self) -> None:
        """Every budget of one has a line, spent or not; those for each one where they have begun; limits are the
        table's."""
        month, day, total = self.ENTRIES
        audit = self.audit(
            WindowState(self.window(day, ".beef"), 100, 50, 25, 9999), WindowState(self.window(month), 900, 0, 0, 1000),
            WindowState(self.window(day, ".beef", 2 * DAY), 7, 0, 0, 500), WindowState("team.gone.usd.day:0", 5, 0, 0, 9))
        found = budgets.lines(self.TABLE, audit)
        names = budgets.Names(self.TABLE, found)
        rows = budgets.table_of(found, names, NOON).rows
        dollar, token, piece = (lambda n: Amount("usd", n)), (lambda n: Amount("tokens", n)), (lambda n: Amount("requests", n))
        end = day.at(NOON).end_ms
        assert [one[:9] for one in rows] == [
            ("org", "(0f0f)", "month", "usd", dollar(900), dollar(0), dollar(0), dollar(1000), dollar(100)),
            ("team", "(beef)", "day", "tokens", token(100), token(50), token(25), token(500), token(325)),
            ("key", "(abcd)", "total", "requests", piece(0), piece(0), piece(0), piece(0), piece(0)),
        ]
        assert [one[9:12] for one in rows] == [
            (900, month.at(NOON).end_ms, remaining(month.at(NOON).end_ms - NOON)),
            (250, end, remaining(end - NOON)), (None, 0, "never")]
        assert total.at(NOON).end_ms == END_OF_TIME_MS

    def test_everything(self) -> None:
        """On demand also windows that are over, and those of budgets that are in no table any more."""
        day = self.ENTRIES[1]
        audit = self.audit(WindowState(self.window(day, ".beef", 2 * DAY), 7, 0, 0, 500),
                           WindowState("team.gone.usd.day:0", 5, 0, 0, 9))
        found = budgets.lines(self.TABLE, audit, everything=True)
        rows = budgets.table_of(found, budgets.Names(self.TABLE, found), NOON).rows
        assert [(one[0], one[1], one[4], one[7], one[11]) for one in rows if one[4].number] == [
            ("team", "(beef)", Amount("tokens", 7), Amount("tokens", 500), "over"),
            ("team", "(gone)", Amount("usd", 5), Amount("usd", 9), "removed")]

    def test_names(self) -> None:
        """Names are found by trying those that are offered, until none is missing."""
        from extproc.config import BudgetConfig
        from extproc.core.admission import Identity, entries_for, table_of

        configured = [BudgetConfig.model_validate(one) for one in (
            {"for": {"team": "*"}, "usd": 1, "per": "day"}, {"for": {"key": "ci"}, "requests": 5, "per": "day"},
            {"for": {"team": "größe"}, "usd": 2, "per": "month", "time_zone": "Asia/Tokyo"})]
        table = table_of(configured, [], 1)
        audit = self.audit(*[
            WindowState(entry.at(NOON).window, 1, 0, 0, 5)
            for team in ("web", "größe") for entry in entries_for(table, Identity("o", team, key="ci"))])
        found = budgets.lines(table, msgspec.structs.replace(audit, windows=tuple(dict.fromkeys(audit.windows))))
        names = budgets.Names(table, found)
        for dimension, name in (("team", "other"), ("key", "web"), ("team", "web"), ("key", "ci")):
            names.offer(dimension, name)
        assert names.missing
        names.offer("team", "größe")
        assert not names.missing
        assert sorted(f"{line.state.budget.split('.')[0]} {names.of(line)}" for line in found) == [
            "key ci", "team größe", "team größe", "team web"]

    def test_foreign_ids(self) -> None:
        """Budgets whose ids were made by hand are shown as they are."""
        table = BudgetTable(1, (Entry("org", Unit.USD, 10, "total"),))
        found = budgets.lines(table, self.audit(WindowState("org:0", 3, 0, 0, 10)))
        names = budgets.Names(table, found)
        names.offer("org", "acme")
        assert budgets.table_of(found, names, NOON).rows[0][:2] == ("org", "")
