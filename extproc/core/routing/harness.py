"""Which program asks, and at what: told from headers and from the shape of the request, never from a whole text.

A client can say what it likes here: agents and phases choose between backends, they do not protect anything.
Sources: recorded requests of the programs (tests/data/captures) and the prompts that they publish.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from extproc.config.routing import AGENTS, PACES, PHASES
from extproc.core.conversation import Conversation, Foreign, Text
from extproc.names import COST, LATENCY

__all__ = ("AGENTS", "PACES", "PHASES", "pace", "recognise")

_HEAD = 300
"""Characters of a text that are looked at."""
_HEADS = 5
_FORMAT = 8_000
"""Characters of aider's system prompt in which it names its edit format."""
_GENERIC = frozenset({"sdk", "curl", "other"})

_PRODUCTS = {
    "claude-cli": "claude-code", "claude-code": "claude-code", "opencode": "opencode", "qwencode": "qwen-code",
    "cursor": "cursor", "cline": "cline", "roocode": "roo-code", "aider": "aider", "continue": "continue",
    "openai": "sdk", "asyncopenai": "sdk", "azureopenai": "sdk", "asyncazureopenai": "sdk", "anthropic": "sdk",
    "asyncanthropic": "sdk", "litellm": "sdk", "mistral-client-python": "sdk", "ai-sdk": "sdk", "langchain": "sdk",
    "curl": "curl",
}
"""The product that a user agent begins with."""
_TITLES = {"cline": "cline", "roo code": "roo-code", "aider": "aider"}
"""x-title, which some programs send to say who they are."""
_SYSTEMS = (
    ("You are an expert software engineer that generates concise, one-line Git commit", "aider"),
    ("*Briefly* summarize this partial conversation about programming", "aider"),
    ("You are Claude Code, ", "claude-code"),
    ("x-anthropic-billing-header: cc_", "claude-code"),
    ("You are an agent for Claude Code", "claude-code"),
    ("You are a coding agent running in the Codex CLI", "codex"),
    ("You are Codex, ", "codex"),
    ("You are OpenCode, ", "opencode"),
    ("You are opencode, ", "opencode"),
    ("You are Qwen Code, ", "qwen-code"),
    ("You are an agent in the Continue CLI", "continue"),
    ("<important_rules>\n  You are in ", "continue"),
    ("You are a HOLE FILLER", "continue"),
    ("You are Cline, ", "cline"),
    ("You are Roo, ", "roo-code"),
)
"""How a system prompt begins."""
_AIDER = (
    "Act as an expert code analyst.\nAnswer questions about the supplied code",
    "Act as an expert code analyst.\nUnderstand the user's question or request, solely to determine",
    "Act as an expert architect engineer and provide direction to your editor engineer",
)
_AIDER_EDITS = "Act as an expert software developer"
"""Others say so too: it is aider only with one of its edit formats behind it."""
_CURSOR = ("operate in Cursor", "operate exclusively in Cursor")
_ASKS = (
    ("The user has requested a section of code in a file to be rewritten.", "continue"),
    ("ORIGINAL CODE:\n```", "continue"),
    ("Given the following... please reply with a title for the chat", "continue"),
    ("*Briefly* summarize this partial conversation about programming", "aider"),
)
"""How the last text begins, of programs that send no system prompt then."""
_PHASES = (
    ("You are a title generator", "title"),
    ("Generate a concise, sentence-case title", "title"),
    ("Summarize this coding conversation in under 50 characters", "title"),
    ("Please write a 5-10 word title for the following conversation", "title"),
    ("Given the following... please reply with a title for the chat", "title"),
    ("Generate a title for this conversation", "title"),
    ("Analyze if this message indicates a new conversation topic", "topic"),
    ("You are a helpful AI assistant tasked with summarizing conversations", "summary"),
    ("You are an anchored context summarization assistant", "summary"),
    ("You are the component that summarizes internal chat history", "summary"),
    ("*Briefly* summarize this partial conversation about programming", "summary"),
    ("Your task is to create a detailed summary of the ", "summary"),
    ("CRITICAL: Respond with TEXT ONLY. Do NOT call any tools", "summary"),
    ("You are performing a CONTEXT CHECKPOINT COMPACTION", "summary"),
    ("Provide a detailed prompt for continuing our conversation above", "summary"),
    ("Summarize what was done in this conversation", "summary"),
    ('<explicit_instructions type="summarize_task">', "summary"),
    ("# Review guidelines:", "review"),
    ("You are acting as a reviewer for a proposed code change", "review"),
    ("You are an agent for Claude Code", "subagent"),
    ("You are a file search specialist", "subagent"),
    ("You are a software architect and planning specialist for Claude Code", "subagent"),
    ("You are the Claude guide agent", "subagent"),
    ("Your task is to process Bash commands that an AI coding agent wants to run", "helper"),
    ("Extract any file paths that this command reads or modifies", "helper"),
    ("You are an assistant for performing a web search tool use", "helper"),
    ("Analyze *only* the content and structure of your immediately preceding response", "helper"),
    ("[SUGGESTION MODE:", "helper"),
    ("You are an expert code-editing assistant specializing in debugging and correcting failed", "helper"),
    ("You are an expert software engineer that generates concise, one-line Git commit", "commit"),
    ("The user has requested a section of code in a file to be rewritten.", "edit"),
    ("ORIGINAL CODE:\n```", "apply"),
    ("You are a HOLE FILLER", "complete"),
    ("<important_rules>\n  You are in chat mode", "chat"),
    ("<important_rules>\n  You are in plan mode", "plan"),
    ("Act as an expert architect engineer", "plan"),
    ("Act as an expert code analyst", "chat"),
)
"""How a system prompt or the last text begins, for what is asked."""
_BEGINNINGS = tuple(head for head, _ in _PHASES)
_SYSTEM_BEGINNINGS = tuple(head for head, _ in _SYSTEMS)
_ASK_BEGINNINGS = tuple(head for head, _ in _ASKS)
_FORMATS = (
    ("*SEARCH/REPLACE", "edit-diff"),
    ("you MUST return the entire content", "edit-whole"),
    ("`diff -U0`", "edit-udiff"),
    ("*** Begin Patch", "edit-patch"),
)
"""What aider's system prompt says of the form of an edit."""
_SUBAGENTS = {"review": "review", "compact": "summary", "memory_consolidation": "summary"}
"""Codex's x-openai-subagent; any other value is a sub-agent."""
_CI = ("github-action", "gitlab-runner", "gitlab-ci", "jenkins", "buildkite", "circleci", "azure-pipelines")


