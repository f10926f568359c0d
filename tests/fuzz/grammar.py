"""Validators of client streams, written from the providers' documents and independent of the codecs.

`read(schema, stream)` checks every event of a complete stream and tells what it says. Sources: Anthropic's "Streaming
messages", OpenAI's "Streaming events" of Chat Completions and Responses, and the types of the official SDKs.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

Json = dict[str, Any]


class Call(msgspec.Struct):
    """A tool call: its name, and the arguments or raw input put together from all deltas."""

    id: str
    name: str
    text: str = ""


class Told(msgspec.Struct):
    """What a stream says. `usage` is the usage object of its end, in the schema's own words."""

    text: str = ""
    thinking: str = ""
    calls: list[Call] = []
    stop: str | None = None
    usage: Json | None = None
    usages: int = 0


def events(stream: bytes) -> list[tuple[str, str]]:
    """Name and data of each event with data; the whole stream must end with a blank line."""
    text = stream.decode("utf-8", "strict")
    assert text.endswith("\n\n"), "the stream ends within an event"
    found: list[tuple[str, str]] = []
    for block in text.split("\n\n")[:-1]:
        name, data = "", []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
        if data:
            found.append((name, "\n".join(data)))
    return found


def read(schema: str, stream: bytes, *, usage: bool = True) -> Told:
    """Check a complete client stream; `usage` says whether an OpenAI client asked for the usage chunk.

    Raises:
        AssertionError: it breaks the grammar of its schema.
    """
    try:
        return _READERS[schema](stream, usage)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise AssertionError(f"not of the schema's form: {error!r}") from error


# ------------------------------------------------------------------------------------------------ Anthropic

_STOPS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal",
          "model_context_window_exceeded"}
_BLOCK_DELTAS = {"text": {"text_delta", "citations_delta"}, "thinking": {"thinking_delta", "signature_delta"},
                 "tool_use": {"input_json_delta"}, "redacted_thinking": set[str]()}


def _counters(usage: Json, *names: str) -> None:
    for name in names:
        assert isinstance(usage[name], int), name
        assert usage[name] >= 0, name


def _anthropic(stream: bytes, _: bool) -> Told:
    """message_start; blocks one after another; message_delta; message_stop. A ping may stand anywhere."""
    told, block, index, stage = Told(), None, 0, "start"
    signed = False
    for name, data in events(stream):
        event = json.loads(data)
        kind = event["type"]
        assert name == kind, "the event's name is not its type"
        assert stage != "over", "something follows message_stop"
        match kind:
            case "ping":
                pass
            case "message_start":
                assert stage == "start"
                stage, message = "blocks", event["message"]
                assert message["type"] == "message" and message["role"] == "assistant" and message["content"] == []
                assert isinstance(message["id"], str) and message["id"] and isinstance(message["model"], str)
                assert message["stop_reason"] is None and message["stop_sequence"] is None
                _counters(message["usage"], "input_tokens", "output_tokens")
            case "content_block_start":
                assert stage == "blocks" and block is None, "blocks overlap"
                assert event["index"] == index, "indices are not contiguous"
                block, signed = event["content_block"], False
                assert block["type"] in _BLOCK_DELTAS
                if block["type"] == "tool_use":
                    assert block["input"] == {} and isinstance(block["id"], str) and isinstance(block["name"], str)
                    assert block["id"] and all(c.isascii() and (c.isalnum() or c in "_-") for c in block["id"])
                    told.calls.append(Call(block["id"], block["name"]))
            case "content_block_delta":
                assert block is not None and event["index"] == index, "a delta outside its block"
                delta = event["delta"]
                assert delta["type"] in _BLOCK_DELTAS[block["type"]], "a delta of another kind of block"
                assert not signed, "something follows the signature"
                _anthropic_delta(told, delta)
                signed = delta["type"] == "signature_delta"
            case "content_block_stop":
                assert block is not None and event["index"] == index
                block, index = None, index + 1
            case "message_delta":
                assert stage == "blocks" and block is None, "a block was never stopped"
                stage = "stopping"
                assert event["delta"]["stop_reason"] in _STOPS
                told.stop, told.usage = event["delta"]["stop_reason"], event["usage"]
                told.usages += 1
                _counters(event["usage"], "output_tokens")
            case "message_stop":
                assert stage == "stopping"
                stage = "over"
            case _:
                raise AssertionError(f"unknown event {kind}")
    assert stage == "over", "no message_stop"
    return told


def _anthropic_delta(told: Told, delta: Json) -> None:
    match delta["type"]:
        case "text_delta":
            told.text += delta["text"]
        case "thinking_delta":
            told.thinking += delta["thinking"]
        case "input_json_delta":
            told.calls[-1].text += delta["partial_json"]
        case _:
            assert isinstance(delta["signature"], str)


