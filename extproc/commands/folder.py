"""Exported records on disk: a folder per org, files named by their first and last id in the stream, made by rename."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

import msgspec

from extproc.commands.store import CommandError
from extproc.ledger.export import START, Position, position_of
from extproc.reports import lines
from extproc.reports.lines import Form, LineRefused, Logged

_NAME = re.compile(r"^(\d+-\d+)_(\d+-\d+)\.(jsonl|parquet)$", re.ASCII)
_LONGEST = 160
"""Bytes of a folder's name that are readable; names of files may have 255."""


class File(msgspec.Struct, frozen=True, order=True):
    """Records from `first` to `last`."""

    first: Position
    last: Position
    path: Path


def folder_of(root: Path, org: str) -> Path:
    """Return where an org's files lie. Its name may hold anything, so it is quoted, and cut where it is long."""
    name = quote(org, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}.{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
    return root / name


def orgs_of(root: Path) -> list[str]:
    """Return the orgs that have files: by the names of folders, of long names by a record. Raises CommandError."""
    found: list[str] = []
    try:
        paths = [path for path in root.iterdir() if path.is_dir()]
    except OSError as error:
        raise CommandError(f"{root} cannot be read: {error.strerror}") from error
    for path in sorted(paths):
        name = unquote(path.name, errors="surrogateescape")
        if folder_of(root, name) != path:
            told = (entry.record.admission.org for entry in Folder(root, name, path).records())
            name = next((org for org in told if org), "")
        if name and folder_of(root, name) == path:
            found.append(name)
    return found


@contextlib.contextmanager
def writing(root: Path) -> Generator[None]:
    """Keep other exporters out. Raises CommandError where one is at work, or where the folder cannot be made."""
    lock: IO[str] | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if lock is not None:
            lock.close()
        if isinstance(error, BlockingIOError):
            raise CommandError(f"another `extproc export` writes into {root}; end it, or take another --to") from error
        raise CommandError(f"{root} cannot be written: {error.strerror}") from error
    with lock:
        yield


class Folder:
    """The files of one org."""

    def __init__(self, root: Path, org: str, path: Path | None = None) -> None:
        """`path`: where they lie, if that is known."""
        self.path = path or folder_of(root, org)

    def files(self) -> list[File]:
        """Return the files in the order of the stream. Raises CommandError."""
        found: list[File] = []
        try:
            paths = list(self.path.iterdir()) if self.path.is_dir() else []
        except OSError as error:
            raise CommandError(f"{self.path} cannot be read: {error.strerror}") from error
        for path in paths:
            match = _NAME.match(path.name)
            first, last = (position_of(match[1]), position_of(match[2])) if match else (None, None)
            if first is not None and last is not None:
                found.append(File(first, last, path))
        return sorted(found)

    def last(self) -> Position:
        """Return up to where there are files. Raises CommandError."""
        return max((file.last for file in self.files()), default=START)

    def write(self, entries: Sequence[Logged], form: Form) -> None:
        """Add a file, whole or not at all, whatever dies. Raises CommandError."""
        data = lines.as_parquet(entries) if form == "parquet" else lines.as_jsonl(entries)
        path = self.path / f"{entries[0].id}_{entries[-1].id}.{form}"
        temporary = self.path / ".new"
        try:
            self.path.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            # The new names must be on the disk before the store may forget the records.
            for folder in (self.path, self.path.parent):
                _sync(folder)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}") from error

    def records(self) -> Iterator[Logged]:
        """Return every record of the files once, oldest first. Raises CommandError, ParquetMissing."""
        seen = START
        for file in self.files():
            try:
                data = file.path.read_bytes()
                found = lines.from_parquet(data) if file.path.suffix == ".parquet" else lines.from_jsonl(data)
            except OSError as error:
                raise CommandError(f"{file.path} cannot be read: {error.strerror}") from error
            except LineRefused as error:
                raise CommandError(f"{file.path}: {error}; it is damaged, or not of `extproc export`") from error
            if not found or found[0].id != str(file.first) or found[-1].id != str(file.last):
                raise CommandError(f"{file.path}: does not hold what its name says; it is damaged or was renamed")
            for entry in found:
                if (position := Position(entry.ms, entry.number)) > seen:
                    seen = position
                    yield entry


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
