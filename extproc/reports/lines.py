"""Records of the usage stream as lines of JSON and as Parquet, and back again without a loss. Pure."""

from __future__ import annotations

import io
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Literal

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from extproc.pb import usage_pb2 as pb
from extproc.reports.tables import ParquetMissing

Form = Literal["jsonl", "parquet"]
_KEYS = ("id", "recorded_unix_ms")
"""Fields before those of the record: the id in the stream, and the store's time in it."""


class LineRefused(ValueError):  # noqa: N818 - a state of a file
    """This is no exported record."""


class Logged(msgspec.Struct, frozen=True):
    """A record and its id in the stream: ms of the store's clock, and a number within the ms."""

    ms: int
    number: int
    record: pb.UsageRecord

    @property
    def id(self) -> str:
        """The id as the store writes it."""
        return f"{self.ms}-{self.number}"


def as_data(message: Message) -> dict[str, Any]:
    """Return a message as JSON objects: integers are numbers, enums names, what is unknown is left out."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_data(value)
    if field.enum_type is None:
        return value
    known = field.enum_type.values_by_number.get(value)
    return str(value) if known is None else known.name


def _row(entry: Logged) -> dict[str, Any]:
    return {"id": entry.id, "recorded_unix_ms": entry.ms, **as_data(entry.record)}


def as_jsonl(entries: Iterable[Logged]) -> bytes:
    """Return one JSON object per line."""
    return msgspec.json.Encoder().encode_lines([_row(entry) for entry in entries])


def from_jsonl(data: bytes) -> list[Logged]:
    """Read what `as_jsonl` made; fields of later versions are skipped. Raises LineRefused."""
    found: list[Logged] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            found.append(_logged(msgspec.json.decode(line, type=dict[str, Any])))
        except (msgspec.DecodeError, UnicodeDecodeError, LineRefused) as error:
            raise LineRefused(f"line {number} is not an exported record") from error
    return found


def _logged(row: dict[str, Any]) -> Logged:
    try:
        ms, number = (int(part) for part in str(row["id"]).split("-"))
        fields = {name: value for name, value in row.items() if name not in _KEYS}
        return Logged(ms, number, json_format.ParseDict(fields, pb.UsageRecord(), ignore_unknown_fields=True))
    except (KeyError, ValueError, json_format.ParseError) as error:
        raise LineRefused("not an exported record") from error


# ---------------------------------------------------------------------------------------- Parquet


def _arrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ParquetMissing("Parquet needs pyarrow; install it with: pip install 'extproc[parquet]'") from error


def check(form: Form) -> None:
    """Raise ParquetMissing where the form cannot be made here."""
    if form == "parquet":
        _arrow()


def _fields(arrow: Any, descriptor: Any) -> list[Any]:
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: arrow.string(), FieldDescriptor.CPPTYPE_BOOL: arrow.bool_(),
        FieldDescriptor.CPPTYPE_INT32: arrow.int32(), FieldDescriptor.CPPTYPE_UINT32: arrow.uint32(),
        FieldDescriptor.CPPTYPE_INT64: arrow.int64(), FieldDescriptor.CPPTYPE_UINT64: arrow.uint64(),
        FieldDescriptor.CPPTYPE_ENUM: arrow.string(),
    }
    found: list[Any] = []
    for field in descriptor.fields:
        inner = field.message_type
        kind = kinds[field.cpp_type] if inner is None else arrow.struct(_fields(arrow, inner))
        found.append(arrow.field(field.name, arrow.list_(kind) if field.is_repeated else kind))
    return found


def as_parquet(entries: Iterable[Logged]) -> bytes:
    """Return one row per record, attempts as a list. Raises ParquetMissing."""
    arrow, parquet = _arrow()
    keys = [arrow.field("id", arrow.string()), arrow.field("recorded_unix_ms", arrow.int64())]
    schema = arrow.schema([*keys, *_fields(arrow, pb.UsageRecord.DESCRIPTOR)])
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([_row(entry) for entry in entries], schema=schema), out)
    return out.getvalue()


def from_parquet(data: bytes) -> list[Logged]:
    """Read what `as_parquet` made. Raises LineRefused, ParquetMissing."""
    arrow, parquet = _arrow()
    try:
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(data)).to_pylist()
    except arrow.ArrowException as error:
        raise LineRefused("not a Parquet file") from error
    return [_logged(_known(row)) for row in rows]


def _known(value: Any) -> Any:
    """Parquet writes out what is unknown."""
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items() if inner is not None}
    return [_known(inner) for inner in value] if isinstance(value, list) else value
