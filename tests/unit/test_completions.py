"""The legacy completions codecs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from extproc.core import conversation as c
from extproc.core.answer import Reading, StreamAnswer, WholeAnswer
from extproc.core.errors import Problem, RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import Target
from extproc.schemas.openai_completions import OpenAICompletions
from extproc.wire.sse import ServerSentEvent, SseDecoder

SCHEMA = OpenAICompletions()
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TOKENS = Tokens(input=5, output=2)


def parse(**fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    return SCHEMA.parse_request(json.dumps({"model": "m", "prompt": "p", **fields}).encode())


def completion(text: str = "p", suffix: str | None = None, **fields: Any) -> c.Conversation:
    """A neutral completion."""
    return c.Conversation("m", (c.Message("user", (c.Text(text),)),), task="completion",
                          prompt=c.Prompt(text, suffix), **fields)


def chunk(text: str = "", finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One wire chunk, or a whole answer."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], **fields}


def feed(*chunks: dict[str, Any] | str) -> list[c.Event]:
    """Run chunks through one stream parser."""
    parser = SCHEMA.stream_parser()
    events: list[c.Event] = []
    for one in chunks:
        data = (one if isinstance(one, str) else json.dumps(one)).encode()
        events += parser.feed(ServerSentEvent(b"", data, b"data: " + data + b"\n\n"))
    return events


def stream(*events: c.Event, include_usage: bool = False) -> list[dict[str, Any]]:
    """Render a client's stream; its chunks decoded, after a check that it ends as it should."""
    renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="cmpl-f", include_usage=include_usage)
    out = SseDecoder().feed(b"".join(map(renderer.feed, events)))
    assert out[-1].data == b"[DONE]"
    return [json.loads(event.data) for event in out[:-1]]


class TestRequest:
    """Requests, from clients and to backends."""

    def test_settings(self) -> None:
        """Everything the neutral model knows is kept."""
        got = parse(suffix="s", max_tokens=7, stop="x", stream=True, stream_options={"include_usage": True}, seed=3,
                    temperature=0.2, top_p=0.5, user="me", presence_penalty=0.1, logit_bias={"5": 1})
        assert (got.task, got.prompt, got.max_tokens, got.stop) == ("completion", c.Prompt("p", "s"), 7, ("x",))
        assert (got.stream, got.stream_usage, got.seed, got.temperature, got.top_p, got.user) == (
            True, True, 3, 0.2, 0.5, "me")
        assert got.extras == {"presence_penalty": 0.1, "logit_bias": {"5": 1}}
        assert got.messages == (c.Message("user", (c.Text("p"), c.Text("s"))),)

    def test_the_default_limit_is_said(self) -> None:
        """An absent max_tokens means 16 in this API, and means it in every translation too."""
        assert parse().max_tokens == 16
        assert parse(max_tokens=None).max_tokens == 16
        assert parse(max_tokens=0).max_tokens == 0

    @pytest.mark.parametrize(
        ("prompt", "text", "demands"),
        [
            ("p", "p", ()), ("", "", ()), (None, "", ()), (["p"], "p", ()),
            (["a", "b"], "a\nb", ("prompt:list",)), ([1, 22], "1 22", ("prompt:tokens",)),
            ([[1, 2]], "1 2", ("prompt:tokens",)), ([[1], [2]], "1\n2", ("prompt:tokens", "prompt:list")),
        ],
    )
    def test_prompts(self, prompt: Any, text: str, demands: tuple[str, ...]) -> None:
        """One text can go anywhere; several or token ids only to a backend of this schema."""
        got = parse(prompt=prompt)
        assert got.prompt == c.Prompt(text)
        assert got.demands == demands

    @pytest.mark.parametrize(
        ("fields", "demands"),
        [
            ({"n": 2}, ("n",)), ({"n": 1, "best_of": 1, "echo": False}, ()), ({"best_of": 3}, ("best_of",)),
            ({"echo": True}, ("echo",)), ({"logprobs": 0}, ("logprobs",)), ({"logprobs": None}, ()),
        ],
    )
    def test_demands(self, fields: dict[str, Any], demands: tuple[str, ...]) -> None:
        """What only a backend of this schema can do is demanded."""
        assert parse(**fields).demands == demands

    def test_unmapped_fields_are_named(self) -> None:
        """Fields of other servers are named."""
        assert parse(min_p=0.1, grammar=None).unmapped == ("min_p",)

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            (b"{", None), (b"[]", None), (b"\xff", None), (b'{"prompt":"p"}', "model"), (b'{"model":"m"}', "prompt"),
            (b'{"model":"","prompt":"p"}', "model"), (b'{"model":"m","prompt":[]}', "prompt"),
            (b'{"model":"m","prompt":["a",1]}', "prompt"), (b'{"model":"m","prompt":[true]}', "prompt"),
            (b'{"model":"m","prompt":[[]]}', "prompt"), (b'{"model":"m","prompt":7}', "prompt"),
            (b'{"model":"m","prompt":"p","max_tokens":-1}', "max_tokens"), (b'{"model":"m","prompt":"p","n":0}', "n"),
            (b'{"model":"m","prompt":"p","stop":[1]}', "stop[0]"), (b"[" * 100000, None),
        ],
    )
    def test_wrong_requests(self, body: bytes, param: str | None) -> None:
        """A wrong request names its field."""
        with pytest.raises(RequestError) as error:
            SCHEMA.parse_request(body)
        assert error.value.problem.param == param

    def test_render(self) -> None:
        """A completion for a backend, with usage asked for; what it cannot hold is named."""
        got = SCHEMA.render_request(
            completion("p", "s", max_tokens=50, stop=("a", "b", "c", "d", "e"), seed=1, user="me", stream=True, n=2,
                       temperature=0.0, top_k=3, effort="low", unmapped=("min_tokens",), demands=("n", "best_of"),
                       extras={"metadata": {}, "presence_penalty": 0.5}), Target("x", 20))
        assert got.fields == {
            "model": "x", "prompt": "p", "suffix": "s", "max_tokens": 20, "stop": ("a", "b", "c", "d", "e"), "seed": 1,
            "user": "me", "temperature": 0.0, "presence_penalty": 0.5, "n": 2, "stream": True,
            "stream_options": {"include_usage": True}}
        assert got.dropped == ("min_tokens", "top_k", "effort", "metadata", "best_of")

    def test_a_limit_is_always_said(self) -> None:
        """Servers differ in what an absent limit means, so none is left out."""
        assert SCHEMA.render_request(completion(), Target("x", 20)).fields["max_tokens"] == 20
        assert SCHEMA.render_request(completion(), Target("x")).fields["max_tokens"] == 16384

    def test_a_conversation_is_refused(self) -> None:
        """A chat is no prompt."""
        chat = c.Conversation("m", (c.Message("user", (c.Text("hi"),)),), max_tokens=0)
        assert SCHEMA.refuses(chat) == ("chat", "max_tokens:0")
        assert SCHEMA.refuses(completion()) == ()
        with pytest.raises(RequestError):
            SCHEMA.render_request(chat, Target("x"))

    def test_patch(self) -> None:
        """The model is replaced and a stream reports usage; all else keeps its bytes."""
        assert SCHEMA.patch_request(b'{"model":"a", "prompt" : [1,2]}', Target("b")) == b'{"model":"b", "prompt" : [1,2]}'
        patched = SCHEMA.patch_request(b'{"model":"a","stream":true}', Target("b"))
        assert json.loads(patched)["stream_options"] == {"include_usage": True}


