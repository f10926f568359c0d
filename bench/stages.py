"""The stages alone: protobuf bytes in, protobuf bytes out, through StageStream; no socket, no gRPC, no Envoy.

    python -m bench.stages        prints microseconds of CPU per request and per stream event

The null store answers at once; the memory store keeps what the real one would. Both stages of a request count.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from bench.bodies import anthropic_request, chat_request
from bench.upstream import COMPLETION, stream_events

CONFIG = """
backends:
  fast:
    schema: openai
    base_url: http://127.0.0.1:9/v1
    location: cloud
    models:
      canned: {usd_per_million_input: 1, usd_per_million_output: 2}
chains:
  fast: [fast/canned]
models:
  canned: fast
"""


class _Channel:
    """Runs what waits at once: no store here really waits."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            while True:
                work.send(None)
        except StopIteration:
            pass

    def reply(self, answers: list[bytes]) -> None:
        self.answers += answers


class _NullLedger:
    """Says yes."""

    async def reserve(self, *_: Any, **__: Any) -> str:
        return "OK"

    begin = reserve

    async def end(self, *_: Any, **__: Any) -> str:
        return "DONE"

    async def finish(self, *_: Any, **__: Any) -> tuple[str, list[bytes]]:
        return "DONE", []


class Bench:
    """One worker's inside."""

    def __init__(self, ledger: Any) -> None:
        from extproc import names
        from extproc.config import parse
        from extproc.pb import ext_proc_pb2 as pb
        from extproc.runtime import Runtime
        from extproc.server import codec
        from extproc.server.board import Board
        from extproc.server.mirrors import Mirrors
        from extproc.server.performer import Performer, Runtimes
        from extproc.server.stores import in_memory
        from extproc.server.stream import opener
        from extproc.telemetry.tracing import Tracing

        self._pb, self._names, self._codec = pb, names, codec
        runtime = Runtime(parse(CONFIG, "bench", Path()), lambda _p, _m: (None, None))
        unasked: Any = None  # no budget and no key is in this configuration
        self._open = opener(Performer(
            Runtimes(runtime), ledger, Tracing(None, "bench"), unasked, unasked, Board(runtime, in_memory()),
            Mirrors(runtime.config.listen, 1.0)))
        body = chat_request("canned", 2000).encode()
        self._chat = self._request_messages("/v1/chat/completions", body)
        self._chat_stream = self._request_messages(
            "/v1/chat/completions", chat_request("canned", 2000, stream=True).encode())
        self._messages_stream = self._request_messages(
            "/v1/messages", anthropic_request("canned", 2000, stream=True).encode())
        self._answered = self._headers_message("response_headers", {
            ":status": "200", names.BACKEND: "fast", "content-type": "application/json"}, end=False)
        self._ok = self._headers_message("response_headers", {
            ":status": "200", "content-type": "application/json", "date": "Mon, 23 Nov 2026 10:00:00 GMT",
            "server": "bench"}, end=False)
        self._answer = self._body_message(COMPLETION.encode(), end=True)
        self._events = [self._body_message(event, end=False) for event in stream_events()]
        self._end = self._body_message(b"", end=True)

    def _request_messages(self, path: str, body: bytes) -> tuple[dict[str, str], bytes, bytes]:
        headers = {
            ":method": "POST", ":path": path, ":authority": "127.0.0.1:10000", ":scheme": "http",
            "content-type": "application/json", "authorization": "Bearer bench", "content-length": str(len(body)),
            "user-agent": "OpenAI/Python 3.54.0", "accept": "application/json", "x-request-id": "0" * 36,
            "x-forwarded-proto": "http", "x-forwarded-for": "127.0.0.1",
        }
        pb = self._pb
        return headers, self._headers_message("request_headers", headers, end=False), pb.ProcessingRequest(
            request_body=pb.HttpBody(body=body, end_of_stream=True)).SerializeToString()

    def _headers_message(self, phase: str, headers: dict[str, str], *, end: bool) -> bytes:
        return self._headers_of(phase, headers, end).SerializeToString()

    def _headers_of(self, phase: str, headers: dict[str, str], end: bool) -> Any:
        pb = self._pb
        listed = pb.HeaderMap(headers=[pb.HeaderValue(key=k, raw_value=v.encode()) for k, v in headers.items()])
        return pb.ProcessingRequest(**{phase: pb.HttpHeaders(headers=listed, end_of_stream=end)})

    def _body_message(self, chunk: bytes, *, end: bool) -> bytes:
        pb = self._pb
        return pb.ProcessingRequest(
            response_body=pb.HttpBody(body=chunk, end_of_stream=end)).SerializeToString()

    def _admit(self, messages: tuple[dict[str, str], bytes, bytes]) -> tuple[Any, Any]:
        """Both stages up to the dispatch."""
        _, head, body = messages
        channel = _Channel()
        request = self._open({self._names.STAGE: "request"}, channel)
        request.feed(head)
        request.feed(body)
        self._decided = channel.answers[0]
        attempt = self._open({self._names.STAGE: "attempt"}, _Channel())
        attempt.feed(self._attempt_headers(messages[0], self._decided))
        attempt.feed(body)
        return request, attempt

    def _attempt_headers(self, headers: dict[str, str], answer: bytes) -> bytes:
        """What Envoy would send: the request headers, the decision, and where the attempt goes."""
        decided = self._pb.ProcessingResponse.FromString(answer)
        message = self._headers_of("request_headers", headers, False)
        message.metadata_context.filter_metadata[self._names.METADATA].CopyFrom(
            decided.dynamic_metadata.fields[self._names.METADATA].struct_value)
        attributes = message.attributes["envoy.filters.http.ext_proc"].fields
        attributes[self._codec.TARGET_ATTRIBUTE].string_value = "fast/canned"
        attributes[self._codec.ATTEMPT_ATTRIBUTE].number_value = 1
        return message.SerializeToString()

    def request(self) -> None:
        """One whole request."""
        request, attempt = self._admit(self._chat)
        attempt.feed(self._ok)
        answers = attempt.feed(self._answer)
        assert len(answers) == 2, answers
        request.feed(self._answered)
        attempt.closed()
        request.closed()

    def envoys_part(self) -> None:
        """What `request` does in Envoy's place; its time is subtracted."""
        self._attempt_headers(self._chat[0], self._decided)

    def stream(self, *, translated: bool) -> int:
        """One stream of events; returns nanoseconds of CPU of its events alone."""
        request, attempt = self._admit(self._messages_stream if translated else self._chat_stream)
        attempt.feed(self._ok)
        began = time.process_time_ns()
        count = sum(len(attempt.feed(event)) for event in self._events)
        attempt.feed(self._end)
        spent = time.process_time_ns() - began
        assert count >= len(self._events) - 1, count
        request.feed(self._answered)
        attempt.closed()
        request.closed()
        return spent


