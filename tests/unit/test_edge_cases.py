"""Edge cases of real traffic, each through the codecs that meet it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas import SCHEMAS
from extproc.schemas._answer import Answer, gather
from extproc.schemas.base import Schema, Target
from extproc.wire.sse import SseDecoder

OPENAI, ANTHROPIC = SCHEMAS["openai"], SCHEMAS["anthropic"]
BOTH = pytest.mark.parametrize("schema", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
ASK = [{"role": "user", "content": "q"}]


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One chunk of an OpenAI stream."""
    return {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(index: int, **function: Any) -> dict[str, Any]:
    """A fragment of a tool call."""
    identifier = function.pop("id", None)
    return {"index": index, **({"id": identifier} if identifier else {}), "function": function}


def events(schema: Schema, *values: Any) -> list[c.Event]:
    """The neutral events of a stream of JSON values; a string goes as it is."""
    parser = schema.stream_parser()
    data = b"".join(b"data: %s\n\n" % (v if isinstance(v, str) else json.dumps(v)).encode() for v in values)
    return [event for raw in SseDecoder().feed(data) for event in parser.feed(raw)]


def stream(schema: Schema, given: list[c.Event]) -> list[Any]:
    """The JSON values of the stream that a client gets."""
    renderer = schema.stream_renderer(model="m", created=1, fallback_id="msg_1", include_usage=True)
    data = b"".join(renderer.feed(event) for event in given)
    return [json.loads(event.data) for event in SseDecoder().feed(data) if not event.data.startswith(b"[DONE]")]


def answer(schema: Schema, *values: Any) -> Answer:
    """A stream put together."""
    return gather(events(schema, *values))


def blocks(values: list[Any]) -> list[tuple[Any, str, str]]:
    """(index, type, joined deltas) of the content blocks, in order; asserts that none overlap."""
    found: list[tuple[Any, str, str]] = []
    live = None
    for value in values:
        if value["type"] == "content_block_start":
            assert live is None
            live = value["index"]
            found.append((live, value["content_block"]["type"], ""))
        elif value["type"] == "content_block_delta":
            assert value["index"] == live
            delta = value["delta"]
            text = delta.get("text") or delta.get("partial_json") or delta.get("thinking") or delta.get("signature") or ""
            found[-1] = (*found[-1][:2], found[-1][2] + text)
        elif value["type"] == "content_block_stop":
            assert value["index"] == live
            live = None
    assert live is None
    return found


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """An OpenAI usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion}


class TestOpenAIStreams:
    """What OpenAI and its imitators send."""

    def test_usage_comes_late_and_often(self) -> None:
        """Usage repeated in every chunk is not added up, and the chunk with no choices is read."""
        told = answer(OPENAI, {**chunk(content="a"), "usage": usage(3, 1)}, {**chunk("stop"), "usage": usage(3, 2)},
                      {"id": "chatcmpl-1", "choices": [], "usage": usage(3, 2)}, "[DONE]")
        assert (told.tokens.input, told.tokens.output, told.text("text")) == (3, 2, "a")

    def test_the_finish_chunk_may_have_content(self) -> None:
        """Text in the chunk with the finish reason reaches a client of the other schema."""
        out = stream(ANTHROPIC, events(OPENAI, chunk(content="a"), chunk("stop", content="b"), "[DONE]"))
        assert blocks(out) == [(0, "text", "ab")]

    def test_an_empty_list_of_calls_is_none(self) -> None:
        """`tool_calls: []` beside content begins no call and changes no stop reason."""
        out = stream(ANTHROPIC, events(OPENAI, chunk(content="a", tool_calls=[]), chunk("stop"), "[DONE]"))
        assert blocks(out) == [(0, "text", "a")]
        assert out[-2]["delta"]["stop_reason"] == "end_turn"

    def test_odd_fragments_of_calls(self) -> None:
        """An empty name fragment, arguments as an object and an id that comes later all make one call each."""
        told = answer(
            OPENAI, chunk(tool_calls=[call(0, id="a", name="f", arguments=""), call(1, name="g", arguments={"x": 1})]),
            chunk(tool_calls=[call(0, name="", arguments="{}")]), chunk(tool_calls=[call(1, id="b", arguments="")]),
            chunk("tool_calls"), "[DONE]")
        assert [(t.id, t.name, t.text) for t in told.tools()] == [("a", "f", "{}"), ("b", "g", '{"x":1}')]

    def test_interleaved_calls_do_not_overlap(self) -> None:
        """Two calls whose fragments interleave come out as one block after the other, indices contiguous."""
        out = stream(ANTHROPIC, events(
            OPENAI, chunk(tool_calls=[call(0, id="a", name="f", arguments='{"x"')]),
            chunk(tool_calls=[call(1, id="b", name="g", arguments='{"y"')]),
            chunk(tool_calls=[call(0, arguments=":1}")]), chunk(tool_calls=[call(1, arguments=":2}")]),
            chunk("tool_calls"), "[DONE]"))
        assert blocks(out) == [(0, "tool_use", '{"x":1}'), (1, "tool_use", '{"y":2}')]

    def test_a_call_after_text_keeps_its_first_fragment(self) -> None:
        """The text block closes, the tool block opens, and the arguments in the call's first chunk are there."""
        out = stream(ANTHROPIC, events(
            OPENAI, chunk(content="a"), chunk(tool_calls=[call(0, id="t", name="f", arguments='{"x"')]),
            chunk(tool_calls=[call(0, arguments=":1}")]), chunk("tool_calls"), "[DONE]"))
        assert blocks(out) == [(0, "text", "a"), (1, "tool_use", '{"x":1}')]

    def test_calls_that_end_with_stop(self) -> None:
        """A server that says `stop` after tool calls still gives the stop reason tool_use, in both schemas."""
        given = events(OPENAI, chunk(tool_calls=[call(0, id="t", name="f", arguments="{}")]), chunk("stop"), "[DONE]")
        assert stream(ANTHROPIC, given)[-2]["delta"]["stop_reason"] == "tool_use"
        assert stream(OPENAI, given)[-1]["choices"][0]["finish_reason"] == "tool_calls"

    def test_no_empty_text_block_comes_first(self) -> None:
        """The empty content of the first chunk makes no text block before a tool call."""
        out = stream(ANTHROPIC, events(
            OPENAI, chunk(role="assistant", content=""), chunk(tool_calls=[call(0, id="t", name="f", arguments="{}")]),
            chunk("tool_calls"), "[DONE]"))
        assert blocks(out) == [(0, "tool_use", "{}")]

    def test_custom_calls(self) -> None:
        """Calls of freeform tools are raw text, read and written with their own type, streamed and whole."""
        first = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "patch", "input": ""}}
        given = events(OPENAI, chunk(tool_calls=[first]),
                       chunk(tool_calls=[{"index": 0, "custom": {"input": "*** {"}}]), chunk("tool_calls"), "[DONE]")
        assert [event for event in given if isinstance(event, c.ToolStart | c.ToolDelta)] == [
            c.ToolStart(0, "c", "patch", "custom"), c.ToolDelta(0, "*** {")]
        out = stream(OPENAI, given)
        assert [value["choices"][0]["delta"].get("tool_calls") for value in out[1:3]] == [
            [first], [{"index": 0, "custom": {"input": "*** {"}}]]
        whole = OPENAI.render_response(given, model="m", created=1, fallback_id="x")
        assert json.loads(whole)["choices"][0]["message"]["tool_calls"] == [
            {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** {"}}]
        assert [event for event in OPENAI.parse_response(whole) if isinstance(event, c.ToolStart)] == [
            c.ToolStart(0, "c", "patch", "custom")]


START: dict[str, Any] = {"type": "message_start", "message": {
    "id": "msg_1", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 2}}}


class TestAnthropicStreams:
    """What Anthropic's stream may hold between its first and its last event."""

    def block(self, index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of one content block."""
        return [{"type": "content_block_start", "index": index, "content_block": block},
                *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
                {"type": "content_block_stop", "index": index}]

    def ended(self, reason: str, **usage: Any) -> list[dict[str, Any]]:
        """The end of a message."""
        return [{"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}, {"type": "message_stop"}]

    def test_usage_is_the_last_value_that_was_given(self) -> None:
        """Several message_delta are not added, and an absent or null field erases nothing."""
        first = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4, "input_tokens": None}}
        told = answer(ANTHROPIC, START, first, *self.ended("end_turn", output_tokens=9))
        assert (told.tokens.input, told.tokens.cache_read, told.tokens.output) == (5, 2, 9)

    def test_omitted_thinking_is_a_signature_alone(self) -> None:
        """A thinking block without text keeps its signature for the client, and says nothing to one of OpenAI's."""
        given = events(ANTHROPIC, START,
                       *self.block(0, {"type": "thinking", "thinking": "", "signature": ""},
                                   {"type": "signature_delta", "signature": "s"}),
                       *self.block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"}),
                       *self.ended("end_turn", output_tokens=1))
        assert blocks(stream(ANTHROPIC, given)) == [(0, "thinking", "s"), (1, "text", "a")]
        assert "reasoning_content" not in json.dumps(stream(OPENAI, given))

    def test_blocks_without_deltas(self) -> None:
        """A fallback block says nothing, and a tool call without a delta has the empty object as its arguments."""
        given = events(ANTHROPIC, START, *self.block(0, {"type": "fallback"}),
                       *self.block(1, {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
                       *self.ended("tool_use", output_tokens=1))
        assert blocks(stream(ANTHROPIC, given)) == [(0, "tool_use", "{}")]
        assert gather(given).tools()[0].text == "{}"

    def test_pings_and_unknown_events_say_nothing(self) -> None:
        """A ping anywhere, a citation and an event of the future do not disturb the text around them."""
        told = answer(ANTHROPIC, {"type": "ping"}, START, {"type": "ping"}, *self.block(
            0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"},
            {"type": "citations_delta", "citation": {}}, {"type": "text_delta", "text": "b"}),
            {"type": "novel", "delta": {"type": "x"}}, *self.ended("end_turn", output_tokens=1))
        assert told.text("text") == "ab"

    def test_indices_stay_contiguous_without_server_tools(self) -> None:
        """Blocks that are left out (server tools) leave no gap in the client's indices."""
        given = events(ANTHROPIC, START,
                       *self.block(0, {"type": "server_tool_use", "id": "s", "name": "w", "input": {}}),
                       *self.block(1, {"type": "web_search_tool_result"}),
                       *self.block(2, {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                                   {"type": "input_json_delta", "partial_json": ""},
                                   {"type": "input_json_delta", "partial_json": "{}"}),
                       *self.ended("tool_use", output_tokens=1))
        assert blocks(stream(ANTHROPIC, given)) == [(0, "tool_use", "{}")]

    @pytest.mark.parametrize(("reason", "finish"), [
        ("refusal", "content_filter"), ("pause_turn", "stop"), ("model_context_window_exceeded", "length"),
        ("max_tokens", "length"), ("stop_sequence", "stop"), ("of_the_future", "stop"),
    ])
    def test_stop_reasons(self, reason: str, finish: str) -> None:
        """Every stop reason has its finish reason, a refusal amid the stream too, and is kept for Anthropic's clients."""
        given = events(ANTHROPIC, START, *self.ended(reason, output_tokens=1))
        assert stream(OPENAI, given)[1]["choices"][0]["finish_reason"] == finish
        if reason != "of_the_future":
            assert stream(ANTHROPIC, given)[-2]["delta"]["stop_reason"] == reason

    def test_an_error_amid_the_stream(self) -> None:
        """An error event is a failure with the status it would have had, whatever came before."""
        *_, last = events(ANTHROPIC, START, {"type": "error", "error": {
            "type": "overloaded_error", "message": "busy"}})
        assert isinstance(last, c.Failure)
        assert (last.kind, last.status) == ("overloaded", 529)


class TestContent:
    """Empty content in its many forms."""

    @pytest.mark.parametrize(("content", "text"), [(None, ""), ("", ""), ([], ""), ([{"type": "text", "text": "a"}], "a")])
    def test_of_an_openai_answer(self, content: Any, text: str) -> None:
        """Null, empty and a list of one part are read, and make no empty block."""
        body = {"id": "x", "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
        given = OPENAI.parse_response(json.dumps(body).encode())
        assert gather(given).text("text") == text
        whole = json.loads(ANTHROPIC.render_response(given, model="m", created=1, fallback_id="msg_1"))
        assert whole["content"] == ([{"type": "text", "text": "a"}] if text else [])

    @pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
    def test_of_an_assistant_with_calls(self, content: Any) -> None:
        """Empty content beside calls is no part, and comes back as null."""
        calls = [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        given = parsed(OPENAI, messages=[{"role": "assistant", "content": content, "tool_calls": calls}])
        assert given.messages[0].parts == (c.ToolUse("t", "f", "{}"),)
        sent = OPENAI.render_request(given, Target("m")).fields["messages"]
        assert sent == [{"role": "assistant", "content": None, "tool_calls": calls}]

    def test_of_one_part(self) -> None:
        """A list of one text is the same as the text."""
        one = parsed(OPENAI, messages=[{"role": "user", "content": [{"type": "text", "text": "q"}]}])
        assert one == parsed(OPENAI, messages=ASK)
        assert OPENAI.render_request(one, Target("m")).fields["messages"] == ASK


def parsed(schema: Schema, **fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    return schema.parse_request(json.dumps({"model": "m", "max_tokens": 9, "messages": ASK, **fields}).encode())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_any_framing_of_a_stream(size: int) -> None:
    """A BOM, comments, CRLF, multi-line data, no space after the colon and any split of the bytes change no answer."""
    pretty = json.dumps(chunk(content="é"), indent=1, ensure_ascii=False).replace("\n", "\r\ndata: ")
    data = ("\ufeff: hello\r\n\r\ndata:" + json.dumps(chunk(content="ü", role="assistant"), ensure_ascii=False)
            + "\r\n\r\n: keep-alive\r\n\r\ndata: " + pretty + "\r\n\r\ndata: " + json.dumps(chunk("stop"))
            + "\r\n\r\ndata:[DONE]\r\n\r\n").encode()
    decoder, parser = SseDecoder(), OPENAI.stream_parser()
    raws = [raw for i in range(0, len(data), size) for raw in decoder.feed(data[i:i + size])]
    given = [event for raw in raws for event in parser.feed(raw)]
    assert (gather(given).text("text"), given[-1]) == ("üé", c.Done())


def test_an_event_over_a_megabyte() -> None:
    """A delta of more than 1 MB passes whole through both codecs."""
    text = "x" * (1 << 20)
    assert blocks(stream(ANTHROPIC, events(OPENAI, chunk(content=text), chunk("stop"), "[DONE]"))) == [(0, "text", text)]


@BOTH
@pytest.mark.parametrize("body", [
    b'{"error":{"message":"m","type":"rate_limit_error"}}',
    b'{"type":"error","error":{"type":"rate_limit_error","message":"m"}}',
])
def test_an_error_in_place_of_an_answer(schema: Schema, body: bytes) -> None:
    """A 200 with an error object is a failure of its own kind, which no client gets as an empty answer."""
    (failure,) = schema.parse_response(body)
    assert isinstance(failure, c.Failure)
    assert failure.kind == "rate_limit"
    with pytest.raises(UpstreamError):
        schema.render_response([failure], model="m", created=1, fallback_id="x")


def test_several_choices() -> None:
    """n over 1 is a demand on OpenAI's own schema, and Anthropic refuses it."""
    given = parsed(OPENAI, n=3)
    assert given.demands == ("n",) == ANTHROPIC.refuses(given)
    assert OPENAI.refuses(given) == ()
    assert OPENAI.render_request(given, Target("m")).fields["n"] == 3


def test_a_request_that_warms_the_cache() -> None:
    """max_tokens 0 is read and sent as it is to Anthropic; OpenAI has nothing like it and refuses."""
    given = parsed(ANTHROPIC, max_tokens=0)
    assert ANTHROPIC.render_request(given, Target("m", 100)).fields["max_tokens"] == 0
    assert OPENAI.refuses(given) == ("max_tokens:0",)


@pytest.mark.parametrize("count", [-1, 1.5, "7", True, None, 1 << 50, [], 10**30])
def test_impossible_token_counts(count: Any) -> None:
    """A counter that is no sane number is unknown, in both schemas, and disturbs no other counter."""
    told = answer(OPENAI, {**chunk("stop"), "usage": {"prompt_tokens": count, "completion_tokens": 4}}, "[DONE]")
    assert (told.tokens.input, told.tokens.output) == (None, 4)
    body = {"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": count}}
    tokens = gather(ANTHROPIC.parse_response(json.dumps(body).encode())).tokens
    assert (tokens.input, tokens.output) == (3, None)


def test_parts_that_exceed_their_whole() -> None:
    """More cached than prompt tokens, or more reasoning than output, is cut to the whole: no class is negative."""
    given = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9},
             "completion_tokens_details": {"reasoning_tokens": 7}}
    assert answer(OPENAI, {**chunk("stop"), "usage": given}, "[DONE]").tokens == Tokens(0, 5, None, None, 0, 2)


@BOTH
@pytest.mark.parametrize("body", [
    b'{"model":"a","model":"b","max_tokens":1,"messages":[]}',
    b'{"model":"a","max_tokens":1,"messages":[{"role":"user","content":"q"}],"messages":[]}',
    b'{"model":"a","MODEL":"b","max_tokens":1,"messages":[{"role":"user","content":"q"}]}',
])
def test_fields_given_twice(schema: Schema, body: bytes) -> None:
    """A body that two parsers could read differently never passes through with its bytes."""
    with pytest.raises(RequestError):
        schema.patch_request(body, Target("t"))


@BOTH
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 25, "[" * 2000 + "]" * 2000, '"\\ud800"'])
def test_values_at_the_edge(schema: Schema, value: str) -> None:
    """NaN, integers over 64 bits, lone surrogates and deep nesting are sent on exactly or refused, and never change."""
    body = ('{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"q"}],"tools":[{"name":"f",'
            '"type":"custom","input_schema":{"x":%s}}]}' if schema is ANTHROPIC else
            '{"model":"m","messages":[{"role":"user","content":"q"}],"tools":[{"type":"function",'
            '"function":{"name":"f","parameters":{"x":%s}}}]}') % value
    try:
        sent = schema.render_request(schema.parse_request(body.encode()), Target("m")).body
    except RequestError:
        return
    assert msg(sent) == json.loads(value)


def msg(body: bytes) -> Any:
    """The value that went through."""
    tool = json.loads(body)["tools"][0]
    return tool.get("input_schema", tool.get("function", {}).get("parameters"))["x"]


def test_numbers_of_tool_input_keep_their_digits() -> None:
    """Tool input goes through with its exact text: no digit of a long number is lost."""
    digits = "12345678901234567890123.10"
    use = '{"type":"tool_use","id":"t","name":"f","input":{"x":' + digits + "}}"
    body = ('{"model":"m","max_tokens":9,"messages":[{"role":"assistant","content":[' + use + "]}]}").encode()
    given = ANTHROPIC.parse_request(body)
    assert digits.encode() in OPENAI.render_request(given, Target("m")).body
    assert digits.encode() in ANTHROPIC.render_request(given, Target("m")).body
