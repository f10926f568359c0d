"""The Anthropic SDK's messages on a backend of every dialect, through the real data plane, in both API versions."""

from __future__ import annotations

import json

import anthropic
import pydantic
import pytest

from extproc.demo import tiny_qwen3
from tests.data_plane.providers.answers import CITY, SUNNY, TEXT, THOUGHT
from tests.data_plane.providers.claude import SIGNATURE
from tests.data_plane.providers.world import BY_NAME, EACH, REAL, STAND_INS, Row, World, running_world

WEATHER = {"name": "get_weather", "description": "The weather of a city.",
           "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
HELLO = {"system": "Be brief.", "max_tokens": 3000, "messages": [{"role": "user", "content": "hi"}]}
OLD = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
each = pytest.mark.parametrize("row", EACH)
each_stand_in = pytest.mark.parametrize("row", STAND_INS, ids=lambda row: row.dialect)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class City(pydantic.BaseModel):
    """A structured answer."""

    city: str
    country: str


@pytest.fixture(scope="module")
def _world():
    with running_world() as found:
        yield found


@pytest.fixture
def world(_world: World):
    """The gateway with fresh stand-ins, none of which may refuse a request."""
    _world.reset()
    yield _world
    _world.judged()


@pytest.fixture(scope="module", params=["2026-10-21", "2023-06-01"])
def sdk(_world: World, request) -> anthropic.Anthropic:
    """The SDK on the gateway: as it comes (Bearer, newest version), and as older ones are (x-api-key)."""
    if request.param == "2026-10-21":
        return _world.anthropic()
    return _world.anthropic(default_headers={**OLD, "authorization": anthropic.Omit()})


def said(sdk: anthropic.Anthropic, stream: bool, **request):
    """An answer, streamed with the SDK's own helper or whole."""
    if not stream:
        return sdk.messages.create(**request)
    with sdk.messages.stream(**request) as events:
        return events.get_final_message()


def text_of(row: Row) -> str:
    """What the row's model says to a greeting."""
    return tiny_qwen3.ANSWER if row.dialect in REAL else TEXT


def thought_of(row: Row) -> str:
    """What the row's model thinks when it is asked to."""
    return {"openai": "", "mistral": "", "llamacpp": tiny_qwen3.THOUGHT}.get(row.dialect, THOUGHT)


def texts(message, kind: str = "text") -> str:
    """The text, or thinking, of a message."""
    return "".join(getattr(block, kind) for block in message.content if block.type == kind)


@each
@both_ways
def test_greeting(world, sdk, row, stream):
    """An answer has its text, its stop reason and its usage; there is no empty block."""
    answer = said(sdk, stream, model=row.chat, **HELLO)
    assert (texts(answer), answer.stop_reason) == (text_of(row), "end_turn")
    assert all(texts(answer, block.type) for block in answer.content)
    assert answer.usage.output_tokens > 0
    if row.dialect not in REAL:
        cached = 5 if row.dialect in ("openai", "anthropic", "deepseek", "compatible") else 0
        assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens or 0) == (20 - cached, cached)
        assert answer.usage.output_tokens == 9
    sent = world.providers.seen[-1] if row.dialect not in REAL else None
    if row.dialect == "anthropic":
        assert sent.headers["anthropic-version"] == sdk.default_headers.get("anthropic-version")


@each
def test_stream_in_pieces(world, sdk, row):
    """A stream's events come in Anthropic's order, its text in pieces."""
    with sdk.messages.stream(model=row.chat, **HELLO) as stream:
        kinds = [event.type for event in stream]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") > 0
    assert kinds.count("text") > 3


@each
@both_ways
def test_tool_loop(world, sdk, row, stream):
    """A tool is called, its result goes back, and the answer comes."""
    messages: list = [{"role": "user", "content": "The weather in Paris?"}]
    request = {"max_tokens": 500, "tools": [WEATHER], "system": "Be brief."}
    first = said(sdk, stream, model=row.caller, messages=messages, **request)
    [use] = [block for block in first.content if block.type == "tool_use"]
    assert (use.name, use.input, first.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}, {"type": "text", "text": "Well?"}]}]
    final = said(sdk, stream, model=row.chat, messages=messages, **request)
    assert texts(final) in (tiny_qwen3.ANSWER, SUNNY, TEXT)


@each_stand_in
@both_ways
def test_two_calls_at_once(world, sdk, row, stream):
    """Two calls of one turn are two whole blocks, and both results find their call."""
    messages: list = [{"role": "user", "content": "The weather in both cities?"}]
    first = said(sdk, stream, model=row.chat, messages=messages, max_tokens=500, tools=[WEATHER])
    uses = [block for block in first.content if block.type == "tool_use"]
    assert [use.input["city"] for use in uses] == ["Paris", "Oslo"]
    results = [{"type": "tool_result", "tool_use_id": use.id, "is_error": True,
                "content": [{"type": "text", "text": "no idea"}]} for use in uses]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    final = said(sdk, stream, model=row.chat, messages=messages, max_tokens=500, tools=[WEATHER])
    assert (texts(final), final.stop_reason) == (SUNNY, "end_turn")


