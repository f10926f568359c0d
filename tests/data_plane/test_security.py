"""Nobody gets in: keys stay where they belong, forged headers do nothing, strangers are not read."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.data_plane import upstream as up
from tests.data_plane.conftest import running

CLIENT_KEY = "sk-the-clients-own-secret"


@pytest.mark.parametrize(("chain", "order"), [("mix", ("oa0", "an0")), ("xim", ("an0", "oa0")), ("three", ("oa0", "an0"))])
def test_keys_never_cross(plane, chain, order):
    """After a failover the second provider sees its own key and none of the first's, nor the client's."""
    failing, working = order
    plane.upstream.script(failing, up.error(503))
    plane.upstream.script(working, up.openai_json() if working.startswith("oa") else up.anthropic_json())
    headers = {"authorization": f"Bearer {CLIENT_KEY}", "x-api-key": CLIENT_KEY, "cookie": f"session={CLIENT_KEY}",
               "x-custom": CLIENT_KEY, "anthropic-beta": "x", "openai-beta": "y"}
    assert plane.chat(chain, headers=headers).status == 200
    assert len(plane.upstream.seen) == 2
    for seen in plane.upstream.seen:
        everything = json.dumps(seen.headers) + seen.path + seen.body.decode()
        assert CLIENT_KEY not in everything
        other = working if seen.backend == failing else failing
        assert f"sk-key-of-{other}" not in everything
        assert f"sk-key-of-{seen.backend}" in everything


def test_provider_sees_no_internal_header(plane):
    """What leaves for a provider is an allow list: no x-extproc-, x-envoy-, x-forwarded- header, no trace."""
    plane.upstream.script("oa0", up.openai_json())
    plane.chat("oa", headers={"x-extproc-tags": "a", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
    allowed = {"host", "content-type", "content-length", "accept", "user-agent", "authorization"}
    assert set(plane.upstream.seen[0].headers) <= allowed


@pytest.mark.parametrize("forged", ["cloud", "oa0/gpt-5-mini", "extproc", "nope"])
def test_forged_cluster_reaches_nothing(plane, forged):
    """A client that names a cluster itself gets the decision's cluster or nothing."""
    plane.upstream.script("oa0", up.openai_json())
    answer = plane.chat("oa", headers={
        "x-extproc-cluster": forged, "x-envoy-max-retries": "9", "x-extproc-backend": "an0", "x-extproc-stage": "attempt"})
    assert (answer.status, answer.headers["x-extproc-backend"]) == (200, "oa0")
    assert [seen.backend for seen in plane.upstream.seen] == ["oa0"]
    assert plane.call("GET", "/nope", headers={"x-extproc-cluster": forged}).status == 404


def test_provider_headers_do_not_leak(plane):
    """A provider's account headers and cookies do not reach the client, nor can it forge ours."""
    script = up.openai_json()
    script.headers = {"set-cookie": "a=b", "openai-organization": "acme", "x-ratelimit-remaining-requests": "1",
                      "x-extproc-backend": "forged", "x-extproc-retry": "1", "x-extproc-cost-usd": "9"}
    plane.upstream.script("oa0", script)
    answer = plane.chat("oa")
    assert answer.headers["x-extproc-backend"] == "oa0"
    assert answer.headers["x-extproc-cost-usd"] != "9"
    assert not {"set-cookie", "openai-organization", "x-ratelimit-remaining-requests", "x-extproc-retry"} & set(answer.headers)


def test_prompts_and_keys_are_not_logged(plane):
    """Neither a prompt nor a key stands in any log file."""
    plane.upstream.script("oa0", up.error(400, "bad"))
    plane.chat("oa", text="a-very-secret-prompt", headers={"authorization": f"Bearer {CLIENT_KEY}"})
    plane.chat("oa", stream=True, text="a-very-secret-prompt")
    for log in (plane.state / "gateway-0" / "logs").iterdir():
        text = log.read_text(errors="replace")
        for secret in ("a-very-secret-prompt", CLIENT_KEY, "sk-key-of-"):
            assert secret not in text, (log.name, secret)


def test_keys_mode(_upstream):
    """With keys, a stranger gets a 401 in its own shape and no provider is asked; a key opens by either header."""
    secret = "xp-test-key"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    extra = f"auth: {{mode: keys, keys: [{{name: ci, sha256: {digest}, team: web, routes: [oa]}}]}}"
    with running(_upstream, extra) as plane:
        _upstream.reset()
        _upstream.always["oa0"] = up.openai_json()
        assert plane.chat("oa").json["error"]["code"] == "invalid_api_key"
        wrong = plane.message("oa", headers={"x-api-key": "xp-wrong"})
        assert (wrong.status, wrong.json["error"]["type"]) == (401, "authentication_error")
        assert _upstream.seen == []
        assert plane.chat("oa", headers={"authorization": f"Bearer {secret}"}).status == 200
        good = plane.message("oa", headers={"x-api-key": secret})
        assert good.status == 200
        record = plane.record(good)
        assert (record.admission.team, record.admission.key) == ("web", "ci")
        assert plane.chat("an", headers={"x-api-key": secret}).status == 403
        assert all(secret not in json.dumps(seen.headers) for seen in _upstream.seen)
