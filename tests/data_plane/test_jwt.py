"""Tokens of an identity provider: Envoy checks them, their claims say who calls, and nothing of them leaves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from extproc.ledger.redis_ledger import RedisLedger
from tests.data_plane import upstream as up
from tests.data_plane.conftest import running

ISSUER = "https://id.acme.example/realms/dev"
KEY = "xp-key-beside-tokens"
KEYS = f"[{{name: ci, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, team: robots}}]"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
PRIVATE = {"RS256": RSA, "ES256": EC, "EdDSA": ed25519.Ed25519PrivateKey.generate()}
KINDS = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm, ed25519.Ed25519PrivateKey: OKPAlgorithm}


def public(key, kid: str) -> dict[str, str]:
    """The public half as a JSON Web Key."""
    kind = next(kind for private, kind in KINDS.items() if isinstance(key, private))
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


class Issuer:
    """An identity provider's key endpoint on loopback, behind TLS unless told otherwise."""

    def __init__(self, authority: trustme.CA | None) -> None:
        self.keys = [public(key, algorithm) for algorithm, key in PRIVATE.items()]
        self.status, self.fetches, self.names = 200, 0, []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            """Serve the keys."""

            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Give the keys of the moment."""
                issuer.fetches += 1
                body = json.dumps({"keys": issuer.keys}).encode() if issuer.status == 200 else b""
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(context)
            context.sni_callback = lambda _sock, name, _context: self.names.append(name)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.uri = f"https://localhost:{self.server.server_port}/jwks.json"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the server."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fetched_again(self) -> None:
        """Wait until Envoy has asked twice more, so that an answer of now is in use."""
        wanted, deadline = self.fetches + 2, time.monotonic() + 15
        while self.fetches < wanted:
            assert time.monotonic() < deadline, "Envoy does not ask for the keys again"
            time.sleep(0.02)
        time.sleep(0.2)


def claims(**more) -> dict:
    """Claims of a good token; a claim of None is left out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": "gateway", "iat": now, "exp": now + 300, "sub": "ann", "azp": "editor",
            "acme": {"team": "équipe web"}, "scope": "oa an"}
    return {name: value for name, value in {**good, **more}.items() if value is not None}


def token(algorithm: str = "RS256", key=None, kid: str | None = None, **more) -> str:
    """A signed token."""
    return jwt.encode(claims(**more), key or PRIVATE[algorithm], algorithm, {"kid": kid or algorithm})


def part(value: object) -> str:
    """One part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def confused() -> str:
    """A token signed by HMAC with the public key as its secret (RFC 8725, section 2.1)."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'RS256'})}.{part(claims())}"
    digest = hmac.new(pem, text.encode(), "sha256").digest()
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def moved() -> str:
    """A good token whose claims were changed after it was signed."""
    head, _, signature = token().split(".")
    return f"{head}.{part(claims(acme={'team': 'other'}))}.{signature}"


def bearer(text: str) -> dict[str, str]:
    """The usual header."""
    return {"authorization": f"Bearer {text}"}


def settings(jwks: str, names: str = "{team: acme.team, key: azp, routes: scope}", skew: str = "1s") -> str:
    """The auth part of a gateway.yaml."""
    return (f"auth: {{mode: jwt, keys: {KEYS}, jwt: {{issuer: {ISSUER}, audiences: [other, gateway], jwks: {jwks}, "
            f"claims: {names}, clock_skew: {skew}}}}}")


@pytest.fixture(scope="module")
def _gateway(_upstream, tmp_path_factory):
    authority = trustme.CA()
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    issuer = Issuer(authority)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(bundle))
        with running(_upstream, settings(f'{{uri: "{issuer.uri}", refresh: 1s}}')) as plane:
            yield plane, issuer
    issuer.stop()


@pytest.fixture
def gateway(_gateway):
    """A gateway that fetches keys over TLS, and its issuer, with fresh scripts."""
    plane, issuer = _gateway
    plane.upstream.reset()
    plane.upstream.always |= {"oa0": up.openai_json(), "an0": up.anthropic_json()}
    yield plane, issuer
    plane.upstream.reset()


