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
    one.write(now=True)
    assert Seen(path).last("o") == Mark(10, 99)
    monkeypatch.setattr(module, "WRITE_EVERY", -1.0)
    one._write_at = 0.0
    for org in ("o", "p"):
        one.note(org, Mark(11, 0))
    assert [Seen(path).last(org) for org in ("o", "p")] == [Mark(11, 0)] * 2


def test_what_one_worker_finds_lost_is_lost_for_all(tmp_path: Path) -> None:
    """Marks that others write afterwards do not hide it, nor does a restart; a repair ends it."""
    path = tmp_path / "seen"
    one, two = Seen(path), Seen(path)
    one.note("o", Mark(10, 2))
    one.note_lost("o", Mark(10, 2))
    two._write_at = 0.0
    two.note("o", Mark(12, 0))
    one.refresh()
    two.refresh()
    assert [worker.lost("o") for worker in (one, two, Seen(path))] == [Mark(10, 2)] * 3
    assert two.last("o") == Mark(12, 0)
    two.note_again("o", Mark(3, 0))
    one.refresh()
    assert [(worker.lost("o"), worker.last("o")) for worker in (one, two, Seen(path))] == [(None, Mark(3, 0))] * 3


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """A reader that comes amid a write takes what is whole, and the rest next time."""
    path = tmp_path / "seen"
    one, (line, _) = Seen(path), ('["o",[10,0,4],false,false]', path.touch())
    for at in range(len(line)):
        with path.open("a") as file:
            file.write(line[at])
        one.refresh()
        assert one.last("o") == Mark()
    with path.open("a") as file:
        file.write("\nnext")
    one.refresh()
    assert (one.last("o"), one.had_table("next")) == (Mark(10, 0, 4), False)


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
    reader = Seen(path)
    one.note_lost("o", Mark(500))
    for number in range(1000, 2000):
        one.note("p", Mark(number, 0))
        reader.refresh()
    assert path.stat().st_size < 2100
    assert [(worker.lost("o"), worker.last("p")) for worker in (reader, Seen(path))] == [(Mark(500), Mark(1999))] * 2


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