class _Shape(NamedTuple):
    """What is looked at: how the system texts and the last text begin."""

    systems: tuple[str, ...]
    system: str
    last: str


def recognise(headers: Mapping[str, str], conversation: Conversation, endpoint: str) -> tuple[str, str]:
    """The program (one of AGENTS) and what it is doing (one of PHASES). `headers` have names in lower case.

    What headers say of the program wins over its texts; the beginnings of texts are read, nothing else of them.
    """
    shape = _shape(conversation)
    agent = _by_headers(headers)
    if agent in _GENERIC:
        agent = _by_texts(shape) or agent
    return agent, _phase(agent, headers, conversation, shape, endpoint)


def pace(headers: Mapping[str, str], conversation: Conversation) -> str:
    """How soon an answer is wanted (one of PACES): what the client says, then what it is."""
    latency = headers.get(LATENCY, "").lower()
    if latency in ("realtime", "interactive", "batch"):
        return latency
    if _fills(conversation):
        return "realtime"
    if headers.get(COST, "").lower() in ("batch", "low"):
        return "batch"
    tier = conversation.extras.get("service_tier")
    if tier in ("flex", "batch"):
        return "batch"
    if tier == "priority":
        return "realtime"
    agent = headers.get("user-agent", "")[:_HEAD].lower()
    if agent.startswith("ci/") or any(word in agent for word in _CI) or " ci/" in agent or "-ci/" in agent:
        return "ci"
    return "interactive"


def _fills(conversation: Conversation) -> bool:
    return conversation.prompt is not None and conversation.prompt.suffix is not None


def _by_headers(headers: Mapping[str, str]) -> str:
    if "x-claude-code-session-id" in headers:
        return "claude-code"
    product = headers.get("user-agent", "")[:_HEAD].lower().partition("/")[0].strip()
    if product.startswith("codex") or headers.get("originator", "")[:5].lower() == "codex":
        return "codex"
    agent = _PRODUCTS.get(product, "other")
    if agent in _GENERIC and (title := headers.get("x-title")) is not None:
        agent = _TITLES.get(title[:20].lower(), agent)
    return "sdk" if agent == "other" and "x-stainless-lang" in headers else agent


