"""The OpenAI SDK's chat completions on a backend of every dialect, through the real data plane."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest

from extproc.demo import tiny_qwen3
from tests.data_plane import upstream as up
from tests.data_plane.providers.answers import CITY, QUERY, SUNNY, TEXT, THOUGHT
from tests.data_plane.providers.world import EACH, REAL, STAND_INS, Row, World, running_world

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
SQL = {"type": "custom", "custom": {"name": "run_sql", "description": "Runs SQL.", "format": {"type": "text"}}}
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
each = pytest.mark.parametrize("row", EACH)
each_stand_in = pytest.mark.parametrize("row", STAND_INS, ids=lambda row: row.dialect)


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


def text_of(row: Row) -> str:
    """What the row's model says to a greeting."""
    return tiny_qwen3.ANSWER if row.dialect in REAL else TEXT


def thought_of(row: Row) -> str:
    """What the row's model shows of its thinking."""
    return "" if not row.shows else tiny_qwen3.THOUGHT if row.dialect in REAL else THOUGHT


def reasoning(message) -> str:
    """The reasoning in a message or delta, under either name that servers give it."""
    extra = message.model_extra or {}
    return extra.get("reasoning_content") or extra.get("reasoning") or ""


@each
def test_whole(world, sdk, row):
    """A whole answer has its text, its thinking, its finish reason and its usage."""
    limit = "max_completion_tokens" if row.dialect != "compatible" else "max_tokens"
    answer = sdk.chat.completions.create(model=row.chat, messages=HELLO, **{limit: 200})
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == (text_of(row), "stop")
    assert reasoning(choice.message) == thought_of(row)
    assert choice.message.tool_calls is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    if row.dialect not in REAL:
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 9)


@each
def test_stream(world, sdk, row):
    """A stream adds up to the whole answer, comes in pieces and ends in one usage chunk."""
    chunks = list(sdk.chat.completions.create(
        model=row.chat, messages=HELLO, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    texts = [delta.content for delta in deltas if delta.content]
    assert "".join(texts) == text_of(row)
    assert len(texts) > 3
    assert "".join(map(reasoning, deltas)) == thought_of(row)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


@each
def test_stream_without_usage(world, sdk, row):
    """Who does not ask for usage gets no chunk of it that the gateway alone wanted."""
    chunks = list(sdk.chat.completions.create(model=row.chat, messages=HELLO, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text_of(row)


@each
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_tool_loop(world, sdk, row, stream):
    """A tool is called, its result goes back under the id that the client knows, and the answer comes."""
    messages = [*HELLO[:1], {"role": "user", "content": "The weather in Paris?"}]
    message = said(sdk, stream, model=row.caller, messages=messages, tools=[WEATHER])
    [call] = message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    final = said(sdk, stream, model=row.chat, messages=messages, tools=[WEATHER])
    assert final.content == (tiny_qwen3.ANSWER if row.dialect in REAL else SUNNY)


def said(sdk: openai.OpenAI, stream: bool, **request):
    """The message of an answer, streamed with the SDK's own helper or whole."""
    if not stream:
        return sdk.chat.completions.create(**request).choices[0].message
    with sdk.chat.completions.stream(**request) as events:
        return events.get_final_completion().choices[0].message


@each_stand_in
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_two_calls_at_once(world, sdk, row, stream):
    """Two calls of one turn keep their order, and both results find their call."""
    messages = [{"role": "user", "content": "The weather in both cities?"}]
    message = said(sdk, stream, model=row.chat, messages=messages, tools=[WEATHER])
    cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls]
    assert cities == ["Paris", "Oslo"]
    messages.append(message.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    messages.append({"role": "user", "content": "And in words?"})
    assert said(sdk, stream, model=row.chat, messages=messages, tools=[WEATHER]).content


@each
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}],
                         ids=["required", "named"])
def test_forced_tool(world, sdk, row, choice):
    """A call that is demanded is made, whatever the provider's word for it."""
    answer = sdk.chat.completions.create(model=row.caller, messages=HELLO, tools=[WEATHER], tool_choice=choice)
    given = answer.choices[0].message
    if row.dialect in ("ollama", "ollama-openai") and given.tool_calls is None:
        return  # it has no way to force a call
    assert [call.function.name for call in given.tool_calls] == ["get_weather"]


@each_stand_in
def test_parsed(world, sdk, row):
    """`.parse` gives the object of a structured answer."""
    answer = sdk.chat.completions.parse(
        model=row.chat, messages=[{"role": "user", "content": "Which city? Answer in JSON."}], response_format=City)
    assert answer.choices[0].message.parsed == City(**json.loads(CITY))


@each_stand_in
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_custom_tool(world, sdk, row, stream):
    """A custom tool is called with raw text, also where the provider knows functions only."""
    messages = [{"role": "user", "content": "Run some SQL."}]
    if stream:
        chunks = list(sdk.chat.completions.create(model=row.chat, messages=messages, tools=[SQL], stream=True))
        parts = [part for c in chunks if c.choices for part in c.choices[0].delta.tool_calls or ()]
        fields = [part.model_dump().get("custom") or {} for part in parts]
        assert "".join(f.get("input") or "" for f in fields) == QUERY
        assert [f["name"] for f in fields if f.get("name")] == ["run_sql"]
        return
    [call] = sdk.chat.completions.create(model=row.chat, messages=messages, tools=[SQL]).choices[0].message.tool_calls
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "run_sql", QUERY)


