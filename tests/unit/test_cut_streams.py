"""What a stream that is cut is charged: about the output that has passed, known without reading every event's JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core.bound import Bound
from extproc.core.cut import SLACK, Unseen, shown
from extproc.core.events import Closed, ResponseBody, Warn
from extproc.core.usage import MAX_TOKENS
from extproc.money.amounts import Ask, Option
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.tokens import counter
from extproc.wire.sse import ServerSentEvent, SseDecoder
from tests.recordings import Recording, recordings
from tests.stage_kit import NOW, Attempt, anthropic_stream, openai_stream, runtime

SCHEMA = PROVIDERS["anthropic"]
STREAMS = [one for one in recordings("anthropic") if one.is_stream and one.status == 200]


def event(data: str, *, named: bool = True) -> ServerSentEvent:
    """One event of a stream, with or without its name apart."""
    name = f"event: {json.loads(data)['type']}\n" if named else ""
    [found] = SseDecoder().feed(f"{name}data: {data}\n\n".encode())
    return found


def delta(inner: str) -> str:
    """A content block's delta."""
    return f'{{"type":"content_block_delta","index":0,"delta":{{{inner}}}}}'


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("data", "size"), [
    (delta('"type":"text_delta","text":"Hello there"'), 11),
    (delta('"type":"text_delta","text":"Hello"') + "            ", 5),
    (delta('"type": "text_delta", "text": "Hello"'), 5),
    (delta('"text":"Hello","type":"text_delta"'), 5),
    (delta('"type":"text_delta","text":""'), 0),
    (delta('"type":"text_delta","text":"\\"text\\":\\"\\\\"'), 13),
    (delta('"type":"text_delta","text":"día"'), 4),
    (delta('"type":"thinking_delta","thinking":"Let me see"'), 10),
    (delta('"type":"input_json_delta","partial_json":"{\\"city\\": \\"P"'), 14),
    (delta('"type":"signature_delta","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3h"'), 0),
    (delta('"type":"citations_delta","citation":{"type":"x","cited_text":"long and not billed"}'), 0),
    ('{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"not passed yet"}}', 0),
    ('{"type":"content_block_stop","index":0}', 0), ('{"type":"ping"}', 0),
    ('{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}', 0),
])
def test_the_bytes_of_a_delta(data: str, size: int, named: bool) -> None:
    """A delta counts as the bytes of its text, thinking or tool input; what is not billed as output counts nothing."""
    assert SCHEMA.text_bytes(event(data, named=named)) == size


def passed(recording: Recording) -> Attempt:
    """The attempt whose client left right before the answer's usage was told."""
    cut = recording.body.rfind(b"event: message_delta")
    attempt = Attempt("anthropic", "anthropic").dispatched().answered().fed([recording.body[:cut]], end=False)
    attempt.hear(Closed())
    return attempt


@pytest.mark.parametrize("recording", STREAMS, ids=lambda one: one.name)
def test_a_recorded_stream_that_is_cut_at_its_end(recording: Recording) -> None:
    """All output has passed and no usage was told: the estimate is 0.6 to 2.5 times the truth, of what the provider
    does itself in between (code it runs) as well, and with the slack of a settlement 0.7 to 2.5 times."""
    truth = Attempt("anthropic", "anthropic").dispatched().answered().fed([recording.body]).end.tokens.output
    assert truth is not None
    seen = sum(SCHEMA.text_bytes(one) for one in SseDecoder().feed(recording.body))
    estimate = counter(recording.request["model"]).estimate_bytes(seen)
    assert 0.6 * truth <= estimate <= 2.5 * truth
    assert 0.7 * truth <= estimate + SLACK <= 2.5 * truth
    end = passed(recording).end
    assert end.outcome == "estimated"
    assert end.tokens.output is not None
    assert 0.6 * truth <= end.tokens.output <= 2.5 * truth


def test_there_are_recordings() -> None:
    """The statement above is about several streams, with text, thinking and tools."""
    assert len(STREAMS) >= 2


def test_large_deltas_are_charged() -> None:
    """A stream of few events with much text in each is charged by its text, not by the number of its events."""
    text = "All happy families are alike; each unhappy family is unhappy in its own way. " * 40
    stream = anthropic_stream(*[text] * 5, done=False)
    attempt = Attempt("anthropic", "anthropic").dispatched().answered().fed([stream], end=False)
    attempt.hear(Closed())
    exact = counter("c").text(text * 5)
    assert attempt.end.tokens.output is not None
    assert 0.7 * exact <= attempt.end.tokens.output <= 2 * exact + SLACK


def cut(model: str = "gpt-5-mini", paid: int = 5000, *, seconds: float = 4, stream: bool = True, known: str = "{}",
        **fields: Any) -> int:
    """The output that an answer is charged which is cut after these seconds, of which a word has passed at once."""
    yaml = f"""\
backends:
  oa: {{schema: openai, base_url: "http://127.0.0.1:1", location: cloud, models: {{{model}: {known}}}}}
chains: {{cloud: [oa/{model}], local: [oa/{model}]}}
"""
    attempt = Attempt("openai", f"oa/{model}", stream=stream, rt=runtime("", yaml), granted=paid, **fields)
    attempt.dispatched().answered()
    if stream:
        attempt.fed([openai_stream("Hello there", done=False, usage=False)], end=False)
    attempt.hear(Closed(), now=NOW + round(seconds * 1000))
    assert attempt.end.tokens.output is not None
    return attempt.end.tokens.output