@pytest.mark.parametrize("algorithm", PRIVATE)
@pytest.mark.parametrize("form", ["Bearer", "bearer", "x-api-key"])
def test_accepted(gateway, algorithm, form):
    """A token of any kind opens by either header; spend is its claims'; the provider sees nothing of it."""
    plane, issuer = gateway
    text = token(algorithm)
    headers = {"x-api-key": text} if form == "x-api-key" else {"authorization": f"{form} {text}"}
    for answer in (plane.chat("oa", headers=headers), plane.message("oa", headers=headers)):
        assert answer.status == 200, answer.text
        who = plane.record(answer).admission
        assert (who.team, who.user, who.key) == ("équipe web", "ann", "editor")
    assert "localhost" in issuer.names
    assert len(plane.upstream.seen) == 2
    for seen in plane.upstream.seen:
        everything = json.dumps(seen.headers) + seen.path + seen.body.decode()
        assert "x-extproc-jwt" not in everything
        assert not any(piece in everything for piece in text.split("."))
        assert seen.headers["authorization"] == "Bearer sk-key-of-oa0"


BAD = {
    "expired": lambda: token(exp=int(time.time()) - 10),
    "without an end": lambda: token(exp=None),
    "not yet": lambda: token(nbf=int(time.time()) + 100),
    "wrong audience": lambda: token(aud="somebody-else"),
    "no audience": lambda: token(aud=None),
    "wrong issuer": lambda: token(iss="https://id.evil.example"),
    "no issuer": lambda: token(iss=None),
    "not signed": lambda: f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims())}.",
    "signature left out": lambda: token().rpartition(".")[0] + ".",
    "signed with the public key": confused,
    "changed": moved,
    "another key of that name": lambda: token(key=rsa.generate_private_key(65537, 2048)),
    "unknown key": lambda: token("ES256", ec.generate_private_key(ec.SECP256R1()), "nobody"),
    "no team": lambda: token(acme={}),
    "team of another type": lambda: token(acme={"team": ["web"]}),
    "garbage": lambda: "a.b.c",
    "no token": lambda: "sk-something",
}


@pytest.mark.parametrize("why", BAD)
def test_refused_alike(gateway, why):
    """Whatever is wrong with a token, the client reads the same 401 in its own shape, and no provider is asked."""
    plane, _ = gateway
    bad = BAD[why]()
    for headers in (bearer(bad), {"x-api-key": bad}):
        answer = plane.chat("oa", headers=headers)
        assert answer.status == 401
        assert answer.json["error"]["code"] == "invalid_api_key"
        assert answer.json["error"]["message"] == "the API key or token is not valid"
        answer = plane.message("oa", headers=headers)
        assert (answer.status, answer.json["error"]["type"]) == (401, "authentication_error")
        assert answer.json["error"]["message"] == "the API key or token is not valid"
        assert "www-authenticate" not in answer.headers
    assert plane.upstream.seen == []


def test_answers_to_strangers(gateway):
    """Without anything a client is told what to send; health and OPTIONS need no token; a query holds none."""
    plane, _ = gateway
    assert "is missing" in plane.chat("oa").json["error"]["message"]
    assert plane.call("GET", "/v1/models").status == 401
    assert plane.call("GET", "/v1/models", headers=bearer(token())).status == 200
    assert plane.chat("oa", path=f"/v1/chat/completions?access_token={token()}").status == 401
    for method, path, status in (("GET", "/health", 200), ("HEAD", "/", 200), ("OPTIONS", "/v1/models", 204)):
        for headers in ({}, bearer(BAD["expired"]())):
            assert plane.call(method, path, headers=headers).status == status
    assert plane.upstream.seen == []