PAUSE = 0.003
ROUNDS = 5
"""The best round counts, so that a neighbour's load does not."""


def _timed(one: Callable[[], object], count: int) -> float:
    """Microseconds of CPU of one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        for _ in range(count):
            one()
        best = min(best, time.process_time_ns() - began)
    return best / count / 1000


def _per_event(bench: Bench, count: int, *, translated: bool) -> float:
    """Microseconds of CPU of one stream event."""
    best = min(sum(bench.stream(translated=translated) for _ in range(count)) for _ in range(ROUNDS))
    return best / count / 1000 / len(stream_events())


def _after_pause(one: Callable[[], object], count: int) -> float:
    """The median when the processor did other things before: what a request costs on a machine that is not busy."""
    costs: list[int] = []
    for _ in range(count):
        time.sleep(PAUSE)
        began = time.process_time_ns()
        one()
        costs.append(time.process_time_ns() - began)
    return statistics.median(costs) / 1000


def measure() -> dict[str, float]:
    """All numbers, in microseconds of CPU."""
    # The multi-process metrics choose their files on import, as in a worker.
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="bench-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from extproc.ledger.memory import MemoryLedger

    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=os.devnull)
    null, memory = Bench(_NullLedger()), Bench(MemoryLedger())
    requests = [_timed(bench.request, 300) for bench in (null, memory)]
    part = _timed(null.envoys_part, 300)
    return {
        "request_us": requests[0] - part,
        "request_after_pause_us": _after_pause(null.request, 150) - _after_pause(null.envoys_part, 150),
        "request_memory_ledger_us": requests[1] - part,
        "event_translated_us": _per_event(null, 12, translated=True),
        "event_passed_us": _per_event(null, 12, translated=False),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
