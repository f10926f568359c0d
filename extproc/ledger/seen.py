"""What a store was seen to have, remembered outside of it: a store that has less now has lost data.

Lines of a file that the workers of one gateway share: an org alone, whose budget table was there; or a JSON list of an
org and a mark in its stream of records, which has the record of that mark, unless the store went back to older data.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from extproc.ledger.base import Mark

NOTHING = Mark()
LONGEST = 256 << 10
"""Bytes of the file from which it is written anew."""
WRITE_EVERY = 1.0
"""Seconds between two writes of marks: what a process that is killed has seen in the last one is not in the file."""


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """How far an org's stream was. `again`: the lines above no longer count. `lost`: the store lacks that mark."""

    org: str
    mark: Mark
    again: bool = False
    lost: bool = False


class Seen:
    """One per worker. Without a file it remembers as long as the process lives."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tables: set[str] = set()
        self._marks: dict[str, Mark] = {}
        self._lost: dict[str, Mark] = {}
        self._unwritten: set[str] = set()
        self._write_at = 0.0
        self._read = (0, 0)  # of which file (inode), and how many bytes of it
        self.refresh()

    def refresh(self) -> None:
        """Read what other workers wrote since the last time."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                about, (inode, at) = os.fstat(file.fileno()), self._read
                file.seek(at if about.st_ino == inode and about.st_size >= at else 0)
                whole, _, rest = file.read().rpartition(b"\n")
                self._read = about.st_ino, file.tell() - len(rest)
        except FileNotFoundError:
            return
        for line in whole.decode("utf-8").splitlines():
            self._take(line)

    def _take(self, line: str) -> None:
        try:
            told = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            self._tables.add(line)
            return
        if told.lost:
            self._lost[told.org] = told.mark
        elif told.again or told.mark > self.last(told.org):
            self._marks[told.org] = told.mark
        if told.again:
            self._lost.pop(told.org, None)

    def had_table(self, org: str) -> bool:
        """Whether the store had a budget table of the org, by any worker."""
        if org not in self._tables:
            self.refresh()
        return org in self._tables

    def note_table(self, org: str) -> None:
        """The store has a budget table of the org."""
        if org not in self._tables:
            self._tables.add(org)
            self._append(org)

    def last(self, org: str) -> Mark:
        """Return how far the stream was seen to be."""
        return self._marks.get(org, NOTHING)

    def lost(self, org: str) -> Mark | None:
        """Return the mark that some worker found to be lost, until the store is repaired."""
        return self._lost.get(org)

    def note(self, org: str, last: Mark) -> None:
        """The stream of the org has come to here."""
        if last > self.last(org):
            self._marks[org] = last
            self._unwritten.add(org)
            self.write()

    def note_lost(self, org: str, mark: Mark) -> None:
        """The store has this mark no more: that holds for all workers, whatever is recorded from now on."""
        if org not in self._lost:
            self._lost[org] = mark
            self._append(_text(org, mark, lost=True))

    def note_again(self, org: str, last: Mark) -> None:
        """The store was repaired: what it has now is what counts."""
        self._marks[org] = last
        self._lost.pop(org, None)
        self._append(_text(org, last, again=True))

    def write(self, *, now: bool = False) -> None:
        """Write marks down that are not yet; unless it is done `now`, not more often than needed."""
        if self._unwritten and (now or time.monotonic() >= self._write_at):
            self._write_at = time.monotonic() + WRITE_EVERY
            unwritten, self._unwritten = self._unwritten, set()
            self._append("\n".join(_text(org, self.last(org)) for org in unwritten))

    def _append(self, lines: str) -> None:
        if self._path is None:
            return
        while True:
            with self._path.open("a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not self._path.exists() or self._path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    continue  # written anew by another worker, between opening and locking
                file.write(lines + "\n")
                file.flush()
                if file.tell() > LONGEST:
                    self._shorten(self._path)
                return

    def _shorten(self, path: Path) -> None:
        self.refresh()
        lines = [*sorted(self._tables), *[_text(org, mark, again=True) for org, mark in self._marks.items()],
                 *[_text(org, mark, lost=True) for org, mark in self._lost.items()]]
        new = path.with_name(f"{path.name}.new")
        new.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        new.replace(path)


def _text(org: str, mark: Mark, *, again: bool = False, lost: bool = False) -> str:
    return msgspec.json.encode(_Line(org, mark, again, lost)).decode()
