"""What routing by value has left on the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.commands.regret import beliefs, believed_of, entries_of, learning_of, price_of, values_of
from extproc.commands.regret import regret as command
from extproc.config import GatewayConfig
from extproc.config.learning import LearningConfig
from extproc.config.smart import SmartConfig
from extproc.core.pricing import FREE, Price, Rate, per_million
from extproc.core.routing.learning import Learned
from extproc.ledger.memory_tallies import MemoryTallies
from extproc.pb import usage_pb2 as pb
from extproc.reports.periods import Period
from extproc.reports.regret import MOST_BACKENDS, Regret, Values
from extproc.reports.tables import as_csv, as_json, as_text
from extproc.textmodel.model import LOCAL_PRIOR

TODAY = date(2026, 11, 23)
NUMBER = (TODAY - date(1970, 1, 1)).days
SPAN = Period(TODAY, TODAY)
NOON = SPAN.start_ms + 43_200_000
LOCAL, CLOUD, CELL = "qwen/q", "claude/c", "debug.m.t"
PLACES = {LOCAL: "local", CLOUD: "cloud"}
PRICES = {LOCAL: FREE, CLOUD: Price(Rate(per_million(3)), Rate(per_million(15)))}
CENT = 10_000_000


def record(backend: str = LOCAL, cell: str = CELL, *, nano: int | None = 0, at: int = NOON, state: str = "done",
           judged: bool = True, chances: tuple[float, float] | None = (0.7, 0.9), **attempt: Any) -> pb.UsageRecord:
    """A request of 2,000 tokens in and 400 out that one backend answered."""
    facts = pb.Facts(cell=cell)
    if judged:
        facts.score_ppm = 100_000
    if chances is not None:
        facts.p_local_ppm, facts.p_cloud_ppm = (round(chance * 1e6) for chance in chances)
    name, _, model = backend.partition("/")
    fields: dict[str, Any] = {"number": 1, "backend": name, "model_used": model, "outcome": pb.Attempt.EXACT,
                              "tokens": pb.Tokens(input=2_000, output=400), "cost_nano_usd": nano} | attempt
    return pb.UsageRecord(
        state=state, admission=pb.Admission(request_id="r", admitted_unix_ms=at, facts=facts), delta_nano_usd=nano or 0,
        attempts=[pb.Attempt(**fields)])


def regret(*records: pb.UsageRecord, learned: Learned | None = None, value: int | Values = 10 * CENT,
           places: dict[str, str] = PLACES, more: Callable[[str, str], float] = lambda _entry, _task: 0.0) -> Regret:
    """The report of records, of a value of ten cents for a success."""
    values = Values(value) if isinstance(value, int) else value
    found = Regret(SPAN, learned or Learned(), values, PRICES.get, places, more)
    for one in records:
        found.add(NOON + 1_000, one)
    return found


def rows(found: Regret) -> list[dict[str, Any]]:
    """The rows as people's programs get them."""
    return json.loads(as_json(found.table()))["rows"]


