"""What local model servers do that clouds do not: short contexts, calls left in the text, long silence before a word."""

from __future__ import annotations

import http.client
import json
import time

import anthropic
import openai
import pydantic
import pytest

from extproc.demo import tiny_qwen3
from tests.data_plane import upstream as up
from tests.data_plane.providers.answers import TEXT
from tests.data_plane.providers.world import LLAMA_CONTEXT, World, running_world
from tests.real_llama import needs_llama

LONG = "word " * 6000
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


class Flag(pydantic.BaseModel):
    """An answer that a grammar holds any model to."""

    yes: bool


@pytest.fixture(scope="module")
def _world():
    with running_world() as found:
        yield found


@pytest.fixture
def world(_world: World):
    """The gateway with fresh stand-ins."""
    _world.reset()
    return _world


@pytest.fixture(scope="module")
def oai(_world: World) -> openai.OpenAI:
    """OpenAI's SDK on the gateway."""
    return _world.openai()


@pytest.fixture(scope="module")
def ant(_world: World) -> anthropic.Anthropic:
    """Anthropic's SDK on the gateway."""
    return _world.anthropic()


def chat(oai, ant, model: str, text: str, stream: bool = False) -> str:
    """The answer to OpenAI's chat client."""
    request = {"model": model, "messages": [{"role": "user", "content": text}]}
    if not stream:
        return oai.chat.completions.create(**request).choices[0].message.content
    return "".join(c.choices[0].delta.content or "" for c in oai.chat.completions.create(**request, stream=True))


def message(oai, ant, model: str, text: str, stream: bool = False) -> str:
    """The answer to Anthropic's client."""
    request = {"model": model, "max_tokens": 200, "messages": [{"role": "user", "content": text}]}
    if not stream:
        answer = ant.messages.create(**request)
    else:
        with ant.messages.stream(**request) as events:
            answer = events.get_final_message()
    return "".join(block.text for block in answer.content if block.type == "text")


def response(oai, ant, model: str, text: str, stream: bool = False) -> str:
    """The answer to OpenAI's responses client."""
    if not stream:
        return oai.responses.create(model=model, input=text).output_text
    with oai.responses.stream(model=model, input=text) as events:
        return events.get_final_response().output_text


each_client = pytest.mark.parametrize("ask", [chat, message, response], ids=lambda f: f.__name__)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


# ---------------------------------------------------------------- prompts over the context


@each_client
@both_ways
@pytest.mark.parametrize("chain", [*(pytest.param(name, marks=needs_llama) for name in ("llama-first", "recognized-first")),
                                   "vllm-first", "ollama-first"])
def test_overlong_prompt_goes_to_the_next_backend(world, oai, ant, ask, stream, chain):
    """A prompt over a local server's context is answered by the next backend, in the client's own schema."""
    if chain == "ollama-first":  # our estimate was below its context, its own count was not
        world.providers.script("ollama", up.Script(400, chunks=[b'{"error":"input length exceeds the context length"}']))
    assert ask(oai, ant, chain, LONG, stream) == TEXT
    assert world.providers.seen[-1].backend == "openai"


@each_client
@both_ways
@pytest.mark.parametrize("model", [*(pytest.param(name, marks=needs_llama) for name in ("llama_tool/tool", "recognized/tool")),
                                   "vllm/qwen3-coder", "ollama/qwen3:8b", "ollama_chat/qwen3:8b"])
def test_overlong_prompt_without_another_backend(world, oai, ant, ask, stream, model):
    """Without one the client gets its own API's context error, whatever words the server used."""
    kind = anthropic.BadRequestError if ask is message else openai.BadRequestError
    with pytest.raises(kind) as caught:
        ask(oai, ant, model, LONG, stream)
    error = caught.value.body["error"] if ask is message else caught.value.body
    if ask is message:
        assert error["type"] == "invalid_request_error"
        assert "prompt is too long" in error["message"] or "exceed" in error["message"]
    else:
        assert error["code"] == "context_length_exceeded"


@needs_llama
def test_a_recognized_server_is_not_asked_in_vain(world, oai):
    """The context of a server that told it is known: an overlong prompt is not sent there."""
    raw = oai.chat.completions.with_raw_response.create(
        model="recognized-first", messages=[{"role": "user", "content": LONG}])
    assert raw.headers["x-extproc-attempts"] == "1"
    with pytest.raises(openai.BadRequestError, match=f"exceed its context of {LLAMA_CONTEXT}"):
        oai.chat.completions.create(model="recognized/tool", messages=[{"role": "user", "content": LONG}])


