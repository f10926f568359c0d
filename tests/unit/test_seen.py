"""What a store was seen to have, through restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.ledger import seen as module
from extproc.ledger.base import Mark
from extproc.ledger.seen import Seen


def test_tables_are_remembered(tmp_path: Path) -> None:
    """An org whose table was there is known by the next process; also from a file that has nothing but names."""
    path = tmp_path / "seen"
    path.write_text("acme\nwith spaces: {}\n")
    Seen(path).note_table("new")
    again = Seen(path)
    assert [again.had_table(org) for org in ("acme", "with spaces: {}", "new", "other")] == [True, True, True, False]


def test_the_highest_id_only_grows(tmp_path: Path) -> None:
    """Lower ids change nothing, whichever worker wrote last."""
    path = tmp_path / "seen"
    one, two = Seen(path), Seen(path)
    one.note("o", Mark(10, 2))
    two.note("o", Mark(9, 7))
    one.note("o", Mark(10, 1))
    assert (one.last("o"), Seen(path).last("o"), Seen(path).last("other")) == (Mark(10, 2), Mark(10, 2), Mark())


def test_marks_are_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every record costs a write."""
    path = tmp_path / "seen"
    one = Seen(path)
    for number in range(1, 100):
        one.note("o", Mark(10, number))
    assert len(path.read_text().splitlines()) == 1
    assert one.last("o") == Mark(10, 99)
    monkeypatch.setattr(module, "WRITE_EVERY", -1.0)
    one._written.clear()
    one.note("o", Mark(11, 0))
    assert Seen(path).last("o") == Mark(11, 0)


def test_after_a_repair_the_store_counts(tmp_path: Path) -> None:
    """A store that was made again may begin low; that survives a restart."""
    path = tmp_path / "seen"
    one = Seen(path)
    one.note("o", Mark(10, 2))
    one.note_again("o", Mark(3, 0))
    last = Seen(path)
    assert last.last("o") == Mark(3, 0)
    last.note("o", Mark(4, 0))
    assert Seen(path).last("o") == Mark(4, 0)


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file is written anew with what counts."""
    monkeypatch.setattr(module, "LONGEST", 2000)
    monkeypatch.setattr(module, "WRITE_EVERY", -1.0)
    path = tmp_path / "seen"
    one = Seen(path)
    one.note_table("o")
    for number in range(1, 1000):
        one.note("o", Mark(number, 0))
    assert path.stat().st_size < 2100
    again = Seen(path)
    assert (again.had_table("o"), again.last("o")) == (True, Mark(999))


def test_without_a_file() -> None:
    """A worker that has no place to write remembers as long as it lives."""
    one = Seen(None)
    one.note_table("o")
    one.note("o", Mark(1, 1))
    assert (one.had_table("o"), one.last("o")) == (True, Mark(1, 1))


def test_what_another_worker_saw_counts(tmp_path: Path) -> None:
    """Tables that another worker saw meanwhile are known at once, its ids when they are asked for again."""
    one, two = Seen(tmp_path / "seen"), Seen(tmp_path / "seen")
    one.note_table("o")
    one.note("o", Mark(10, 0))
    assert two.had_table("o")
    two.refresh()
    assert two.last("o") == Mark(10, 0)
