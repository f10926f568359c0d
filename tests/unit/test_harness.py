"""Which program asks and at what, told from headers and shapes: over recorded requests, and over what the programs publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.core.conversation import Conversation
from extproc.core.endpoints import find
from extproc.core.routing.harness import AGENTS, PACES, PHASES, pace, recognise
from extproc.core.routing.signals import Signals, extract
from extproc.schemas import CLIENTS

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "tests" / "data" / "captures", ROOT / "tests" / "data" / "harness")
BESIDE = ROOT.parent / "shared" / "data" / "captures"
"""All recordings, where they lie beside the checkout; the copies in the repository are some of them."""
READ = "Read hello.py and say what it prints"
ASKED = {"interactive.006": "now explain greet()", "continue.018": "and again", "bearer": "hi", "model-haiku": "hi",
         "print-hi": "hi", "exec-hi": "hi", "context.002": "foo", "context.015": "foo", "aider": "hi", "sdk": "hi"}
"""What the human said last, by a part of the file's name; READ in all others."""


def recorded() -> dict[str, dict[str, Any]]:
    """Every recorded request that is a question to a model, by its name."""
    paths = {path.name: path for folder in FOLDERS for path in folder.glob("*.json")}
    paths |= {f"{path.parent.name}.{path.name}": path for path in BESIDE.glob("*/*.json")}
    found = {name: json.loads(path.read_text("utf-8")) for name, path in sorted(paths.items())}
    return {name: value for name, value in found.items()
            if find({":method": value["method"], ":path": value["path"]}).kind == "ask"}


RECORDED = recorded()


def replay(value: dict[str, Any]) -> Signals:
    """The signals of a recorded request, taken as the gateway takes them."""
    headers = {name.lower(): text for name, text in value["headers"]}
    endpoint = find({**headers, ":method": value["method"], ":path": value["path"]})
    body = msgspec.json.encode(value["body"])
    conversation = CLIENTS[endpoint.schema].parse_request(body)
    return extract(conversation, len(body), endpoint.route, headers, "", "", endpoint=endpoint.schema)


def phase_of(name: str) -> str:
    if "title" in name:
        return "title"
    return {"aider.anthropic": "edit-diff", "aider.openai": "edit-whole"}.get(".".join(name.split(".")[:2]), "main")


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_request(name: str) -> None:
    """Program, phase, loop and the human's words come out of every recorded request, filler in its texts or not."""
    signals = replay(RECORDED[name])
    agent = name.split(".")[0].removesuffix("-shape")
    assert (signals.agent, signals.phase, signals.pace) == (agent, phase_of(name), "interactive")
    assert signals.in_tool_loop == ("turn2" in name or "interactive.006" in name)
    assert signals.tool_rounds == ("turn2" in name)
    if "title-json_schema" not in name and "count_tokens-message" not in name:  # there the words are filler
        assert signals.ask.strip('"') == next((ask for part, ask in ASKED.items() if part in name), READ)


def test_enough_was_recorded() -> None:
    """The table above is not empty for any program that was recorded."""
    assert {name.split(".")[0] for name in RECORDED} >= {
        "aider", "claude-code-shape", "codex", "continue", "opencode", "qwen-code", "sdk"}