def test_ollama_never_cuts_a_prompt_silently(world, oai):
    """Its own route gets the context and is told not to cut; its OpenAI route gets only what surely fits."""
    chat(oai, None, "ollama/qwen3:8b", "hi")
    sent = world.providers.seen[-1].json
    assert (sent["options"]["num_ctx"], sent["truncate"], sent["shift"]) == (4096, False, False)
    nearly = "word " * 2400  # 3,000 tokens by our estimate, maybe 4,800 by its own
    assert chat(oai, None, "ollama/qwen3:8b", nearly) == TEXT
    with pytest.raises(openai.BadRequestError, match="cut them silently"):
        chat(oai, None, "ollama_chat/qwen3:8b", nearly)


# ---------------------------------------------------------------- calls left in the text

LEAKS = {
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
    "qwen3-coder, no wrapper": "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
}


def leaking(text: str, stream: bool, size: int) -> up.Script:
    """vLLM's answer with a text of the model as it is, streamed in pieces of `size` characters."""
    if not stream:
        return up.openai_json(text)
    return up.openai_sse(*[text[i:i + size] for i in range(0, len(text), size)])


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize(("stream", "size"), [(False, 0), (True, 1), (True, 7), (True, 500)])
@pytest.mark.parametrize("before", ["", "I will look that up.\n"], ids=["alone", "after text"])
def test_leaked_calls_are_calls(world, oai, ant, leak, stream, size, before):
    """A call that vLLM left in the text is a call in the SDKs of all three APIs, and no XML is left."""
    for _ in range(3):
        world.providers.script("vllm", leaking(before + LEAKS[leak], stream, size))
    request = {"model": "vllm/qwen3-coder", "messages": [{"role": "user", "content": "The weather?"}]}
    if stream:
        with oai.chat.completions.stream(**request, tools=[WEATHER]) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = oai.chat.completions.create(**request, tools=[WEATHER]).choices[0]
    [call] = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert (choice.finish_reason, (choice.message.content or "").strip()) == ("tool_calls", before.strip())

    tool = {"name": "get_weather", "input_schema": SCHEMA}
    if stream:
        with ant.messages.stream(**request, max_tokens=100, tools=[tool]) as events:
            answer = events.get_final_message()
    else:
        answer = ant.messages.create(**request, max_tokens=100, tools=[tool])
    assert [b.input for b in answer.content if b.type == "tool_use"] == [{"city": "Paris"}]
    assert answer.stop_reason == "tool_use"
    assert "".join(b.text for b in answer.content if b.type == "text").strip() == before.strip()

    tools = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}]
    asked = {"model": "vllm/qwen3-coder", "input": "The weather?", "tools": tools}
    if stream:
        with oai.responses.stream(**asked) as events:
            found = events.get_final_response()
    else:
        found = oai.responses.create(**asked)
    assert [json.loads(i.arguments) for i in found.output if i.type == "function_call"] == [{"city": "Paris"}]
    assert found.output_text.strip() == before.strip()


def test_xml_without_tools_is_text(world, oai):
    """Nobody offered a tool: then the same text is text."""
    world.providers.script("vllm", up.openai_json(LEAKS["qwen3-coder"]))
    assert chat(oai, None, "vllm/qwen3-coder", "How does Qwen write calls?") == LEAKS["qwen3-coder"]


# ---------------------------------------------------------------- slow servers

SLOW = 1.4
"""Seconds until the first event; a ping is due every 0.2 s."""


def slowly(*words: str) -> up.Script:
    """A stream that tells at once that it is alive, as DeepSeek does, and then thinks for a while."""
    answer = up.openai_sse(*words)
    answer.chunks = [b": keep-alive of the provider\n\n", b"".join(answer.chunks)]
    answer.pause = SLOW
    return answer


@pytest.mark.parametrize(("path", "ping"), [
    ("/v1/chat/completions", b": keep-alive\n\n"), ("/v1/messages", b"event: ping\n"),
    ("/v1/responses", b": keep-alive\n\n")], ids=["chat", "messages", "responses"])
