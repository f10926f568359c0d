"""What the model may see of a prompt: hashed words and character n-grams, and counted facts.

Every step is one pass of numpy over at most `WINDOW` code points: no regular expression, no loop over words. The hash
of any stretch of text is a difference of two prefix sums of a polynomial, taken modulo 2**64.
"""

from __future__ import annotations

import math
import unicodedata
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HALF = 1000
"""Characters kept of the head, and of the tail, of a longer ask."""
WINDOW = 2 * HALF
BITS = 16
"""The table of weights has 2**BITS rows."""
GROUPS = 4
GRAM = 4
"""Length of the character n-grams."""
EDGE = 4
"""The first and the last words of an ask count a second time: they mostly name the task."""

Ints = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

_OTHER, _WORD, _SINGLE = 0, 1, 2
_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_SALTS = (0xA24BAED4963EE407, 0x9FB21C651E98DF25, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
_MARKS = "?!.,:;'\"`()[]{}<>=+-*/\\$#@_|&%^~\n\t 0"
FACTS = (
    "characters",
    "words",
    "characters per word",
    "capitals",
    "outside ASCII",
    "ideographs",
    "lines",
    "ends with ?",
    "ends open",
    "ends in text",
    "one to three words",
    "over the window",
    *(f"{m!r}" for m in _MARKS),
)
"""Names of the counted facts, in the order of their weights."""


class Features(NamedTuple):
    """Rows of the weight table and the values of a prompt. Every row belongs to one word, so that it can be blamed."""

    text: str
    """The window: the ask itself, or its head and tail."""
    starts: Index
    ends: Index
    """Where each word of the window begins and ends."""
    rows: Index
    """Words, then pairs, then the first and last words, then n-grams; each row once, where it occurs last."""
    words: Index
    """The word each row belongs to."""
    marks: Index
    """Where each of the four groups of rows begins, and where the last ends."""
    facts: Floats


def _fold_table() -> npt.NDArray[np.uint64]:
    """Lower case, no accents, every digit a zero; characters beyond the basic plane are one character."""
    table = np.arange(0x10000, dtype=np.uint64)
    for code in range(0x530):
        table[code] = ord(unicodedata.normalize("NFD", chr(code).lower())[0])
    table[ord("0") : ord("9") + 1] = ord("0")
    table[ord("\r")] = ord("\n")
    return table


def _class_table() -> npt.NDArray[np.uint8]:
    """Word character, character that is a word by itself (Chinese, Japanese), or neither."""
    table = np.full(0x10000, _WORD, dtype=np.uint8)
    for code in range(0x530):
        table[code] = _WORD if chr(code).isalnum() or chr(code) == "_" else _OTHER
    for first, last in (
        (0x2000, 0x2BFF),
        (0x3000, 0x303F),
        (0xD800, 0xF8FF),
        (0xFE10, 0xFE6F),
        (0xFF00, 0xFF20),
        (0xFF3B, 0xFF40),
        (0xFF5B, 0xFF65),
        (0xFFF0, 0xFFFF),
    ):
        table[first : last + 1] = _OTHER
    table[0x2E80:0x3000] = table[0x3041:0x3100] = table[0x31F0:0x3200] = _SINGLE
    table[0x3400:0xA000] = table[0xF900:0xFB00] = _SINGLE
    return table


def _powers(base: int) -> Ints:
    values, power = [], 1
    for _ in range(WINDOW + 2):
        values.append(power)
        power = power * base & _MASK
    return np.array(values, dtype=np.uint64)


_FOLD = _fold_table()
_CLASS = _class_table()
_POWER = _powers(_MULTIPLIER)
_INVERSE = _powers(pow(_MULTIPLIER, -1, 1 << 64))
_MARK_CODES = np.array([ord(mark) for mark in _MARKS], dtype=np.intp)
_SHIFT = np.uint64(64 - BITS)
_HALF_SHIFT = np.uint64(32)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_PAIR, _FIRST, _LAST, _GRAM = (np.uint64(salt) for salt in _SALTS)
_ENDS_SENTENCE = frozenset(".!?…。！？")
_EMPTY = np.zeros(0, dtype=np.intp)


def window(ask: str) -> str:
    """The part of an ask that is read: all of it, or its head and its tail."""
    return ask if len(ask) <= WINDOW else ask[:HALF] + ask[-HALF:]


def _row(hashes: Ints) -> Index:
    mixed = hashes ^ (hashes >> _HALF_SHIFT)
    return ((mixed * _MIX) >> _SHIFT).astype(np.intp)


def _once(rows: Index) -> Index:
    """Positions of distinct rows, ascending: nothing is gained by repeating a word."""
    last = np.empty(1 << BITS, dtype=np.int16)
    count = np.arange(len(rows), dtype=np.int16)
    last[rows] = count
    return (last[rows] == count).nonzero()[0]


def _facts(ask: str, codes: npt.NDArray[np.uint32], folded: Ints, classes: npt.NDArray[np.uint8], words: int) -> Floats:
    """Counts as logarithms and shares; an ask longer than the window has its true length counted."""
    size = max(len(codes), 1)
    counts = np.bincount(np.minimum(folded, 128).view(np.intp), minlength=129)
    end = ask[-64:].rstrip()[-1:]
    ascii_size = len(codes) - int(counts[128])
    head = np.array(
        [
            math.log1p(len(ask)),
            math.log1p(words),
            size / (words + 1.0) / 6.0,
            np.count_nonzero((codes >= 65) & (codes <= 90)) * 8.0 / size,
            1.0 - ascii_size / size,
            np.count_nonzero(classes == _SINGLE) / size,
            math.log1p(counts[10]),
            end in ("?", "？"),
            not (end.isalnum() or end in _ENDS_SENTENCE),
            end.isalnum(),
            words <= 3,
            len(ask) > WINDOW,
        ],
        dtype=np.float32,
    )
    return np.concatenate((head, np.log1p(counts[_MARK_CODES]).astype(np.float32)))


def _bounds(classes: npt.NDArray[np.uint8]) -> tuple[Index, Index, npt.NDArray[np.bool_]]:
    inside = classes != _OTHER
    edge = np.empty(len(classes) + 1, dtype=np.bool_)
    edge[0] = edge[-1] = True
    edge[1:-1] = (classes[1:] != classes[:-1]) | (classes[1:] == _SINGLE)
    first = edge[:-1] & inside
    return first.nonzero()[0], (edge[1:] & inside).nonzero()[0] + 1, first


def extract(ask: str) -> Features:
    """Read a prompt. Never fails: any string, also empty, binary or with lone surrogates, has features."""
    text = window(ask)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    basic = np.minimum(codes, 0xFFFF)
    folded = _FOLD[basic]
    classes = _CLASS[basic]
    starts, ends, first = _bounds(classes)
    facts = _facts(ask, codes, folded, classes, len(starts))
    if not len(starts):
        return Features(text, starts, ends, _EMPTY, _EMPTY, np.zeros(GROUPS + 1, dtype=np.intp), facts)
    prefix = np.zeros(len(codes) + 1, dtype=np.uint64)
    (folded * _POWER[: len(codes)]).cumsum(out=prefix[1:])
    unigrams = (prefix[ends] - prefix[starts]) * _INVERSE[starts]
    pairs = (unigrams[:-1] * _PAIR) ^ unigrams[1:]
    first_words, last_words = unigrams[:EDGE] ^ _FIRST, unigrams[-EDGE:] ^ _LAST
    grams = (prefix[GRAM:] - prefix[:-GRAM]) * _INVERSE[: max(len(codes) - GRAM + 1, 0)] ^ _GRAM
    owner = np.maximum(first.cumsum() - 1, 0)[GRAM // 2 : GRAM // 2 + len(grams)]
    count = np.arange(len(starts))
    rows = _row(np.concatenate((unigrams, pairs, first_words, last_words, grams)))
    words = np.concatenate((count, count[:-1], count[:EDGE], count[-EDGE:], owner))
    once = _once(rows)
    marks = (0, *accumulate((len(unigrams), len(pairs), len(first_words) + len(last_words), len(grams))))
    return Features(text, starts, ends, rows[once], words[once], once.searchsorted(marks), facts)