# ------------------------------------------------------------------------------------------------ OpenAI chat

_FINISH = {"stop", "length", "tool_calls", "content_filter"}


def _chunks(stream: bytes, kind: str, usage: bool) -> tuple[list[Json], Json | None]:
    """The choices of all chunks, and the usage chunk's object; one id, one model, [DONE] once and last."""
    parts = events(stream)
    assert all(name == "" for name, _ in parts)
    assert parts[-1][1] == "[DONE]", "no [DONE]"
    chunks: list[Json] = [json.loads(data) for _, data in parts[:-1]]
    head = {key: chunks[0][key] for key in ("id", "object", "created", "model")}
    assert head["object"] == kind and isinstance(head["id"], str) and head["id"] and isinstance(head["created"], int)
    choices: list[Json] = []
    counted: Json | None = None
    for number, chunk in enumerate(chunks):
        assert {key: chunk[key] for key in head} == head, "the chunks' heads differ"
        if not chunk["choices"]:
            assert usage and number == len(chunks) - 1, "a chunk without choices that nobody asked for"
            counted = chunk["usage"]
            continue
        assert chunk.get("usage") is None or kind == "chat.completion.chunk"
        [choice] = chunk["choices"]
        assert choice["index"] == 0
        assert not choices or choices[-1]["finish_reason"] is None, "something follows the finish reason"
        choices.append({**choice, "usage": chunk.get("usage")})
    assert choices[-1]["finish_reason"] in _FINISH, "no finish reason"
    if counted is not None:
        _counters(counted, "prompt_tokens", "completion_tokens", "total_tokens")
        assert counted["total_tokens"] == counted["prompt_tokens"] + counted["completion_tokens"]
    return choices, counted


def _openai(stream: bytes, usage: bool) -> Told:
    """Chunks of one head; the role first; calls announced before their fragments; finish reason, usage, [DONE]."""
    choices, counted = _chunks(stream, "chat.completion.chunk", usage)
    told = Told(usage=counted, usages=counted is not None, stop=choices[-1]["finish_reason"])
    for number, choice in enumerate(choices):
        delta = choice["delta"]
        assert choice["usage"] is None, "usage stands in its own chunk"
        assert ("role" in delta) == (number == 0), "the role comes first, and once"
        assert delta.get("role", "assistant") == "assistant"
        told.text += delta.get("content") or ""
        told.thinking += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls") or ():
            _openai_call(told, call)
    return told


def _openai_call(told: Told, call: Json) -> None:
    if call["index"] == len(told.calls):
        assert isinstance(call["id"], str) and call["id"], "a call begins without id"
        inner = call[call["type"]]
        assert isinstance(inner["name"], str)
        told.calls.append(Call(call["id"], inner["name"]))
    assert 0 <= call["index"] < len(told.calls), "call indices are not contiguous"
    inner = call.get("function") or call.get("custom") or {}
    told.calls[call["index"]].text += inner.get("arguments") or inner.get("input") or ""


def _completions(stream: bytes, usage: bool) -> Told:
    """Chunks with text; a completion has nothing else."""
    choices, counted = _chunks(stream, "text_completion", usage)
    text = "".join(choice["text"] for choice in choices)
    return Told(text=text, usage=counted, usages=counted is not None, stop=choices[-1]["finish_reason"])


def _fim(stream: bytes, usage: bool) -> Told:
    """Chunks with content; usage stands beside the finish reason, and only there."""
    choices, counted = _chunks(stream, "chat.completion.chunk", False)
    assert counted is None
    assert all(choice["usage"] is None for choice in choices[:-1])
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    counted = choices[-1]["usage"]
    return Told(text=text, usage=counted, usages=counted is not None, stop=choices[-1]["finish_reason"])


# ------------------------------------------------------------------------------------------------ Responses


class _Output:
    """The item underway, and its parts."""

    def __init__(self, item: Json) -> None:
        self.item, self.text, self.parts, self.open, self.done = item, "", 0, False, False


