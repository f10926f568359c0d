"""api.openai.com: chat completions, completions, embeddings and models. Responses are in responses.py.

Rules from PyPI openai 3.54.0 (types) and the error texts of the API.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.data_plane.providers import chat, responses
from tests.data_plane.providers.answers import MIDDLE, SPAN, Said, WrongError, reply
from tests.data_plane.upstream import Script, Seen

FIELDS = {
    "messages", "model", "audio", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens",
    "metadata", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed",
    "service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs",
    "top_p", "user", "verbosity", "web_search_options",
}
MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "annotations"}
REASONING = re.compile(r"gpt-5|o\d")
FORM = chat.Form(extra=(("service_tier", "default"), ("system_fingerprint", None)))


def refuse(text: str, param: str, code: str | None = None) -> WrongError:
    """OpenAI's error."""
    return WrongError(400, {"error": {"message": text, "type": "invalid_request_error", "param": param, "code": code}})


def bearer(seen: Seen) -> None:
    """The provider's own key in its own header, and none of the client's headers."""
    if seen.headers.get("authorization") != f"Bearer sk-{seen.backend}" or "x-api-key" in seen.headers:
        raise WrongError(401, {"error": {"message": "Incorrect API key provided", "type": "invalid_request_error",
                                    "param": None, "code": "invalid_api_key"}})


class OpenAI:
    """OpenAI itself."""

    name = "openai"

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        bearer(seen)
        if seen.path == "/v1/models":
            return Script(chunks=[json.dumps({"object": "list", "data": []}).encode()])
        routes = {"/v1/chat/completions": self._chat, "/v1/completions": completions, "/v1/embeddings": embeddings,
                  "/v1/responses": responses.answer}
        if seen.path not in routes:
            raise WrongError(404, {"error": {"message": f"Invalid URL ({seen.method} {seen.path})", "type":
                                        "invalid_request_error", "param": None, "code": None}})
        return routes[seen.path](seen.json)

    def _chat(self, body: dict[str, Any]) -> Script:
        judge(body)
        said = reply(chat.ask_of(body), "call_0123456789abcdef0000000{}")
        if body.get("max_completion_tokens", 99) < 4 or body.get("max_tokens", 99) < 4:
            said = Said("Hello", cut=True)
        return chat.answer(body, said, FORM)


def judge(body: dict[str, Any]) -> None:
    """The rules of chat completions."""
    chat.only(body, FIELDS, refuse)
    messages = body["messages"]
    chat.roles(messages, {"developer", "system", "user", "assistant", "tool"}, refuse)
    for i, message in enumerate(messages):
        chat.only(message, MESSAGE, refuse, f"messages[{i}].")
        for call in message.get("tool_calls") or ():
            if len(call["id"]) > 40:
                raise refuse("Expected a string with maximum length 40", f"messages[{i}].tool_calls.id")
        for j, part in enumerate(message["content"] if isinstance(message.get("content"), list) else ()):
            if part.keys() & {"cache_control", "citations"}:
                raise refuse(f"Unknown parameter: 'messages[{i}].content[{j}].cache_control'.", "messages")
            if message["role"] == "tool" and part["type"] != "text":
                raise refuse("tool content must be text", f"messages[{i}].content[{j}]")
    chat.paired(messages, refuse)
    chat.tools(body, refuse, ("function", "custom"))
    _format(body)
    if isinstance(body.get("stop"), list) and len(body["stop"]) > 4:
        raise refuse("Invalid 'stop': array too long", "stop")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise refuse("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    if len(body.get("user") or "") > 64:
        raise refuse("Invalid 'user': string too long", "user")
    if REASONING.match(body["model"]):
        _reasoning(body)


def _reasoning(body: dict[str, Any]) -> None:
    if "max_tokens" in body:
        raise refuse("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                     "'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter")
    for name, only in (("temperature", 1), ("top_p", 1), ("frequency_penalty", 0), ("presence_penalty", 0)):
        if body.get(name, only) != only:
            raise refuse(f"Unsupported value: '{name}' does not support {body[name]} with this model.", name,
                         "unsupported_value")
    for name in ("logprobs", "top_logprobs", "logit_bias"):
        if body.get(name):
            raise refuse(f"Unsupported parameter: '{name}'", name, "unsupported_parameter")
    if body.get("reasoning_effort", "low") not in ("minimal", "low", "medium", "high"):
        raise refuse(f"Unsupported value: 'reasoning_effort' {body['reasoning_effort']}", "reasoning_effort")


def _format(body: dict[str, Any]) -> None:
    wanted = body.get("response_format") or {"type": "text"}
    if wanted["type"] == "json_schema":
        if not wanted["json_schema"].get("name"):
            raise refuse("Missing required parameter: 'response_format.json_schema.name'.", "response_format")
        strict(wanted["json_schema"].get("schema") or {}, wanted["json_schema"].get("strict"))
    if wanted["type"] == "json_object" and "json" not in json.dumps(body["messages"]).lower():
        raise refuse("'messages' must contain the word 'json' in some form", "messages")


def strict(schema: dict[str, Any], is_strict: bool | None) -> None:
    """A strict schema forbids further fields and requires all of them."""
    if is_strict and (schema.get("additionalProperties") is not False
                      or set(schema.get("required", ())) != set(schema.get("properties", ()))):
        raise refuse("Invalid schema: 'additionalProperties' is required to be supplied and to be false", "schema")


def completions(body: dict[str, Any]) -> Script:
    """`/v1/completions` of a server that knows `suffix`."""
    known = {"model", "prompt", "suffix", "max_tokens", "stop", "stream", "stream_options", "temperature", "top_p", "n",
             "best_of", "echo", "logprobs", "seed", "user", "presence_penalty", "frequency_penalty", "logit_bias"}
    chat.only(body, known, refuse)
    if not isinstance(body["prompt"], str):
        raise refuse("the stand-in takes one text", "prompt")
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1790000000, "model": body["model"]}
    tokens = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    if not body.get("stream"):
        choice = {"text": MIDDLE, "index": 0, "logprobs": None, "finish_reason": "stop"}
        return Script(chunks=[json.dumps({**head, "choices": [choice], "usage": tokens}).encode()])
    words = Said(MIDDLE).pieces
    choices = [{"text": word, "index": 0, "logprobs": None, "finish_reason": None} for word in words]
    choices.append({"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"})
    events: list[dict[str, Any]] = [{**head, "choices": [choice]} for choice in choices]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**head, "choices": [], "usage": tokens})
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return Script(headers=chat.SSE, chunks=[*lines, b"data: [DONE]\n\n"])


def embeddings(body: dict[str, Any]) -> Script:
    """`/v1/embeddings`: the SDK asks for base64 and reads either."""
    chat.only(body, {"model", "input", "dimensions", "encoding_format", "user"}, refuse)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [{"object": "embedding", "index": i, "embedding": list(SPAN)} for i, _ in enumerate(texts)]
    found = {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    return Script(chunks=[json.dumps(found).encode()])
