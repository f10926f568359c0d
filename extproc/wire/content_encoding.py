"""Incremental decoding of `content-encoding`: some providers compress although we ask for identity."""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli
import zstandard

MAX_OUTPUT = 32 << 20
"""Bytes that one chunk may decode to: a few hundred bytes can hold gigabytes."""
_WINDOW = 8 << 20  # RFC 8878 section 3.1.1.1.2: what a decoder should support
_NOT_SO = "the body is not what its content-encoding says"
_TOO_LARGE = f"a chunk of the body decodes to more than {MAX_OUTPUT} bytes"


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


class _Zlib:
    """gzip and deflate: bounded output, and any number of gzip members."""

    def __init__(self, bits: int, *, members: bool) -> None:
        self._bits, self._members = bits, members
        self._one = zlib.decompressobj(bits)

    def decode(self, chunk: bytes) -> bytes:
        out: list[bytes] = []
        room = MAX_OUTPUT
        while chunk:
            if self._one.eof:
                if not self._members or not chunk.strip(b"\0"):
                    break  # padding
                self._one = zlib.decompressobj(self._bits)
            try:
                plain = self._one.decompress(chunk, room)
            except zlib.error as error:
                raise Undecodable(_NOT_SO) from error
            out.append(plain)
            room -= len(plain)
            if room <= 0 and (self._one.unconsumed_tail or self._one.unused_data):
                raise Undecodable(_TOO_LARGE)
            chunk = self._one.unconsumed_tail or self._one.unused_data
        return b"".join(out)


class _Brotli:
    """br (RFC 7932): the library hands out what a given buffer holds."""

    def __init__(self) -> None:
        self._one = brotli.Decompressor()

    def decode(self, chunk: bytes) -> bytes:
        try:
            plain = self._one.process(chunk, output_buffer_limit=MAX_OUTPUT) if chunk else b""
            if chunk and not self._one.can_accept_more_data():
                raise Undecodable(_TOO_LARGE)
        except brotli.error as error:
            raise Undecodable(_NOT_SO) from error
        return plain


class _Zstd:
    """zstd: any number of frames, fed in small pieces so that the output of one call stays bounded."""

    _PIECE = 512

    def __init__(self) -> None:
        self._one = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()

    def decode(self, chunk: bytes) -> bytes:
        out: list[bytes] = []
        size = 0
        for start in range(0, len(chunk), self._PIECE):
            piece = chunk[start : start + self._PIECE]
            while piece:
                if self._one.eof:
                    self._one = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
                try:
                    plain = self._one.decompress(piece)
                except zstandard.ZstdError as error:
                    raise Undecodable(_NOT_SO) from error
                size += len(plain)
                if size > MAX_OUTPUT:
                    raise Undecodable(_TOO_LARGE)
                out.append(plain)
                piece = self._one.unused_data if self._one.eof else b""
        return b"".join(out)


def decoder(coding: str | None) -> Decoder:
    """A decoder for one response body. Raises Undecodable for an unknown coding."""
    name = (coding or "identity").strip().lower()
    match name:
        case "identity" | "":
            return _Identity()
        case "gzip" | "x-gzip":
            return _Zlib(zlib.MAX_WBITS | 16, members=True)
        case "deflate":
            return _Zlib(zlib.MAX_WBITS, members=False)
        case "br":
            return _Brotli()
        case "zstd":
            return _Zstd()
        case _:
            raise Undecodable(f"unknown content-encoding {name[:40]}")