def _shape(conversation: Conversation) -> _Shape:
    systems: list[str] = []
    first = ""
    for message in conversation.messages[:_HEADS]:
        if message.role != "system":
            break
        for part in message.parts[:_HEADS]:
            if isinstance(part, Text):
                first = first or part.text
                systems.append(part.text[:_HEAD].lstrip())
    last = ""
    for message in reversed(conversation.messages[-_HEADS:]):
        if message.role == "user":
            texts = [part.text for part in message.parts[-_HEADS:] if isinstance(part, Text)]
            last = texts[-1][:_HEAD].lstrip() if texts else ""
            break
    return _Shape(tuple(systems[:_HEADS]), first, last)


def _by_texts(shape: _Shape) -> str | None:
    for head in shape.systems:
        if head.startswith(_SYSTEM_BEGINNINGS):
            return _named(_SYSTEMS, head)
        if "Act as an expert " in head and _is_aider(head, shape.system):
            return "aider"
        if any(words in head for words in _CURSOR):
            return "cursor"
    return _named(_ASKS, shape.last) if shape.last.startswith(_ASK_BEGINNINGS) else None


def _is_aider(head: str, system: str) -> bool:
    """Told from anywhere in the head: aider puts a model's own words before its prompt."""
    return any(words in head for words in _AIDER) or (_AIDER_EDITS in head and _edit_format(system) is not None)


def _edit_format(system: str) -> str | None:
    return next((name for words, name in _FORMATS if system.find(words, 0, _FORMAT) >= 0), None)


def _named(table: tuple[tuple[str, str], ...], head: str) -> str:
    return next(name for beginning, name in table if head.startswith(beginning))


def _phase(agent: str, headers: Mapping[str, str], conversation: Conversation, shape: _Shape, endpoint: str) -> str:
    if conversation.task == "completion" or endpoint == "fim":
        return "complete"
    if conversation.max_tokens == 1 and len(conversation.messages) <= 2 and not conversation.tools:
        return "probe"
    if agent in _GENERIC:  # people who write programs may use the same words
        return "main"
    if told := _by_marks(agent, headers, shape):
        return told
    for head in (*shape.systems, shape.last):
        if head.startswith(_BEGINNINGS):
            return _named(_PHASES, head)
    if conversation.json_schema is not None and not conversation.tools:
        return _by_schema(conversation.json_schema)
    if agent == "aider":
        return _edit_format(shape.system) or "main"
    if agent == "codex" and _compacts(conversation):
        return "summary"
    return "main"


def _by_marks(agent: str, headers: Mapping[str, str], shape: _Shape) -> str | None:
    """What Claude Code and Codex say of a request beside its prompt."""
    if agent == "claude-code":
        if headers.get("x-claude-code-agent-id", "").strip() or (
                shape.systems and "cc_is_subagent=true" in shape.systems[0]):
            return "subagent"
    elif agent == "codex":
        if (kind := headers.get("x-openai-subagent", "").strip()) and kind != "false":
            return _SUBAGENTS.get(kind, "subagent")
        if headers.get("x-codex-turn-metadata", "").find('"request_kind":"compact', 0, 4_000) >= 0:
            return "summary"
    return None


def _by_schema(schema: Any) -> str:
    """A title or a topic by the fields that are wanted."""
    inner: Any = cast("dict[str, Any]", schema).get("schema") if isinstance(schema, dict) else None
    fields: Any = cast("dict[str, Any]", inner).get("properties") if isinstance(inner, dict) else None
    if not isinstance(fields, dict):
        return "main"
    names = set(cast("dict[str, Any]", fields))
    if names == {"title"} or names == {"title", "branch"}:
        return "title"
    return "topic" if names == {"isNewTopic", "title"} else "main"


def _compacts(conversation: Conversation) -> bool:
    parts = conversation.messages[-1].parts if conversation.messages else ()
    return bool(parts) and isinstance(parts[-1], Foreign) and parts[-1].kind == "compaction_trigger"
