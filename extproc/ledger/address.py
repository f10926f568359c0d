"""Addresses of the store: how they are written, what is checked, and how they are shown without the password."""

from __future__ import annotations

import re
import ssl
from urllib.parse import parse_qsl, unquote

import msgspec

PORT = 6379
_OPTIONS = {
    "ca": "ca", "ssl_ca_certs": "ca", "cert": "cert", "ssl_certfile": "cert", "key": "key", "ssl_keyfile": "key",
    "verify": "verify", "ssl_cert_reqs": "verify", "db": "db",
}  # fmt: skip
"""What may stand behind the `?`; the names that redis-py has for them are taken as well."""
_VERIFY = {"required": True, "none": False}
_SHAPE = re.compile(r"(rediss?)://(?:(.*)@)?(\[[0-9A-Fa-f:.]+\]|[^\[\]/:@?#]+)?(?::([0-9]{1,5}))?(/[0-9]{0,4})?")
_UNIX = re.compile(r"unix://(?:(.*)@)?(/.+)")
_SECRET = re.compile(r"^([a-z+]+://)([^:/@]*):.*@", re.DOTALL)


class AddressRefused(ValueError):  # noqa: N818 - the caller's mistake, said in words
    """An address cannot be used; the text says why, without the password."""


class Address(msgspec.Struct, frozen=True):
    """One server. `path`: its unix socket; else `host` and `port`, with `tls` where it speaks that."""

    host: str = "localhost"
    port: int = PORT
    path: str = ""
    user: str = ""
    password: str | None = None
    db: int = 0
    tls: ssl.SSLContext | None = None

    def at(self, host: str, port: int) -> Address:
        """Return another node of the same cluster: same user, same trust."""
        return msgspec.structs.replace(self, host=host, port=port)


def parse(url: str) -> Address:
    """Read `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…?ca=FILE` or `unix://PATH`. Raises AddressRefused.

    User and password are percent-decoded. With rediss the certificate is checked, by the system's authorities or those
    of `ca`; `cert` and `key` are shown to the server; `verify=none` checks nothing.
    """
    place, _, query = url.partition("?")
    options = _options(query)
    db = _number("db", options.pop("db", "0"))
    if (match := _UNIX.fullmatch(place)) is not None:
        if options:
            raise AddressRefused(f"?{min(options)}= is for rediss://")
        user, password = _who(match[1])
        return Address(path=match[2], user=user, password=password, db=db)
    match = _SHAPE.fullmatch(place)
    if match is None or int(match[4] or 0) > 65535:
        raise AddressRefused("expected redis://USER:PASSWORD@HOST:PORT, rediss://… or unix://PATH; "
                             "percent-encode what is special in a password")
    secure = match[1] == "rediss"
    if options and not secure:
        raise AddressRefused(f"?{min(options)}= is for rediss://")
    user, password = _who(match[2])
    host = (match[3] or "localhost").strip("[]")
    return Address(host, int(match[4] or PORT), "", user, password, _number("db", (match[5] or "/")[1:] or str(db)),
                   _context(options) if secure else None)


def nodes(url: str) -> list[Address] | None:
    """Read `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT` (`rediss+cluster`: TLS), None where it is one server.

    Raises AddressRefused.
    """
    scheme, mark, rest = url.partition("+cluster://")
    if not mark:
        return None
    place, question, query = rest.partition("?")
    who, at, hosts = place.rpartition("@")
    hosts, slash, db = hosts.partition("/")
    first, *more = hosts.split(",")
    one = parse(f"{scheme}://{who}{at}{first}{slash}{db}{question}{query}")
    if one.db:
        raise AddressRefused("a cluster has no databases besides 0")
    others = [parse(f"redis://{host}") for host in more]
    return [one, *(one.at(other.host, other.port) for other in others)]


def place_of(url: str) -> str:
    """Return what tells a store from others: where it is, and which of its databases.

    How that is spelled does not count, nor do user, password and files of certificates, which may change.
    """
    place, _, query = url.partition("?")
    scheme, _, rest = place.partition("://")
    where = rest.rpartition("@")[2]
    if scheme.endswith("+cluster"):
        hosts = where.partition("/")[0].split(",")
        return f"{scheme}://{','.join(sorted(_host(host) for host in hosts))}"
    db = dict(parse_qsl(query)).get("db", "0")
    if scheme == "unix":
        return f"{scheme}://{where}{'' if _plain(db) == '0' else f'?db={_plain(db)}'}"
    host, _, path = where.partition("/")
    return f"{scheme}://{_host(host)}/{_plain(path or db)}"


def _host(text: str) -> str:
    """A host with its port."""
    text = text.lower() or "localhost"
    return text if re.search(r"[^:]:[0-9]+$", text) else f"{text}:{PORT}"


def _plain(number: str) -> str:
    """A number without leading zeros."""
    return number.lstrip("0") or "0"


def shown(url: str) -> str:
    """Return an address without its password, whatever it looks like."""
    return _SECRET.sub(r"\g<1>\g<2>:…@", url)


def _options(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise AddressRefused("what stands behind ? is not NAME=VALUE") from error
    for name, value in pairs:
        if name not in _OPTIONS:
            raise AddressRefused(f"?{name[:20]}= is unknown; allowed: ca, cert, key, verify, db")
        found[_OPTIONS[name]] = value
    return found


def _who(text: str | None) -> tuple[str, str | None]:
    if text is None:
        return "", None
    user, colon, password = text.partition(":")
    return unquote(user), unquote(password) if colon else None


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise AddressRefused(f"{name}: expected a number")
    return int(text)


def _context(options: dict[str, str]) -> ssl.SSLContext:
    verify = options.get("verify", "required")
    if verify not in _VERIFY:
        raise AddressRefused("?verify=: allowed: required, none")
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
    except (OSError, ssl.SSLError) as error:
        raise AddressRefused(f"?ca={options.get('ca', '')}: {_reason(error)}") from error
    if "cert" in options:
        try:
            context.load_cert_chain(options["cert"], options.get("key"))
        except (OSError, ssl.SSLError) as error:
            raise AddressRefused(f"?cert={options['cert']}: {_reason(error)}") from error
    if not _VERIFY[verify]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no usable certificate in PEM form"
    return f"cannot be read: {error.strerror}"
