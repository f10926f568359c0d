"""Neutral events -> OpenAI Responses streams and whole answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from extproc.core.conversation import (
    Done,
    Event,
    Failure,
    ThinkingDelta,
    ToolStart,
)
from extproc.core.errors import UpstreamError
from extproc.schemas import _responses_builtin as builtin
from extproc.schemas._codec import encode, json_object
from extproc.schemas._responses_answers import INCOMPLETE, answer_id, envelope, render_usage
from extproc.schemas._responses_thoughts import seal
from extproc.schemas._stream_renderer import BlockRenderer

Fields = dict[str, Any]
_PREFIX = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "builtin": "fc"}
_DELTAS: dict[str, tuple[str, Fields]] = {
    "message": ("response.output_text", {"content_index": 0, "logprobs": []}),
    "reasoning": ("response.reasoning_summary_text", {"summary_index": 0}),
    "function_call": ("response.function_call_arguments", {}),
    "custom_tool_call": ("response.custom_tool_call_input", {}),
}
"""Kind of item -> the family of its delta and done events, and their fixed fields."""
_LONGEST_ID = 40


class _Item(msgspec.Struct):
    """An output item, with all its pieces."""

    kind: str
    id: str
    call: Fields = msgspec.field(default_factory=dict[str, Any])
    pieces: list[str] = msgspec.field(default_factory=list[str])
    sealed: bool = False
    secret: str = ""

    @property
    def text(self) -> str:
        """All its text, arguments or input so far."""
        return "".join(self.pieces)

    @property
    def complete(self) -> bool:
        """Whether nothing more can come once another item has begun. Raw input has no end of its own."""
        match self.kind:
            case "message" | "reasoning":
                return True
            case "custom_tool_call":
                return False
            case _:
                return json_object(self.text)


class ResponsesRenderer(BlockRenderer[_Item]):
    """Neutral events in, typed events out. Indices are contiguous and items never overlap; an item without content is
    never begun."""

    __slots__ = ("_created", "_fallback", "_head", "_id", "_items", "_model", "_number", "_output", "response")

    def __init__(self, *, model: str, created: int, fallback_id: str) -> None:
        super().__init__()
        self._model, self._created, self._fallback = model, created, fallback_id
        self._id = ""
        self._number = 0  # of the next event
        self._items = 0
        self._head = b""  # of the live item's delta events
        self._output: list[Fields] = []
        self.response: Fields = {}
        """The whole response object, once the answer is done."""

    def _event(self, name: str, fields: Fields) -> bytes:
        data = encode({"type": name, **fields, "sequence_number": self._number})
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

    def _start(self, identifier: str) -> bytes:
        if self._id:
            return b""
        self._id = answer_id(identifier, self._fallback)
        response = envelope(self._id, model=self._model, created=self._created, status="in_progress")
        return self._event("response.created", {"response": response}) + self._event(
            "response.in_progress", {"response": response})

    def _text(self, text: str) -> bytes:
        return self._ensure("message") + self._add(self._queue[-1], text)

    def _thinking(self, event: ThinkingDelta) -> bytes:
        if event.redacted is not None:
            return self._push("reasoning", secret=seal(redacted=event.redacted), sealed=True)
        closes = event.signature is not None or event.encrypted is not None
        if not event.text and not closes:
            return b""
        if not event.text and not self._continues("reasoning"):
            return self._push("reasoning", event.id, secret=_secret(event, event.id), sealed=True)
        out = self._ensure("reasoning")
        item = self._queue[-1]
        if event.text:
            out += self._add(item, event.text)
        if closes:
            item.secret, item.sealed = _secret(event, item.id), True
        return out

    def _tool(self, event: ToolStart) -> bytes:
        own = event.namespace == builtin.BUILTIN
        kind = "builtin" if own else "custom_tool_call" if event.kind == "custom" else "function_call"
        call: Fields = {"call_id": event.id or f"call_{self._items}", "name": event.name}
        if event.namespace is not None and not own:
            call["namespace"] = event.namespace
        out = self._push(kind, call=call)
        self._tools[event.index] = self._queue[-1]
        return out

    def _ensure(self, kind: str) -> bytes:
        """Make the last item one of this kind."""
        return b"" if self._continues(kind) else self._push(kind)

    def _push(self, kind: str, identifier: str | None = None, *, call: Fields | None = None, secret: str = "",
              sealed: bool = False) -> bytes:
        head = b"" if self._id else self._start("")
        own = f"{_PREFIX[kind]}_{self._id.removeprefix('resp_')[-_LONGEST_ID:]}_{self._items}"
        self._items += 1
        self._queue.append(_Item(kind, identifier or own, call or {}, secret=secret, sealed=sealed))
        return head + self._advance()

    def _add(self, item: _Item, text: str) -> bytes:
        item.pieces.append(text)
        return self._delta(text) if self._live and item is self._queue[0] else b""

    _add_arguments = _add

    def _delta(self, text: str) -> bytes:
        """The delta event of the live item; those of a builtin call have none."""
        if not self._head:
            return b""
        number = self._number
        self._number += 1
        return self._head + encode(text) + b',"sequence_number":%d}\n\n' % number

    def _open(self, item: _Item) -> bytes:
        self._head = b""
        if item.kind == "builtin":
            return b""  # which item it is shows only in its whole arguments
        index = len(self._output)
        family, fixed = _DELTAS[item.kind]
        place = {"item_id": item.id, "output_index": index}
        meta = encode({"type": f"{family}.delta", **place, **fixed})
        self._head = b"event: " + family.encode() + b".delta\ndata: " + meta[:-1] + b',"delta":'
        out = self._added(_rendered(item, "in_progress", begun=True))
        if item.kind == "message":
            out += self._event("response.content_part.added", {**place, "content_index": 0, "part": _part("")})
        elif item.kind == "reasoning" and (item.pieces or not item.sealed):
            part = {"type": "summary_text", "text": ""}
            out += self._event("response.reasoning_summary_part.added", {**place, "summary_index": 0, "part": part})
        return out + self._delta(item.text) if item.pieces else out

    def _added(self, item: Fields) -> bytes:
        return self._event("response.output_item.added", {"output_index": len(self._output), "item": item})

    def _close(self, item: _Item, *, final: bool) -> bytes:
        done = _rendered(item, "incomplete" if final and self._stop in INCOMPLETE else "completed")
        place = {"item_id": item.id, "output_index": len(self._output)}
        text = item.text
        out = b""
        match item.kind:
            case "message":
                out += self._event("response.output_text.done", {**place, "content_index": 0, "logprobs": [],
                                                                 "text": text})
                out += self._event("response.content_part.done", {**place, "content_index": 0, "part": _part(text)})
            case "reasoning" if text:
                part = {"type": "summary_text", "text": text}
                out += self._event("response.reasoning_summary_text.done", {**place, "summary_index": 0, "text": text})
                out += self._event("response.reasoning_summary_part.done", {**place, "summary_index": 0, "part": part})
            case "function_call":
                out += self._event("response.function_call_arguments.done", {**place, "name": item.call["name"],
                                                                             "arguments": done["arguments"]})
            case "custom_tool_call":
                out += self._event("response.custom_tool_call_input.done", {**place, "input": text})
            case "builtin":
                out += self._added({**done, "status": "in_progress"})
            case _:
                pass
        out += self._event("response.output_item.done", {"output_index": len(self._output), "item": done})
        self._output.append(done)
        return out

    def _done(self) -> bytes:
        out = (b"" if self._id else self._start("")) + self._advance(last=True)
        reason = None if self._stop is None else INCOMPLETE.get(self._stop)
        status = "completed" if reason is None else "incomplete"
        self.response = envelope(
            self._id, model=self._model, created=self._created, status=status, output=self._output,
            usage=render_usage(self._tokens), reason=reason)
        return out + self._event(f"response.{status}", {"response": self.response})


def _secret(event: ThinkingDelta, identifier: str | None) -> str:
    """The encrypted content of a closed item. OpenAI's own stays as it is under the id it was made for."""
    if event.encrypted is not None and event.signature is None and event.id in (None, identifier):
        return event.encrypted
    return seal(signature=event.signature, encrypted=event.encrypted, id=event.id)


