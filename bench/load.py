"""A load client of raw HTTP/1.1 over keep-alive connections, in a process of its own; it prints one JSON object.

    echo '{"port": 1, "path": "/", "body": "", "connections": 1, "seconds": 1}' | python -m bench.load

Closed loop: each connection sends the next request when its answer is complete. Latency is from the first byte sent
to the last byte received; `first` is until the first byte of the answer's body.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop


class _Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, sums: _Sums) -> None:
        self._request, self._sums = request, sums
        self._buffer = b""
        self._left = -1  # bytes due of a body with a length; -1: in the headers; -2: chunked
        self._first = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._sums.until:
            self._transport.close()
            return
        self._began, self._first, self._left, self._buffer = time.perf_counter(), 0.0, -1, b""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._left == -1:
            self._buffer += data
            head, found, data = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._buffer = b""
            lower = head.lower()
            self._sums.bad += lower[9:12] != b"200"
            if lower[9:12] != b"200" and not self._sums.example:
                self._sums.example = (head + b"\r\n\r\n" + data).decode("latin-1")[:600]
            length = lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._left = int(length) if length else -2
        if data and not self._first:
            self._first = time.perf_counter()
        if self._left == -2:
            self._sums.events += data.count(b"data: ")
            self._buffer = (self._buffer + data)[-5:]
            if self._buffer == b"0\r\n\r\n":
                self._over()
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._over()

    def _over(self) -> None:
        now = time.perf_counter()
        self._sums.latency.append(now - self._began)
        self._sums.first.append((self._first or now) - self._began)
        self._sums.last = now
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sums.lost += exc is not None or time.perf_counter() < self._sums.until
        self._sums.open -= 1
        if not self._sums.open:
            self._sums.done.set()


class _Sums:
    def __init__(self, connections: int, until: float) -> None:
        self.open, self.until = connections, until
        self.latency: list[float] = []
        self.first: list[float] = []
        self.bad = self.lost = self.events = 0
        self.last = 0.0
        self.example = ""
        self.done = asyncio.Event()


def request(port: int, path: str, body: str) -> bytes:
    """One request, ready to send."""
    data = body.encode()
    head = (f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer bench\r\nuser-agent: bench\r\ncontent-length: {len(data)}\r\n\r\n")
    return head.encode() + data


async def _run(job: dict[str, Any]) -> None:
    began = time.perf_counter()
    sums = _Sums(job["connections"], began + job["seconds"])
    loop, sent = asyncio.get_running_loop(), request(job["port"], job["path"], job["body"])
    for _ in range(job["connections"]):
        await loop.create_connection(lambda: _Caller(sent, sums), "127.0.0.1", job["port"])
    try:
        await asyncio.wait_for(sums.done.wait(), job["seconds"] + 8)
    except TimeoutError:
        sums.lost += sums.open
    json.dump({
        "seconds": max(sums.last - began, 1e-9), "requests": len(sums.latency), "bad": sums.bad, "lost": sums.lost,
        "events": sums.events, "latency": [round(x * 1e6) for x in sums.latency],
        "first": [round(x * 1e6) for x in sums.first], "example": sums.example,
    }, sys.stdout)


if __name__ == "__main__":
    uvloop.run(_run(json.load(sys.stdin)))
