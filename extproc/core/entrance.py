"""What the request's headers alone decide: who asks, and whether a body may follow."""

from __future__ import annotations

from collections.abc import Mapping

from extproc import names
from extproc.core.claims import caller_of
from extproc.core.errors import RequestError
from extproc.core.events import whole_number
from extproc.core.identity import Caller
from extproc.runtime import Runtime

NO_KEY = "the API key or token is not valid"
_MISSING = "the API key is missing: send Authorization: Bearer KEY or x-api-key"


def authenticate(runtime: Runtime, headers: Mapping[str, str], now: int) -> Caller | list[str]:
    """Check token or gateway key, so that the body of a stranger is never read.

    Returns:
        The caller, or the secrets that only the store may know.

    Raises:
        RequestError: neither a key nor a valid token was sent.
    """
    auth = runtime.config.auth
    if auth.mode == "none":
        return runtime.anybody
    # Envoy puts the payload of a token that it verified here, and strips what a client sends under this name.
    payload = headers.get(names.JWT, "") if auth.mode == "jwt" else ""
    if payload and (holder := caller_of(payload, auth)) is not None and holder.valid(now):
        return holder
    bearer = headers.get("authorization", "")
    secrets = [bearer[7:].strip()] if bearer[:7].lower() == "bearer " else []
    secrets += [headers["x-api-key"]] if "x-api-key" in headers else []
    for secret in secrets:
        if (caller := runtime.caller(secret)) is not None and caller.valid(now):
            return caller
    if not secrets:  # a verified token is no secret any more: Envoy removed it
        raise RequestError(NO_KEY if payload else _MISSING, kind="authentication")
    return secrets


def check_body(headers: Mapping[str, str], limit: int, *, bodiless: bool) -> None:
    """Raise RequestError where the headers tell a body that cannot be taken: of another kind, coded, too long, none."""
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(f"content-type {kind[:80]} is not supported; send application/json",
                           kind="unsupported_media", param="content-type")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise RequestError(f"content-encoding {coding[:40]} is not supported; send the body uncompressed",
                           kind="unsupported_media", param="content-encoding")
    length = whole_number(headers.get("content-length", ""))
    if length is not None and length > limit:
        raise RequestError(f"the body has {length} bytes; the limit is {limit}", kind="too_large", param="body")
    if bodiless:
        raise RequestError("a JSON body is required", param="body")
