"""Which tokenizer and which chat template a model has, told by its name, and what each template adds to the text.

A family is a row of numbers. Where they come from is said beside each: P published, T the open template itself,
R recorded usage with the number n of recordings. Factors are tokens per o200k token.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from extproc.tokens.encodings import Name


class Family(msgspec.Struct, frozen=True):
    """A tokenizer and a template; all overheads are tokens."""

    name: str
    encoding: Name = "o200k"
    factor: float = 1.0
    start: int = 3
    """Once per request: what opens the answer."""
    message: int = 4
    """Per message, role included."""
    call: int = 0
    """Per tool call of an earlier turn, beside its name and arguments."""
    result: int = 0
    """Per tool result, beside its text."""
    result_apart: bool = False
    """Results are messages of their own, which repeat the tool's name; else they are parts of a user message."""
    tools: int = 0
    """Once when there are tools."""
    tools_responses: int = 0
    """The same on OpenAI's Responses API, which writes tools more briefly."""
    tools_alone: int = 0
    """Once more when there are tools but no system message to put them in."""
    forced: int = 0
    """Once more when a tool must be called."""
    each_tool: int = 0
    render: Literal["typescript", "function", "bare"] = "function"
    """How tools are written: TypeScript; JSON with the OpenAI wrapper; compact JSON of name, description, schema."""
    thinking: int = 0
    """Once when a thinking budget is set."""
    remembers: Literal["nothing", "turn", "all"] = "turn"
    """Which thinking of the history the model is shown: none, that since the user last spoke, or all of it."""
    answer: int = 1
    """Per answer, beside its visible text."""
    images: Literal["tiles", "patches", "claude", "claude-new", "qwen", "mistral", "gemini"] = "tiles"
    tile: tuple[int, int] = (85, 170)
    """OpenAI: base and per tile of 512 pixels."""
    patch: float = 1.0
    """OpenAI: tokens per patch of 32 pixels."""


# OpenAI. P: 3 per message, 1 role, 3 to open the answer (cookbook, "How to count tokens"); the reasoning models one
# less (R n=15, all exact). Tools: what the models repeat when asked, "namespace functions" in TypeScript; then R: gpt-4
# -1 (n=16), on Responses -3 (n=4); gpt-5 +83 (n=7), on Responses 0 (n=9). Results, which name their tool: R n=12.
# Answers of the reasoning models: R n=12, 8 to 13. Images: P, guide "Images and vision", calculating costs.
_GPT4 = Family(
    "openai", result=9, result_apart=True, tools=-1, tools_responses=-3, tools_alone=4, render="typescript",
    remembers="nothing",
)  # fmt: skip
_GPT5 = msgspec.structs.replace(
    _GPT4, name="openai-reasoning", start=2, result=15, tools=83, tools_responses=0, tools_alone=0, answer=9,
    tile=(70, 140),
)

# gpt-oss: the harmony template puts an identity and a date before everything: R n=3, ollama and openrouter.
_OSS = msgspec.structs.replace(_GPT5, name="gpt-oss", start=67, tools=16)

# Claude. Factor: R 11 answers and 2 inputs of 10,000 tokens, models up to 4.6 (1.09 to 1.15); newer ones: P
# "approximately 30 percent more tokens" (R n=3, one conversation). Tools: R 4.5 and 4.6 n=22 (the published 346 and 313
# fit Claude 4.0 only: n=2); each tool and each call R n=22. Thinking budget: R n=5.
_CLAUDE = Family(
    "claude", factor=1.12, start=3, message=4, call=40, result=22, tools=490, forced=90, each_tool=22, render="bare",
    thinking=28, answer=3, images="claude",
)  # fmt: skip
_CLAUDE_40 = msgspec.structs.replace(_CLAUDE, name="claude-4.0", tools=313, forced=-33)
_CLAUDE_NEW = msgspec.structs.replace(
    _CLAUDE, name="claude-new", factor=1.46, call=26, result=14, tools=380, each_tool=28, thinking=0,
    images="claude-new",
)  # fmt: skip

# Qwen. T: the ChatML template of Qwen 2.5 and 3 with the Hermes tool preamble; exact against llama.cpp. Qwen3-Coder and
# Qwen 3.5 write tools in XML with a longer preamble: R n=2.
_QWEN = Family(
    "qwen", encoding="qwen", start=3, message=5, call=12, result=4, tools=77, tools_alone=5, each_tool=1, images="qwen",
)  # fmt: skip
_QWEN_CODER = msgspec.structs.replace(_QWEN, name="qwen-coder", tools=205)
_QWEN_35 = msgspec.structs.replace(_QWEN_CODER, name="qwen-3.5", encoding="qwen35")
_QWEN_TINY = msgspec.structs.replace(_QWEN, name="tiny-qwen3", tools=31)

