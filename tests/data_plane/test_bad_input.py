"""Bad input on the real data plane: a 4xx in the client's own shape that names the field, never a 500."""

from __future__ import annotations

import gzip
import http.client
import json
import socket

import pytest

from tests.data_plane import upstream as up

GOOD = b'{"model":"oa","messages":[{"role":"user","content":"hi"}]}'

CASES = {
    "malformed JSON": (b'{"model": "oa", "messages": [', {}, 400, None),
    "not an object": (b"[1,2]", {}, 400, None),
    "no model": (b'{"messages":[{"role":"user","content":"hi"}]}', {}, 400, "model"),
    "no messages": (b'{"max_tokens":9,"model":"oa"}', {}, 400, "messages"),
    "empty messages": (b'{"model":"oa","messages":[]}', {}, 400, "messages"),
    "wrong type": (b'{"model":"oa","messages":[{"role":"user","content":7}]}', {}, 400, "content"),
    "wrong stream": (b'{"model":"oa","messages":[{"role":"user","content":"x"}],"stream":"yes"}', {}, 400, "stream"),
    "unknown model": (GOOD.replace(b"oa", b"gibt-es-nicht"), {}, 404, "gibt-es-nicht"),
    "duplicate field": (b'{"model":"oa","model":"an","messages":[{"role":"user","content":"x"}]}', {}, 400, "model"),
    "content type": (GOOD, {"content-type": "text/plain"}, 415, "content-type"),
    "gzip request": (gzip.compress(GOOD), {"content-encoding": "gzip"}, 415, "content-encoding"),
    "too large": (b"x" * (33 << 20), {}, 413, None),
    "no body": (None, {}, 400, None),
    "not UTF-8": (b'{"model":"oa","messages":[{"role":"user","content":"\xff\xfe"}]}', {}, 400, None),
    "deep nesting": (b'{"model":"oa","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, 400, None),
    "image to text-only": (json.dumps({"model": "text-only", "max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]}).encode(), {}, 400, "images"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_bad_requests(plane, name, client):
    """A bad request is answered in the client's shape with a request id, and reaches no provider."""
    body, headers, status, word = CASES[name]
    if client == "anthropic" and body is not None and b"max_tokens" not in body:
        body = body.replace(b'"messages"', b'"max_tokens":9,"messages"', 1)
    if client == "anthropic" and body is not None:
        body = body.replace(b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}',
                            b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGk="}}')
    path = "/v1/chat/completions" if client == "openai" else "/v1/messages"
    try:
        answer = plane.call("POST", path, body, headers)
    except (BrokenPipeError, ConnectionResetError):
        assert name == "too large"  # refused on its headers while the client was still writing
        return
    assert answer.status == status, answer.text
    shown = answer.json
    assert shown["error"]["message"]
    assert shown["request_id"] == answer.headers["x-extproc-request-id"]
    assert shown.get("type") == ("error" if client == "anthropic" else None)
    if word:
        assert word in answer.text
    assert plane.upstream.seen == []


def test_chunked_body_over_the_limit(plane):
    """A body over the limit without content-length is refused with a 413 in the client's shape."""
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=20)

    def chunks():
        for _ in range(34):
            yield b"x" * (1 << 20)

    try:
        connection.request("POST", "/v1/messages", chunks(), {"content-type": "application/json"}, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 413
        assert json.loads(response.read())["error"]["type"] == "request_too_large"
    except (BrokenPipeError, ConnectionResetError):
        pass  # the refusal came while the client was still writing
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/nope", "/v1/nope", "/v2/chat/completions", "/v1/local/nope"])
def test_unknown_paths(plane, path):
    """An unknown path is a 404 in a JSON shape."""
    answer = plane.call("POST", path, b"{}")
    assert (answer.status, answer.json["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1//local/%2e%2e/./../chat%2Fcompletions", "/v1/chat%2fcompletions"])
def test_escaped_slashes_mean_nothing(plane, path):
    """A path with escaped slashes is none of ours: the decision is made from the path as it was sent."""
    assert plane.call("POST", path, GOOD).status == 404
    assert plane.upstream.seen == []


def test_garbage_on_the_wire(plane):
    """Bytes that are no HTTP do no harm."""
    with socket.create_connection(("127.0.0.1", plane.port)) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
        answer = raw.recv(100)
        assert answer == b"" or b" 400 " in answer
    plane.upstream.script("oa0", up.openai_json())
    assert plane.chat("oa").status == 200


def test_prefixes(plane):
    """/v1/local pins the local chain, /v1/smart decides whatever the model says."""
    plane.upstream.always["lo0"] = up.openai_json("local")
    plane.upstream.always["an0"] = up.anthropic_json("cloud")
    local = plane.chat("gpt-4", path="/v1/local/chat/completions")
    assert (local.headers["x-extproc-backend"], local.headers["x-extproc-route"]) == ("lo0", "local")
    assert plane.message("claude-x", path="/v1/smart/messages").headers["x-extproc-backend"] == "lo0"
    hard = plane.message("claude-x", path="/v1/smart/messages", text="design a distributed algorithm; prove it")
    assert hard.headers["x-extproc-backend"] == "an0"
    assert "complex" in hard.headers["x-extproc-reason"]


def test_hints(plane):
    """The latency and cost headers decide before complexity does."""
    plane.upstream.always["lo0"] = up.openai_json("local")
    plane.upstream.always["an0"] = up.anthropic_json("cloud")
    fast = plane.chat("auto", headers={"x-extproc-latency": "realtime"})
    assert fast.headers["x-extproc-backend"] == "an0"
    cheap = plane.chat("auto", headers={"x-extproc-cost": "batch"}, text="design a distributed algorithm; prove it")
    assert cheap.headers["x-extproc-backend"] == "lo0"
