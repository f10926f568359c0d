"""Small requests that each ask for one feature of a client API: what the compatibility table is made with."""

from __future__ import annotations

from typing import Any

import msgspec

Json = dict[str, Any]


class Probe(msgspec.Struct, frozen=True):
    """A request with a feature and the same one without. `no_loss`: leaving it out changes nothing for the client."""

    feature: str
    asked: Json
    plain: Json
    no_loss: bool = False


_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_PDF = "data:application/pdf;base64,JVBERi0="
_PARAMETERS: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_ANSWER_SCHEMA: Json = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                        "additionalProperties": False}


def _probes(base: Json, table: dict[str, Json], instead: dict[str, Json], no_loss: frozenset[str]) -> list[Probe]:
    """`table` adds to the base; an entry of `instead` replaces what the feature is compared with."""
    return [
        Probe(name, {**base, **more}, {**base, **instead.get(name, {})}, name in no_loss)
        for name, more in table.items()
    ]


# ---------------------------------------------------------------- /v1/chat/completions

_ASK: Json = {"role": "user", "content": "What is the weather in Paris?"}
_TOOL: Json = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": _PARAMETERS}}
_CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
_CHAT: Json = {"model": "m", "messages": [_ASK]}
_WITH_TOOLS: Json = {"tools": [_TOOL]}


def _said(*messages: Json) -> Json:
    return {"messages": list(messages)}


def _user(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}]}


_LOOP = (_ASK, {"role": "assistant", "content": None, "tool_calls": [_CALL]})
_RESULT: Json = {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"}

_CHAT_TABLE: dict[str, Json] = {
    "system message first": _said({"role": "system", "content": "Be brief."}, _ASK),
    "developer message": _said({"role": "developer", "content": "Be brief."}, _ASK),
    "system message later": _said(_ASK, {"role": "assistant", "content": "Fine."}, {"role": "system", "content": "x"},
                                  {"role": "user", "content": "And Rome?"}),
    "tools": _WITH_TOOLS,
    "tool_choice auto": {**_WITH_TOOLS, "tool_choice": "auto"},
    "tool_choice required": {**_WITH_TOOLS, "tool_choice": "required"},
    "tool_choice named": {**_WITH_TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "tool_choice none": {**_WITH_TOOLS, "tool_choice": "none"},
    "tool_choice allowed_tools": {**_WITH_TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}}},
    "parallel_tool_calls false": {**_WITH_TOOLS, "parallel_tool_calls": False},
    "strict tool": {"tools": [{**_TOOL, "function": {**_TOOL["function"], "strict": True}}]},
    "custom (freeform) tool": {"tools": [_TOOL, {"type": "custom", "custom": {"name": "patch", "description": "d"}}]},
    "tool call and result": {**_WITH_TOOLS, **_said(*_LOOP, _RESULT)},
    "image, base64": _user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}}),
    "image, URL": _user({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
    "image detail": _user({"type": "image_url", "image_url": {
        "url": f"data:image/png;base64,{_PNG}", "detail": "high"}}),
    "PDF file": _user({"type": "file", "file": {"filename": "a.pdf", "file_data": _PDF}}),
    "audio": _user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    "reasoning_content in history": _said(_ASK, {"role": "assistant", "content": "Mild.", "reasoning_content": "Hm."},
                                          {"role": "user", "content": "And Rome?"}),
    "reasoning_effort": {"reasoning_effort": "high"},
    "reasoning_effort none": {"reasoning_effort": "none"},
    "response_format json_schema": {"response_format": {"type": "json_schema", "json_schema": {
        "name": "answer", "schema": _ANSWER_SCHEMA, "strict": True}}},
    "response_format json_object": {"response_format": {"type": "json_object"}},
    "stop": {"stop": ["END"]},
    "five stop sequences": {"stop": ["A", "B", "C", "D", "E"]},
    "max_tokens": {"max_tokens": 100},
    "max_completion_tokens": {"max_completion_tokens": 100},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 20},
    "seed": {"seed": 7},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "presence_penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "n = 2": {"n": 2},
    "metadata": {"metadata": {"a": "b"}},
    "user": {"user": "u1"},
    "service_tier": {"service_tier": "flex"},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "verbosity": {"verbosity": "low"},
    "store": {"store": True},
    "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "web_search_options": {"web_search_options": {}},
    "audio output": {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    "a field of tomorrow": {"field_of_tomorrow": 1},
}
_CHAT_INSTEAD: dict[str, Json] = {
    **dict.fromkeys((
        "tool_choice auto", "tool_choice required", "tool_choice named", "tool_choice none",
        "tool_choice allowed_tools", "parallel_tool_calls false", "strict tool", "custom (freeform) tool",
    ), _WITH_TOOLS),
    "image detail": _user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}}),
    "reasoning_content in history": _said(
        _ASK, {"role": "assistant", "content": "Mild."}, {"role": "user", "content": "And Rome?"}),
    "five stop sequences": {"stop": ["A", "B", "C", "D"]},
    "system message later": _said(
        _ASK, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "And Rome?"}),
    "image, base64": _user(), "image, URL": _user(), "PDF file": _user(), "audio": _user(),
    "stream with usage": {"stream": True},
}
_CHAT_NO_LOSS = frozenset({"tool_choice auto", "stream with usage"})