class TestAnswer:
    """Answers, from backends and to clients."""

    def test_a_stream(self) -> None:
        """Text, the reason with text, usage without choices, and the end."""
        events = feed(chunk("He"), chunk("llo", "stop"), chunk(choices=[], usage=USAGE), "[DONE]")
        assert events == [c.Start("cmpl-1", "m"), c.TextDelta("He"), c.TextDelta("llo"), c.Stop("end"),
                          c.UsageReport(TOKENS), c.Done()]

    def test_only_the_first_choice_is_read(self) -> None:
        """Further choices are the pass-through's business."""
        other = {"index": 1, "text": "no", "finish_reason": "length"}
        assert feed(chunk(choices=[other])) == [c.Start("cmpl-1", "m")]

    @pytest.mark.parametrize("finish", ["length", None])
    def test_a_whole_answer(self, finish: str | None) -> None:
        """One object; a reason that is left out is the natural end."""
        got = SCHEMA.parse_response(json.dumps(chunk("Hello", finish, usage=USAGE)).encode())
        stop = c.Stop("length" if finish else "end")
        assert set(map(repr, got)) == set(map(repr, [
            c.Start("cmpl-1", "m"), c.TextDelta("Hello"), stop, c.UsageReport(TOKENS), c.Done()]))
        assert got[-1] == c.Done()

    def test_errors_in_answers(self) -> None:
        """An error object is a failure, whole and in a stream."""
        error = {"error": {"message": "overloaded", "type": "server_error", "code": 503}}
        assert isinstance(feed(chunk("a"), error)[-1], c.Failure)
        (whole,) = SCHEMA.parse_response(json.dumps(error).encode())
        assert isinstance(whole, c.Failure)
        assert whole.status == 503

    @pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"choices":[]}', b'{"choices":[{"text":1}]}', b"<html>"])
    def test_nonsense(self, body: bytes) -> None:
        """What is no answer is the provider's fault."""
        with pytest.raises(UpstreamError):
            SCHEMA.parse_response(body)

    def test_a_rendered_answer(self) -> None:
        """A text_completion; thinking and calls have no place in it."""
        events = (c.Start("x"), c.ThinkingDelta("hm"), c.TextDelta("Hello"), c.ToolStart(0, "i", "f"),
                  c.UsageReport(TOKENS), c.Stop("stop_sequence"), c.Done())
        got = json.loads(SCHEMA.render_response(events, model="m", created=1, fallback_id="cmpl-f"))
        usage = got.pop("usage")
        assert {name: usage[name] for name in USAGE} == USAGE
        assert got == {"id": "cmpl-f", "object": "text_completion", "created": 1, "model": "m", "choices": [
            {"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "stop"}]}
        with pytest.raises(UpstreamError):
            SCHEMA.render_response((c.Failure("upstream", "no"),), model="m", created=1, fallback_id="f")

    def test_a_rendered_stream(self) -> None:
        """Text chunks, the reason alone; usage apart and only for those who ask, null before it."""
        events = (c.Start("cmpl-9"), c.ThinkingDelta("hm"), c.TextDelta("He"), c.UsageReport(TOKENS), c.TextDelta("llo"),
                  c.Stop("tool_use"), c.Done(), c.TextDelta("late"))
        plain = stream(*events)
        assert [one["choices"][0]["text"] for one in plain] == ["He", "llo", ""]
        assert [one["choices"][0]["finish_reason"] for one in plain] == [None, None, "stop"]
        assert {one["id"] for one in plain} == {"cmpl-9"}
        assert "usage" not in plain[0]
        asked = stream(*events, include_usage=True)
        assert [one["usage"] for one in asked[:-1]] == [None] * 3
        assert asked[-1]["choices"] == []
        assert asked[-1]["usage"]["total_tokens"] == 7

    def test_a_stream_of_nothing(self) -> None:
        """An empty answer has its end, without usage when none is known."""
        (only,) = stream(c.Done(), include_usage=True)
        assert (only["id"], only["choices"][0]["finish_reason"]) == ("cmpl-f", "stop")

    def test_nothing_follows_a_failure(self) -> None:
        """After a failure the gateway appends its own error event."""
        renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="f", include_usage=False)
        assert renderer.feed(c.Failure("upstream", "no")) == renderer.feed(c.TextDelta("x")) == b""

    def test_the_usage_chunk_is_hidden(self) -> None:
        """The chunk that the gateway asked for is not for a client that did not; telling chunks are parsed."""
        def event(value: dict[str, Any]) -> ServerSentEvent:
            return ServerSentEvent(b"", json.dumps(value).encode(), b"")

        usage, text = event(chunk(choices=[], usage=USAGE)), event(chunk("a"))
        assert SCHEMA.hides_from_client(usage, False)
        assert not SCHEMA.hides_from_client(usage, True)
        assert not SCHEMA.hides_from_client(text, False)
        assert [SCHEMA.usage_in_event(e) for e in (usage, event(chunk("", "stop")), text)] == [True, True, False]

    def test_errors(self) -> None:
        """Errors have OpenAI's form both ways."""
        assert SCHEMA.parse_error(404, b'{"error":{"message":"no model"}}').kind == "not_found"
        problem = Problem("rate_limit", "slow down")
        assert json.loads(SCHEMA.render_error(problem, "r"))["error"]["type"] == "rate_limit_error"
        assert SCHEMA.render_stream_error(problem, "r").startswith(b'data: {"error":')


class TestOfficialClient:
    """What PyPI openai reads."""

    def client(self, body: bytes, kind: str) -> openai.OpenAI:
        """A client whose every request is answered with these bytes."""
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body, headers={"content-type": kind}))
        return openai.OpenAI(api_key="k", base_url="http://127.0.0.1:1/v1", http_client=httpx.Client(transport=transport))

    def test_stream_from_anthropic(self) -> None:
        """A Claude stream becomes completions with usage; the official client reads it."""
        how = Reading(CLIENTS["completions"], PROVIDERS["anthropic"], "m", 1, "cmpl-f", include_usage=True)
        answer = StreamAnswer(how)
        lines = [
            {"type": "message_start", "message": {"id": "msg_1", "model": "claude", "usage": {
                "input_tokens": 5, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 2}},
            {"type": "message_stop"},
        ]
        body = b"".join(answer.feed(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode()) for one in lines)
        with self.client(body, "text/event-stream") as client:
            chunks = list(client.completions.create(model="m", prompt="p", stream=True))
        assert "".join(one.choices[0].text for one in chunks if one.choices) == "Hello"
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (5, 2)

    def test_whole_from_chat(self) -> None:
        """A chat completion becomes a completion."""
        how = Reading(CLIENTS["completions"], PROVIDERS["openai"], "m", 1, "cmpl-f")
        answer = WholeAnswer(how)
        answer.feed(json.dumps({"id": "chatcmpl-1", "model": "m", "usage": USAGE, "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}).encode())
        with self.client(answer.finish(), "application/json") as client:
            got = client.completions.create(model="m", prompt="p")
        assert got.model_validate(got.model_dump()) == got
        assert (got.choices[0].text, got.choices[0].finish_reason, got.id) == ("Hello", "stop", "cmpl-f")

    def test_an_error_in_the_stream_raises(self) -> None:
        """The error event makes the client raise."""
        body = SCHEMA.render_stream_error(Problem("upstream", "broken"), "r")
        with self.client(body, "text/event-stream") as client, pytest.raises(openai.APIError, match="broken"):
            list(client.completions.create(model="m", prompt="p", stream=True))