# Others, counted with o200k. Mistral R n=11 (one text of Latin filler, 1.37, left aside); DeepSeek R n=10 (v4 puts 79
# tokens before all); Llama R n=5 (tools as Groq writes them for Llama 4); Gemini R n=2.
_MISTRAL = Family(
    "mistral", factor=1.05, start=2, message=1, call=6, result=3, tools=3, remembers="all", images="mistral",
)  # fmt: skip
_DEEPSEEK = Family("deepseek", start=2, message=3, call=20, result=15, tools=211)
_DEEPSEEK_4 = msgspec.structs.replace(_DEEPSEEK, name="deepseek-v4", start=81)
_LLAMA = Family("llama", start=30, message=5, call=15, result=10, tools=100)
_LLAMA_4 = msgspec.structs.replace(_LLAMA, name="llama-4", start=5, tools=638)
_GEMINI = Family("gemini", start=1, message=0, call=12, result=12, tools=0, render="typescript", images="gemini")
_OTHER = Family("other", factor=1.05, call=15, result=10, tools=100)
"""No recording: what most open models of this time come near."""


def _openai(family: Family, *, tile: tuple[int, int] | None = None, patch: float | None = None) -> Family:
    if patch is not None:
        return msgspec.structs.replace(family, images="patches", patch=patch)
    return msgspec.structs.replace(family, tile=tile or family.tile)


_CL100K = msgspec.structs.replace(_GPT4, name="openai-cl100k", encoding="cl100k")

_TABLE: tuple[tuple[re.Pattern[str], Family], ...] = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"gpt-oss", _OSS),
        (r"gpt-4o-mini", _openai(_GPT4, tile=(2833, 5667))),
        (r"gpt-4\.1-mini", _openai(_GPT4, patch=1.62)),
        (r"gpt-4\.1-nano", _openai(_GPT4, patch=2.46)),
        (r"gpt-4o|gpt-4\.|chatgpt-4o", _GPT4),
        (r"gpt-5.*-mini|codex-mini", _openai(_GPT5, patch=1.62)),
        (r"gpt-5.*-nano", _openai(_GPT5, patch=2.46)),
        (r"gpt-[5-9]|codex", _GPT5),
        (r"computer-use", _openai(_GPT5, tile=(65, 129))),
        (r"gpt-4|gpt-3|text-embedding-(3|ada)", _CL100K),
        (r"(^|[/.:])o4-mini", _openai(_GPT5, patch=1.72)),
        (r"(^|[/.:])o[1-9]($|-)", _openai(_GPT5, tile=(75, 150))),
        (r"tiny-qwen3", _QWEN_TINY),
        (r"qwen-?(3\.[5-9]|[4-9])", _QWEN_35),
        (r"qwen.*coder", _QWEN_CODER),
        (r"qwen|qwq|qvq", _QWEN),
        (r"distill-llama", _LLAMA),
        (r"deepseek-?(v[4-9]|[4-9])", _DEEPSEEK_4),
        (r"deepseek", _DEEPSEEK),
        (r"mistral|mixtral|codestral|devstral|magistral|ministral|pixtral|voxtral", _MISTRAL),
        (r"llama-?[4-9]", _LLAMA_4),
        (r"llama", _LLAMA),
        (r"gemini|gemma", _GEMINI),
    )
)
"""The first that matches counts."""

_CLAUDE_VERSION = re.compile(r"claude-(?:v|[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2})(?!\d))?(?!\d)")


def family_of(model: str) -> Family:
    """Return the family of a model by its name, whatever a provider or cloud puts around it."""
    name = model.lower()
    if "claude" in name:
        return _claude(name)
    return next((family for pattern, family in _TABLE if pattern.search(name)), _OTHER)


def _claude(name: str) -> Family:
    found = _CLAUDE_VERSION.search(name)
    version = (int(found[1]), int(found[2] or 0)) if found else None
    if version is not None and version < (4, 5):
        return _CLAUDE_40
    if version is not None and version < (4, 7):
        return _CLAUDE
    return _CLAUDE_NEW
