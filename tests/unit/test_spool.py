"""The spool: what is written is found again, whole or not at all, by exactly one process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from extproc.ledger import spool as module
from extproc.ledger.base import RollupRow, Settlement
from extproc.ledger.frames import MARK, OVERHEAD, frame, scan
from extproc.ledger.spool import SUFFIX, Entry, Segment, Spool, SpoolFull, SpoolUnusable, waiting
from extproc.money.amounts import Account, Budget, TrueUp, Unit

ROW = RollupRow("2026-11-23", "core", "search", "änn", "k1", "qwen3", "local")
BUDGET = Budget("org.all.usd.total", Unit.USD, 10_000, 0, 10**15, 0)
STORE = "redis://here:6379/0"


def entry(number: int = 1, cost: int | None = 7, *, attempt: int = 1, blob: bytes = b"attempt") -> Entry:
    """A settlement under the id of a number."""
    account = Account((BUDGET,), (TrueUp("rpm", 1000, 10, 2, 1, 1),))
    return Entry("o", number.to_bytes(16, "big"), attempt, Settlement(blob, cost, 3, 4, ROW, "rid"), True, account)


def files(folder: Path) -> list[Path]:
    """The spool's files."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def left(folder: Path) -> list[Entry]:
    """What a new process finds."""
    found = Spool(folder, STORE)
    found.adopt()
    entries = [found.get(key) for key in found.keys()]  # noqa: SIM118 - it is no mapping
    found.close()
    return entries


# ------------------------------------------------------------------------------------ framing


PAYLOADS = [b"one", b"", b"x" * 300, MARK * 3 + b"marks inside", bytes(range(256))]


def found_in(data: bytes) -> list[bytes]:
    """The payloads of the whole frames."""
    return [data[start : start + length] for start, length in scan(data).payloads]


def test_a_cut_anywhere_keeps_what_is_whole() -> None:
    """Cut at every offset, exactly the frames before the cut are found, and `end` is where the last of them ends."""
    payloads = [p for p in PAYLOADS if p]
    data = b"".join(map(frame, payloads))
    ends = [sum(len(p) + OVERHEAD for p in payloads[:count]) for count in range(len(payloads) + 1)]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends[1:])
        assert found_in(data[:cut]) == payloads[:whole], cut
        assert (scan(data[:cut]).end, scan(data[:cut]).damaged) == (ends[whole], 0)