# ---------------------------------------------------------------- /v1/messages

_CLAUDE: Json = {"model": "m", "max_tokens": 4096, "messages": [_ASK]}
_CLAUDE_TOOL: Json = {"name": "weather", "description": "d", "input_schema": _PARAMETERS}
_CLAUDE_TOOLS: Json = {"tools": [_CLAUDE_TOOL]}
_USE: Json = {"role": "assistant", "content": [
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}]}
_IMAGE: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}}
_MARK: Json = {"cache_control": {"type": "ephemeral"}}


def _result(*content: Json, **more: Any) -> Json:
    return {**_CLAUDE_TOOLS, **_said(_ASK, _USE, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": list(content), **more}]})}


def _thought(*blocks: Json) -> Json:
    return _said(_ASK, {"role": "assistant", "content": [*blocks, {"type": "text", "text": "Mild."}]},
                 {"role": "user", "content": "And Rome?"})


_TEXT: Json = {"type": "text", "text": "18 degrees"}
_CLAUDE_TABLE: dict[str, Json] = {
    "system": {"system": "Be brief."},
    "system blocks with cache_control": {"system": [{"type": "text", "text": "Be brief.", **_MARK}]},
    "system message later": _said(_ASK, {"role": "assistant", "content": "Fine."}, {"role": "system", "content": "x"},
                                  {"role": "user", "content": "And Rome?"}),
    "tools": _CLAUDE_TOOLS,
    "tool with cache_control": {"tools": [{**_CLAUDE_TOOL, **_MARK}]},
    "tool defer_loading": {"tools": [{**_CLAUDE_TOOL, "defer_loading": True}]},
    "tool_choice any": {**_CLAUDE_TOOLS, "tool_choice": {"type": "any"}},
    "tool_choice tool": {**_CLAUDE_TOOLS, "tool_choice": {"type": "tool", "name": "weather"}},
    "tool_choice none": {**_CLAUDE_TOOLS, "tool_choice": {"type": "none"}},
    "disable_parallel_tool_use": {**_CLAUDE_TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "tool use and result": _result(_TEXT),
    "tool result with is_error": _result(_TEXT, is_error=True),
    "tool result with image": _result(_TEXT, _IMAGE),
    "server tool (web search)": {"tools": [_CLAUDE_TOOL, {"type": "web_search_20260209", "name": "web_search"}]},
    "server tool alone": {"tools": [{"type": "web_search_20260209", "name": "web_search"}]},
    "image, base64": _user(_IMAGE),
    "image, URL": _user({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}),
    "PDF document": _user({"type": "document", "source": {
        "type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}),
    "text document": _user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}}),
    "citations": _user({"type": "document", "citations": {"enabled": True}, "source": {
        "type": "text", "media_type": "text/plain", "data": "abc"}}),
    "thinking in history": _thought({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}),
    "redacted thinking in history": _thought({"type": "redacted_thinking", "data": "ZGF0YQ=="}),
    "thinking adaptive": {"thinking": {"type": "adaptive"}},
    "thinking with a budget": {"thinking": {"type": "enabled", "budget_tokens": 2048}},
    "thinking disabled": {"thinking": {"type": "disabled"}},
    "effort": {"output_config": {"effort": "high"}},
    "output format json_schema": {"output_config": {"format": {"type": "json_schema", "schema": _ANSWER_SCHEMA}}},
    "cache_control in messages": {"messages": [{"role": "user", "content": [{**_TEXT, **_MARK}]}]},
    "automatic cache_control": _MARK,
    "stop_sequences": {"stop_sequences": ["END"]},
    "temperature": {"temperature": 0.5},
    "top_k": {"top_k": 20},
    "metadata.user_id": {"metadata": {"user_id": "u1"}},
    "service_tier": {"service_tier": "standard_only"},
    "context_management": {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
    "mcp_servers": {"mcp_servers": [{"type": "url", "url": "https://example.com/mcp", "name": "x"}]},
    "container": {"container": "container_1"},
    "max_tokens 0 (cache warming)": {"max_tokens": 0},
    "stream": {"stream": True},
    "a field of tomorrow": {"field_of_tomorrow": 1},
}
_CLAUDE_INSTEAD: dict[str, Json] = {
    **dict.fromkeys((
        "tool with cache_control", "tool defer_loading", "tool_choice any", "tool_choice tool", "tool_choice none",
        "disable_parallel_tool_use", "server tool (web search)"), _CLAUDE_TOOLS),
    "system blocks with cache_control": {"system": "Be brief."},
    "tool result with is_error": _result(_TEXT), "tool result with image": _result(_TEXT),
    "thinking in history": _thought(), "redacted thinking in history": _thought(),
    "system message later": _said(
        _ASK, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "And Rome?"}),
    "cache_control in messages": {"messages": [{"role": "user", "content": [_TEXT]}]},
    "image, base64": _user(), "image, URL": _user(), "PDF document": _user(), "text document": _user(),
    "citations": _user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}}),
}

