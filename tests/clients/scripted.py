"""Answers that no stand-in by others gives: thinking with its signature, cache tokens, pings, arguments in small pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count

from tests.clients.providers import Reply, Task
from tests.data_plane.upstream import Seen

THOUGHT = "I should look into the file."
SIGNATURE = "c2lnbmF0dXJlLW9mLXRoZS10aG91Z2h0"
OPENAI_TOKENS = {"input": 500, "cache_read": 1500, "output": 50, "reasoning": 20}
ANTHROPIC_TOKENS = {"input": 500, "cache_read": 1400, "cache_write_5m": 100, "cache_write_1h": 0, "output": 70}
OLLAMA_TOKENS = {"input": 2000, "output": 70}
"""What one answer used, as a record says it: disjoint classes."""
PIECE = 3
"""Characters of a piece of text or arguments."""

_ids = count(1)


def _turn(seen: Seen, task: Task) -> tuple[list[dict], str]:
    """The calls and the text of this turn; a request without the tool (a title) gets a text only."""
    body = seen.json
    assert body.get("stream") is True, "the clients of these tests stream"
    if task.tool.encode() not in json.dumps(body.get("tools", [])).encode():
        return [], "A title"
    number = sum(m["role"] == "assistant" for m in body["messages"])
    if number >= len(task.calls):
        return [], task.answer
    return [{"id": f"call{next(_ids):05d}", "arguments": json.dumps(a)} for a in task.calls[number]], ""


def _cut(text: str) -> list[str]:
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


# ------------------------------------------------------------------------------------------ OpenAI chat

def openai(seen: Seen, task: Task) -> Reply:
    """A reasoning model behind /v1/chat/completions: `reasoning_content`, interleaved calls, cached tokens."""
    calls, text = _turn(seen, task)
    return Reply(_openai_events(calls, text, task.tool))


def deepseek(seen: Seen, task: Task) -> Reply:
    """The same, but as strict as DeepSeek: the reasoning before a call must come back with the call."""
    if not all("reasoning_content" in message for message in _callers(seen)):
        return _refusal("The `reasoning_content` in the thinking mode must be passed back to the API.")
    return openai(seen, task)


def mistral(seen: Seen, task: Task) -> Reply:
    """The same, but as strict as Mistral: ids of calls have nine letters or digits, usage comes unasked."""
    if "stream_options" in seen.json:
        return _refusal("Extra inputs are not permitted: stream_options")
    for call in (call for message in _callers(seen) for call in message["tool_calls"]):
        if not re.fullmatch(r"[a-zA-Z0-9]{9}", call["id"]):
            return _refusal(f"Tool call id was {call['id']} but must be a-z, A-Z, 0-9, with a length of 9.")
    return openai(seen, task)


def _callers(seen: Seen) -> list[dict]:
    return [message for message in seen.json["messages"] if message.get("tool_calls")]


def _refusal(message: str) -> Reply:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_request_error"}}
    return Reply([json.dumps(body).encode()], 400, {"content-type": "application/json"})


def _openai_events(calls: list[dict], text: str, tool: str) -> Iterator[bytes]:
    def chunk(delta: dict, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _data({**head, "choices": [choice], "usage": None})

    head = {"id": f"chatcmpl-{next(_ids)}", "object": "chat.completion.chunk", "created": 1763856000, "model": "reasoner"}
    yield b": keep-alive\n\n"
    yield chunk({"role": "assistant", "content": None, "reasoning_content": ""})
    for piece in _cut(THOUGHT):
        yield chunk({"reasoning_content": piece})
    for piece in _cut(text):
        yield chunk({"content": piece})
    for index, call in enumerate(calls):
        begin = {"index": index, "id": call["id"], "type": "function"}
        yield chunk({"tool_calls": [{**begin, "function": {"name": tool, "arguments": ""}}]})
        for piece in _cut(call["arguments"]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, "tool_calls" if calls else "stop")
    usage = {"prompt_tokens": 2000, "completion_tokens": 70, "total_tokens": 2070,
             "prompt_tokens_details": {"cached_tokens": 1500}, "completion_tokens_details": {"reasoning_tokens": 20}}
    yield _data({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _data(value: dict) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


# ------------------------------------------------------------------------------------------ Ollama's own chat

def ollama(seen: Seen, task: Task) -> Reply:
    """A thinking model behind /api/chat: lines of JSON, each call whole in one of them, counts in the last."""
    assert seen.path == "/api/chat", seen.path
    calls, text = _turn(seen, task)
    return Reply(_ollama_lines(calls, text, task.tool), headers={"content-type": "application/x-ndjson"})


def _ollama_lines(calls: list[dict], text: str, tool: str) -> Iterator[bytes]:
    def line(**message: object) -> bytes:
        return _line({"message": {"role": "assistant", "content": "", **message}, "done": False})

    for piece in _cut(THOUGHT):
        yield line(thinking=piece)
    for piece in _cut(text):
        yield line(content=piece)
    for index, call in enumerate(calls):
        function = {"index": index, "name": tool, "arguments": json.loads(call["arguments"])}
        yield line(tool_calls=[{"id": call["id"], "function": function}])
    yield _line({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
                 "prompt_eval_count": 2000, "eval_count": 70, "total_duration": 5, "eval_duration": 3})


def _line(fields: dict) -> bytes:
    head = {"model": "qwen3-coder", "created_at": "2025-11-23T00:00:00Z"}
    return json.dumps({**head, **fields}).encode() + b"\n"


# ------------------------------------------------------------------------------------------ Anthropic messages

def anthropic(seen: Seen, task: Task) -> Reply:
    """Claude with thinking: a signed thought first, pings, arguments in pieces, tokens read from and written to the cache."""
    calls, text = _turn(seen, task)
    return Reply(_anthropic_events(calls, text, task.tool))


def _anthropic_events(calls: list[dict], text: str, tool: str) -> Iterator[bytes]:
    def block(index: int, start: dict, *deltas: dict) -> Iterator[bytes]:
        yield _event("content_block_start", index=index, content_block=start)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)

    usage = {"input_tokens": 500, "cache_read_input_tokens": 1400, "cache_creation_input_tokens": 100,
             "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0}}
    yield _event("message_start", message={
        "id": f"msg_{next(_ids)}", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}})
    yield _event("ping")
    thought = [{"type": "thinking_delta", "thinking": piece} for piece in _cut(THOUGHT)]
    signed = {"type": "signature_delta", "signature": SIGNATURE}
    yield from block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thought, signed)
    if text:
        yield from block(1, {"type": "text", "text": ""}, *({"type": "text_delta", "text": p} for p in _cut(text)))
    for index, call in enumerate(calls, 1):
        start = {"type": "tool_use", "id": f"toolu_{call['id']}", "name": tool, "input": {}}
        pieces = ({"type": "input_json_delta", "partial_json": p} for p in ("", *_cut(call["arguments"])))
        yield from block(index, start, *pieces)
    stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage={**usage, "output_tokens": 70})
    yield _event("message_stop")


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
