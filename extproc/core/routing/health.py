"""What became of attempts of late, by backend, shared by all workers; and in which order a chain is tried.

Outcomes are counted in buckets of ten seconds. A worker counts its own at once, and the others' each time it reads the
shared buckets. From the counts each backend is `up`, `open` (most attempts failed: not asked for a while), `probing`
(a few requests find out whether it is back) or `cooling` (it said for how long not to ask it, or it has become slow).
Nothing is ever taken out of a chain: what is not up goes to its end.

Times are milliseconds since the epoch. A clock that jumps shortens or lengthens a pause, by no more than the longest.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

from extproc.core.routing.endings import Outcome
from extproc.core.routing.latency import index, median, sample
from extproc.runtime import Backend

State = Literal["up", "probing", "cooling", "open"]
Counts = dict[str, int]

BUCKET_MS = 10_000
RECENT = 4
"""Buckets of "of late": the one that runs and three whole ones."""
KEPT = 61
KEEP_MS = 15 * 60_000
"""How long the store should keep a bucket, and what is cooled down."""
ENOUGH, IN_A_ROW = 5, 3
"""Outcomes of late, or failures of this worker in a row, that are enough to judge by."""
ROW = 5
"""Failures of this worker in a row that say enough, whatever went well before."""
ROW_MS = 300_000
OPEN_MS, LONGEST_OPEN_MS = 5_000, 60_000
STEADY_MS = 120_000
"""Up for so long, the next opening is a short one again."""
PROBES = 10
"""One of so many requests is let through to a probing backend, and one a second in any case."""
UNHEARD, UNHEARD_MS = 3, 30_000
"""Probes that may be under way before one is heard of; after that time they are given up."""
GOOD = 3
COOL_MS, LONGEST_COOL_MS, LONGEST_TOLD_MS = 2_000, 60_000, 600_000
SLACK_MS = 60_000
"""What clocks of several machines may differ by."""
SLOW_MS, SLOW_TIMES, FEW, MANY = 2_000, 3, 5, 20
MOST_BACKENDS = 2_000

_FAILED = ("failed", "timeout", "broken")
_WORDS = {"failed": "errors", "timeout": "timeouts", "broken": "broken connections"}
_RANK: dict[State, int] = {"up": 0, "probing": 1, "cooling": 3, "open": 4}
_FULL = 2
_BUSY, _SLOW = "busy", "cooling, slow"


class _Record:
    """What is known of one backend. `base`: counts of bucket `base_bucket` that came before the present phase."""

    __slots__ = ("base", "base_bucket", "before", "buckets", "cool", "cool_level", "cool_why", "counted", "first",
                 "handed", "judged", "level", "phase", "probed", "row", "row_at", "shared_cool", "since", "slow",
                 "until", "why")

    def __init__(self) -> None:
        self.buckets: dict[int, Counts] = {}
        self.phase: Literal["up", "open", "probing"] = "up"
        self.since = self.until = self.level = 0
        self.why = "errors"
        self.base, self.base_bucket = (0, 0), 0
        self.cool = self.shared_cool = self.cool_level = 0
        self.cool_why = "429"
        self.row = self.row_at = 0
        self.probed = self.handed = 0
        self.before: tuple[int, dict[int, int]] = (-1, {})
        self.first: int | None = None
        self.slow: tuple[int, int] | None = None
        self.judged = -1
        self.counted: tuple[range, tuple[int, int]] | None = None
        """Good and bad outcomes of a range of buckets, until one of them changes: each request asks several times."""


class HealthBook:
    """One per worker; pure. The worker counts with `note` and every second or so exchanges counts with the store:

    1. `take()`: add these to the buckets; `cooled(now)`: put these; read the buckets `wanted(now)` and what was put,
    2. `load(...)` with what was read; `untake()` where adding failed, `load({}, None, now)` where only reading did.
    """

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._remote: dict[int, Counts] = {}
        self._pending: dict[int, Counts] = {}
        self._sent: dict[int, Counts] = {}
        self._loaded: int | None = None

    # ------------------------------------------------------------------------------------ counting

    def note(self, outcome: Outcome, now: int) -> Counts:
        """Count an outcome; it holds for this worker at once. Returns what `take` will give of it."""
        if outcome.kind == "client":
            if (known := self._records.get(outcome.backend)) is not None:
                known.handed = max(known.handed - 1, 0)
            return {}
        record, backend = self._record(outcome.backend)
        counts = {"ok": 1} if outcome.kind == "ok" else {outcome.kind: 1}
        if outcome.first_event_ms is not None:
            counts[f"f{index(outcome.first_event_ms)}"] = 1
        elif outcome.kind == "ok":
            counts[f"t{index(outcome.duration_ms)}"] = 1
        fields = {f"{backend}|{what}": count for what, count in counts.items()}
        bucket = self.bucket(now)
        _add(self._pending.setdefault(bucket, {}), fields)
        _add(record.buckets.setdefault(bucket, {}), counts)
        record.counted = None
        self._learn(record, outcome, now)
        self._advance(record, backend, now)
        return fields

    def _learn(self, record: _Record, outcome: Outcome, now: int) -> None:
        record.handed = max(record.handed - 1, 0)
        if outcome.kind == "ok":
            record.row = record.cool_level = 0
        elif outcome.kind in _FAILED:
            record.row = record.row + 1 if abs(now - record.row_at) <= ROW_MS else 1
            record.row_at, record.why = now, _WORDS[outcome.kind]
        elif outcome.retry_after_ms:
            record.cool = now + max(_left(record.cool, now), min(outcome.retry_after_ms, LONGEST_TOLD_MS))
        elif not _left(record.cool, now):  # of several refusals at once the first one counts
            record.cool = now + min(COOL_MS << record.cool_level, LONGEST_COOL_MS)
            record.cool_level = min(record.cool_level + 1, 5)
        if outcome.kind in ("rate_limited", "overloaded"):
            record.cool_why = "429" if outcome.kind == "rate_limited" else "overloaded"

    def _record(self, backend: str) -> tuple[_Record, str]:
        """The record of a backend; of too many, one for all others."""
        if backend not in self._records and len(self._records) >= MOST_BACKENDS:
            backend = "other"
        if backend not in self._records:
            self._records[backend] = _Record()
        return self._records[backend], backend

    # ------------------------------------------------------------------------------------ sharing

    def bucket(self, now: int) -> int:
        """The number of the bucket that a moment falls into."""
        return now // BUCKET_MS

    def take(self) -> dict[int, Counts]:
        """The counts, by bucket, that the store does not have yet. Until `load` or `untake` they are under way."""
        for bucket, counts in self._pending.items():
            _add(self._sent.setdefault(bucket, {}), counts)
        self._pending = {}
        return self._sent

    def untake(self) -> None:
        """The store did not take them: they will come again."""
        self._pending, sent = self._sent, self._pending
        self._sent = {}
        for bucket, counts in sent.items():
            _add(self._pending.setdefault(bucket, {}), counts)

    def cooled(self, now: int) -> Counts:
        """The ends of pauses that this worker knows of and all should: to be put."""
        found: Counts = {}
        for backend, record in self._records.items():
            if _left(record.cool, now):
                found[f"cool:{backend}"] = record.cool
            if record.phase == "open" and now < record.until:
                found[f"open:{backend}"] = record.until
        return found

    def wanted(self, now: int) -> list[int]:
        """The buckets to read: all at first, then the latest, and what was missed meanwhile."""
        last = self.bucket(now)
        first = last - KEPT + 1
        if self._loaded is not None and self._loaded <= last:
            first = max(first, min(self._loaded, last) - RECENT + 1)
        return list(range(first, last + 1))

    def load(self, buckets: Mapping[int, Mapping[str, int]], cooled: Mapping[str, int] | None, now: int) -> None:
        """Take the shared picture of these buckets in place of the one before; what `take` gave is in the store.

        `cooled` None: it was not read.
        """
        last = self.bucket(now)
        changed = set(buckets) | set(self._sent)
        for bucket, counts in self._sent.items():
            if bucket not in buckets:
                _add(self._remote.setdefault(bucket, {}), counts)
        self._sent = {}
        for bucket, counts in buckets.items():
            self._remote[bucket] = dict(counts)
        for kept in (self._remote, self._pending):
            for bucket in [b for b in kept if not last - KEPT < b <= last + 1]:
                del kept[bucket]
        self._rebuild(changed, last)
        if cooled is not None:
            if self._loaded is None:
                self._begin(last)
            self._loaded = last
            self._adopt(cooled, now)
        for backend, record in self._records.items():
            self._advance(record, backend, now)

    def _rebuild(self, changed: set[int], last: int) -> None:
        for record in self._records.values():
            record.counted = None
            for bucket in [b for b in record.buckets if b in changed or not last - KEPT < b <= last + 1]:
                del record.buckets[bucket]
        for bucket in changed:
            for layer in (self._remote, self._pending):
                for field, count in layer.get(bucket, {}).items():
                    backend, bar, what = field.rpartition("|")
                    if bar:
                        _add(self._record(backend)[0].buckets.setdefault(bucket, {}), {what: count})

    def _begin(self, last: int) -> None:
        """A worker that starts: what came before has been judged by the others, who say what is open."""
        for record in self._records.values():
            if record.phase == "up":
                record.base_bucket, record.base = last, _good_bad(record.buckets.get(last, {}))

    def _adopt(self, cooled: Mapping[str, int], now: int) -> None:
        for record in self._records.values():
            record.shared_cool = 0
        for field, until in cooled.items():
            what, _, backend = field.partition(":")
            if what == "cool" and _left(until, now, LONGEST_TOLD_MS + SLACK_MS):
                self._record(backend)[0].shared_cool = until
            elif what == "open" and _left(until, now, 2 * LONGEST_OPEN_MS):
                record = self._record(backend)[0]
                if record.phase != "open":
                    record.phase, record.until, record.level = "open", until, record.level + 1
                record.until = max(record.until, until)

    # ------------------------------------------------------------------------------------ judging

    def state(self, backend: str, now: int) -> tuple[State, str]:
        """How a backend is, with the reason in words ("" when it is up)."""
        record = self._records.get(backend)
        if record is None:
            return "up", ""
        self._advance(record, backend, now)
        if record.phase == "open":
            return "open", f"open, {record.why}, next try in {_seconds(record.until - now)} s"
        if left := max(_left(record.cool, now), _left(record.shared_cool, now, LONGEST_TOLD_MS + SLACK_MS)):
            return "cooling", f"cooling, {record.cool_why}, {_seconds(left)} s left"
        if record.phase == "probing":
            good, bad = self._counted(record, record.base_bucket, now)
            return "probing", f"probing after {record.why}, {good} of {good + bad} tries good"
        self._time(record, now)
        if record.slow is not None:
            late, usual = record.slow
            return "cooling", f"{_SLOW}: first event after {late} ms, usually {usual} ms"
        return "up", ""

    def _advance(self, record: _Record, backend: str, now: int) -> None:
        """Go on to the phase that the counts ask for."""
        if record.phase == "open":
            record.until = min(record.until, now + 2 * LONGEST_OPEN_MS)  # the clock was put back
            if now < record.until:
                return
            self._enter(record, "probing", now)
        if record.base_bucket > self.bucket(now):
            record.base, record.base_bucket, record.counted = (0, 0), self.bucket(now), None
        if record.phase == "probing":
            good, bad = self._counted(record, record.base_bucket, now)
            if bad and bad * 2 >= good + bad:
                self._open(record, backend, now)
            elif good >= GOOD and bad * 5 <= good + bad:
                self._enter(record, "up", now)
            return
        good, bad = self._counted(record, self.bucket(now) - RECENT + 1, now)
        most = bad * 2 > good + bad and (good + bad >= ENOUGH or record.row >= IN_A_ROW)
        if most or record.row >= ROW:
            if abs(now - record.since) > STEADY_MS:
                record.level = 0
            self._open(record, backend, now)

    def _open(self, record: _Record, backend: str, now: int) -> None:
        pause = min(OPEN_MS << min(record.level, 4), LONGEST_OPEN_MS)
        # The same on every worker, and different between backends: not all are tried in the same second.
        record.until = now + pause * (90 + zlib.crc32(backend.encode("utf-8", "surrogatepass")) % 21) // 100
        record.level += 1
        self._enter(record, "open", now)

    def _enter(self, record: _Record, phase: Literal["up", "open", "probing"], now: int) -> None:
        """Begin a phase: only what comes from now on counts in it."""
        record.phase, record.since, record.row, record.handed, record.probed = phase, now, 0, 0, 0
        record.base_bucket = self.bucket(now)
        record.base, record.counted = _good_bad(record.buckets.get(record.base_bucket, {})), None

    def _counted(self, record: _Record, first: int, now: int) -> tuple[int, int]:
        """Good and bad outcomes from a bucket on, without those before the present phase."""
        last = self.bucket(now) + 1
        buckets = range(max(first, record.base_bucket, last - KEPT), last + 1)
        if record.counted is not None and record.counted[0] == buckets:
            return record.counted[1]
        good = bad = 0
        for bucket in buckets:
            if (counts := record.buckets.get(bucket)) is not None:
                ok, not_ok = _good_bad(counts)
                if bucket == record.base_bucket:
                    ok, not_ok = max(ok - record.base[0], 0), max(not_ok - record.base[1], 0)
                good, bad = good + ok, bad + not_ok
        record.counted = buckets, (good, bad)
        return good, bad

    def _time(self, record: _Record, now: int) -> None:
        """Work out the times to the first event, once a second; what lies back once a bucket."""
        if record.judged == now // 1000:
            return
        record.judged, record.slow = now // 1000, None
        last = self.bucket(now)
        edge = last - RECENT
        if record.before[0] != edge:
            record.before = edge, sample(c for b, c in record.buckets.items() if last - KEPT < b <= edge)
        late, before = sample(c for b, c in record.buckets.items() if edge < b <= last + 1), record.before[1]
        enough = sum(late.values()) >= FEW
        record.first = median(late if enough else {k: late.get(k, 0) + before.get(k, 0) for k in late.keys() | before})
        if enough and sum(before.values()) >= MANY:
            slow, usual = median(late) or 0, median(before) or 0
            if slow > SLOW_MS and slow > SLOW_TIMES * usual:
                record.slow = (slow, usual)

    def first_event_ms(self, backend: str, now: int) -> int | None:
        """The median time to the first event of a stream, of late if there were some, else of ten minutes; in ms."""
        record = self._records.get(backend)
        if record is None:
            return None
        self._time(record, now)
        return record.first

    # ------------------------------------------------------------------------------------ ordering

    def order(self, backends: Sequence[Backend], now: int, rid: str, busy: Mapping[str, int] | None = None,
              ) -> tuple[tuple[Backend, ...], tuple[str, ...]]:
        """The backends with those that are best not asked now at the end, each part in order; and why those are there.

        `busy`: requests under way by backend name. If none is free, those in the mildest state come first. A request
        that is to find out whether a backend is back (told by `rid`) keeps it in its place.
        """
        ranks: list[int] = []
        reasons: list[str] = []
        for backend in backends:
            state, reason = self.state(backend.id, now)
            rank = _RANK[state]
            if state == "probing" and (0 in ranks or self._probe(self._records[backend.id], now, rid)):
                rank = 0  # behind one that is up it is reached only if that fails: that is a try as well
            at_work = (busy or {}).get(backend.name, 0)
            if rank < _FULL and backend.capacity is not None and at_work >= backend.capacity:
                rank, reason = _FULL, f"{_BUSY}, {at_work} requests where {backend.capacity} fit"
            ranks.append(rank)
            reasons.append(reason)
        best = min(ranks, default=0)
        if max(ranks, default=0) == best:
            return tuple(backends), ()
        first = [b for b, rank in zip(backends, ranks, strict=True) if rank == best]
        rest = [b for b, rank in zip(backends, ranks, strict=True) if rank > best]
        return (*first, *rest), tuple(
            f"{b.id}: {why}" for b, why, rank in zip(backends, reasons, ranks, strict=True) if rank > best)

    def _probe(self, record: _Record, now: int, rid: str) -> bool:
        """Whether this request is one that tries a probing backend."""
        apart = abs(now - record.probed)
        if record.handed >= UNHEARD and apart < UNHEARD_MS:
            return False
        if zlib.crc32(rid.encode("utf-8", "surrogatepass")) % PROBES and apart < 1000:
            return False
        record.handed = 1 if record.handed >= UNHEARD else record.handed + 1
        record.probed = now
        return True

    def down(self, now: int) -> frozenset[str]:
        """The ids of the backends that are open or cooling."""
        return frozenset(b for b in self._records if self.state(b, now)[0] in ("open", "cooling"))


def waits(reason: str) -> bool:
    """Whether a backend is behind others for a reason for which it answers all the same."""
    return reason.startswith((_BUSY, _SLOW))


def _add(into: Counts, counts: Mapping[str, int]) -> None:
    for field, count in counts.items():
        into[field] = into.get(field, 0) + count


def _good_bad(counts: Mapping[str, int]) -> tuple[int, int]:
    return counts.get("ok", 0), sum(counts.get(kind, 0) for kind in _FAILED)


def _left(until: int, now: int, most: int = LONGEST_TOLD_MS) -> int:
    """What is left of a pause; 0 where its end is further away than any pause goes: the clock was put back."""
    return until - now if 0 < until - now <= most else 0


def _seconds(ms: int) -> int:
    return max((ms + 999) // 1000, 1)
