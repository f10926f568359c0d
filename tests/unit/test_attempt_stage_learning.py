"""What the attempt stage tells of an answer besides its cost: flaws, an early end, how long to wait."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core.events import Closed, Judged, ResponseBody, ResponseTrailers, Silence
from extproc.core.offered import tool_names
from tests.stage_kit import NOW, PATHS, STREAMS, Attempt, anthropic_stream, body, openai_stream, runtime

JSON = "application/json"
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
LONG = "mcp__a_server_with_a_long_name__" + "read_" * 12
CALL = '{"path": 1}'


def tools(schema: str, *names: str) -> list[Any]:
    """Tools as a client of a schema offers them."""
    if schema == "anthropic":
        return [{"name": name, "input_schema": PARAMETERS} for name in names]
    return [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in names]


def whole(schema: str, *, text: str = "", name: str = "", arguments: str = CALL, finish: str = "") -> bytes:
    """A non-stream answer."""
    if schema == "anthropic":
        content: list[Any] = [{"type": "text", "text": text}] if text else []
        content += [{"type": "tool_use", "id": "t1", "name": name, "input": json.loads(arguments)}] if name else []
        return json.dumps({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "c-1", "content": content,
            "stop_reason": finish or ("tool_use" if name else "end_turn"),
            "usage": {"input_tokens": 9, "output_tokens": 4}}).encode()
    called = [{"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}] if name else None
    return json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "g-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text or None, "tool_calls": called},
                     "finish_reason": finish or ("tool_calls" if name else "stop")}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4}}).encode()


def openai_call(name: str, *pieces: str) -> bytes:
    """A Chat Completions stream with a tool call."""
    deltas: list[Any] = [{"role": "assistant", "tool_calls": [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": name, "arguments": ""}}]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    return b"".join(b"data: " + json.dumps({"id": "x", "model": "g-1", "choices": [one]}).encode() + b"\n\n"
                    for one in choices) + b"data: [DONE]\n\n"


def asked(client: str, backend: str, *, stream: bool = False, learns: bool = True, **fields: Any) -> Attempt:
    """An attempt whose request has left; by default something is learnt of it."""
    attempt = Attempt(client, backend, stream=stream, judged=Judged() if learns else None)
    return attempt.dispatched(request=body(stream=stream, **fields))


class TestFlaws:
    """What is wrong with an answer."""

    @pytest.mark.parametrize("client", ["openai", "anthropic"])
    @pytest.mark.parametrize("backend", ["openai", "anthropic"])
    def test_whole(self, client: str, backend: str) -> None:
        """An answer that is not streamed is looked at, translated or not."""
        def flaws(**answer: Any) -> tuple[str, ...]:
            attempt = asked(client, backend, tools=tools(client, "read"))
            return attempt.answered(content_type=JSON).fed([whole(backend, **answer)]).end.flaws

        assert flaws(text="hello") == ()
        assert flaws(name="read") == ()
        assert flaws(name="write") == ("unknown_tool",)
        assert flaws() == ("empty",)
        assert flaws(text="<tool_call>read") == ("leaked_call",)

    def test_arguments(self) -> None:
        """Arguments that are no JSON are a flaw, in bytes that pass through too."""
        attempt = asked("openai", "openai", tools=tools("openai", "read"))
        assert attempt.answered(content_type=JSON).fed([whole("openai", name="read", arguments='{"a')]).end.flaws == (
            "tool_call",)

    @pytest.mark.parametrize(("name", "pieces", "found"), [
        ("read", ['{"a"', ": 1}"], ()), ("read", ['{"a"', ": 1"], ("tool_call",)), ("write", ["{}"], ("unknown_tool",)),
    ])
    def test_translated_stream(self, name: str, pieces: list[str], found: tuple[str, ...]) -> None:
        """A stream that is translated is looked at, however it is cut."""
        attempt = asked("anthropic", "openai", stream=True, tools=tools("anthropic", "read"))
        raw = openai_call(name, *pieces)
        attempt.answered().fed([raw[i:i + 7] for i in range(0, len(raw), 7)])
        assert attempt.end.flaws == found
        assert attempt.end.finish_reason == "tool_use"

    def test_stream_that_passes(self) -> None:
        """A stream whose bytes pass through costs nothing: it is not looked at."""
        attempt = asked("openai", "openai", stream=True, tools=tools("openai", "read"))
        attempt.answered().fed([openai_call("write", "{")])
        assert (attempt.end.flaws, attempt.end.finish_reason) == ((), "tool_use")

    def test_local_stream(self) -> None:
        """A stream of a local server is mended on its way: a call that was put right is none that leaked."""
        for text, found in (('<tool_call>{"name": "read", "arguments": {}}</tool_call>', ()),
                            ('[TOOL_CALLS] read {"a": 1}', ("leaked_call",)), ("fine", ())):
            attempt = asked("openai", "qwen/q", stream=True, tools=tools("openai", "read"))
            attempt.answered().fed([openai_stream(*text)])
            assert attempt.end.flaws == found, text

    def test_names_as_the_client_knows_them(self) -> None:
        """A name that had to be cut for the provider is the client's own again."""
        attempt = asked("anthropic", "openai", tools=tools("anthropic", LONG))
        assert attempt.sent.body is not None
        short = json.loads(attempt.sent.body)["tools"][0]["function"]["name"]
        assert short != LONG
        attempt.answered(content_type=JSON).fed([whole("openai", name=short)])
        assert attempt.end.flaws == ()

    def test_nothing_is_learnt(self) -> None:
        """Where nothing is learnt nothing is looked at."""
        attempt = asked("anthropic", "openai", learns=False, tools=tools("anthropic", "read"))
        assert attempt.answered(content_type=JSON).fed([whole("openai", name="write")]).end.flaws == ()

    def test_completion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A completion may be empty."""
        monkeypatch.setitem(PATHS, "completions", "/v1/completions")
        attempt = Attempt("completions", "qwen/q", stream=False, judged=Judged())
        attempt.dispatched(request=json.dumps({"model": "auto", "prompt": "x"}).encode())
        answer = {"id": "c", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
        assert attempt.answered(content_type=JSON).fed([json.dumps(answer).encode()]).end.flaws == ()

    def test_a_problem_or_no_end(self) -> None:
        """What was cut off has no flaws to tell: neither where the client leaves nor where the provider breaks."""
        for last in (Closed(), ResponseBody(b"", True), Silence()):
            attempt = asked("anthropic", "openai", stream=True, tools=tools("anthropic", "read"))
            attempt.answered().fed([openai_call("write", "{").partition(b'"finish_reason": "tool_calls"')[0]], end=False)
            attempt.hear(last)
            assert (attempt.end.flaws, attempt.end.finish_reason) == ((), ""), last


@pytest.mark.parametrize(("schema", "fields", "names"), [
    ("openai", {}, set[str]()), ("openai", {"tools": None}, set[str]()), ("openai", {"tools": []}, set[str]()),
    ("openai", {"tools": tools("openai", "a", "b")}, {"a", "b"}),
    ("openai", {"tools": [{"type": "custom", "custom": {"name": "patch"}}]}, {"patch"}),
    ("anthropic", {"tools": tools("anthropic", "a")}, {"a"}),
    ("anthropic", {"tools": [{"type": "custom", "name": "a", "input_schema": {"tools": 1}}]}, {"a"}),
    ("responses", {"tools": [{"type": "function", "name": "a"}, {"type": "custom", "name": "b"}]}, {"a", "b"}),
    ("responses", {"tools": [{"type": "local_shell"}, {"type": "apply_patch"}]}, {"local_shell", "apply_patch"}),
    ("openai", {"functions": [{"name": "a"}]}, None), ("openai", {"modalities": ["text", "audio"]}, None),
    ("openai", {"modalities": ["text"]}, set[str]()), ("openai", {"tools": 5}, None), ("openai", {"tools": [None]}, None),
    ("anthropic", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
    ("anthropic", {"mcp_servers": [{"name": "x"}]}, None),
    ("responses", {"tools": [{"type": "web_search"}, {"type": "function", "name": "a"}]}, None),
    ("responses", {"tools": [], "input": [{"type": "tool_search_output", "tools": []}]}, None),
    ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "a"}]}]}, {"a"}),
    ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]}, None),
    ("responses", {"tools": [{"type": "namespace", "name": "n"}], "input": [{"tools": []}, {"tools": []}]}, None),
    ("responses", {"prompt": {"id": "pmpt_1"}}, None),
])
def test_tool_names(schema: str, fields: dict[str, Any], names: set[str] | None) -> None:
    """The names are known unless a provider, or the conversation, may bring more."""
    assert tool_names(schema, json.dumps({"model": "m", **fields}).encode()) == names


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"{", b"[" * 100_000, b'{"tools":' + b"[" * 100_000])
def test_tool_names_of_nonsense(raw: bytes) -> None:
    """A body that is none tells no names, and raises nothing."""
    assert tool_names("openai", raw) is None


class TestClosed:
    """Whether the provider ended its answer too early."""

    @pytest.mark.parametrize("client", ["openai", "anthropic"])
    @pytest.mark.parametrize("backend", ["openai", "anthropic"])
    def test_streams(self, client: str, backend: str) -> None:
        """An end of the body, or trailers, before the schema's own end; not a client that leaves, nor silence."""
        cut = STREAMS[backend]("a", "b", done=False)
        for last, closed in ((ResponseBody(b"", True), True), (ResponseTrailers(), True), (Closed(), False),
                             (Silence(), False)):
            attempt = Attempt(client, backend).dispatched().answered().fed([cut], end=False)
            attempt.hear(last)
            assert attempt.end.closed is closed, last
        whole_stream = Attempt(client, backend).dispatched().answered().fed([STREAMS[backend]("a")])
        assert whole_stream.end.closed is False

    def test_before_the_first_event(self) -> None:
        """A 200 with nothing behind it was cut off too."""
        assert Attempt().dispatched().answered(end=True).end.closed
        assert Attempt().dispatched().answered().fed([b": hello\n\n"]).end.closed
        assert Attempt(stream=False).dispatched().answered(content_type=JSON, end=True).end.closed

    @pytest.mark.parametrize(("raw", "closed"), [
        (whole("openai", text="hello")[:-20], True), (b"", True), (b" \n", True), (b"[1, 2", True),
        (b"<html>502</html>", False), (b"{}", False), (b'{"choices": 5}', False),
    ])
    def test_whole(self, raw: bytes, closed: bool) -> None:
        """The beginning of an answer was cut off; what is no answer at all was not."""
        attempt = Attempt(stream=False).dispatched().answered(content_type=JSON).fed([raw])
        assert attempt.end.closed is closed
        assert attempt.end.outcome == "failed"

    def test_errors(self) -> None:
        """An error of the provider is an answer: in place of one, and in the middle of a stream."""
        assert not Attempt().dispatched().answered(500, JSON).fed([b""]).end.closed
        event = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'
        attempt = Attempt("anthropic", "anthropic").dispatched().answered()
        assert not attempt.fed([anthropic_stream("a", done=False) + event]).end.closed


