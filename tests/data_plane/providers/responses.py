"""OpenAI's `/v1/responses`. Rules and event order from PyPI openai 3.54.0 and recorded streams."""

from __future__ import annotations

import json
from typing import Any

from tests.data_plane.providers.answers import Ask, Call, Said, WrongError, reply, text_of
from tests.data_plane.upstream import Script

FIELDS = {
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
    "max_tool_calls", "reasoning", "text", "include", "store", "previous_response_id", "conversation", "metadata",
    "prompt", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "service_tier", "stream",
    "stream_options", "temperature", "top_p", "top_logprobs", "truncation", "background", "safety_identifier", "user",
}


def refuse(text: str, param: str) -> WrongError:
    """OpenAI's error."""
    return WrongError(400, {"error": {"message": text, "type": "invalid_request_error", "param": param, "code": None}})


def answer(body: dict[str, Any]) -> Script:
    """Judge and answer."""
    for name in body:
        if name not in FIELDS:
            raise refuse(f"Unknown parameter: '{name}'.", name)
    items = [{"type": "message", "role": "user", "content": body["input"]}] if isinstance(body["input"], str) else \
        body["input"]
    _paired(items)
    if body["model"].startswith("gpt-5") and (body.get("temperature") or body.get("top_p")):
        raise refuse("Unsupported parameter: 'temperature' is not supported with this model.", "temperature")
    said = reply(_ask(body, items), "call_0123456789abcdef0000000{}")
    found = _response(body, said)
    if not body.get("stream"):
        return Script(chunks=[json.dumps(found).encode()])
    return Script(headers={"content-type": "text/event-stream; charset=utf-8"}, chunks=_events(found))


def _paired(items: list[Any]) -> None:
    calls = {i["call_id"] for i in items if i.get("type") in ("function_call", "custom_tool_call")}
    outputs = {i["call_id"] for i in items if i.get("type") in ("function_call_output", "custom_tool_call_output")}
    if calls != outputs:
        raise refuse(f"No tool output found for function call {sorted(calls ^ outputs)}.", "input")


def _ask(body: dict[str, Any], items: list[Any]) -> Ask:
    users = [i for i in items if i.get("role") == "user"]
    wanted = ((body.get("text") or {}).get("format") or {}).get("type")
    return Ask(
        text=text_of(users[-1]["content"]) if users else "", stream=bool(body.get("stream")),
        tools={} if body.get("tool_choice") == "none" else {
            t["name"]: t["type"] for t in body.get("tools") or () if "name" in t},
        forced=isinstance(body.get("tool_choice"), dict) or body.get("tool_choice") == "required",
        after_tool=items[-1].get("type", "").endswith("_output"), wants_json=wanted == "json_schema", thinks=True)


def _response(body: dict[str, Any], said: Said) -> dict[str, Any]:
    output: list[dict[str, Any]] = [{
        "id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": said.thinking}],
        "encrypted_content": "gAAAA" if "reasoning.encrypted_content" in (body.get("include") or ()) else None}]
    if said.text:
        output.append({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [
            {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}]})
    output += [_item(call) for call in said.calls]
    return {
        "id": "resp_1", "object": "response", "created_at": 1790000000, "status": "completed", "background": False,
        "error": None, "incomplete_details": None, "instructions": body.get("instructions"), "max_output_tokens": None,
        "model": body["model"], "output": output, "parallel_tool_calls": True, "previous_response_id": None,
        "reasoning": {"effort": "medium", "summary": None}, "store": True, "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}}, "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [], "top_p": 1.0, "truncation": "disabled", "metadata": {},
        "usage": {"input_tokens": said.input, "output_tokens": said.output, "total_tokens": said.input + said.output,
                  "input_tokens_details": {"cached_tokens": said.cached, "cache_write_tokens": 0},
                  "output_tokens_details": {"reasoning_tokens": said.reasoning}}}


def _item(call: Call) -> dict[str, Any]:
    if call.custom:
        return {"id": "ctc_1", "type": "custom_tool_call", "status": "completed", "call_id": call.id, "name": call.name,
                "input": call.arguments}
    return {"id": f"fc_{call.id[-1]}", "type": "function_call", "status": "completed", "call_id": call.id,
            "name": call.name, "arguments": call.arguments}


def _events(found: dict[str, Any]) -> list[bytes]:
    begun = {**found, "status": "in_progress", "output": [], "usage": None}
    events: list[tuple[str, dict[str, Any]]] = [("created", {"response": begun}), ("in_progress", {"response": begun})]
    for index, item in enumerate(found["output"]):
        events += [(kind, {"output_index": index, **more}) for kind, more in _item_events(item)]
    events.append(("completed", {"response": found}))
    return [
        f"event: response.{kind}\ndata: {json.dumps({'type': f'response.{kind}', 'sequence_number': n, **data})}\n\n"
        .encode() for n, (kind, data) in enumerate(events)]


def _item_events(item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ref = {"item_id": item["id"]}
    match item["type"]:
        case "reasoning":
            part = item["summary"][0]
            where = {**ref, "summary_index": 0}
            inner = [("reasoning_summary_part.added", {**where, "part": {"type": "summary_text", "text": ""}}),
                     ("reasoning_summary_text.delta", {**where, "delta": part["text"]}),
                     ("reasoning_summary_text.done", {**where, "text": part["text"]}),
                     ("reasoning_summary_part.done", {**where, "part": part})]
            bare = {**item, "summary": []}
        case "message":
            part = item["content"][0]
            where = {**ref, "content_index": 0}
            inner = [("content_part.added", {**where, "part": {**part, "text": ""}}),
                     *[("output_text.delta", {**where, "delta": p, "logprobs": []}) for p in Said(part["text"]).pieces],
                     ("output_text.done", {**where, "text": part["text"], "logprobs": []}),
                     ("content_part.done", {**where, "part": part})]
            bare = {**item, "status": "in_progress", "content": []}
        case kind:
            name, field = (("function_call_arguments", "arguments") if kind == "function_call"
                           else ("custom_tool_call_input", "input"))
            inner = [(f"{name}.delta", {**ref, "delta": item[field]}), (f"{name}.done", {**ref, field: item[field],
                     **({"name": item["name"]} if kind == "function_call" else {})})]
            bare = {**item, "status": "in_progress", field: ""}
    return [("output_item.added", {"item": bare}), *inner, ("output_item.done", {"item": item})]
