"""What a stream that is cut is charged: about the output that has passed, known without reading every event's JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core.cut import SLACK, shown
from extproc.core.events import Closed
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.tokens import counter
from extproc.wire.sse import ServerSentEvent, SseDecoder
from tests.recordings import Recording, recordings
from tests.stage_kit import Attempt, anthropic_stream, openai_stream, runtime

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


def cut(model: str = "gpt-5-mini", paid: int = 5000, **fields: Any) -> int:
    """The output that a cut answer of this model is charged, where so much was paid for."""
    known = {"on_cut": fields.pop("on_cut")} if "on_cut" in fields else {}
    yaml = f"""\
backends:
  oa: {{schema: openai, base_url: "http://127.0.0.1:1", location: cloud, models: {{{model}: {json.dumps(known)}}}}}
chains: {{cloud: [oa/{model}], local: [oa/{model}]}}
"""
    attempt = Attempt("openai", f"oa/{model}", rt=runtime("", yaml), granted=paid, **fields)
    attempt.dispatched().answered().fed([openai_stream("Hello there", done=False, usage=False)], end=False)
    attempt.hear(Closed())
    assert attempt.end.tokens.output is not None
    return attempt.end.tokens.output


@pytest.mark.parametrize(("output", "full"), [
    (cut(), True), (cut(reasoning="off"), False), (cut("gpt-4.1"), False), (cut("qwen3-coder"), False),
    (cut("gpt-4.1", reasoning="omitted"), True), (cut(on_cut="seen"), False), (cut("gpt-4.1", on_cut="full"), True),
])
def test_reasoning_that_is_not_shown(output: int, full: bool) -> None:
    """A model that hides its reasoning is charged all the output that was paid for, unless none was asked for or the
    configuration says otherwise; others are charged what has passed."""
    assert (output == 5000) is full
    assert full or output < 2 * SLACK


def test_without_a_budget_nothing_is_paid_for() -> None:
    """What no budget paid for is charged as it was seen."""
    assert cut(paid=0) < 2 * SLACK


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