# ---------------------------------------------------------------- /v1/responses

_RESPONSES: Json = {"model": "m", "input": "What is the weather in Paris?", "store": False}
_FLAT: Json = {"type": "function", "name": "weather", "description": "d", "parameters": _PARAMETERS}
_FLAT_TOOLS: Json = {"tools": [_FLAT]}
_ITEM: Json = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}


def _items(*items: Json) -> Json:
    return {"input": [_ITEM, *items]}


def _input(*parts: Json) -> Json:
    return {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}, *parts]}]}


_CALLED: Json = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}'}
_OUTPUT: Json = {"type": "function_call_output", "call_id": "call_1", "output": "18 degrees"}
_RESPONSES_TABLE: dict[str, Json] = {
    "instructions": {"instructions": "Be brief."},
    "developer message": _items({"type": "message", "role": "developer", "content": "Be brief."}, _ITEM),
    "function tool": _FLAT_TOOLS,
    "custom (freeform) tool": {"tools": [_FLAT, {"type": "custom", "name": "apply_patch", "description": "d"}]},
    "namespace of tools": {"tools": [{"type": "namespace", "name": "web", "description": "d", "tools": [_FLAT]}]},
    "web_search tool": {"tools": [_FLAT, {"type": "web_search"}]},
    "tool_choice required": {**_FLAT_TOOLS, "tool_choice": "required"},
    "tool_choice named": {**_FLAT_TOOLS, "tool_choice": {"type": "function", "name": "weather"}},
    "tool_choice none": {**_FLAT_TOOLS, "tool_choice": "none"},
    "parallel_tool_calls false": {**_FLAT_TOOLS, "parallel_tool_calls": False},
    "function call and output": {**_FLAT_TOOLS, **_items(_CALLED, _OUTPUT)},
    "custom call and output": {
        "tools": [{"type": "custom", "name": "apply_patch"}],
        **_items({"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"},
                 {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"})},
    "reasoning item with summary": _items(
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Mild."}]}, _ITEM),
    "encrypted reasoning of OpenAI": _items(
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Mild."}]}, _ITEM),
    "input_image, base64": _input({"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}"}),
    "input_file": _input({"type": "input_file", "filename": "a.pdf", "file_data": _PDF}),
    "reasoning.effort": {"reasoning": {"effort": "high"}},
    "reasoning.summary": {"reasoning": {"summary": "auto"}},
    "include reasoning.encrypted_content": {"include": ["reasoning.encrypted_content"]},
    "text.format json_schema": {"text": {"format": {
        "type": "json_schema", "name": "answer", "schema": _ANSWER_SCHEMA, "strict": True}}},
    "text.verbosity": {"text": {"verbosity": "low"}},
    "max_output_tokens": {"max_output_tokens": 100},
    "temperature": {"temperature": 0.5},
    "top_logprobs": {"top_logprobs": 2},
    "metadata": {"metadata": {"a": "b"}},
    "service_tier": {"service_tier": "flex"},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "stream": {"stream": True},
    "previous_response_id": {"previous_response_id": "resp_1"},
    "background": {"background": True},
    "a field of tomorrow": {"field_of_tomorrow": 1},
}
_RESPONSES_INSTEAD: dict[str, Json] = {
    **dict.fromkeys((
        "custom (freeform) tool", "web_search tool", "tool_choice required", "tool_choice named", "tool_choice none",
        "parallel_tool_calls false"), _FLAT_TOOLS),
    **{name: _items({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Mild."}]},
                    _ITEM) for name in ("reasoning item with summary", "encrypted reasoning of OpenAI")},
    "input_image, base64": _input(), "input_file": _input(), "developer message": _items(_ITEM),
}
_RESPONSES_NO_LOSS = frozenset({"include reasoning.encrypted_content"})

# ---------------------------------------------------------------- completions, FIM, embeddings

_TEXT_TABLE: dict[str, Json] = {
    "prompt": {}, "suffix (fill in the middle)": {"suffix": "    return total\n"}, "max_tokens": {"max_tokens": 64},
    "stop": {"stop": ["\n\n"]}, "temperature": {"temperature": 0.2}, "seed": {"seed": 7}, "stream": {"stream": True},
    "n = 2": {"n": 2}, "echo": {"echo": True}, "logprobs": {"logprobs": 2},
    "a field of tomorrow": {"field_of_tomorrow": 1},
}
_FIM_TABLE: dict[str, Json] = {
    "prompt": {}, "suffix": {"suffix": "    return total\n"}, "max_tokens": {"max_tokens": 64},
    "min_tokens": {"min_tokens": 2}, "stop": {"stop": ["\n\n"]}, "temperature": {"temperature": 0.2},
    "random_seed": {"random_seed": 7}, "stream": {"stream": True},
}
_TEXT_INSTEAD: dict[str, Json] = {"prompt": {"prompt": "def mean(xs):\n"}, "max_tokens": {"max_tokens": 32}}
_PROMPT: Json = {"model": "m", "prompt": "def total(xs):\n"}
_EMBED: Json = {"model": "m", "input": "hello"}

PROBES: dict[str, list[Probe]] = {
    "openai": _probes(_CHAT, _CHAT_TABLE, _CHAT_INSTEAD, _CHAT_NO_LOSS),
    "anthropic": _probes(_CLAUDE, _CLAUDE_TABLE, _CLAUDE_INSTEAD, frozenset()),
    "responses": _probes(_RESPONSES, _RESPONSES_TABLE, _RESPONSES_INSTEAD, _RESPONSES_NO_LOSS),
    "completions": _probes(_PROMPT, _TEXT_TABLE, _TEXT_INSTEAD, frozenset()),
    "fim": _probes(_PROMPT, _FIM_TABLE, _TEXT_INSTEAD, frozenset()),
    "embeddings": _probes(_EMBED, {"input": {}, "dimensions": {"dimensions": 256},
                                   "encoding_format": {"encoding_format": "base64"}},
                          {"input": {"input": "other"}}, frozenset()),
}
