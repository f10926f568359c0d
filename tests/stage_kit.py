"""Small builders for tests of the stages: a configuration, a decision, the events of one attempt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from extproc.config import parse
from extproc.core.attempt_stage import AttemptStage
from extproc.core.dispatch import passed
from extproc.core.events import (
    Action,
    Admission,
    Begun,
    Carried,
    Emit,
    End,
    Event,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    pack,
)
from extproc.core.request_stage import RequestStage
from extproc.core.routing.view import View
from extproc.runtime import Runtime

RID = "0192f0c1a2b37c4d8e5f60718293a4b5"
NOW = 1_790_000_000_000
CLIENT_KEY = "client-secret-key"
CONFIG = """
backends:
  gpt: {schema: openai, base_url: https://api.openai.com/v1, location: cloud, api_key: sk-openai}
  claude: {schema: anthropic, base_url: https://api.anthropic.com, location: cloud, api_key: sk-ant}
  qwen:
    schema: openai
    base_url: http://127.0.0.1:11434/v1
    location: local
    lacks: [images]
    models: {q: {context: 1000}}
chains:
  cloud: [claude/c, gpt/g, qwen/q]
  local: [qwen/q]
models: {auto: smart, "claude-*": cloud, exact: local}
"""
HEADERS = {":method": "POST", ":path": "/v1/chat/completions", ":authority": "gateway", ":scheme": "http",
           "content-type": "application/json"}
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
TARGETS = {"openai": "gpt/g", "anthropic": "claude/c"}
ASK: dict[str, Any] = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
ADMISSION = Admission(org="o", team="t", project="", user="", key="", route="cloud", reason="r", model="auto",
                      schema="openai", stream=True)


def runtime(extra: str = "", base: str = CONFIG) -> Runtime:
    """The compiled configuration, with more YAML behind it."""
    return Runtime(parse(base + extra, "t", Path()), lambda provider, model: (None, None))


def body(**fields: Any) -> bytes:
    """A request body that both schemas accept."""
    return msgspec.json.encode({**ASK, **fields})


def request_stage(rt: Runtime | None = None) -> RequestStage:
    """A fresh request stage."""
    rt = rt or runtime()
    return RequestStage(rt, RID, View(rt.config.routing))


def carried(schema: str = "openai", *, stream: bool = True, **fields: Any) -> Carried:
    """A decision as the request stage makes it."""
    return msgspec.structs.replace(
        Carried(rid=RID, generation="g", schema=schema, stream=stream, include_usage=False, model="auto", estimate=10,
                admitted=NOW, admission=ADMISSION), **fields)


class Attempt:
    """An attempt stage with all that it did, and the invariants that hold after every event."""

    def __init__(self, client: str = "openai", backend: str = "openai", *, stream: bool = True,
                 rt: Runtime | None = None, **fields: Any) -> None:
        self.runtime = rt or runtime()
        self.stage = AttemptStage(lambda generation: self.runtime)
        self.carried = carried(client, stream=stream, **fields)
        self.client, self.target = client, TARGETS.get(backend, backend)
        self.actions: list[Action] = []

    def hear(self, *events: Event, now: int = NOW) -> list[Action]:
        """Give events; return their actions."""
        out = [action for event in events for action in self.stage.receive(event, now)]
        self.actions += out
        return out

    def dispatched(self, headers: dict[str, str] | None = None, request: bytes | None = None,
                   number: int = 1) -> Attempt:
        """Bring the attempt to where its request has left."""
        told = {**HEADERS, ":path": PATHS[self.client], **(headers or {})}
        if number == 1:
            self.carried = msgspec.structs.replace(
                self.carried, query=told[":path"].partition("?")[2], passed=passed(self.client, told))
        self.hear(
            RequestHeaders(told, False, decision=pack(self.carried), target=self.target, attempt=number),
            RequestBody(body(stream=self.carried.stream) if request is None else request),
            Begun("OK"),
        )
        return self

    def answered(self, status: int = 200, content_type: str = "text/event-stream", *, end: bool = False,
                 **headers: str) -> Attempt:
        """Give the response headers."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        self.hear(ResponseHeaders({":status": str(status), "content-type": content_type, **more}, end))
        return self

    def fed(self, chunks: Iterable[bytes], *, end: bool = True) -> Attempt:
        """Give the body; `end` marks the last chunk."""
        parts = list(chunks)
        for index, chunk in enumerate(parts):
            self.hear(ResponseBody(chunk, end and index == len(parts) - 1))
        return self

    @property
    def sent(self) -> Proceed:
        """The mutation that dispatches the request."""
        [found] = [a for a in self.actions if isinstance(a, Proceed) and a.phase == "request_body"]
        return found

    @property
    def released(self) -> Proceed:
        """The mutation of the response headers."""
        [found] = [a for a in self.actions if isinstance(a, Proceed) and a.phase == "response_headers"]
        return found

    @property
    def status(self) -> int:
        """What the client is told."""
        return int(self.released.set[":status"])

    @property
    def told(self) -> bytes:
        """The client's body so far."""
        return b"".join(a.chunk for a in self.actions if isinstance(a, Emit))

    @property
    def over(self) -> bool:
        """Whether the client's body has ended, and as the last thing."""
        emits = [a for a in self.actions if isinstance(a, Emit)]
        assert not any(a.end_of_stream for a in emits[:-1]), "something came after the end"
        return bool(emits) and emits[-1].end_of_stream

    @property
    def end(self) -> End:
        """The one settlement."""
        [found] = [a for a in self.actions if isinstance(a, End)]
        return found

    @property
    def reply(self) -> Reply:
        """The one reply."""
        [found] = [a for a in self.actions if isinstance(a, Reply)]
        return found


def openai_stream(*texts: str, usage: bool = True, done: bool = True) -> bytes:
    """A Chat Completions stream as OpenAI sends it."""
    chunk: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "g-1"}
    events = [{**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    events += [{**chunk, "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    events += [{**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}] if done else []
    events += [{**chunk, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}] if usage else []
    out = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    return out + (b"data: [DONE]\n\n" if done else b"")


def anthropic_stream(*texts: str, done: bool = True) -> bytes:
    """A Messages stream as Anthropic sends it."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "c-1",
               "stop_reason": None, "usage": {"input_tokens": 9, "output_tokens": 1}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message}, {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in texts],
    ]
    if done:
        events += [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
             "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
    return b"".join(f"event: {e['type']}\ndata: ".encode() + msgspec.json.encode(e) + b"\n\n" for e in events)


STREAMS = {"openai": openai_stream, "anthropic": anthropic_stream}
