"""Real clients: the official SDKs and the captured requests of coding agents, through every route."""

from __future__ import annotations

import json
from pathlib import Path

import anthropic
import openai
import pytest

from tests.data_plane import upstream as up

CAPTURES = sorted((Path(__file__).parents[1] / "data" / "captures").glob("*.json"))
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def oai(plane):
    """The OpenAI SDK on the gateway."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def ant(plane):
    """The Anthropic SDK on the gateway."""
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{plane.port}", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("chain", ["oa", "an"])
def test_openai_sdk(plane, oai, chain):
    """The OpenAI SDK reads whole and streamed answers of either backend, with usage."""
    backend = f"{chain}0"
    whole, stream = (up.openai_json, up.openai_sse) if chain == "oa" else (up.anthropic_json, up.anthropic_sse)
    plane.upstream.script(backend, whole("hello"), stream("a", "b"))
    messages = [{"role": "user", "content": "hi"}]
    answer = oai.chat.completions.create(model=chain, messages=messages)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hello", "stop")
    assert answer.usage.completion_tokens == 7
    chunks = list(oai.chat.completions.create(model=chain, messages=messages, stream=True,
                                              stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "ab"
    assert chunks[-1].usage.completion_tokens == 7


@pytest.mark.parametrize("chain", ["oa", "an"])
def test_anthropic_sdk(plane, ant, chain):
    """The Anthropic SDK reads whole and streamed answers of either backend, with usage."""
    backend = f"{chain}0"
    whole, stream = (up.openai_json, up.openai_sse) if chain == "oa" else (up.anthropic_json, up.anthropic_sse)
    plane.upstream.script(backend, whole("hello"), stream("a", "b"))
    messages = [{"role": "user", "content": "hi"}]
    answer = ant.messages.create(model=chain, max_tokens=50, messages=messages)
    assert (answer.content[-1].text, answer.stop_reason, answer.usage.output_tokens) == ("hello", "end_turn", 7)
    with ant.messages.stream(model=chain, max_tokens=50, messages=messages) as got:
        final = got.get_final_message()
    assert (final.content[-1].text, final.stop_reason, final.usage.output_tokens) == ("ab", "end_turn", 7)


def _tool_answer_openai() -> up.Script:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}
    return up.Script(chunks=[json.dumps(body).encode()])


def test_anthropic_tool_loop_on_openai_backend(plane, ant):
    """A tool call of an OpenAI backend reaches the Anthropic SDK, and its result goes back."""
    plane.upstream.script("oa0", _tool_answer_openai(), up.openai_json("sunny"))
    tools = [{"name": "get_weather", "description": "w", "input_schema": WEATHER}]
    messages: list = [{"role": "user", "content": "weather in Paris?"}]
    first = ant.messages.create(model="oa", max_tokens=50, messages=messages, tools=tools, system="be brief")
    use = next(block for block in first.content if block.type == "tool_use")
    assert (use.name, use.input, first.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    messages += [{"role": "assistant", "content": first.content},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"}]}]
    assert ant.messages.create(model="oa", max_tokens=50, messages=messages, tools=tools).content[-1].text == "sunny"
    sent = plane.upstream.seen[-1].json["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"]


@pytest.mark.parametrize(("status", "kind"), [(429, "RateLimitError"), (400, "BadRequestError")])
def test_errors_in_the_sdks_own_types(plane, oai, ant, status, kind):
    """An error of the provider becomes the SDK's own exception in either schema."""
    plane.upstream.always["oa0"] = plane.upstream.always["oa1"] = up.error(status, "told")
    with pytest.raises(getattr(openai, kind), match="told"):
        oai.chat.completions.create(model="oa", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(getattr(anthropic, kind), match="told"):
        ant.messages.create(model="oa", max_tokens=5, messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize("chain", ["oa", "an", "local"])
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.stem)
def test_captured_agents(plane, capture, chain):
    """A captured request of a real coding agent is served by every kind of backend and reaches it well-formed."""
    recorded = json.loads(capture.read_text())
    body, stream = {**recorded["body"], "model": chain}, bool(recorded["body"].get("stream"))
    for name in ("oa0", "lo0"):
        plane.upstream.always[name] = up.openai_sse("ok") if stream else up.openai_json("ok")
    plane.upstream.always["an0"] = up.anthropic_sse("ok") if stream else up.anthropic_json("ok")
    headers = {k.lower(): v for k, v in recorded["headers"]
               if k.lower() not in ("host", "content-length", "connection", "accept-encoding", "transfer-encoding")}
    answer = plane.call("POST", recorded["path"], body, headers)
    assert answer.status == 200, answer.text
    assert "ok" in answer.text
    sent = plane.upstream.seen[-1].json
    assert sent["model"] in ("gpt-5-mini", "claude-sonnet-5", "qwen")
    if recorded["body"].get("tools") and "x-extproc-warnings" not in answer.headers:
        assert len(sent["tools"]) == len(recorded["body"]["tools"])