class _Responses:
    """Sequence numbers, output indices and content indices count from 0 without a gap; items never overlap."""

    def __init__(self) -> None:
        self.told, self.stage, self.items = Told(), "start", list[Json]()
        self.now: _Output | None = None
        self.id = ""

    def take(self, number: int, name: str, event: Json) -> None:
        assert name == event["type"], "the event's name is not its type"
        assert event["sequence_number"] == number, "sequence numbers are not contiguous"
        assert self.stage != "over", "something follows the terminal event"
        kind = name.removeprefix("response.")
        if "output_index" in event:
            assert event["output_index"] == len(self.items), "output indices are not contiguous"
        if "item_id" in event:
            assert self.now is not None and event["item_id"] == self.now.item["id"], "an event of another item"
        match kind.rsplit(".", 1):
            case ["created" | "in_progress"]:
                self._head(kind, event["response"])
            case ["completed" | "incomplete"]:
                self._end(kind, event["response"])
            case ["output_item", "added"]:
                assert self.stage == "items" and self.now is None, "items overlap"
                assert event["item"].get("status", "in_progress") == "in_progress"
                self.now = _Output(event["item"])
            case ["output_item", "done"]:
                self._item_done(event["item"])
            case [_, "added" | "delta" | "done"]:
                self._part(kind, event)
            case _:
                raise AssertionError(f"unknown event {name}")

    def _head(self, kind: str, response: Json) -> None:
        wanted = {"created": "start", "in_progress": "created"}[kind]
        assert self.stage == wanted
        self.stage = {"created": "created", "in_progress": "items"}[kind]
        assert response["status"] == "in_progress" and response["output"] == [] and response["usage"] is None
        assert response["object"] == "response" and response["id"].startswith("resp_")
        assert self.id in ("", response["id"])
        self.id = response["id"]

    def _part(self, kind: str, event: Json) -> None:
        now = self.now
        assert now is not None and self.stage == "items"
        family, step = kind.rsplit(".", 1)
        if step == "added" or family.endswith("_part"):
            assert family == {"message": "content_part", "reasoning": "reasoning_summary_part"}[now.item["type"]]
            assert event.get("content_index", event.get("summary_index")) == (now.parts if step == "added" else 0)
            assert now.open == (step == "done"), "parts overlap"
            now.open, now.parts = step == "added", now.parts + (step == "added")
            assert event["part"]["text"] == ("" if step == "added" else now.text)
            return
        wanted = {"message": "output_text", "reasoning": "reasoning_summary_text",
                  "function_call": "function_call_arguments", "custom_tool_call": "custom_tool_call_input"}
        assert family == wanted[now.item["type"]], "a delta of another kind of item"
        assert now.open or now.item["type"].endswith("_call"), "text outside a part"
        assert not now.done, "something follows the done event"
        if step == "delta":
            now.text += event["delta"]
            return
        now.done = True
        whole = event["text"] if "text" in event else event["arguments"] if "arguments" in event else event["input"]
        assert whole == now.text or (whole, now.text) == ("{}", ""), "the done event is not what its deltas said"

    def _item_done(self, item: Json) -> None:
        now = self.now
        assert now is not None and item["id"] == now.item["id"] and item["type"] == now.item["type"]
        assert not now.open, "a part was never done"
        assert item.get("status", "completed") in ("completed", "incomplete")
        match item["type"]:
            case "message":
                assert now.done and "".join(part["text"] for part in item["content"]) == now.text
                self.told.text += now.text
            case "reasoning":
                assert "".join(part["text"] for part in item["summary"]) == now.text
                self.told.thinking += now.text
            case "function_call" | "custom_tool_call":
                text = item["arguments"] if "arguments" in item else item["input"]
                assert now.done and (text == now.text or (text, now.text) == ("{}", ""))
                assert item["call_id"]
                self.told.calls.append(Call(item["call_id"], item["name"], text))
            case _:
                assert item["call_id"]
                self.told.calls.append(Call(item["call_id"], item["type"]))
        self.items.append(item)
        self.now = None

    def _end(self, kind: str, response: Json) -> None:
        assert self.stage == "items" and self.now is None, "an item was never done"
        self.stage = "over"
        assert response["id"] == self.id and response["status"] == kind and response["output"] == self.items
        assert (response["incomplete_details"] is None) == (kind == "completed")
        self.told.stop = kind
        if (usage := response["usage"]) is not None:
            self.told.usage, self.told.usages = usage, 1
            _counters(usage, "input_tokens", "output_tokens", "total_tokens")
            _counters(usage["input_tokens_details"], "cached_tokens")
            _counters(usage["output_tokens_details"], "reasoning_tokens")
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def _responses(stream: bytes, _: bool) -> Told:
    state = _Responses()
    for number, (name, data) in enumerate(events(stream)):
        state.take(number, name, json.loads(data))
    assert state.stage == "over", "no terminal event"
    return state.told


_READERS = {"anthropic": _anthropic, "openai": _openai, "completions": _completions, "fim": _fim,
            "responses": _responses}
STREAMED = tuple(_READERS)
"""The client schemas that are streamed."""