def conversation(*texts: str, system: str = "", tools: bool = False, **fields: Any) -> Conversation:
    """A conversation of user texts behind a system prompt."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": text} for text in texts]
    if tools:
        fields["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    return CLIENTS["openai"].parse_request(msgspec.json.encode({"model": "m", "messages": messages, **fields}))


CLAUDE = {"user-agent": "claude-cli/2.1.197 (external, cli)", "x-app": "cli"}
CODEX = {"user-agent": "codex_cli_rs/0.169.0 (Debian 12.0.0; x86_64)", "originator": "codex_cli_rs"}
OPENCODE = {"user-agent": "opencode/1.18.33 ai-sdk/provider-utils/4.0.23"}
QWEN = {"user-agent": "QwenCode/0.24.4 (linux; x64)"}
PYTHON = {"user-agent": "OpenAI/Python 2.20.0", "x-stainless-lang": "python"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "r", "schema": {
    "type": "object", "properties": {"isNewTopic": {"type": "boolean"}, "title": {"type": "string"}}}}}


def schema_of(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    return {"type": "json_schema", "json_schema": {"name": "r", "schema": {"type": "object", "properties": properties}}}


CASES: list[tuple[dict[str, str], Conversation, str, str]] = [
    (CLAUDE, conversation("quota", max_tokens=1), "claude-code", "probe"),
    (CLAUDE, conversation("hi", response_format=schema_of("title")), "claude-code", "title"),
    (CLAUDE, conversation("hi", response_format=SCHEMA), "claude-code", "topic"),
    (CLAUDE, conversation("hi", response_format=schema_of("name")), "claude-code", "main"),
    (CLAUDE, conversation("x", system="Analyze if this message indicates a new conversation topic. If"),
     "claude-code", "topic"),
    (CLAUDE, conversation("x", "Your task is to create a detailed summary of the conversation so far, paying", tools=True),
     "claude-code", "summary"),
    (CLAUDE, conversation("CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.\n\n- ..."), "claude-code", "summary"),
    (CLAUDE, conversation("x", system="You are a helpful AI assistant tasked with summarizing conversations."),
     "claude-code", "summary"),
    (CLAUDE, conversation("x", system="You are an agent for Claude Code, Anthropic's official", tools=True),
     "claude-code", "subagent"),
    (CLAUDE, conversation("x", system="x-anthropic-billing-header: cc_version=2; cc_entrypoint=cli; cc_is_subagent=true;"),
     "claude-code", "subagent"),
    ({**CLAUDE, "x-claude-code-agent-id": "a1"}, conversation("x", tools=True), "claude-code", "subagent"),
    ({**CLAUDE, "x-claude-code-agent-id": " "}, conversation("x", tools=True), "claude-code", "main"),
    ({"x-claude-code-session-id": "s"}, conversation("x"), "claude-code", "main"),
    (CODEX, conversation("x", "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff"), "codex", "summary"),
    ({**CODEX, "x-codex-turn-metadata": '{"request_kind":"compaction"}'}, conversation("x"), "codex", "summary"),
    ({**CODEX, "x-codex-turn-metadata": '{"request_kind":"turn"}'}, conversation("x"), "codex", "main"),
    (CODEX, conversation("x", system="# Review guidelines:\n\nYou are acting as a reviewer"), "codex", "review"),
    ({**CODEX, "x-openai-subagent": "review"}, conversation("x"), "codex", "review"),
    ({**CODEX, "x-openai-subagent": "compact"}, conversation("x"), "codex", "summary"),
    ({**CODEX, "x-openai-subagent": "collab_spawn"}, conversation("x"), "codex", "subagent"),
    ({"originator": "Codex Desktop"}, conversation("x"), "codex", "main"),
    (PYTHON, conversation("x", system="Act as an expert software developer.\nFor each file that needs to be changed, "
                                      "write out the changes similar to a unified diff like `diff -U0` would produce."),
     "aider", "edit-udiff"),
    (PYTHON, conversation("x", system="Act as an expert software developer.\n*** Begin Patch"), "aider", "edit-patch"),
    (PYTHON, conversation("x", system="Formatting re-enabled. Act as an expert software developer.\n*SEARCH/REPLACE block*"),
     "aider", "edit-diff"),
    (PYTHON, conversation("x", system="Act as an expert code analyst.\nAnswer questions about the supplied code."), "aider", "chat"),
    (PYTHON, conversation("x", system="Act as an expert architect engineer and provide direction to your "
                                      "editor engineer."), "aider", "plan"),
    (PYTHON, conversation("diff", system="You are an expert software engineer that generates concise, one-line Git commit "
                                         "messages based on the provided diffs."), "aider", "commit"),
    (PYTHON, conversation("# USER", system="*Briefly* summarize this partial conversation about programming.\n"),
     "aider", "summary"),
    ({"user-agent": "litellm/1", "x-title": "Aider"}, conversation("x"), "aider", "main"),
    (OPENCODE, conversation("x", system="You are an anchored context summarization assistant for coding"), "opencode",
     "summary"),
    (OPENCODE, conversation("x", system="You are a file search specialist. You excel"), "opencode", "subagent"),
    (QWEN, conversation("x", system="You are the component that summarizes internal chat history into"), "qwen-code",
     "summary"),
    (QWEN, conversation("x", "Analyze *only* the content and structure of your immediately preceding response"),
     "qwen-code", "helper"),
    (PYTHON, conversation("The user has requested a section of code in a file to be rewritten.\n\nThis is the prefix"),
     "continue", "edit"),
    (PYTHON, conversation("ORIGINAL CODE:\n```py a.py\nx\n```\n\nNEW CODE:\n```\ny\n```"), "continue", "apply"),
    (PYTHON, conversation("Given the following... please reply with a title for the chat that is 3-4 words", max_tokens=12),
     "continue", "title"),
    (PYTHON, conversation("x", system="You are a HOLE FILLER. You are provided with a file"), "continue", "complete"),
    (PYTHON, conversation("x", system="<important_rules>\n  You are in chat mode."), "continue", "chat"),
    (PYTHON, conversation("x", system="<important_rules>\n  You are in agent mode.", tools=True), "continue", "main"),
    ({}, conversation("x", system="You are an AI coding assistant, powered by GPT-5. You operate in Cursor."), "cursor", "main"),
    ({"user-agent": "Cursor/2.1"}, conversation("x"), "cursor", "main"),
    (PYTHON, conversation("<task>\nx\n</task>", system="You are Cline, a highly skilled software engineer"), "cline", "main"),
    ({**PYTHON, "x-title": "Cline"}, conversation("x"), "cline", "main"),
    ({"user-agent": "RooCode/3.1"}, conversation("x"), "roo-code", "main"),
    (PYTHON, conversation("x", system="Act as an expert software developer. Be brief."), "sdk", "main"),
    (PYTHON, conversation("x", system="Act as an expert translator."), "sdk", "main"),
    (PYTHON, conversation("x"), "sdk", "main"),
    ({"user-agent": "AsyncAnthropic/Python 2.12.0"}, conversation("x"), "sdk", "main"),
    ({"user-agent": "node", "x-stainless-lang": "js"}, conversation("x"), "sdk", "main"),
    ({"user-agent": "curl/8.9.1"}, conversation("x"), "curl", "main"),
    ({"user-agent": "curl/8.9.1"}, conversation("quota", max_tokens=1), "curl", "probe"),
    ({}, conversation("x"), "other", "main"),
    (PYTHON, conversation("x", system="You are a title generator"), "sdk", "main"),
    (PYTHON, conversation("x", response_format=schema_of("title")), "sdk", "main"),
]


@pytest.mark.parametrize(("headers", "asked", "agent", "phase"), CASES)
def test_program_and_phase(headers: dict[str, str], asked: Conversation, agent: str, phase: str) -> None:
    """Headers name the program before texts do; the same words of an unknown program mean nothing."""
    assert recognise(headers, asked, "openai") == (agent, phase)
    assert agent in AGENTS
    assert phase in PHASES


def test_every_phase_and_agent_is_one_that_is_told() -> None:
    """Rules may name only what some request here is recognised as."""
    told = {recognise(*mark) for mark in ((headers, asked, "openai") for headers, asked, _, _ in CASES)}
    told |= {(signals.agent, signals.phase) for signals in map(replay, RECORDED.values())}
    assert {agent for agent, _ in told} == set(AGENTS)
    assert {phase for _, phase in told} == set(PHASES)


@pytest.mark.parametrize(("schema", "body"), [
    ("fim", {"model": "m", "prompt": "def f(", "suffix": ")"}),
    ("completions", {"model": "m", "prompt": "def f(", "suffix": ")"}),
    ("completions", {"model": "m", "prompt": "Once upon"}),
])
def test_a_text_to_go_on_from_is_a_completion(schema: str, body: dict[str, Any]) -> None:
    """Completion endpoints are the phase complete, whoever asks."""
    asked = CLIENTS[schema].parse_request(msgspec.json.encode(body))
    assert recognise({}, asked, schema) == ("other", "complete")


@pytest.mark.parametrize(("headers", "fields", "expected"), [
    ({}, {}, "interactive"),
    ({"x-extproc-latency": "realtime", "x-extproc-cost": "batch"}, {}, "realtime"),
    ({"x-extproc-latency": "batch"}, {}, "batch"),
    ({"x-extproc-latency": "interactive", "user-agent": "GitHub-Actions/1"}, {}, "interactive"),
    ({"x-extproc-cost": "low"}, {}, "batch"),
    ({"x-extproc-cost": "any"}, {}, "interactive"),
    ({}, {"service_tier": "flex"}, "batch"),
    ({}, {"service_tier": "priority"}, "realtime"),
    ({}, {"service_tier": "default"}, "interactive"),
    ({"user-agent": "GitHub-Actions/1"}, {}, "ci"),
    ({"user-agent": "claude-cli/2.1 (external, claude-code-github-action)"}, {}, "ci"),
    ({"user-agent": "gitlab-runner 17"}, {}, "ci"),
    ({"user-agent": "ci/1"}, {}, "ci"),
    ({"user-agent": "fusci/1"}, {}, "interactive"),
])
def test_pace(headers: dict[str, str], fields: dict[str, Any], expected: str) -> None:
    """The latency header, then the cost header, then the service tier, then the user agent."""
    assert pace(headers, conversation("x", **fields)) == expected
    assert expected in PACES


def test_filling_a_middle_is_realtime() -> None:
    """An editor waits for it, whatever it costs; only the latency header says otherwise."""
    asked = CLIENTS["fim"].parse_request(b'{"model": "m", "prompt": "a", "suffix": "b"}')
    assert pace({"x-extproc-cost": "batch"}, asked) == "realtime"
    assert pace({"x-extproc-latency": "batch"}, asked) == "batch"


def test_whole_texts_do_not_matter() -> None:
    """Words in the middle of a text name no program."""
    asked = conversation("x" * 400 + "You operate in Cursor", system="Be brief. " * 40 + "You are Cline, ")
    assert recognise({}, asked, "openai") == ("other", "main")
