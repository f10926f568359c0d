"""Seeds: recorded and captured requests and answers, and small written ones that use what the recordings do not.

The variable FUZZ_SEEDS may name a folder with more of them (`**/*.json` with a `body` or a request).
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from extproc.schemas import CLIENTS, PROVIDERS
from tests.fuzz import streams
from tests.recordings import DATA, recordings

MAX = 24_000
"""Bytes of a seed; longer ones only slow the search."""
_WORD = {"chat": "openai", "messages": "anthropic", "responses": "responses", "title": "openai"}
_TOOL = {"name": "f", "description": "d", "parameters": {
    "type": "object", "properties": {"a": {"type": ["string", "null"], "enum": ["x"]}, "b": {"$ref": "#/$defs/x"}},
    "required": ["a"], "$defs": {"x": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {}}]}}}}
_PNG = "iVBORw0KGgo="
WRITTEN: dict[str, list[dict[str, Any]]] = {
    "openai": [{
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 9, "temperature": 0.5,
        "top_p": 0.9, "stop": ["a", "b"], "seed": 7, "n": 1, "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2,
        "reasoning_effort": "high", "user": "u", "metadata": {"k": "v"}, "parallel_tool_calls": False, "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": _TOOL["parameters"], "strict": True}},
        "tools": [{"type": "function", "function": _TOOL}, {"type": "custom", "custom": {
            "name": "c", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "messages": [
            {"role": "developer", "content": "be"}, {"role": "system", "content": [{"type": "text", "text": "good"}]},
            {"role": "user", "name": "x", "content": [
                {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,aaaa", "filename": "a.pdf"}},
                {"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}]},
            {"role": "assistant", "content": "c", "reasoning_content": "r", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "c", "input": "raw"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "ok"}]}]}],
    "anthropic": [{
        "model": "m", "max_tokens": 9000, "stream": True, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "thinking": {"type": "enabled", "budget_tokens": 2000}, "stop_sequences": ["x"], "top_k": 5, "metadata": {"user_id": "u"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": _TOOL["parameters"]}},
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "tools": [{"name": "f", "description": "d", "input_schema": _TOOL["parameters"], "strict": True, "cache_control": {"type": "ephemeral"}},
                  {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}},
                {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
                {"type": "document", "title": "d", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "h", "signature": "c2ln"}, {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "t"}, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": {"b": [1]}}},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": [
                {"type": "text", "text": "no"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}}]}]}]}],
    "responses": [{
        "model": "m", "stream": True, "instructions": "i", "store": False, "max_output_tokens": 99, "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"}, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": _TOOL["parameters"], "strict": True}, "verbosity": "low"},
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "tools": [{"type": "function", **_TOOL, "strict": False}, {"type": "custom", "name": "c", "format": {"type": "text"}},
                  {"type": "local_shell"}, {"type": "web_search"}, {"type": "namespace", "name": "ns", "tools": [{"type": "function", **_TOOL}]}],
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}"},
                                         {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aaaa"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "h"}], "encrypted_content": "enc"},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}", "namespace": "ns"},
            {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "ok"}]},
            {"type": "custom_tool_call", "call_id": "call_2", "name": "c", "input": "raw"},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "ok"},
            {"type": "local_shell_call", "id": "l", "call_id": "call_3", "status": "completed",
             "action": {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": 5}},
            {"type": "local_shell_call_output", "call_id": "call_3", "output": "x"}, {"type": "item_reference", "id": "x"}]}],
    "completions": [{"model": "m", "prompt": "def f(", "suffix": ")", "max_tokens": 5, "stop": ["x"], "stream": True, "echo": False,
                     "best_of": 1, "logit_bias": {"1": 2}, "stream_options": {"include_usage": True}}, {"model": "m", "prompt": [[1, 2], [3]]}],
    "fim": [{"model": "codestral", "prompt": "a", "suffix": "b", "max_tokens": 3, "stop": "x", "random_seed": 1, "stream": True, "metadata": {}}],
    "embeddings": [{"model": "m", "input": ["a", "b"], "dimensions": 3, "encoding_format": "base64"}, {"model": "m", "input": [[1, 2]]}],
    "count_tokens": [{"model": "m", "system": "s", "messages": [{"role": "user", "content": "x"}]}],
}
_CALL = {"function": {"name": "f", "arguments": {"a": 1}}}
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "openai": [{"id": "chatcmpl-1", "object": "chat.completion", "model": "g", "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}], "refusal": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
            {"id": "c2", "type": "custom", "custom": {"name": "c", "input": "x"}}]}}], "usage": {
                "prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}}],
    "anthropic": [{"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "stop_reason": "tool_use", "stop_sequence": None, "content": [
        {"type": "thinking", "thinking": "h", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "t"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}], "usage": {"input_tokens": 9, "output_tokens": 3,
            "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2}}}],
    "responses": [{"id": "resp_1", "object": "response", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "model": "g",
        "error": None, "usage": {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}, "output": [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "h"}], "encrypted_content": "e"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}, {"type": "refusal", "refusal": "n"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"type": "custom_tool_call", "call_id": "d", "name": "c", "input": "x"},
            {"type": "local_shell_call", "call_id": "e", "action": {"type": "exec", "command": ["ls"]}}]}],
    "completions": [{"id": "cmpl-1", "object": "text_completion", "model": "g", "choices": [{"text": "t", "index": 0, "finish_reason": "stop"}],
                     "usage": {"prompt_tokens": 1, "completion_tokens": 1}}],
    "fim": [], "embeddings": [{"object": "list", "data": [{"embedding": [0.1], "index": 0}], "model": "e", "usage": {"prompt_tokens": 3}}],
    "count_tokens": [{"input_tokens": 5}],
    "ollama": [{"model": "q", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "t", "thinking": "h", "tool_calls": [_CALL]},
                "done": True, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 3}],
}
ERRORS = [
    b'{"error":{"message":"m","type":"invalid_request_error","param":"p","code":"context_length_exceeded"}}',
    b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}', b'{"error":"model not found"}',
    b'{"detail":[{"loc":["body"],"msg":"x","type":"y"}]}', b'[{"error":{"code":429,"message":"quota"}}]', b"<html><script>x</script><h1>502</h1></html>",
    b'{"object":"error","message":{"detail":"x"},"code":"400"}', b"", b"null",
]


def dumped(values: list[dict[str, Any]]) -> list[bytes]:
    """The values as bodies."""
    return [json.dumps(value).encode() for value in values]


def _files() -> list[Path]:
    folders = [DATA, *([Path(more)] if (more := os.environ.get("FUZZ_SEEDS")) else [])]
    return [path for folder in folders for path in sorted(folder.rglob("*.json"))]


@cache
def requests() -> dict[str, list[bytes]]:
    """Client schema -> bodies of requests."""
    found = {name: dumped(WRITTEN[name]) for name in CLIENTS}
    for schema in CLIENTS:
        found[schema] += dumped([one.request for one in recordings(schema)])
    for path in _files():
        value = json.loads(path.read_text("utf-8"))
        body = value.get("body", value) if isinstance(value, dict) else None
        schema = next((name for word, name in _WORD.items() if f".{word}" in path.name or f"-{word}" in path.name), None)
        if schema and isinstance(body, dict) and "model" in body:
            found[schema].append(json.dumps(body).encode())
    found["count_tokens"] += found["anthropic"][:5]
    return {name: [body for body in bodies if len(body) <= MAX] for name, bodies in found.items()}


@cache
def whole_answers() -> dict[str, list[bytes]]:
    """Provider schema -> bodies of answers that are not streamed."""
    found = {name: dumped(ANSWERS[name]) for name in PROVIDERS}
    for schema in CLIENTS:
        found[schema] += [one.body for one in recordings(schema) if not one.is_stream and len(one.body) <= MAX]
    found["fim"] = found["openai"]
    return found


@cache
def streamed() -> dict[str, list[bytes]]:
    """Provider schema -> bodies of streams."""
    found: dict[str, list[bytes]] = {name: [b"data: {}\n\n"] for name in PROVIDERS}
    for source in streams.sources():
        if len(source.stream) <= MAX:
            found[source.schema].append(source.stream)
    found["fim"] = found["openai"]
    return found


def small_streams() -> dict[str, list[bytes]]:
    """Provider schema -> short streams that hold each kind of event."""
    said = streams.Said("t", "h", (("call_abcDEF012", "f", "{}"),))
    return {name: [streams.write(name, said if name != "completions" else streams.Said("t"), 9)]
            for name in ("openai", "anthropic", "responses", "completions", "ollama")} | {
                "fim": [streams.write("mistral", said, 9)]}
