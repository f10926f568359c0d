"""Who may call: gateway keys, and tokens of an identity provider, which Envoy checks."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

import msgspec
import pydantic
from pydantic import Field, ValidationInfo, field_validator, model_validator

from extproc.config.values import SHA256, Duration, Holder, Model, Name, Org

LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_URI = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?/[^\s#]*")
_NEEDS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""The members that a public key must have, by its kty (RFC 7518, section 6; RFC 8037)."""
MAX_SKEW = 600


def _jwks_uri(value: str) -> str:
    match = _URI.fullmatch(value)
    if match is None or int(match[3] or 1) > 65535 or (match[1] == "http" and match[2] not in LOOPBACK):
        raise ValueError("expected https://HOST[:PORT]/PATH; http:// is for loopback only")
    return value


def _public_keys(value: str) -> str:
    """Check a JWKS (RFC 7517, section 5): it becomes part of Envoy's configuration, so no secret may be in it."""
    try:
        found: Any = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError("is not JSON") from error
    keys: Any = cast("dict[str, Any]", found).get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError('expected a JSON Web Key Set: {"keys": [...]} with at least one key')
    for index, key in enumerate(cast("list[Any]", keys)):
        if problem := _of_key(key):
            raise ValueError(f"keys[{index}]: {problem}")
    return value


def _of_key(key: Any) -> str:
    """What is wrong with one key; empty when nothing is."""
    kind = cast("dict[str, Any]", key).get("kty") if isinstance(key, dict) else None
    if kind == "oct" or (isinstance(key, dict) and "d" in key):
        return "is a secret key; give public keys only"
    if not isinstance(kind, str) or kind not in _NEEDS:
        return f"kty: allowed: {', '.join(sorted(_NEEDS))}"
    missing = [name for name in _NEEDS[kind] if not isinstance(key.get(name), str) or not key[name]]
    return f"{missing[0]}: is required of {kind} keys" if missing else ""


def _text(value: str) -> str:
    if not value or value != value.strip():
        raise ValueError("expected text without spaces around it")
    return value


def _skew(value: float) -> float:
    if not (value.is_integer() and 1 <= value <= MAX_SKEW):
        raise ValueError(f"expected whole seconds from 1s to {MAX_SKEW // 60}m")
    return value


def _refresh(value: float) -> float:
    if value < 1:
        raise ValueError("expected a duration of at least 1s")
    return value


PublicKeys = Annotated[str, pydantic.AfterValidator(_public_keys)]
Text = Annotated[str, pydantic.AfterValidator(_text)]
CLAIM = r"^[^.\s](?:[^\s]{0,254}[^.\s])?$"
Claim = Annotated[str, Field(pattern=CLAIM)]
"""The path of a claim: names joined by dots, such as `realm_access.team`."""


class KeyConfig(Model):
    """A gateway key, known by its hash only (`extproc keys create` makes both)."""

    name: Name
    sha256: str = Field(pattern=SHA256)
    team: Holder = "default"
    project: Holder = ""
    user: Holder = ""
    routes: list[str] | None = None


class JwksConfig(Model):
    """The public keys of the issuer; exactly one of the three says where they are."""

    uri: Annotated[str, pydantic.AfterValidator(_jwks_uri)] | None = None
    file: PublicKeys | None = None
    """A path, relative to gateway.yaml; once loaded, the text of the file stands here."""
    inline: PublicKeys | None = None
    refresh: Annotated[Duration, pydantic.AfterValidator(_refresh)] = 300.0
    """How often `uri` is fetched: a key that the issuer withdrew is trusted for up to so long."""

    @model_validator(mode="after")
    def _one(self) -> JwksConfig:
        if sum(value is not None for value in (self.uri, self.file, self.inline)) != 1:
            raise ValueError("expected exactly one of uri, file, inline")
        return self

    @property
    def local(self) -> str | None:
        """The keys themselves, where they are not fetched."""
        return self.file if self.file is not None else self.inline


class ClaimsConfig(Model):
    """Where a token says who calls. A token must have each claim that is named here, except `project`."""

    org: Claim | None = None
    team: Claim | None = None
    project: Claim | None = None
    user: Claim | None = "sub"
    key: Claim | None = None
    routes: Claim | None = None


class JwtConfig(Model):
    """Tokens of one issuer. They must have an expiry and one of the audiences."""

    issuer: Text
    audiences: list[Text] = Field(min_length=1)
    jwks: JwksConfig
    claims: ClaimsConfig = ClaimsConfig()
    clock_skew: Annotated[Duration, pydantic.AfterValidator(_skew)] = 60.0


class AuthConfig(Model):
    """Who may call: `none` is for loopback only; with `jwt` the gateway keys stay valid beside the tokens."""

    mode: Literal["none", "keys", "jwt"] = "none"
    org: Org = "default"
    keys: list[KeyConfig] = []
    jwt: JwtConfig | None = Field(default=None, validate_default=True)

    @field_validator("jwt")
    @classmethod
    def _agrees(cls, value: JwtConfig | None, info: ValidationInfo) -> JwtConfig | None:
        mode = info.data.get("mode")
        if mode == "jwt" and value is None:
            raise ValueError("mode jwt needs issuer, audiences and jwks here")
        if mode in ("none", "keys") and value is not None:
            raise ValueError(f"is for mode jwt, but auth.mode is {mode}")
        return value
