"""`extproc budgets spool`: what waits on disk is shown, and what came too late is charged once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.cli import main
from extproc.commands.spool import _apply
from extproc.ledger import dead_letters
from extproc.ledger.dead_letters import NAME, bury, read
from extproc.ledger.spool import Entry, Spool
from extproc.money.amounts import HORIZON_MS, Account
from tests.contract.ledger_kit import OVER, Desk, make_rid, now_ms, usd, used
from tests.contract.ledger_servers import Server

BUDGETS = (usd("org", 1000),)


def entry(org: str, rid: bytes, cost: int | None = 9, *, request: str = "", attempt: int = 1) -> Entry:
    """A settlement of a request."""
    settlement = used(attempt, cost)
    return Entry(org, rid, attempt, type(settlement)(
        settlement.attempt, cost, 11, 3, settlement.row, request or rid.hex()), True, Account(BUDGETS))


def spool(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The command's rows."""
    got = CliRunner().invoke(main, ["budgets", "spool", "--format", "json", "--state", str(folder), *words])
    assert got.exit_code == 0, got.output
    return json.loads(got.output)["rows"]


def test_what_waits_is_shown(tmp_path: Path) -> None:
    """Settlements that wait, intents and dead letters, with who holds them, and what they cost."""
    own = Spool(tmp_path / "spool", "s")
    own.put(entry("o", make_rid(), 100), intent=True)
    own.put(entry("o", make_rid(), 9))
    bury(own.folder, entry("o", make_rid(), None))
    rows = spool(tmp_path)
    assert [(row["state"], row["held_by"]) for row in rows] == [
        ("runs, or was left", "a living worker"), ("waits", "a living worker"), ("too late", "you")]
    assert [row["cost_nano_usd"] for row in rows] == [100, 9, None]
    own.close()
    assert {row["held_by"] for row in spool(tmp_path)} == {"nobody", "you"}


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    """A folder that is not there is an error that says how to name another one."""
    got = CliRunner().invoke(main, ["budgets", "spool", "--state", str(tmp_path)])
    assert got.exit_code == 1
    assert "there is no spool folder" in got.output


def test_a_changed_dead_letter_is_refused(tmp_path: Path) -> None:
    """Dead letters that cannot be read are not skipped."""
    (tmp_path / NAME).write_text("{}\n")
    with pytest.raises(ValueError, match=NAME):
        read(tmp_path / NAME)
    letter = dead_letters.DeadLetter("", "", "rid", 1, "", "", "", "", "", 1, 1, "AAAA")
    with pytest.raises(ValueError, match="rid cannot be read"):
        letter.settlement()


async def test_dead_letters_are_charged_once(desk: Desk, org: str, tmp_path: Path) -> None:
    """Each is charged where it belongs, once, also when applying breaks off; what was charged in full stays as it is."""
    if desk.store.connections == 1 and not hasattr(desk.store, "door"):
        pytest.skip("operators' commands talk to servers")
    old = now_ms() - HORIZON_MS - 60_000
    expired = await desk.open(100, *BUDGETS, lease=OVER)
    await desk.begin(expired, 1, 100, lease=OVER)
    await desk.store.sweep(org)
    bury(tmp_path, entry(org, make_rid(old), 9))
    bury(tmp_path, entry(org, make_rid(old), 5, request=expired.hex()))
    bury(tmp_path, entry(org, make_rid(old), 7, request=expired.hex(), attempt=2))
    said = await _apply(desk.store, tmp_path)  # type: ignore[arg-type]
    assert said.startswith("2 dead letters charged; 1 attempts have a record")
    assert await desk.state() == (116, 0, 0)
    [done] = list(tmp_path.glob("*.applied.jsonl"))
    done.rename(str(done).replace("applied", "applying"))  # broken off before its end: the same again
    bury(tmp_path, entry(org, make_rid(old), 3))
    await _apply(desk.store, tmp_path)  # type: ignore[arg-type]
    assert await desk.state() == (119, 0, 0)
    assert (await desk.states()).count("adjust") == 3
    assert not (tmp_path / NAME).exists()
    await desk.check_rest()


def test_apply_asks_the_store(server: Server, tmp_path: Path) -> None:
    """The command says what it did."""
    bury(tmp_path, entry("default", make_rid(now_ms() - HORIZON_MS - 60_000), 9))
    got = CliRunner().invoke(main, ["budgets", "spool", "apply", "--spool", str(tmp_path), "--redis-url", server.url])
    assert got.exit_code == 0, got.output
    assert "1 dead letters charged" in got.output
