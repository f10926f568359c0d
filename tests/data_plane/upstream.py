"""A scripted provider: every backend is a path prefix of one server; each request takes the next script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field


@dataclass
class Script:
    """One answer. `chunks` are written one by one with `pause` between; `fault` breaks the connection."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    first_pause: float = 0.0
    fault: str = ""
    """Before the headers: reset; after the chunks: reset_mid, hang, garbage (what is no HTTP)."""


@dataclass
class Seen:
    """One request as the provider saw it."""

    backend: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        """The parsed body."""
        return json.loads(self.body)


class Upstream:
    """Runs in a thread of its own on a free loopback port."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.asked: list[Seen] = []
        self.scripts: dict[str, deque[Script]] = defaultdict(deque)
        self.always: dict[str, Script] = {}
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()

    def stop(self) -> None:
        """End the server."""
        async def close() -> None:
            self._server.close()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def reset(self) -> None:
        """Forget requests and scripts."""
        self.seen.clear()
        self.asked.clear()
        self.scripts.clear()
        self.always.clear()

    def script(self, backend: str, *scripts: Script) -> None:
        """Queue answers of a backend."""
        self.scripts[backend].extend(scripts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (r.partition(":") for r in rest)}
        method, path, _ = line.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        backend = path.split("/")[1]
        if method == "GET":  # a gateway asks what it is, or a health check comes, at any time: no request, no script
            self.asked.append(Seen(backend, method, path, headers, body))
            return await self._play(Script(404, chunks=[b"no such page"]), writer)
        self.seen.append(Seen(backend, method, path, headers, body))
        queue = self.scripts[backend]
        script = queue.popleft() if queue else self.always.get(backend, Script(500, chunks=[b"no script"]))
        return await self._play(script, writer)

    async def _play(self, script: Script, writer: asyncio.StreamWriter) -> bool:
        if script.fault == "reset":
            _abort(writer)
            return False
        headers = {"content-type": "application/json", **script.headers}
        fixed = "content-length" in headers
        if not fixed:
            headers["transfer-encoding"] = "chunked"
        text = f"HTTP/1.1 {script.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        writer.write(text.encode())
        await writer.drain()
        await asyncio.sleep(script.first_pause)
        for chunk in script.chunks:
            writer.write(chunk if fixed else b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
            if script.pause:
                await asyncio.sleep(script.pause)
        if script.fault == "reset_mid":
            await asyncio.sleep(0.05)
            _abort(writer)
            return False
        if script.fault == "garbage":
            await asyncio.sleep(0.05)
            writer.write(b"zz\r\n")  # no length of a chunk
            await writer.drain()
            return False
        if script.fault == "hang":
            await asyncio.sleep(30)
        if not fixed:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _abort(writer: asyncio.StreamWriter) -> None:
    """Send RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# ------------------------------------------------------------------------------------------ answers

def openai_json(text: str = "hello", *, model: str = "gpt-5-mini-2025") -> Script:
    """A whole OpenAI answer: 20 input (5 cached), 7 output (3 reasoning)."""
    body = json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1755137933, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": None},
                     "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27,
                  "prompt_tokens_details": {"cached_tokens": 5},
                  "completion_tokens_details": {"reasoning_tokens": 3}},
        "future_field": {"kept": True},
    }).encode()
    return Script(chunks=[body])


def openai_sse(*words: str, usage: bool = True, done: bool = True, **script) -> Script:
    """A streamed OpenAI answer with the usage chunk."""
    def chunk(delta, finish=None):
        return b"data: " + json.dumps({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1755137933, "model": "gpt-5-mini-2025",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"

    chunks = [chunk({"role": "assistant", "content": ""})] + [chunk({"content": w}) for w in words]
    chunks.append(chunk({}, "stop"))
    if usage:
        chunks.append(b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1755137933,'
                      b'"model":"gpt-5-mini-2025","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":7,'
                      b'"total_tokens":27}}\n\n')
    if done:
        chunks.append(b"data: [DONE]\n\n")
    return Script(headers={"content-type": "text/event-stream"}, chunks=chunks, **script)


def anthropic_json(text: str = "hello") -> Script:
    """A whole Anthropic answer: 20 input, 4 cache read, 3 cache write, 7 output."""
    return Script(chunks=[json.dumps({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 20, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3,
                  "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0},
                  "output_tokens": 7}}).encode()])


def anthropic_sse(*words: str, stop: bool = True, **script) -> Script:
    """A streamed Anthropic answer."""
    def event(kind, **data):
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()

    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 20, "output_tokens": 1}}
    chunks = [event("message_start", message=message),
              event("content_block_start", index=0, content_block={"type": "text", "text": ""}), event("ping")]
    chunks += [event("content_block_delta", index=0, delta={"type": "text_delta", "text": w}) for w in words]
    chunks.append(event("content_block_stop", index=0))
    if stop:
        chunks.append(event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None},
                            usage={"output_tokens": 7}))
        chunks.append(event("message_stop"))
    return Script(headers={"content-type": "text/event-stream"}, chunks=chunks, **script)


def overloaded_sse() -> Script:
    """A 200 stream whose first event is Anthropic's overloaded error."""
    return Script(headers={"content-type": "text/event-stream"}, chunks=[
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'])


def error(status: int, message: str = "no", kind: str = "server_error", **headers: str) -> Script:
    """An OpenAI-shaped error answer."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": kind}}).encode()
    return Script(status, headers=dict(headers), chunks=[body])
