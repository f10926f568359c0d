"""Incremental decoding of `content-encoding`: some providers compress although we ask for identity."""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli
import zstandard


class Undecodable(Exception):  # noqa: N818
    """The bytes are not what content-encoding says, or the coding is unknown."""


class Decoder(Protocol):
    """Feeds compressed bytes in, gets plain bytes out."""

    def decode(self, chunk: bytes) -> bytes:
        """Return what this chunk decodes to; raises Undecodable."""
        ...


class _Identity:
    def decode(self, chunk: bytes) -> bytes:
        return chunk


class _Coded:
    def __init__(self, coding: str) -> None:
        if coding in ("gzip", "x-gzip"):
            self._feed = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress
        elif coding == "deflate":
            self._feed = zlib.decompressobj().decompress
        elif coding == "br":
            self._feed = brotli.Decompressor().process
        elif coding == "zstd":
            self._feed = zstandard.ZstdDecompressor().decompressobj().decompress
        else:
            raise Undecodable(f"unknown content-encoding {coding[:40]}")

    def decode(self, chunk: bytes) -> bytes:
        try:
            return self._feed(chunk) if chunk else b""
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise Undecodable("the body is not what its content-encoding says") from error


def decoder(coding: str | None) -> Decoder:
    """A decoder for one response body. Raises Undecodable for an unknown coding."""
    name = (coding or "identity").strip().lower()
    return _Identity() if name in ("identity", "") else _Coded(name)
