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
WRITE_EVERY = 5.0
"""Seconds between two marks of one org: a mark a little too low finds all but the smallest losses."""


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """How far an org's stream was. `again`: the lines above no longer count."""

    org: str
    mark: Mark
    again: bool = False


class Seen:
    """One per worker. Without a file it remembers as long as the process lives."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tables: set[str] = set()
        self._marks: dict[str, Mark] = {}
        self._written: dict[str, float] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read what other workers wrote."""
        if self._path is None:
            return
        try:
            lines = self._path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                told = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError:
                self._tables.add(line)
                continue
            if told.again or told.mark > self.last(told.org):
                self._marks[told.org] = told.mark

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

    def note(self, org: str, last: Mark) -> None:
        """The stream of the org has come to here."""
        if last > self.last(org):
            self._marks[org] = last
            if (now := time.monotonic()) >= self._written.get(org, 0.0):
                self._written[org] = now + WRITE_EVERY
                self._append(_text(org, last))

    def note_again(self, org: str, last: Mark) -> None:
        """The store was repaired: what it has now is what counts."""
        self._marks[org] = last
        self._append(_text(org, last, again=True))

    def _append(self, line: str) -> None:
        if self._path is None:
            return
        while True:
            with self._path.open("a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not self._path.exists() or self._path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    continue  # written anew by another worker, between opening and locking
                file.write(line + "\n")
                file.flush()
                if file.tell() > LONGEST:
                    self._shorten(self._path)
                return

    def _shorten(self, path: Path) -> None:
        self.refresh()
        lines = [*sorted(self._tables), *[_text(org, mark) for org, mark in self._marks.items()]]
        new = path.with_name(f"{path.name}.new")
        new.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        new.replace(path)


def _text(org: str, mark: Mark, *, again: bool = False) -> str:
    return msgspec.json.encode(_Line(org, mark, again)).decode()
