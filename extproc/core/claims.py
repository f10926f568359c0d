"""Who a token says is calling: the payload of a token that Envoy verified, read by `auth.jwt.claims`."""

from __future__ import annotations

import base64
import re
import unicodedata
from typing import Any, cast

import msgspec

from extproc.config.auth import AuthConfig, ClaimsConfig, JwtConfig
from extproc.config.values import NAME
from extproc.core.identity import Caller

MAX_PAYLOAD = 64 << 10
"""Characters of the header; Envoy takes fewer of a client."""
MAX_TEXT = 128
MAX_ROUTES = 64
_MAX_NUMBER = 1 << 53  # where numbers of JSON end that every reader agrees on
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ORG = re.compile(NAME)


class _UnusableError(ValueError):
    """A claim is not there, or not of the type it must have."""


def caller_of(payload: str, config: AuthConfig) -> Caller | None:
    """The holder of a verified token, from its payload in base64url (RFC 7515, section 2); None: it is not accepted.

    Signature and times are Envoy's work. Issuer and audience are looked at again: Envoy's configuration may be older.
    """
    jwt = config.jwt
    if jwt is None or (claims := _decode(payload)) is None:
        return None
    try:
        _expect_for_us(claims, jwt)
        return _caller(claims, jwt, config.org)
    except _UnusableError:
        return None


def _decode(payload: str) -> dict[str, Any] | None:
    if len(payload) > MAX_PAYLOAD or _BASE64URL.fullmatch(payload) is None:
        return None
    try:
        return _OBJECT.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _expect_for_us(claims: dict[str, Any], jwt: JwtConfig) -> None:
    audience = claims.get("aud")
    audiences = cast("list[Any]", audience) if isinstance(audience, list) else [audience]
    if claims.get("iss") != jwt.issuer or not any(named in audiences for named in jwt.audiences):
        raise _UnusableError


def _caller(claims: dict[str, Any], jwt: JwtConfig, org: str) -> Caller:
    named = jwt.claims
    return Caller(
        org=_org(claims, named) if named.org else org,
        team=_text(_at(claims, named.team)) if named.team else "default",
        project=_project(claims, named),
        user=_text(_at(claims, named.user)) if named.user else "",
        key=_text(_at(claims, named.key)) if named.key else "",
        routes=_routes(_at(claims, named.routes)) if named.routes else None,
        expires=_expiry(claims.get("exp"), jwt.clock_skew),
    )


def _at(node: object, path: str) -> object:
    """The value at a dotted path, None when it is not there. Names may hold dots: the longest that exists wins."""
    if not isinstance(node, dict):
        return None
    names = cast("dict[str, object]", node)
    cut = len(path)
    while cut > 0:
        if path[:cut] in names:
            found = names[path[:cut]]
            return found if cut == len(path) else _at(found, path[cut + 1 :])
        cut = path.rfind(".", 0, cut)
    return None


def _text(value: object) -> str:
    """A name, in one spelling: else a team could escape its budget by another form of an accent."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER:
        return str(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise _UnusableError
    text = unicodedata.normalize("NFC", value).strip()
    if not text or len(text) > MAX_TEXT or not text.isprintable():
        raise _UnusableError
    return text


def _org(claims: dict[str, Any], named: ClaimsConfig) -> str:
    """An org names keys of the store, so it has the form of a name in gateway.yaml."""
    org = _text(_at(claims, named.org or ""))
    if _ORG.fullmatch(org) is None:
        raise _UnusableError
    return org


def _project(claims: dict[str, Any], named: ClaimsConfig) -> str:
    """The project, which a request may also name in a header: a token need not have it."""
    value = _at(claims, named.project) if named.project else None
    return "" if value is None else _text(value)


def _routes(value: object) -> tuple[str, ...]:
    """A list of names, or names separated by spaces as in `scope` (RFC 8693, section 4.2)."""
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list) or len(cast("list[object]", found)) > MAX_ROUTES:
        raise _UnusableError
    return tuple(_text(item) for item in cast("list[object]", found))


def _expiry(value: object, skew: float) -> int:
    """The end of the token in ms since the epoch; Envoy lets no token pass that has none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MAX_NUMBER:
        raise _UnusableError
    return int((value + skew) * 1000)
