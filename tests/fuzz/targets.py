"""What must hold of every codec for any bytes: events, a request, or the typed error; in bounded time and memory."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import brotli
import msgspec
import zstandard

from extproc.core import dispatch
from extproc.core.answer import Reading, StreamAnswer, WholeAnswer
from extproc.core.conversation import Done, Event, Failure, Prompt, Tool, UsageReport
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.repair import ToolCallRepair
from extproc.core.toolbox import Called, Filter, Restorer
from extproc.core.usage import MAX_TOKENS
from extproc.dialects import DIALECTS
from extproc.dialects.fim import PlainText
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import Target
from extproc.wire.content_encoding import Undecodable, decoder
from extproc.wire.json_splice import TopLevel
from extproc.wire.ndjson import NdjsonDecoder
from extproc.wire.sse import SseDecoder
from tests.fuzz import grammar, seeds
from tests.fuzz.mutate import replacements

TARGET = Target("the-model", max_output=4096, context=8192)
TOOLS = (Tool("f", "d", {"type": "object", "properties": {"a": {"type": "integer"}}}), Tool("c", kind="custom"))
_MODELS = ("claude-sonnet-4-5", "qwen2.5-coder:7b", "gpt-5.2", "deepseek-reasoner", "magistral-medium")


class Broken(AssertionError):  # noqa: N818
    """A property does not hold."""


class Subject(msgspec.Struct, frozen=True):
    """One thing to be fed with bytes: recordings, and the small `models` that hold each feature once."""

    name: str
    run: Callable[[bytes], object]
    seeds: list[bytes]
    models: list[bytes] = []

    def swept(self, step: int = 1) -> Iterator[bytes]:
        """The models with each single value replaced by each odd one; of all these each `step`-th."""
        for model in self.models:
            mark = b"\n\n" if b"data:" in model else b"\n"
            parts = model.split(mark)
            for at, part in enumerate(parts):
                head, brace, text = part.partition(b"{")
                if not brace:
                    continue
                for other in replacements((brace + text).decode(), step):
                    yield mark.join([*parts[:at], head + other.encode("utf-8", "surrogatepass"), *parts[at + 1 :]])


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) < 4000 else digits  # more than Python's own limit, but JSON


def _json(body: bytes, what: str) -> Any:
    """The body must be JSON; None for a depth that this reader, too, cannot take."""
    try:
        return json.loads(body, parse_int=_int)
    except RecursionError:
        return None
    except UnicodeDecodeError:
        return None  # of bytes that pass: the provider judges them; what is translated is written anew
    except ValueError as error:
        raise Broken(f"{what} is not JSON: {error}") from error


def chunks(data: bytes) -> Iterator[bytes]:
    """The data in chunks that depend on it alone."""
    rng = random.Random(len(data))
    size = rng.choice((1, 7, 200, 5_000, 1 << 20))
    size = max(size, len(data) // 2_000)
    at = 0
    while at < len(data):
        step = rng.randint(1, size)
        yield data[at : at + step]
        at += step


# ------------------------------------------------------------------------------------------------ requests


def _request(client: str) -> Callable[[bytes], None]:
    schema = CLIENTS[client]

    def run(body: bytes) -> None:
        try:
            conversation = schema.parse_request(body)
        except RequestError as error:
            _told(error)
            return
        for provider in PROVIDERS.values():
            try:
                refused = provider.refuses(conversation)
                rendered = provider.render_request(conversation, TARGET)
                _json(rendered.body, f"the request in {provider.name}")
            except RequestError as error:
                _told(error)
                continue
            for name in (*refused, *rendered.dropped, *rendered.emulated):
                if not name.isprintable() or len(name) > 120:
                    raise Broken(f"no name for a header: {name!r}")

    return run


def _told(error: RequestError | UpstreamError) -> None:
    """An error's words must be fit to be told, in every schema."""
    problem = error.problem
    if not 400 <= problem.http_status < 600 or len(problem.message) > 1000:
        raise Broken(f"not to be told: {problem}")
    for schema in CLIENTS.values():
        _json(schema.render_error(problem, "rid"), "an error")
        if not schema.render_stream_error(problem, "rid").endswith(b"\n\n"):
            raise Broken("an error event without an end")


