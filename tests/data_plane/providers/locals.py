"""Local model servers: Ollama by both of its routes, vLLM, and a server that says no more than it speaks OpenAI's API.

Rules from github ollama/ollama (api/types.go, openai/openai.go), github vllm-project/vllm (protocol.py) and the chat
template of Qwen3. A field that a server would silently ignore is refused here: it would be lost.
"""

from __future__ import annotations

import json
from typing import Any

from tests.data_plane.providers import chat
from tests.data_plane.providers.answers import Ask, Said, WrongError, reply, tokens_of
from tests.data_plane.providers.openai import completions, embeddings
from tests.data_plane.upstream import Script, Seen

CONTEXT = 4096
"""Tokens that each of these servers has loaded."""


def _refuse(text: str, param: str) -> WrongError:
    return WrongError(400, {"error": {"message": text, "type": "BadRequestError", "param": param, "code": 400}})


def _keyless(seen: Seen) -> None:
    own = f"Bearer sk-{seen.backend}"  # of an SDK that asks the stand-in itself: it cannot send none
    if seen.headers.get("authorization", own) != own or "x-api-key" in seen.headers:
        raise WrongError(401, {"error": {"message": "no key was configured, so none may arrive"}})


class Compatible:
    """Any OpenAI-compatible server, as poor as they come."""

    name = "compatible"
    form = chat.Form(thinking="reasoning_content")
    fields = frozenset({
        "model", "messages", "max_tokens", "temperature", "top_p", "stop", "stream", "stream_options", "tools",
        "tool_choice", "parallel_tool_calls", "response_format", "seed", "presence_penalty", "frequency_penalty", "n",
        "reasoning_effort", "logit_bias", "logprobs", "top_logprobs", "user"})

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        _keyless(seen)
        body = seen.json
        if seen.path == "/v1/embeddings":
            return embeddings(body)
        if seen.path != "/v1/chat/completions":
            raise WrongError(404, {"detail": "Not Found"})
        self.judge(body, seen)
        said = reply(chat.ask_of(body), "chatcmpl-tool-0123456789abcde{}")
        return chat.answer(body, Said(said.text, "They greet me.", said.calls), self.form_of(body))

    def form_of(self, body: dict[str, Any]) -> chat.Form:
        """How it writes this answer."""
        return self.form

    def judge(self, body: dict[str, Any], seen: Seen) -> None:
        """The rules of its chat route."""
        chat.only(body, set(self.fields), _refuse)
        messages = body["messages"]
        chat.roles(messages, {"system", "user", "assistant", "tool"}, _refuse)
        chat.one_system_first(messages, _refuse)
        chat.plain_content(messages, _refuse)
        chat.paired(messages, _refuse)
        chat.whole_calls(messages, _refuse)
        chat.tools(body, _refuse)


class Vllm(Compatible):
    """vLLM with Qwen3-Coder; the model named leaky has its calls left in the text."""

    name = "vllm"
    form = chat.Form(thinking="reasoning", usage="every")
    fields = (Compatible.fields - {"user"}) | {"top_k", "min_p", "repetition_penalty", "chat_template_kwargs"}

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        if seen.path == "/v1/completions":
            return self._complete(seen)
        if seen.path == "/v1/messages/count_tokens":
            return Script(chunks=[json.dumps({"input_tokens": tokens_of(seen.body)}).encode()])
        return super().answer(seen)

    def _complete(self, seen: Seen) -> Script:
        body = seen.json
        if body.get("suffix") is not None:
            raise _refuse("suffix is not currently supported", "suffix")
        body.pop("stream_options", None) if not body.get("stream") else None
        return completions({k: v for k, v in body.items() if k not in ("top_k", "min_p", "repetition_penalty")})

    def form_of(self, body: dict[str, Any]) -> chat.Form:
        """Calls stay in the text with the leaky model."""
        return chat.Form(thinking="reasoning", usage="every", calls_in_content="leaky" in body["model"])

    def judge(self, body: dict[str, Any], seen: Seen) -> None:
        """The context is known, and a longer prompt is an error."""
        super().judge(body, seen)
        found = tokens_of(seen.body)
        if found > CONTEXT:
            raise _refuse(f"This model's maximum context length is {CONTEXT} tokens. However, your request has {found} "
                          "input tokens. Please reduce the length of the input messages.", "input_tokens")


