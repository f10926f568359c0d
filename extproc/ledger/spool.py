"""Settlements on disk while the store does not take them: one append-only file per worker process.

A file is locked by the process that writes it; one without a lock was left by a process that died, and whoever finds it
takes it over. What was written with write() survives the process, not the machine: there is no fsync.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import secrets
import time
from pathlib import Path

import msgspec

from extproc.ledger.base import Settlement
from extproc.ledger.frames import OVERHEAD, Scan, frame, scan
from extproc.money.amounts import Account

_log = logging.getLogger("extproc.spool")
LIMIT = 256 << 20
"""Bytes of one process's file, unless configured."""
SUFFIX = ".spool"
_OUTCOME, _INTENT, _TAKEN = b"OIT"
_KEY = 18


class SpoolUnusable(Exception):  # noqa: N818
    """The folder cannot hold a spool; the text says why."""


class SpoolFull(Exception):  # noqa: N818
    """Nothing was written: the file is at its limit, or the disk takes no more."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One `end` that the store is to get. `rid`: the id to settle under.

    `stray`: an id apart, for an attempt whose reservation may not know of it; until `chosen`, the store has to be asked
    which of the two it is.
    """

    org: str
    rid: bytes
    attempt: int
    settlement: Settlement
    final: bool
    account: Account | None = None
    stray: bytes = b""
    chosen: bool = True

    @property
    def key(self) -> bytes:
        """Return what names the entry for as long as it lives, whatever is chosen."""
        return (self.stray or self.rid) + min(self.attempt, 65_535).to_bytes(2, "big")


_encode = msgspec.msgpack.Encoder().encode
_entry = msgspec.msgpack.Decoder(Entry).decode


def pack(entry: Entry) -> bytes:
    """Serialize an entry."""
    return _encode(entry)


def unpack(data: bytes) -> Entry:
    """Read an entry. Raises msgspec.DecodeError."""
    return _entry(data)


def name_of(store: str) -> str:
    """Return the beginning of the names of a store's files."""
    return hashlib.sha256(store.encode()).hexdigest()[:12]