def _say(client: str, dialect: str) -> Callable[[bytes], None]:
    one = DIALECTS[dialect]

    def run(body: bytes) -> None:
        target = msgspec.structs.replace(TARGET, model=_MODELS[len(body) % len(_MODELS)])
        try:
            said = dispatch.say(one, client, target, body)
        except RequestError as error:
            _told(error)
            return
        sent = _json(said.body, "what leaves")
        if sent is not None and (not isinstance(sent, dict) or sent["model"] != target.model):
            raise Broken("another model was asked for")
        dispatch.warnings(said.notes).encode("ascii")

    return run


def _splice(body: bytes) -> None:
    try:
        fields = TopLevel(body)
        out = fields.edit({"model": b'"x"', "stream_options": b"{}"}, {"n"})
    except RequestError as error:
        _told(error)
        return
    before, after = _json(body, "what was taken"), _json(out, "what was spliced")
    if before is None or after is None:
        return
    if after != {**{key: value for key, value in before.items() if key != "n"}, "model": "x", "stream_options": {}}:
        raise Broken("the splice changed something else")
    for key in before:
        if _json(fields.get(key) or b"", key[:40]) != before[key]:
            raise Broken(f"another value for {key[:40]}")


# ------------------------------------------------------------------------------------------------ answers


def _reading(provider: str, client: str, *filters: Filter) -> Reading:
    return Reading(CLIENTS[client], PROVIDERS[provider], "m", 1, "rid", include_usage=True, filters=filters)


def _filters() -> tuple[Filter, ...]:
    recall = {"c": Called("c", "custom"), "f": Called("F.name", "function", "ns")}
    return ToolCallRepair(TOOLS, salt="s").feed, Restorer(recall).feed, PlainText(Prompt("a line to go on", "b")).feed


def _some_filters(client: str, body: bytes) -> tuple[Filter, ...]:
    """All filters or none, as the input decides."""
    return _filters() if (len(client) + len(body)) % 2 else ()


def _sane(events: list[Event]) -> None:
    for event in events:
        if isinstance(event, UsageReport):
            for count in msgspec.structs.astuple(event.tokens):
                if count is not None and not 0 <= count <= MAX_TOKENS:
                    raise Broken(f"tokens: {count}")


def _whole(provider: str) -> Callable[[bytes], None]:
    schema = PROVIDERS[provider]

    def run(body: bytes) -> None:
        try:
            events = list(schema.parse_response(body))
        except UpstreamError as error:
            _told(error)
            return
        _sane(events)
        if not isinstance(events[-1], Done | Failure):
            raise Broken("an answer without an end")
        for client in CLIENTS:
            answer = WholeAnswer(_reading(provider, client, *_some_filters(client, body)))
            answer.feed(body)
            try:
                out = answer.finish()
            except UpstreamError as error:
                _told(error)
                continue
            if answer.learnt.failure is None:
                _json(out, f"the answer in {client}")

    return run


def _stream(provider: str) -> Callable[[bytes], None]:
    def run(body: bytes) -> None:
        for client in CLIENTS:
            filters = _some_filters(client, body)
            _read(StreamAnswer(_reading(provider, client, *filters)), body, client,
                  check=client != provider or bool(filters))

    return run


def _read(answer: StreamAnswer, body: bytes, client: str, *, check: bool) -> None:
    out: list[bytes] = []
    try:
        for chunk in chunks(body):
            out.append(answer.feed(chunk))
        out.append(answer.close())
    except UpstreamError as error:
        _told(error)
        return
    told, learnt = b"".join(out), answer.learnt
    _sane([UsageReport(learnt.tokens)])
    if learnt.done and learnt.failure is None and check and client in grammar.STREAMED:
        try:
            grammar.read(client, told)
        except AssertionError as error:
            raise Broken(f"{client}: {error}") from error