def test_a_flipped_bit_anywhere_costs_one_frame() -> None:
    """Any flipped bit loses the frame it is in, and no other; it is told how much was damaged."""
    payloads = [b"first payload", b"second" + MARK, b"third payload"]
    data = b"".join(map(frame, payloads))
    for bit in range(len(data) * 8):
        harmed = bytearray(data)
        harmed[bit // 8] ^= 1 << bit % 8
        got = found_in(bytes(harmed))
        assert len(got) == 2
        assert all(payload in payloads for payload in got)
        lost = payloads.index(next(p for p in payloads if p not in got))
        assert (scan(bytes(harmed)).damaged > 0) == (lost < 2), "the last frame counts as cut off"


@pytest.mark.parametrize("garbage", [b"\0" * 50, MARK, MARK + b"\xff" * 40, os.urandom(500), frame(b"x")[:-1]])
def test_garbage_is_skipped(garbage: bytes) -> None:
    """Garbage before, between and after frames hides none of them."""
    data = garbage + frame(b"a") + garbage + frame(b"b") + garbage
    assert found_in(data) == [b"a", b"b"]
    assert scan(data).damaged == 2 * len(garbage)


# ------------------------------------------------------------------------------------ one process


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    """Everything that an `end` says survives: unknown cost, Unicode, budgets, corrections; in the order of writing."""
    own = Spool(tmp_path, STORE)
    put = [entry(1), entry(2, None), entry(1, attempt=2), entry(3, blob=os.urandom(5000))]
    for one in put:
        own.put(one)
    assert [own.get(key) for key in own.keys()] == put  # noqa: SIM118
    own.close()
    assert left(tmp_path) == put


def test_what_the_store_has_is_gone(tmp_path: Path) -> None:
    """An entry that was taken is not found again; when none is left the file is empty, and unlinked at the end."""
    own = Spool(tmp_path, STORE)
    own.put(entry(1))
    own.put(entry(2))
    own.take(entry(1).key)
    own.take(entry(1).key)
    assert [own.get(key) for key in own.keys()] == [entry(2)]  # noqa: SIM118
    own.take(entry(2).key)
    assert [path.stat().st_size for path in files(tmp_path)] == [0]
    own.put(entry(3))
    assert own.get(entry(3).key) == entry(3)
    own.take(entry(3).key)
    own.close()
    assert files(tmp_path) == []


def test_an_intent_waits_for_its_outcome(tmp_path: Path) -> None:
    """The intent of a running attempt is not for the store; its outcome replaces it."""
    own = Spool(tmp_path, STORE)
    own.put(entry(1, 100), intent=True)
    assert (own.keys(), len(own)) == ([], 1)
    own.put(entry(1, 40))
    assert [own.get(key) for key in own.keys()] == [entry(1, 40)]  # noqa: SIM118
    own.close()
    assert left(tmp_path) == [entry(1, 40)]


def test_an_intent_left_alone_is_settled_as_it_stands(tmp_path: Path) -> None:
    """What a dead process began and never ended is found by the next one, with the whole need as its cost."""
    own = Spool(tmp_path, STORE)
    own.put(entry(1, 100), intent=True)
    own.close()
    assert left(tmp_path) == [entry(1, 100)]


def test_two_processes_do_not_share(tmp_path: Path) -> None:
    """A file that is locked is nobody else's; two files of living processes lie side by side."""
    one, two = Spool(tmp_path, STORE), Spool(tmp_path, STORE)
    one.put(entry(1))
    assert two.adopt() == 0
    assert len(files(tmp_path)) == 2
    one.close()
    assert two.adopt() == 1
    two.take(entry(1).key)
    assert len(files(tmp_path)) == 1
    two.close()


def test_another_stores_files_are_left_alone(tmp_path: Path) -> None:
    """What was to go to one store is not settled in another one."""
    one = Spool(tmp_path, "redis://elsewhere:6379/0")
    one.put(entry(1))
    one.close()
    assert left(tmp_path) == []
    assert len(files(tmp_path)) == 1


def test_a_file_cut_at_every_byte(tmp_path: Path) -> None:
    """Whatever a death amid a write leaves, the next process starts, finds what was whole, and goes on in the file."""
    own = Spool(tmp_path, STORE)
    put = [entry(1), entry(2), entry(3)]
    ends = [0]
    for one in put:
        own.put(one)
        ends.append(files(tmp_path)[0].stat().st_size)
    [path] = files(tmp_path)
    data = path.read_bytes()
    own.close()
    path.unlink()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        next_one = Spool(tmp_path, STORE)
        whole = sum(end <= cut for end in ends[1:])
        assert next_one.adopt() == whole
        for key in next_one.keys():  # noqa: SIM118
            next_one.take(key)
        next_one.close()
        assert files(tmp_path) == []


def test_a_damaged_file_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage amid a file is told with its size, and the file stays for whoever wants to look."""
    own = Spool(tmp_path, STORE)
    for number in (1, 2, 3):
        own.put(entry(number))
    own.close()
    [path] = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    found = Spool(tmp_path, STORE)
    assert found.adopt() == 2
    assert "is damaged" in caplog.text
    for key in found.keys():  # noqa: SIM118
        found.take(key)
    found.close()
    assert files(tmp_path) == []
    assert len(list(tmp_path.glob("*.damaged"))) == 1


# ------------------------------------------------------------------------------------ limits


def test_a_full_file_refuses(tmp_path: Path) -> None:
    """Beyond its limit the spool takes nothing, and what it had is whole."""
    own = Spool(tmp_path, STORE, 2000)
    number = 0
    with pytest.raises(SpoolFull, match="limit of 2000"):
        while True:
            own.put(entry(number))
            number += 1
    assert number > 3
    assert files(tmp_path)[0].stat().st_size <= 2000
    own.close()
    assert left(tmp_path) == [entry(n) for n in range(number)]


def test_a_file_with_little_in_it_is_made_small(tmp_path: Path) -> None:
    """At its limit a file is written anew with what waits; a single long attempt does not fill it."""
    own = Spool(tmp_path, STORE, 4000)
    own.put(entry(0, 100), intent=True)
    for number in range(1, 200):
        own.put(entry(number))
        own.take(entry(number).key)
    assert len(files(tmp_path)) == 1
    assert files(tmp_path)[0].stat().st_size <= 4000
    own.put(entry(0, 5))
    own.close()
    assert left(tmp_path) == [entry(0, 5)]


def test_a_full_disk_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half a frame and then nothing: the entry is refused, the file is as before, and goes on later."""
    own = Spool(tmp_path, STORE)
    own.put(entry(1))
    real, calls = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(SpoolFull, match="No space left"):
        own.put(entry(2))
    monkeypatch.setattr(module.os, "write", real)
    own.put(entry(3))
    own.close()
    assert left(tmp_path) == [entry(1), entry(3)]


LIMITED = """
    import resource, sys
    from pathlib import Path
    from tests.unit.test_spool import STORE, entry
    from extproc.ledger.spool import Spool, SpoolFull
    own = Spool(Path(sys.argv[1]), STORE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    number = 0
    try:
        while True:
            own.put(entry(number))
            number += 1
    except SpoolFull as full:
        print(number, full, flush=True)
    own.close()
"""


def run(code: str, *words: str, wait: bool = True) -> subprocess.Popen[str]:
    """Another process."""
    made = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *words], stdout=subprocess.PIPE, text=True)
    if wait:
        assert made.wait(30) == 0
    return made