@pytest.mark.parametrize("name", ["x-extproc-jwt", "X-Extproc-JWT"])
def test_forged_payload(gateway, name):
    """A payload that a client sends is nobody's, and does not change whose a token or a key is."""
    plane, _ = gateway
    forged = {name: part(claims(acme={"team": "boss"}))}
    assert plane.chat("oa", headers=forged).status == 401
    assert plane.chat("oa", headers={**forged, **bearer(BAD["expired"]())}).status == 401
    assert plane.call("GET", "/v1/models", headers=forged).status == 401
    assert plane.upstream.seen == []
    for headers, team in ((bearer(token()), "équipe web"), (bearer(KEY), "robots"), ({"x-api-key": KEY}, "robots")):
        answer = plane.chat("oa", headers={**forged, **headers})
        assert answer.status == 200
        assert plane.record(answer).admission.team == team
    assert all("x-extproc-jwt" not in seen.headers for seen in plane.upstream.seen)


def test_keys_beside_tokens(gateway):
    """A gateway key stays valid, also beside a token that is not; a good token goes before a key."""
    plane, _ = gateway
    for headers, team in (
        (bearer(KEY), "robots"), ({"x-api-key": KEY}, "robots"),
        ({**bearer(BAD["expired"]()), "x-api-key": KEY}, "robots"),
        ({**bearer(token()), "x-api-key": KEY}, "équipe web"), ({**bearer(KEY), "x-api-key": token()}, "équipe web"),
    ):
        answer = plane.chat("oa", headers=headers)
        assert answer.status == 200, answer.text
        assert plane.record(answer).admission.team == team
    assert all(KEY not in json.dumps(seen.headers) for seen in plane.upstream.seen)


def test_two_tokens(gateway):
    """Two good tokens of two holders are nobody; of a good and a bad one the good one counts."""
    plane, _ = gateway
    other = token("ES256", acme={"team": "other"})
    assert plane.chat("oa", headers={**bearer(token()), "x-api-key": other}).status == 401
    assert plane.upstream.seen == []
    for headers in ({**bearer(BAD["expired"]()), "x-api-key": other}, {**bearer(other), "x-api-key": BAD["wrong audience"]()}):
        answer = plane.chat("oa", headers=headers)
        assert answer.status == 200
        assert plane.record(answer).admission.team == "other"
    assert all(other not in json.dumps(seen.headers) for seen in plane.upstream.seen)


def test_routes(gateway):
    """A token reaches the routes that it names, and none when it names none."""
    plane, _ = gateway
    assert plane.chat("an", headers=bearer(token(scope="oa an"))).status == 200
    assert plane.chat("an", headers=bearer(token(scope=["oa"]))).status == 403
    assert plane.chat("an", headers=bearer(token(scope=""))).status == 403


def test_clock_skew(gateway):
    """A token that ended less than the skew ago is good, one that ended earlier is not."""
    plane, _ = gateway
    assert plane.chat("oa", headers=bearer(token(exp=int(time.time()) + 1))).status == 200
    assert plane.chat("oa", headers=bearer(token(exp=int(time.time()) - 3))).status == 401


def test_rotation(gateway):
    """A new key of the issuer is learnt, a withdrawn one forgotten; while the issuer is away its keys stay."""
    plane, issuer = gateway
    before, fresh = token(), ec.generate_private_key(ec.SECP256R1())
    after = token("ES256", fresh, "fresh")
    assert [plane.chat("oa", headers=bearer(text)).status for text in (before, after)] == [200, 401]
    kept = issuer.keys
    issuer.keys = [public(fresh, "fresh")]
    try:
        issuer.fetched_again()
        assert [plane.chat("oa", headers=bearer(text)).status for text in (before, after)] == [401, 200]
        issuer.status = 500
        issuer.fetched_again()
        fetches = plane.envoy_stats("jwt_authn.jwks_fetch")
        assert all(fetches[f"http.ingress.jwt_authn.jwks_fetch_{how}"] for how in ("success", "failed"))
        assert [plane.chat("oa", headers=bearer(text)).status for text in (before, after)] == [401, 200]
    finally:
        issuer.keys, issuer.status = kept, 200
        issuer.fetched_again()
    assert [plane.chat("oa", headers=bearer(text)).status for text in (before, after)] == [200, 401]


