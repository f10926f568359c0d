"""Generated requests through every chat schema: nothing is lost that was not named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core import conversation as c
from extproc.schemas import SCHEMAS
from extproc.schemas.base import Schema, Target
from tests.compare import dialogue, lost, names, settled, told

CHATS = pytest.mark.parametrize("schema", [SCHEMAS["openai"], SCHEMAS["anthropic"]], ids=["openai", "anthropic"])
TEXTS = st.text("abc d", min_size=1, max_size=8).map(str.strip).filter(bool)
CACHE = st.none() | st.just({"type": "ephemeral"})
IDS = st.sampled_from(["toolu_1", "call_2"])
OBJECTS = st.dictionaries(TEXTS, st.integers(0, 9) | TEXTS | st.booleans(), max_size=2)
DATA = st.just("QUJD")


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value or none."""
    return st.none() | values


TEXT = st.builds(c.Text, TEXTS, CACHE)
IMAGE = (st.builds(c.Image, st.just("image/png"), DATA, detail=maybe(st.sampled_from(["low", "auto"])), cache=CACHE)
         | st.builds(c.Image, url=st.just("https://x/i.png"), cache=CACHE))
DOCUMENT = (st.builds(c.Document, st.just("application/pdf"), DATA, name=st.just("a.pdf"), cache=CACHE)
            | st.builds(c.Document, url=st.just("https://x/d.pdf"), cache=CACHE)
            | st.builds(c.Document, st.just("text/plain"), text=TEXTS, cache=CACHE))
RESULT = st.builds(c.ToolResult, IDS, st.lists(TEXT | IMAGE, max_size=2).map(tuple), st.booleans(), CACHE)
USE = st.builds(c.ToolUse, IDS, st.just("f"), OBJECTS.map(json.dumps), CACHE)
THOUGHT = (st.builds(c.Thinking, TEXTS, maybe(st.just("sig"))) | st.builds(c.Thinking, redacted=st.just("data")))
FOREIGN = st.sampled_from([
    c.Foreign("input_audio", {"type": "input_audio", "input_audio": {}}, "openai"),
    c.Foreign("search_result", {"type": "search_result", "title": "t"}, "anthropic"),
    c.Foreign("web_search_call", {"type": "web_search_call"}, "responses"),
])
MESSAGE = (st.builds(c.Message, st.just("user"), st.lists(TEXT | IMAGE | DOCUMENT | RESULT | FOREIGN, min_size=1, max_size=4).map(tuple))
           | st.builds(c.Message, st.just("assistant"), st.lists(TEXT | THOUGHT | USE | FOREIGN, min_size=1, max_size=4).map(tuple))
           | st.builds(c.Message, st.just("system"), st.lists(TEXT, min_size=1, max_size=2).map(tuple)))
TOOL = (st.builds(c.Tool, st.sampled_from("fgh"), maybe(TEXTS), st.just({"type": "object", "properties": {}}),
                  maybe(st.booleans()), CACHE)
        | st.just(c.Tool("d", parameters={"type": "object", "properties": {}}, extra={"defer_loading": True}, schema="anthropic"))
        | st.just(c.Tool("w", foreign={"type": "web_search_1", "name": "w"}, schema="anthropic"))
        | st.just(c.Tool("b", foreign={"type": "b", "b": {"name": "b"}}, schema="openai")))
CHOICE = st.sampled_from([c.ToolChoice("auto"), c.ToolChoice("any"), c.ToolChoice("none"), c.ToolChoice("tool", "f"),
                          c.ToolChoice("auto", allowed=("f",))])
EXTRAS = st.sampled_from([{}, {"logprobs": True, "verbosity": "low"}, {"store": True, "min_p": 0.1}])
TIER = st.dictionaries(st.just("service_tier"), st.sampled_from(["auto", "default", "flex"]), max_size=1)
CONVERSATIONS = st.builds(
    c.Conversation,
    model=st.just("m"),
    messages=st.lists(MESSAGE, max_size=5).map(lambda rest: (c.Message("user", (c.Text("ask"),)), *rest)),
    tools=st.lists(TOOL, max_size=3, unique_by=lambda tool: tool.name).map(tuple),
    tool_choice=maybe(CHOICE), parallel_tools=maybe(st.booleans()), max_tokens=maybe(st.integers(1, 99)),
    stream=st.booleans(), temperature=maybe(st.just(0.5)), top_p=maybe(st.just(0.5)), top_k=maybe(st.just(5)),
    stop=st.lists(TEXTS, max_size=6).map(tuple), seed=maybe(st.just(7)), effort=maybe(st.sampled_from(["none", "low", "max"])),
    json_schema=maybe(st.just({"name": "n", "schema": {"type": "object"}, "strict": True})),
    user=maybe(st.sampled_from(["u", "u" * 100, "u" * 300])), thinking=maybe(st.sampled_from(["adaptive", "disabled"])),
    thinking_display=maybe(st.just("omitted")), system_cache=st.booleans(),
    extras=st.builds(lambda *given: {**given[0], **given[1]}, EXTRAS, TIER),
)


@CHATS
@settings(max_examples=300, deadline=None)
@given(conversation=CONVERSATIONS)
def test_a_renderer_names_what_it_loses(schema: Schema, conversation: c.Conversation) -> None:
    """Any conversation, rendered and read again, differs in nothing that the renderer did not name."""
    rendered = schema.render_request(conversation, Target("m"))
    again = schema.parse_request(rendered.body)
    named = names(rendered)
    assert {name for name in lost(conversation, again) if not told(named, name)} == set()
    assert dialogue(again, named) == dialogue(conversation, named)


@CHATS
@settings(max_examples=150, deadline=None)
@given(conversation=CONVERSATIONS)
def test_what_a_schema_said_once_it_says_again(schema: Schema, conversation: c.Conversation) -> None:
    """What was read from a schema is rendered in it without any loss, and reads the same."""
    first = schema.parse_request(schema.render_request(conversation, Target("m")).body)
    rendered = schema.render_request(first, Target("m"))
    assert settled(first, own=schema.name) == settled(schema.parse_request(rendered.body), own=schema.name)
    assert set(rendered.dropped) <= set(first.unmapped)