def test_pings_while_a_slow_server_thinks(world, path, ping):
    """A server that thinks long before its first event keeps the client alive with our pings, then the answer comes."""
    world.providers.script("vllm", slowly("slow ", "answer"))
    asked = {"input": "hi"} if path.endswith("responses") else {
        "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({"model": "vllm/qwen3-coder", "stream": True, **asked})
    connection = http.client.HTTPConnection("127.0.0.1", world.plane.port, timeout=10)
    try:
        started = time.monotonic()
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        first = answer.read1(4096)
        assert time.monotonic() - started < SLOW - 0.4
        assert answer.status == 200
        rest = answer.read()
    finally:
        connection.close()
    assert first.startswith(ping)
    assert rest.count(ping) >= 2
    assert b"slow " in rest
    assert b"of the provider" not in first + rest


def test_pings_are_nothing_to_the_sdks(world, oai, ant):
    """The SDKs do not see pings, only the answer."""
    for ask in (chat, message, response):
        world.providers.script("vllm", slowly("slow ", "answer"))
        assert ask(oai, ant, "vllm/qwen3-coder", "hi", True) == "slow answer"


@each_client
@both_ways
def test_slow_answers_arrive(world, oai, ant, ask, stream):
    """A server that sends headers and then nothing for a while is waited for, though no ping can go out before it."""
    script = up.openai_sse("slow ", "answer", first_pause=SLOW) if stream else up.openai_json("slow answer")
    script.first_pause = SLOW
    world.providers.script("vllm", script)
    assert ask(oai, ant, "vllm/qwen3-coder", "hi", stream) == "slow answer"


@both_ways
def test_slow_ollama(world, oai, ant, stream):
    """A cold model load before the first NDJSON line is bridged too."""
    end = {"done_reason": "stop", "prompt_eval_count": 5, "eval_count": 2}
    line = {"model": "q", "created_at": "2026-11-23T13:00:00Z", "message": {"role": "assistant", "content": "ok"}}
    last = {**line, "message": {"role": "assistant", "content": "" if stream else "ok"}, "done": True, **end}
    lines = [{**line, "done": False}, last] if stream else [last]
    world.providers.script("ollama", up.Script(
        headers={"content-type": "application/x-ndjson"}, first_pause=SLOW,
        chunks=[json.dumps(item).encode() + b"\n" for item in lines]))
    assert message(oai, ant, "ollama/qwen3:8b", "hi", stream) == "ok"


def test_failure_after_pings_is_an_error_of_the_stream(world, oai, ant):
    """A slow server that fails after pings went out: the SDKs raise, they do not hang or end cleanly."""
    for ask, kind in ((chat, openai.APIError), (message, anthropic.APIError), (response, openai.APIError)):
        world.providers.script("vllm", up.Script(
            headers={"content-type": "text/event-stream"}, pause=SLOW / 2,
            chunks=[b": alive\n\n", b'data: {"error":{"message":"the engine died","type":"InternalServerError","code":500}}\n\n']))
        with pytest.raises((kind, RuntimeError)):
            ask(oai, ant, "vllm/qwen3-coder", "hi", True)


# ---------------------------------------------------------------- a real llama.cpp


@needs_llama
@both_ways
def test_thinking_can_be_switched_off(world, oai, ant, stream):
    """All three clients have their own word for no thinking; the real server then does not think."""
    hello = [{"role": "user", "content": "hi"}]
    whole = oai.chat.completions.create(model="llama/tiny", messages=hello, reasoning_effort="none")
    assert "reasoning_content" not in (whole.choices[0].message.model_extra or {})
    assert whole.choices[0].message.content == tiny_qwen3.ANSWER
    with ant.messages.stream(model="llama/tiny", max_tokens=90, messages=hello, thinking={"type": "disabled"}) as events:
        answer = events.get_final_message()
    assert [block.type for block in answer.content] == ["text"]
    found = oai.responses.create(model="llama/tiny", input="hi", reasoning={"effort": "none"})
    assert [item.type for item in found.output] == ["message"]


@needs_llama
def test_structured_answers_of_a_real_grammar(world, oai, ant):
    """A schema holds the real server's model to it, from each of the three APIs."""
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    hello = [{"role": "user", "content": "yes?"}]
    first = oai.chat.completions.parse(model="llama/tiny", messages=hello, response_format=Flag, max_tokens=60,
                                       extra_body=off)
    second = ant.messages.parse(model="llama/tiny", messages=hello, output_format=Flag, max_tokens=60,
                                thinking={"type": "disabled"})
    third = oai.responses.parse(model="llama/tiny", input="yes?", text_format=Flag, max_output_tokens=60,
                                reasoning={"effort": "none"})
    for found in (first.choices[0].message.parsed, second.parsed_output, third.output_parsed):
        assert isinstance(found, Flag)


@needs_llama
def test_cut_by_the_limit(world, oai, ant):
    """The token limit is each API's own way of saying so."""
    hello = [{"role": "user", "content": "hi"}]
    assert oai.chat.completions.create(
        model="llama/tiny", messages=hello, max_tokens=5).choices[0].finish_reason == "length"
    assert ant.messages.create(model="llama/tiny", messages=hello, max_tokens=5).stop_reason == "max_tokens"
    found = oai.responses.create(model="llama/tiny", input="hi", max_output_tokens=16)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
