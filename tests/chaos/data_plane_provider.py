"""A provider that keeps its own bill: it answers, refuses, breaks off and stalls at random, and notes what it charges.

Every backend is a path prefix of one server. The number of a bill's entry is in the model's name that the answer
reports, so that it reaches the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

PRICES = {
    "oa0": (Decimal("3.003625"), Decimal("15.0075")),
    "oa1": (Decimal("0.400001"), Decimal("1.600003")),
    "an0": (Decimal("2.718281"), Decimal("13.141592")),
    "lo0": (Decimal(0), Decimal(0)),
}
"""Dollars per million input and output tokens; uneven, so that every rounding shows."""
MOST_TOKENS = 400
"""Of output, that anybody asks for."""
MARKER = re.compile(rb"\[([a-z]+-r\d+t\d)\]")
"""What names a client's request: a text in its prompt, and the model that it asks for."""
FATES = {
    "answer": 820, "429": 25, "500": 25, "503": 20, "529": 20, "reset": 15, "overloaded first": 25, "cut": 15,
    "error inside": 10, "slow": 8, "silence": 8,
}  # fmt: skip
STREAMED = {"overloaded first", "cut", "error inside", "silence"}
"""Fates that only a stream can have; a whole answer has a 529 in their place."""
SLOW = 2.5
"""Seconds: longer than the deadlines of the gateway under test."""


@dataclass
class Entry:
    """One request as the provider saw it. `cost`: n$ by the usage that it reported whole, None when it reported none."""

    number: int
    marker: str
    backend: str
    fate: str
    cost: int | None = None
    lied: bool = False


