"""Who a token says is calling, from the payload that Envoy verified."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import names
from extproc.config import AuthConfig, parse
from extproc.core.claims import MAX_PAYLOAD, MAX_ROUTES, MAX_TEXT, caller_of
from extproc.core.events import Action, Identify, Proceed, Reply, RequestBody, RequestHeaders, Reserve
from extproc.core.identity import Caller
from tests.stage_kit import HEADERS, NOW, body, request_stage, runtime

ISSUER = "https://id.acme.example"
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "gateway", "exp": 2_000_000_000, "sub": "ann", "team": "web"}
EXPIRES = (2_000_000_000 + 60) * 1000


def auth(claims: str = "{team: team}", org: str = "acme", more: str = "") -> AuthConfig:
    """A configuration with these claims."""
    return parse(f"""
backends: {{gpt: {{schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud}}}}
chains: {{cloud: [gpt/m], local: [gpt/m]}}
auth:
  mode: jwt
  org: {org}
  jwt:
    issuer: {ISSUER}
    audiences: [gateway, other]
    jwks: {{uri: https://id.acme.example/jwks.json}}
    claims: {claims}
    {more}
""", "t", Path()).auth


def payload(claims: object, **more: object) -> str:
    """What Envoy hands on of a token."""
    body = {**claims, **more} if isinstance(claims, dict) else claims
    return raw(json.dumps(body, ensure_ascii=False).encode())


def raw(body: bytes) -> str:
    """Any bytes in base64url without padding."""
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def test_mapped() -> None:
    """Every part of a caller is read from the claim that is named for it."""
    config = auth("{org: tenant, team: groups.main, project: p, user: email, key: azp, routes: scope}")
    caller = caller_of(payload(CLAIMS, tenant="acme-eu", groups={"main": "web"}, p="shop", email="ann@acme.example",
                               azp="ci", scope="local cloud"), config)
    assert caller == Caller("acme-eu", "web", "shop", "ann@acme.example", "ci", ("local", "cloud"), 0, EXPIRES)


def test_defaults() -> None:
    """With no claim named, the user is `sub`, the org the configured one, the team `default`, every route open."""
    assert caller_of(payload(CLAIMS), auth("{}")) == Caller("acme", "default", "", "ann", "", None, 0, EXPIRES)
    assert caller_of(payload(CLAIMS), auth("{user: null}")) == Caller("acme", "default", expires=EXPIRES)


def test_expiry_has_the_skew() -> None:
    """The caller ends when Envoy would refuse the token: at its expiry and the clock skew."""
    caller = caller_of(payload(CLAIMS, exp=1000), auth(more="clock_skew: 10s"))
    assert caller is not None
    assert caller.expires == 1_010_000
    assert caller.valid(1_009_999)
    assert not caller.valid(1_010_000)


@pytest.mark.parametrize("name", ["org", "team", "user", "key", "routes"])
@pytest.mark.parametrize("value", ["missing", None, True, 1.5, {}, {"a": "b"}, [1.5], [None], "a\x7fb"])
def test_a_named_claim_must_be_there(name: str, value: object) -> None:
    """A token without a claim that is named, or with one of another type, is not accepted."""
    config = auth(f"{{{name}: mine}}")
    claims = CLAIMS if value == "missing" else {**CLAIMS, "mine": value}
    assert caller_of(payload(claims), config) is None
    assert caller_of(payload(CLAIMS, mine="good"), config) is not None


@pytest.mark.parametrize(("value", "project"), [(None, ""), ("shop", "shop"), (7, "7")])
def test_project_may_be_missing(value: object, project: str) -> None:
    """A project may also come from a header, so a token need not have it; a number is its digits."""
    caller = caller_of(payload(CLAIMS, p=value), auth("{project: p}"))
    assert caller is not None
    assert caller.project == project


@pytest.mark.parametrize("value", [True, [], {}, 1.5, "", " ", "x" * (MAX_TEXT + 1), 2**53])
def test_project_of_another_type(value: object) -> None:
    """A project that is there but is no name is not overlooked."""
    assert caller_of(payload(CLAIMS, p=value), auth("{project: p}")) is None


@pytest.mark.parametrize(("claims", "path"), [
    ({"a": {"b": {"c": "web"}}}, "a.b.c"),
    ({"https://acme.example/team": "web"}, "https://acme.example/team"),
    ({"a": {"my.client": {"team": "web"}}}, "a.my.client.team"),
    ({"a.b": "web", "a": {"b": "other"}}, "a.b"),
])
def test_paths(claims: dict[str, object], path: str) -> None:
    """A path goes down by dots; a name that holds dots is found, and the longest name wins."""
    caller = caller_of(payload(CLAIMS, **claims), auth(f'{{team: "{path}"}}'))
    assert caller is not None
    assert caller.team == "web"


@pytest.mark.parametrize("claims", [{"a": "web"}, {"a": ["web"]}, {"a": {"b": {"c": {"d": "web"}}}}, {"a": {"b": {}}}])
def test_paths_that_lead_nowhere(claims: dict[str, object]) -> None:
    """A path through something that is no object, or that ends at one, finds nothing."""
    assert caller_of(payload(CLAIMS, **claims), auth("{team: a.b.c}")) is None


@pytest.mark.parametrize(("said", "team"), [
    ("équipe", "équipe"), ("e\u0301quipe", "équipe"), ("チーム", "チーム"), (" web ", "web"), ("😀" * 64, "😀" * 64),
])
def test_unicode(said: str, team: str) -> None:
    """Names may be in any script; two spellings of one text are one team."""
    caller = caller_of(payload(CLAIMS, team=said), auth())
    assert caller is not None
    assert caller.team == team


@pytest.mark.parametrize("org", ["a}b", "{x}", "a:b", "a b", "é", "", "x" * 65, "-a", "a\nb"])
def test_an_org_is_a_plain_name(org: str) -> None:
    """An org is part of the store's keys: a token cannot bring braces, colons or spaces into them."""
    assert caller_of(payload(CLAIMS, o=org), auth("{org: o}")) is None
    assert caller_of(payload(CLAIMS, o="acme-eu.1"), auth("{org: o}")) is not None


@pytest.mark.parametrize(("value", "routes"), [
    ([], ()), (["a"], ("a",)), (["a", "b"], ("a", "b")), ("a b", ("a", "b")), ("", ()), (["x"] * MAX_ROUTES, ("x",) * MAX_ROUTES),
])
def test_routes(value: object, routes: tuple[str, ...]) -> None:
    """Routes are a list or words; none named is none allowed, never all."""
    caller = caller_of(payload(CLAIMS, r=value), auth("{routes: r}"))
    assert caller is not None
    assert caller.routes == routes


@pytest.mark.parametrize("value", [["x"] * (MAX_ROUTES + 1), "x " * (MAX_ROUTES + 1), ["x" * (MAX_TEXT + 1)], 7])
def test_too_many_routes(value: object) -> None:
    """More routes than anybody has are not accepted."""
    assert caller_of(payload(CLAIMS, r=value), auth("{routes: r}")) is None


@pytest.mark.parametrize("audience", ["gateway", "other", ["x", "gateway"], ["other"], ["gateway", 7, None]])
def test_audiences(audience: object) -> None:
    """One of the audiences is enough, alone or in a list."""
    assert caller_of(payload(CLAIMS, aud=audience), auth()) is not None


@pytest.mark.parametrize("wrong", [
    {"aud": "gateway2"}, {"aud": ["x"]}, {"aud": []}, {"aud": None}, {"aud": {"gateway": 1}}, {"aud": [["gateway"]]},
    {"iss": ISSUER + "/"}, {"iss": None}, {"iss": [ISSUER]}, {"exp": None}, {"exp": "2000000000"}, {"exp": True},
    {"exp": 0}, {"exp": -1}, {"exp": 1e300},
])
def test_not_for_us(wrong: dict[str, object]) -> None:
    """Another issuer or audience, and a token without an end, are refused here too, whatever Envoy was told."""
    assert caller_of(payload(CLAIMS, **wrong), auth()) is None


@pytest.mark.parametrize("text", [
    "", "=", "a", "!!!", "é", "a b", payload(CLAIMS) + "=", payload(CLAIMS) + ", " + payload(CLAIMS), payload([]), payload("x"),
    payload(None), raw(b"\xff\xfe"), raw(b'{"iss":"\xff"}'), raw(b'{"iss":"\\ud800"}'), raw(b"{"), raw(b"[" * 40_000),
    raw(b'{"a":' * 9_000), raw(b'{"exp":' + b"9" * 5_000 + b"}"), raw(b'{"exp":1e999}'), raw(b'{"exp":NaN}'), "\x00", "\ud800",
])
def test_hostile(text: str) -> None:
    """What is no payload at all gives nobody, and never an exception."""
    assert caller_of(text, auth()) is None


def test_huge() -> None:
    """A payload beyond any header of Envoy is not even decoded."""
    fill = payload(CLAIMS, fill="x" * 40_000)
    assert len(fill) < MAX_PAYLOAD
    assert caller_of(fill, auth()) is not None
    assert caller_of(payload(CLAIMS, fill="x" * 50_000), auth()) is None


def test_other_modes() -> None:
    """Without a jwt configuration no payload is anybody."""
    assert caller_of(payload(CLAIMS), AuthConfig.model_validate({})) is None


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                     max_leaves=6)


@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "sub", "team", "a", "r", "o"]), _json))
def test_any_claims(claims: dict[str, object]) -> None:
    """Whatever the claims hold, the answer is nobody or a caller whose names can be written down."""
    config = auth("{org: o, team: team, project: a, key: a.a, routes: r}")
    caller = caller_of(raw(json.dumps({**CLAIMS, "o": "acme", "r": [], **claims}).encode()), config)
    if caller is not None:
        for text in (caller.org, caller.team, caller.project, caller.user, caller.key, *(caller.routes or ())):
            assert text.encode("utf-8").decode() == text
            assert len(text) <= MAX_TEXT