class Segment:
    """One file, locked. Only places are kept in memory; entries are read when they are wanted."""

    def __init__(self, path: Path, descriptor: int, limit: int) -> None:
        self.path, self._descriptor, self._limit = path, descriptor, limit
        self._places: dict[bytes, tuple[int, int]] = {}
        self._intents: set[bytes] = set()
        self._size = self._live = self.damaged = 0

    @staticmethod
    def create(folder: Path, store: str, limit: int = LIMIT) -> Segment:
        """Make a file of this process. Raises OSError."""
        while True:
            path = folder / f"{name_of(store)}-{time.time_ns()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            made = Segment(path, os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600), limit)
            # Before it is locked another process may find the file, take it for left behind, and remove it.
            if made._lock():
                return made

    @staticmethod
    def adopt(path: Path, limit: int = LIMIT) -> Segment | None:
        """Take over a file that nobody holds; None: it is held, or gone. Raises OSError."""
        try:
            found = Segment(path, os.open(path, os.O_RDWR | os.O_APPEND), limit)
        except FileNotFoundError:
            return None
        if not found._lock():
            return None
        try:
            found._load()
        except BaseException:
            found.release()
            raise
        return found

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.path.stat().st_ino == os.fstat(self._descriptor).st_ino:
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        self.release()
        return False

    def _load(self) -> None:
        """Read what is whole; cut the tail off that a death amid a write has left."""
        size = os.fstat(self._descriptor).st_size
        found = Scan([], 0, 0)
        if size:
            with mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) as data:
                found = scan(data)
                for place in found.payloads:
                    self._note(data[place[0] : place[0] + place[1]], place)
        self._size, self.damaged = found.end, found.damaged
        if size > found.end:
            os.ftruncate(self._descriptor, found.end)
            _log.warning("%s: %d bytes at its end were cut off: its writer died amid them, or they are damaged",
                         self.path, size - found.end)

    def _note(self, payload: bytes, place: tuple[int, int]) -> None:
        kind, key = payload[0], payload[1 : 1 + _KEY]
        self._drop(key)
        if kind in (_OUTCOME, _INTENT):
            self._places[key] = place
            self._live += place[1] + OVERHEAD
            if kind == _INTENT:
                self._intents.add(key)

    def _drop(self, key: bytes) -> None:
        place = self._places.pop(key, None)
        self._intents.discard(key)
        if place is not None:
            self._live -= place[1] + OVERHEAD

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def keys(self, *, intents: bool) -> list[bytes]:
        """Return what waits, oldest first; `intents`: also attempts of which only the intent is known."""
        return [key for key in self._places if intents or key not in self._intents]

    def put(self, entry: Entry, *, intent: bool = False) -> None:
        """Write an entry, in place of an earlier one of its key. Raises SpoolFull."""
        payload = bytes([_INTENT if intent else _OUTCOME]) + entry.key + pack(entry)
        if self._size + len(payload) + OVERHEAD > self._limit:
            raise SpoolFull(f"{self.path} has reached its limit of {self._limit} bytes")
        self._append(payload)

    def take(self, key: bytes) -> None:
        """Note that the store has an entry. Raises SpoolFull: then it is found again by the next reader."""
        if key not in self._places:
            return
        if len(self._places) == 1 and not self.damaged:
            try:
                os.ftruncate(self._descriptor, 0)
            except OSError as error:
                raise SpoolFull(f"{self.path}: {error.strerror}") from error
            self._size = 0
            self._drop(key)
        else:
            self._append(bytes([_TAKEN]) + key)

    def _append(self, payload: bytes) -> None:
        place = self._size + OVERHEAD, len(payload)
        try:
            self._write(frame(payload))
        except OSError as error:
            raise SpoolFull(f"{self.path}: {error.strerror}") from error
        self._note(payload, place)

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError:
            # Half a frame is skipped by readers; without it they need not.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += done

    def get(self, key: bytes) -> Entry:
        """Read an entry. Raises OSError, msgspec.DecodeError for one that another version wrote."""
        start, length = self._places[key]
        return unpack(os.pread(self._descriptor, length, start)[1 + _KEY :])

    def shrunk(self, store: str) -> Segment | None:
        """Return a new file with only what waits, in place of this one; None where that would free too little."""
        if self._live > self._limit // 2:
            return None
        new = Segment.create(self.path.parent, store, self._limit)
        try:
            for start, length in list(self._places.values()):
                new._append(os.pread(self._descriptor, length, start))
        except (OSError, SpoolFull):
            new.remove()
            return None
        self.remove()
        return new

    def remove(self) -> None:
        """Unlink the file and let go of it; a damaged one is kept under another name for whoever wants to look."""
        with contextlib.suppress(FileNotFoundError):
            if self.damaged:
                self.path.rename(self.path.with_suffix(".damaged"))
            else:
                self.path.unlink()
        self.release()

    def release(self) -> None:
        """Let go of the file as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Spool:
    """What one process has on disk: its own file, and those it took over. `store` names whose settlements they are."""

    def __init__(self, folder: Path, store: str, limit: int = LIMIT) -> None:
        """Raises SpoolUnusable."""
        self.folder, self._store, self._limit = folder, store, limit
        self._adopted: list[Segment] = []
        self.inherited = self.inherited_nano_usd = 0  # what dead processes had dispatched
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._own = Segment.create(folder, store, limit)
        except OSError as error:
            raise SpoolUnusable(
                f"the spool folder {folder} cannot be used: {error.strerror}; make it writable, or name another one as "
                "money.spool") from error

    def adopt(self) -> int:
        """Take over what dead processes left for this store; return how many entries."""
        return self.admit(self.search())

    def search(self, most: int = 1_000, older: float = 0.0, *, latest: bool = False) -> list[Segment]:
        """Lock and read what dead processes left for this store; may run in another thread.

        `most`: how many files, of which the `latest` or the earliest come first; `older`: only such as were not written
        to for so many seconds.
        """
        held = {segment.path for segment in (*self._adopted, self._own)}
        found: list[Segment] = []
        for path in sorted(self.folder.glob(f"{name_of(self._store)}-*{SUFFIX}"), reverse=latest):
            if path in held or len(found) >= most:
                continue
            try:
                if older and time.time() - path.stat().st_mtime < older:
                    continue
                segment = Segment.adopt(path, 2 * self._limit)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("%s cannot be taken over: %s", path, error)
                continue
            if segment is None:
                continue
            if segment.damaged:
                _log.error("%s is damaged: %d bytes of it could not be read; what they told may be charged in full, or "
                           "not at all", path, segment.damaged)
            if len(segment) == 0:
                segment.remove()
            else:
                found.append(segment)
        return found

    def admit(self, found: list[Segment]) -> int:
        """Add files that were found; return how many entries they hold."""
        count = sum(len(segment) for segment in found)
        for segment in found:
            if not self._merge(segment):
                self._adopted.append(segment)
        return count

    def _merge(self, segment: Segment) -> bool:
        """Take what waits in another file into our own, so that a process leaves one file; False: it stays apart."""
        if segment.size + self._own.size > self._limit // 2:
            return False
        try:
            for entry in [segment.get(key) for key in segment.keys(intents=True)]:
                self._own.put(entry)
                self.inherited += 1
                self.inherited_nano_usd += entry.settlement.cost or 0
        except (OSError, SpoolFull, msgspec.DecodeError) as error:
            _log.warning("%s stays a file of its own: %s", segment.path, error)
            return False
        segment.remove()
        return True

    def put(self, entry: Entry, *, intent: bool = False) -> None:
        """Keep an entry; `intent`: its attempt still runs, and is charged as it stands if this process dies.

        Raises SpoolFull.
        """
        segment = next((one for one in self._adopted if entry.key in one), self._own)
        try:
            segment.put(entry, intent=intent)
        except SpoolFull:
            smaller = self._shrunk() if segment is self._own else None
            if smaller is None:
                raise
            self._own = smaller
            smaller.put(entry, intent=intent)

    def _shrunk(self) -> Segment | None:
        try:
            return self._own.shrunk(self._store)
        except OSError:
            return None

    def take(self, key: bytes) -> None:
        """The store has this entry: it need not be kept. Raises SpoolFull."""
        for segment in (self._own, *self._adopted):
            segment.take(key)
        for segment in [one for one in self._adopted if len(one) == 0]:
            self._adopted.remove(segment)
            segment.remove()

    def keys(self) -> list[bytes]:
        """Return what the store is to get now, oldest file first."""
        left = [key for segment in self._adopted for key in segment.keys(intents=True)]
        return left + self._own.keys(intents=False)

    def get(self, key: bytes) -> Entry:
        """Read an entry of `keys`. Raises KeyError, OSError, msgspec.DecodeError."""
        for segment in (*self._adopted, self._own):
            if key in segment:
                return segment.get(key)
        raise KeyError(key)

    def __contains__(self, key: bytes) -> bool:
        return any(key in segment for segment in (self._own, *self._adopted))

    def __len__(self) -> int:
        """How many entries are on disk, those of running attempts included."""
        return sum(len(segment) for segment in (self._own, *self._adopted))

    def close(self) -> None:
        """Let go; what waits is there for the next process."""
        for segment in (self._own, *self._adopted):
            if len(segment) == 0:
                segment.remove()
            else:
                segment.release()


def held(path: Path) -> bool:
    """Whether a living process writes this file. Raises OSError."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def waiting(path: Path) -> list[tuple[Entry, bool]]:
    """Read a file without taking it: its entries, and whether each is a mere intent. Raises OSError."""
    data, found = path.read_bytes(), dict[bytes, tuple[Entry, bool]]()
    for start, length in scan(data).payloads:
        payload = data[start : start + length]
        key = payload[1 : 1 + _KEY]
        found.pop(key, None)
        with contextlib.suppress(msgspec.DecodeError):  # of another version, whose command reads it
            if payload[0] != _TAKEN:
                found[key] = unpack(payload[1 + _KEY :]), payload[0] == _INTENT
    return list(found.values())
