"""Byte-exact edits of top-level JSON fields."""

from __future__ import annotations

import json

import pytest

from extproc.core.errors import RequestError
from extproc.wire.json_splice import TopLevel

BODY = b' {\n "a" : 1 , "b":{"x":"\\"}, "},\t"c\\"\\\\":[1, 2.50],"d":"\xc3\xa9" }\n'


@pytest.mark.parametrize(
    ("replace", "remove", "expected"),
    [
        ({}, [], BODY),
        ({"a": b"22"}, [], BODY.replace(b"1 ,", b"22 ,")),
        ({"z": b"[]"}, [], BODY.replace(b'\xc3\xa9"', b'\xc3\xa9","z":[]')),
        ({}, ["a"], b' {\n "b":{"x":"\\"}, "},\t"c\\"\\\\":[1, 2.50],"d":"\xc3\xa9" }\n'),
        ({}, ["a", "b"], b' {\n "c\\"\\\\":[1, 2.50],"d":"\xc3\xa9" }\n'),
        ({}, ["d"], BODY.replace(b',"d":"\xc3\xa9"', b"")),
        ({"q": b"0"}, ["a", "b", 'c"\\', "d"], b' {\n "q":0 }\n'),
    ],
)
def test_edits_touch_nothing_else(replace: dict[str, bytes], remove: list[str], expected: bytes) -> None:
    """Only the edited field's bytes change; white space, escapes and numbers stay as they were."""
    assert expected == TopLevel(BODY).edit(replace, remove)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",", ": "), (" ,", ":")])
def test_any_common_layout_is_edited_in_place(separators: tuple[str, str]) -> None:
    """Bodies as JSON libraries lay them out are edited like any other, whatever their values hold."""
    value = {"model": "m", "a": [1, {"x": ": "}], "t": 'say ", "b": 1', "\u00e9": None}
    body = json.dumps(value, separators=separators, ensure_ascii=False).encode()
    old, new = f'"model"{separators[1]}"m"'.encode(), f'"model"{separators[1]}"new"'.encode()
    assert TopLevel(body).edit({"model": b'"new"'}) == body.replace(old, new)
    assert TopLevel(body).get("t") == b'"say \\", \\"b\\": 1"'
    assert json.loads(TopLevel(body).edit({}, ["a"])) == {k: v for k, v in value.items() if k != "a"}


def test_empty_object_takes_a_field() -> None:
    """A field is put into an empty object without a comma."""
    assert TopLevel(b"{ }").edit({"m": b"1"}) == b'{ "m":1}'


def test_get_returns_exact_bytes() -> None:
    """A value is read as it stands, and an absent field is None."""
    fields = TopLevel(BODY)
    assert fields.get('c"\\') == b"[1, 2.50]"
    assert fields.get("nope") is None


@pytest.mark.parametrize(
    "body",
    [b'{"a":1,"a":1}', b'{"a":12,"a":1}', b'{"a":1,"a":12}', b'{"a":[],"b":2,"\\u0061":1}', b'{"a":"x","a":{}}',
     b'{"a":1,"b":2,"a":1}', b'{"a": 1, "a": 1}'],
)
def test_duplicate_field_is_refused(body: bytes) -> None:
    """A field given twice is an attack on parsers that differ, however it is spelled."""
    with pytest.raises(RequestError, match="duplicate field a") as caught:
        TopLevel(body)
    assert caught.value.problem.param == "a"


@pytest.mark.parametrize("twin", ["Model", "MODEL"])
def test_field_differing_in_case_is_refused(twin: str) -> None:
    """A twin that a case-blind parser would take for the edited field is refused."""
    with pytest.raises(RequestError, match="letter case"):
        TopLevel(b'{"model":"a","%s":"b"}' % twin.encode()).edit({"model": b'"c"'})


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b'{"a":}', b"[" * 200_000, b'{"a":' + b"[" * 200_000])
def test_anything_but_an_object_is_a_request_error(body: bytes) -> None:
    """Broken, deep or other JSON raises RequestError and nothing else."""
    with pytest.raises(RequestError):
        TopLevel(body)
