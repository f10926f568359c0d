"""DeepSeek and Mistral. Rules from api-docs.deepseek.com (thinking_mode), PyPI mistralai 3.7.0 and mistral-common."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from tests.data_plane.providers import chat
from tests.data_plane.providers.answers import MIDDLE, Said, WrongError, reply, text_of
from tests.data_plane.providers.openai import bearer, completions, embeddings
from tests.data_plane.upstream import Script, Seen


def _no_route(seen: Seen) -> WrongError:
    return WrongError(404, {"detail": f"Not Found: {seen.method} {seen.path}"})


# ---------------------------------------------------------------- DeepSeek


def _deepseek_refuses(text: str, param: str) -> WrongError:
    return WrongError(400, {"error": {"message": text, "type": "invalid_request_error", "param": param,
                                 "code": "invalid_request_error"}})


class DeepSeek:
    """DeepSeek v4: thinks unless told not to, and wants its reasoning back where tools are called."""

    name = "deepseek"
    form = chat.Form(thinking="reasoning_content", extra=(("system_fingerprint", "fp_1"),))

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        bearer(seen)
        if seen.path == "/beta/completions":
            return completions(seen.json)
        if seen.path != "/v1/chat/completions":
            raise _no_route(seen)
        body = seen.json
        thinks = self.judge(body)
        ask = chat.ask_of(body)
        said = reply(ask, "call_00_0123456789abcdef000{}")
        return chat.answer(body, Said(said.text, "They greet me." if thinks else "", said.calls), self.form)

    def judge(self, body: dict[str, Any]) -> bool:
        """The rules of its chat route; whether it will think."""
        known = {"messages", "model", "thinking", "reasoning_effort", "frequency_penalty", "max_tokens",
                 "presence_penalty", "response_format", "stop", "stream", "stream_options", "temperature", "top_p",
                 "tools", "tool_choice", "logprobs", "top_logprobs"}
        chat.only(body, known, _deepseek_refuses)
        messages = body["messages"]
        chat.roles(messages, {"system", "user", "assistant", "tool"}, _deepseek_refuses)
        chat.paired(messages, _deepseek_refuses)
        chat.tools(body, _deepseek_refuses)
        thinks = (body.get("thinking") or {}).get("type", "enabled") == "enabled"
        if body.get("reasoning_effort", "high") not in ("low", "high", "max"):
            raise _deepseek_refuses("unknown variant of reasoning_effort", "reasoning_effort")
        if (body.get("response_format") or {}).get("type", "text") not in ("text", "json_object"):
            raise _deepseek_refuses("This response_format type is unavailable now", "response_format")
        if thinks and (isinstance(body.get("tool_choice"), dict) or body.get("tool_choice") == "required"):
            raise _deepseek_refuses("Thinking mode does not support this tool_choice", "tool_choice")
        for message in messages if thinks and body.get("tools") else ():
            if message["role"] == "assistant" and "reasoning_content" not in message:
                raise _deepseek_refuses("The `reasoning_content` in the thinking mode must be passed back to the API.",
                                        "messages")
        if "json" not in str(messages).lower() and body.get("response_format", {}).get("type") == "json_object":
            raise _deepseek_refuses("Prompt must contain the word 'json'", "response_format")
        return thinks


# ---------------------------------------------------------------- Mistral

_ID = re.compile(r"[a-zA-Z0-9]{9}")
_FIELDS = {
    "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed", "metadata",
    "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "n", "prediction",
    "parallel_tool_calls", "reasoning_effort", "prompt_mode", "guardrails", "prompt_cache_key", "safe_prompt",
    "service_tier",
}
_MESSAGE = {"system": {"role", "content"}, "user": {"role", "content"}, "tool": {"role", "content", "tool_call_id",
            "name"}, "assistant": {"role", "content", "tool_calls", "prefix"}}


def extra(text: str, param: str) -> WrongError:
    """Mistral's 422 for what it does not know."""
    return WrongError(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", param], "msg": text, "input": None}]})


def _mistral_refuses(text: str, code: str = "3230", kind: str = "invalid_request_message_order") -> WrongError:
    return WrongError(400, {"object": "error", "message": text, "type": kind, "param": None, "code": code})


class Mistral:
    """Mistral and Codestral."""

    name = "mistral"
    form = chat.Form(whole_calls=True, usage="last")

    def answer(self, seen: Seen) -> Script:
        """Judge and answer."""
        bearer(seen)
        body = seen.json
        if seen.path == "/v1/embeddings":
            return embeddings(body)
        if seen.path == "/v1/fim/completions":
            known = {"model", "prompt", "suffix", "max_tokens", "min_tokens", "stop", "random_seed", "temperature",
                     "top_p", "stream", "metadata"}
            chat.only(body, known, extra)
            return chat.answer(body, Said(MIDDLE), self.form)
        if seen.path != "/v1/chat/completions":
            raise _no_route(seen)
        self.judge(body)
        return chat.answer(body, reply(chat.ask_of(body), "D681PevK{}"), self.form)

    def judge(self, body: dict[str, Any]) -> None:
        """The rules of its chat route."""
        chat.only(body, _FIELDS, extra)
        messages = body["messages"]
        chat.roles(messages, set(_MESSAGE), extra)
        chat.paired(messages, lambda text, _: _mistral_refuses(text))
        chat.tools(body, extra)
        if isinstance(body.get("tool_choice"), str) and body["tool_choice"] not in ("auto", "none", "any", "required"):
            raise extra("Input should be 'auto', 'none', 'any' or 'required'", "tool_choice")
        for message in messages:
            chat.only(message, _MESSAGE[message["role"]], extra, "messages.")
            self._ids(message)
            if message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls"):
                raise _mistral_refuses("Assistant message must have either content or tool_calls, but not none.", "3240")
            if message["role"] == "user" and not text_of(message["content"]):
                raise _mistral_refuses("User message must have content", "3240")
        self._order([m["role"] for m in messages], messages[-1])

    def _ids(self, message: dict[str, Any]) -> None:
        for given in [c["id"] for c in message.get("tool_calls") or ()] + [message.get("tool_call_id", "A" * 9)]:
            if not _ID.fullmatch(given):
                raise _mistral_refuses(f"Tool call id was {given} but must be a-z, A-Z, 0-9, with a length of 9.",
                                       "3280", "invalid_function_call")

    def _order(self, roles: list[str], last: dict[str, Any]) -> None:
        for before, after in pairwise(roles):
            if (before, after) == ("tool", "user") or (after == "system" and before != "system"):
                raise _mistral_refuses(f"Unexpected role '{after}' after role '{before}'")
        if roles[-1] not in ("user", "tool") and not last.get("prefix"):
            raise _mistral_refuses(f"Expected last role User or Tool (or Assistant with prefix True) for serving but "
                                   f"got {roles[-1]}")