def test_the_systems_own_limit(tmp_path: Path) -> None:
    """A file that the system lets grow no more (EFBIG) is full, and nothing worse."""
    process = run(LIMITED, str(tmp_path))
    assert process.stdout is not None
    number, said = process.stdout.read().split(" ", 1)
    process.stdout.close()
    assert "File too large" in said
    assert left(tmp_path) == [entry(n) for n in range(int(number))]


@pytest.mark.parametrize("harm", ["a file", "no right"])
def test_an_unusable_folder_is_refused(tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written is an error at the start that says what to do."""
    folder = tmp_path / "spool"
    if harm == "a file":
        folder.write_text("")
    else:  # root may write anywhere, so the system's answer is played
        real = os.open

        def refuse(path: Path, *words: int) -> int:
            if SUFFIX in str(path):
                raise PermissionError(errno.EROFS, "Read-only file system")
            return real(path, *words)

        monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(SpoolUnusable, match=r"cannot be used: .*money\.spool"):
        Spool(folder, STORE)


# ------------------------------------------------------------------------------------ processes


WRITER = """
    import os, sys, time
    from pathlib import Path
    from tests.unit.test_spool import STORE, entry
    from extproc.ledger.spool import Spool
    own = Spool(Path(sys.argv[1]), STORE)
    own.put(entry(1, 100), intent=True)
    own.put(entry(2, 50), intent=True)
    own.put(entry(2, 20))
    own.put(entry(3))
    own.take(entry(3).key)
    print("written", flush=True)
    time.sleep(60)
"""


def test_takeover_of_a_killed_process(tmp_path: Path) -> None:
    """While a process lives its file is its own; after SIGKILL the next one finds intents and outcomes, exactly once."""
    writer = run(WRITER, str(tmp_path), wait=False)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    first, second = Spool(tmp_path, STORE), Spool(tmp_path, STORE)
    assert first.adopt() == 0
    [path] = [p for p in files(tmp_path) if p.stat().st_size]
    assert sorted(waiting(path), key=lambda pair: pair[0].rid) == [(entry(1, 100), True), (entry(2, 20), False)]
    writer.kill()
    writer.wait()
    writer.stdout.close()
    assert (first.adopt(), second.adopt(), first.adopt()) == (2, 0, 0)
    assert [first.get(key) for key in first.keys()] == [entry(1, 100), entry(2, 20)]  # noqa: SIM118
    first.put(entry(1, 60))  # what is chosen for an entry is written where the entry is
    first.close()
    assert second.adopt() == 2
    assert {second.get(key) for key in second.keys()} == {entry(1, 60), entry(2, 20)}  # noqa: SIM118
    for key in second.keys():  # noqa: SIM118
        second.take(key)
    second.close()
    assert files(tmp_path) == []


TAKER = """
    import sys
    from pathlib import Path
    from tests.unit.test_spool import STORE
    from extproc.ledger.spool import Spool
    found = Spool(Path(sys.argv[1]), STORE)
    sys.stdin.readline()
    print(found.adopt(), flush=True)
    sys.stdin.readline()
    found.close()
"""


def test_many_takers_one_gets_it(tmp_path: Path) -> None:
    """Of processes that start at the same moment, each file goes to exactly one, and none is lost."""
    for number in range(20):
        own = Spool(tmp_path, STORE)
        own.put(entry(number))
        own.close()
    takers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(TAKER), str(tmp_path)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True) for _ in range(4)]
    pipes = [(t.stdin, t.stdout) for t in takers if t.stdin is not None and t.stdout is not None]
    for into, _ in pipes:
        into.write("\n")
        into.flush()
    got = [int(out.readline()) for _, out in pipes]
    assert sum(got) == 20
    for taker, (into, out) in zip(takers, pipes, strict=True):
        into.write("\n")
        into.close()
        assert taker.wait(30) == 0
        out.close()
    assert sorted(e.rid for e in left(tmp_path)) == sorted(entry(n).rid for n in range(20))


def test_a_new_file_is_not_taken_before_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making and locking a file another process may remove it: then another one is made."""
    real, robbed = Segment._lock, []

    def rob(self: Segment) -> bool:
        if not robbed:
            robbed.append(self.path)
            self.path.unlink()
        return real(self)

    monkeypatch.setattr(Segment, "_lock", rob)
    own = Spool(tmp_path, STORE)
    own.put(entry(1))
    own.close()
    assert files(tmp_path) != robbed
    assert left(tmp_path) == [entry(1)]
