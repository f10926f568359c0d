"""Properties of the codecs over generated input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core import conversation as c
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas import PROVIDERS, SCHEMAS
from extproc.schemas._answer import Answer, gather
from extproc.schemas.base import ProviderSchema, Schema, Target
from extproc.wire.json_splice import TopLevel
from extproc.wire.sse import ServerSentEvent, SseDecoder

EVERY = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
CHATS = pytest.mark.parametrize("schema", [SCHEMAS["openai"], SCHEMAS["anthropic"]], ids=["openai", "anthropic"])
KEYS = st.sampled_from(
    [
        "model",
        "messages",
        "max_tokens",
        "role",
        "content",
        "type",
        "text",
        "tools",
        "function",
        "name",
        "system",
        "usage",
        "choices",
        "delta",
        "index",
        "tool_calls",
        "id",
        "arguments",
        "error",
        "input",
        "source",
        "finish_reason",
        "message",
        "content_block",
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "stream",
        "image_url",
    ]
)
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "tool",
        "text",
        "image",
        "tool_use",
        "tool_result",
        "function",
        "thinking",
        "message_start",
        "message_delta",
        "content_block_start",
        "content_block_delta",
        "error",
        "stop",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5),
    max_leaves=25,
)
COUNT = st.none() | st.integers(0, 10**6)
WHOLE_COUNT = st.integers(0, 10**6)


@EVERY
@given(value=VALUES)
def test_any_request_parses_or_is_refused(schema: Schema, value: Any) -> None:
    """Any JSON is a Conversation that every schema can render, or a RequestError."""
    if isinstance(value, dict):
        value = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], **value}
    body = json.dumps(value).encode()
    try:
        conversation = schema.parse_request(body)
        for other in PROVIDERS.values():
            other.refuses(conversation)
            json.loads(other.render_request(conversation, Target("t")).body)
        assert json.loads(schema.patch_request(body, Target("t")))["model"] == "t"
    except RequestError:
        return


@EVERY
@given(body=st.binary(max_size=60))
def test_any_bytes_are_handled(schema: Schema, body: bytes) -> None:
    """Arbitrary bytes raise only the listed errors; parse_error never raises."""
    for parse, error in ((schema.parse_request, RequestError), (schema.parse_response, UpstreamError)):
        with pytest.raises(error):
            parse(body)
    assert len(schema.parse_error(500, body).message) <= 500


@pytest.mark.parametrize("schema", PROVIDERS.values(), ids=PROVIDERS)
@given(values=st.lists(VALUES, max_size=4))
def test_any_answer_is_understood_or_refused(schema: ProviderSchema, values: list[Any]) -> None:
    """Any JSON as an answer or an event gives events or an UpstreamError; usage is never negative."""
    parser = schema.stream_parser()
    events: list[c.Event] = []
    for value in values:
        data = json.dumps(value).encode()
        try:
            events += parser.feed(ServerSentEvent(b"", data, data))
            events += schema.parse_response(data)
        except UpstreamError:
            pass
        schema.parse_error(400, data)
    for event in events:
        if isinstance(event, c.UsageReport):
            assert all(n is None or n >= 0 for n in (event.tokens.total_input, event.tokens.total_output))


@st.composite
def answers(draw: st.DrawFn) -> list[c.Event]:
    """A legal answer: text and thinking, then tool calls whose argument deltas interleave."""
    texts = draw(
        st.lists(
            st.builds(c.TextDelta, st.text(min_size=1, max_size=9))
            | st.builds(c.ThinkingDelta, st.text(min_size=1, max_size=9)),
            max_size=5,
        )
    )
    objects = draw(st.lists(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2), max_size=3))
    pending = [(i, list(json.dumps(value))) for i, value in enumerate(objects)]
    events: list[c.Event] = [c.Start("id", "m"), *texts]
    events += [c.ToolStart(i, f"t{i}", f"f{i}") for i, _ in pending]
    while any(rest for _, rest in pending):
        index, rest = draw(st.sampled_from([item for item in pending if item[1]]))
        size = draw(st.integers(1, len(rest)))
        events.append(c.ToolDelta(index, "".join(rest[:size])))
        del rest[:size]
    tokens = draw(st.builds(Tokens, WHOLE_COUNT, COUNT, COUNT, st.none(), WHOLE_COUNT, COUNT))
    return [
        *events,
        c.UsageReport(tokens),
        c.Stop("tool_use" if objects else draw(st.sampled_from(["end", "length"]))),
        c.Done(),
    ]


def told(answer: Answer) -> tuple[object, ...]:
    """What every schema can carry of an answer."""
    tokens = answer.tokens
    return (
        answer.text("text"),
        answer.text("thinking"),
        answer.stop,
        tokens.total_input,
        tokens.total_output,
        tokens.cache_read or 0,
        tokens.reasoning or 0,
        [(call.id, call.name, json.loads(call.text)) for call in answer.tools()],
    )


@CHATS
@settings(max_examples=60)
@given(events=answers())
def test_answers_survive_rendering_and_parsing(schema: Schema, events: list[c.Event]) -> None:
    """Whole or streamed, an answer rendered and parsed again says the same."""
    expected = told(gather(events))
    whole = schema.render_response(events, model="m", created=1, fallback_id="x")
    assert expected == told(gather(schema.parse_response(whole)))
    renderer = schema.stream_renderer(model="m", created=1, fallback_id="x", include_usage=True)
    parser = schema.stream_parser()
    stream = b"".join(renderer.feed(event) for event in events)
    again = [event for raw in SseDecoder().feed(stream) for event in parser.feed(raw)]
    assert expected == told(gather(again))
    assert c.Done() == again[-1]


@given(
    value=st.dictionaries(st.text(max_size=5), VALUES, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    new=LEAVES,
)
def test_splice_edits_one_field_only(value: dict[str, Any], indent: int | None, ascii_only: bool, new: Any) -> None:
    """An edited body differs in the edited field alone, and no edit is no change."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    body = text.encode()
    assert body == TopLevel(body).edit({})
    assert {**value, "Ω-model": new} == json.loads(TopLevel(body).edit({"Ω-model": json.dumps(new).encode()}))
    for key in value:
        if any(other != key and other.casefold() == key for other in value):
            continue
        without = {k: v for k, v in value.items() if k != key}
        assert without == json.loads(TopLevel(body).edit({}, [key]))
