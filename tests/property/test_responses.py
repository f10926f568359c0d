"""Properties of the Responses codecs over generated input."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core import conversation as c
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas.base import Target
from extproc.schemas.openai_responses import OpenAIResponses
from extproc.wire.sse import ServerSentEvent, SseDecoder
from tests.compare import dialogue, lost, names, told
from tests.property.test_conversations import CONVERSATIONS

SCHEMA = OpenAIResponses()
KEYS = st.sampled_from([
    "type", "role", "content", "text", "id", "call_id", "name", "arguments", "input", "output", "summary", "namespace",
    "encrypted_content", "tools", "action", "operation", "command", "image_url", "file_data", "file_id", "status",
    "item", "response", "delta", "output_index", "summary_index", "error", "code", "usage", "input_tokens",
    "output_tokens", "output_tokens_details", "incomplete_details", "reason", "format", "reasoning", "tool_choice",
    "environment", "phase", "annotations", "refusal",
])
WORDS = st.sampled_from([
    "message", "user", "assistant", "developer", "reasoning", "function", "custom", "namespace", "function_call",
    "function_call_output", "custom_tool_call", "custom_tool_call_output", "shell", "shell_call", "shell_call_output",
    "local_shell_call", "local_shell_call_output", "apply_patch_call", "apply_patch_call_output", "item_reference",
    "additional_tools", "tool_search_output", "input_text", "output_text", "input_image", "input_file", "summary_text",
    "response.created", "response.output_item.added", "response.output_item.done", "response.output_text.delta",
    "response.function_call_arguments.delta", "response.reasoning_text.delta", "response.reasoning_summary_text.delta",
    "response.completed", "response.incomplete", "response.failed", "error", "allowed_tools", "extproc1.e30",
    "data:image/png;base64,QUJD", "refusal", "failed", "json_schema",
])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25)
TEXTUAL = ("role", "call_id", "name", "status")
FREE = ("content", "arguments", "input", "output", "action", "operation", "summary", "encrypted_content", "id", "tools",
        "namespace")


@st.composite
def items(draw: st.DrawFn) -> dict[str, Any]:
    """Something like an item, of any type and with any fields."""
    item: dict[str, Any] = {"type": draw(WORDS)}
    item |= {key: draw(WORDS) for key in draw(st.lists(st.sampled_from(TEXTUAL), unique=True))}
    return item | {key: draw(VALUES) for key in draw(st.lists(st.sampled_from(FREE), max_size=4, unique=True))}


@st.composite
def wire_events(draw: st.DrawFn) -> dict[str, Any]:
    """Something like an event of a stream."""
    event: dict[str, Any] = {"type": draw(WORDS), "output_index": draw(st.integers(0, 2))}
    if draw(st.booleans()):
        event["item"] = draw(items())
    keys = st.sampled_from(["output_index", "delta", "response", "summary_index", "error", "item"])
    return event | {key: draw(VALUES) for key in draw(st.lists(keys, max_size=3, unique=True))}


def refused(request: dict[str, Any]) -> bool:
    """Whether a request is refused; when not, it can be rendered, and the rendering parses to the same messages."""
    body = json.dumps(request).encode()
    try:
        conversation = SCHEMA.parse_request(body)
        rendered = SCHEMA.render_request(conversation, Target("t"))
        assert json.loads(SCHEMA.patch_request(body, Target("t")))["model"] == "t"
    except RequestError:
        return True
    SCHEMA.refuses(conversation)
    if rendered.fields["input"]:
        SCHEMA.parse_request(rendered.body)
    return False


@settings(max_examples=300, deadline=None)
@given(conversation=CONVERSATIONS)
def test_a_renderer_names_what_it_loses(conversation: c.Conversation) -> None:
    """Any conversation of any schema, rendered and read again, differs in nothing that was not named."""
    if "verbosity" in conversation.extras:
        conversation = msgspec.structs.replace(conversation, extras={**conversation.extras, "verbosity": "low"})
    rendered = SCHEMA.render_request(conversation, Target("m"))
    again = SCHEMA.parse_request(rendered.body)
    named = names(rendered)
    # A summary is given when it is asked for, or thinking is and nothing is said about showing it.
    shown = conversation.thinking == "adaptive" and conversation.thinking_display is None
    assert again.thinking_display == ("summarized" if shown else None)
    named.add("thinking_display")
    if (conversation.max_tokens or 16) < 16:
        assert "max_tokens" in named
    assert {name for name in lost(conversation, again) if not told(named, name)} == set()
    assert dialogue(again, named) == dialogue(conversation, named)


@settings(max_examples=300)
@given(given_items=st.lists(items(), max_size=4))
def test_any_items_parse_or_are_refused(given_items: list[Any]) -> None:
    """Any items are a conversation that can be rendered and parsed again, or a RequestError."""
    refused({"model": "m", "input": [{"role": "user", "content": "x"}, *given_items]})


@given(fields=st.dictionaries(st.sampled_from([
    "tools", "tool_choice", "reasoning", "text", "include", "metadata", "instructions", "store", "truncation", "prompt",
    "stream", "stream_options", "max_output_tokens", "background", "conversation", "user", "input"]), VALUES, max_size=4))
def test_any_fields_parse_or_are_refused(fields: dict[str, Any]) -> None:
    """Any settings are a conversation that can be rendered and parsed again, or a RequestError."""
    refused({"model": "m", "input": "x", **fields})


@settings(max_examples=300)
@given(values=st.lists(wire_events(), max_size=6))
def test_any_event_is_understood_or_refused(values: list[Any]) -> None:
    """Any event gives neutral events or an UpstreamError, and whatever came can be rendered."""
    parser, events = SCHEMA.stream_parser(), []
    for value in values:
        data = json.dumps(value).encode()
        event = ServerSentEvent(b"", data, data)
        SCHEMA.usage_in_event(event)
        try:
            events += parser.feed(event)
        except UpstreamError:
            continue
    renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="x", include_usage=False)
    for event in events:
        renderer.feed(event)
    tokens = [event.tokens for event in events if isinstance(event, c.UsageReport)]
    assert all((count or 0) >= 0 for one in tokens for count in (one.total_input, one.total_output))


@st.composite
def answers(draw: st.DrawFn) -> list[c.Event]:
    """A legal answer: blocks of text, thought (closed in any way) and calls of all kinds whose deltas interleave."""
    text = st.text(min_size=1, max_size=6)
    thought = st.builds(lambda t, end: [c.ThinkingDelta(t), *end], text, st.sampled_from([
        [], [c.ThinkingDelta(signature="s")], [c.ThinkingDelta(encrypted="gA", id="rs_9")]]))
    alone = st.sampled_from([[c.ThinkingDelta(redacted="r")], [c.ThinkingDelta(signature="s")],
                             [c.ThinkingDelta(encrypted="gA", id="rs_8")]])
    blocks = draw(st.lists(st.builds(lambda t: [c.TextDelta(t)], text) | thought | alone, max_size=4))
    kinds = draw(st.lists(st.sampled_from(["function", "custom"]), max_size=3))
    pending = [(i, list(draw(text) if kind == "custom" else json.dumps(draw(st.dictionaries(text, text, max_size=2)))))
               for i, kind in enumerate(kinds)]
    calls: list[c.Event] = [c.ToolStart(i, f"c{i}", f"f{i}", kind) for i, kind in enumerate(kinds)]
    while any(rest for _, rest in pending):
        index, rest = draw(st.sampled_from([one for one in pending if one[1]]))
        size = draw(st.integers(1, len(rest)))
        calls.append(c.ToolDelta(index, "".join(rest[:size])))
        del rest[:size]
    stop: Any = draw(st.sampled_from(["tool_use"] if kinds else ["end", "length", "filtered"]))
    usage = c.UsageReport(Tokens(1, 2, 3, None, 4, 5))
    return [c.Start("resp_1", "m"), *(event for block in blocks for event in block), *calls, usage, c.Stop(stop), c.Done()]


def said(events: list[c.Event]) -> tuple[Any, ...]:
    """What an answer says, however it was cut into deltas."""
    blocks: list[list[Any]] = []
    calls: dict[int, list[Any]] = {}
    for event in events:
        match event:
            case c.TextDelta():
                _grow(blocks, "text", event.text)
            case c.ThinkingDelta(redacted=str() as redacted):
                blocks.append(["redacted", redacted])
            case c.ThinkingDelta():
                if event.text:
                    _grow(blocks, "thinking", event.text)
                if event.signature is not None or event.encrypted is not None:
                    if not event.text and (not blocks or blocks[-1][0] != "thinking"):
                        blocks.append(["thinking", ""])
                    blocks[-1] = ["closed", blocks[-1][1], event.signature, event.encrypted, event.id]
            case c.ToolStart():
                calls[event.index] = [event.id, event.name, event.kind, ""]
            case c.ToolDelta():
                calls[event.index][3] += event.arguments
            case _:
                pass
    return blocks, list(calls.values()), [event for event in events if isinstance(event, c.UsageReport | c.Stop | c.Done)]


def _grow(blocks: list[list[Any]], kind: str, text: str) -> None:
    if blocks and blocks[-1][0] == kind:
        blocks[-1][1] += text
    else:
        blocks.append([kind, text])


@settings(max_examples=200)
@given(events=answers(), size=st.integers(1, 50))
def test_answers_survive(events: list[c.Event], size: int) -> None:
    """Rendered and parsed again, whole or streamed in any chunks, an answer says the same, thoughts included."""
    expected = said(events)
    expected[2][0] = c.UsageReport(Tokens(1, 2, 3, None, 4, 5))
    whole = SCHEMA.render_response(events, model="m", created=1, fallback_id="x")
    assert expected == said(list(SCHEMA.parse_response(whole)))
    renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="x", include_usage=False)
    stream = b"".join(renderer.feed(event) for event in events)
    decoder, parser = SseDecoder(), SCHEMA.stream_parser()
    raws = [raw for i in range(0, len(stream), size) for raw in decoder.feed(stream[i : i + size])]
    assert expected == said([event for raw in raws for event in parser.feed(raw)])


@given(events=answers())
def test_streams_are_well_formed(events: list[c.Event]) -> None:
    """Numbers rise by one, items never overlap, every item begins and ends once, ids are unique, and the last event
    holds what the events told."""
    renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="x", include_usage=False)
    data = [json.loads(raw.data) for raw in SseDecoder().feed(b"".join(renderer.feed(event) for event in events))]
    assert list(range(len(data))) == [one["sequence_number"] for one in data]
    indices = [one["output_index"] for one in data if "output_index" in one]
    assert sorted(indices) == indices
    added = [one["item"] for one in data if one["type"] == "response.output_item.added"]
    done = [one["item"] for one in data if one["type"] == "response.output_item.done"]
    assert list(range(len(done))) == sorted(set(indices))
    assert [(one["type"], one["id"]) for one in added] == [(one["type"], one["id"]) for one in done]
    ids = [one["id"] for one in done if one["id"] not in ("rs_8", "rs_9")]
    assert len(set(ids)) == len(ids)
    assert done == data[-1]["response"]["output"]
    for item in done:
        deltas = [one["delta"] for one in data if one.get("item_id") == item["id"] and "delta" in one]
        if item["type"] == "function_call":
            assert item["arguments"] == "".join(deltas)
        elif item["type"] == "custom_tool_call":
            assert item["input"] == "".join(deltas)
