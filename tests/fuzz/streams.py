"""Provider streams whose content is known: recorded ones, and recorded or written answers said as each provider streams.

The writers follow the providers' documents (Anthropic "Streaming messages", OpenAI "Streaming events", Ollama
docs/api.md) and share nothing with the codecs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from tests.recordings import DATA, recordings

Json = dict[str, Any]
USAGE = {"input": 31, "cached": 7, "output": 19, "reasoning": 5}
"""What every written stream reports: 7 of the 31 input tokens were cached, 5 of the 19 output tokens were reasoning."""


class Said(msgspec.Struct, frozen=True):
    """What an answer says: thinking, then text, then tool calls of (id, name, arguments)."""

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()


class Source(msgspec.Struct, frozen=True):
    """One provider stream. `thinking` None: not told apart; `input` and `output` are its total tokens, if reported."""

    name: str
    schema: str
    stream: bytes
    said: Said
    input: int | None
    output: int | None
    recorded: bool = False

    @property
    def terminal(self) -> int:
        """The offset just after the last byte of data: from there on the answer is complete."""
        # OpenRouter sends OpenAI's older sign after the terminal event of a Responses stream.
        ended = self.stream.removesuffix(b"data: [DONE]\n\n") if self.schema == "responses" else self.stream
        return len(ended.rstrip(b"\r\n"))


ANSWERS = {
    "text": Said("Hé\r\n\n, \"wörld\" 🙂\u2028data: x"),
    "thinking": Said("42", "first {\"a\":1}\nthen\ttabs"),
    "call": Said("", "", (("call_abcDEF012", "read", '{"path": "a\\nb", "n": 9007199254740993}'),)),
    "calls": Said("I look.", "hmm", (
        ("call_abcDEF012", "read", '{"path":"ü"}'), ("call_abcDEF013", "read", "{}"),
        ("call_abcDEF014", "write", '{"deep":{"er":[1,2,{"x":"}"}]},"s":"\\ud83d\\ude42"}'))),
}


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _sse(*values: Json | str, named: bool = False) -> bytes:
    out: list[bytes] = []
    for value in values:
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=len(out) % 2 == 0)
        name = f"event: {value['type']}\n" if named and isinstance(value, dict) else ""
        out.append(f"{name}data: {data}\n\n".encode())
    return b"".join(out)


def write(schema: str, said: Said, size: int = 5) -> bytes:
    """An answer as a provider of this schema streams it, in pieces of `size` characters."""
    return _WRITERS[schema](said, size)


def _anthropic(said: Said, size: int) -> bytes:
    fresh = USAGE["input"] - USAGE["cached"]
    usage = {"input_tokens": fresh, "cache_read_input_tokens": USAGE["cached"], "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "c-1", "stop_reason": None,
               "stop_sequence": None, "usage": usage}
    out: list[Json] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    blocks: list[tuple[Json, list[Json]]] = []
    if said.thinking:
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(said.thinking, size)]
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""},
                       [*deltas, {"type": "signature_delta", "signature": "c2ln"}]))
    if said.text:
        blocks.append(({"type": "text", "text": ""},
                       [{"type": "text_delta", "text": piece} for piece in _pieces(said.text, size)]))
    for identifier, name, arguments in said.calls:
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *_pieces(arguments, size)]]
        blocks.append(({"type": "tool_use", "id": identifier, "name": name, "input": {}}, deltas))
    for index, (block, deltas) in enumerate(blocks):
        out.append({"type": "content_block_start", "index": index, "content_block": block})
        out += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        out.append({"type": "content_block_stop", "index": index})
    reason = "tool_use" if said.calls else "end_turn"
    counted = {"output_tokens": USAGE["output"], "output_tokens_details": {"thinking_tokens": USAGE["reasoning"]}}
    out.append({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": counted})
    return _sse(*out, {"type": "message_stop"}, named=True)


def _openai_usage() -> Json:
    return {"prompt_tokens": USAGE["input"], "completion_tokens": USAGE["output"],
            "total_tokens": USAGE["input"] + USAGE["output"],
            "prompt_tokens_details": {"cached_tokens": USAGE["cached"]},
            "completion_tokens_details": {"reasoning_tokens": USAGE["reasoning"]}}


def _deltas_of_calls(said: Said, size: int) -> Iterator[Json]:
    """All calls are begun, then their fragments come in turns, as a server with parallel calls may send them."""
    for index, (identifier, name, _) in enumerate(said.calls):
        yield {"tool_calls": [{"index": index, "id": identifier, "type": "function",
                               "function": {"name": name, "arguments": ""}}]}
    waiting = [(index, _pieces(arguments, size)) for index, (_, _, arguments) in enumerate(said.calls)]
    while any(rest for _, rest in waiting):
        for index, rest in waiting:
            if rest:
                yield {"tool_calls": [{"index": index, "function": {"arguments": rest.pop(0)}}]}


def _openai(said: Said, size: int) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "g-1"}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in _pieces(said.thinking, size)]
    deltas += [{"content": piece} for piece in _pieces(said.text, size)]
    deltas += _deltas_of_calls(said, size)
    out: list[Json] = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    reason = "tool_calls" if said.calls else "stop"
    out.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return _sse(*out, {**head, "choices": [], "usage": _openai_usage()}, "[DONE]")


def _mistral(said: Said, size: int) -> bytes:
    """Thinking as content parts, whole calls in one chunk, usage with the finish reason."""
    head = {"id": "m1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]}
               for piece in _pieces(said.thinking, size)]
    deltas += [{"content": piece} for piece in _pieces(said.text, size)]
    if said.calls:
        deltas.append({"tool_calls": [{"id": identifier, "index": index, "function": {"name": name, "arguments": text}}
                                      for index, (identifier, name, text) in enumerate(said.calls)]})
    out: list[Json] = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    reason = "tool_calls" if said.calls else "stop"
    last = {**head, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": reason}], "usage": _openai_usage()}
    return _sse(*out, last, "[DONE]")


def _completions(said: Said, size: int) -> bytes:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "g-1"}
    out: list[Json] = [{**head, "choices": [{"index": 0, "text": piece, "finish_reason": None}]}
                       for piece in _pieces(said.text, size)]
    out.append({**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    return _sse(*out, {**head, "choices": [], "usage": _openai_usage()}, "[DONE]")


def _responses(said: Said, size: int) -> bytes:
    response: Json = {"id": "resp_1", "object": "response", "created_at": 1, "model": "g-1", "status": "in_progress",
                      "output": [], "usage": None, "error": None, "incomplete_details": None}
    out: list[Json] = [{"type": "response.created", "response": response},
                       {"type": "response.in_progress", "response": response}]
    items: list[Json] = []
    if said.thinking:
        place = {"item_id": "rs_1", "output_index": 0}
        item: Json = {"id": "rs_1", "type": "reasoning", "summary": []}
        out.append({"type": "response.output_item.added", "output_index": 0, "item": item})
        out += [{"type": "response.reasoning_summary_text.delta", **place, "summary_index": 0, "delta": piece}
                for piece in _pieces(said.thinking, size)]
        item = {**item, "summary": [{"type": "summary_text", "text": said.thinking}]}
        out.append({"type": "response.output_item.done", "output_index": 0, "item": item})
        items.append(item)
    if said.text:
        place = {"item_id": "msg_1", "output_index": len(items)}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        out.append({"type": "response.output_item.added", "output_index": len(items), "item": item})
        out += [{"type": "response.output_text.delta", **place, "content_index": 0, "delta": piece}
                for piece in _pieces(said.text, size)]
        item = {**item, "status": "completed", "content": [{"type": "output_text", "text": said.text, "annotations": []}]}
        out.append({"type": "response.output_item.done", "output_index": len(items), "item": item})
        items.append(item)
    for number, (identifier, name, arguments) in enumerate(said.calls):
        place = {"item_id": f"fc_{number}", "output_index": len(items)}
        item = {"id": f"fc_{number}", "type": "function_call", "call_id": identifier, "name": name, "arguments": ""}
        out.append({"type": "response.output_item.added", "output_index": len(items), "item": item})
        out += [{"type": "response.function_call_arguments.delta", **place, "delta": piece}
                for piece in _pieces(arguments, size)]
        item = {**item, "arguments": arguments, "status": "completed"}
        out.append({"type": "response.output_item.done", "output_index": len(items), "item": item})
        items.append(item)
    usage = {"input_tokens": USAGE["input"], "input_tokens_details": {"cached_tokens": USAGE["cached"]},
             "output_tokens": USAGE["output"], "output_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
             "total_tokens": USAGE["input"] + USAGE["output"]}
    out.append({"type": "response.completed",
                "response": {**response, "status": "completed", "output": items, "usage": usage}})
    return _sse(*({**event, "sequence_number": number} for number, event in enumerate(out)), named=True)


def _ollama(said: Said, size: int) -> bytes:
    """Lines of one object each; calls are whole, their arguments an object."""
    head = {"model": "q", "created_at": "2026-10-01T12:00:00.123456789Z"}
    messages: list[Json] = [{"content": "", "thinking": piece} for piece in _pieces(said.thinking, size)]
    messages += [{"content": piece} for piece in _pieces(said.text, size)]
    lines = [json.dumps({**head, "message": {"role": "assistant", **message}, "done": False}) for message in messages]
    if said.calls:
        # The argument object keeps its own bytes, which a dump of it would change.
        calls = ",".join(f'{{"id":"{identifier}","function":{{"name":"{name}","arguments":{arguments}}}}}'
                         for identifier, name, arguments in said.calls)
        lines.append(json.dumps({**head, "done": False})[:-1]
                     + f',"message":{{"role":"assistant","content":"","tool_calls":[{calls}]}}}}')
    lines.append(json.dumps({
        **head, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
        "total_duration": 1, "load_duration": 1, "prompt_eval_count": USAGE["input"], "prompt_eval_duration": 1,
        "eval_count": USAGE["output"], "eval_duration": 1}))
    return "".join(line + "\n" for line in lines).encode()


_WRITERS = {"anthropic": _anthropic, "openai": _openai, "mistral": _mistral, "completions": _completions,
            "responses": _responses, "ollama": _ollama}
_SCHEMA = {"mistral": "openai"}


# ------------------------------------------------------------------------------------------------ recorded ones


def _data(stream: bytes) -> Iterator[Json]:
    for line in stream.decode().splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def _listen_anthropic(stream: bytes) -> tuple[Said, int | None, int | None]:
    text, thinking, calls, usage = "", "", {}, {}
    for event in _data(stream):
        usage |= {key: value for key, value in {
            **(event.get("message", {}).get("usage") or {}), **(event.get("usage") or {})}.items() if value is not None}
        delta, block = event.get("delta", {}), event.get("content_block", {})
        if block.get("type") == "tool_use":
            calls[event["index"]] = [block["id"], block["name"], ""]
        text += delta.get("text", "")
        thinking += delta.get("thinking", "")
        if event.get("index") in calls:
            calls[event["index"]][2] += delta.get("partial_json", "")
    whole = sum(usage.get(key, 0) for key in (
        "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
    return Said(text, thinking, tuple((i, n, a) for i, n, a in calls.values())), whole, usage.get("output_tokens")


def _listen_openai(stream: bytes) -> tuple[Said, int | None, int | None]:
    text, thinking, calls, usage = "", "", {}, {}
    for event in _data(stream):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            thinking += choice["delta"].get("reasoning_content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                calls.setdefault(call["index"], [call.get("id"), call["function"].get("name"), ""])
                calls[call["index"]][2] += call["function"].get("arguments") or ""
    said = Said(text, thinking, tuple((i, n, a) for i, n, a in calls.values()))
    return said, usage.get("prompt_tokens"), usage.get("completion_tokens")


def _listen_responses(stream: bytes) -> tuple[Said, int | None, int | None]:
    text, thinking, calls, usage = "", "", [], {}
    for event in _data(stream):
        usage = event.get("response", {}).get("usage") or usage
        item = event.get("item", {})
        if event["type"] == "response.output_text.delta":
            text += event["delta"]
        elif event["type"] == "response.output_item.done" and item["type"] == "function_call":
            calls.append((item["call_id"], item["name"], item["arguments"]))
        elif event["type"] == "response.output_item.done" and item["type"] == "reasoning":
            thinking += "".join(part["text"] for part in item.get("content") or item["summary"])
    return Said(text, thinking, tuple(calls)), usage.get("input_tokens"), usage.get("output_tokens")


_LISTEN = {"anthropic": _listen_anthropic, "openai": _listen_openai, "responses": _listen_responses}


def _recorded_streams() -> Iterator[tuple[str, str, bytes]]:
    for schema in _LISTEN:
        for recording in recordings(schema):
            if recording.is_stream:
                yield recording.name, schema, recording.body
    for path in sorted((DATA / "responses" / "recorded").glob("*.json")):
        value = json.loads(path.read_text("utf-8"))
        if value["content_type"].startswith("text/event-stream") and value["status"] == 200:
            yield path.stem, "responses", value["body"].rstrip("\n").encode() + b"\n\n"
    for schema in ("openai", "anthropic"):
        yield f"{schema}_stream", schema, (DATA / f"{schema}_stream.sse").read_bytes()


def _said_in_recordings() -> Iterator[tuple[str, Said]]:
    """Whole recorded answers of OpenAI's schema with tool calls or reasoning, by many providers."""
    for recording in recordings("openai"):
        if recording.is_stream or recording.status != 200:
            continue
        message = json.loads(recording.body)["choices"][0]["message"]
        calls = tuple((call["id"], call["function"]["name"], call["function"]["arguments"])
                      for call in message.get("tool_calls") or () if call.get("id") and "function" in call)
        content = message.get("content")
        thinking = message.get("reasoning_content")
        if isinstance(content, list):  # Mistral's parts
            thinking = "".join(text["text"] for part in content if part["type"] == "thinking" for text in part["thinking"])
            content = "".join(part["text"] for part in content if part["type"] == "text")
        if calls or thinking:
            yield recording.name, Said(content or "", thinking or "", calls)


@cache
def sources() -> tuple[Source, ...]:
    """All streams, the written ones of every provider schema first."""
    found: list[Source] = []
    known = [*ANSWERS.items(), *list(_said_in_recordings())[::4]]
    for writer in _WRITERS:
        for name, said in known:
            heard = Said(said.text) if writer == "completions" else said
            found.append(Source(f"{writer}:{name}", _SCHEMA.get(writer, writer), write(writer, heard, 5 if name in ANSWERS
                                else 40), heard, USAGE["input"], USAGE["output"]))
    for name, schema, stream in _recorded_streams():
        said, into, out = _LISTEN[schema](stream)
        found.append(Source(name, schema, stream, said, into, out, recorded=True))
    return tuple(found)