DEMANDING = {
    "temperature": 0.2, "top_p": 0.9, "frequency_penalty": 0.1, "seed": 7, "user": "u", "logit_bias": {"50256": -100},
    "stop": ["x1", "x2"], "reasoning_effort": "high", "max_completion_tokens": 500, "parallel_tool_calls": False,
    "metadata": {"a": "b"}, "store": False, "prompt_cache_key": "k", "verbosity": "low", "service_tier": "auto",
}


PASSED = {
    "openai": ("temperature", "top_p", "frequency_penalty", "logit_bias"),
    "compatible": ("max_completion_tokens", "metadata", "store", "prompt_cache_key", "verbosity", "service_tier"),
}
"""Where the bytes pass: what the model refuses is the client's own mistake."""


@each_stand_in
def test_every_setting(world, sdk, row):
    """A request with all settings at once is taken by every provider, and what it lacks is named in a header."""
    settings = {name: value for name, value in DEMANDING.items() if name not in PASSED.get(row.dialect, ())}
    raw = sdk.chat.completions.with_raw_response.create(model=row.chat, messages=HELLO, tools=[WEATHER], **settings)
    assert raw.parse().choices[0].message.content == TEXT
    warned = raw.headers.get("x-extproc-warnings", "")
    sent = json.dumps(world.providers.seen[-1].json)
    for name in ("logit_bias", "metadata", "user", "seed", "verbosity"):
        if settings.get(name):
            assert name in warned or name in sent, (name, warned, sent)


THINKING_PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": TEXT}]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_mistrals_thinking(world, sdk, stream):
    """Magistral puts its thinking into a list of parts; OpenAI's clients get text and, beside it, the reasoning."""
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    head = {"id": "1", "created": 1, "model": "magistral-medium-latest"}
    if stream:
        deltas = [{"role": "assistant", "content": THINKING_PARTS[:1]}, {"content": TEXT}]
        bodies = [{**head, "object": "chat.completion.chunk", "choices": [
            {"index": 0, "delta": delta, "finish_reason": "stop" if delta is deltas[-1] else None}],
            **({"usage": usage} if delta is deltas[-1] else {})} for delta in deltas]
        lines = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies]
        script = up.Script(headers={"content-type": "text/event-stream"}, chunks=[*lines, b"data: [DONE]\n\n"])
    else:
        script = up.Script(chunks=[json.dumps({**head, "object": "chat.completion", "usage": usage, "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": THINKING_PARTS}}],
        }).encode()])
    world.providers.script("mistral", script)
    message = said(sdk, stream, model="mistral/magistral-medium-latest", messages=HELLO)
    assert (message.content, reasoning(message)) == (TEXT, THOUGHT)


SAME = [row for row in STAND_INS if row.base and row.dialect not in ("anthropic", "vllm-leaky")]


@pytest.mark.parametrize("row", SAME, ids=lambda row: row.dialect)
@pytest.mark.parametrize("ask", ["hi", "The weather in both cities?"], ids=["text", "calls"])
def test_same_as_from_the_provider(world, sdk, row, ask):
    """What the SDK gets through the gateway is what it gets from a provider of the same schema itself.

    Where tools are offered to a server that may leave calls in the text, the answer is read and written anew: it says
    the same, reasoning under its common name, at the gateway's time.
    """
    request = {"messages": [{"role": "user", "content": ask}], **({"tools": [WEATHER]} if ask != "hi" else {})}
    whole, streams = [], []
    for client, model in ((world.openai(row.base), row.chat.partition("/")[2]), (sdk, row.chat)):
        whole.append(client.chat.completions.create(model=model, **request))
        streams.append(list(client.chat.completions.create(model=model, **request, stream=True, **options(row))))
    if ask == "hi" or row.dialect in ("openai", "deepseek", "mistral"):
        assert whole[1].model_dump() == whole[0].model_dump()
        assert [chunk.model_dump() for chunk in streams[1]] == [chunk.model_dump() for chunk in streams[0]]
    else:
        assert meant(whole[1]) == meant(whole[0])
        assert joined(streams[1]) == joined(streams[0])


def options(row: Row) -> dict:
    """How a client asks this provider for usage in a stream."""
    if row.dialect == "mistral":
        return {}
    every = {"continuous_usage_stats": True} if row.dialect == "vllm" else {}  # the gateway asks for it
    return {"stream_options": {"include_usage": True, **every}}


def meant(answer) -> dict:
    """What a whole answer says."""
    [choice] = answer.choices
    calls = [call.model_dump() for call in choice.message.tool_calls or ()]
    return {"id": answer.id, "model": answer.model, "text": choice.message.content, "thinking": reasoning(choice.message),
            "calls": calls, "finish": choice.finish_reason, "usage": counted(answer.usage)}


def joined(chunks: list) -> dict:
    """What a stream says, however it is cut into chunks."""
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for part in delta.tool_calls or ():
            calls.setdefault(part.index, []).extend(
                filter(None, (part.id, part.function.name, part.function.arguments)))
    return {
        "text": "".join(d.content or "" for d in deltas), "thinking": "".join(map(reasoning, deltas)),
        "calls": {i: "".join(parts) for i, parts in calls.items()}, "id": {(c.id, c.model) for c in chunks},
        "finish": [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
        "usage": counted(next(c.usage for c in reversed(chunks) if c.usage))}


def counted(usage) -> tuple[int, int, int]:
    """The counts that every server gives."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
