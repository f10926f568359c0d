"""Frames of an append-only file: a mark, a length, a checksum, a payload. Pure.

What was cut off or damaged is told from what is whole, and what is whole behind it is found again by the next mark.
"""

from __future__ import annotations

import mmap
import struct
import zlib

import msgspec

MARK = b"\xf5Spl"
_HEAD = struct.Struct(">4sII")
OVERHEAD = _HEAD.size
"""Bytes of a frame besides its payload."""
LONGEST = 1 << 20
"""Bytes of a payload; a longer length is damage."""


class Scan(msgspec.Struct):
    """(offset, length) of every whole payload, the end of the last one, and bytes of damage before that."""

    payloads: list[tuple[int, int]]
    end: int
    damaged: int


def frame(payload: bytes) -> bytes:
    """Return a payload as it is written."""
    return _HEAD.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def _at(data: bytes | mmap.mmap, at: int) -> int | None:
    """Return the length of the whole frame's payload at a place, or None."""
    if len(data) - at < OVERHEAD:
        return None
    mark, length, check = _HEAD.unpack_from(data, at)
    start = at + OVERHEAD
    if mark != MARK or not 0 < length <= LONGEST or len(data) - start < length:
        return None
    return length if zlib.crc32(data[start : start + length]) == check else None


def scan(data: bytes | mmap.mmap) -> Scan:
    """Find every whole frame; damage is skipped to the next mark. What is behind `end` was cut, or is damaged too."""
    found, at = Scan([], 0, 0), 0
    while at < len(data):
        length = _at(data, at)
        if length is None:
            following = data.find(MARK, at + 1)
            while following != -1 and _at(data, following) is None:
                following = data.find(MARK, following + 1)
            if following == -1:
                break
            found.damaged += following - at
            at = following
            continue
        found.payloads.append((at + OVERHEAD, length))
        at += OVERHEAD + length
        found.end = at
    return found
