"""Where everything of an org lies in the store. All its keys carry its hash tag, so they live in one cluster slot."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from extproc.ledger.base import RollupRow

SUMS = ("requests", "input", "output", "cost", "unpriced")
"""Fields of a rollup row that are amounts; the others are its dimensions."""


class Keys:
    """Key names of one org."""

    __slots__ = ("epoch", "leases", "log", "prefix", "table", "windows")

    def __init__(self, org: str) -> None:
        self.prefix = f"{{{org}}}:"
        self.leases = self.prefix + "x"
        self.log = self.prefix + "log"
        self.epoch = self.prefix + "e"
        self.table = self.prefix + "t"
        self.windows = self.prefix + "w"

    def window(self, name: str) -> str:
        return f"{self.prefix}b:{name}"

    def limit(self, name: str) -> str:
        return f"{self.prefix}g:{name}"

    def reservation(self, rid_hex: str) -> str:
        return f"{self.prefix}r:{rid_hex}"

    def tombs(self, rid: bytes) -> str:
        # The id carries its own time (UUIDv7: 48 bits of ms), so the bucket is found without a lookup.
        return f"{self.prefix}z:{int.from_bytes(rid[:6], 'big') // 60_000}:{rid[-1]:02x}"

    def rows(self, day: str) -> str:
        return f"{self.prefix}ui:{day}"

    def rollup(self, day: str, row_id: str) -> tuple[str, str, str]:
        """A row, the day's list of rows, and the row for what is beyond the list's end."""
        return f"{self.prefix}u:{day}:{row_id}", f"{self.prefix}ui:{day}", f"{self.prefix}u:{day}:other"

    def row(self, day: str, row_id: str) -> str:
        return f"{self.prefix}u:{day}:{row_id}"


@lru_cache(maxsize=1024)
def keys_of(org: str) -> Keys:
    """The keys of an org."""
    return Keys(org)


@lru_cache(maxsize=8192)
def row_words(row: RollupRow) -> tuple[str, tuple[str, ...]]:
    """Return a row's id and its dimensions as alternating field and value."""
    dimensions = {
        "team": row.team,
        "project": row.project,
        "user": row.user,
        "key": row.key,
        "model": row.model,
        "backend": row.backend,
    }
    digest = hashlib.blake2b("\0".join(dimensions.values()).encode(), digest_size=8)
    return digest.hexdigest(), tuple(word for item in dimensions.items() for word in item)


def read_row(flat: list[bytes]) -> dict[str, str | int]:
    """Return a rollup row from alternating fields and values; sums that never grew are 0."""
    row: dict[str, str | int] = dict.fromkeys(SUMS, 0)
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        field, text = name.decode(), value.decode()
        row[field] = int(text) if field in SUMS else text
    return row