@each
@both_ways
def test_thinking(world, sdk, row, stream):
    """Thinking is shown where the provider shows it; the turn goes back whole, and no signature is invented."""
    messages: list = [{"role": "user", "content": "hi"}]
    request = {"max_tokens": 3000, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    first = said(sdk, stream, model=row.chat, messages=messages, **request)
    assert texts(first, "thinking") == thought_of(row)
    signed = [block.signature for block in first.content if block.type == "thinking"]
    assert signed == ([SIGNATURE] if row.dialect == "anthropic" else [""] * bool(thought_of(row)))
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": "go on"}]
    assert texts(said(sdk, stream, model=row.chat, messages=messages, **request)) == text_of(row)


@each_stand_in
def test_thinking_with_tools_moves_to_another_provider(world, sdk, row):
    """A tool loop that began with one provider's thinking goes on at any other, Claude among them."""
    request = {"max_tokens": 3000, "thinking": {"type": "adaptive"}, "tools": [WEATHER]}
    messages: list = [{"role": "user", "content": "The weather in Paris?"}]
    for start in ("anthropic", "deepseek"):
        first = sdk.messages.create(model=BY_NAME[start].chat, messages=messages, **request)
        [use] = [block for block in first.content if block.type == "tool_use"]
        more = [{"role": "assistant", "content": first.content},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}]
        assert texts(sdk.messages.create(model=row.chat, messages=messages + more, **request)) == SUNNY


@each_stand_in
def test_parsed(world, sdk, row):
    """`.parse` gives the object of a structured answer."""
    answer = sdk.messages.parse(model=row.chat, max_tokens=500, output_format=City,
                                messages=[{"role": "user", "content": "Which city? Answer in JSON."}])
    assert answer.parsed_output == City(**json.loads(CITY))


@each
def test_count_tokens(world, sdk, row):
    """Tokens are counted: by the provider where it can, else by the gateway."""
    few, many = ({"model": row.chat, "messages": [{"role": "user", "content": "word " * n}], "tools": [WEATHER]}
                 for n in (10, 1000))
    small, large = (sdk.messages.count_tokens(**request).input_tokens for request in (few, many))
    assert 10 < small < large
    assert 900 < large - small < 1600


@each_stand_in
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "none"}],
                         ids=lambda choice: choice["type"])
def test_tool_choice(world, sdk, row, choice):
    """A call that is demanded is made, one that is forbidden is not."""
    request = HELLO | {"messages": [{"role": "user", "content": "The weather?" if choice["type"] == "none" else "hi"}]}
    answer = sdk.messages.create(model=row.chat, tools=[WEATHER], tool_choice=choice, **request)
    called = [block.name for block in answer.content if block.type == "tool_use"]
    if row.dialect in ("ollama", "ollama-openai") and choice["type"] != "none":
        assert called in ([], ["get_weather"])  # it has no way to force a call
    else:
        assert called == ([] if choice["type"] == "none" else ["get_weather"])


RICH = {
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                                     {"type": "document", "title": "Notes", "source": {
                                         "type": "text", "media_type": "text/plain", "data": "All is well."}}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "go on"}],
    "metadata": {"user_id": "u" * 200}, "stop_sequences": ["END", "STOP"], "service_tier": "auto", "max_tokens": 700,
    "tools": [{**WEATHER, "strict": False, "cache_control": {"type": "ephemeral"}}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
}


@each_stand_in
def test_every_setting(world, sdk, row):
    """A request with all settings at once is taken by every provider, and what it lacks is named in a header."""
    raw = sdk.messages.with_raw_response.create(model=row.chat, **RICH)
    assert texts(raw.parse()) == TEXT
    if row.dialect != "anthropic":
        assert "cache_control" in raw.headers["x-extproc-warnings"]


@pytest.mark.parametrize("ask", ["hi", "The weather in both cities?"], ids=["text", "calls"])
def test_same_as_from_the_provider(world, sdk, ask):
    """What the SDK gets from Claude through the gateway is, event for event, what it gets from Claude itself."""
    request = {"max_tokens": 2000, "messages": [{"role": "user", "content": ask}], "tools": [WEATHER],
               "thinking": {"type": "adaptive"}}
    direct = world.anthropic("/anthropic", default_headers={
        "authorization": anthropic.Omit(), "x-api-key": "sk-anthropic",
        "anthropic-version": sdk.default_headers["anthropic-version"]})
    found = []
    for client, model in ((direct, "claude-sonnet-5"), (sdk, "anthropic/claude-sonnet-5")):
        whole = client.messages.create(model=model, **request)
        stream = list(client.messages.create(model=model, stream=True, **request))
        found.append((whole.model_dump(), [event.model_dump() for event in stream]))
    assert found[1] == found[0]
