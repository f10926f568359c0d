"""Streams are exact: however a provider's bytes are cut, framed or coded, every client gets the same bytes and usage."""

from __future__ import annotations

import gzip
import json
import random
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import anthropic
import brotli
import httpx
import httpx2
import openai
import pytest
import zstandard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from extproc.core import conversation as c
from extproc.core.answer import Learnt, Reading, StreamAnswer
from extproc.core.usage import Tokens
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.wire.content_encoding import decoder
from extproc.wire.ndjson import NdjsonDecoder
from extproc.wire.sse import SseDecoder
from tests.fuzz import grammar, streams
from tests.fuzz.streams import Said, Source, sources

ALL = sources()
SMALL = [source for source in ALL if len(source.stream) < 12_000]
TALKERS = ("openai", "anthropic", "responses")
"""The client schemas that can say everything an answer holds."""
PAIRS = list(product(grammar.STREAMED, ("openai", "anthropic", "responses", "completions", "ollama")))
_any = st.sampled_from(SMALL)
_client = st.sampled_from(grammar.STREAMED)
_seed = st.integers(0, 2**32)


def answer(source: Source, client: str) -> StreamAnswer:
    """A fresh reading of a stream by a client that asked for usage."""
    return StreamAnswer(Reading(CLIENTS[client], PROVIDERS[source.schema], "m", 1, "rid-1", include_usage=True))


def through(source: Source, client: str, *chunks: bytes) -> tuple[bytes, Learnt]:
    """What the client gets of these chunks, and what was learnt."""
    reading = answer(source, client)
    out = b"".join([*(reading.feed(chunk) for chunk in chunks), reading.close()])
    return out, reading.learnt


def facts(learnt: Learnt) -> tuple[object, ...]:
    """All that settles an account."""
    return learnt.tokens, learnt.model, learnt.finish, learnt.done, learnt.failure


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """The same bytes in chunks: single bytes, a few large ones, empty ones, or anything between."""
    size = rng.choice((1, 2, 7, 60, 900, 10_000))
    chunks: list[bytes] = []
    at = 0
    while at < len(data):
        step = rng.randint(0, 2 * size)
        chunks.append(data[at : at + step])
        at += step
    return chunks


