"""Fuzz every codec: `python -m tests.fuzz.codecs --seconds 60`.

With the package atheris (Linux) inputs are chosen by coverage, else at random; both use the mutations of `mutate`. A
finding is written to a file and told with what repeats it: `--subject NAME --input FILE`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Subject

HANG = 20
"""Seconds of wall clock for one input."""


class Hang(BaseException):
    """An input does not come to an end."""


class Finding:
    """One kind of failure: where it was raised, and the smallest input that raises it."""

    def __init__(self, subject: str, error: BaseException) -> None:
        frames = list(traceback.extract_tb(error.__traceback__))
        own = [frame for frame in frames if "/extproc/" in frame.filename] or frames
        self.subject, self.error = subject, f"{type(error).__name__}: {str(error)[:200]}"
        self.place = f"{own[-1].filename.rpartition('/')[2]}:{own[-1].name}"
        self.key = (self.place, type(error).__name__, str(error)[:24] if not isinstance(error, RecursionError) else "")
        self.input = b""
        self.times = 1


def hunt(chosen: Sequence[Subject], seed: int, examples: int | None = None, seconds: float | None = None,
         longest: int = 400_000) -> list[Finding]:
    """Feed mutated seeds to the subjects in turns, a number of examples or of seconds; the findings, one of a kind."""
    found: dict[tuple[str, ...], Finding] = {}
    ends = None if seconds is None else time.monotonic() + seconds
    for number in _numbers(examples, ends):
        subject = chosen[number % len(chosen)]
        # Each input has its own generator, so that any one can be made again alone.
        data = made(subject.seeds, random.Random(f"{seed}/{subject.name}/{number}"))[:longest]
        if (finding := attempt(subject, data)) is not None:
            _note(found, finding, data)
    return sorted(found.values(), key=lambda one: one.key)


def sweep(chosen: Sequence[Subject], step: int = 1) -> list[Finding]:
    """Feed the models with each value replaced by each odd one; of these inputs each `step`-th."""
    found: dict[tuple[str, ...], Finding] = {}
    for subject in chosen:
        for data in subject.swept(step):
            if (finding := attempt(subject, data)) is not None:
                _note(found, finding, data)
    return sorted(found.values(), key=lambda one: one.key)


def _numbers(examples: int | None, ends: float | None) -> Iterator[int]:
    number = 0
    while (examples is None or number < examples) and (ends is None or time.monotonic() < ends):
        yield number
        number += 1


def made(seeds: list[bytes], rng: random.Random) -> bytes:
    """An input: a seed with a mutation or a few."""
    from tests.fuzz.mutate import mutate

    data = rng.choice(seeds)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        data = mutate(data, rng)
    return data


def attempt(subject: Subject, data: bytes) -> Finding | None:
    """Run one input; the finding if there is one."""
    from tests.fuzz import targets

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang(f"over {HANG} s for {len(data)} bytes")

    before = signal.signal(signal.SIGALRM, hang)
    left, _ = signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        targets.check(subject, data)
    except (Exception, Hang) as error:
        return Finding(subject.name, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)  # that of a test run, if any
    return None


def _note(found: dict[tuple[str, ...], Finding], finding: Finding, data: bytes) -> None:
    known = found.get(finding.key)
    if known is None:
        finding.input = data
        found[finding.key] = finding
        return
    known.times += 1
    if len(data) < len(known.input):
        known.input, known.subject = data, finding.subject


def smaller(subject: Subject, data: bytes, key: tuple[str, ...], seconds: float = 5.0) -> bytes:
    """The input with all parts left out that its failure does not need."""
    ends, size = time.monotonic() + seconds, max(1, len(data) // 2)
    while size and time.monotonic() < ends:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            less = data[:at] + data[at + size :]
            again = attempt(subject, less)
            if again is not None and again.key == key:
                data = less
            else:
                at += size
        size //= 2
    return data


def _report(chosen: Sequence[Subject], findings: list[Finding], folder: Path) -> int:
    subjects = {one.name: one for one in chosen}
    for finding in findings:
        data = smaller(subjects[finding.subject], finding.input, finding.key)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        print(f"{finding.subject}: {finding.place}: {finding.error} ({finding.times} times)\n"
              f"    {data[:300]!r}{'...' if len(data) > 300 else ''}\n"
              f"    again: python -m tests.fuzz.codecs --subject {finding.subject} --input {path}")
    print(f"{len(findings)} findings")
    return 1 if findings else 0


def _guided(atheris: Any, seconds: int, seed: int, only: str, folder: Path) -> None:
    """Coverage-guided: the first two bytes choose the subject. Ends the process."""
    with atheris.instrument_imports(include=["extproc.schemas", "extproc.wire", "extproc.dialects", "extproc.core"]):
        from tests.fuzz import targets
    from tests.fuzz.mutate import mutate

    chosen = [one for one in targets.subjects() if only in one.name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, subject in enumerate(chosen):
        for at, body in enumerate(subject.seeds[:12]):
            (corpus / f"{number}.{at}").write_bytes(number.to_bytes(2, "big") + body)

    def one(data: bytes) -> None:
        if len(data) >= 2:
            subject = chosen[int.from_bytes(data[:2], "big") % len(chosen)]
            targets.check(subject, data[2:], slack=5.0)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if len(data) < 3 or rng.random() < 0.3:
            return atheris.Mutate(data, max_size)
        return (data[:2] + mutate(data[2:], rng))[:max_size]

    arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-seed={seed or 1}", f"-timeout={HANG}", "-rss_limit_mb=3000",
                 "-max_len=400000", f"-artifact_prefix={folder}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup(arguments, one, custom_mutator=mutator)
    atheris.Fuzz()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subject", default="", help="only subjects whose name has this text (request/openai, stream/, ...)")
    parser.add_argument("--input", type=Path, help="run this file alone")
    parser.add_argument("--folder", type=Path, default=Path(".extproc/fuzz"), help="where findings are written")
    parser.add_argument("--sweep", action="store_true", help="replace each value of the written seeds by each odd one, then end")
    parser.add_argument("--guided", action="store_true", help="choose inputs by coverage; stops at the first finding")
    given = parser.parse_args()
    if given.guided:
        try:
            import atheris
        except ImportError:
            parser.error("--guided needs the package atheris")
        _guided(atheris, given.seconds, given.seed, given.subject, given.folder)
    from tests.fuzz import targets  # after the instrumentation, which only imports get

    if given.input:
        for subject in targets.subjects():
            if subject.name == given.subject or not given.subject:
                targets.check(subject, given.input.read_bytes())
        return 0
    chosen = [one for one in targets.subjects() if given.subject in one.name]
    if given.sweep:
        return _report(chosen, sweep(chosen), given.folder)
    return _report(chosen, hunt(chosen, given.seed, seconds=given.seconds), given.folder)


if __name__ == "__main__":
    sys.exit(main())