@given(st.text() | st.binary().map(raw))
def test_any_header(text: str) -> None:
    """No text in the header, and no bytes in it, are a caller or an exception."""
    assert caller_of(text, auth()) is None


# ------------------------------------------------------------------------------------ in the request stage

KEYS = "keys: [{name: ci, sha256: %s, team: robots}]" % ("a" * 64)
TOKENS = f"""
auth:
  mode: jwt
  {KEYS}
  jwt: {{issuer: {ISSUER}, audiences: [gateway], jwks: {{uri: https://id.acme.example/jwks.json}}, claims: {{team: team}}}}
"""
LATER = NOW // 1000 + 100


def heard(extra: str, **headers: str) -> list[Action]:
    """What a stage does on a request with these headers, and on its body if it asks for it."""
    stage = request_stage(runtime(extra))
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    actions = stage.receive(RequestHeaders({**HEADERS, **more}, False), NOW)
    return stage.receive(RequestBody(body()), NOW) if actions == [Proceed("request_headers")] else actions


def test_stage_takes_the_payload() -> None:
    """Spend is reserved for the holder of the token, by the payload alone."""
    [action] = heard(TOKENS, **{names.JWT: payload(CLAIMS, exp=LATER)})
    assert isinstance(action, Reserve)
    assert (action.admission.team, action.admission.user) == ("web", "ann")


@pytest.mark.parametrize("said", [payload(CLAIMS, exp=LATER, team=None), payload(CLAIMS, exp=NOW // 1000 - 61), "x"])
def test_stage_refuses_the_payload(said: str) -> None:
    """A token without its claims, or past its end, is refused like a wrong key."""
    [action] = heard(TOKENS, **{names.JWT: said})
    assert isinstance(action, Reply)
    assert action.status == 401
    assert b"is not valid" in action.body


@pytest.mark.parametrize("mode", ["", f"auth: {{mode: keys, {KEYS}}}"])
def test_other_modes_do_not_look_at_a_payload(mode: str) -> None:
    """Where tokens are not asked for, a payload is nobody's."""
    [action] = heard(mode, **{names.JWT: payload(CLAIMS, exp=LATER, team="boss")})
    if mode:
        assert isinstance(action, Reply)
        assert action.status == 401
    else:
        assert isinstance(action, Reserve)
        assert action.admission.team == "default"


def test_a_refused_token_is_looked_up_as_a_key() -> None:
    """What Envoy did not verify may still be a key that the store knows."""
    [action] = heard(TOKENS, authorization="Bearer xp-key")
    assert isinstance(action, Identify)
