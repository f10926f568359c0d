"""api.anthropic.com, both API versions. Rules from platform.claude.com (errors, thinking, structured outputs)."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.data_plane.providers.answers import Ask, Said, WrongError, reply, text_of, tokens_of
from tests.data_plane.upstream import Script, Seen

FIELDS = {
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences",
    "stream", "metadata", "cache_control", "container", "diagnostics", "inference_geo", "service_tier", "speed",
    "temperature", "top_p", "top_k",
}
ID = re.compile(r"[a-zA-Z0-9_-]+")
TOOL = re.compile(r"[a-zA-Z0-9_-]{1,128}")
SIGNATURE = "c2lnbmVkIGJ5IHRoZSBzdGFuZC1pbg=="


def refuse(text: str, kind: str = "invalid_request_error", status: int = 400) -> WrongError:
    """Anthropic's error."""
    return WrongError(status, {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"})


class Anthropic:
    """Anthropic itself; claude-sonnet-5 thinks when asked to and takes no sampling, claude-sonnet-4-5 does."""

    name = "anthropic"

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        headers = seen.headers
        if headers.get("x-api-key") != "sk-anthropic" or "authorization" in headers:
            raise refuse("invalid x-api-key", "authentication_error", 401)
        version = headers.get("anthropic-version")
        if version not in ("2023-06-01", "2026-10-21"):
            raise refuse("anthropic-version: header is required")
        body = seen.json
        if seen.path == "/v1/messages/count_tokens":
            judge({**body, "max_tokens": 1}, version)
            if "max_tokens" in body or "stream" in body:
                raise refuse("max_tokens: Extra inputs are not permitted")
            return Script(chunks=[json.dumps({"input_tokens": tokens_of(seen.body)}).encode()])
        if seen.path != "/v1/messages":
            raise refuse("Not found", "not_found_error", 404)
        judge(body, version)
        said = reply(_ask(body), "toolu_0123456789abcdef000000{}")
        return _stream(body, said) if body.get("stream") else Script(chunks=[json.dumps(_message(body, said)).encode()])


def _ask(body: dict[str, Any]) -> Ask:
    turns = [m for m in body["messages"] if m["role"] == "user"]
    last = turns[-1]["content"]
    choice = (body.get("tool_choice") or {}).get("type", "auto")
    return Ask(
        text=text_of(last), stream=bool(body.get("stream")),
        tools={} if choice == "none" else {t["name"]: "function" for t in body.get("tools") or ()},
        forced=choice in ("any", "tool"),
        after_tool=isinstance(last, list) and any(b["type"] == "tool_result" for b in last),
        wants_json=bool((body.get("output_config") or {}).get("format")),
        thinks=(body.get("thinking") or {}).get("type") in ("enabled", "adaptive"))


# ---------------------------------------------------------------- rules


def judge(body: dict[str, Any], version: str) -> None:
    """The rules of messages."""
    for name in body:
        if name not in FIELDS:
            raise refuse(f"{name}: Extra inputs are not permitted")
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 0:
        raise refuse("max_tokens: Field required")
    sampling = body.keys() & {"temperature", "top_p", "top_k"}
    if sampling and (version == "2026-10-21" or "-5" in body["model"].removesuffix("-4-5")):
        raise refuse(f"{sorted(sampling)[0]}: is deprecated for this model")
    _turns(body)
    _tools(body)
    _thinking(body)
    schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    if schema is not None and schema.get("additionalProperties") is not False:
        raise refuse("output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to "
                     "false")
    if json.dumps(body).count('"cache_control"') > 4:
        raise refuse("A maximum of 4 blocks with cache_control may be provided. Found 5.")
    if any(not s.strip() for s in body.get("stop_sequences") or ()):
        raise refuse("stop_sequences: each stop sequence must contain non-whitespace")


def _turns(body: dict[str, Any]) -> None:
    messages = body["messages"]
    if not messages or messages[0]["role"] != "user":
        raise refuse("messages: first message must use the \"user\" role")
    if messages[-1]["role"] == "assistant" and "sonnet-5" in body["model"]:
        raise refuse("This model does not support assistant message prefill. The conversation must end with a user "
                     "message.")
    open_ids: set[str] = set()
    for i, message in enumerate(messages):
        if message["role"] not in ("user", "assistant"):
            raise refuse(f"messages.{i}.role: Input should be 'user' or 'assistant'")
        blocks = message["content"] if isinstance(message["content"], list) else [
            {"type": "text", "text": message["content"]}]
        if not blocks:
            raise refuse(f"messages.{i}: all messages must have non-empty content")
        results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        if set(results) != open_ids or any(b["type"] != "tool_result" for b in blocks[:len(results)]):
            raise refuse(f"messages.{i}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                         f"{sorted(open_ids)}, got {results}")
        open_ids = {b["id"] for b in blocks if b["type"] == "tool_use"}
        for block in blocks:
            _block(i, message["role"], block)
    if open_ids:
        raise refuse("`tool_use` ids were found without `tool_result` blocks immediately after")


def _block(turn: int, role: str, block: dict[str, Any]) -> None:
    allowed = {"user": ("text", "image", "document", "tool_result", "search_result"),
               "assistant": ("text", "thinking", "redacted_thinking", "tool_use")}[role]
    if block["type"] not in allowed:
        raise refuse(f"messages.{turn}.content: {block['type']} is not allowed in a turn of {role}")
    if block["type"] == "text" and not block["text"].strip():
        raise refuse(f"messages.{turn}: text content blocks must be non-empty")
    if block["type"] == "thinking" and block["signature"] != SIGNATURE:
        raise refuse(f"messages.{turn}: Invalid `signature` in `thinking` block")
    if block["type"] == "tool_use" and not (ID.fullmatch(block["id"]) and isinstance(block["input"], dict)):
        raise refuse(f"messages.{turn}: tool_use.id or input")


def _tools(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    for i, tool in enumerate(tools):
        unknown = tool.keys() - {"name", "description", "input_schema", "strict", "cache_control", "type",
                                 "input_examples", "defer_loading", "eager_input_streaming", "allowed_callers"}
        if unknown or not TOOL.fullmatch(tool["name"]) or tool["input_schema"].get("type") != "object":
            raise refuse(f"tools.{i}.custom: {sorted(unknown)} {tool}")
    choice = body.get("tool_choice")
    if choice is not None and not tools:
        raise refuse("tool_choice may only be specified while providing tools")
    used = any(b["type"] == "tool_use" for m in body["messages"] if isinstance(m["content"], list)
               for b in m["content"])
    if used and not tools:
        raise refuse("Requests which include `tool_use` or `tool_result` blocks must define tools.")


def _thinking(body: dict[str, Any]) -> None:
    thinking, new = body.get("thinking"), "sonnet-5" in body["model"]
    kind = None if thinking is None else thinking["type"]
    if kind == "enabled" and new:
        raise refuse('"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive".')
    if kind == "adaptive" and not new:
        raise refuse("adaptive thinking is not supported on this model")
    if kind == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        raise refuse("`max_tokens` must be greater than `thinking.budget_tokens`")
    effort = (body.get("output_config") or {}).get("effort")
    if effort is not None and (not new or effort not in ("low", "medium", "high", "xhigh", "max")):
        raise refuse("output_config.effort: not supported")


# ---------------------------------------------------------------- answers


def _usage(said: Said) -> dict[str, Any]:
    return {"input_tokens": said.input - said.cached, "cache_read_input_tokens": said.cached,
            "cache_creation_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": said.output, "service_tier": "standard"}


def _message(body: dict[str, Any], said: Said) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if said.thinking:
        content.append({"type": "thinking", "thinking": said.thinking, "signature": SIGNATURE})
    if said.text:
        content.append({"type": "text", "text": said.text})
    content += [{"type": "tool_use", "id": c.id, "name": c.name, "input": json.loads(c.arguments)} for c in said.calls]
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content,
            "stop_reason": "tool_use" if said.calls else "end_turn", "stop_sequence": None, "usage": _usage(said)}


def _stream(body: dict[str, Any], said: Said) -> Script:
    whole = _message(body, said)
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {
        **whole, "content": [], "stop_reason": None, "usage": {**_usage(said), "output_tokens": 1}}}, {"type": "ping"}]
    for index, block in enumerate(whole["content"]):
        bare, deltas = _deltas(block)
        events.append({"type": "content_block_start", "index": index, "content_block": bare})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
                   "usage": {"output_tokens": said.output}})
    events.append({"type": "message_stop"})
    lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    return Script(headers={"content-type": "text/event-stream; charset=utf-8"}, chunks=lines)


def _deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": p} for p in Said(block["thinking"]).pieces]
            return ({**block, "thinking": "", "signature": ""},
                    [*deltas, {"type": "signature_delta", "signature": SIGNATURE}])
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": p} for p in Said(block["text"]).pieces]
        case _:
            text = json.dumps(block["input"])
            parts = ["", text[:5], text[5:]]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": p} for p in parts]
