"""Byte-exact edits of the top-level fields of a JSON object: what is not edited keeps its exact bytes.

Pass-through must not disturb a provider's prompt cache or lose unknown fields, so nothing is re-encoded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from extproc.core.errors import RequestError

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KEY = msgspec.json.Decoder(str)
_MAX_KEY = 64
_SPACE = b" \t\r\n"


class TopLevel:
    """The fields of one JSON object body, each with the exact place of its key and its value.

    Raises:
        RequestError: not JSON, not an object, or a field is given twice.
    """

    __slots__ = ("_body", "_close", "_spans")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._spans: dict[str, tuple[int, int, int]] = {}  # key -> start of key, start of value, end of value
        self._close = 0
        fields = _decode(body)
        if not self._as_written(fields):
            self._walk(fields)

    def get(self, key: str) -> bytes | None:
        """The exact bytes of a field's value, or None when the field is absent."""
        span = self._spans.get(key)
        return None if span is None else self._body[span[1] : span[2]]

    def edit(self, replace: Mapping[str, bytes], remove: Collection[str] = ()) -> bytes:
        """Return the body with values replaced (appended when absent) and fields removed.

        Raises:
            RequestError: another field differs from an edited one in letter case only; parsers that
                ignore case (Go's encoding/json) would read that one instead.
        """
        self._refuse_twins({*replace, *remove})
        body = self._body
        pieces: list[bytes] = []
        previous_end = 0
        for key, (start, value, end) in self._spans.items():
            if key not in remove:
                # What stood before the first field (the brace) stays; later gaps are the field's own comma.
                pieces += (
                    body[previous_end:start] if pieces else self._opening(),
                    body[start:value],
                    replace.get(key, body[value:end]),
                )
            previous_end = end
        for key, value in replace.items():
            if key not in self._spans:
                pieces += (b"," if pieces else self._opening(), msgspec.json.encode(key), b":", value)
        return b"".join(pieces or [self._opening()]) + body[previous_end or self._close :]

    def _opening(self) -> bytes:
        first = next(iter(self._spans.values()), None)
        return self._body[: self._close if first is None else first[0]]

    def _refuse_twins(self, edited: set[str]) -> None:
        for key in self._spans:
            folded = key.casefold()
            if key not in edited and folded in edited:
                raise RequestError(f"duplicate field {folded} (in another letter case)", param=folded)

    def _skip(self, position: int) -> int:
        body = self._body
        while position < len(body) and body[position] in _SPACE:
            position += 1
        return position

    def _as_written(self, fields: dict[str, msgspec.Raw]) -> bool:
        """Find every field's place in a body as JSON libraries write it; False where white space or keys differ.

        The fields written again give exactly this body, so it has each of them once and no other: the last of
        equal keys alone would be shorter.
        """
        body = self._body
        comma, colon = (b", ", b": ") if body.find(b'": ', 0, _MAX_KEY) > 0 else (b",", b":")
        pieces: list[bytes] = []
        spans: dict[str, tuple[int, int, int]] = {}
        position = 1
        for key, raw in fields.items():
            if not key.isidentifier():  # no quote, backslash or control character
                return False
            name = b'"%b"' % key.encode()
            value = position + len(name) + len(colon)
            end = value + len(bytes(raw))
            pieces.append(b"%b%b%b" % (name, colon, raw))
            spans[key] = (position, value, end)
            position = end + len(comma)
        if not fields or b"{%b}" % comma.join(pieces) != body:
            return False
        self._spans, self._close = spans, position - len(comma)
        return True

    def _walk(self, fields: dict[str, msgspec.Raw]) -> None:
        """Find every field's place. The dict keeps only the last of equal keys, so a value that is not found
        where its key stands, or a key met twice, means a duplicate (no JSON value but a number is a proper
        prefix of another, and then no comma or brace follows it)."""
        body = self._body
        position = self._skip(self._skip(0) + 1)
        while body[position] != ord("}"):
            start = position
            position = self._end_of_string(position)
            key = _KEY.decode(body[start:position])
            value = self._skip(self._skip(position) + 1)
            raw = bytes(fields[key])
            end = value + len(raw)
            position = self._skip(end)
            if key in self._spans or body[value:end] != raw or body[position] not in b",}":
                raise RequestError(f"duplicate field {key[:80]}", param=key[:80])
            self._spans[key] = (start, value, end)
            if body[position] == ord(","):
                position = self._skip(position + 1)
        self._close = position

    def _end_of_string(self, start: int) -> int:
        end = self._body.index(b'"', start + 1)
        while self._escaped(end):
            end = self._body.index(b'"', end + 1)
        return end + 1

    def _escaped(self, quote: int) -> bool:
        slash = quote
        while self._body[slash - 1] == 0x5C:
            slash -= 1
        return (quote - slash) % 2 == 1


def _decode(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _FIELDS.decode(body)
    except msgspec.ValidationError as exc:
        raise RequestError("the body must be a JSON object") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RequestError(f"the body is not valid JSON: {str(exc)[:120]}") from exc
