"""Recorded traffic through the codecs and back: nothing is lost but what was named."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from extproc.core import conversation as c
from extproc.schemas import SCHEMAS
from extproc.schemas._answer import gather
from extproc.schemas.base import Schema, Target
from tests.compare import dialogue, events_of, failed, lost, names, said, settled, streamed, told
from tests.recordings import Recording, captures, recordings

CHATS = tuple(name for name in ("openai", "anthropic", "responses") if name in SCHEMAS)
ALL = [recording for name in CHATS for recording in recordings(name)]
ANSWERED = [recording for recording in ALL if recording.status == 200]
REQUESTS = [*ANSWERED, *(capture for capture in captures() if capture.schema in CHATS)]
REFUSED = [recording for recording in ALL if recording.status >= 400]


def each(given: list[Recording]) -> pytest.MarkDecorator:
    """A test for every one of these recordings."""
    return pytest.mark.parametrize("recording", given, ids=lambda recording: recording.name)


def visit(given: list[Recording]) -> pytest.MarkDecorator:
    """A test for every one of these recordings in every schema but its own."""
    pairs = [pytest.param(recording, other, id=f"{recording.name}-{other}")
             for recording in given for other in CHATS if other != recording.schema]
    return pytest.mark.parametrize(("recording", "other"), pairs)


def parsed(schema: Schema, fields: dict[str, Any]) -> c.Conversation:
    """Parse a request given as its fields."""
    return schema.parse_request(json.dumps(fields).encode())


@each(REQUESTS)
def test_own_schema_keeps_the_conversation(recording: Recording) -> None:
    """A request parsed, rendered in its own schema and parsed again is the same conversation."""
    schema = SCHEMAS[recording.schema]
    first = parsed(schema, recording.request)
    rendered = schema.render_request(first, Target(first.model))
    second = schema.parse_request(rendered.body)
    named = names(rendered)
    assert set(first.unmapped) <= named
    assert settled(first, own=recording.schema) == settled(second, own=recording.schema)
    assert not second.unmapped


@visit(REQUESTS)
def test_there_and_back_loses_only_what_was_named(recording: Recording, other: str) -> None:
    """A request put into another schema and back differs in nothing that no renderer named."""
    home, away = SCHEMAS[recording.schema], SCHEMAS[other]
    first = parsed(home, recording.request)
    there = away.render_request(first, Target(first.model))
    abroad = away.parse_request(there.body)
    back = home.render_request(abroad, Target(first.model))
    second = home.parse_request(back.body)
    named = names(there, back)
    assert {name for name in lost(first, second) if not told(named, name)} == set()
    if "system" in named:  # a system message alone became the user's
        first = msgspec.structs.replace(first, messages=(c.Message("user", first.messages[0].parts),))
    assert dialogue(first, named) == dialogue(second, named)


@each(REQUESTS)
def test_nothing_is_named_that_was_not_there(recording: Recording) -> None:
    """In its own schema a request loses nothing by name but fields that the neutral model lacks."""
    schema = SCHEMAS[recording.schema]
    first = parsed(schema, recording.request)
    assert set(schema.render_request(first, Target("m")).dropped) <= {*first.unmapped, *first.demands, "user"}


@each(ANSWERED)
def test_answers_survive_their_own_schema(recording: Recording) -> None:
    """Whole and streamed, an answer rendered in its own schema and parsed again says the same, usage and stop included."""
    schema = SCHEMAS[recording.schema]
    events = events_of(schema, recording.body, is_stream=recording.is_stream)
    if failed(events):
        return
    exact = recording.schema == "anthropic"
    expected = said(gather(events), exact=exact)
    whole = schema.render_response(events, model="m", created=1, fallback_id="x")
    assert said(gather(schema.parse_response(whole)), exact=exact) == expected
    again = events_of(schema, streamed(schema, events), is_stream=True)
    assert said(gather(again), exact=exact) == expected
    assert again[-1] == c.Done()


@visit(ANSWERED)
def test_answers_survive_another_schema(recording: Recording, other: str) -> None:
    """A client of another schema reads the same text, thinking, calls, stop and usage, whole and streamed."""
    events = events_of(SCHEMAS[recording.schema], recording.body, is_stream=recording.is_stream)
    if failed(events):
        return
    expected = said(gather(events), exact=False)
    whole = SCHEMAS[other].render_response(events, model="m", created=1, fallback_id="x")
    assert said(gather(SCHEMAS[other].parse_response(whole)), exact=False) == expected
    again = events_of(SCHEMAS[other], streamed(SCHEMAS[other], events), is_stream=True)
    assert said(gather(again), exact=False) == expected


@each(REFUSED)
def test_errors_keep_their_kind(recording: Recording) -> None:
    """A recorded error, told to a client of either schema and read again, is of the same kind and says the same."""
    problem = SCHEMAS[recording.schema].parse_error(recording.status, recording.body)
    assert problem.message
    for name in CHATS:
        body = SCHEMAS[name].render_error(problem, "r")
        again = SCHEMAS[name].parse_error(problem.http_status, body)
        assert again.kind == problem.kind
        assert problem.message in again.message