def _error(provider: str) -> Callable[[bytes], None]:
    def run(body: bytes) -> None:
        for status in (400, 401, 404, 429, 500, 529):
            problem = PROVIDERS[provider].parse_error(status, body)
            if not 400 <= problem.http_status < 600 or len(problem.message) > 500:
                raise Broken(f"not to be told: {problem}")
            for client in CLIENTS.values():
                _json(client.render_error(problem, "rid"), "an error")

    return run


# ------------------------------------------------------------------------------------------------ the wire


def _lines(kind: type[SseDecoder] | type[NdjsonDecoder]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        one, other = kind(), kind()
        whole = one.feed(data)
        parts = [event for chunk in chunks(data) for event in other.feed(chunk)]
        if whole != parts or one.pending != other.pending:
            raise Broken("the chunks matter")
        if b"".join(event.raw for event in whole) + one.pending != (
                data.removeprefix(b"\xef\xbb\xbf") if kind is SseDecoder and len(data) > 2 else data):
            raise Broken("bytes were lost")

    return run


MOST_PLAIN = 32 << 20
"""Bytes that one chunk may decode to at most: beyond the largest event of a stream there is no use for them."""


def _coded(coding: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        fed = decoder(coding)
        try:
            for chunk in chunks(data):
                plain = fed.decode(chunk)
                if len(plain) > MOST_PLAIN:
                    raise Broken(f"{len(chunk)} bytes became {len(plain)}")
        except Undecodable:
            return

    return run


def _encoded() -> list[bytes]:
    import gzip
    import zlib

    plain = seeds.streamed()["openai"][1][:2000]
    return [gzip.compress(plain), zlib.compress(plain), brotli.compress(plain), zstandard.ZstdCompressor().compress(plain),
            gzip.compress(b"a") + gzip.compress(b"b")]


def subjects() -> list[Subject]:
    """Every codec of the gateway."""
    asked, whole, streamed = seeds.requests(), seeds.whole_answers(), seeds.streamed()
    spoken = seeds.small_streams()
    written = {name: seeds.dumped(values) for name, values in (seeds.WRITTEN | {"ollama": []}).items()}
    answers = {name: seeds.dumped(values) for name, values in seeds.ANSWERS.items()}
    found = [Subject(f"request/{client}", _request(client), asked[client], written[client]) for client in CLIENTS]
    found += [Subject(f"say/{client}/{name}", _say(client, name), asked[client], written[client])
              for client in CLIENTS for name, dialect in DIALECTS.items() if dialect.wire(client) is not None]
    found += [Subject(f"answer/{name}", _whole(name), whole[name], answers[name]) for name in PROVIDERS]
    found += [Subject(f"stream/{name}", _stream(name), streamed[name], spoken.get(name, [])) for name in PROVIDERS]
    found += [Subject(f"error/{name}", _error(name), seeds.ERRORS, [body for body in seeds.ERRORS if body[:1] == b"{"])
              for name in PROVIDERS]
    found += [Subject("wire/sse", _lines(SseDecoder), streamed["anthropic"]),
              Subject("wire/ndjson", _lines(NdjsonDecoder), streamed["ollama"]),
              Subject("wire/json_splice", _splice, [body for bodies in asked.values() for body in bodies])]
    found += [Subject(f"wire/{coding}", _coded(coding), _encoded()) for coding in ("gzip", "deflate", "br", "zstd")]
    return found


ALLOWED = (RequestError, UpstreamError, Undecodable)
SECONDS_PER_MB = 1.0
MOST_GROWTH = 512 << 20


def check(subject: Subject, data: bytes, *, slack: float = 1.0) -> None:
    """Run one input; raise whatever it must not raise, or Broken when it takes too long or too much memory.

    `slack` seconds are free; the subjects of answers run once for each client, which is in the limit.
    """
    memory, began = _peak(), time.process_time()
    subject.run(data)
    took, grown = time.process_time() - began, _peak() - memory
    if took > slack + 20 * SECONDS_PER_MB * len(data) / 2**20:
        raise Broken(f"{took:.1f} s for {len(data)} bytes")
    if grown > MOST_GROWTH:
        raise Broken(f"{grown >> 20} MB for {len(data)} bytes")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