@pytest.mark.parametrize(("output", "about"), [
    (cut(), 2000), (cut(seconds=60), 5000), (cut(seconds=0.4), 0), (cut(paid=0), 0),
    (cut(reasoning="off"), 0), (cut("gpt-4.1"), 0), (cut("qwen3-coder"), 0), (cut("gpt-4.1", reasoning="omitted"), 2000),
    (cut("gpt-4.1", stream=False), 2000), (cut("gpt-4.1", stream=False, seconds=900), 5000),
    (cut(known="{on_cut: seen}"), 0), (cut("gpt-4.1", known="{on_cut: full}"), 5000),
    (cut("gpt-4.1", known="{on_cut: timed}"), 2000), (cut(known="{most_tokens_per_second: 100}"), 400),
])
def test_what_may_have_been_made_out_of_sight(output: int, about: int) -> None:
    """Reasoning that is not shown, and an answer that is not streamed, are charged by the time in which nothing passed,
    up to what was paid for; all else by what has passed, unless the configuration says otherwise."""
    assert about <= output <= about + 2 * SLACK
    assert output <= 5000


def test_time_in_which_something_passes_is_not_unseen() -> None:
    """While words come, a model does not reason out of sight: only pauses of more than half a second count."""
    unseen = Unseen(1000)
    for number in range(50):
        unseen.passed(number, 3000 + number * 100)
    assert unseen.ms(8000) == 3000 - 1000 + 100
    unseen.passed(60, 9000)
    assert unseen.ms(9100) == 2100 + 1100
    assert unseen.ms(9900) == 2100 + 1100 + 900


@pytest.mark.parametrize(("schema", "fields", "said"), [
    ("openai", {}, ""), ("openai", {"reasoning_effort": "none"}, "off"), ("openai", {"reasoning_effort": "low"}, ""),
    ("anthropic", {"thinking": {"type": "disabled"}}, "off"),
    ("anthropic", {"thinking": {"type": "adaptive", "display": "omitted"}}, "omitted"),
    ("anthropic", {"thinking": {"type": "adaptive", "display": "summarized"}}, ""),
])
def test_what_a_request_says_of_its_reasoning(schema: str, fields: dict[str, Any], said: str) -> None:
    """Whether reasoning is asked for, and whether it is to be shown, is taken from the request."""
    raw = json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields})
    assert shown(CLIENTS[schema].parse_request(raw.encode())) == said


@pytest.mark.parametrize("model", ["gpt-4.1", "qwen3-coder"])
def test_a_whole_answer_without_usage(model: str) -> None:
    """An answer that came whole is charged by what it holds, however long it took: nothing was made out of sight."""
    yaml = f"""\
backends: {{oa: {{schema: openai, base_url: "http://127.0.0.1:1", location: cloud}}}}
chains: {{cloud: [oa/{model}], local: [oa/{model}]}}
"""
    attempt = Attempt("openai", f"oa/{model}", stream=False, rt=runtime("", yaml), granted=5000).dispatched()
    attempt.answered(content_type="application/json")
    body = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hello there"}, "finish_reason": "stop"}]}
    attempt.hear(ResponseBody(json.dumps(body).encode(), True), now=NOW + 60_000)
    assert attempt.end.outcome == "estimated"
    assert SLACK < (attempt.end.tokens.output or 0) < 2 * SLACK


PRICED = """\
backends: {oa: {schema: openai, base_url: "http://127.0.0.1:1", location: cloud, models: {m: {
  usd_per_million_input: 1, usd_per_million_output: 1, context: 1000}}}}
chains: {cloud: [oa/m], local: [oa/m]}
"""


@pytest.mark.parametrize(("budget", "tokens", "believed"), [
    (True, 2_000, True), (True, 99_000, True), (True, 2_000_000, False), (False, 2_000_000, True),
    (True, 1 << 60, False), (False, 1 << 60, False),
])
def test_a_usage_that_cannot_be(budget: bool, tokens: int, believed: bool) -> None:
    """What is a hundred times above the bound, or beyond counting, is a lie: it is charged by what passed, and told."""
    money = {"ask": Ask(1, (), (), (Option(1, 1, 0, 1, 0, 1),)), "bound": Bound(1000), "granted": 100} if budget else {}
    attempt = Attempt("openai", "oa/m", rt=runtime("", PRICED), **money).dispatched().answered()
    usage = json.dumps({"id": "c", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}})
    stream = openai_stream("Hello there", usage=False).replace(b"data: [DONE]", f"data: {usage}\n\ndata: [DONE]".encode())
    attempt.fed([stream])
    assert (attempt.end.outcome == "exact") is believed
    assert (attempt.end.tokens.output == tokens) is believed
    assert believed or (attempt.end.cost or 0) < 10**9
    warned = [action for action in attempt.actions if isinstance(action, Warn)]
    assert bool(warned) is (not believed and tokens <= MAX_TOKENS)  # one beyond it is not even read