def _part(text: str) -> Fields:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _rendered(item: _Item, status: str, *, begun: bool = False) -> Fields:
    """The item's object; when it has just `begun`, without content."""
    text = "" if begun else item.text
    match item.kind:
        case "message":
            content = [] if begun else [_part(text)]
            return {"id": item.id, "type": "message", "status": status, "role": "assistant", "content": content}
        case "reasoning":
            summary = [{"type": "summary_text", "text": text}] if text else []
            secret = None if begun else item.secret or seal()
            return {"id": item.id, "type": "reasoning", "summary": summary, "encrypted_content": secret}
        case "custom_tool_call":
            return {"id": item.id, "type": item.kind, "status": status, "input": text, **item.call}
        case "builtin" if (call := builtin.write_call(item.call["name"], text)) is not None:
            identifier = item.id.replace("fc", builtin.ID_PREFIX[call["type"]], 1)
            return {"id": identifier, **call, "call_id": item.call["call_id"], "status": status}
        case _:
            arguments = "" if begun else text or "{}"
            return {"id": item.id, "type": "function_call", "status": status, "arguments": arguments, **item.call}


def render_response(events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
    """The response object; raise UpstreamError when the events hold a Failure."""
    renderer = ResponsesRenderer(model=model, created=created, fallback_id=fallback_id)
    for event in events:
        if isinstance(event, Failure):
            raise UpstreamError(event.message, kind=event.kind)
        renderer.feed(event)
    renderer.feed(Done())
    return encode(renderer.response)
