"""Mutations of seeds: of the JSON inside them (structure-aware), of events, and of bytes. All by one `random.Random`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any


class Raw(str):
    """JSON text that is written as it is, also when no JSON library would write it."""


class _Object(list[tuple[str, Any]]):
    """An object as its pairs: keys may come twice."""


DEPTHS = (30, 200, 700, 990, 5_000, 100_000)


def _deep(rng: random.Random) -> Raw:
    depth = rng.choice(DEPTHS)
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('{"type":"object","properties":{"a":', "}}"),
                                   ('{"anyOf":[', "]}"), ('[{"content":', "}]")))
    depth //= max(1, opening.count("{") + opening.count("["))
    return Raw(opening * depth + "1" + closing * depth)


_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40, 1e308, -0.0, 0.1,
    "", " ", "a", "x" * 3000, "\x00", "é🙂\u2028", "null", "{}", "[]", "sk-abcdefghijkl", "data:image/png;base64,aaaa", "data:,",
    "https://x.example/a.png", "auto", "none", "any", "function", "custom", "tool_use", "thinking", "user", "system", [], [[]],
    Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("-0"), Raw("00"), Raw("1E+2"), Raw('"\\ud800"'), Raw('"\\udc00\\ud800"'),
    Raw('"\\u0000"'), Raw("'x'"), Raw("nul"), Raw("9" * 5000), Raw("0." + "1" * 400), Raw('"' + "\\" * 3 + '"'), Raw(""),
    Raw("{}"), Raw('{"":0}'), Raw('{"a":1,"a":2}'), Raw('{"type":"text"}'), Raw('{"type":"web_search","name":"x"}'),
)


def dump(value: Any) -> str:
    """Write a value, raw parts and doubled keys included."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, _Object):
        return "{" + ",".join(f"{json.dumps(key)}:{dump(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


def load(text: str) -> Any:
    """Read a value so that `dump` and the mutations know its objects; raise ValueError or RecursionError."""
    return json.loads(text, object_pairs_hook=_Object)


def _places(value: Any, found: list[tuple[list[Any], int]]) -> None:
    """All places of values: (list, index); those of an object hold pairs."""
    if isinstance(value, list) and not isinstance(value, Raw):
        for index, item in enumerate(value):
            found.append((value, index))
            _places(item[1] if isinstance(value, _Object) else item, found)


def _put(holder: list[Any], index: int, value: Any) -> None:
    holder[index] = (holder[index][0], value) if isinstance(holder, _Object) else value


def mutate_json(text: str, rng: random.Random) -> str:
    """Change a few places of a JSON text: drop, double, retype, move, nest, rename."""
    try:
        return _mutated([load(text)], rng)
    except (ValueError, RecursionError):
        return text  # not JSON, or nested by an earlier mutation


def _mutated(root: list[Any], rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places: list[tuple[list[Any], int]] = []
        _places(root, places)
        holder, index = rng.choice(places)
        if index >= len(holder):
            continue
        match rng.randrange(9):
            case 0 if holder is not root:
                del holder[index]
            case 1 if holder is not root:
                holder.insert(index, holder[index])
            case 2:
                _put(holder, index, _deep(rng))
            case 3:
                other, at = rng.choice(places)
                if at < len(other):
                    _put(holder, index, Raw(dump(other[at][1] if isinstance(other, _Object) else other[at])[:20_000]))
            case 4 if isinstance(holder, _Object):
                keys = [place[0][place[1]][0] for place in places if isinstance(place[0], _Object) and place[1] < len(place[0])]
                holder[index] = (rng.choice([*keys, "", "type", "Model", "x"]), holder[index][1])
            case 5:
                value = holder[index][1] if isinstance(holder, _Object) else holder[index]
                _put(holder, index, [value])
            case _:
                _put(holder, index, rng.choice(_ODD))
    return dump(root[0])


_NESTED = tuple(
    Raw(opening * (depth // width) + "1" + closing * (depth // width))
    for depth in (150, 480, 900, 985)
    for opening, closing, width in (("[", "]", 1), ('{"a":', "}", 1), ('{"type":"object","properties":{"a":', "}}", 2),
                                    ('{"type":"array","items":', "}", 1), ('{"anyOf":[', "]}", 2),
                                    ('[{"type":"thinking","thinking":', "}]", 2), ('[{"type":"text","text":', "}]", 2)))
"""Depths about what the JSON library takes: a recursion of our own must not give up before it."""


def replacements(text: str, step: int = 1) -> Iterator[str]:
    """A JSON text with each of its values replaced by each odd one, one at a time; of all these each `step`-th."""
    number = len(text)  # so that other texts begin elsewhere
    root: list[Any] = [load(text)]
    places: list[tuple[list[Any], int]] = []
    _places(root, places)
    for holder, index in places:
        before = holder[index]
        for value in (*_ODD, *_NESTED):
            number += 1
            if number % step:
                continue
            _put(holder, index, value)
            yield dump(root[0])
            holder[index] = before


_TOKENS = (b"data: ", b"\n\n", b"\r\n", b"\r", b"\n", b":", b"event: ", b"data: [DONE]\n\n", b"\xef\xbb\xbf", b"\x00", b"\xff",
           b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\\ud83d", b"null", b"-", b"1e9", b'"error":{"message":1}', b"\xed\xa0\x80")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes: flip, cut out, double, insert a token that means something."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 6))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 8, 200)))
        match rng.randrange(5):
            case 0:
                out[at:at] = rng.choice(_TOKENS)
            case 1:
                del out[at:end]
            case 2:
                out[at:at] = out[at:end]
            case 3 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case _:
                del out[at:]
                out += data[rng.randrange(len(data) + 1):]
    return bytes(out)


def _each(lines: list[bytes], rng: random.Random, change: Callable[[bytes], bytes]) -> None:
    at = rng.randrange(len(lines))
    lines[at] = change(lines[at])


def mutate_stream(data: bytes, rng: random.Random) -> bytes:
    """Change a few events: drop, double, swap, mutate their JSON."""
    mark = b"\n\n" if b"data:" in data else b"\n"
    parts = data.split(mark)

    def inner(part: bytes) -> bytes:
        head, brace, body = part.partition(b"{")
        return head + mutate_json((brace + body).decode("utf-8", "replace"), rng).encode("utf-8", "surrogatepass") if brace else part

    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(7):
            case 0 if len(parts) > 1:
                del parts[at]
            case 1:
                parts.insert(other, parts[at])
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                _each(parts, rng, inner)
    return mark.join(parts)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Any mutation that suits the seed; its bytes too, now and then."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    if data[:1] in (b"{", b"["):
        out = mutate_json(data.decode("utf-8", "replace"), rng).encode("utf-8", "surrogatepass")
        if out != data:
            return out if rng.random() < 0.9 else mutate_bytes(out, rng)
        # Several documents: a stream of lines.
    return mutate_stream(data, rng)