class TestRegret:
    """Each choice against the best one."""

    def test_the_formula(self) -> None:
        """Ten cents at 0.9 less 1.2 cents beat ten cents at 0.7: 0.8 cents for each of three requests."""
        found = regret(record(), record(), record())
        best, chosen = rows(found)
        assert (best["backend"], best["requests"], best["best"], best["regret_nano_usd"]) == (CLOUD, 0, "yes", 0)
        assert (best["mean_cost_nano_usd"], best["value_nano_usd"]) == (12_000_000, 9 * CENT - 12_000_000)
        assert (chosen["backend"], chosen["requests"], chosen["share_percent"]) == (LOCAL, 3, 100.0)
        assert chosen["regret_nano_usd"] == 3 * 8_000_000
        assert (chosen["chance_percent"], chosen["mean_cost_nano_usd"]) == (70.0, 0)
        assert chosen["low_percent"] < 70 < chosen["high_percent"]

    def test_dear_beside_value(self) -> None:
        """Where a success is worth little, the dear backend is the regret, and the free one the best."""
        found = regret(record(CLOUD, nano=12_000_000), record(), value=CENT)
        best, chosen = rows(found)
        assert (best["backend"], best["requests"], best["share_percent"]) == (LOCAL, 1, 50.0)
        assert (chosen["backend"], chosen["regret_nano_usd"]) == (CLOUD, 12_000_000 - 2_000_000)

    def test_value_by_price(self) -> None:
        """Where a success is worth so many times its price at the complex side, it is so in each cell by its own size,
        with nothing cached."""
        cached = pb.Tokens(input=200, cache_read=1_800, output=400)
        found = regret(record(), record(cell="debug.l.t", tokens=pb.Tokens(input=20_000, output=400)),
                       record(cell="edit.m.t", tokens=cached), value=Values(CENT, 8, CLOUD))
        local = {row["cell"]: row["value_nano_usd"] for row in rows(found) if row["backend"] == LOCAL}
        assert local == {CELL: round(0.7 * 8 * 12_000_000), "debug.l.t": round(0.7 * 8 * 66_000_000),
                         "edit.m.t": round(0.7 * 8 * 12_000_000)}

    @pytest.mark.parametrize("values", [Values(CENT, 8, LOCAL), Values(CENT, 8, "no/price"), Values(CENT, 8)])
    def test_value_without_price(self, values: Values) -> None:
        """Where the complex side is free or its price unknown, the amount counts."""
        assert rows(regret(record(), value=values)) == rows(regret(record(), value=CENT))

    def test_what_the_operator_believes(self) -> None:
        """A backend that is believed to do better than the shipped prior starts from there, within 0 and 1."""
        found = regret(record(), more=lambda entry, task: 0.25 if (entry, task) == (LOCAL, "debug") else 0.0)
        assert {row["backend"]: row["chance_percent"] for row in rows(found)} == {LOCAL: 95.0}
        found = regret(record(), more=lambda _entry, _task: 2.0)
        assert {row["chance_percent"] for row in rows(found)} == {98.0}, "no belief is certain"

    def test_outcomes_move_it(self) -> None:
        """What was learnt since decides: a local backend that always failed is regretted more."""
        learned = Learned()
        for number in range(100):
            learned.note(CELL, LOCAL, False, 1, NUMBER, prior=0.7, key=str(number))
        before = rows(regret(record()))[1]
        after = rows(regret(record(), learned=learned))[1]
        assert after["regret_nano_usd"] > 3 * before["regret_nano_usd"]
        assert (before["outcomes"], after["outcomes"]) == (0, 100)
        assert after["chance_percent"] < 20

    def test_sum(self) -> None:
        """The sum is that of all cells, the cell with most regret stands first, and a right choice has none."""
        found = regret(record(), record(cell="edit.s.n"), record(cell="edit.s.n"),
                       record(CLOUD, "chat.s.n", nano=12_000_000))
        table = found.table()
        assert [row[0] for row in table.rows if row[-1]] == ["edit.s.n", CELL]
        assert table.total is not None
        assert (table.total[2], table.total[-1]) == (4, 3 * 8_000_000)

    def test_same_size_for_all(self) -> None:
        """Costs are compared on a mean request of the cell, however different those were that each one had."""
        small = pb.Tokens(input=1_000, output=0)
        large = pb.Tokens(input=3_000, output=800)
        found = regret(record(tokens=small), record(CLOUD, nano=21_000_000, tokens=large))
        assert {row["mean_cost_nano_usd"] for row in rows(found)} == {0, 12_000_000}

    def test_unknown_price(self) -> None:
        """Without a price the mean of what was paid counts; without that too, the backend is in no comparison."""
        found = regret(record("x/y", nano=5_000_000), record("x/z", nano=None), places={})
        by_name = {row["backend"]: row for row in rows(found)}
        assert (by_name["x/y"]["mean_cost_nano_usd"], by_name["x/y"]["best"]) == (5_000_000, "yes")
        assert by_name["x/z"]["mean_cost_nano_usd"] is None
        assert by_name["x/z"]["regret_nano_usd"] is None

    def test_nothing_known(self) -> None:
        """A cell where nothing has a price has no best, and no regret."""
        found = regret(record("x/z", nano=None), places={})
        assert [(row["best"], row["regret_nano_usd"]) for row in rows(found)] == [("", None)]

    @pytest.mark.parametrize("one", [
        record(judged=False), record(cell=""), record(cell="evil\x1b[31m"), record(outcome=pb.Attempt.FAILED),
    ])
    def test_left_out(self, one: pb.UsageRecord) -> None:
        """Requests that were pinned, that nobody answered, or that have no cell are counted apart."""
        found = regret(one)
        assert (found.cells, found.left_out) == ({}, 1)

    @pytest.mark.parametrize("one", [record(at=NOON - 86_400_000), record(state="late"), record(state="adjust")])
    def test_not_of_the_period(self, one: pb.UsageRecord) -> None:
        """Requests of other days, and corrections, are no choices."""
        found = regret(one)
        assert (found.cells, found.left_out) == ({}, 0)

    def test_failover(self) -> None:
        """The backend that answered is the one chosen; what its predecessors cost is in the cost paid."""
        one = record(CLOUD, nano=None)
        one.attempts[0].outcome = pb.Attempt.FAILED
        one.attempts.append(pb.Attempt(number=2, backend="qwen", model_used="q", outcome=pb.Attempt.ESTIMATED))
        found = regret(one)
        assert list(found.cells[CELL].chosen) == [LOCAL]

    def test_without_promises(self) -> None:
        """Records that tell no chances leave the usual prior."""
        found = regret(record(chances=None))
        assert {row["chance_percent"] for row in rows(found)} == {80.0}

    def test_bounded(self) -> None:
        """Models without end, as a client may name them, are told apart up to a number."""
        found = regret(*[record(f"x/{number}") for number in range(MOST_BACKENDS + 50)], places={})
        chosen = found.cells[CELL].chosen
        assert (len(chosen), chosen["other"].requests) == (MOST_BACKENDS + 1, 50)

    def test_forms(self) -> None:
        """It has the forms of all reports; without records it is empty."""
        found = regret(record())
        assert "$0.008" in as_text(found.table())
        assert as_csv(found.table()).splitlines()[0].startswith("cell,backend,requests,share_percent,chance_percent,")
        assert regret().table().rows == []
        assert regret().table().total is None