class Ollama:
    """Ollama: /api/chat with NDJSON, and the OpenAI route."""

    name = "ollama"
    openai = chat.Form(thinking="reasoning", whole_calls=True, usage="plain",
                       extra=(("system_fingerprint", "fp_ollama"),))

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        _keyless(seen)
        body = seen.json
        match seen.path:
            case "/api/chat":
                return self._native(body, seen)
            case "/v1/chat/completions":
                self._judge_openai(body)
                said = reply(chat.ask_of(body), "call_abcd000{}")
                thought = "" if body.get("reasoning_effort") == "none" else "They greet me."
                return chat.answer(body, Said(said.text, thought, said.calls), self.openai)
            case "/v1/completions":
                return completions(body)
            case "/v1/embeddings":
                return embeddings(body)
            case _:
                raise WrongError(404, {"error": "404 page not found"})

    def _judge_openai(self, body: dict[str, Any]) -> None:
        known = {"model", "messages", "stream", "stream_options", "max_tokens", "seed", "stop", "temperature",
                 "frequency_penalty", "presence_penalty", "top_p", "response_format", "tools", "reasoning",
                 "reasoning_effort"}
        chat.only(body, known, _refuse)
        chat.roles(body["messages"], {"system", "user", "assistant", "tool"}, _refuse)
        chat.one_system_first(body["messages"], _refuse)
        chat.whole_calls(body["messages"], _refuse)
        chat.paired(body["messages"], _refuse)
        for message in body["messages"]:
            if message.get("content") is None and not message.get("tool_calls"):
                raise _refuse("invalid message content type: <nil>", "messages")

    def _native(self, body: dict[str, Any], seen: Seen) -> Script:
        chat.only(body, {"model", "messages", "tools", "format", "options", "stream", "keep_alive", "think", "truncate",
                         "shift", "logprobs", "top_logprobs"}, self._refuse)
        chat.only(body.get("options") or {}, {
            "num_ctx", "num_predict", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty",
            "presence_penalty", "frequency_penalty"}, self._refuse, "options.")
        context = body["options"]["num_ctx"]  # without it the server's default cuts the prompt
        messages = body["messages"]
        chat.roles(messages, {"system", "user", "assistant", "tool"}, self._refuse)
        chat.one_system_first(messages, self._refuse)
        for message in messages:
            chat.only(message, {"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"},
                      self._refuse, "messages.")
            if not isinstance(message.get("content", ""), str):
                raise self._refuse("json: cannot unmarshal array into Go struct field ChatRequest.messages.content of "
                                   "type string", "messages")
            for call in message.get("tool_calls") or ():
                if not isinstance(call["function"]["arguments"], dict):
                    raise self._refuse("json: cannot unmarshal string into Go struct field of type api.Arguments", "")
        if tokens_of(seen.body) > context:
            if body.get("truncate", True):
                raise self._refuse("the oldest messages would be dropped without a word", "truncate")
            raise self._refuse("input length exceeds the context length", "")
        tools = {t["function"]["name"]: "function" for t in body.get("tools") or ()}
        users = [m["content"] for m in messages if m["role"] == "user"]
        ask = Ask(users[-1] if users else "", body.get("stream", True), tools, after_tool=messages[-1]["role"] == "tool",
                  wants_json=bool(body.get("format")), thinks=body.get("think") is not False)
        return self._answer(body, reply(ask, "call_abcd000{}"))

    def _refuse(self, text: str, param: str) -> WrongError:
        return WrongError(400, {"error": f"{text} {param}".strip()})

    def _answer(self, body: dict[str, Any], said: Said) -> Script:
        def line(done: bool = False, **message: Any) -> dict[str, Any]:
            end = {"done_reason": "stop", "total_duration": 9, "load_duration": 1, "prompt_eval_count": said.input,
                   "prompt_eval_duration": 1, "eval_count": said.output, "eval_duration": 1} if done else {}
            return {"model": body["model"], "created_at": "2026-11-23T13:00:00.000000000Z",
                    "message": {"role": "assistant", "content": "", **message}, "done": done, **end}

        calls = [{"id": c.id, "function": {"index": i, "name": c.name, "arguments": json.loads(c.arguments)}}
                 for i, c in enumerate(said.calls)]
        if not body.get("stream", True):
            more = ({"thinking": said.thinking} if said.thinking else {}) | ({"tool_calls": calls} if calls else {})
            return Script(chunks=[json.dumps(line(True, **{"content": said.text, **more})).encode()])
        lines = [line(thinking=piece) for piece in Said(said.thinking).pieces]
        lines += [line(content=piece) for piece in said.pieces] + ([line(tool_calls=calls)] if calls else [])
        lines.append(line(True))
        return Script(headers={"content-type": "application/x-ndjson"},
                      chunks=[json.dumps(item).encode() + b"\n" for item in lines])