def _reframed(event: str, rng: random.Random) -> str:
    """One event in another legal form of the same meaning."""
    lines = event.split("\n")
    out: list[str] = []
    for line in lines:
        if rng.random() < 0.2:
            out.append(rng.choice((": keep-alive", ":", "id: 7", "retry: 100", "data-x: 1", "unknown", "id")))
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data" and value.startswith("{") and rng.random() < 0.4:
            out += [f"data:{rng.choice(('', ' '))}{{", f"data: {value[1:]}"]
        else:
            out.append(f"{field}:{rng.choice(('', ' '))}{value}")
    return "\n".join(out)


def reframed(source: Source, rng: random.Random) -> bytes:
    """The stream with other line ends, comments, blank lines, a byte order mark, data over several lines."""
    end = rng.choice(("\n", "\r\n", "\r")) if source.schema != "ollama" else rng.choice(("\n", "\r\n"))
    if source.schema == "ollama":
        lines = [line for one in source.stream.decode().splitlines() for line in (one, *rng.choices(("", " "), k=rng.randint(0, 2)))]
        return "".join(line + end for line in lines).encode()
    parts: list[str] = [rng.choice(("", ": hello\n\n", "\n"))]
    for event in source.stream.decode().split("\n\n")[:-1]:
        parts += [_reframed(event, rng), "\n\n", *rng.choices(("\n", ": ping\n\n", "\n\n\n"), k=rng.randint(0, 1))]
    mark = rng.choice((b"", b"\xef\xbb\xbf"))
    return mark + "".join(parts).replace("\n", end).encode()


# ------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize("client", grammar.STREAMED)
def test_streams_say_what_the_provider_said(client: str) -> None:
    """Every stream of every provider keeps the client's grammar, and text, thinking, calls and usage are all there."""
    for source in ALL:
        out, learnt = through(source, client, source.stream)
        assert learnt.done, source.name
        assert (learnt.tokens.total_input, learnt.tokens.total_output) == (source.input, source.output), source.name
        if client == source.schema:
            # Bytes pass, but for comments before the first event and what follows the terminal one.
            assert source.stream.find(out) >= 0, source.name
            assert len(out) > source.terminal - 40, source.name
            continue
        told = grammar.read(client, out)
        assert told.text == source.said.text, source.name
        assert told.usages == (source.output is not None or client == "anthropic"), source.name
        if client in TALKERS:
            assert told.thinking == source.said.thinking, source.name
            assert [(call.name, call.text) for call in told.calls] == [call[1:] for call in source.said.calls], source.name


@settings(max_examples=250, deadline=None, derandomize=True)
@given(source=_any, client=_client, seed=_seed)
def test_any_chunking_gives_the_same_bytes(source: Source, client: str, seed: int) -> None:
    """Cut anywhere, the output and the account are those of the whole."""
    whole, learnt = through(source, client, source.stream)
    out, again = through(source, client, *cut(source.stream, random.Random(seed)))
    assert out == whole
    assert facts(again) == facts(learnt)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(source=_any, client=_client, seed=_seed)
def test_any_framing_gives_the_same_bytes(source: Source, client: str, seed: int) -> None:
    """CRLF, CR, comments, keep-alives, split data lines, no space after the colon, a byte order mark: all the same."""
    rng = random.Random(seed)
    other = reframed(source, rng)
    whole, learnt = through(source, client, source.stream)
    out, again = through(source, client, *cut(other, rng))
    assert facts(again) == facts(learnt)
    if client != source.schema:
        assert out == whole
    else:  # bytes pass: an untouched part of what came in, with the same data
        assert out.rstrip(b"\r\n") in other
        assert _payloads(out) == _payloads(whole)


def _payloads(stream: bytes) -> list[bytes]:
    return [event.data.replace(b"\n", b"") for event in SseDecoder().feed(stream + b"\n\n") if event.data]


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data)


def _members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[at : at + 700]) for at in range(0, len(data), 700))


def _frames(data: bytes) -> bytes:
    coder = zstandard.ZstdCompressor()
    return b"".join(coder.compress(data[at : at + 700]) for at in range(0, len(data), 700))


_CODED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress), "deflate": ("deflate", _deflate), "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress), "gzip_members": ("gzip", _members), "zstd_frames": ("zstd", _frames),
}


@pytest.mark.parametrize("coding", _CODED)
@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(source=_any, client=_client, seed=_seed)
def test_any_content_encoding_gives_the_same_bytes(coding: str, source: Source, client: str, seed: int) -> None:
    """Compressed, in one member or several (RFC 1952, 2.2; RFC 8878, 3.1), the stream is the same."""
    name, encode = _CODED[coding]
    decode = decoder(name).decode
    whole, learnt = through(source, client, source.stream)
    out, again = through(source, client, *map(decode, cut(encode(source.stream), random.Random(seed))))
    assert out == whole
    assert facts(again) == facts(learnt)


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_an_event_over_a_megabyte_passes(client: str, provider: str) -> None:
    """One delta of 1.2 MB in network-sized chunks comes out whole."""
    said = streams.Said("é\"\\ " * 200_000)
    stream = streams.write(provider, said, 10**9)
    source = Source("big", provider, stream, said, 31, 19)
    out, learnt = through(source, client, *(stream[at : at + 65_536] for at in range(0, len(stream), 65_536)))
    assert learnt.done
    assert out == stream if client == provider else grammar.read(client, out).text == said.text