@pytest.mark.parametrize(("status", "headers", "wait"), [
    (429, {"retry_after": "3"}, 3000), (429, {"retry_after_ms": "250", "retry_after": "3"}, 250),
    (503, {"retry_after": "0.5"}, 500), (429, {}, None), (429, {"retry_after": "later"}, None),
    (429, {"x_ratelimit_reset_requests": "1m30s", "x_ratelimit_remaining_requests": "0"}, 90_000),
    (503, {"x_ratelimit_reset_requests": "1m30s", "x_ratelimit_remaining_requests": "0"}, None),
    (200, {"retry_after": "3"}, None),
])
def test_retry_after(status: int, headers: dict[str, str], wait: int | None) -> None:
    """How long to wait is taken from a refusal's headers."""
    attempt = Attempt(stream=False).dispatched().answered(status, JSON, **headers)
    attempt.fed([whole("openai", text="hi") if status == 200 else b"{}"])
    assert attempt.end.retry_after_ms == wait


def test_retry_after_date() -> None:
    """A date is as far away as the stage's clock says."""
    attempt = Attempt().dispatched().answered(429, JSON, retry_after="Mon, 21 Sep 2026 14:13:50 GMT").fed([b"{}"])
    assert NOW == 1_790_000_000_000
    assert attempt.end.retry_after_ms == 30_000


def test_quota() -> None:
    """Credit that is used up does not come back with the rate limits."""
    attempt = Attempt(rt=runtime()).dispatched().answered(
        429, JSON, x_ratelimit_reset_requests="1s", x_ratelimit_remaining_requests="0")
    attempt.fed([b'{"error":{"message":"no credit","code":"insufficient_quota"}}'])
    assert attempt.end.retry_after_ms is None
