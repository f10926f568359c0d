"""The values of gateway.yaml: durations, sizes, addresses, names; each says what it expects."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
Name = Annotated[str, Field(pattern=NAME)]
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h)$")
_SIZE = re.compile(r"^(\d+)(KiB|MiB|GiB|KB|MB|GB|B)?$")
_PERCENT = re.compile(r"^(\d+(?:\.\d+)?) ?%$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZES = {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.match(value)):
        return float(match[1]) * _UNITS[match[2]]
    raise ValueError("expected a duration such as 250ms, 20s, 5m")


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.match(value)):
        return int(match[1]) * _SIZES[match[2]]
    raise ValueError("expected a size such as 512KiB, 32MiB")


def _percent(value: object) -> object:
    if isinstance(value, str) and (match := _PERCENT.match(value)):
        value = float(match[1]) / 100
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError("expected a share such as 20% or 0.2, from 0% to 100%")


def _workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64):
        return value
    raise ValueError("expected a whole number from 1 to 64, or auto")


def _redis(value: str) -> str:
    if value == "embedded" or re.match(r"^(rediss?(\+cluster)?|unix)://.", value):
        return value
    raise ValueError("expected embedded, redis://…, rediss://…, redis+cluster://HOST:PORT,… or unix://…")


def _org(value: str) -> str:
    """The rule of keys in the store (ledger.keys.clean_org): an org becomes part of the names there."""
    name = unicodedata.normalize("NFC", value)
    good = 0 < len(name) <= 64 and name.isprintable() and name == name.strip()
    if not good or name in ("keys", "*") or any(mark in name for mark in "{}:"):
        raise ValueError("expected a name of up to 64 printable characters, without braces, colons and blanks around "
                         "it, and not keys or *")
    return name


def _holder(value: str) -> str:
    """In one spelling, as keys in the store and tokens have it: else a budget would not count an accent written in two
    characters."""
    name = unicodedata.normalize("NFC", value)
    if not name.isprintable() or name != name.strip():
        raise ValueError("expected printable characters, without blanks around them")
    return name


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:10000")
    return value


Duration = Annotated[float, pydantic.BeforeValidator(_duration)]
Holder = Annotated[str, pydantic.AfterValidator(_holder)]
"""A team, project, user or key."""
Percent = Annotated[float, pydantic.BeforeValidator(_percent)]
"""A share, 0 to 1; written 20% or 0.2."""
Size = Annotated[int, pydantic.BeforeValidator(_size)]
Address = Annotated[str, pydantic.AfterValidator(_address)]
Workers = Annotated[int | Literal["auto"], pydantic.BeforeValidator(_workers)]
Org = Annotated[str, pydantic.AfterValidator(_org)]
Store = Annotated[str, pydantic.AfterValidator(_redis)]


class Model(BaseModel):
    """Strict: no coercion, so that `port: "80"` or `yes` cannot mean something else. Frozen: swapped whole."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