_FORMS: dict[str, Callable[[int], bytes]] = {
    "one_long_event": lambda size: b"data: " + b"x" * size + b"\n\n",
    "endless_lf": lambda size: b"data: x\n" * (size // 8),
    "endless_crlf": lambda size: b"data: x\r\n" * (size // 9),
    "endless_cr": lambda size: b"data: x\r" * (size // 8),
    "short_events_and_one_cr": lambda size: b"data: x\n\n" * (size // 9) + b"\r",
    "short_events_cr": lambda size: b"data: x\r\r" * (size // 9),
    "short_events_crlf": lambda size: b"data: x\r\n\r\n" * (size // 11),
}


_CASES = [*product(_FORMS, (256,)), *((form, 1 << 21) for form in _FORMS if form.startswith("short"))]
_DECODINGS = [(kind, *case) for kind in (SseDecoder, NdjsonDecoder) for case in _CASES]


@pytest.mark.parametrize(("kind", "form", "chunk"), _DECODINGS)
def test_decoding_is_linear(kind: type[SseDecoder] | type[NdjsonDecoder], form: str, chunk: int) -> None:
    """A megabyte takes under a second of processor time, whatever its form and its chunks."""
    data, fed, began = _FORMS[form](3 << 19), kind(), time.process_time()
    for at in range(0, len(data), chunk):
        fed.feed(data[at : at + chunk])
        assert time.process_time() - began < 1.5, f"{at} of {len(data)} bytes"


# ------------------------------------------------------------------------------------------------ ends


@settings(max_examples=300, deadline=None, derandomize=True)
@given(source=_any, client=_client, where=st.floats(0, 1), seed=_seed)
def test_a_cut_stream_is_never_complete(source: Source, client: str, where: float, seed: int) -> None:
    """Cut before its last data byte, a stream is not done, what came out is a part of the whole without its end, and
    the gateway's own error event closes it."""
    part = source.stream[: int(where * (source.terminal - 1))]
    whole, _ = through(source, client, source.stream)
    reading = answer(source, client)
    out = b"".join(reading.feed(chunk) for chunk in cut(part, random.Random(seed)))
    out += reading.close()
    assert not reading.learnt.done
    assert whole.startswith(out)
    assert len(out) < len(whole)
    assert not out or grammar.events(out)
    with pytest.raises(AssertionError):
        grammar.read(client, out)


@pytest.mark.parametrize("source", [s for s in ALL if s.name.endswith((":calls", "chat-streaming-detailed-usage.0"))],
                         ids=lambda s: s.name)
def test_no_cut_at_all_completes(source: Source) -> None:
    """Each single cut position of a stream: not done before the last data byte, done from there on."""
    for at in range(0, len(source.stream) + 1, 1):
        if at % 13 and source.terminal - at > 120:
            continue
        _, learnt = through(source, "anthropic", source.stream[:at])
        assert learnt.done == (at >= source.terminal), at


@settings(max_examples=150, deadline=None, derandomize=True)
@given(source=_any, client=_client, garbage=st.binary(max_size=60) | st.sampled_from([
    b'data: {"error":{"message":"late"}}\n\n', b"data: [DONE]\n\n", b"<html>", b'data: {"usage":{"prompt_tokens":1}}\n\n']),
    together=st.booleans())
def test_nothing_follows_the_end(source: Source, client: str, garbage: bytes, together: bool) -> None:
    """Whatever comes after the terminal event changes neither the bytes nor the account."""
    whole, learnt = through(source, client, source.stream)
    chunks = [source.stream + garbage] if together else [source.stream, garbage, garbage]
    out, again = through(source, client, *chunks)
    assert out == whole
    assert facts(again) == facts(learnt)


# ------------------------------------------------------------------------------------------------ the official clients


def _drip(body: bytes) -> Iterator[bytes]:
    yield from (body[at : at + 61] for at in range(0, len(body), 61))


def _transport(library: Any, body: bytes) -> Any:
    """A client of httpx or httpx2 that is answered with this stream in small pieces."""
    return library.Client(transport=library.MockTransport(lambda request: library.Response(
        200, headers={"content-type": "text/event-stream"}, content=_drip(body))))


def _heard_by_openai(client: openai.OpenAI) -> Said:
    with client.chat.completions.stream(model="m", messages=[], stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        whole = stream.get_final_completion()
    message = whole.choices[0].message
    assert whole.usage is None or whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    calls = tuple((call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    return Said(message.content or "", (message.model_extra or {}).get("reasoning_content") or "", calls)


def _heard_by_responses(client: openai.OpenAI) -> Said:
    *_, last = client.responses.create(model="m", input="x", stream=True)
    assert last.type in ("response.completed", "response.incomplete")
    whole = last.response
    calls = tuple((item.call_id, item.name, item.arguments) for item in whole.output if item.type == "function_call")
    thinking = "".join(part.text for item in whole.output if item.type == "reasoning" for part in item.summary)
    return Said(whole.output_text, thinking, calls)


def _heard_by_anthropic(client: anthropic.Anthropic) -> Said:
    with client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]) as stream:
        for _ in stream:
            pass
        whole = stream.get_final_message()
    text = "".join(block.text for block in whole.content if block.type == "text")
    thinking = "".join(block.thinking for block in whole.content if block.type == "thinking")
    calls = tuple((block.id, block.name, json.dumps(block.input)) for block in whole.content if block.type == "tool_use")
    return Said(text, thinking, calls)


def _heard(client: str, body: bytes) -> Said:
    if client == "anthropic":
        return _heard_by_anthropic(
            anthropic.Anthropic(api_key="k", http_client=_transport(httpx2, body), max_retries=0))
    sdk = openai.OpenAI(api_key="k", http_client=_transport(httpx, body), max_retries=0)
    return _heard_by_openai(sdk) if client == "openai" else _heard_by_responses(sdk)


_HEARD = [
    pytest.param(client, source, id=f"{client}-{source.name}") for client, source in product(TALKERS, ALL)
    if client != source.schema and (source.recorded or source.name.endswith((":calls", ":thinking")))]


@pytest.mark.parametrize(("client", "source"), _HEARD)
def test_the_official_clients_read_it(client: str, source: Source) -> None:
    """The openai and anthropic packages put the same answer together from our stream."""
    out, _ = through(source, client, source.stream)
    heard = _heard(client, out)
    assert (heard.text, heard.thinking) == (source.said.text, source.said.thinking)
    assert [(name, json.loads(text)) for _, name, text in heard.calls] == [
        (name, json.loads(text)) for _, name, text in source.said.calls]


# ------------------------------------------------------------------------------------------------ usage


def _often(source: Source) -> bytes:
    """The stream with its final usage in each of its events too."""
    usage = {"openai": {"prompt_tokens": 31, "completion_tokens": 19, "total_tokens": 50,
                        "prompt_tokens_details": {"cached_tokens": 7}, "completion_tokens_details": {"reasoning_tokens": 5}},
             "anthropic": {"input_tokens": 24, "cache_read_input_tokens": 7, "output_tokens": 19}}[source.schema]
    out: list[bytes] = []
    for event in source.stream.split(b"\n\n")[:-1]:
        head, mark, data = event.rpartition(b"data: ")
        if data.startswith(b"{"):
            data = json.dumps({"usage": usage, **json.loads(data)}).encode()
        out.append(head + mark + data + b"\n\n")
    return b"".join(out)


@pytest.mark.parametrize("source", [s for s in ALL if s.name in (
    "openai:calls", "openai:text", "mistral:calls", "anthropic:calls")], ids=lambda s: s.name)
@pytest.mark.parametrize("client", grammar.STREAMED)
def test_usage_is_taken_once(source: Source, client: str) -> None:
    """Usage in every event is the last one's, never a sum, and the client is told once."""
    out, learnt = through(source, client, _often(source))
    assert (learnt.tokens.total_input, learnt.tokens.total_output) == (31, 19)
    if client != source.schema:
        assert grammar.read(client, out).usages == 1


# ------------------------------------------------------------------------------------------------ any legal answer


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[c.Event], list[tuple[str, str]]]:
    """Events of an answer in any order that a parser may give, and its calls: (name, arguments)."""
    events: list[c.Event] = [c.Start("id", "m")] if draw(st.booleans()) else []
    calls: list[tuple[str, list[str], c.ToolKind]] = []
    for _ in range(draw(st.integers(0, 14))):
        match draw(st.integers(0, 6)):
            case 0 | 1:
                events.append(c.TextDelta(draw(st.text(max_size=6))))
            case 2:
                events.append(c.ThinkingDelta(draw(st.text(max_size=6))))
            case 3:
                events.append(draw(st.sampled_from([
                    c.ThinkingDelta(signature="s"), c.ThinkingDelta(redacted="r"), c.ThinkingDelta(encrypted="e", id="rs_1")])))
            case 4:
                kind: c.ToolKind = draw(st.sampled_from(["function", "function", "custom"]))
                events.append(c.ToolStart(len(calls), f"t{len(calls)}", f"f{len(calls)}", kind))
                calls.append((f"f{len(calls)}", [], kind))
            case _ if calls:
                index = draw(st.integers(0, len(calls) - 1))
                piece = draw(st.sampled_from(['{"a":', "1}", "{}", '"}"', "x", "}"]))
                # After a complete object more of the same call is no legal answer.
                so_far = "".join(calls[index][1])
                if not _complete(so_far):
                    events.append(c.ToolDelta(index, piece))
                    calls[index][1].append(piece)
            case _:
                events.append(c.UsageReport(Tokens(input=draw(st.none() | st.integers(0, 9)))))
    events += [c.UsageReport(Tokens(input=3, output=4)), c.Stop("tool_use" if calls else "end"), c.Done()]
    return events, [(name, "".join(pieces)) for name, pieces, _ in calls]


def _complete(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@pytest.mark.parametrize("client", grammar.STREAMED)
@settings(max_examples=120, deadline=None, derandomize=True)
@given(made=answers())
def test_any_order_of_events_keeps_the_grammar(client: str, made: tuple[list[c.Event], list[tuple[str, str]]]) -> None:
    """However text, thinking and calls interleave, indices are contiguous, blocks never overlap, nothing is lost."""
    events, calls = made
    renderer = CLIENTS[client].stream_renderer(model="m", created=1, fallback_id="x", include_usage=True)
    told = grammar.read(client, b"".join(renderer.feed(event) for event in events))
    assert told.text == "".join(event.text for event in events if isinstance(event, c.TextDelta))
    assert told.usages == 1
    if client in TALKERS:
        assert told.thinking == "".join(event.text for event in events if isinstance(event, c.ThinkingDelta))
        # A function without arguments is called with none: the empty object where the schema wants one.
        assert [call.name for call in told.calls] == [name for name, _ in calls]
        assert all(call.text in (text, text or "{}") for call, (_, text) in zip(told.calls, calls, strict=True))


# ------------------------------------------------------------------------------------------------ the validators


@pytest.mark.parametrize("client", grammar.STREAMED)
def test_the_validators_refuse_damage(client: str) -> None:
    """Each event that is dropped, doubled or swapped with its neighbour is noticed, but for deltas and pings."""
    source = next(source for source in ALL if source.name == ("openai:calls" if client == "anthropic" else "anthropic:calls"))
    out, _ = through(source, client, source.stream)
    parts = [part + b"\n\n" for part in out.split(b"\n\n")[:-1]]
    whole = grammar.read(client, out)
    for at in range(len(parts)):
        for damaged in (parts[:at] + parts[at + 1 :], parts[: at + 1] + parts[at:]):
            try:
                told = grammar.read(client, b"".join(damaged))
            except AssertionError:
                continue
            # A delta more or less is legal, but it does not say the same.
            assert told != whole or b'""' in parts[at], parts[at]
