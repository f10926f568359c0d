"""Settlements too late for the store to know whether it has them: lines of a file, for an operator to apply."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path

import msgspec

from extproc.ledger.spool import Entry, pack, unpack

NAME = "dead.jsonl"
APPLYING, APPLIED = ".applying.jsonl", ".applied.jsonl"


class DeadLetter(msgspec.Struct, frozen=True):
    """One line. The facts are for people, `entry` for the command that applies them."""

    buried: str
    org: str
    request_id: str
    attempt: int
    team: str
    key: str
    model: str
    backend: str
    day: str
    cost_nano_usd: int | None
    tokens: int
    entry: str

    @staticmethod
    def of(entry: Entry) -> DeadLetter:
        """Return the line of an entry."""
        settlement, row = entry.settlement, entry.settlement.row
        return DeadLetter(
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), entry.org, settlement.request_id, entry.attempt,
            row.team, row.key, row.model, row.backend, row.day, settlement.cost,
            settlement.input_tokens + settlement.output_tokens, base64.b64encode(pack(entry)).decode(),
        )  # fmt: skip

    def settlement(self) -> Entry:
        """Return the entry. Raises ValueError for a line that was changed."""
        try:
            return unpack(base64.b64decode(self.entry, validate=True))
        except (msgspec.DecodeError, binascii.Error) as error:
            raise ValueError(f"the dead letter of request {self.request_id} cannot be read: {error}") from error


def bury(folder: Path, entry: Entry) -> None:
    """Append an entry to the folder's dead letters. Raises OSError."""
    line = msgspec.json.encode(DeadLetter.of(entry)) + b"\n"
    path = folder / NAME
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue  # set aside to be applied, between opening and locking
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            return


def set_aside(folder: Path, now_ms: int) -> list[Path]:
    """Return the files to apply: those of a run that did not come to its end, and what was buried since.

    The name has the time at which applying began: the ids of its corrections are made of it. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError), (folder / NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / NAME).rename(folder / f"dead-{now_ms}{APPLYING}")
    return sorted(folder.glob(f"dead-*{APPLYING}"))


def correction_id(path: Path, entry: Entry) -> bytes:
    """Return the id of the correction that applies an entry of a file: always the same one, and not too old."""
    began = int(path.name.removeprefix("dead-").removesuffix(APPLYING))
    return began.to_bytes(6, "big") + hashlib.sha256(entry.key).digest()[:10]


def read(path: Path) -> list[DeadLetter]:
    """Read a file of dead letters; none: there are none. Raises OSError, ValueError."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    try:
        return [msgspec.json.decode(line, type=DeadLetter) for line in lines if line.strip()]
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error
