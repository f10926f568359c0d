"""The stand-ins refuse what their providers refuse: a table of wrong requests, so that a green test means something."""

from __future__ import annotations

import json

import pytest

from tests.data_plane.providers.answers import WrongError
from tests.data_plane.providers.claude import SIGNATURE, Anthropic
from tests.data_plane.providers.clouds import DeepSeek, Mistral
from tests.data_plane.providers.locals import Compatible, Ollama, Vllm
from tests.data_plane.providers.openai import OpenAI
from tests.data_plane.upstream import Seen

CHAT, MESSAGES, NATIVE = "/v1/chat/completions", "/v1/messages", "/api/chat"
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CLAUDE_TOOL = {"name": "f", "input_schema": {"type": "object"}}


def call(identifier: str = "call_1", **more) -> dict:
    """An assistant's turn with a call."""
    function = {"name": "f", "arguments": "{}"}
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": identifier, "type": "function", "function": function}], **more}


def result(identifier: str = "call_1") -> dict:
    """Its result."""
    return {"role": "tool", "tool_call_id": identifier, "content": "ok"}


RULES = {
    "openai: max_tokens of a reasoning model": (OpenAI(), CHAT, 400, {"model": "gpt-5-mini", "max_tokens": 5}),
    "openai: temperature of a reasoning model": (OpenAI(), CHAT, 400, {"model": "gpt-5-mini", "temperature": 0.5}),
    "openai: unknown field": (OpenAI(), CHAT, 400, {"top_k": 5}),
    "openai: unknown field of a message": (OpenAI(), CHAT, 400, {
        "messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "y"}, USER]}),
    "openai: choice without tools": (OpenAI(), CHAT, 400, {"tool_choice": "auto"}),
    "openai: call without result": (OpenAI(), CHAT, 400, {"messages": [USER, call(), USER]}),
    "openai: result without call": (OpenAI(), CHAT, 400, {"messages": [USER, result()]}),
    "openai: long call id": (OpenAI(), CHAT, 400, {"messages": [USER, call("c" * 41), result("c" * 41)]}),
    "openai: wrong key": (OpenAI(), CHAT, 401, {"_key": "Bearer any"}),
    "deepseek: no reasoning in a tool loop": (DeepSeek(), CHAT, 400, {
        "tools": [TOOL], "messages": [USER, call(), result()]}),
    "deepseek: forced call while it thinks": (DeepSeek(), CHAT, 400, {"tools": [TOOL], "tool_choice": "required"}),
    "deepseek: json_schema": (DeepSeek(), CHAT, 400, {"response_format": {"type": "json_schema"}}),
    "deepseek: developer": (DeepSeek(), CHAT, 400, {"messages": [{"role": "developer", "content": "x"}, USER]}),
    "mistral: unknown field": (Mistral(), CHAT, 422, {"seed": 7}),
    "mistral: stream_options": (Mistral(), CHAT, 422, {"stream_options": {}}),
    "mistral: call id": (Mistral(), CHAT, 400, {"messages": [USER, call(), result()]}),
    "mistral: user after tool": (Mistral(), CHAT, 400, {"messages": [USER, call("A" * 9), result("A" * 9), USER]}),
    "mistral: assistant last": (Mistral(), CHAT, 400, {"messages": [USER, {"role": "assistant", "content": "x"}]}),
    "ollama: list content": (Ollama(), NATIVE, 400, {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "options": {"num_ctx": 99}}),
    "ollama: arguments as text": (Ollama(), NATIVE, 400, {"messages": [USER, call()], "options": {"num_ctx": 99}}),
    "ollama: over the context": (Ollama(), NATIVE, 400, {
        "messages": [{"role": "user", "content": "x" * 900}], "options": {"num_ctx": 99}, "truncate": False}),
    "ollama: would cut": (Ollama(), NATIVE, 400, {
        "messages": [{"role": "user", "content": "x" * 900}], "options": {"num_ctx": 99}}),
    "ollama, OpenAI's route: tool_choice": (Ollama(), CHAT, 400, {"tools": [TOOL], "tool_choice": "auto"}),
    "vllm: over the context": (Vllm(), CHAT, 400, {"messages": [{"role": "user", "content": "x" * 20000}]}),
    "vllm: system in the middle": (Vllm(), CHAT, 400, {"messages": [USER, {"role": "system", "content": "x"}, USER]}),
    "vllm: suffix": (Vllm(), "/v1/completions", 400, {"prompt": "a", "suffix": "b"}),
    "compatible: max_completion_tokens": (Compatible(), CHAT, 400, {"max_completion_tokens": 5}),
    "compatible: a key from nowhere": (Compatible(), CHAT, 401, {"_key": "Bearer any"}),
    "anthropic: sampling of a new model": (Anthropic(), MESSAGES, 400, {"temperature": 1}),
    "anthropic: sampling in the new version": (Anthropic(), MESSAGES, 400, {
        "model": "claude-sonnet-4-5", "top_p": 1, "_version": "2026-10-21"}),
    "anthropic: no version": (Anthropic(), MESSAGES, 400, {"_version": ""}),
    "anthropic: budget of a new model": (Anthropic(), MESSAGES, 400, {
        "max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}}),
    "anthropic: prefill": (Anthropic(), MESSAGES, 400, {"messages": [USER, {"role": "assistant", "content": "x"}]}),
    "anthropic: foreign thinking": (Anthropic(), MESSAGES, 400, {"messages": [USER, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "x", "signature": ""}, {"type": "text", "text": "x"}]}, USER]}),
    "anthropic: text before a result": (Anthropic(), MESSAGES, 400, {"tools": [CLAUDE_TOOL], "messages": [
        USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "text", "text": "x"},
                                     {"type": "tool_result", "tool_use_id": "t", "content": "x"}]}]}),
    "anthropic: system turn": (Anthropic(), MESSAGES, 400, {"messages": [USER, {"role": "system", "content": "x"}]}),
    "anthropic: unknown field": (Anthropic(), MESSAGES, 400, {"seed": 1}),
    "anthropic: open schema": (Anthropic(), MESSAGES, 400, {
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
}


def seen(provider, path: str, body: dict) -> Seen:
    """A request that would be right but for `body`."""
    key = body.pop("_key", None if provider.name in ("ollama", "vllm", "compatible") else f"Bearer sk-{provider.name}")
    headers = {"authorization": key} if key else {}
    if provider.name == "anthropic":
        headers = {"x-api-key": "sk-anthropic", "anthropic-version": body.pop("_version", "2023-06-01")}
        body = {"model": "claude-sonnet-5", "max_tokens": 50, **body}
    return Seen(provider.name, "POST", path, headers,
                json.dumps({"model": "m", "messages": [USER], **body}).encode())


@pytest.mark.parametrize("rule", RULES)
def test_refused(rule):
    """Each rule of a provider is held by its stand-in."""
    provider, path, status, body = RULES[rule]
    with pytest.raises(WrongError) as wrong:
        provider.answer(seen(provider, path, dict(body)))
    assert wrong.value.status == status


@pytest.mark.parametrize(("provider", "path", "body"), [
    (OpenAI(), CHAT, {"model": "gpt-5-mini", "max_completion_tokens": 50}),
    (OpenAI(), CHAT, {"messages": [USER, call(), result()], "tools": [TOOL], "tool_choice": "auto"}),
    (DeepSeek(), CHAT, {"tools": [TOOL], "messages": [USER, call(reasoning_content=""), result()]}),
    (Mistral(), CHAT, {"messages": [USER, call("A" * 9), result("A" * 9)], "tools": [TOOL], "tool_choice": "any"}),
    (Ollama(), NATIVE, {"options": {"num_ctx": 99}, "truncate": False}), (Ollama(), CHAT, {"tools": [TOOL]}),
    (Vllm(), CHAT, {"max_tokens": 5}), (Compatible(), CHAT, {"max_tokens": 5}),
    (Anthropic(), MESSAGES, {"thinking": {"type": "adaptive"}, "messages": [USER, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "x", "signature": SIGNATURE}, {"type": "text", "text": "x"}]}, USER]}),
], ids=lambda value: getattr(value, "name", None))
def test_taken(provider, path, body):
    """A right request is answered with 200."""
    assert provider.answer(seen(provider, path, dict(body))).status == 200
