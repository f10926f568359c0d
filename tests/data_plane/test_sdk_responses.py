"""The OpenAI SDK's responses on a backend of every dialect, through the real data plane."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest

from extproc.demo import tiny_qwen3
from tests.data_plane.providers.answers import CITY, QUERY, SUNNY, TEXT, THOUGHT
from tests.data_plane.providers.world import EACH, REAL, STAND_INS, Row, World, running_world

WEATHER = {"type": "function", "name": "get_weather", "description": "The weather of a city.", "strict": False,
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
SQL = {"type": "custom", "name": "run_sql", "description": "Runs SQL.", "format": {"type": "text"}}
HELLO = {"input": "hi", "instructions": "Be brief."}
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


@pytest.fixture(scope="module")
def sdk(_world: World) -> openai.OpenAI:
    """The SDK on the gateway."""
    return _world.openai()


def said(sdk: openai.OpenAI, stream: bool, **request):
    """An answer, streamed with the SDK's own helper or whole."""
    if not stream:
        return sdk.responses.create(**request)
    with sdk.responses.stream(**request) as events:
        return events.get_final_response()


def text_of(row: Row) -> str:
    """What the row's model says to a greeting."""
    return tiny_qwen3.ANSWER if row.dialect in REAL else TEXT


def thoughts(answer) -> str:
    """The reasoning that is shown, as summary or as content."""
    items = [item for item in answer.output if item.type == "reasoning"]
    return "".join(part.text for item in items for part in [*item.summary, *(item.content or ())])


@each
@both_ways
def test_greeting(world, sdk, row, stream):
    """An answer has its text, its thinking, its status and its usage."""
    answer = said(sdk, stream, model=row.chat, **HELLO)
    assert (answer.output_text, answer.status, answer.error) == (text_of(row), "completed", None)
    if row.shows:
        assert thoughts(answer) == (tiny_qwen3.THOUGHT if row.dialect in REAL else THOUGHT)
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0
    assert usage.input_tokens_details.cached_tokens >= 0
    assert usage.output_tokens_details.reasoning_tokens >= 0
    if row.dialect not in REAL:
        assert (usage.input_tokens, usage.output_tokens) == (20, 9)


@each
def test_events(world, sdk, row):
    """A stream's events come in order, numbered without a gap, every item added and done, text in pieces."""
    events = list(sdk.responses.create(model=row.chat, stream=True, **HELLO))
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") > 0
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 3
    assert "".join(deltas) == text_of(row)
    done = [event.item.id for event in events if event.type == "response.output_item.done"]
    assert done == [item.id for item in events[-1].response.output]


@each
@both_ways
def test_tool_loop(world, sdk, row, stream):
    """A function is called, the whole output and its result go back, and the answer comes."""
    items: list = [{"role": "user", "content": "The weather in Paris?"}]
    request = {"instructions": "Be brief.", "tools": [WEATHER], "store": False,
               "include": ["reasoning.encrypted_content"]}
    first = said(sdk, stream, model=row.caller, input=items, **request)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    final = said(sdk, stream, model=row.chat, input=items, **request)
    assert final.output_text == (tiny_qwen3.ANSWER if row.dialect in REAL else SUNNY)


@each_stand_in
@both_ways
def test_two_calls_at_once(world, sdk, row, stream):
    """Two calls of one turn are two items, and both results find their call."""
    items: list = [{"role": "user", "content": "The weather in both cities?"}]
    first = said(sdk, stream, model=row.chat, input=items, tools=[WEATHER])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Oslo"]
    for call in calls:
        items.append({"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments})
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    assert said(sdk, stream, model=row.chat, input=items, tools=[WEATHER]).output_text == SUNNY


@each_stand_in
@both_ways
def test_custom_tool_loop(world, sdk, row, stream):
    """A custom tool is called with raw text, also where the provider knows functions only, and its result goes back."""
    items: list = [{"role": "user", "content": "Run some SQL."}]
    first = said(sdk, stream, model=row.chat, input=items, tools=[SQL, WEATHER])
    [call] = [item for item in first.output if item.type == "custom_tool_call"]
    assert (call.name, call.input) == ("run_sql", QUERY)
    items += [item.model_dump(exclude_none=True) for item in first.output if item.type != "reasoning"]
    items.append({"type": "custom_tool_call_output", "call_id": call.call_id, "output": "1"})
    assert said(sdk, stream, model=row.chat, input=items, tools=[SQL, WEATHER]).output_text == SUNNY


@each_stand_in
@both_ways
def test_parsed(world, sdk, row, stream):
    """`.parse` and the stream helper give the object of a structured answer."""
    request = {"model": row.chat, "input": "Which city? Answer in JSON.", "text_format": City}
    answer = said(sdk, True, **request) if stream else sdk.responses.parse(**request)
    assert answer.output_parsed == City(**json.loads(CITY))


@each_stand_in
@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}, "none"],
                         ids=["required", "named", "none"])
def test_tool_choice(world, sdk, row, choice):
    """A call that is demanded is made, one that is forbidden is not."""
    text = "The weather?" if choice == "none" else "hi"
    answer = sdk.responses.create(model=row.chat, input=text, tools=[WEATHER], tool_choice=choice)
    called = [item.name for item in answer.output if item.type == "function_call"]
    if row.dialect in ("ollama", "ollama-openai") and choice != "none":
        assert called in ([], ["get_weather"])  # it has no way to force a call
    else:
        assert called == ([] if choice == "none" else ["get_weather"])


@each_stand_in
def test_every_setting(world, sdk, row):
    """A request with all settings at once is taken by every provider, and what it lacks is named in a header."""
    raw = sdk.responses.with_raw_response.create(
        model=row.chat, input=[{"role": "developer", "content": "Be brief."},
                               {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        tools=[WEATHER], parallel_tool_calls=False, max_output_tokens=500, reasoning={"effort": "low"},
        metadata={"a": "b"}, store=False, prompt_cache_key="k", safety_identifier="s", text={"verbosity": "low"},
        truncation="disabled", service_tier="auto", include=["reasoning.encrypted_content"])
    assert raw.parse().output_text == TEXT
    if row.dialect != "openai":
        assert "metadata" in raw.headers.get("x-extproc-warnings", "") or "metadata" in world.providers.seen[-1].json


@pytest.mark.parametrize("request_", [{"input": "hi"}, {"input": "The weather in both cities?", "tools": [WEATHER]},
                                      {"input": "Run some SQL.", "tools": [SQL]}], ids=["text", "calls", "custom"])
def test_same_as_from_the_provider(world, sdk, request_):
    """What the SDK gets from OpenAI through the gateway is, event for event, what it gets from OpenAI itself."""
    found = []
    for client, model in ((world.openai("/openai/v1"), "gpt-5-mini"), (sdk, "openai/gpt-5-mini")):
        whole = client.responses.create(model=model, **request_)
        stream = list(client.responses.create(model=model, stream=True, **request_))
        found.append((whole.model_dump(), [event.model_dump() for event in stream]))
    assert found[1] == found[0]


def test_what_only_openai_can_do(world, sdk):
    """A request that lives on OpenAI's state reaches OpenAI as it is, and is refused for others before it is sent."""
    request = {"input": "hi", "previous_response_id": "resp_0"}
    assert sdk.responses.create(model="openai/gpt-5-mini", **request).output_text == TEXT
    assert world.providers.seen[-1].json["previous_response_id"] == "resp_0"
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        sdk.responses.create(model="anthropic/claude-sonnet-5", **request)