CONFIG = GatewayConfig.model_validate({
    "backends": {
        "qwen": {"schema": "openai", "base_url": "http://127.0.0.1:1/v1", "location": "local"},
        "gpt": {"schema": "openai", "base_url": "https://api.openai.com/v1", "location": "cloud", "provider": "openai",
                "models": {"own": {"usd_per_million_input": 1.0, "usd_per_million_output": 2.0}}},
    },
    "chains": {"cloud": ["gpt/own", "qwen/q"], "local": ["qwen/q"], "spare": ["gpt/gpt-4o"]},
})


class TestCommand:
    """What the command takes from configuration and store."""

    def test_entries(self) -> None:
        """Every backend that smart routing can choose is a candidate, with its place; other chains' are none."""
        assert entries_of(CONFIG) == {"gpt/own": "cloud", "qwen/q": "local"}

    @pytest.mark.parametrize(("smart", "values"), [
        ({}, Values(CENT * 10, 8, "gpt/own")), ({"aim": "savings"}, Values(CENT * 10, 6, "gpt/own")),
        ({"value_usd": 0.3}, Values(CENT * 30, None, "gpt/own")),
        ({"aim": {"usd_per_day": 10}, "complex": "spare"}, Values(CENT * 10, None, "gpt/gpt-4o")),
        ({"complex": "no such chain"}, Values(CENT * 10, 8, "")),
    ])
    def test_values(self, smart: dict[str, Any], values: Values) -> None:
        """A success is worth what the aim says, as routing takes it."""
        routing = CONFIG.routing.model_copy(update={"smart": SmartConfig.model_validate(smart)})
        assert values_of(CONFIG.model_copy(update={"routing": routing})) == values

    def test_priors(self) -> None:
        """What the operator says of a backend counts beside the shipped prior, of a model before that of its backend."""
        smart = SmartConfig.model_validate({"priors": {"qwen": {"debug": 0.76, "chat": 0.9}, "qwen/q": {"debug": 0.86}}})
        config = CONFIG.model_copy(update={"routing": CONFIG.routing.model_copy(update={"smart": smart})})
        assert believed_of(config, "qwen/q", "debug") == pytest.approx(0.86 - LOCAL_PRIOR.debug)
        assert believed_of(config, "qwen/q", "chat") == pytest.approx(0.9 - LOCAL_PRIOR.chat)
        assert believed_of(config, "qwen/r", "debug") == pytest.approx(0.76 - LOCAL_PRIOR.debug)
        assert believed_of(config, "qwen/q", "design") == believed_of(config, "gpt/own", "debug") == 0
        assert believed_of(config, "qwen/q", "other") == believed_of(config, "gone/x", "debug") == 0

    def test_prices(self) -> None:
        """Prices are those of the gateway: its file's, none for local, the catalogue's, or unknown."""
        own = price_of(CONFIG, "gpt/own", "2026-11-23")
        assert own is not None
        assert own.input.base == per_million(1)
        assert price_of(CONFIG, "qwen/q", "2026-11-23") == FREE
        listed = price_of(CONFIG, "gpt/gpt-4o", "2026-11-23")
        assert listed is not None
        assert listed.input.base > 0
        assert price_of(CONFIG, "gpt/no-such-model", "2026-11-23") is None
        assert price_of(CONFIG, "gone/x", "2026-11-23") is None

    def test_how_it_learns(self) -> None:
        """The configuration says how it learns; one that says nothing learns in the usual way."""
        assert learning_of(CONFIG) == LearningConfig()

    async def test_beliefs(self) -> None:
        """What workers added to the store is believed, by day."""
        tallies, worker = MemoryTallies(), Learned()
        for day in (NUMBER, NUMBER - 14):
            for number in range(40):
                counts = worker.note(CELL, LOCAL, False, 1, day, prior=0.7, key=str(number))
                await tallies.add("learned:acme", day, counts, 10**9)
        learned = await beliefs(tallies, "acme", TODAY, LearningConfig())
        assert learned.evidence(CELL, LOCAL).all == pytest.approx(60)
        assert (await beliefs(tallies, "other", TODAY, LearningConfig())).evidence(CELL, LOCAL).all == 0
        off = await beliefs(tallies, "acme", TODAY, LearningConfig(enabled=False))
        assert off.chance(CELL, LOCAL, 0.7).mean == 0.7

    def test_without_configuration(self) -> None:
        """Without the gateway's configuration there are no prices: one line says what to give."""
        ran = CliRunner().invoke(command, ["--redis-url", "redis://127.0.0.1:1"])
        assert ran.exit_code == 1
        assert ran.output == ("extproc: give the gateway.yaml with -c: beliefs are held against its backends and "
                              "prices\n")
