"""The main path on the real data plane: four schema pairs, streamed and whole; who sees what; what the ledger holds."""

from __future__ import annotations

import json

import pytest

from tests.data_plane import upstream as up

OPENAI = {"model": "?", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(("chain", "script", "backend", "path"), [
    ("oa", up.openai_json, "oa0", "/oa0/v1/chat/completions"),
    ("an", up.anthropic_json, "an0", "/an0/v1/messages"),
])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_whole_answers(plane, chain, script, backend, path, client):
    """A whole answer reaches either client in its own schema, and the provider sees its own schema and key."""
    plane.upstream.script(backend, script("hello there"))
    answer = plane.chat(chain) if client == "openai" else plane.message(chain)
    assert answer.status == 200, answer.text
    seen = plane.upstream.seen[-1]
    assert (seen.path, seen.json["model"]) == (path, plane_model(chain))
    said = (answer.json["choices"][0]["message"]["content"] if client == "openai"
            else answer.json["content"][-1]["text"])
    assert said == "hello there"
    record = plane.record(answer)
    assert record.state == "done"
    assert record.attempts[0].tokens.output + record.attempts[0].tokens.reasoning == 7
    assert record.attempts[0].cost_nano_usd > 0
    assert answer.headers["x-extproc-backend"] == backend
    assert answer.headers["x-extproc-attempts"] == "1"


def plane_model(chain: str) -> str:
    """The model the first backend of a chain serves."""
    return "gpt-5-mini" if chain == "oa" else "claude-sonnet-5"


@pytest.mark.parametrize("backend", ["oa0", "an0"])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_streams(plane, backend, client):
    """A stream reaches either client complete, in its own schema, with its terminal event."""
    script = up.openai_sse("a", "b", "c") if backend == "oa0" else up.anthropic_sse("a", "b", "c")
    plane.upstream.script(backend, script)
    chain = "oa" if backend == "oa0" else "an"
    answer = plane.chat(chain, stream=True) if client == "openai" else plane.message(chain, stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    if client == "openai":
        assert "".join(c["delta"].get("content") or "" for e in events for c in e["choices"]) == "abc"
        assert answer.text.endswith("data: [DONE]\n\n")
        assert all(e["choices"] for e in events)  # the usage chunk was not asked for
    else:
        assert "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta") == "abc"
        assert events[-1]["type"] == "message_stop"
    record = plane.record(answer)
    assert (record.attempts[0].tokens.input, record.attempts[0].tokens.output) == (20, 7)


def test_same_schema_is_byte_exact(plane):
    """Same-schema traffic passes byte for byte, except the model and the forced usage report."""
    plane.upstream.script("oa0", up.openai_json())
    body = b'{ "model" : "oa",\n "messages":[{"role":"user","content":"h\\u0069","x":1.50}] , "future": {"a": 1e3} }'
    answer = plane.call("POST", "/v1/chat/completions", body)
    assert plane.upstream.seen[-1].body == body.replace(b'"oa"', b'"gpt-5-mini"')
    assert answer.json["future_field"] == {"kept": True}


def test_usage_chunk_is_given_to_who_asked(plane):
    """A client that asks for the usage chunk gets it."""
    plane.upstream.script("oa0", up.openai_sse("a"))
    answer = plane.chat("oa", stream=True, stream_options={"include_usage": True})
    assert '"usage":{"prompt_tokens":20' in answer.text


def test_both_workers_serve(plane):
    """Requests are served whichever worker gets which stage."""
    plane.upstream.always["oa0"] = up.openai_json()
    for _ in range(40):
        assert plane.chat("oa").status == 200
    logs = [(plane.state / "gateway-0" / "logs" / f"worker-{i}.log").read_text() for i in range(2)]
    assert all('"event":"attempt"' in log for log in logs)


def test_models_and_health(plane):
    """GET /v1/models answers in both shapes, /health answers ok."""
    assert plane.call("GET", "/health").json == {"status": "ok"}
    assert "oa" in [m["id"] for m in plane.call("GET", "/v1/models").json["data"]]
    shaped = plane.call("GET", "/v1/models", headers={"anthropic-version": "2023-06-01"}).json
    assert {"has_more", "first_id", "last_id"} <= set(shaped)


def test_large_body(plane):
    """A body of 10 MB goes through, and fails over whole."""
    plane.upstream.script("oa0", up.error(503))
    plane.upstream.script("oa1", up.openai_json())
    text = "x" * (10 << 20)
    answer = plane.chat("oa", text=text)
    assert (answer.status, answer.headers["x-extproc-attempts"]) == (200, "2")
    assert all(seen.json["messages"][0]["content"] == text for seen in plane.upstream.seen)


FAILURES = {
    "reset": up.Script(fault="reset"),
    "429": up.error(429, kind="rate_limit_exceeded"),
    "500": up.error(500),
    "503": up.error(503),
    "529": up.error(529, kind="overloaded_error"),
    "401": up.error(401, "bad key sk-key-of-oa0", "invalid_api_key"),
    "html": up.Script(502, {"content-type": "text/html"}, [b"<html>bad gateway</html>"]),
    "garbage": up.Script(200, chunks=[b"<html>not json"]),
    "error in 200": up.Script(200, chunks=[b'{"error":{"message":"x","type":"server_error"}}']),
    "silent": up.Script(200, chunks=[], first_pause=3.0),
    "empty": up.Script(200, chunks=[]),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_failover(plane, kind, client):
    """What fails before its answer moves to the next backend; the client sees one clean answer."""
    plane.upstream.script("oa0", FAILURES[kind])
    plane.upstream.script("oa1", up.openai_json("second"))
    answer = plane.chat("oa") if client == "openai" else plane.message("oa")
    assert (answer.status, answer.headers["x-extproc-attempts"]) == (200, "2"), answer.text
    assert answer.headers["x-extproc-backend"] == "oa1"
    assert "second" in answer.text
    assert [a.number for a in plane.record(answer).attempts] == [1, 2]


STREAM_FAILURES = {
    "first event is an error": up.overloaded_sse(),
    "429": up.error(429), "reset": up.Script(fault="reset"),
    "no first event": up.Script(200, {"content-type": "text/event-stream"}, [], first_pause=3.0),
    "comments only": up.Script(200, {"content-type": "text/event-stream"}, [b": keep-alive\n\n"] * 30, pause=0.1),
    "empty": up.Script(200, {"content-type": "text/event-stream"}, []),
    "nonsense": up.Script(200, {"content-type": "text/event-stream"}, [b"data: {nope\n\n"]),
}


@pytest.mark.parametrize("kind", STREAM_FAILURES)
@pytest.mark.parametrize("chain", ["xim", "an"])
def test_stream_failover(plane, kind, chain):
    """A stream that fails before its first event moves on, also to a backend of another schema."""
    plane.upstream.script("an0", STREAM_FAILURES[kind])
    plane.upstream.script("an1", up.anthropic_sse("ok"))
    plane.upstream.script("oa0", up.openai_sse("ok"))
    answer = plane.message(chain, stream=True)
    assert (answer.status, answer.headers["x-extproc-attempts"]) == (200, "2"), answer.text
    assert '"text":"ok"' in answer.text.replace(" ", "")
    assert "Overloaded" not in answer.text


def test_connection_refused(plane):
    """A backend that refuses connections is passed over."""
    plane.upstream.script("oa0", up.openai_json())
    answer = plane.chat("dead-first")
    assert (answer.status, answer.headers["x-extproc-backend"]) == (200, "oa0")


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_nothing_reachable(plane, client):
    """When no backend can be reached the client gets a 503 in its own shape with the request id."""
    answer = plane.chat("all-dead") if client == "openai" else plane.message("all-dead")
    assert answer.status == 503
    assert answer.json["error"]["message"]
    assert answer.json["request_id"] == answer.headers["x-extproc-request-id"]
    assert plane.record(answer).state in ("unsent", "done")


def test_last_useful_error(plane):
    """When the last backend is unreachable, the error of the one that answered is told."""
    plane.upstream.script("oa0", up.error(429, "slow down please", "rate_limit_exceeded", **{"retry-after": "7"}))
    answer = plane.chat("err-then-dead")
    assert (answer.status, answer.headers.get("retry-after")) == (429, "7")
    assert "slow down please" in answer.text


def test_every_backend_fails(plane):
    """When every backend fails the client gets the last error in its own shape."""
    plane.upstream.script("oa0", up.error(503))
    plane.upstream.script("an0", up.Script(529, chunks=[
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}']))
    answer = plane.chat("mix")
    assert answer.status == 529
    assert answer.json["error"]["message"] == "Overloaded"
    assert len(plane.upstream.seen) == 2


BAD_STREAMS = {
    "ends early": up.openai_sse("a", "b", usage=False, done=False),
    "error event": up.Script(200, {"content-type": "text/event-stream"}, [
        up.openai_sse("a").chunks[0], up.openai_sse("a").chunks[1],
        b'data: {"error":{"message":"boom","type":"server_error"}}\n\n'], pause=0.1),
    "silence": up.Script(200, {"content-type": "text/event-stream"}, up.openai_sse("a").chunks[:2], fault="hang"),
    "nonsense": up.Script(200, {"content-type": "text/event-stream"}, [
        *up.openai_sse("a").chunks[:2], b'data: {"error":nope\n\n'], pause=0.1),
}


@pytest.mark.parametrize("kind", BAD_STREAMS)
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_streams_that_turn_bad(plane, kind, client):
    """After the first byte a bad stream ends with the schema's error event, never a clean end."""
    plane.upstream.script("oa0", BAD_STREAMS[kind])
    answer = plane.chat("oa", stream=True) if client == "openai" else plane.message("oa", stream=True)
    assert (answer.status, answer.complete) == (200, True)
    assert "[DONE]" not in answer.text
    assert "message_stop" not in answer.text
    last = [line for line in answer.text.splitlines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["error"]["message"]
    attempt = plane.record(answer).attempts[0]
    assert (attempt.outcome, attempt.HasField("tokens")) == (2, True)  # estimated


def test_reset_in_mid_stream(plane):
    """A provider's reset in mid-stream reaches the client as a broken stream and is accounted."""
    script = up.openai_sse("a", "b", usage=False, done=False)
    script.fault = "reset_mid"
    plane.upstream.script("oa0", script)
    answer = plane.chat("oa", stream=True)
    assert not answer.complete
    assert plane.record(answer).attempts[0].outcome == 2


def test_a_slow_whole_answer_is_waited_for(plane):
    """An answer that is not streamed may take longer than a first event may: it comes at its end."""
    slow = up.openai_json("slow")
    slow.first_pause = 1.4
    plane.upstream.script("oa0", slow)
    answer = plane.chat("oa")
    assert (answer.status, answer.headers["x-extproc-attempts"]) == (200, "1"), answer.text
