"""`extproc budgets adjust`: corrections by hand are made once, add up everywhere, and are refused where they make no
sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.cli import main
from tests.contract.ledger_kit import DAY
from tests.contract.ledger_servers import Server
from tests.contract.test_export import GATEWAY, budgets, export, money, on, spend

USD = 10**9


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    own = Server("valkey")
    yield own
    own.remove()


@pytest.fixture
def config(org: str, tmp_path: Path, store: Server) -> Path:
    """A gateway.yaml of an org whose team web has spent six dollars in four requests."""
    path = tmp_path / "gateway.yaml"
    path.write_text(GATEWAY.format(org=org, usd=100, generation=1))
    budgets(store, "publish", path)
    spend(store, org, path, 4)
    return path


def run(store: Server, *words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words] + ["--redis-url", store.url])
    assert result.exit_code == code, result.output
    return result


def adjust(store: Server, config: Path, *words: str, code: int = 0, name: str = "credit-1") -> str:
    return run(store, "budgets", "adjust", "-c", config, "--reason", "credit note", "--id", name, *words,
               code=code).stderr


def data(store: Server, config: Path, *words: str) -> Any:
    return json.loads(run(store, *words, "-c", config, "--format", "json").stdout)


def spent(store: Server, org: str) -> dict[str, int]:
    """What windows have spent or owe, by dimension and unit."""
    found: dict[str, int] = {}
    for window, (charged, debt, _) in money(on(store, lambda treasury: treasury.audit(org))).items():
        dimension, _, unit, *_ = window.split(".")
        found[f"{dimension}.{unit}"] = found.get(f"{dimension}.{unit}", 0) + charged + debt
    return found


def test_once_by_name(store: Server, org: str, config: Path) -> None:
    """A correction counts once per name, in the budget, in the org's own, in usage and in the report."""
    was = spent(store, org)
    team = "web"
    told = adjust(store, config, "--budget", f"team:{team}", "--usd", "-1.500000001")
    assert "2 windows are corrected by -1.500000001 dollars (credit-1)" in told
    assert "nothing done: credit-1 was made before" in adjust(
        store, config, "--budget", f"team:{team}", "--usd", "-1.500000001")
    now = spent(store, org)
    assert (was["org.usd"] - now["org.usd"], was["team.usd"] - now["team.usd"]) == (1_500_000_001, 1_500_000_001)
    usage = data(store, config, "usage", "--by", "model")
    [row] = [row for row in usage["rows"] if row["model"] == "(correction)"]
    assert (row["cost_nano_usd"], row["requests"]) == (-1_500_000_001, 0)
    report = data(store, config, "report")
    assert report["total"][0]["cost_nano_usd"] == usage["total"]["cost_nano_usd"] == now["org.usd"]
    assert report["total"][0]["adjust"] == 1
    assert [row["cost_nano_usd"] for row in report["spend"] if not row["backend"]] == [-1_500_000_001]
    record = on(store, lambda treasury: treasury.records(org))[-1]
    assert (record.state, record.admission.reason, record.admission.request_id, record.admission.team) == (
        "adjust", "credit note", "credit-1", team)


def test_exported_and_rebuilt(store: Server, org: str, config: Path, tmp_path: Path) -> None:
    """A correction is in the files, so that windows which are made again have it."""
    adjust(store, config, "--budget", f"org:{org}", "--usd", "2.5")
    export(store, tmp_path / "x")
    was = money(on(store, lambda treasury: treasury.audit(org)))
    other = Server("valkey")
    try:
        budgets(other, "rebuild", config, "--from", tmp_path / "x")
        assert money(on(other, lambda treasury: treasury.audit(org))) == was
    finally:
        other.remove()


def test_tokens_and_periods(store: Server, org: str, config: Path) -> None:
    """Tokens are corrected in budgets of tokens; --per chooses among the windows."""
    was = spent(store, org)
    assert "1 window is corrected by +7 tokens" in adjust(store, config, "--budget", "user:u1", "--tokens", "7")
    assert spent(store, org)["user.tokens"] == was["user.tokens"] + 7
    told = adjust(store, config, "--budget", f"org:{org}", "--usd", "1", "--per", "total", name="b")
    assert "1 window is corrected by +1.00 dollars" in told


def test_beyond_the_limit(store: Server, org: str, config: Path) -> None:
    """What no budget can fund is debt, and said to be."""
    assert "of it: debt" in adjust(store, config, "--budget", f"org:{org}", "--usd", "100")
    assert spent(store, org)["org.usd"] == 106 * USD


def test_yesterday(store: Server, org: str, config: Path) -> None:
    """A correction may be of a day before: its windows and its usage, where they still take corrections."""
    day = (date.fromisoformat(DAY) - timedelta(days=1)).isoformat()
    adjust(store, config, "--budget", f"org:{org}", "--usd", "1", "--day", day)
    rows = data(store, config, "usage", "--by", "day")["rows"]
    assert {row["day"]: row["cost_nano_usd"] for row in rows}[day] == USD
    told = adjust(store, config, "--budget", "user:ann", "--tokens", "1", "--day", "2026-01-01", code=1, name="b")
    assert "takes corrections any more" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--budget", "team:web"), "nothing to correct"),
        (("--budget", "team:web", "--usd", "0"), "nothing to correct"),
        (("--budget", "team:web", "--usd", "-7000"), "more than one of the windows has spent"),
        (("--budget", "team:web", "--usd", "1.0000000001"), "at most nine decimals"),
        (("--budget", "team:web", "--usd", "1e999999999"), "at most nine decimals"),
        (("--budget", "team:web", "--usd", "nan"), "at most nine decimals"),
        (("--budget", "team:web", "--usd", "9007200"), "at most nine decimals"),
        (("--budget", "team", "--usd", "1"), "expected DIMENSION:NAME"),
        (("--budget", "day:web", "--usd", "1"), "expected DIMENSION:NAME"),
        (("--budget", "project:web", "--usd", "1"), "no such budget is in force for project:web"),
        (("--budget", "team:a", "--budget", "team:b", "--usd", "1"), "there is another team"),
        (("--budget", "org:somebody", "--usd", "1"), "there is another org"),
        (("--budget", "team:web", "--usd", "1", "--day", "2999-01-01"), "is yet to come"),
        (("--budget", "team:web", "--usd", "1", "--day", "May"), "expected a day"),
        (("--budget", "team:web", "--usd", "1", "--reason", " "), "--reason: expected"),
        (("--budget", "team:web", "--usd", "1", "--id", "a\nb"), "--id: expected"),
        (("--budget", "team:web", "--usd", "1", "--org", "nobody"), "has no budgets in this store"),
    ],
)
def test_refused(store: Server, org: str, config: Path, words: tuple[str, ...], says: str) -> None:
    """What makes no sense is refused in one line, and nothing is changed."""
    was = on(store, lambda treasury: treasury.audit(org)).windows
    told = adjust(store, config, *words, code=1)
    assert says in told
    assert told.count("\n") == 1
    assert on(store, lambda treasury: treasury.audit(org)).windows == was