def test_tokens_are_not_logged(gateway):
    """No part of a token stands in any log file, whether it was good or not."""
    plane, _ = gateway
    texts = [token(), BAD["wrong audience"]()]
    assert [plane.chat("oa", headers=bearer(text)).status for text in texts] == [200, 401]
    for log in (plane.state / "gateway-0" / "logs").iterdir():
        written = log.read_text(errors="replace")
        assert not any(piece in written for text in texts for piece in text.split(".")[1:]), log.name


def test_keys_in_a_file_and_org_of_a_token(_upstream, tmp_path):
    """Keys may lie in a file; a token can say whose org pays, by a name that may hold dots."""
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(EC, "ES256")]}))
    extra = settings(f"{{file: {tmp_path / 'keys.json'}}}", '{org: "https://acme.example/org"}')
    with running(_upstream, extra) as plane:
        _upstream.reset()
        _upstream.always["oa0"] = up.openai_json()
        good = plane.chat("oa", headers=bearer(token("ES256", **{"https://acme.example/org": "acme-eu"})))
        assert good.status == 200, good.text
        assert plane.chat("oa", headers=bearer(token("ES256"))).status == 401
        assert plane.chat("oa", headers=bearer(token("RS256", **{"https://acme.example/org": "acme-eu"}))).status == 401
        assert [r.admission.user for r in asyncio.run(_records(plane.store, "acme-eu"))] == ["ann"]


async def _records(store: str, org: str):
    ledger = RedisLedger(store)
    try:
        for _ in range(100):
            if found := await ledger.records(org, 10):
                return found
            await asyncio.sleep(0.05)
        return []
    finally:
        await ledger.close()


def test_issuer_that_cannot_be_trusted(_upstream, tmp_path, monkeypatch):
    """Keys from a server with a foreign certificate are not used; gateway keys work all the while."""
    authority = trustme.CA()
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    issuer = Issuer(authority)
    try:
        with running(_upstream, settings(f'{{uri: "{issuer.uri}"}}')) as plane:
            _upstream.reset()
            _upstream.always["oa0"] = up.openai_json()
            assert plane.chat("oa", headers=bearer(token())).status == 401
            assert plane.chat("oa", headers=bearer(KEY)).status == 200
            assert issuer.fetches == 0
            assert "localhost" in issuer.names
    finally:
        issuer.stop()


def test_issuer_that_comes_later(_upstream):
    """A gateway starts without its issuer, and takes tokens soon after the issuer is there."""
    issuer = Issuer(None)
    issuer.status = 503
    try:
        with running(_upstream, settings(f'{{uri: "{issuer.uri}"}}')) as plane:
            _upstream.reset()
            _upstream.always["oa0"] = up.openai_json()
            assert plane.chat("oa", headers=bearer(token())).status == 401
            issuer.status = 200
            deadline = time.monotonic() + 15
            while plane.chat("oa", headers=bearer(token())).status != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        issuer.stop()


def test_mode_changed_under_a_running_envoy(_upstream, tmp_path):
    """Workers that hear of tokens before Envoy checks any believe nobody: a payload is stripped in every mode."""
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(RSA, "RS256")]}))
    with running(_upstream, f"auth: {{mode: keys, keys: {KEYS}}}") as plane:
        _upstream.reset()
        _upstream.always["oa0"] = up.openai_json()
        forged = {"x-extproc-jwt": part(claims())}
        assert plane.chat("oa", headers=forged).status == 401
        changed = plane.text.replace(f"{{mode: keys, keys: {KEYS}}}", settings(f"{{file: {tmp_path / 'keys.json'}}}")[6:])
        assert changed != plane.text
        replace(plane.config, changed)
        deadline = time.monotonic() + 15
        while plane.chat("oa", headers=bearer("x")).json["error"]["message"] != "the API key or token is not valid":
            assert time.monotonic() < deadline, "the workers did not take the new mode"
            time.sleep(0.1)
        time.sleep(0.5)
        for _ in range(10):
            assert plane.chat("oa", headers=forged).status == 401
        assert plane.chat("oa", headers=bearer(KEY)).status == 200


def replace(path: Path, text: str) -> None:
    """Put a new text into a file in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)