@dataclass
class Usage:
    """Tokens of one answer; `cached` is a part of `input`, `reasoning` one of `output`."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0


def price(backend: str, usage: Usage) -> int:
    """What the provider charges, n$: rounded up once per answer."""
    per_input, per_output = PRICES[backend]
    exact = (per_input * usage.input + per_output * usage.output) * 1000
    return int(exact.to_integral_value(ROUND_CEILING))


@dataclass
class Provider:
    """Serve on a free loopback port of the running loop. `lying`: some answers report far more than they may."""

    seed: int
    lying: bool = False
    bill: list[Entry] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """End all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # the run is over
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (r.partition(":") for r in rest)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        found = MARKER.search(body)
        assert found is not None, "a request without a marker reached the provider"
        asked = json.loads(body)
        stream = bool(asked.get("stream"))
        fate = self._random.choices(list(FATES), list(FATES.values()))[0]
        entry = Entry(
            len(self.bill), found[1].decode(), line.split(" ")[1].split("/")[1],
            "529" if fate in STREAMED and not stream else fate,
        )  # fmt: skip
        self.bill.append(entry)
        if entry.fate == "reset":
            _abort(writer)
            return False
        if entry.fate.isdigit():
            await asyncio.sleep(self._random.uniform(0, 0.05))
            return await _whole(writer, int(entry.fate), _error(entry))
        await asyncio.sleep(SLOW if entry.fate == "slow" else self._random.uniform(0, 0.2))
        usage = self._usage(asked, entry)
        if stream:
            return await self._stream(writer, entry, usage)
        entry.cost = price(entry.backend, usage)
        return await _whole(writer, 200, _answer(entry, usage))

    def _usage(self, asked: dict[str, Any], entry: Entry) -> Usage:
        roll = self._random
        content = asked["messages"][-1]["content"]
        most = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 1)
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        put, out = roll.randint(1, max(len(text) // 4, 1)), roll.randint(1, most)
        if self.lying and roll.random() < 0.08:
            entry.lied = True
            put, out = put * roll.randint(20, 400), most * roll.randint(2, 50)
        return Usage(put, out, roll.randint(0, put), roll.randint(0, out))

    async def _stream(self, writer: asyncio.StreamWriter, entry: Entry, usage: Usage) -> bool:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if entry.fate == "overloaded first":
            await _chunks(writer, [_event_error(entry)])
            return True
        first, words, last = _events(entry, usage, self._random.randint(1, 5))
        for event in (*first, *words):
            await _write(writer, event)
            await asyncio.sleep(self._random.uniform(0, 0.04))
        if entry.fate == "cut":
            _abort(writer)
            return False
        if entry.fate == "error inside":
            await _chunks(writer, [_event_error(entry)])
            return True
        if entry.fate == "silence":
            await asyncio.sleep(SLOW)
        entry.cost = price(entry.backend, usage)
        await _chunks(writer, last)
        return True


def _abort(writer: asyncio.StreamWriter) -> None:
    """Send RST instead of FIN."""
    if writer.transport.is_closing():  # the gateway was faster
        return
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _whole(writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
    writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
    writer.write(body)
    await writer.drain()
    return True


async def _write(writer: asyncio.StreamWriter, event: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
    await writer.drain()


async def _chunks(writer: asyncio.StreamWriter, events: list[bytes]) -> None:
    """Write the last events and the end."""
    for event in events:
        await _write(writer, event)
    writer.write(b"0\r\n\r\n")
    with contextlib.suppress(ConnectionError):  # all that counts is written
        await writer.drain()


# ------------------------------------------------------------------------------------------ what it says

def _model(entry: Entry) -> str:
    return f"{entry.backend}-b{entry.number}"


def _error(entry: Entry) -> bytes:
    kind = {"429": "rate_limit_error", "529": "overloaded_error"}.get(entry.fate, "api_error")
    told = {"type": kind, "message": f"not now ({entry.fate})"}
    whole = {"type": "error", "error": told} if entry.backend == "an0" else {"error": {**told, "code": None}}
    return json.dumps(whole).encode()


def _event_error(entry: Entry) -> bytes:
    if entry.backend == "an0":
        return _named("error", error={"type": "overloaded_error", "message": "Overloaded"})
    return b'data: {"error":{"message":"overloaded","type":"server_error","code":"server_error"}}\n\n'


def _answer(entry: Entry, usage: Usage) -> bytes:
    if entry.backend == "an0":
        return json.dumps({
            "id": f"msg_{entry.number}", "type": "message", "role": "assistant", "model": _model(entry),
            "content": [{"type": "text", "text": "word"}], "stop_reason": "end_turn", "stop_sequence": None,
            "usage": _anthropic_usage(usage),
        }).encode()  # fmt: skip
    return json.dumps({
        "id": f"chatcmpl-{entry.number}", "object": "chat.completion", "created": 1755137933, "model": _model(entry),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}],
        "usage": _openai_usage(usage),
    }).encode()  # fmt: skip


def _anthropic_usage(usage: Usage) -> dict[str, int]:
    read = usage.cached // 2
    return {
        "input_tokens": usage.input - usage.cached, "cache_read_input_tokens": read,
        "cache_creation_input_tokens": usage.cached - read, "output_tokens": usage.output,
    }  # fmt: skip


def _openai_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }  # fmt: skip


def _named(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _events(entry: Entry, usage: Usage, words: int) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The first events, the text, and the last events, of which the first reports the whole usage."""
    if entry.backend == "an0":
        told = _anthropic_usage(usage)
        message = {
            "id": f"msg_{entry.number}", "type": "message", "role": "assistant", "model": _model(entry), "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {**told, "output_tokens": 1},
        }  # fmt: skip
        first = [_named("message_start", message=message),
                 _named("content_block_start", index=0, content_block={"type": "text", "text": ""})]
        text = [_named("content_block_delta", index=0, delta={"type": "text_delta", "text": "w"})] * words
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        return first, text, [
            _named("content_block_stop", index=0),
            _named("message_delta", delta=end, usage={"output_tokens": usage.output}), _named("message_stop"),
        ]  # fmt: skip

    def chunk(choices: list[Any], **more: Any) -> bytes:
        return b"data: " + json.dumps({
            "id": f"chatcmpl-{entry.number}", "object": "chat.completion.chunk", "created": 1755137933,
            "model": _model(entry), "choices": choices, **more}).encode() + b"\n\n"

    def delta(what: dict[str, str], finish: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": what, "finish_reason": finish}])

    first = [delta({"role": "assistant", "content": ""})]
    last = [delta({}, "stop"), chunk([], usage=_openai_usage(usage)), b"data: [DONE]\n\n"]
    return first, [delta({"content": "w"})] * words, last
