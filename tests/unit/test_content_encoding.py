"""Incremental decoding of compressed answers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from extproc.wire.content_encoding import Undecodable, decoder

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress,
    "zstd": zstandard.compress, "identity": bytes, "": bytes, " GZip ": gzip.compress,
}


@pytest.mark.parametrize("coding", CODINGS)
def test_any_chunking(coding: str) -> None:
    """Whole, in two at every place, and byte by byte: the same plain bytes."""
    plain = bytes(range(256)) * 3
    data = CODINGS[coding](plain)
    for cut in range(len(data) + 1):
        decode = decoder(coding).decode
        assert decode(data[:cut]) + decode(data[cut:]) == plain
    decode = decoder(coding).decode
    assert b"".join(decode(data[i:i + 1]) for i in range(len(data))) + decode(b"") == plain


def test_no_coding_is_identity() -> None:
    """Without the header the bytes are as they are."""
    assert decoder(None).decode(b"\x00") == b"\x00"


@pytest.mark.parametrize("coding", ["rot13", "gzip, br", "gzip;q=1", "x" * 9999])
def test_unknown_coding(coding: str) -> None:
    """An unknown coding is refused in few words."""
    with pytest.raises(Undecodable) as caught:
        decoder(coding)
    assert len(str(caught.value)) < 80


@given(st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.lists(st.binary(max_size=64), max_size=8))
def test_any_bytes(coding: str, chunks: list[bytes]) -> None:
    """Arbitrary bytes decode or are refused; nothing else is raised."""
    decode = decoder(coding).decode
    with suppress(Undecodable):
        for chunk in chunks:
            decode(chunk)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_bytes_behind_the_end(coding: str) -> None:
    """Bytes after the end of the coding are ignored or refused, never passed on."""
    decode = decoder(coding).decode
    assert decode(CODINGS[coding](b"plain")) == b"plain"
    with suppress(Undecodable):
        assert decode(b"trailing") == b""
